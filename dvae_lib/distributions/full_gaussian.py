r"""A Gaussian of whole vectors, whose entries may depend on each other."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import MultivariateNormal

__all__ = ["FullGaussian"]


class FullGaussian(MultivariateNormal):
    r"""A Gaussian with any covariance, given by its factor; it can be indexed as the factorised families can.

    .. math:: p(\mathbf{x}) = \mathcal{N}(\mathbf{x}; \boldsymbol\mu, D D^\top)

    Arguments:
        mean: The mean :math:`\boldsymbol\mu`, shape ``(*batch, D)``.
        factor: The Cholesky factor of the covariance: lower-triangular with a positive diagonal, ``(*batch, D, D)``.

    Example:
        >>> import torch
        >>> p = FullGaussian(torch.zeros(5, 7, 2), torch.eye(2))
        >>> p[:, -1].log_prob(torch.zeros(2)).shape
        torch.Size([5])
    """

    arg_constraints = {}

    def __init__(self, mean: Float[Tensor, "*batch dim"], factor: Float[Tensor, "*own dim dim"]) -> None:
        super().__init__(mean, scale_tril=factor, validate_args=False)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean and factor."""
        return self.loc, self.scale_tril

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "FullGaussian":
        """The same distribution with its batch dimensions expanded."""
        shape = Size(batch_shape) + self.event_shape
        return FullGaussian(self.loc.expand(shape), self.scale_tril.expand(*shape, -1))

    def __getitem__(self, index: object) -> "FullGaussian":
        """The distributions at some places of the batch: indexing acts on the batch dimensions."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return FullGaussian(self.loc[(*index, slice(None))], self.scale_tril[(*index, slice(None), slice(None))])
