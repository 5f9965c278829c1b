r"""The families that a model can give its observation, by name."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution
from dvae_lib.distributions.bernoulli import Bernoulli
from dvae_lib.distributions.by_column import Block, ByColumn
from dvae_lib.distributions.categorical import OneHotCategorical
from dvae_lib.distributions.censored import CensoredGaussian
from dvae_lib.distributions.counts import NegativeBinomial, Poisson
from dvae_lib.distributions.gamma import Gamma
from dvae_lib.distributions.gaussian import CentimetreGaussian, DiagonalGaussian, UnitGaussian
from dvae_lib.distributions.heavy_tails import Laplace, StudentT
from dvae_lib.distributions.mixture import GaussianMixture
from dvae_lib.distributions.support import Support

__all__ = [
    "OBSERVATIONS",
    "blocks_of",
    "by_column",
    "inside_values",
    "neutral_of",
    "neutral_values",
    "observation_family",
    "register_observation",
    "standardized_columns",
    "support_of",
]


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
    "censored_gaussian": CensoredGaussian,
}
"""The observation models p(x_t | .) that every model accepts, by name."""


_WITH_OPTIONS = re.compile(r"(\w+)\((.*)\)")
_BETWEEN_COLUMNS = re.compile(r",(?![^(]*\))")
_REPEATED = re.compile(r"(.*)\*(\d+)")
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
            deviation is fixed; or the families of all columns in their order, "poisson, student_t", where "poisson*3"
            stands for three columns, and "categorical*3" for one variable of three classes.

    Raises:
        ValueError: There is no family of that name, or it has no such option.

    Example:
        >>> observation_family("gaussian(scale=0.01)").scale
        0.01
        >>> observation_family("poisson*2, student_t").output_size(3)
        5
    """
    terms = _BETWEEN_COLUMNS.split(observation.replace(" ", ""))
    repeated = [_REPEATED.fullmatch(term) for term in terms]
    if len(terms) == 1 and repeated[0] is None:
        return _one_family(observation)
    blocks: list[tuple[type[FactorisedDistribution], int]] = []
    for term, found in zip(terms, repeated, strict=True):
        family, size = _one_family(found[1] if found else term), int(found[2]) if found else 1
        if blocks and blocks[-1][0] is family and family.entries_apart:
            size += blocks.pop()[1]
        if size == 1 and not family.entries_apart:
            raise ValueError(f"one column alone is no variable of {term!r}: {term}*3 stands for three columns")
        blocks.append((family, size))
    return ByColumn.of(*blocks)


def _one_family(observation: str) -> type[FactorisedDistribution]:
    """The class behind one name, with its options."""
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


def by_column(families: Mapping[str, str], columns: Sequence[str] | None) -> str:
    """The observation model of a table whose columns have families of their own, for ``observation=...`` of any model.

    Arguments:
        families: The family of each column, by the column's name. Neighbouring columns that are "categorical" are the
            classes of one variable.
        columns: The names of the data's columns, in their order; None where they have none.

    Returns:
        The families in the order of the columns.

    Raises:
        ValueError: No such family, a column without one, one that is not there, or data whose columns have no names.

    Example:
        >>> by_column({"visits": "poisson", "heat": "student_t"}, columns=("heat", "visits"))
        'student_t, poisson'
    """
    if columns is None:
        raise ValueError(
            "families are given to columns by name, but the columns of the data have no names: hand in DataFrames or "
            f"CSV files with names, or write the families in the order of the columns, {', '.join(families.values())!r}"
        )
    for name in families:
        if name not in columns:
            raise ValueError(
                f"there is no column {name!r} to be {families[name]!r}; the data have {', '.join(columns)}"
            )
    for name in columns:
        if name not in families:
            raise ValueError(f"column {name!r} has no family: give it one, such as {name!r}: 'gaussian'")
        observation_family(families[name])
    terms: list[str] = []
    for name, together in groupby(families[name] for name in columns):
        count = len(list(together))
        terms += [name] * count if observation_family(name).entries_apart else [f"{name}*{count}"]
    return ", ".join(terms)


