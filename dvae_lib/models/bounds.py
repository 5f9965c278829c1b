"""The bounds of a model's log-likelihood, as its methods; as functions they stand in `dvae_lib.objectives`."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.devices import Device, computed_on
from dvae_lib.models.proposing import Proposing
from dvae_lib.objectives import VLB, importance_weighted, particle, variational_lower_bound, vlb
from dvae_lib.objectives.missing import Observed
from dvae_lib.objectives.terms import Lengths, as_lengths

__all__ = ["LikelihoodBounds"]


class LikelihoodBounds(Proposing):
    """LikelihoodBounds of the log-likelihood; see `DVAE`."""

    def vlb(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        beta: float = 1.0,
        num_samples: int = 1,
        feedback: float = 0.0,
        kl: Literal["analytic", "sampled"] = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        r"""The variational lower bound of each sequence, Eqs. (2.23) and (4.24), in nats.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: What was observed, by frame (B, T) or by entry (B, T, x_dim); the bound is that of these values. A
                predictive model is fed its own draws in place of the others, frame by frame: see
                `dvae_lib.objectives.missing`.
            beta: Weight of the KL terms.
            num_samples: Number R of samples that the expectation is estimated with.
            feedback: Probability that the generative model is fed its own output instead of the true past.
            kl: "analytic" (closed form where there is one) or "sampled".
            generator: Source of randomness.
        """
        options: dict[str, Any] = {"lengths": lengths, "observed": observed, "beta": beta, "feedback": feedback}
        return vlb(self, x, u, num_samples=num_samples, kl=kl, generator=generator, **options)

    def single_sample_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        beta: float = 1.0,
        feedback: float = 0.0,
        kl: Literal["analytic", "sampled"] = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        """`vlb` with one sample: what a model with a bound of its own writes anew."""
        lengths = as_lengths(lengths, x)
        gaps = {} if observed is None else {"observed": observed}
        output = self(x, u, lengths=lengths, **gaps, feedback=feedback, generator=generator)
        return variational_lower_bound(output, x, lengths=lengths, **gaps, beta=beta, kl=kl)

    @torch.no_grad()
    def importance_weighted_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        num_samples: int = 100,
        chunk_size: int = 10,
        feedback: float = 0.0,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""The importance-weighted bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        To train on it, see `dvae_lib.objectives.importance_weighted`.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: As in `vlb`.
            num_samples: Number K of samples; in expectation the bound rises with it.
            chunk_size: How many samples are held in memory at once.
            feedback: As in `vlb`: 0 bounds the likelihood of the model under teacher forcing, 1 that of the model in
                generation mode, in which frames are independent given the latents.
            generator: Source of randomness.
            device: Where to compute: "auto" takes the machine's GPU where it has one; by default where the model is.
                The result lies where the model lies.

        Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
        """
        options: dict[str, Any] = {"num_samples": num_samples, "chunk_size": chunk_size, "feedback": feedback}
        options |= {"lengths": lengths, "observed": observed, "generator": generator}
        if device is not None:
            return computed_on(device, type(self).importance_weighted_bound, self, x, u, **options)
        return importance_weighted(self, x, u, **options).value

    @torch.no_grad()
    def smc_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        num_particles: int = 100,
        threshold: float = 0.5,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""A particle bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        See `dvae_lib.objectives.particle`, which one can train on. On long sequences it needs far fewer particles than
        `importance_weighted_bound` needs samples, because it gives up unlikely particles on the way. The exception is a
        proposal that looks ahead and is nearly exact: there `threshold=0` is better, which never resamples and is the
        importance-weighted bound.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: As in `vlb`.
            num_particles: Number of particles.
            threshold: Resample where the effective sample size falls below this fraction of the particles.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.

        Raises:
            NotImplementedError: If generation is not causal: the weight of a frame would need future latents; or if
                inference goes backwards in time.

        Source: Maddison et al. (2017), "Filtering variational objectives"; Naesseth et al. (2018); Le et al. (2018).
        """
        options: dict[str, Any] = {"num_particles": num_particles, "threshold": threshold}
        options |= {"lengths": lengths, "observed": observed, "generator": generator}
        if device is not None:
            return computed_on(device, type(self).smc_bound, self, x, u, **options)
        return particle(self, x, u, **options).value
