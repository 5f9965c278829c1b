r"""Inference by a few learned steps: the gradient of the bound is what an update network reads (Section 14.3.2)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from dvae_lib.inference.refinement import Keeper, Moves, Refined, begin_refinement, log_weights_of
from dvae_lib.inference.walking import Sequences, check_causal, moved
from dvae_lib.models import DVAE
from dvae_lib.networks import MLP
from dvae_lib.objectives.terms import Lengths, check_counts

__all__ = ["NaturalGradient", "UpdateNetwork", "iterate", "learn_update", "variational_filter"]

Update = Callable[[Tensor, Tensor], Tensor]
"""New moves (..., 2 D), a shift and a scale (`dvae_lib.inference.walking.moved`), from the old and the gradient."""


class NaturalGradient:
    r"""A step along the natural gradient, the gradient in the Gaussian's own units: nothing is learned.

    With :math:`\boldsymbol\mu = \boldsymbol\mu_0 + \boldsymbol\sigma_0 \odot \mathbf{a}` and
    :math:`\boldsymbol\sigma^2 = \boldsymbol\sigma_0^2 \odot e^{\mathbf{c}}` the Fisher information is
    :math:`e^{-\mathbf{c}}` in :math:`\mathbf{a}` and 1/2 in :math:`\mathbf{c}`.

    Arguments:
        rate: Of a step; at 1 the mean of a Gaussian posterior is found at once where its variance is right.

    Raises:
        ValueError: A rate that is not in (0, 1].

    Source: Amari (1998), "Natural gradient works efficiently in learning".
    """

    def __init__(self, rate: float = 0.5) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate must lie in (0, 1]; got {rate}")
        self.rate = rate

    def __call__(self, moves: Float[Tensor, "*rows two_dim"], gradient: Float[Tensor, "*rows two_dim"]) -> Tensor:
        """The next moves. A step changes no log-variance by more than 1, no mean by more than 3 deviations."""
        (shift, scale), (to_shift, to_scale) = moves.chunk(2, -1), gradient.chunk(2, -1)
        deviation = (0.5 * scale).exp()
        along = (self.rate * deviation * to_shift).clamp(-3, 3) * deviation
        return torch.cat([shift + along, (scale + (2 * self.rate * to_scale).clamp(-1, 1)).clamp(-10, 5)], -1)


class UpdateNetwork(nn.Module):
    r"""A network that makes the next estimate of a posterior from the present one and the bound's gradient.

    .. math:: \boldsymbol\lambda_{k+1} = \mathbf{g}_k \odot \boldsymbol\lambda_k
        + (1 - \mathbf{g}_k) \odot \mathbf{f}_k

    :math:`\mathbf{g}_k` and :math:`\mathbf{f}_k` are outputs of one network on :math:`\boldsymbol\lambda_k` and on the
    gradient, of which each entry is read as asinh of itself: its sign, and its size on a logarithmic scale. (The paper
    normalises the gradient's vector instead.) No gradient passes through the gradient that is read.

    Arguments:
        dim: Size D of the latent vector.
        hidden: Size of the two hidden layers.

    Source: Marino, Yue and Mandt (2018), "Iterative amortized inference".
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.network = MLP(4 * dim, [hidden, hidden], nn.ELU)
        self.out = nn.Linear(hidden, 4 * dim)
        with torch.no_grad():  # a gate of 1/2, and the estimate kept: what is learned comes on top
            self.out.weight *= 0.1
            self.out.bias.zero_()

    def forward(self, moves: Float[Tensor, "*rows two_dim"], gradient: Float[Tensor, "*rows two_dim"]) -> Tensor:
        """The next moves."""
        gate, proposed = self.out(self.network(torch.cat([moves, gradient.detach().asinh()], -1))).chunk(2, -1)
        gate = gate.sigmoid()
        updated: Tensor = gate * moves + (1 - gate) * (moves + proposed)
        return updated


def iterate(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    update: Update | None = None,
    iterations: int = 5,
    start: str = "amortised",
    num_samples: int = 8,
    evaluation_samples: int = 32,
    generator: Generator | None = None,
) -> Refined:
    """Iterative amortised inference: the posteriors of all frames, updated together a few times.

    Arguments:
        model: See `dvae_lib.inference.refine`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        update: What makes the next estimate from the present one and its gradient; an `UpdateNetwork` that
            `learn_update` has trained, or `NaturalGradient`, which is the default.
        iterations: How often.
        start: What the first estimate is; see `refine`.
        num_samples: Draws for a gradient.
        evaluation_samples: Draws for an evaluation of the bound.
        generator: Source of randomness.

    Returns:
        As `refine`: each sequence keeps the latest estimate that is not clearly worse.

    Raises:
        NotImplementedError: The model cannot: the message says which can.
        ValueError, TypeError: See `DVAE.check`; numbers below 1.

    Source: Marino, Yue and Mandt (2018), "Iterative amortized inference".
    """
    check_counts(iterations=iterations, num_samples=num_samples, evaluation_samples=evaluation_samples)
    update = NaturalGradient() if update is None else update
    sequences, moves = begin_refinement(model, x, u, lengths, start, False, None, 1, generator)
    keeper = Keeper(sequences, moves, None, evaluation_samples, generator)
    for _ in range(iterations):
        gradient = _ascent(sequences, moves, num_samples, generator)
        with torch.no_grad():
            new = _updated(moves, gradient, update)
        for name, value in new.items():
            moves[name].data.copy_(value)
        keeper.keep()
    return keeper.refined()


def learn_update(
    model: DVAE,
    update: UpdateNetwork,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    along: str = "sequence",
    start: str = "amortised",
    iterations: int = 5,
    steps: int = 100,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    num_samples: int = 4,
    generator: Generator | None = None,
) -> list[float]:
    """Train an update network for a trained model, which stays as it is: the mean bound after each iteration goes up.

    Arguments:
        model: A trained `DVAE`.
        update: The network, trained in place.
        x: The sequences to train on, all of one length.
        u: Their inputs.
        along: "sequence" for `iterate`, "frames" for `variational_filter`.
        start: See `iterate`; a filter starts from its prior.
        iterations: As it will be used.
        steps: Gradient steps (Adam).
        batch_size: Sequences of a step.
        learning_rate: Adam's.
        num_samples: Draws for a gradient.
        generator: Source of randomness.

    Returns:
        The mean bound of each step's batch over its iterations, in nats per sequence.

    Raises:
        NotImplementedError: The model cannot: the message says which can.
        ValueError: An unknown `along`; numbers below 1.
    """
    if along not in ("sequence", "frames"):
        raise ValueError(f"along must be 'sequence' or 'frames'; got {along!r}")
    check_counts(iterations=iterations, steps=steps, batch_size=batch_size, num_samples=num_samples)
    optimiser = torch.optim.Adam(update.parameters(), learning_rate)
    values = []
    for _ in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=generator, device=x.device)
        x_b, u_b = x[rows], None if u is None else u[rows]
        optimiser.zero_grad()
        if along == "frames":
            check_causal(model)
            sequences = Sequences(model, x_b, u_b, None, proposals=False)
            bound = _filtered(sequences, update, iterations, num_samples, 1, generator, learn=True)[0].mean()
        else:
            bound = _unrolled(model, update, x_b, u_b, start, iterations, num_samples, generator)
        nn.utils.clip_grad_norm_(update.parameters(), 5.0)
        optimiser.step()
        values.append(float(bound))
    return values