def blocks_of(family: "str | type[Distribution]") -> tuple[Block, ...]:
    """The columns that share a family, with that family: all of them, where the columns have none of their own.

    Arguments:
        family: The name of an observation model, or a class of distributions.

    Example:
        >>> [(block.columns, block.family.__name__) for block in blocks_of("poisson, laplace")]
        [(slice(0, 1, None), 'Poisson'), (slice(1, 2, None), 'Laplace')]
    """
    known = _class_of(family)
    if issubclass(known, ByColumn):
        return known.blocks
    return (Block(slice(None), known),)  # type: ignore[arg-type]


def standardized_columns(observation: str | Mapping[str, str]) -> "bool | list[int] | list[str]":
    """Which columns of the data an observation model lets be standardised: those that may be any real number.

    Arguments:
        observation: The name of an observation model, or the families of columns by their names.

    Returns:
        What `dvae_lib.data.from_arrays` takes as ``standardize``: yes or no, or numbers or names of columns.

    Example:
        >>> standardized_columns("student_t"), standardized_columns("poisson, student_t")
        (True, [1])
    """
    if isinstance(observation, Mapping):
        return [name for name, family in observation.items() if support_of(family).everything]
    blocks = blocks_of(observation)
    if len(blocks) == 1:
        return support_of(observation).everything
    free = [block for block in blocks if support_of(block.family).everything]
    return [column for block in free for column in range(block.columns.start, block.columns.stop)]


def neutral_of(family: "str | type[Distribution]") -> float:
    """What networks read in place of a value that was not observed.

    For data that are standardised their mean, 0, which adds nothing to a layer's sums; for powers 1, 0 on a logarithmic
    scale; for zeros and ones 0.5, even odds; for counts 0.5, which none of them is, and for classes a vector of zeros,
    so that a network can tell a gap from data. A family says it in its `neutral`. Where columns have families of their
    own, see `neutral_values`.

    Arguments:
        family: A name in `OBSERVATIONS`, or a class of distributions.

    Example:
        >>> neutral_of("gamma")
        1.0
    """
    known = _class_of(family)
    declared: float | None = getattr(known, "neutral", None)
    return support_of(known).inside if declared is None else declared


def neutral_values(family: "str | type[Distribution]", like: Tensor) -> float | Tensor:
    """What networks read in place of values that were not observed: one number, or one for each column.

    Arguments:
        family: The name of an observation model, or a class of distributions.
        like: A tensor (..., x_dim) of the data's dtype and device.
    """
    return _values(family, like, neutral_of)


def inside_values(family: "str | type[Distribution]", like: Tensor) -> float | Tensor:
    """Values that have a probability: one number, or one for each column; see `neutral_values`."""
    return _values(family, like, lambda block: support_of(block).inside)


def _values(
    family: "str | type[Distribution]", like: Tensor, value: Callable[[type[Distribution]], float]
) -> float | Tensor:
    blocks = blocks_of(family)
    if len(blocks) == 1:
        return value(blocks[0].family)
    return like.new_tensor([value(block.family) for block in blocks for _ in range(block.size)])


def _class_of(family: "str | type[Distribution]") -> type[Distribution]:
    """The class behind a name; of a model that names what no registered family is, any distribution."""
    if not isinstance(family, str):
        return family
    known = family.partition("(")[0] in OBSERVATIONS or "," in family or "*" in family
    return observation_family(family) if known else Distribution


def support_of(family: "str | type[Distribution]") -> Support:
    """What the data of an observation model may be, from the `support` that its class declares.

    For zeros and ones everything between counts, too: a grey level stands for the mean of random zeros and ones, and
    its log-likelihood for the expected one; so does a vector of probabilities in place of a class. Where a class says
    nothing, or what depends on its parameters, all real numbers are taken. Where columns have families of their own, it
    is the least interval that holds what each of them may be; `blocks_of` gives them one by one.

    Arguments:
        family: A name in `OBSERVATIONS`, or a class of distributions.

    Example:
        >>> support_of("bernoulli")
        Support(low=0.0, high=1.0, whole=False)
        >>> support_of(DiagonalGaussian).everything
        True
    """
    known = _class_of(family)
    if issubclass(known, ByColumn):
        supports = [support_of(block.family) for block in known.blocks]
        return Support(min(s.low for s in supports), max(s.high for s in supports), all(s.whole for s in supports))
    declared: Any = getattr(known, "support", None) if known is not Distribution else None
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
