r"""What the KL term is made of: mutual information, total correlation, and each entry against its prior.

With the aggregated posterior :math:`q(\mathbf{z}) = \frac1N \sum_n q(\mathbf{z} | \mathbf{x}_n)`

.. math::
    \frac1N \sum_n D_\mathrm{KL}\big(q(\mathbf{z} | \mathbf{x}_n) \,\|\, p(\mathbf{z})\big) = I(n; \mathbf{z})
    + D_\mathrm{KL}\Big(q(\mathbf{z}) \,\Big\|\, \prod_l q(\mathbf{z}^l)\Big)
    + \sum_l D_\mathrm{KL}\big(q(\mathbf{z}^l) \,\|\, p(\mathbf{z}^l)\big)

for every prior that is a product, :math:`p(\mathbf{z}) = \prod_l p(\mathbf{z}^l)`. Of a sequence,
:math:`\mathbf{z}^l` is a whole trajectory :math:`z_{1:T,l}`.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.graphs.entries import EntryGroups, entry_groups, prior_reads
from dvae_lib.objectives.bound import vlb
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import VLB, Lengths, check_weight, frame_mask

__all__ = ["KLTerms", "gaussian_kl_terms", "kl_terms", "total_correlation"]

_GROUPS: "WeakKeyDictionary[Any, EntryGroups]" = WeakKeyDictionary()
"""Of models that were asked before: what depends on what does not change while a model is trained."""


class KLTerms(NamedTuple):
    r"""The three terms of the KL divergence, in nats; their sum is the divergence.

    Attributes:
        mutual_information: Of data and latents, :math:`I(n; \mathbf{z})`, the index-code mutual information.
        total_correlation: Of the entries under the aggregated posterior.
        dimension_wise: The divergences of the entries from their priors, summed.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor

    @property
    def total(self) -> Tensor:
        """The KL divergence."""
        return self.mutual_information + self.total_correlation + self.dimension_wise


def kl_terms(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    num_data: int | None = None,
    estimator: str = "stratified",
    generator: Generator | None = None,
) -> KLTerms:
    r"""The three terms, estimated at one sample of each sequence's posterior, from a batch of M of N sequences.

    .. math:: \log q(\mathbf{z}_i) \approx \log \sum_{j=1}^M w_{ij} \, q(\mathbf{z}_i | \mathbf{x}_j)

    - "stratified": :math:`w_{ii} = \frac1N` and :math:`w_{ij} = \frac{N - 1}{N (M - 1)}`. Inside the logarithm it is
      unbiased. (In the paper's form one of the other sequences has a larger weight than the rest; here all are equal,
      as their order means nothing.)
    - "weighted": :math:`w_{ij} = \frac{1}{N M}`, the paper's minibatch-weighted sampling. It makes each density too
      small, by :math:`\log N` where posteriors overlap and :math:`\log M` where they are far apart. So the mutual
      information is too large by as much, the total correlation L - 1 times as much, and the last term too small.

    The mutual information of N sequences is :math:`\log N` at most. Where each sequence is far from all others, as long
    ones are, the stratified estimates stay at :math:`\log N` and :math:`(L - 1) \log N`, the weighted ones at the same
    with N M for N, whatever the model does; and so they do in a batch of one, of which nothing is told.

    Entries are the finest groups over which prior and posterior factorise (`dvae_lib.graphs.entry_groups`). Where the
    spec says that frames are independent of each other, each frame counts as a sequence of its own, in N too.

    Arguments:
        model: A `DVAE`.
        x: The observed sequences, of one length.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch; of a model of independent frames they may differ.
        observed: As in `vlb`.
        num_data: Number N of sequences, or of independent frames, in the data set; by default those of the batch.
        estimator: "stratified" or "weighted".
        generator: Source of randomness.

    Returns:
        The terms, each of shape (B,), in nats per sequence.

    Raises:
        ValueError: The prior depends on data or input, or does not factorise over entries, or the posterior does not;
            sequences of different lengths, or more than `num_data`; see also `vlb`.
        TypeError: See `vlb`.

    Source: Chen, Li, Grosse and Duvenaud (2018), "Isolating sources of disentanglement in variational autoencoders".

    Example:
        >>> from dvae_lib import GPVAE
        >>> terms = kl_terms(GPVAE(x_dim=3, z_dim=2), torch.randn(8, 5, 3), num_data=100)
        >>> terms.total_correlation.shape
        torch.Size([8])
    """
    if estimator not in ("stratified", "weighted"):
        raise ValueError(f"estimator must be 'stratified' or 'weighted'; got {estimator!r}")
    groups = _groups(model)
    x, u, inside = model.admit(x, u, lengths, 0.0, observed)
    seen, mask = as_observed(observed, x), frame_mask(inside, x.shape[1])
    frames = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    if model.frames_are_independent:
        x = x[frames][:, None]
        u, seen = (None if v is None else v[frames][:, None] for v in (u, seen))
    elif not bool(frames.all()):
        raise ValueError(
            "the sequences must be of one length: trajectories of different lengths are not the same variables. Cut "
            "them to the shortest"
        )
    N = _num_data(num_data, len(x))
    log_q, log_p = _log_densities(model, x, u, seen, groups, generator)
    terms = _estimate(log_q, log_p, _log_weights(len(x), N, estimator, log_q))
    if not model.frames_are_independent:
        return terms
    empty = log_p.new_zeros(frames.shape)
    return KLTerms(*(empty.masked_scatter(frames, term).sum(1) for term in terms))