def _unrolled(
    model: DVAE,
    update: UpdateNetwork,
    x: Tensor,
    u: Tensor | None,
    start: str,
    iterations: int,
    num_samples: int,
    generator: Generator | None,
) -> Tensor:
    """The bound averaged over iterations; its gradient is left in the update network."""
    sequences, moves = begin_refinement(model, x, u, None, start, False, None, 1, generator)
    total = x.new_zeros(())
    for _ in range(iterations):
        gradient = _ascent(sequences, moves, num_samples, generator)
        moves = _updated(moves, gradient, update)
        value = log_weights_of(sequences, moves, None, num_samples, generator).mean() / iterations
        total = total + value.detach()
        (-value / x.shape[1]).backward()
        moves = {name: move.detach().requires_grad_() for name, move in moves.items()}
    return total


def _ascent(sequences: Sequences, moves: Moves, num_samples: int, generator: Generator | None) -> Moves:
    """The gradient of each sequence's bound in its moves."""
    value = log_weights_of(sequences, moves, None, num_samples, generator).mean(0).sum()
    return dict(zip(moves, _gradient(value, moves), strict=True))


def _gradient(value: Tensor, moves: Moves) -> tuple[Tensor, ...]:
    """Of latents that the model's filter integrates out, none is drawn: zero."""
    return torch.autograd.grad(value, list(moves.values()), materialize_grads=True)


def _updated(moves: Moves, gradient: Moves, update: Update) -> Moves:
    """The moves after one update of each latent's."""
    found: Moves = {}
    for name in (key.removesuffix(" shift") for key in moves if key.endswith(" shift")):
        pairs = (torch.cat([part[f"{name} shift"], part[f"{name} scale"]], -1) for part in (moves, gradient))
        found[f"{name} shift"], found[f"{name} scale"] = update(*pairs).chunk(2, -1)
    return found


