"""Layers without a memory: feed-forward networks, and the heads that put out distributions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dvae_lib.distributions import (
    FLOWS,
    CategoricalVector,
    DiagonalGaussian,
    FactorisedDistribution,
    Flow,
    observation_family,
)

__all__ = [
    "MLP",
    "CategoricalHead",
    "FlowHead",
    "GatedTransition",
    "GaussianHead",
    "ObservationHead",
    "append_input",
    "linear",
    "prepend_input",
    "side_by_side",
]


def side_by_side(parts: Tensor | Sequence[Tensor]) -> Tensor:
    """Parts of vectors as one; of shape (batch, 1, .) where a part is the same in all frames."""
    if isinstance(parts, Tensor):
        return parts
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, -1) for part in parts], -1)


def linear(parts: Tensor | Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer on vectors whose parts stand side by side.

    Where some of them are data, and others have gradients, each part is multiplied on its own: no gradient of the data
    is computed, which would cost as much as the product itself.
    """
    if isinstance(parts, Tensor) or len({part.requires_grad for part in parts}) == 1 or not torch.is_grad_enabled():
        return F.linear(side_by_side(parts), weight, bias)
    weights = weight.split([part.shape[-1] for part in parts], 1)
    first, *others = (F.linear(part, w) for part, w in zip(parts, weights, strict=True))
    return sum(others, first + bias.to(first.dtype))  # under autocast the products are of less precision


