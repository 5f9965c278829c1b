r"""Distributions of one frame, with the interface of `torch.distributions`.

Every class but `FullGaussian` and the flows describes a vector whose entries are independent given the parameters, as
in Eqs. (2.4) and (2.19) of the review. The last dimension of a parameter is the vector (the *event*), all dimensions
before it are the *batch*: parameters of shape ``(B, T, D)`` make a batch of shape ``(B, T)`` and `log_prob` returns
``(B, T)``, in nats. What samples takes a keyword `generator`.
"""

from dvae_lib.distributions.base import FactorisedDistribution
from dvae_lib.distributions.bernoulli import Bernoulli
from dvae_lib.distributions.by_column import Block, ByColumn
from dvae_lib.distributions.categorical import CategoricalVector, OneHotCategorical
from dvae_lib.distributions.censored import CensoredGaussian
from dvae_lib.distributions.counts import NegativeBinomial, Poisson
from dvae_lib.distributions.families import (
    OBSERVATIONS,
    blocks_of,
    by_column,
    inside_values,
    neutral_of,
    neutral_values,
    observation_family,
    register_observation,
    standardized_columns,
    support_of,
)
from dvae_lib.distributions.flow import FLOWS, Flow, InverseAutoregressiveFlow, PlanarFlow
from dvae_lib.distributions.full_gaussian import FullGaussian
from dvae_lib.distributions.gamma import Gamma, itakura_saito
from dvae_lib.distributions.gaussian import (
    CentimetreGaussian,
    DiagonalGaussian,
    FixedGaussian,
    UnitGaussian,
    standard_normal,
)
from dvae_lib.distributions.heavy_tails import Laplace, StudentT
from dvae_lib.distributions.kl import kl_divergence, kl_per_dim
from dvae_lib.distributions.mixture import GaussianMixture
from dvae_lib.distributions.support import Support

__all__ = [
    "FLOWS",
    "OBSERVATIONS",
    "Bernoulli",
    "Block",
    "ByColumn",
    "CategoricalVector",
    "CensoredGaussian",
    "CentimetreGaussian",
    "DiagonalGaussian",
    "FactorisedDistribution",
    "FixedGaussian",
    "Flow",
    "FullGaussian",
    "Gamma",
    "GaussianMixture",
    "InverseAutoregressiveFlow",
    "Laplace",
    "NegativeBinomial",
    "OneHotCategorical",
    "PlanarFlow",
    "Poisson",
    "StudentT",
    "Support",
    "UnitGaussian",
    "blocks_of",
    "by_column",
    "inside_values",
    "itakura_saito",
    "kl_divergence",
    "kl_per_dim",
    "neutral_of",
    "neutral_values",
    "observation_family",
    "register_observation",
    "standard_normal",
    "standardized_columns",
    "support_of",
]
