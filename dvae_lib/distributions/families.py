r"""The families that a model can give its observation, by name."""

import math
from typing import Any

from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution
from dvae_lib.distributions.bernoulli import Bernoulli
from dvae_lib.distributions.categorical import OneHotCategorical
from dvae_lib.distributions.counts import NegativeBinomial, Poisson
from dvae_lib.distributions.gamma import Gamma
from dvae_lib.distributions.gaussian import CentimetreGaussian, DiagonalGaussian, UnitGaussian
from dvae_lib.distributions.heavy_tails import Laplace, StudentT
from dvae_lib.distributions.support import Support

__all__ = ["OBSERVATIONS", "support_of"]


OBSERVATIONS: dict[str, type[FactorisedDistribution]] = {
    "gaussian": DiagonalGaussian,
    "unit_gaussian": UnitGaussian,
    "centimetre_gaussian": CentimetreGaussian,
    "gamma": Gamma,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "laplace": Laplace,
    "student_t": StudentT,
    "categorical": OneHotCategorical,
}
"""The observation models p(x_t | .) that every model accepts, by name."""


def support_of(family: "str | type[Distribution]") -> Support:
    """What the data of an observation model may be, from the `support` that its class declares.

    For zeros and ones everything between counts, too: a grey level stands for the mean of random zeros and ones, and
    its log-likelihood for the expected one; so does a vector of probabilities in place of a class. Where a class says
    nothing, or what depends on its parameters, all real numbers are taken.

    Arguments:
        family: a name in `OBSERVATIONS`, or a class of distributions.

    Example:
        >>> support_of("bernoulli")
        Support(low=0.0, high=1.0, whole=False)
        >>> support_of(DiagonalGaussian).everything
        True
    """
    declared: Any = getattr(OBSERVATIONS.get(family) if isinstance(family, str) else family, "support", None)
    while isinstance(declared, constraints.independent):
        declared = declared.base_constraint
    if declared is constraints.boolean or declared is constraints.one_hot:
        return Support(0.0, 1.0)
    if not isinstance(declared, constraints.Constraint) or constraints.is_dependent(declared):
        return Support()
    low, high = (getattr(declared, f"{side}_bound", inf) for side, inf in (("lower", -math.inf), ("upper", math.inf)))
    if not all(isinstance(bound, int | float) for bound in (low, high)):
        return Support()
    if isinstance(declared, type(constraints.positive)):  # the bound itself is not in it
        low = math.nextafter(low, math.inf)
    return Support(float(low), float(high), bool(declared.is_discrete))