class MLP(nn.Sequential):
    """Linear layers, each followed by an activation; the output size is the last of `sizes`.

    Arguments:
        in_dim: Size of the input vectors.
        sizes: Sizes of the layers, first to last. Empty: the identity.
        activation: The activation's class.

    Example:
        >>> MLP(513, [256, 128])
        MLP(
          (0): Linear(in_features=513, out_features=256, bias=True)
          (1): Tanh()
          (2): Linear(in_features=256, out_features=128, bias=True)
          (3): Tanh()
        )
    """

    def __init__(self, in_dim: int, sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> None:
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise([in_dim, *sizes]):
            layers += [nn.Linear(size_in, size_out), activation()]
        super().__init__(*layers)
        self.in_dim = in_dim
        self.out_dim = [in_dim, *sizes][-1]

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """The outputs, of vectors or of their parts, which stand side by side (`linear`)."""
        first = next(iter(self), None)
        # Only a plain layer may be taken apart: not one with hooks, such as those of pruning, nor what replaced it.
        if (
            isinstance(inputs, Tensor)
            or type(first) is not nn.Linear
            or first._forward_hooks
            or first._forward_pre_hooks
        ):
            return super().forward(side_by_side(inputs))  # type: ignore[no-any-return, no-untyped-call]
        outputs = linear(inputs, first.weight, first.bias)
        for layer in list(self)[1:]:
            outputs = layer(outputs)
        return outputs


class GaussianHead(nn.Module):
    """A linear layer to the mean and log-variance of a diagonal Gaussian, as in Eqs. (2.5) and (2.20)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * dim)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> DiagonalGaussian:
        """The Gaussian, with the batch shape of `features`."""
        return DiagonalGaussian.from_output(self.linear(features))


class CategoricalHead(nn.Module):
    """A linear layer to the scores of categorical variables, side by side.

    Arguments:
        in_dim: Size of the features.
        dim: Size D of the latent vector.
        classes: Number of classes of each variable, of which D is a multiple; None: one variable of D classes.

    Raises:
        ValueError: D is no multiple of the classes, or a variable would have less than two.
    """

    def __init__(self, in_dim: int, dim: int, classes: int | None = None) -> None:
        super().__init__()
        self.family = CategoricalVector.of(classes)
        if dim < 2 or dim % (classes or dim):
            several = "at least 2 classes" if classes is None else f"a multiple of its {classes} classes"
            raise ValueError(f"a vector of categorical variables has {several} for its size; got {dim}")
        self.linear = nn.Linear(in_dim, dim)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> CategoricalVector:
        """The variables, with the batch shape of `features`."""
        return self.family.from_output(self.linear(features))


class FlowHead(nn.Module):
    """A linear layer to the mean and log-variance of a posterior and to the steps that bend it: a normalizing flow.

    The steps start near the identity, the posterior near a Gaussian.

    Arguments:
        in_dim: Size of the features.
        dim: Size D of the latent vector.
        flow: A name in `dvae_lib.distributions.FLOWS`: "planar" or "iaf".
        steps: Number of steps.

    Raises:
        ValueError: Another name, or no step.
    """

    def __init__(self, in_dim: int, dim: int, flow: str, steps: int = 4) -> None:
        super().__init__()
        if flow not in FLOWS:
            raise ValueError(f"flow must be one of {', '.join(FLOWS)}; got {flow!r}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1; got {steps!r}")
        self.dim, self.family = dim, FLOWS[flow]
        self.linear = nn.Linear(in_dim, 2 * dim + steps * self.family.step_size(dim))
        start = torch.cat([self.family.identity(torch.zeros(dim)) for _ in range(steps)])
        with torch.no_grad():
            self.linear.weight[2 * dim :] *= 0.1
            self.linear.bias[2 * dim :] = start + 0.1 * self.linear.bias[2 * dim :]

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> Flow:
        """The flow, with the batch shape of `features`."""
        return self.family.from_output(self.linear(features), self.dim)


class ObservationHead(nn.Module):
    r"""A linear layer to the parameters of the observation model :math:`p(\mathbf{x}_t | \cdot)`.

    Arguments:
        in_dim: Size of the features.
        x_dim: Size of the observed vectors.
        observation: A name, such as "gamma" or "gaussian(scale=0.01)", or those of all columns, such as "poisson,
            student_t"; see `dvae_lib.distributions.observation_family`.

    Raises:
        ValueError: For another name, an option that the family does not have, or families of another number of columns.
    """

    def __init__(self, in_dim: int, x_dim: int, observation: str) -> None:
        super().__init__()
        self.family = observation_family(observation)
        self.linear = nn.Linear(in_dim, self.family.output_size(x_dim))

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> FactorisedDistribution:
        """The distribution of the observed vectors, with the batch shape of `features`."""
        return self.family.from_output(self.linear(features))


def append_input(features: Float[Tensor, "*batch dim"], u: Float[Tensor, "*batch u_dim"] | None) -> Tensor:
    """The features with the inputs of a driven model appended, where there are some."""
    return features if u is None else torch.cat([features, u], -1)


def prepend_input(u: Float[Tensor, "*batch u_dim"] | None, features: Float[Tensor, "*batch dim"]) -> Tensor:
    """The features with the inputs of a driven model before them: what is known beforehand first (`FrameByFrame`)."""
    return features if u is None else torch.cat([u, features], -1)


class GatedTransition(nn.Module):
    r"""The gated transition of the deep Kalman filter, Eqs. (B.1)-(B.5).

    .. math::
        \boldsymbol\mu = (1 - \boldsymbol\nu) \odot \boldsymbol\mu^\mathrm{lin}
        + \boldsymbol\nu \odot \boldsymbol\mu^\mathrm{nonlin}

    A gate chooses, for each dimension, between a linear and a nonlinear transition.

    Arguments:
        z_dim: Size of the latent vector.
        hidden: Size of the hidden layers.
        u_dim: Size of the input vector, which is appended to z_{t-1}.

    Source: Krishnan, Shalit and Sontag (2017), "Structured inference networks for nonlinear state space models".
    """

    def __init__(self, z_dim: int, *, hidden: int = 16, u_dim: int = 0) -> None:
        super().__init__()
        in_dim = z_dim + u_dim
        self.gate = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, z_dim), nn.Sigmoid())
        self.nonlinear = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, z_dim))
        self.linear = nn.Linear(in_dim, z_dim)
        self.variance = nn.Linear(z_dim, z_dim)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> DiagonalGaussian:
        r""":math:`p(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)` from :math:`[\mathbf{z}_{t-1}, \mathbf{u}_t]`."""
        gate = self.gate(features)  # (B.1)
        nonlinear = self.nonlinear(features)  # (B.2)
        linear = self.linear(features)  # (B.3)
        mean = linear + gate * (nonlinear - linear)  # (B.4)
        raw = self.variance(nonlinear.relu())
        # (B.5), as a logarithm: log softplus(r), which is r itself where the exponential would underflow.
        logvar = torch.where(raw < -20, raw, F.softplus(raw.clamp_min(-20)).log())
        return DiagonalGaussian(mean, logvar)