def total_correlation(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    alpha: float = 1.0,
    beta: float = 6.0,
    gamma: float = 1.0,
    num_data: int | None = None,
    estimator: str = "stratified",
    feedback: float = 0.0,
    generator: Generator | None = None,
) -> VLB:
    r"""The bound with a weight for each of the three terms of the KL divergence: the beta-TCVAE, also of sequences.

    .. math::
        \mathcal{L} = \mathbb{E}_q[\log p(\mathbf{x} | \mathbf{z})] - \alpha \, I(n; \mathbf{z})
        - \beta \, D_\mathrm{KL}\Big(q(\mathbf{z}) \,\Big\|\, \prod_l q(\mathbf{z}^l)\Big)
        - \gamma \sum_l D_\mathrm{KL}\big(q(\mathbf{z}^l) \,\|\, p(\mathbf{z}^l)\big)

    At weights of one it is the VLB, with its own, closed KL: the estimates enter with the weights less one. What is
    constant in an estimator moves the value, not the gradient; compare values of batches of one size only.

    Arguments:
        model: A `DVAE` whose prior factorises over entries.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: See `kl_terms`.
        observed: As in `vlb`.
        alpha: Weight of the mutual information.
        beta: Weight of the total correlation.
        gamma: Weight of the divergences of the entries.
        num_data: See `kl_terms`; by ``functools.partial`` for `dvae_lib.training.fit`.
        estimator: See `kl_terms`.
        feedback: As in `vlb`.
        generator: Source of randomness.

    Returns:
        The bound with this `value`; its `kl` is that of the VLB.

    Raises:
        ValueError, TypeError: See `kl_terms`; also for a weight that is negative or not finite.

    Source: Chen, Li, Grosse and Duvenaud (2018), "Isolating sources of disentanglement in variational autoencoders".
    """
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
    for name, weight in weights.items():
        check_weight(weight, name)
    _groups(model)
    bound = vlb(model, x, u, lengths=lengths, observed=observed, feedback=feedback, generator=generator)
    if all(weight == 1.0 for weight in weights.values()):
        return bound
    options: dict[str, Any] = {"lengths": lengths, "observed": observed, "num_data": num_data}
    terms = kl_terms(model, x, u, **options, estimator=estimator, generator=generator)
    price = bound.value.new_zeros(len(x))
    for weight, term in zip(weights.values(), terms, strict=True):
        price = price + (weight - 1.0) * term
    return replace(bound, value=bound.value - price)


