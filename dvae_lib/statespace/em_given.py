r"""What is given of the parameters that `fit_em` fits: entries that stay, blocks of covariances, priors.

With some entries given, or with priors, a regression has no longer one solution for every covariance of its noise. Each
M step then takes two: the coefficients at the present covariance, and the covariance at these coefficients. Both climb
(Meng and Rubin, 1993).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import as_tensor
from dvae_lib.statespace.model import LinearGaussianSSM
from dvae_lib.statespace.recursions import symmetric

__all__ = ["Restrictions", "InverseWishartPrior", "NormalPrior"]

COVARIANCES = ("Lambda", "Sigma", "Lambda_1")


class NormalPrior(NamedTuple):
    r"""Independent normal priors of the entries of A, B, C, m, n or mu_1.

    Attributes:
        mean: Of each entry, or one for all.
        deviation: Of each entry, or one for all; positive.
    """

    mean: Tensor | ArrayLike
    deviation: Tensor | ArrayLike


class InverseWishartPrior(NamedTuple):
    r"""A prior of Lambda, Sigma or Lambda_1, of density
    :math:`\propto |\Lambda|^{-(\nu + p + 1)/2} \exp(-\tfrac{1}{2} \mathrm{tr}\, \Psi \Lambda^{-1})`.

    Its mode is :math:`\Psi / (\nu + p + 1)`: a soft floor.

    Attributes:
        scale: :math:`\Psi`, positive definite, `(p, p)`.
        degrees: :math:`\nu`, of freedom.
    """

    scale: Tensor | ArrayLike
    degrees: float


Prior = NormalPrior | InverseWishartPrior


class Restrictions:
    """What is given of a model's parameters.

    Attributes:
        free: Of A, B, C, m, n and mu_1, by name: which entries are fitted, where these are not all.
        normal: Priors of these, by name: mean and precision of each entry.
        blocks: Of the covariances, by name: the numbers of the rows of each block that is fitted.
        wishart: Priors of these, by name: scale and degrees of freedom.
    """

    def __init__(
        self,
        ssm: LinearGaussianSSM,
        names: Collection[str],
        kept: Mapping[str, Tensor | ArrayLike],
        diagonal: Collection[str],
        priors: Mapping[str, Prior],
    ) -> None:
        self.free: dict[str, Tensor] = {}
        self.normal: dict[str, tuple[Tensor, Tensor]] = {}
        self.blocks: dict[str, list[list[int]]] = {}
        self.wishart: dict[str, tuple[Tensor, float]] = {}
        for what, given in (("kept", kept), ("priors", priors)):
            if not set(given) <= set(names):
                raise ValueError(
                    f"{what} names {', '.join(sorted(set(given) - set(names)))}, which is not fitted; fitted are "
                    f"{', '.join(sorted(names))}"
                )
        for name in names:
            value = getattr(ssm, name).double()
            stays = _mask(kept[name], name, value) if name in kept else torch.zeros_like(value, dtype=torch.bool)
            if name in COVARIANCES:
                self.blocks[name] = _blocks(value, stays, name, name in diagonal)
            elif bool(stays.any()):
                self.free[name] = ~stays
            if name in priors:
                self._take(priors[name], name, value)

    def _take(self, prior: Prior, name: str, value: Tensor) -> None:
        if isinstance(prior, NormalPrior) and name not in COVARIANCES:
            mean, deviation = (torch.as_tensor(part, dtype=value.dtype).to(value.device) for part in prior)
            try:
                mean, deviation = mean.expand_as(value), deviation.expand_as(value)
            except RuntimeError:
                raise ValueError(
                    f"the prior of {name} must have a mean and deviations of shape {tuple(value.shape)}, or one for "
                    f"all; got {tuple(mean.shape)} and {tuple(deviation.shape)}"
                ) from None
            if not bool((torch.isfinite(mean) & (deviation > 0)).all()):
                raise ValueError(f"the prior of {name} needs finite means and positive deviations")
            self.normal[name] = mean, deviation.square().reciprocal()
        elif isinstance(prior, InverseWishartPrior) and name in COVARIANCES:
            scale = torch.as_tensor(prior.scale, dtype=value.dtype).to(value.device)
            if scale.shape != value.shape or not bool(
                (scale == scale.mT).all() & (torch.linalg.eigvalsh(scale) > 0).all()
            ):
                raise ValueError(
                    f"the prior of {name} needs a symmetric positive definite scale of shape {tuple(value.shape)}"
                )
            if not prior.degrees >= 0:
                raise ValueError(f"the prior of {name} needs degrees of freedom of at least 0; got {prior.degrees}")
            self.wishart[name] = scale, float(prior.degrees)
        else:
            wanted = "an InverseWishartPrior" if name in COVARIANCES else "a NormalPrior"
            raise TypeError(f"the prior of {name} must be {wanted}; got {type(prior).__name__}")

    def plain(self, names: Collection[str]) -> bool:
        """Whether all entries of these are fitted, without priors."""
        return not any(name in self.free or name in self.normal for name in names)

    def covariance(self, name: str, old: Tensor, residual: Tensor, number: int) -> Tensor:
        """The best covariance of so many residuals, of which the mean second moment is known."""
        new = old.clone()
        for block in self.blocks[name]:
            own = _square(residual, block)
            if name in self.wishart:
                scale, degrees = self.wishart[name]
                own = (number * own + _square(scale, block)) / (number + degrees + len(old) + 1)
            rows = torch.tensor(block)
            new[rows[:, None], rows] = own
        return new

    def raised(self, name: str, value: Tensor, least: float) -> Tensor:
        """A covariance with no direction of less variance than `least` in its fitted blocks: the best that has none."""
        value = value.clone()
        for block in self.blocks[name]:
            own = _square(value, block)
            if least > 0 or bool(torch.linalg.cholesky_ex(own).info != 0):
                variances, directions = torch.linalg.eigh(own)
                if bool(variances[0] < least):
                    own = symmetric(directions @ torch.diag_embed(variances.clamp(min=least)) @ directions.mT)
            rows = torch.tensor(block)
            value[rows[:, None], rows] = own
        return value

    def log_prior(self, ssm: LinearGaussianSSM) -> float:
        """The logarithm of the density of the fitted entries, but for constants."""
        total = 0.0
        for name, (mean, precision) in self.normal.items():
            terms = -0.5 * precision * (getattr(ssm, name) - mean).square()
            total += float(terms[self.free[name]].sum() if name in self.free else terms.sum())
        for name, (scale, degrees) in self.wishart.items():
            value = getattr(ssm, name)
            for block in self.blocks[name]:
                own, target = _square(value, block), _square(scale, block)
                spread = torch.linalg.solve(own, target).diagonal().sum()
                total -= 0.5 * float((degrees + len(value) + 1) * torch.logdet(own) + spread)
        return total


def _mask(given: Tensor | ArrayLike, name: str, value: Tensor) -> Tensor:
    mask = as_tensor(given, f"kept[{name!r}]")
    if mask.dtype != torch.bool or mask.shape != value.shape:
        raise ValueError(
            f"kept[{name!r}] must be a boolean mask of shape {tuple(value.shape)}, True where an entry stays; got "
            f"{mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask.to(value.device)


def _blocks(value: Tensor, stays: Tensor, name: str, diagonal: bool) -> list[list[int]]:
    """The blocks of a covariance that are fitted, each uncorrelated with all the rest."""
    free = ~stays
    if diagonal:
        free = free & torch.eye(len(value), dtype=torch.bool, device=free.device)
    blocks: list[list[int]] = []
    for i in range(len(value)):
        block = free[i].nonzero()[:, 0].tolist()
        if not block or block in blocks:
            continue
        rest = [j for j in range(len(value)) if j not in block]
        whole = i in block and bool(_square(free, block).all()) and not bool(free[rest][:, block].any())
        if not whole or (not diagonal and bool((value[block][:, rest] != 0).any())):
            raise ValueError(
                f"the entries of {name} that are fitted must be whole blocks, with their variances, that are "
                f"uncorrelated with all the rest: row {i} is not; keep zeros there"
            )
        blocks.append(block)
    return blocks


def _square(value: Tensor, block: list[int]) -> Tensor:
    rows = torch.tensor(block)
    return value[rows[:, None], rows]
