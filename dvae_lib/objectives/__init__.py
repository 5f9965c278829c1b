"""The variational lower bound and its relatives.

As objectives, functions of a model and a batch, with gradients, of the form that `dvae_lib.training.fit` takes: `vlb`,
`free_bits`, `word_dropout`, `balanced_kl`, `total_correlation`, `importance_weighted`, `particle`, `nasmc`. And as
functions of what a model returns: `variational_lower_bound`, `log_weights`, `importance_weighted_bound`. And of
numbers: `committed_rate`. What a KL term is made of: `kl_terms`.

Everything is in nats and per sequence, shape ``(B,)``, unless said otherwise. Frames beyond a sequence's length
contribute nothing, and so do entries that were not observed: `dvae_lib.objectives.missing` derives that bound.
"""

from dvae_lib.objectives.bound import free_bits, vlb
from dvae_lib.objectives.collapse import balanced_kl, committed_rate, word_dropout
from dvae_lib.objectives.decomposition import KLTerms, gaussian_kl_terms, kl_terms, total_correlation
from dvae_lib.objectives.importance import importance_weighted, importance_weighted_bound
from dvae_lib.objectives.inclusive import nasmc
from dvae_lib.objectives.particles import particle
from dvae_lib.objectives.terms import (
    VLB,
    Bound,
    DVAEOutput,
    Generated,
    Latent,
    frame_mask,
    log_weights,
    variational_lower_bound,
)

__all__ = [
    "VLB",
    "Bound",
    "DVAEOutput",
    "Generated",
    "KLTerms",
    "Latent",
    "balanced_kl",
    "committed_rate",
    "frame_mask",
    "free_bits",
    "gaussian_kl_terms",
    "importance_weighted",
    "importance_weighted_bound",
    "kl_terms",
    "log_weights",
    "nasmc",
    "particle",
    "total_correlation",
    "variational_lower_bound",
    "vlb",
    "word_dropout",
]