def gaussian_kl_terms(
    aggregated: Float[Tensor, "dim dim"],
    posterior: Float[Tensor, "dim dim"],
    prior: Float[Tensor, "dim dim"],
    groups: "list[list[int]] | None" = None,
) -> KLTerms:
    r"""The three terms in closed form where all is Gaussian with mean zero, of the population, in nats.

    With :math:`q(\mathbf{z} | \mathbf{x}) = \mathcal{N}(W \mathbf{x}, S)` and :math:`\mathbf{x} \sim \mathcal{N}(0,
    \Sigma)` the aggregated posterior is :math:`\mathcal{N}(0, C)`, :math:`C = W \Sigma W^\top + S`.

    .. math::
        I = \tfrac12 \log\frac{|C|}{|S|}, \quad
        \mathrm{TC} = \tfrac12 \log\frac{\prod_l |C_{ll}|}{|C|}, \quad
        \sum_l D_\mathrm{KL}\big(\mathcal{N}(0, C_{ll}) \,\|\, \mathcal{N}(0, P_{ll})\big)

    Arguments:
        aggregated: C.
        posterior: S, the same for all data.
        prior: P, without covariances between groups.
        groups: The places of each entry's numbers, such as those of a trajectory; by default each number is an entry.

    Raises:
        ValueError: The groups are no partition, or the prior couples two of them.

    Example:
        >>> I, C = torch.eye(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]])
        >>> [round(float(term), 4) for term in gaussian_kl_terms(C, 0.1 * I, I)]
        [2.0794, 0.2231, 0.0]
    """
    size = len(aggregated)
    parts = [[l] for l in range(size)] if groups is None else groups
    if sorted(l for part in parts for l in part) != list(range(size)):
        raise ValueError(f"groups must hold each of the numbers 0 to {size - 1} once; got {parts}")
    own = torch.zeros_like(prior, dtype=torch.bool)
    for part in parts:
        own[torch.tensor(part)[:, None], torch.tensor(part)] = True
    if bool((prior[~own] != 0).any()):
        raise ValueError("the prior couples entries of different groups: it must be a product over them")
    information = 0.5 * (aggregated.logdet() - posterior.logdet())
    correlation, apart = -0.5 * aggregated.logdet(), torch.zeros_like(information)
    for part in parts:
        C, P = (matrix[part][:, part] for matrix in (aggregated, prior))
        correlation = correlation + 0.5 * C.logdet()
        apart = apart + 0.5 * (torch.linalg.solve(P, C).trace() - len(part) + P.logdet() - C.logdet())
    return KLTerms(information, correlation, apart)


# ---------------------------------------------------------------- what carries it


def _groups(model: Any) -> EntryGroups:
    """The entries of a model that can carry the decomposition.

    Raises:
        ValueError: It cannot.
    """
    who = type(model).__name__
    if not model.spec.latents:
        raise ValueError(f"{who} has no latent variables, and so no KL term to take apart. {CARRIERS}")
    spec = model.spec if getattr(model, "u_dim", 0) else model.spec.undriven()
    if read := prior_reads(spec):
        raise ValueError(
            f"the prior of {who}'s latents depends on {' and '.join(read)}: there is no p(z) that all sequences share, "
            f"so total correlation exists only conditionally, given the past. {CARRIERS}"
        )
    if model not in _GROUPS:
        _GROUPS[model] = entry_groups(model)
    groups = _GROUPS[model]
    for kind, found in (("prior", groups.prior), ("posterior", groups.both)):
        if len(found) == 1 and len(found[0]) > 1:
            raise ValueError(
                f"the {kind} of {who} does not factorise over entries: the trajectories of "
                f"{', '.join(f'{name}[{l}]' for name, l in found[0])} all depend on each other. {CARRIERS}"
            )
    return groups


