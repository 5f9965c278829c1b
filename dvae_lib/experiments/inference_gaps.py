r"""Frozen scalar models with inference networks of their own, and what a filter can reach at best: Chapter 14c."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.experiments.scalar_models import GridPosterior, GrowthModel, LinearModel, ScalarStateSpace
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.draws import Context, Draws, Past
from dvae_lib.networks import MLP, FlowHead, GaussianHead, Recurrence, append_input, shift

__all__ = [
    "InferredGrowth",
    "InferredLinear",
    "best_filter_bound",
    "greedy_filter_bound",
    "one_sided_bound",
    "mean_structure_gap",
]

GENERATION = "z_t ~ z_{t-1}, u_t \n x_t ~ z_t"
STRUCTURES = {
    "smoother": "gb_t <- x_t, u_t, gb_{t+1} \n z_t ~ z_{t-1}, u_t, gb_t",
    "filter": "gf_t <- gf_{t-1}, x_t, u_t \n z_t ~ z_{t-1}, u_t, gf_t",
}


class _Inferred(ScalarStateSpace):
    """A scalar model with a recurrent inference network: (5.4)-(5.7), about the prior's mean, in its deviation's unit.

    The generative model takes no gradient.
    """

    def equip(self, structure: str, posterior: str, g_dim: int, flow_steps: int) -> None:
        """Build the inference network.

        Arguments:
            structure: "smoother", which has the exact posterior's arrows, or "filter", which sees no later frame.
            posterior: "gaussian", or a flow, "planar" or "iaf".
            g_dim: Size of the recurrent network, and of the hidden layers.
            flow_steps: Number of the flow's steps.

        Raises:
            ValueError: Another structure.
        """
        if structure not in STRUCTURES:
            raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; got {structure!r}")
        spec = DependencySpec(GENERATION, STRUCTURES[structure])
        self.spec = spec if self.u_dim else spec.undriven()
        self.requires_grad_(False)
        self.recurrence = Recurrence(1 + self.u_dim, g_dim, cell="gru", backward=structure == "smoother")
        self.network = MLP(2 + g_dim, [g_dim, g_dim])
        self.head: GaussianHead | FlowHead = GaussianHead(g_dim, 1)
        if posterior != "gaussian":
            self.head = FlowHead(g_dim, 1, posterior, flow_steps)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        g = past.run("g", self.recurrence, append_input(x / self.scale, u), lengths)
        return Context({"g": g, "x": x / self.scale, **({} if u is None else {"u": u})})

    def _propose(self, name: str, context: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Distribution:
        mean, variance = self.transition(known["z_prev"], context.get("u"), learn=False)
        q = self.head(self.network(torch.cat([mean / self.scale, context["x"], context["g"]], -1)))
        own, logvar, *steps = q.parameters
        moved: Distribution = type(q)(mean + variance.sqrt() * own, variance.log() + logvar, *steps)
        return moved


class InferredLinear(_Inferred, LinearModel):
    """The linear-Gaussian model, frozen, with an inference network: see `_Inferred.equip` for the arguments."""

    def __init__(
        self, structure: str = "smoother", posterior: str = "gaussian", *, g_dim: int = 32, flow_steps: int = 4
    ) -> None:
        LinearModel.__init__(self, 0.9)
        self.equip(structure, posterior, g_dim, flow_steps)


class InferredGrowth(_Inferred, GrowthModel):
    """The growth model, frozen, with an inference network: see `_Inferred.equip` for the arguments."""

    def __init__(
        self, structure: str = "smoother", posterior: str = "gaussian", *, g_dim: int = 32, flow_steps: int = 4
    ) -> None:
        GrowthModel.__init__(self)
        self.equip(structure, posterior, g_dim, flow_steps)


# ---------------------------------------------------------------- what a filter can reach, in closed form


def _future(model: LinearModel, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of the message that later frames send to each state: its precision, and where it is centred, frame by frame."""
    a, q, r = (value.detach().double() for value in (model.a, model.q, model.r))
    precision, centre = torch.zeros((), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    precisions, centres = [precision], [centre]
    for x_t in reversed(x[:, 1:, 0].double().unbind(1)):
        known = 1 / r + precision  # what x_t and later frames say of z_t
        middle = (x_t / r + precision * centre) / known
        precision, centre = a.square() * known / (1 + q * known), middle / a
        precisions.append(precision)
        centres.append(centre)
    return precisions[::-1], centres[::-1]


def _filtered(model: LinearModel, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The Kalman filter's means and variances, frame by frame, and the log-likelihood."""
    a, q, r = (value.detach().double() for value in (model.a, model.q, model.r))
    mean, variance = torch.zeros(len(x), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    evidence, means, variances = torch.zeros_like(mean), [], []
    for x_t in x[..., 0].double().unbind(1):
        ahead, spread = a * mean, a.square() * variance + q
        evidence = evidence - 0.5 * ((x_t - ahead).square() / (spread + r) + (2 * math.pi * (spread + r)).log())
        gain = spread / (spread + r)
        mean, variance = ahead + gain * (x_t - ahead), (1 - gain) * spread
        means.append(mean)
        variances.append(variance)
    return means, variances, evidence


@torch.no_grad()
def best_filter_bound(model: LinearModel, x: Float[Tensor, "batch time 1"]) -> tuple[Tensor, Tensor]:
    r"""The bound of the best :math:`q(z_t | z_{t-1}, x_{1:t})` there is, and the log-likelihood, exactly, in nats.

    Best on average over the model's own data. It puts the filtered mean where the exact posterior has the message of
    the future, with the same precision :math:`\kappa_t`, so that they differ in the mean alone:

    .. math:: \log p(x_{1:T}) - \mathcal{L} = \sum_t \frac{\kappa_t^2 (m_t - \hat z_t)^2}{2 (1/q + 1/r + \kappa_t)}

    Arguments:
        model: The model.
        x: The frames.

    Returns:
        The bound and the log-likelihood of each sequence, (B,).
    """
    precisions, centres = _future(model, x)
    means, _, evidence = _filtered(model, x)
    known = 1 / model.q.double() + 1 / model.r.double()
    gap = torch.zeros_like(evidence)
    for precision, centre, mean in zip(precisions, centres, means, strict=True):
        gap = gap + precision.square() * (centre - mean).square() / (2 * (known + precision))
    return evidence - gap, evidence


@torch.no_grad()
def mean_structure_gap(model: LinearModel, num_steps: int) -> float:
    r"""What the best filter loses on average over the model's data, in nats per sequence.

    .. math:: \sum_t \frac{\kappa_t (1 + \kappa_t P_t)}{2 (1/q + 1/r + \kappa_t)}

    with the Kalman filter's variance :math:`P_t`.

    Arguments:
        model: The model.
        num_steps: T.
    """
    blank = torch.zeros(1, num_steps, 1)
    precisions, _ = _future(model, blank)
    _, variances, _ = _filtered(model, blank)
    known = 1 / model.q.double() + 1 / model.r.double()
    terms = (k * (1 + k * p) / (2 * (known + k)) for k, p in zip(precisions, variances, strict=True))
    return float(sum(terms, torch.zeros(())))


@torch.no_grad()
def greedy_filter_bound(model: LinearModel, x: Float[Tensor, "batch time 1"]) -> Float[Tensor, " batch"]:
    r"""The bound of :math:`q(z_t) \propto p(x_t | z_t)\, p(z_t | z_{t-1})`, which each frame's own part of it asks for.

    It is :math:`\sum_t \mathbb{E}_q[\log p(x_t | z_{t-1})]`, by the moments of :math:`q(z_{t-1})`; what amortized
    variational filtering tends to.

    Arguments:
        model: The model.
        x: The frames.
    """
    a, q, r = (value.detach().double() for value in (model.a, model.q, model.r))
    gain, spread = q / (q + r), q * r / (q + r)
    mean, variance = torch.zeros(len(x), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    bound = torch.zeros_like(mean)
    for x_t in x[..., 0].double().unbind(1):
        surprise = x_t - a * mean
        squared = surprise.square() + a.square() * variance
        bound = bound - 0.5 * (squared / (q + r) + (2 * math.pi * (q + r)).log())
        mean = a * mean + gain * surprise
        variance = ((1 - gain) * a).square() * variance + spread
    return bound


@torch.no_grad()
def one_sided_bound(
    model: ScalarStateSpace,
    x: Float[Tensor, "batch time 1"],
    u: Float[Tensor, "batch time inputs"] | None,
    exact: GridPosterior,
    *,
    num_samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""The bound of Gaussians that the exact posterior places: one a frame, independent of the others.

    A frame's Gaussian has the mean and the variance of the smoothed density on that side of zero where more of its mass
    is. A trained posterior that is far below this bound is not far below because of its family.

    Arguments:
        model: The model.
        x: The frames.
        u: The inputs.
        exact: The smoothed densities, from `dvae_lib.experiments.scalar_models.grid_smoother`.
        num_samples: Draws that the bound is averaged over.
        generator: Their source of randomness.

    Returns:
        In nats, in double precision.
    """
    z, width = exact.points, exact.points[1] - exact.points[0]
    right = (exact.density * (z > 0)).sum(-1, keepdim=True) * width > 0.5
    side = exact.density * torch.where(right, z > 0, z <= 0)
    side = side / side.sum(-1, keepdim=True)
    mean = (side * z).sum(-1)
    q = torch.distributions.Normal(mean, (side * (z - mean[..., None]).square()).sum(-1).sqrt())
    total = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(num_samples):
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        states = (q.mean + q.stddev * noise)[..., None]
        (moved, spread), (seen, scatter) = model.transition(shift(states), u), model.emission(states)
        prior, emission = (torch.distributions.Normal(m, v**0.5) for m, v in ((moved, spread), (seen, scatter)))
        joint = prior.log_prob(states) + emission.log_prob(x.double())
        total += (joint[..., 0] - q.log_prob(states[..., 0])).sum(1)
    return total / num_samples
