r"""The feed-forward pieces that the models are built from: :math:`d_x`, :math:`e_z` and their output layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from dvae_lib.distributions import OBSERVATIONS, DiagonalGaussian, FactorisedDistribution

__all__ = ["MLP", "GaussianHead", "ObservationHead", "ObservationName"]

ObservationName = Literal["gaussian", "unit_gaussian", "gamma", "bernoulli"]


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


class GaussianHead(nn.Module):
    """A linear layer to the mean and log-variance of a diagonal Gaussian, as in Eqs. (2.5) and (2.20)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * dim)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> DiagonalGaussian:
        """The Gaussian, with the batch shape of `features`."""
        return DiagonalGaussian.from_output(self.linear(features))


class ObservationHead(nn.Module):
    r"""A linear layer to the parameters of the observation model :math:`p(\mathbf{x}_t | \cdot)`.

    Arguments:
        in_dim: Size of the features.
        x_dim: Size of the observed vectors.
        observation: A name in `dvae_lib.distributions.OBSERVATIONS`.

    Raises:
        ValueError: For another name.
    """

    def __init__(self, in_dim: int, x_dim: int, observation: str) -> None:
        super().__init__()
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation must be one of {', '.join(OBSERVATIONS)}; got {observation!r}")
        self.family = OBSERVATIONS[observation]
        self.linear = nn.Linear(in_dim, self.family.outputs_per_dim * x_dim)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> FactorisedDistribution:
        """The distribution of the observed vectors, with the batch shape of `features`."""
        return self.family.from_output(self.linear(features))
