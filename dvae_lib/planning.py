r"""Planning with a model of the world: a search for actions, and what they would lead to in imagination.

Hafner et al. (2019), "Learning latent dynamics for planning from pixels"; Rubinstein (1999), "The cross-entropy method
for combinatorial and continuous optimization".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.models.filtering import Filter

__all__ = ["Plan", "Planner", "cross_entropy_method", "imagined_return"]

Score = Callable[[Float[Tensor, "batch candidates horizon action_dim"]], Float[Tensor, "batch candidates"]]
"""What sequences of actions are worth; the more the better."""


class Plan(NamedTuple):
    """What the cross-entropy method ends with.

    Attributes:
        mean: The actions, (B, H, A).
        std: How much those that were among the best differed, (B, H, A).
        value: Mean score of those that were among the best in the last iteration, (B,).
    """

    mean: Tensor
    std: Tensor
    value: Tensor


@torch.no_grad()
def cross_entropy_method(
    score: Score,
    start: Float[Tensor, "batch horizon action_dim"],
    *,
    std: float = 1.0,
    candidates: int = 100,
    elites: int = 10,
    iterations: int = 5,
    limit: float | None = None,
    generator: Generator | None = None,
) -> Plan:
    r"""Sequences of actions of high score, by sampling alone: no gradient of the score is needed.

    .. math::
        \mathbf{a}^{(i)}_{1:H} \sim \mathcal{N}(\boldsymbol\mu, \mathrm{diag}(\boldsymbol\sigma^2)), \qquad
        (\boldsymbol\mu, \boldsymbol\sigma) \leftarrow \text{mean and standard deviation of the best}

    and again, from the new Gaussian. It minimises the cross entropy between the best samples and the Gaussian.

    Arguments:
        score: Scores of many sequences of actions for each problem of a batch.
        start: Mean of the first Gaussian.
        std: Its standard deviation.
        candidates: Number of sequences that are tried in an iteration.
        elites: Number of those that the next Gaussian is fitted to.
        iterations: Number of iterations.
        limit: Actions are cut off at this absolute value; None does not.
        generator: Source of randomness.

    Returns:
        Mean and spread of the last Gaussian, and the mean score of those that it was fitted to.

    Raises:
        ValueError: Numbers below 1, fewer candidates than elites, or scores of another shape.

    Example:
        >>> target = torch.tensor([[0.5], [-0.2]])
        >>> def score(actions):
        ...     return -(actions - target).square().sum((-1, -2))
        >>> plan = cross_entropy_method(score, torch.zeros(1, 2, 1), generator=Generator().manual_seed(0))
        >>> (plan.mean[0] - target).abs().max() < 0.1
        tensor(True)
    """
    if not 1 <= elites <= candidates or iterations < 1:
        raise ValueError(
            f"expected 1 <= elites <= candidates and an iteration at least; got {elites}, {candidates} and {iterations}"
        )
    mean, spread, value = start, torch.full_like(start, std), start.new_zeros(len(start))
    for _ in range(iterations):
        shape = (len(start), candidates, *start.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=start.dtype, device=start.device)
        actions = mean[:, None] + spread[:, None] * noise
        actions = actions if limit is None else actions.clamp(-limit, limit)
        scores = score(actions)
        if scores.shape != actions.shape[:2]:
            raise ValueError(f"expected scores of shape {tuple(actions.shape[:2])}; got {tuple(scores.shape)}")
        best, which = scores.topk(elites)
        chosen = actions.gather(1, which[..., None, None].expand(-1, -1, *shape[2:]))
        mean, spread, value = chosen.mean(1), chosen.std(1, unbiased=False), best.mean(1)
    return Plan(mean, spread, value)


@torch.no_grad()
def imagined_return(
    belief: Filter,
    actions: Float[Tensor, "batch candidates horizon action_dim"],
    reward: Callable[[Distribution], Tensor],
    *,
    generator: Generator | None = None,
) -> Float[Tensor, "batch candidates"]:
    r"""The sum of the rewards that a model expects of actions, on from what its filter has seen.

    .. math:: \sum_{k=1}^{H} r\big(p_\theta(\mathbf{x}_{t+k} | \mathbf{z}^{(i)}_{t+1:t+k}, \mathbf{u}_{1:t+k})\big),
        \qquad \mathbf{z}^{(i)}_{t+1:t+k} \text{ from the prior, under the candidate's actions}

    Each candidate starts from one of the filter's particles, picked by its weight, and draws its own latent vectors. A
    model without a predictive link makes no frame on the way; others are fed back the mean of what they expect.

    Arguments:
        belief: A driven model's filter of B sequences; it stays as it is.
        actions: The inputs of the next H frames.
        reward: The expected reward, (B,), from the distribution of a frame.
        generator: Source of randomness.

    Raises:
        ValueError: Actions for another number of sequences, or of another size.
    """
    model, (batch, candidates, horizon, size) = belief.model, actions.shape
    if (batch, size) != (belief.batch_size, model.u_dim):
        raise ValueError(
            f"expected actions of size {model.u_dim} for {belief.batch_size} sequences; got {tuple(actions.shape)}"
        )
    state, x = belief.draw(candidates, generator)
    total = x.new_zeros(len(x))
    for t in range(horizon):
        out = model.step(state, x, actions[:, :, t].flatten(0, 1), generator=generator)
        state, x = out.state, out.observation.mean
        total = total + reward(out.observation)
    return total.view(batch, candidates)


class Planner:
    """Model-predictive control: see a frame, plan ahead in imagination, act, and plan again at the next frame.

    Each search starts from the plan before, one frame on.

    Arguments:
        model: A driven `DVAE` that can filter; its inputs are the actions.
        reward: The expected reward, (B,), from the distribution of a frame.
        batch_size: Number of episodes that run side by side.
        horizon: Number of frames that are planned ahead.
        num_particles: Number of particles of the filter.
        generator: Source of randomness.
        search: Options of `cross_entropy_method`.

    Attributes:
        belief: The filter.

    Example:
        >>> from dvae_lib import RSSM
        >>> planner = Planner(RSSM(4, 2, u_dim=1), lambda frame: frame.mean[:, -1], horizon=3, limit=1.0)
        >>> planner.act(torch.zeros(1, 4), torch.zeros(1, 1)).mean.shape
        torch.Size([1, 3, 1])
    """

    def __init__(
        self,
        model: Any,
        reward: Callable[[Distribution], Tensor],
        *,
        batch_size: int = 1,
        horizon: int = 15,
        num_particles: int = 1,
        generator: Generator | None = None,
        **search: Any,
    ) -> None:
        self.reward, self.generator, self.search = reward, generator, search
        self.belief = model.filter(batch_size, num_particles=num_particles, generator=generator)
        self._start = next(model.parameters()).new_zeros(batch_size, horizon, model.u_dim)

    def act(self, x_t: Float[Tensor, "batch x_dim"], u_t: Float[Tensor, "batch u_dim"]) -> Plan:
        """The plan after a frame; its first action is what to do now.

        Arguments:
            x_t: The frame.
            u_t: The action that led to it; zeros at the first.
        """
        self.belief.update(x_t, u_t)

        def score(actions: Tensor) -> Tensor:
            return imagined_return(self.belief, actions, self.reward, generator=self.generator)

        plan = cross_entropy_method(score, self._start, generator=self.generator, **self.search)
        self._start = torch.cat([plan.mean[:, 1:], torch.zeros_like(plan.mean[:, :1])], 1)
        return plan
