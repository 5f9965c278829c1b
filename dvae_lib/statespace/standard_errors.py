r"""How sure a fit is of its parameters: standard errors from the curvature of the log-likelihood."""

from collections.abc import Collection, Iterator, Mapping

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.statespace.em import read_fit
from dvae_lib.statespace.em_given import COVARIANCES, Restrictions
from dvae_lib.statespace.kalman import log_likelihood
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.series import Series

__all__ = ["standard_errors"]

_FLAT = 1e-9  # the least eigenvalue of the information, each entry in the unit of its own, that counts as curvature

Place = tuple[str, tuple[int, ...]]


def standard_errors(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    update: str | Collection[str] | None = None,
    diagonal: str | Collection[str] = (),
    kept: Mapping[str, Tensor | ArrayLike] | None = None,
) -> dict[str, Tensor]:
    r"""Standard errors of the parameters of a fitted model.

    Near the maximum of the log-likelihood of much data the estimate :math:`\hat\theta` is normal around the truth, with
    the inverse of the observed information as its covariance,

    .. math:: \operatorname{Cov} \hat\theta \approx \Big[- \frac{\partial^2 \log p(x_{1:T} \mid \theta)}
        {\partial \theta \, \partial \theta^\top} \Big|_{\theta = \hat\theta} \Big]^{-1}.

    The Hessian is exact. An entry of a covariance and its mirror image are one parameter. A variance near zero is not
    normal, whatever its standard error.

    Example:
        The mean of 100 numbers of variance one is known to a tenth:

        >>> from dvae_lib.statespace import fit_em
        >>> x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
        >>> one, none = torch.eye(1), torch.zeros(1)
        >>> noise = LinearGaussianSSM(0 * one, 0 * one, one, one, mu_1=none, Lambda_1=one, n=none)
        >>> standard_errors(fit_em(noise, x, update="n").ssm, x, update="n")["n"]
        tensor([0.1000])

    Arguments:
        ssm: The fitted model.
        x: The observations that it was fitted to, and so on: as in `fit_em`.
        u: As in `fit_em`.
        mask: As in `fit_em`.
        update: As in `fit_em`: what was fitted.
        diagonal: As in `fit_em`.
        kept: As in `fit_em`.

    Returns:
        By name, a tensor in the shape of each fitted parameter; NaN at entries that were not fitted.

    Raises:
        TypeError: As `fit_em`.
        ValueError: As `fit_em`; where the log-likelihood has no curvature downwards in some direction: another set of
            parameters does as well, or the model is not at a maximum.
    """
    dtype = ssm.dtype
    data, inputs, seen, diagonal, names = read_fit(ssm, x, u, mask, update, diagonal)
    ssm = in_double(ssm.map(torch.Tensor.detach))
    places = list(_places(ssm, names, Restrictions(ssm, names, kept or {}, diagonal, {})))
    fitted = {name: getattr(ssm, name) for name in sorted(names)}

    def value(theta: Tensor) -> Tensor:
        changed = {name: parameter.clone() for name, parameter in fitted.items()}
        for (name, place), entry in zip(places, theta, strict=True):
            for at in {place, place[::-1]} if name in COVARIANCES else {place}:
                changed[name][at] = entry
        return log_likelihood(ssm.replace(validate_args=False, **changed), data, inputs, mask=seen).sum()

    theta = torch.stack([fitted[name][place] for name, place in places]) if places else data.new_zeros(0)
    information = -torch.autograd.functional.hessian(value, theta) if places else theta.new_zeros(0, 0)
    errors = {name: torch.full_like(parameter, torch.nan) for name, parameter in fitted.items()}
    for (name, place), error in zip(places, _inverse(information, places).diagonal().sqrt(), strict=True):
        errors[name][place] = error
        if name in COVARIANCES:
            errors[name][place[::-1]] = error
    return {name: error.to(dtype) for name, error in errors.items()}


def _places(ssm: LinearGaussianSSM, names: set[str], given: Restrictions) -> Iterator[Place]:
    """The entries that were fitted; of a covariance those on and below its diagonal."""
    for name in sorted(names):
        if name in COVARIANCES:
            for block in given.blocks[name]:
                yield from ((name, (i, j)) for i in block for j in block if i >= j)
        else:
            free = given.free.get(name, torch.ones_like(getattr(ssm, name), dtype=torch.bool))
            yield from ((name, tuple(place)) for place in free.nonzero().tolist())


def _inverse(information: Tensor, places: list[Place]) -> Tensor:
    """The covariance of the estimates."""
    unit = information.diagonal().abs().sqrt()
    scaled = information / unit[:, None] / unit
    if not bool(torch.isfinite(scaled).all()):
        flat = ", ".join(_written(places[i]) for i in (unit == 0).nonzero()[:, 0].tolist())
        raise ValueError(f"the data say nothing of {flat or 'a parameter'}: leave it out of update, or keep it")
    if len(scaled):
        curvatures, directions = torch.linalg.eigh(scaled)
        if float(curvatures[0]) < _FLAT:
            most = directions[:, 0].abs().topk(min(3, len(places))).indices.tolist()
            raise ValueError(
                "the log-likelihood has no maximum here: it is flat or rises when "
                f"{', '.join(_written(places[i]) for i in most)} move together. Keep some of them, since another set "
                "does as well, or fit the model first"
            )
    covariance: Tensor = torch.linalg.inv(scaled) / unit[:, None] / unit
    return covariance


def _written(place: Place) -> str:
    name, at = place
    return f"{name}[{', '.join(map(str, at))}]"
