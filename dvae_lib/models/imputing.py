"""Filling in what was not observed, given what was."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.devices import Device, computed_on
from dvae_lib.models import generating
from dvae_lib.models.bounds import LikelihoodBounds
from dvae_lib.models.draws import Draws, sample
from dvae_lib.models.generating import Gaps
from dvae_lib.objectives import DVAEOutput, log_weights
from dvae_lib.objectives.importance import effective_sample_size, repeat, shares
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import Lengths, check_counts

__all__ = ["Imputation", "Imputing"]


@dataclass(frozen=True)
class Imputation:
    r"""Sequences without gaps: what was observed as it was, and what was not from the model.

    Attributes:
        mean: The mean of the missing entries given those observed, (B, T, x_dim).
        samples: Sequences drawn from that distribution, (K, B, T, x_dim). Frames of one sample belong together.
        effective_sample_size: What the samples are worth, (B,): K if they are not weighted.
    """

    mean: Float[Tensor, "batch time x_dim"]
    samples: Float[Tensor, "samples batch time x_dim"]
    effective_sample_size: Float[Tensor, " batch"]


class Imputing(LikelihoodBounds):
    """Imputation; see `DVAE`."""

    @torch.no_grad()
    def impute(
        self,
        x: Float[Tensor, "batch time x_dim"],
        observed: Observed,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_samples: int = 100,
        chunk_size: int = 10,
        weighted: bool = False,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Imputation:
        r"""Fill in what was not observed: :math:`p(\mathbf{x}_m | \mathbf{x}_o)`, its mean and samples.

        Latents are inferred from what was observed; the missing entries are drawn from the model given them:

        .. math::
            p(\mathbf{x}_m | \mathbf{x}_o) \approx \int q_\phi(\mathbf{z} | \mathbf{x}_o) \,
            \prod_t p_\theta(\mathbf{x}_{m,t} | \mathbf{x}_{1:t-1}, \mathbf{z}_{1:t}) \, \mathrm{d}\mathbf{z}

        A predictive model looks back on its own draws. They know what was observed later by way of the latents alone.
        That, and what q misses of the posterior, is made good by weighting: each draw by its importance weight, which
        tends to the exact distribution as the number of samples grows. Over long sequences few draws have nearly all of
        the weight, as the effective sample size tells.

        Arguments:
            x: The sequences; what stands in missing entries is not looked at, and may be NaN.
            observed: What was observed, by frame (B, T) or by entry (B, T, x_dim).
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch. Frames beyond are zero.
            num_samples: Number K of samples.
            chunk_size: How many of them are made at once.
            weighted: Weight the draws; then samples are drawn anew from them, and some are equal.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.

        Raises:
            ValueError, TypeError: See `check`; also for a mask that is not boolean or of another shape, a sequence of
                which nothing was observed, and a number of samples below 1.

        Example:
            >>> from dvae_lib import SRNN
            >>> x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
            >>> x[0, 2:4], x[1, 5, 0] = torch.nan, torch.nan
            >>> filled = SRNN(x_dim=3, z_dim=2).impute(x, ~x.isnan(), num_samples=8)
            >>> filled.samples.shape, bool(filled.mean.isfinite().all())
            (torch.Size([8, 2, 6, 3]), True)
        """
        check_counts(num_samples=num_samples, chunk_size=chunk_size)
        if device is not None:
            options: dict[str, Any] = {"lengths": lengths, "num_samples": num_samples, "chunk_size": chunk_size}
            options |= {"weighted": weighted, "generator": generator}
            return computed_on(device, type(self).impute, self, x, observed, u, **options)
        x, u, lengths = self.admit(x, u, lengths, 0.0, observed)
        seen = as_observed(observed, x)
        if seen is None:
            size = x.new_full((len(x),), float(num_samples))
            return Imputation(x, x.expand(num_samples, *x.shape), size)
        chunks = []
        for start in range(0, num_samples, chunk_size):
            k = min(chunk_size, num_samples - start)
            x_k, u_k, lengths_k, seen_k = (repeat(value, k) for value in (x, u, lengths, seen))
            assert x_k is not None
            assert seen_k is not None
            made = self._imputed(x_k, u_k, lengths_k, seen_k, generator)
            chunks.append([value.unflatten(0, (k, len(x))) for value in made])
        means, draws, weights = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        if weighted and self.links.predictive:  # the weight is that of the draw, which later frames look back on
            means = draws
        found = _collected(means, draws, weights, weighted, generator)
        return replace(found, mean=torch.where(seen, x, found.mean))

    def _imputed(
        self, x: Tensor, u: Tensor | None, lengths: Tensor | None, seen: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One draw of what is missing, its mean given the latents and the draws before, and the log-weight."""
        read = self.read(x, seen)
        latents, states = self._infer(read, u, lengths, Draws({}, "sample", generator, seen))
        values = {name: latent.sample for name, latent in latents.items()}
        if self.links.predictive:
            gaps = Gaps(seen, "sample", generator)
            generated = generating.rollout(self, x, values, u, 0.0, generator, gaps)
            draw = torch.stack(gaps.filled, 1)
        else:
            generated = self._generate(read, values, u, lengths, states)
            draw = torch.where(seen, x, sample(generated.observation, generator))
        both = {
            name: q._replace(prior=generated.prior.get(name, q.prior)) for name, q in self._assigned(latents).items()
        }
        output = DVAEOutput(both, generated.observation)
        weight = log_weights(output, x, lengths=lengths, observed=seen).sum(1)
        return generated.observation.mean, draw, weight


def _collected(
    means: Tensor, draws: Tensor, log_weight: Tensor, weighted: bool, generator: Generator | None
) -> Imputation:
    """Mean and samples from the draws, each (K, B, T, x_dim)."""
    if not weighted:
        return Imputation(means.mean(0), draws, log_weight.new_full(log_weight.shape[1:], float(len(draws))))
    weights = shares(log_weight)
    rows = torch.multinomial(weights.T, len(draws), replacement=True, generator=generator).T  # (K, B)
    samples = draws[rows, torch.arange(draws.shape[1], device=rows.device)]
    return Imputation((weights[..., None, None] * means).sum(0), samples, effective_sample_size(log_weight))