CARRIERS = (
    "Models that can carry it have entries with dynamics of their own, such as VAE, GPVAE and "
    "DSAE(inference_model='factorised'); all can carry vlb with beta, and free_bits"
)


# ---------------------------------------------------------------- estimates


def _num_data(num_data: int | None, rows: int) -> int:
    N = rows if num_data is None else num_data
    if isinstance(N, bool) or not isinstance(N, int) or rows > N:
        raise ValueError(f"num_data must be a whole number, not below the {rows} sequences of the batch; got {N!r}")
    return N


def _log_densities(
    model: Any, x: Tensor, u: Tensor | None, seen: Tensor | None, groups: EntryGroups, generator: Generator | None
) -> tuple[Float[Tensor, "M M groups"], Float[Tensor, "M groups"]]:
    """Of each group at a sample of row i: log q(. | x_j), and log p."""
    M, gaps = len(x), {} if seen is None else {"observed": seen}
    inferred = model.inference(x, u, **gaps, generator=generator)
    z = {name: latent.sample for name, latent in inferred.items()}
    prior = model.generation(x, z, u).prior
    log_p = _by_group({name: _per_entry(prior[name], z[name]) for name in z}, model, groups)
    if _reads_latents(model.spec):
        gaps = {name: mask.repeat(M, 1, 1) for name, mask in gaps.items()}
        crossed = {name: value.repeat_interleave(M, 0) for name, value in z.items()}
        u = None if u is None else u.repeat(M, 1, 1)
        inferred = model.inference(x.repeat(M, 1, 1), u, **gaps, latents=crossed)
        log_q = {name: _per_entry(q.posterior, crossed[name]).unflatten(0, (M, M)) for name, q in inferred.items()}
    else:  # the posteriors are the same, whatever was drawn
        log_q = {
            name: _per_entry(q.posterior, z[name][:, None].expand(M, *z[name].shape)) for name, q in inferred.items()
        }
    return _by_group(log_q, model, groups), log_p


def _per_entry(distribution: Any, value: Tensor) -> Tensor:
    """Log-densities of the entries; of a group that is not a product of them, its own in the place of the first."""
    if hasattr(distribution, "log_prob_per_dim"):
        log_prob: Tensor = distribution.log_prob_per_dim(value)
        return log_prob
    return torch.nn.functional.pad(distribution.log_prob(value)[..., None], (0, value.shape[-1] - 1))


def _by_group(log_densities: dict[str, Tensor], model: Any, groups: EntryGroups) -> Tensor:
    """Summed over frames and over the entries of each group, which are last."""
    over_time = {
        name: value.sum(-2) if model.spec.is_framewise(name) else value for name, value in log_densities.items()
    }
    sums = []
    for group in groups.both:
        sums.append(torch.stack([over_time[name][..., l] for name, l in group], -1).sum(-1))
    return torch.stack(sums, -1)


def _reads_latents(spec: Any) -> bool:
    """Whether the posterior of a latent depends on other latents, or on itself at other frames."""
    return any(a[0] in spec.latents for a, _ in spec.unroll(3, "inference", "compact").edges)


def _log_weights(M: int, N: int, estimator: str, like: Tensor) -> Float[Tensor, "M M"]:
    if estimator == "weighted":
        return like.new_full((M, M), -math.log(N * M))
    others = like.new_full((M, M), math.log(max(N - 1, 1) / (N * max(M - 1, 1))))
    return others.fill_diagonal_(-math.log(N))


def _estimate(
    log_q: Float[Tensor, "M M groups"], log_p: Float[Tensor, "M groups"], log_w: Float[Tensor, "M M"]
) -> KLTerms:
    """The terms at each row's sample."""
    own = log_q.diagonal().sum(0)
    together = (log_q.sum(-1) + log_w).logsumexp(1)
    apart = (log_q + log_w[..., None]).logsumexp(1)
    return KLTerms(own - together, together - apart.sum(-1), (apart - log_p).sum(-1))
