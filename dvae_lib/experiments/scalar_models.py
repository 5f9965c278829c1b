r"""Scalar state-space models whose truth is known, and particle filters on them: Chapter 12g.

`ScalarStateSpace` is a `DVAE` with given dynamics, so that whatever takes a model takes it: the particle bound, NASMC,
`fit`. Beside it stand the truths: the evidence by quadrature on a grid, for any such model; and for the linear-Gaussian
one the score, and what NASMC puts in its place.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.data.toy import growth_model
from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution, observation_family
from dvae_lib.graphs import DependencySpec
from dvae_lib.models import DVAE, State
from dvae_lib.models.draws import Context, Draws, Given, Past
from dvae_lib.networks import MLP, shift
from dvae_lib.objectives import Generated
from dvae_lib.objectives.importance import shares
from dvae_lib.objectives.particles import filtered_frames

__all__ = [
    "FilterQuality",
    "GridPosterior",
    "GrowthModel",
    "LinearModel",
    "ScalarStateSpace",
    "filter_quality",
    "filtered_score",
    "grid_evidence",
    "grid_smoother",
    "growth_data",
    "kalman_score",
]

GENERATION = "z_t ~ z_{t-1}, u_t \n x_t ~ z_t"
PROPOSALS = ("prior", "ekf", "ukf", "optimal", "gaussian", "mixture")


class ScalarStateSpace(DVAE):
    r"""A scalar state that moves and is seen, :math:`p(z_t | z_{t-1}, u_t)\, p(x_t | z_t)`, with Gaussian noise.

    A subclass writes `transition`, `emission` and `slope`.

    Arguments:
        proposal: How :math:`q(z_t | z_{t-1}, x_t, u_t)` comes about: "prior", the bootstrap filter's; "ekf" and "ukf",
            the prior conditioned on the frame in a model linearised at its mean, or by three sigma points; "gaussian"
            and "mixture" (of four), by a network. "optimal" is the linear model's :math:`p(z_t | z_{t-1}, x_t)`, which
            "ekf" gives there.
        hidden: Size of the network's two hidden layers.

    Raises:
        ValueError: An unknown proposal.
    """

    spec = DependencySpec(GENERATION, "z_t ~ z_{t-1}, u_t, x_t")
    scale = 1.0
    """By which states and frames are divided before the network reads them."""

    def __init__(self, proposal: str = "prior", *, u_dim: int = 0, hidden: int = 32) -> None:
        super().__init__(1, 1, observation="gaussian", u_dim=u_dim)
        if proposal not in PROPOSALS:
            raise ValueError(f"proposal must be one of {', '.join(PROPOSALS)}; got {proposal!r}")
        spec = DependencySpec(GENERATION, "z_t ~ z_{t-1}, u_t") if proposal == "prior" else type(self).spec
        self.spec = spec if u_dim else spec.undriven()
        self.proposal = proposal
        self.family = observation_family("gaussian_mixture(components=4)" if proposal == "mixture" else "gaussian")
        network = proposal in ("gaussian", "mixture")
        self.e_z = nn.Sequential(MLP(3, [hidden, hidden]), nn.Linear(hidden, self.family.outputs_per_dim))
        self.e_z.requires_grad_(network)

    def transition(self, z: Tensor, u: Tensor | None, learn: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and variance of the next state; with `learn`, gradients reach the parameters.

        A proposal is built on it without them: the dynamics are learned from p alone.
        """
        raise NotImplementedError

    def emission(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of what is seen of a state."""
        raise NotImplementedError

    def slope(self, z: Tensor) -> Tensor:
        """Derivative of the emission's mean."""
        raise NotImplementedError

    def _gaussian(self, mean: Tensor, variance: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(mean, variance.log().expand_as(mean))

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        return Context({"x": x, **({} if u is None else {"u": u})})

    def _propose(self, name: str, context: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Distribution:
        x = context["x"]
        mean, variance = self.transition(known["z_prev"], context.get("u"), learn=False)
        if self.proposal == "prior":
            return self._gaussian(mean, variance)
        if self.proposal in ("ekf", "ukf", "optimal"):
            return self._updated(mean, variance.expand_as(mean), x)
        root = x.clamp_min(0).sqrt()
        output = self.e_z(torch.cat([mean / self.scale, x / self.scale, root], -1))
        return self._centred(output, mean, variance)

    def _centred(self, output: Tensor, mean: Tensor, variance: Tensor) -> FactorisedDistribution:
        """What the network says in units of the prior's deviation from its mean, in those of the state."""
        parts = output.chunk(self.family.outputs_per_dim, -1)
        count = len(parts) // 3 if self.proposal == "mixture" else 1
        means = [mean + variance.sqrt() * value for value in parts[-2 * count : -count]]
        return self.family(*parts[: -2 * count], *means, *(variance.log() + value for value in parts[-count:]))

    def _updated(self, mean: Tensor, variance: Tensor, x: Tensor) -> DiagonalGaussian:
        """The prior, conditioned on the frame as if the emission were linear."""
        if self.proposal == "ukf":
            spread = (3 * variance).sqrt()
            points = torch.stack([mean, mean + spread, mean - spread])
            weights = points.new_tensor([4, 1, 1]).view(3, *[1] * mean.ndim) / 6
            seen, noise = self.emission(points)
            centre = (weights * seen).sum(0)
            covariance = (weights * (points - mean) * (seen - centre)).sum(0)
            innovation = (weights * (seen - centre).square()).sum(0) + noise
        else:
            centre, noise = self.emission(mean)
            slope = self.slope(mean)
            covariance, innovation = variance * slope, slope.square() * variance + noise
        gain = covariance / innovation
        return self._gaussian(mean + gain * (x - centre), variance - gain * covariance)

    def _generate(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        u: Tensor | None,
        lengths: Tensor | None,
        states: Mapping[str, Tensor],
    ) -> Generated:
        z = latents["z"]
        return Generated({"z": self._gaussian(*self.transition(shift(z), u))}, self._gaussian(*self.emission(z)))

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return {"z": next(self.parameters()).new_zeros(batch_size, 1)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z = draws("z", self._gaussian(*self.transition(state["z"], u_t)), z_prev=state["z"])
        return self._gaussian(*self.emission(z)), {"z": z}


class GrowthModel(ScalarStateSpace):
    """The growth model (`dvae_lib.data.toy.growth_model`); its inputs are what `growth_data` gives with its frames."""

    scale = 10.0

    def __init__(self, proposal: str = "prior", *, hidden: int = 32) -> None:
        super().__init__(proposal, u_dim=2, hidden=hidden)

    def transition(self, z: Tensor, u: Tensor | None, learn: bool = True) -> tuple[Tensor, Tensor]:
        """The drift, from the state and the inputs; the first state comes from N(0, 5)."""
        assert u is not None
        force, first = u[..., :1], u[..., 1:]
        drift = z / 2 + 25 * z / (1 + z.square()) + force
        return (1 - first) * drift, (10 - 5 * first).clamp_min(1)

    def emission(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A twentieth of the square."""
        return z.square() / 20, z.new_ones(())

    def slope(self, z: Tensor) -> Tensor:
        """Of the square."""
        return z / 10


class LinearModel(ScalarStateSpace):
    """A linear-Gaussian state, seen in noise. What can be learned is the factor `a` that takes a state to the next.

    Arguments:
        a: The factor.
        process_variance: Of the state noise.
        observation_variance: Of the observation noise.
        proposal: See `ScalarStateSpace`.
    """

    q: Tensor
    r: Tensor

    def __init__(
        self,
        a: float = 0.9,
        *,
        process_variance: float = 1.0,
        observation_variance: float = 1.0,
        proposal: str = "prior",
        hidden: int = 32,
    ) -> None:
        super().__init__(proposal, hidden=hidden)
        self.a = nn.Parameter(torch.tensor(float(a)))
        self.register_buffer("q", torch.tensor(float(process_variance)))
        self.register_buffer("r", torch.tensor(float(observation_variance)))

    def transition(self, z: Tensor, u: Tensor | None, learn: bool = True) -> tuple[Tensor, Tensor]:
        """The state times the factor."""
        return (self.a if learn else self.a.detach()) * z, self.q

    def emission(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The state itself."""
        return z, self.r

    def slope(self, z: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(z)


def growth_data(
    num_sequences: int, num_steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of the growth model: frames x, inputs u (the force, and a flag at the first frame), states z."""
    toy = growth_model(num_sequences, num_steps, generator=generator)
    times = torch.arange(1, num_steps + 1)
    u = torch.stack([8 * torch.cos(1.2 * times), (times == 1).float()], -1)
    return toy.x, u.expand(num_sequences, -1, -1).contiguous(), toy.z


@torch.no_grad()
def grid_evidence(
    model: ScalarStateSpace, x: Float[Tensor, "batch time 1"], u: Tensor | None, *, low: float, high: float, size: int
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch time size"], Float[Tensor, " size"]]:
    r"""The evidence :math:`\log p(x_{1:T})` and the filtered densities, by quadrature on a grid, in double precision.

    Arguments:
        model: The model, whose states hardly leave the grid.
        x: The frames.
        u: The inputs.
        low: Where the grid begins.
        high: Where it ends.
        size: Number of points.

    Returns:
        The evidence in nats; :math:`p(z_t | x_{1:t})` at the points; the points.
    """
    points = torch.linspace(low, high, size, dtype=torch.float64)
    width = points[1] - points[0]
    evidence, densities = torch.zeros(len(x), dtype=torch.float64), []
    density = None
    for t in range(x.shape[1]):
        before = points[:, None] if density is not None else torch.zeros(1, 1, dtype=torch.float64)
        step = _step(model, before, points, u, t)
        predicted = step.expand(len(x), -1) if density is None else density @ step * width
        likelihood = _density(x[:, t].double() - model.emission(points)[0], model.emission(points)[1].double())
        joint = predicted * likelihood
        total = joint.sum(-1) * width
        evidence = evidence + total.log()
        density = joint / total[:, None]
        densities.append(density)
    return evidence, torch.stack(densities, 1), points


class GridPosterior(NamedTuple):
    """What all frames together say of the states, on a grid.

    Attributes:
        evidence: log p(x_{1:T}) in nats, of each sequence.
        density: p(z_t | x_{1:T}) at the points.
        path: The most probable sequence of states among those of the grid, from p(z_{1:T} | x_{1:T}).
        points: The points.
    """

    evidence: Float[Tensor, " batch"]
    density: Float[Tensor, "batch time size"]
    path: Float[Tensor, "batch time 1"]
    points: Float[Tensor, " size"]


@torch.no_grad()
def grid_smoother(
    model: ScalarStateSpace, x: Float[Tensor, "batch time 1"], u: Tensor | None, *, low: float, high: float, size: int
) -> GridPosterior:
    r"""The smoothed densities and the most probable path, by quadrature and by Viterbi's recursion on a grid.

    .. math:: p(z_t | x_{1:T}) = p(z_t | x_{1:t}) \int p(z_{t+1} | z_t)
        \frac{p(z_{t+1} | x_{1:T})}{p(z_{t+1} | x_{1:t})} \, \mathrm{d} z_{t+1}

    Arguments:
        model: The model, whose states hardly leave the grid.
        x: The frames.
        u: The inputs, the same for all sequences.
        low: Where the grid begins.
        high: Where it ends.
        size: Number of points.
    """
    evidence, filtered, points = grid_evidence(model, x, u, low=low, high=high, size=size)
    width, least = points[1] - points[0], torch.finfo(torch.float64).tiny
    steps = [_step(model, points[:, None], points, u, t) for t in range(1, x.shape[1])]  # into frame t
    smoothed = [filtered[:, -1]]
    for t, step in reversed(list(enumerate(steps))):
        predicted = (filtered[:, t] @ step * width).clamp_min(least)
        smoothed.append(filtered[:, t] * ((smoothed[-1] / predicted) @ step.mT * width))
    density = torch.stack(smoothed[::-1], 1)

    scores = _step(model, torch.zeros(1, 1, dtype=torch.float64), points, u, 0).log()
    origins = []
    for t in range(x.shape[1]):
        if t > 0:
            scores, origin = (scores[..., None] + steps[t - 1].log()).max(1)
            origins.append(origin)
        seen, noise = model.emission(points)
        scores = scores + _density(x[:, t].double() - seen, noise.double()).log()
    best = [scores.argmax(-1, keepdim=True)]
    for origin in reversed(origins):
        best.append(origin.gather(1, best[-1]))
    return GridPosterior(evidence, density, points[torch.stack(best[::-1], 1)], points)


def _step(
    model: ScalarStateSpace, before: Float[Tensor, "from 1"], points: Float[Tensor, " size"], u: Tensor | None, t: int
) -> Float[Tensor, "from size"]:
    """The density of each point at a frame, given each state before it."""
    u_t = None if u is None else u[:1, t].double().expand(len(before), -1)  # the same for all sequences
    mean, variance = model.transition(before, u_t)
    return _density(points - mean, variance)


def _density(distance: Tensor, variance: Tensor) -> Tensor:
    return (-0.5 * distance.square() / variance).exp() / (2 * math.pi * variance).sqrt()


class FilterQuality(NamedTuple):
    """What a particle filter with some proposal is worth.

    Attributes:
        shortfall: Exact evidence less its estimate, in nats per frame, of each sequence.
        effective: Effective sample size before resampling over the number of particles, of each sequence.
        error: Root mean square distance of the filtered mean from the exact one, of each sequence.
    """

    shortfall: Float[Tensor, " batch"]
    effective: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]


@torch.no_grad()
def filter_quality(
    model: ScalarStateSpace,
    x: Float[Tensor, "batch time 1"],
    u: Tensor | None,
    evidence: Float[Tensor, " batch"],
    mean: Float[Tensor, "batch time"],
    *,
    num_particles: int = 100,
    generator: torch.Generator | None = None,
) -> FilterQuality:
    """Run a particle filter with the model's proposal, and compare it with the truth.

    Arguments:
        model: The model with its proposal.
        x: The frames.
        u: The inputs.
        evidence: The exact evidence.
        mean: The exact filtered mean.
        num_particles: Number of particles.
        generator: Source of randomness.
    """
    estimate, sizes, squares = torch.zeros(len(x)), [], []
    frames = filtered_frames(model, x, u, None, None, num_particles, 0.5, "sample", generator)
    for t, frame in enumerate(frames):
        estimate = estimate + frame.evidence
        sizes.append(frame.effective_sample_size / num_particles)
        z = frame.latents["z"].sample.view(num_particles, -1)
        squares.append(((shares(frame.weights) * z).sum(0) - mean[:, t]).square())
    return FilterQuality(
        (evidence - estimate) / x.shape[1], torch.stack(sizes).mean(0), torch.stack(squares).mean(0).sqrt()
    )


# ---------------------------------------------------------------- the linear model's truth


def kalman_score(
    model: LinearModel, x: Float[Tensor, "batch time 1"], a: Float[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    r"""The score :math:`\partial \log p(x_{1:T}) / \partial a` of each sequence, through the Kalman filter.

    Arguments:
        model: The model.
        x: The frames.
        a: A factor for each sequence, in place of the model's.
    """
    a = (model.a.expand(len(x)) if a is None else a).detach().double().clone().requires_grad_()
    evidence = torch.stack([term for term, _ in _kalman(model, a, x.double())])
    (score,) = torch.autograd.grad(evidence.sum(), a)
    return score


@torch.no_grad()
def filtered_score(
    model: LinearModel, x: Float[Tensor, "batch time 1"], a: Float[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    r"""What NASMC's gradient tends to as particles grow in number, in closed form, of each sequence:

    :math:`\sum_t \mathbb{E}_{p(z_{t-1}, z_t | x_{1:t})} \big[\partial \log p(z_t | z_{t-1}) / \partial a\big]`.

    The arguments are those of `kalman_score`.
    """
    a = (model.a.expand(len(x)) if a is None else a).double()
    total = torch.zeros_like(a)
    for _, (mean, before, covariance, second) in _kalman(model, a, x.double()):
        # d/da of -(z - a z')^2 / 2q is (z z' - a z'^2) / q
        total = total + (mean * before + covariance - a * (before.square() + second)) / model.q
    return total


def _kalman(model: LinearModel, a: Tensor, x: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """For each frame log p(x_t | x_{1:t-1}), and of p(z_{t-1}, z_t | x_{1:t}) both means, their covariance, and the
    variance of z_{t-1}.
    """
    q, r = model.q.double(), model.r.double()
    mean, variance = torch.zeros_like(a), torch.zeros_like(a)
    frames = []
    for x_t in x[..., 0].unbind(1):
        ahead, spread = a * mean, a.square() * variance + q
        innovation = spread + r
        surprise = x_t - ahead
        evidence = -0.5 * (surprise.square() / innovation + (2 * math.pi * innovation).log())
        gain, back = spread / innovation, a * variance / innovation  # on z_t, and on z_{t-1}
        before, second = mean + back * surprise, variance - back * a * variance
        covariance = a * variance - gain * a * variance
        mean, variance = ahead + gain * surprise, spread - gain * spread
        frames.append((evidence, (mean, before, covariance, second)))
    return frames
