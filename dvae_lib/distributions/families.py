r"""The families that a model can give its observation, by name."""

import math
import re
from typing import Any

from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution
from dvae_lib.distributions.bernoulli import Bernoulli
from dvae_lib.distributions.categorical import OneHotCategorical
from dvae_lib.distributions.counts import NegativeBinomial, Poisson
from dvae_lib.distributions.gamma import Gamma
from dvae_lib.distributions.gaussian import CentimetreGaussian, DiagonalGaussian, UnitGaussian
from dvae_lib.distributions.heavy_tails import Laplace, StudentT
from dvae_lib.distributions.mixture import GaussianMixture
from dvae_lib.distributions.support import Support

__all__ = ["OBSERVATIONS", "neutral_of", "observation_family", "register_observation", "support_of"]


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
    "gaussian_mixture": GaussianMixture,
}
"""The observation models p(x_t | .) that every model accepts, by name."""


_WITH_OPTIONS = re.compile(r"(\w+)\((.*)\)")
_OWN = ("log_prob_per_dim", "parameters", "mean")


def register_observation(name: str, family: type[FactorisedDistribution]) -> type[FactorisedDistribution]:
    """Make a family of one's own an observation model that every model takes by name.

    It is then known to all models, to `support_of`, and on the command line of a program that registers it; a model
    that was saved with it is loaded once it is registered.

    Arguments:
        name: The name, as in ``observation=name``: letters, digits and _.
        family: A class derived from `FactorisedDistribution` with `outputs_per_dim`, `parameters`,
            `log_prob_per_dim`, `mean`, and `sample` or `rsample`; with a `support` it refuses data outside it.

    Returns:
        The family.

    Raises:
        TypeError: It is no such class.
        ValueError: It lacks something, or another family has the name.

    Example:
        >>> from dvae_lib.distributions import Gamma
        >>> class Powers(Gamma): ...
        >>> _ = register_observation("powers", Powers)
        >>> observation_family("powers").__name__
        'Powers'
        >>> del OBSERVATIONS["powers"]
    """
    if not (isinstance(family, type) and issubclass(family, FactorisedDistribution)):
        raise TypeError(
            f"a family is a class derived from dvae_lib.distributions.FactorisedDistribution; got {family!r}"
        )
    if not name.isidentifier():
        raise ValueError(f"the name of an observation model is a word of letters, digits and _; got {name!r}")
    lacking = [own for own in _OWN if getattr(family, own) is getattr(FactorisedDistribution, own)]
    if not isinstance(getattr(family, "outputs_per_dim", None), int):
        lacking.append("outputs_per_dim")
    if family.sample is FactorisedDistribution.sample and family.rsample is FactorisedDistribution.rsample:
        lacking.append("sample")
    if lacking:
        raise ValueError(f"{family.__name__} cannot be an observation model without {', '.join(lacking)}")
    known = OBSERVATIONS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (family.__module__, family.__qualname__):
        raise ValueError(f"there is an observation model {name!r} already, {known.__name__}; give yours another name")
    OBSERVATIONS[name] = family
    return family


def observation_family(observation: str) -> type[FactorisedDistribution]:
    """The class behind the name of an observation model, with options in parentheses where it has any.

    Arguments:
        observation: A name in `OBSERVATIONS`, such as "gamma"; or "gaussian(scale=0.01)", a Gaussian whose standard
            deviation is fixed.

    Raises:
        ValueError: There is no family of that name, or it has no such option.

    Example:
        >>> observation_family("gaussian(scale=0.01)").scale
        0.01
    """
    written = _WITH_OPTIONS.fullmatch(observation.replace(" ", ""))
    name, options = (written[1], written[2]) if written else (observation, "")
    if name not in OBSERVATIONS:
        raise ValueError(
            f"observation must be one of {', '.join(OBSERVATIONS)}; got {observation!r}. A family of your own is made "
            f"known first: dvae_lib.distributions.register_observation({name!r}, YourFamily)"
        )
    try:
        values = {key: float(value) for key, value in (option.split("=") for option in options.split(",") if option)}
        return OBSERVATIONS[name].with_options(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"observation {observation!r} cannot be made out ({error}); options are written 'gaussian(scale=0.01)'"
        ) from error


def neutral_of(family: "str | type[Distribution]") -> float:
    """What networks read in place of a value that was not observed.

    For data that are standardised their mean, 0, which adds nothing to a layer's sums; for powers 1, 0 on a logarithmic
    scale; for zeros and ones 0.5, even odds; for counts 0.5, which none of them is, and for classes a vector of zeros,
    so that a network can tell a gap from data. A family says it in its `neutral`.

    Arguments:
        family: A name in `OBSERVATIONS`, or a class of distributions.

    Example:
        >>> neutral_of("gamma")
        1.0
    """
    if isinstance(family, str):
        family = observation_family(family) if family.partition("(")[0] in OBSERVATIONS else Distribution
    declared: float | None = getattr(family, "neutral", None)
    return support_of(family).inside if declared is None else declared


def support_of(family: "str | type[Distribution]") -> Support:
    """What the data of an observation model may be, from the `support` that its class declares.

    For zeros and ones everything between counts, too: a grey level stands for the mean of random zeros and ones, and
    its log-likelihood for the expected one; so does a vector of probabilities in place of a class. Where a class says
    nothing, or what depends on its parameters, all real numbers are taken.

    Arguments:
        family: A name in `OBSERVATIONS`, or a class of distributions.

    Example:
        >>> support_of("bernoulli")
        Support(low=0.0, high=1.0, whole=False)
        >>> support_of(DiagonalGaussian).everything
        True
    """
    if isinstance(family, str):
        family = observation_family(family) if family.partition("(")[0] in OBSERVATIONS else Distribution
    declared: Any = getattr(family, "support", None) if family is not Distribution else None
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
