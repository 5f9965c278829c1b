"""Posteriors of given sequences made better by gradients, with the trained model left as it is (Section 14.3.2)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import FLOWS
from dvae_lib.inference.walking import Choose, Sequences, check_causal, check_proposal, moved
from dvae_lib.models import DVAE
from dvae_lib.objectives.importance import importance_weighted_bound
from dvae_lib.objectives.terms import Lengths, check_counts

__all__ = ["Refined", "begin_refinement", "log_weights_of", "refine"]

Moves = dict[str, Tensor]
"""What is done to the posteriors of all frames: for latent ``z``, "z shift" and "z scale", (B, T, D), "z gain",
(B, T, D, D), and "z step 0" and so on, (B, T, .)."""


@dataclass(frozen=True)
class Refined:
    """Posteriors of given sequences, made better, and what that brought.

    Attributes:
        sequences: The sequences, and the model they are explained by.
        moves: What is done to each frame's posterior.
        flow: The flow that bends it; None where there is none.
        start: The bound before, (B,), in nats.
        value: The bound after, (B,), estimated with the same noise: never below `start`.
        history: The bound of what was kept at each evaluation, (E, B).
    """

    sequences: Sequences
    moves: Mapping[str, Tensor]
    flow: str | None
    start: Float[Tensor, " batch"]
    value: Float[Tensor, " batch"]
    history: Float[Tensor, "evaluations batch"]

    @torch.no_grad()
    def log_weights(self, num_samples: int, generator: Generator | None = None) -> Float[Tensor, "samples batch"]:
        r""":math:`\log p(\mathbf{x}, \mathbf{z}) - \log q(\mathbf{z} | \mathbf{x})` at draws of what was refined."""
        check_counts(num_samples=num_samples)
        return log_weights_of(self.sequences, dict(self.moves), self.flow, num_samples, generator)

    def posterior(self, t: int) -> dict[str, Distribution]:
        """The refined posteriors of a frame, counted from 0, of each sequence, at one draw of the latents before."""
        found: dict[str, Distribution] = {}
        with torch.no_grad():
            log_weights_of(self.sequences, dict(self.moves), self.flow, 1, None, kept=(t, found))
        return found

    def vlb(self, num_samples: int = 100, generator: Generator | None = None) -> Float[Tensor, " batch"]:
        """The bound with the refined posterior, in nats per sequence, at new noise."""
        return self.log_weights(num_samples, generator).mean(0)

    def importance_weighted_bound(
        self, num_samples: int = 100, generator: Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """The importance-weighted bound with draws of the refined posterior, in nats per sequence."""
        return importance_weighted_bound(self.log_weights(num_samples, generator))


def refine(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    start: str = "amortised",
    gain: bool = True,
    flow: str | None = None,
    flow_steps: int = 4,
    steps: int = 200,
    learning_rate: float = 0.05,
    num_samples: int = 8,
    evaluation_samples: int = 32,
    generator: Generator | None = None,
) -> Refined:
    r"""Stochastic variational inference on the posteriors of given sequences, from what the inference model says.

    .. math::
        q(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}) = \mathcal{N}\big(
        \boldsymbol\mu_t + \boldsymbol\sigma_t \odot (\mathbf{a}_t + F_t \mathbf{z}_{t-1}),\;
        \mathrm{diag}\{\boldsymbol\sigma_t^2 \odot e^{\mathbf{c}_t}\}\big)

    where :math:`\boldsymbol\mu_t` and :math:`\boldsymbol\sigma_t` are the inference model's, functions of the latents
    before. Every frame of every sequence has its own :math:`\mathbf{a}_t, \mathbf{c}_t, F_t`, which start at zero and
    follow the gradient of the bound (Adam, falling along a cosine). Of the gradient the part is left out whose
    expectation is zero, so that it has no variance at the exact posterior (Roeder et al., 2017). Every now and then the
    bound is evaluated at the same noise; each sequence keeps the latest moves that are not clearly worse.
    No weight of the model changes.

    Arguments:
        model: A trained `DVAE` with a posterior per frame (`context` and `propose`). Latents of the whole sequence stay
            as they are inferred, and what the model's own filter integrates out is integrated out here, too.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        start: "amortised", the inference model; or "prior", as if there were none, which every causal model can do.
        gain: Whether there is an :math:`F_t`: an arrow from :math:`\mathbf{z}_{t-1}` of one's own.
        flow: "planar" or "iaf" bends each frame's Gaussian further, from the identity on.
        flow_steps: Number of its steps.
        steps: Gradient steps.
        learning_rate: Adam's, at the start.
        num_samples: Draws for a gradient.
        evaluation_samples: Draws for an evaluation of the bound.
        generator: Source of randomness.

    Returns:
        The refined posteriors, with bounds to be asked of them.

    Raises:
        NotImplementedError: The model cannot: the message says which can.
        ValueError, TypeError: See `DVAE.check`; unknown options, numbers below 1, a learning rate that is not positive.

    Example:
        >>> from dvae_lib import DKF
        >>> seeded = torch.Generator().manual_seed(0)
        >>> better = refine(DKF(3, 2), torch.zeros(1, 4, 3), steps=5, generator=seeded)
        >>> bool(better.value >= better.start)
        True

    Source: Hoffman et al. (2013), "Stochastic variational inference"; Kim et al. (2018), "Semi-amortized variational
    autoencoders", who also train the model through such steps.
    """
    check_counts(steps=steps, num_samples=num_samples, evaluation_samples=evaluation_samples, flow_steps=flow_steps)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite; got {learning_rate}")
    sequences, moves = begin_refinement(model, x, u, lengths, start, gain, flow, flow_steps, generator)
    optimiser = torch.optim.Adam(moves.values(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    keeper = Keeper(sequences, moves, flow, evaluation_samples, generator)
    for step in range(1, steps + 1):
        value = log_weights_of(sequences, moves, flow, num_samples, generator)
        optimiser.zero_grad()
        (-value.mean(0).sum()).backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 20) == 0 or step == steps:
            keeper.keep()
    return keeper.refined()


def begin_refinement(
    model: DVAE,
    x: Tensor,
    u: Tensor | None,
    lengths: Lengths | None,
    start: str,
    gain: bool,
    flow: str | None,
    flow_steps: int,
    generator: Generator | None,
) -> tuple[Sequences, Moves]:
    """The sequences, and moves that change nothing yet. The arguments are those of `refine`."""
    if start not in ("amortised", "prior"):
        raise ValueError(f"start must be 'amortised' or 'prior'; got {start!r}")
    if flow is not None and flow not in FLOWS:
        raise ValueError(f"flow must be one of {', '.join(FLOWS)}, or None; got {flow!r}")
    if start == "amortised":
        check_proposal(model)
    else:
        check_causal(model)
    sequences = Sequences(model, x, u, lengths, proposals=start == "amortised")
    moves: Moves = {}
    for name in model.frame_latents:
        size = model.latent_dim(name)
        zeros = sequences.x.new_zeros(*x.shape[:2], size)
        moves |= {f"{name} shift": zeros.clone(), f"{name} scale": zeros.clone()}
        if gain:
            moves[f"{name} gain"] = zeros.new_zeros(*zeros.shape, size)
        if flow is not None:
            for k in range(flow_steps):
                moves[f"{name} step {k}"] = FLOWS[flow].identity(zeros, generator)
    for value in moves.values():
        value.requires_grad_()
    return sequences, moves


def log_weights_of(
    sequences: Sequences,
    moves: Moves,
    flow: str | None,
    num_samples: int,
    generator: Generator | None,
    *,
    kept: tuple[int, dict[str, Distribution]] | None = None,
) -> Float[Tensor, "samples batch"]:
    """The log importance weights of draws from moved posteriors; gradients reach the moves through the draws alone.

    The posteriors of the frame that `kept` names are left in its dictionary.
    """
    context, state, total = sequences.begin(num_samples, generator)
    last: dict[str, Tensor] = {}
    for t in range(sequences.num_steps):
        here = {key: move[:, t] for key, move in moves.items()}
        keep = kept[1] if kept is not None and kept[0] == t else {}
        choose = _choosing(here, last, sequences.proposals, num_samples, flow, keep)
        frame = sequences.frame(t, context, state, choose, generator)
        total, state, last = total + frame.weight, frame.state, frame.latents
    return total.view(num_samples, -1)


def _choosing(
    moves: Moves, last: Moves, proposals: bool, num_samples: int, flow: str | None, kept: dict[str, Distribution]
) -> Choose:
    """The posteriors of a frame, moved: drawn from as they are, scored without the moves' own gradient."""

    def choose(
        name: str, prior: Distribution, amortised: Callable[[], Distribution]
    ) -> tuple[Distribution, Distribution]:
        base = amortised() if proposals else prior
        own = {key: move for key, move in moves.items() if key.startswith(f"{name} ")}
        kept[name] = drawn_from = _move(base, name, own, last.get(name), num_samples, flow)
        if not any(move.requires_grad for move in own.values()):
            return drawn_from, drawn_from
        fixed = {key: move.detach() for key, move in own.items()}
        return drawn_from, _move(base, name, fixed, last.get(name), num_samples, flow)

    return choose