def variational_filter(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    update: Update | None = None,
    iterations: int = 10,
    num_samples: int = 16,
    inner_samples: int = 8,
    generator: Generator | None = None,
) -> Float[Tensor, "samples batch"]:
    r"""Amortized variational filtering of any causal model: no inference model is asked.

    At frame t the estimate of :math:`q(\mathbf{z}_t)` starts at the prior :math:`p(\mathbf{z}_t | \cdot)`, and follows
    the gradient of that frame's own part of the bound,

    .. math:: \mathcal{F}_t = \mathbb{E}_{q(\mathbf{z}_t)}\big[\log p(\mathbf{x}_t | \mathbf{z}_t, \cdot)\big]
        - D_\mathrm{KL}\big(q(\mathbf{z}_t) \,\|\, p(\mathbf{z}_t | \cdot)\big),

    for each path :math:`\mathbf{z}_{1:t-1}` that has been drawn so far. Then :math:`\mathbf{z}_t` is drawn, and stays.

    Arguments:
        model: A causal `DVAE`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        update: As in `iterate`.
        iterations: How often each frame's estimate is updated.
        num_samples: Paths of each sequence.
        inner_samples: Draws for a gradient, of each path.
        generator: Source of randomness.

    Returns:
        The log importance weight of each path, in nats: its mean over paths is a lower bound of the log-likelihood.

    Raises:
        NotImplementedError: The model cannot: the message says which can.
        ValueError, TypeError: See `DVAE.check`; numbers below 1.

    Example:
        >>> from dvae_lib import DKF
        >>> variational_filter(DKF(3, 2), torch.zeros(2, 4, 3), num_samples=5).shape
        torch.Size([5, 2])

    Source: Marino, Cvitkovic and Yue (2018), "A general method for amortizing variational filtering".
    """
    check_counts(iterations=iterations, num_samples=num_samples, inner_samples=inner_samples)
    check_causal(model)
    update = NaturalGradient() if update is None else update
    sequences = Sequences(model, x, u, lengths, proposals=False)
    return _filtered(sequences, update, iterations, inner_samples, num_samples, generator, learn=False)[1]


def _filtered(
    sequences: Sequences,
    update: Update,
    iterations: int,
    inner_samples: int,
    num_samples: int,
    generator: Generator | None,
    *,
    learn: bool,
) -> tuple[Tensor, Tensor]:
    """The bound averaged over iterations, (rows,), and the log-weights of the paths; gradients are left in `update`."""
    _, state, total = sequences.begin(num_samples, generator)
    model, rows = sequences.model, len(total)
    averaged = torch.zeros_like(total)
    for t in range(sequences.num_steps):
        moves = {name: total.new_zeros(rows, 2 * model.latent_dim(name)) for name in model.frame_latents}
        repeated = {name: value.repeat(inner_samples, *[1] * (value.ndim - 1)) for name, value in state.items()}
        for _ in range(iterations):
            moves = {name: move.detach().requires_grad_() for name, move in moves.items()}
            value = _frame_bound(sequences, t, repeated, moves, inner_samples, generator)
            gradient = _gradient(value.sum(), moves)
            with torch.set_grad_enabled(learn):
                pairs = zip(moves.items(), gradient, strict=True)
                moves = {name: update(move, along) for (name, move), along in pairs}
            if learn:
                value = _frame_bound(sequences, t, repeated, moves, inner_samples, generator) / iterations
                (-value.mean() / sequences.num_steps).backward()
                averaged = averaged + value.detach()
        with torch.no_grad():
            frame = sequences.frame(t, None, state, _moving(moves, 1), generator)
        total, state = total + frame.weight, frame.state
    return averaged, total.view(num_samples, -1)


def _frame_bound(
    sequences: Sequences,
    t: int,
    state: dict[str, Tensor],
    moves: Moves,
    inner_samples: int,
    generator: Generator | None,
) -> Tensor:
    """This frame's part of the bound for each path, (rows,)."""
    weight = sequences.frame(t, None, state, _moving(moves, inner_samples), generator).weight
    return weight.view(inner_samples, -1).mean(0)


def _moving(moves: Moves, times: int) -> Any:
    """The posterior of a latent: its prior, moved; scored without the gradient whose expectation is zero."""

    def choose(name: str, prior: Distribution, amortised: object) -> tuple[Distribution, Distribution]:
        shift, scale = moves[name].repeat(times, 1).chunk(2, -1)
        return moved(prior, shift, scale), moved(prior, shift.detach(), scale.detach())

    return choose