def _move(
    base: Distribution, name: str, moves: Moves, last: Tensor | None, num_samples: int, flow: str | None
) -> Distribution:
    """The posterior of one frame, moved: each move holds for all samples of its sequence."""
    rows = {key.removeprefix(f"{name} "): m.repeat(num_samples, *[1] * (m.ndim - 1)) for key, m in moves.items()}
    shift, scale = rows.pop("shift"), rows.pop("scale")
    gain = rows.pop("gain", None)
    if gain is not None and last is not None:
        shift = shift + (gain @ last[..., None])[..., 0]
    return moved(base, shift, scale, *rows.values(), flow=flow)


class Keeper:
    """The moves that each sequence keeps, by the bound at the same noise.

    Arguments:
        sequences: The sequences.
        moves: The moves, which change from outside.
        flow: The flow that bends the posteriors.
        num_samples: Draws for an evaluation.
        generator: Whence the seed of the noise.
    """

    def __init__(
        self, sequences: Sequences, moves: Moves, flow: str | None, num_samples: int, generator: Generator | None
    ) -> None:
        self.sequences, self.moves, self.flow, self.num_samples = sequences, moves, flow, num_samples
        device = sequences.x.device if generator is None else generator.device
        self.seed = int(torch.randint(2**31, (), generator=generator, device=device))
        self.best = {name: value.detach().clone() for name, value in moves.items()}
        self.weights = self._weights()
        self.start = self.value = self.weights.mean(0)
        self.history = [self.start]

    @torch.no_grad()
    def _weights(self) -> Tensor:
        generator = Generator(self.sequences.x.device).manual_seed(self.seed)
        return log_weights_of(self.sequences, self.moves, self.flow, self.num_samples, generator)

    @torch.no_grad()
    def keep(self) -> None:
        """Look at the moves as they are now: sequences that they are not clearly worse for take them.

        The largest of many noisy estimates belongs to a lucky posterior rather than to a good one, and later moves are
        calmer ones. What falls below the start is never taken.
        """
        weights = self._weights()
        value, change = weights.mean(0), weights - self.weights
        error = change.std(0) / len(change) ** 0.5 if len(change) > 1 else torch.zeros_like(value)
        better = (change.mean(0) >= -error) & (value >= self.start)  # not where it is NaN
        self.value = torch.where(better, value, self.value)
        self.weights = torch.where(better, weights, self.weights)
        self.history.append(self.value)
        for name, kept in self.best.items():
            own = better.view(-1, *[1] * (kept.ndim - 1))
            kept.copy_(torch.where(own, self.moves[name], kept))

    def refined(self) -> Refined:
        """What there is to show for it."""
        history = torch.stack(self.history)
        return Refined(self.sequences, self.best, self.flow, self.start, self.value, history)
