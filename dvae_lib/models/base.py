"""The contract that every dynamical variational autoencoder fulfils, and what follows from it."""

import difflib
import inspect
import json
import math
import operator
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib._version import __version__
from dvae_lib.arrays import as_tensor
from dvae_lib.data.pretrained import pretrained_folder, pretrained_names
from dvae_lib.data.standardize import Standardizer
from dvae_lib.devices import Device, computed_on
from dvae_lib.distributions import Support, support_of
from dvae_lib.files import write_atomically
from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.links import links
from dvae_lib.objectives import (
    VLB,
    DVAEOutput,
    Generated,
    Latent,
    frame_mask,
    importance_weighted_bound,
    log_weights,
    variational_lower_bound,
)

__all__ = ["DVAE", "Draw", "Lengths", "Sample", "State", "StepOutput", "check_sequences", "noise"]

State = dict[str, Tensor]
"""What a generator carries from one frame to the next, by name; every tensor has the batch first."""

Draw = Literal["sample", "mean"]
"""How a posterior is turned into a value that the rest is conditioned on."""

Lengths = Int[Tensor, " batch"] | Sequence[int] | NDArray[Any]
"""The number of frames of each sequence of a padded batch, as people have it."""

Model = TypeVar("Model", bound="DVAE")

CONFIGURATION, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


class StepOutput(NamedTuple):
    """One frame of generation: prior and value of z_t, p(x_t | .), the state for the next frame, other latents."""

    prior: Distribution
    z_t: Tensor
    observation: Distribution
    state: State
    others: Mapping[str, Tensor] = MappingProxyType({})


class Sample(NamedTuple):
    """Generated sequences: frames x, the latents behind them, and the distribution that x was drawn from."""

    x: Float[Tensor, "batch time x_dim"]
    latents: dict[str, Tensor]
    observation: Distribution


def noise(like: Float[Tensor, "*shape"], draw: Draw, generator: Generator | None) -> Float[Tensor, "*shape"]:
    r"""The :math:`\boldsymbol\epsilon` of Eq. (2.24): standard normal, or zero where the mean is wanted.

    Drawn once for all frames, outside the recursions.
    """
    if draw == "mean":
        return torch.zeros_like(like)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


class DVAE(nn.Module):
    r"""A generative model of sequences with latent variables, and an inference model, trained together.

    A subclass declares its `spec` (who depends on whom) and writes `inference` and `generation`; the rest
    follows. A causal model may add `initial_state` and `step`, which make long generations fast.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of p(x_t | .): "gaussian", "unit_gaussian", "gamma" or "bernoulli".
        u_dim: Size of the input vectors; 0 where the model is undriven.

    Attributes:
        metadata: JSON data that travels with the weights: corpus, standardisation, front end...
        replay: What runs a recursion in its place, while training asks for it.
        options: The arguments that the model was built with.
    """

    spec: DependencySpec

    options: dict[str, Any]
    metadata: dict[str, Any]
    replay: Callable[..., tuple[Tensor, ...]] | None = None

    def __new__(cls: type[Model], *args: Any, **kwargs: Any) -> Model:
        """Note the arguments of the constructor, so that a saved model can be built again."""
        model = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind(model, *args, **kwargs)
        except TypeError:  # wrong arguments, of which __init__ complains better; or a copy being made
            return model
        bound.apply_defaults()
        options: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                options.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                options.update(_named(cls, value))
            else:
                options[name] = value
        object.__setattr__(model, "options", options)
        object.__setattr__(model, "metadata", {})
        return model

    def __init__(self, x_dim: int, z_dim: int, *, observation: str = "gaussian", u_dim: int = 0) -> None:
        super().__init__()
        for name, size, least in (("x_dim", x_dim, 1), ("z_dim", z_dim, 1), ("u_dim", u_dim, 0)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {size!r}")
        self.x_dim, self.z_dim, self.u_dim = (operator.index(size) for size in (x_dim, z_dim, u_dim))
        self.observation = observation

    # ---------------------------------------------------------------- what a model defines

    @abstractmethod
    def inference(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        latents: Mapping[str, Tensor] | None = None,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> dict[str, Latent]:
        r"""The inference model :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`, sampled in order.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            latents: Values to condition on; those not given are drawn. A partial dictionary is fine.
            draw: "sample" draws each latent from its posterior, "mean" takes the posterior's mean.
            generator: Source of randomness.

        Returns:
            For each latent variable, the value conditioned on and the parameters of its posterior.
        """
        raise NotImplementedError

    @abstractmethod
    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        r"""The conditionals :math:`p(\mathbf{z}_t | \cdot)` and :math:`p(\mathbf{x}_t | \cdot)` given whole sequences.

        The past of x is the true one (teacher forcing).
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> State:
        """The generator's state before the first frame.

        A model with a latent vector of the whole sequence takes its value here, by the vector's name, or draws it
        with `generator`; the state holds it under that name.

        A model that says nothing else remembers everything: `step` runs `generation` on all frames so far, which
        is right for every causal model, and slow for long sequences.

        Raises:
            NotImplementedError: If generation is not causal, or has latents beside z and no own `step`.
        """
        if not self.is_causal or self.spec.latents != ("z",):
            raise NotImplementedError(f"{type(self).__name__} does not generate frame by frame")
        parameter = next(self.parameters())
        sizes = {"x": self.x_dim, "z": self.z_dim, "u": self.u_dim}
        return {name: parameter.new_zeros(batch_size, 0, size) for name, size in sizes.items()}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """Generate one frame: the latent's prior given the past, its value (given or drawn), p(x_t | .)."""
        z_past = state["z"]
        begun = z_past.shape[1] > 0
        x_past = torch.cat([state["x"], x_prev[:, None]], 1) if begun else state["x"]
        u = None if u_t is None else torch.cat([state["u"], u_t[:, None]], 1)
        # The last frame of x, and of z in the first pass, is a blank: in a causal model neither is looked at.
        x, z = F.pad(x_past, (0, 0, 0, 1)), F.pad(z_past, (0, 0, 0, 1))
        prior = self.generation(x, {"z": z}, u).prior["z"][:, -1]  # type: ignore[index]
        z_t = prior.sample(generator=generator) if z_t is None else z_t
        z = torch.cat([z_past, z_t[:, None]], 1)
        observation = self.generation(x, {"z": z}, u).observation[:, -1]  # type: ignore[index]
        return StepOutput(prior, z_t, observation, {"x": x_past, "z": z, "u": state["u"] if u is None else u})

    @property
    def is_causal(self) -> bool:
        """Whether no frame is generated from later ones, by the spec."""
        return links(self.spec).causal

    @property
    def standardizer(self) -> Standardizer | None:
        """What the data were standardised by that the model was trained on; None where they were not.

        The model takes and gives standardised values: `standardizer.transform` leads to them, and
        `standardizer.inverse` back to the data's own units.
        """
        return _saved_standardizer(self.metadata.get("standardizer"))

    @property
    def input_standardizer(self) -> Standardizer | None:
        """The same for the inputs u of a driven model."""
        return _saved_standardizer(self.metadata.get("input_standardizer"))

    # ---------------------------------------------------------------- what follows

    def forward(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> DVAEOutput:
        """Infer the latents, then generate from them: what the training objectives are computed from."""
        x, u, lengths = self.admit(x, u, lengths, feedback)
        both_directions = type(self).infer_and_generate if _is_up_to_date(type(self)) else DVAE.infer_and_generate
        latents, generated = both_directions(
            self, x, u, lengths=lengths, feedback=feedback, draw=draw, generator=generator
        )
        both = {
            name: latent._replace(prior=generated.prior.get(name, latent.prior)) for name, latent in latents.items()
        }
        return DVAEOutput(both, generated.observation, generated.auxiliary)

    def infer_and_generate(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        feedback: float = 0.0,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> tuple[dict[str, Latent], Generated]:
        """`inference`, then `generation` at the values inferred; the arguments are those of `forward`.

        A model whose two directions share a recursion writes its own, so that it runs once. It is passed over in a
        subclass that has an `inference` or `generation` of its own.
        """
        latents = self.inference(x, u, lengths=lengths, draw=draw, generator=generator)
        values = {name: latent.sample for name, latent in latents.items()}
        # Only models with a predictive link know about feedback.
        options: dict[str, Any] = {"feedback": feedback, "generator": generator} if feedback else {}
        return latents, self.generation(x, values, u, lengths=lengths, **options)

    def recursion(self, *known: Any) -> tuple[Tensor, ...]:
        """The one loop over frames of a model whose inference is recursive, as a function of tensors alone.

        A model calls it through `run_recursion`. Whatever else it reads, such as a number in an attribute, stays in a
        recording as it was.
        """
        raise NotImplementedError

    def run_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """`recursion`, replayed from a CUDA graph where `dvae_lib.models.replay` has been asked for one."""
        return self.recursion(*known) if self.replay is None else self.replay("recursion", *known)

    def generation_fed_back(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        feedback: float,
        generator: Generator | None = None,
    ) -> Generated:
        r"""`generation` of a causal model that hears itself: generation mode, or scheduled sampling (Section 4.4.1).

        Frame by frame, by `step`; gradients flow through what is fed back.

        Arguments:
            x: The observed sequences.
            latents: The values of the latent variables.
            u: The input sequences of a driven model.
            feedback: Probability, per sequence and frame, that :math:`\mathbf{x}_{t-1}` is replaced by the mean of
                the model's own :math:`p(\mathbf{x}_{t-1} | \cdot)`.
            generator: Source of randomness.
        """
        check_probability(feedback)
        own = torch.rand(x.shape[:2], generator=generator, device=x.device) < feedback
        known = [x, own, *([] if u is None else [u]), *latents.values()]
        if self.replay is None:
            priors, observations = self._hear(*known)
            return Generated({"z": _stack(priors)} if latents else {}, _stack(observations))
        # A recording gives back tensors; the first frame tells what they are the parameters of.
        with torch.no_grad():
            priors, observations = self._hear(*(value[:, :1] for value in known))
        outputs = list(self.replay("fed_back_recursion", *known))
        prior = {"z": _like(priors[0], outputs)} if latents else {}
        return Generated(prior, _like(observations[0], outputs))

    def fed_back_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """The loop of `generation_fed_back`: the parameters of all priors, then of all observation models."""
        priors, observations = self._hear(*known)
        steps = (priors, observations) if self.spec.latents else (observations,)
        return tuple(p for kind in steps for p in _stack(kind).parameters)  # type: ignore[attr-defined]

    def _hear(self, x: Tensor, own: Tensor, *others: Tensor) -> tuple[list[Distribution], list[Distribution]]:
        """Frame by frame, where `own` says so after the model's own last output. Others: u if driven, the latents."""
        u, values = (others[0], others[1:]) if self.u_dim else (None, others)
        # Unbound once: indexing frame by frame, each would have a gradient as large as the whole sequence's.
        frames = {f"{name}_t": value.unbind(1) for name, value in zip(self.spec.latents, values, strict=True)}
        state, x_prev = self.initial_state(x.shape[0]), torch.zeros_like(x[:, 0])
        priors, observations = [], []
        for t in range(x.shape[1]):
            at_t: dict[str, Any] = {name: value[t] for name, value in frames.items()}
            out = self.step(state, x_prev, None if u is None else u[:, t], **at_t)
            priors.append(out.prior)
            observations.append(out.observation)
            state, x_prev = out.state, torch.where(own[:, t, None], out.observation.mean, x[:, t])
        return priors, observations

    def vlb(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
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
            beta: Weight of the KL terms.
            num_samples: Number R of samples that the expectation is estimated with.
            feedback: Probability that the generative model is fed its own output instead of the true past.
            kl: "analytic" (closed form where there is one) or "sampled".
            generator: Source of randomness.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {num_samples}")
        lengths = as_lengths(lengths, x)
        if num_samples == 1:
            output = self(x, u, lengths=lengths, feedback=feedback, generator=generator)
            return variational_lower_bound(output, x, lengths=lengths, beta=beta, kl=kl)
        x_r, u_r, lengths_r = _repeat_all(x, u, lengths, num_samples)
        bound = self.vlb(x_r, u_r, lengths=lengths_r, beta=beta, feedback=feedback, kl=kl, generator=generator)

        def average(value: Tensor) -> Tensor:
            return value.reshape(num_samples, -1, *value.shape[1:]).mean(0)

        return VLB(
            average(bound.value),
            average(bound.reconstruction),
            {name: average(term) for name, term in bound.kl.items()},
            {name: average(term) for name, term in bound.kl_per_dim.items()},
            {name: average(term) for name, term in bound.auxiliary.items()},
            beta,
        )

    @torch.no_grad()
    def importance_weighted_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_samples: int = 100,
        chunk_size: int = 10,
        feedback: float = 0.0,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""The importance-weighted bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            num_samples: Number K of samples; in expectation the bound rises with it.
            chunk_size: How many samples are held in memory at once.
            feedback: As in `vlb`: 0 bounds the likelihood of the model under teacher forcing, 1 that of the model in
                generation mode, in which frames are independent given the latents.
            generator: Source of randomness.
            device: Where to compute: "auto" takes the machine's GPU where it has one; by default where the model is.
                The result lies where the model lies.

        Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
        """
        if num_samples < 1 or chunk_size < 1:
            raise ValueError(f"num_samples and chunk_size must be at least 1; got {num_samples} and {chunk_size}")
        if device is not None:
            method, sizes = type(self).importance_weighted_bound, {"num_samples": num_samples, "chunk_size": chunk_size}
            options: dict[str, Any] = {**sizes, "lengths": lengths, "feedback": feedback, "generator": generator}
            return computed_on(device, method, self, x, u, **options)
        lengths = as_lengths(lengths, x)
        weights = []
        for start in range(0, num_samples, chunk_size):
            repeats = min(chunk_size, num_samples - start)
            x_r, u_r, lengths_r = _repeat_all(x, u, lengths, repeats)
            output = self(x_r, u_r, lengths=lengths_r, feedback=feedback, generator=generator)
            frames = log_weights(output, x_r, lengths=lengths_r).reshape(repeats, *x.shape[:2])
            weights.append(self._independent_parts(frames))
        return importance_weighted_bound(torch.cat(weights)).sum(-1)

    def _independent_parts(self, weights: Float[Tensor, "samples batch time"]) -> Float[Tensor, "samples batch parts"]:
        """The log-weights of the parts that are independent of each other: in general, the whole sequence."""
        return weights.sum(-1, keepdim=True)

    @torch.no_grad()
    def smc_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_particles: int = 100,
        threshold: float = 0.5,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""A particle bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        A particle filter in which the inference model proposes :math:`\mathbf{z}_t` given each particle's own past.
        Its likelihood estimate is unbiased, so the expectation of its logarithm is a lower bound. On long
        sequences it needs far fewer particles than `importance_weighted_bound` needs samples, because it gives
        up unlikely particles on the way. The exception is a proposal that looks ahead and is nearly exact: there
        `threshold=0` is better, which never resamples and is the importance-weighted bound. Every frame costs
        one pass over the whole sequence.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            num_particles: Number of particles.
            threshold: Resample where the effective sample size falls below this fraction of the particles.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.

        Raises:
            NotImplementedError: If generation is not causal: the weight of a frame would need future latents.

        Source: Maddison et al. (2017), "Filtering variational objectives"; Naesseth et al. (2018); Le et al. (2018).
        """
        if num_particles < 1 or not 0.0 <= threshold <= 1.0:
            raise ValueError(
                "num_particles must be at least 1 and threshold lie between 0 and 1; "
                f"got {num_particles} and {threshold}"
            )
        if not self.is_causal:
            raise NotImplementedError(f"{type(self).__name__} does not generate frame by frame: no particle filter")
        if device is not None:
            options = {"num_particles": num_particles, "threshold": threshold, "generator": generator}
            return computed_on(device, type(self).smc_bound, self, x, u, lengths=lengths, **options)
        x, u, lengths = self.admit(x, u, lengths)
        batch_size, num_steps = x.shape[:2]
        k = num_particles
        x_k, u_k, lengths_k = _repeat_all(x, u, lengths, k)
        mask = frame_mask(lengths, num_steps)
        drawn = self.inference(x_k, u_k, lengths=lengths_k, generator=generator)
        values = {name: latent.sample.clone() for name, latent in drawn.items()}
        framewise = [name for name, value in values.items() if value.ndim == 3]
        weights = x.new_zeros(k, batch_size)
        first = self.generation(x_k, values, u_k, lengths=lengths_k)
        for name in values.keys() - set(framewise):  # latents of the whole sequence are drawn once, at the start
            ratio = first.prior[name].log_prob(values[name]) - drawn[name].posterior.log_prob(values[name])
            weights = weights + ratio.view(k, batch_size)
        evidence = x.new_zeros(batch_size)
        for t in range(num_steps):
            increment = x.new_zeros(k * batch_size)
            for name in framewise:
                q_t = self.inference(x_k, u_k, lengths=lengths_k, latents=values)[name].posterior[:, t]  # type: ignore[index]
                values[name][:, t] = q_t.sample(generator=generator)
                increment = increment - q_t.log_prob(values[name][:, t])
            # A causal model generates its first frames from these alone.
            begun = {name: value[:, : t + 1] if name in framewise else value for name, value in values.items()}
            generated = self.generation(
                x_k[:, : t + 1],
                begun,
                None if u_k is None else u_k[:, : t + 1],
                lengths=None if lengths_k is None else lengths_k.clamp_max(t + 1),
            )
            for name in framewise:
                increment = increment + generated.prior[name][:, t].log_prob(values[name][:, t])  # type: ignore[index]
            increment = increment + generated.observation[:, t].log_prob(x_k[:, t])  # type: ignore[index]
            increment = increment.view(k, batch_size)
            weights = weights + (increment if mask is None else torch.where(mask[:, t], increment, 0.0))
            normalised = weights.softmax(0)
            poor = normalised.square().sum(0).reciprocal() < threshold * k
            evidence = torch.where(poor, evidence + weights.logsumexp(0) - math.log(k), evidence)
            ancestors = _systematic(normalised, generator)
            ancestors = torch.where(poor, ancestors, torch.arange(k, device=x.device)[:, None])
            weights = torch.where(poor, 0.0, weights)
            rows = (ancestors * batch_size + torch.arange(batch_size, device=x.device)).reshape(-1)
            values = {name: value[rows] for name, value in values.items()}
        return evidence + weights.logsumexp(0) - math.log(k)

    def reconstruct(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        latents: Draw = "sample",
        generator: Generator | None = None,
    ) -> Distribution:
        """Analysis-resynthesis: p(x_t | .) at the latents inferred from x.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            feedback: As in `vlb`.
            latents: Condition on a sample of the posterior, or on its mean (drawn frame by frame where the
                posterior is recursive).
            generator: Source of randomness.
        """
        if latents not in ("sample", "mean"):
            raise ValueError(f"latents must be 'sample' or 'mean'; got {latents!r}")
        output: DVAEOutput = self(x, u, lengths=lengths, feedback=feedback, draw=latents, generator=generator)
        return output.observation

    @torch.no_grad()
    def generate(
        self,
        num_steps: int,
        batch_size: int = 1,
        *,
        prefix: Float[Tensor, "batch start x_dim"] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        emission: Literal["sample", "mean"] = "sample",
        generator: Generator | None = None,
        device: Device = None,
    ) -> Sample:
        """New sequences from the prior, or the continuation of sequences that were analysed (Section 13.3.2).

        Arguments:
            num_steps: Number of new frames.
            batch_size: Number of sequences; with `prefix`, that of the prefix.
            prefix: Sequences to continue: their latents are inferred, then generation goes on alone. The
                returned frames are those after the prefix.
            u: The inputs of a driven model, over the prefix (if any) and the new frames.
            emission: What x_t is, and what is fed back: a sample of p(x_t | .) or its mean.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.
        """
        if num_steps < 1 or batch_size < 1:
            raise ValueError(f"num_steps and batch_size must be at least 1; got {num_steps} and {batch_size}")
        if emission not in ("sample", "mean"):
            raise ValueError(f"emission must be 'sample' or 'mean'; got {emission!r}")
        if device is not None:
            options: dict[str, Any] = {"prefix": prefix, "u": u, "emission": emission, "generator": generator}
            return computed_on(device, type(self).generate, self, num_steps, batch_size, **options)
        parameter = next(self.parameters())
        start = 0
        if prefix is not None:
            extremes = check_sequences(prefix, "prefix", self.x_dim, parameter, observation=self.observation)
            _warn_of_raw_data(prefix, "prefix", extremes, self, "standardizer")
            batch_size, start = prefix.shape[:2]
        wanted = (batch_size, start + num_steps, self.u_dim) if self.u_dim else None
        got = None if u is None else tuple(u.shape)
        if wanted != got:
            frames = f"{start} frames of the prefix and {num_steps} new ones" if start else f"{num_steps} new frames"
            raise ValueError(f"expected {f'u of shape {wanted}' if wanted else 'no u'}, for {frames}; got {got}")
        if u is not None:
            extremes = check_sequences(u, "u", self.u_dim, parameter)
            _warn_of_raw_data(u, "u", extremes, self, "input_standardizer")
        inferred: dict[str, Tensor] = {}
        if prefix is not None:
            analysed = self.inference(prefix, None if u is None else u[:, :start], generator=generator)
            inferred = {name: latent.sample for name, latent in analysed.items()}
        if not self.is_causal:
            return self._generate_together(start + num_steps, batch_size, inferred, u, emission, generator)
        # A latent of the whole sequence stands in the state: inferred from the prefix, or drawn from its prior.
        of_sequence = [name for name in self.spec.latents if not self.spec.is_framewise(name)]
        given: dict[str, Any] = {name: inferred[name] for name in of_sequence if name in inferred}
        state = self.initial_state(batch_size, **given, **({"generator": generator} if of_sequence else {}))
        whole = {name: state[name] for name in of_sequence}
        x_prev = parameter.new_zeros(batch_size, self.x_dim)
        new, latents, steps = [], [], []
        for t in range(start + num_steps):
            given = {f"{k}_t": v[:, t] for k, v in inferred.items() if k not in of_sequence} if t < start else {}
            out = self.step(state, x_prev, None if u is None else u[:, t], **given, generator=generator)
            state = out.state
            if prefix is not None and t < start:
                x_prev = prefix[:, t]
                continue
            x_prev = _emit(out.observation, emission, generator)
            new.append(x_prev)
            latents.append({"z": out.z_t, **out.others})
            steps.append(out.observation)
        observation = _stack(steps)
        for name in self.spec.latents:
            if name not in of_sequence:
                whole[name] = torch.stack([frame[name] for frame in latents], 1)
        return Sample(torch.stack(new, 1), whole, observation)

    def _generate_together(
        self,
        num_steps: int,
        batch_size: int,
        inferred: dict[str, Tensor],
        u: Tensor | None,
        emission: Literal["sample", "mean"],
        generator: Generator | None,
    ) -> Sample:
        """`generate` of a model that decodes all frames at once: first every latent vector, then the frames.

        That is possible where the latent vectors' prior depends on nothing, as in the noncausal RVAE. In a
        continuation, the latents of the new frames are drawn from it; so what was inferred from the prefix stays.
        """
        if self.spec.latents != ("z",) or self.spec.compact("generation")["z_t"]:
            raise NotImplementedError(
                f"{type(self).__name__} generates all frames together, and its latents have a prior that depends on "
                "others: it needs a `generate` of its own"
            )
        parameter = next(self.parameters())
        z = noise(parameter.new_empty(batch_size, num_steps, self.z_dim), "sample", generator)
        start = inferred["z"].shape[1] if inferred else 0
        if inferred:
            z[:, :start] = inferred["z"]
        blank = parameter.new_zeros(batch_size, num_steps, self.x_dim)  # not looked at: there is no predictive link
        observation = self.generation(blank, {"z": z}, u).observation[:, start:]  # type: ignore[index]
        return Sample(_emit(observation, emission, generator), {"z": z[:, start:]}, observation)

    def check(
        self,
        x: Tensor,
        u: Tensor | None = None,
        lengths: Tensor | None = None,
        feedback: float = 0.0,
    ) -> None:
        """Refuse what the model cannot be run on, saying what was expected.

        Raises:
            ValueError: Wrong shapes, sizes, lengths, non-finite data, data to which the observation model gives no
                probability, feedback outside [0, 1] or on a model whose generation does not look at past
                observations.
            TypeError: Wrong dtypes or devices.
        """
        parameter = next(self.parameters())
        extremes = check_sequences(x, "x", self.x_dim, parameter, observation=self.observation, lengths=lengths)
        _warn_of_raw_data(x, "x", extremes, self, "standardizer")
        if self.u_dim == 0 and u is not None:
            raise ValueError("this model was built with u_dim=0 (undriven) and takes no input u")
        if self.u_dim > 0:
            if u is None:
                raise ValueError(
                    f"this model is driven (u_dim={self.u_dim}): pass u of shape (batch, time, {self.u_dim})"
                )
            extremes = check_sequences(u, "u", self.u_dim, parameter)
            _warn_of_raw_data(u, "u", extremes, self, "input_standardizer")
            if u.shape[:2] != x.shape[:2]:
                raise ValueError(
                    f"u must have as many sequences and frames as x, {tuple(x.shape[:2])}; got {tuple(u.shape[:2])}"
                )
        if lengths is not None:
            if lengths.shape != x.shape[:1] or not _holds_integers(lengths):
                raise ValueError(
                    f"lengths must hold one integer per sequence, {x.shape[0]} in all; "
                    f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
                )
            if lengths.device != x.device:
                raise TypeError(f"lengths is on {lengths.device}, x on {x.device}: use lengths.to(x.device)")
            if not _skip_values(lengths) and not bool(((lengths >= 1) & (lengths <= x.shape[1])).all()):
                raise ValueError(
                    f"lengths must lie between 1 and the {x.shape[1]} frames of the batch; got {lengths.tolist()}"
                )
        check_probability(feedback)
        if feedback > 0.0:
            self.check_feedback()

    def admit(
        self, x: Tensor, u: Tensor | None = None, lengths: Lengths | None = None, feedback: float = 0.0
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the model is run on: checked, `lengths` as a tensor, and zeros in the frames beyond them.

        What stands there, such as the 1e20 of a masked array, would overflow in a layer or a density, and infinity
        times the mask's zero is no gradient.

        Raises:
            ValueError, TypeError: See `check`.
        """
        lengths = as_lengths(lengths, x)
        self.check(x, u, lengths, feedback)
        inside = frame_mask(lengths, x.shape[1])
        if inside is None:
            return x, u, None
        zero = x.new_zeros(())
        blanked = None if u is None else torch.where(inside[..., None], u, zero)
        return torch.where(inside[..., None], x, zero), blanked, lengths

    def check_feedback(self) -> None:
        """Refuse a model without a predictive link.

        Raises:
            ValueError: The model does not generate from past observations.
        """
        if "feedback" not in inspect.signature(self.generation).parameters:
            raise ValueError(
                f"{type(self).__name__} does not generate from past observations: it has no predictive link, so "
                "nothing can be fed back, and there is no scheduled sampling; use feedback=0"
            )

    # ---------------------------------------------------------------- files

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> Path:
        """Write the configuration (JSON) and the weights (safetensors) into a folder, each file whole or not at all.

        Arguments:
            folder: Where to.
            half: Write the weights in half precision, which halves the file; `from_pretrained` gives them back in
                single precision, rounded to about three digits.

        Returns:
            The folder, created if need be.

        Raises:
            TypeError: Options or metadata that are no JSON data, or a constructor that could not be called with them.
        """
        text = self.configuration()
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: (value.half() if half and value.is_floating_point() else value).detach().contiguous()
            for name, value in self.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, save(weights))
        write_atomically(folder / CONFIGURATION, text.encode())
        return folder

    def configuration(self) -> str:
        """The JSON text that stands beside the weights of a saved model: its class, its options, its metadata.

        Numbers and arrays of NumPy become those of JSON.

        Raises:
            TypeError: What `from_pretrained` could not build again.
        """
        kind = type(self)
        values = {
            "format": FORMAT,
            "class": kind.__name__,
            "options": self.options,
            "metadata": self.metadata,
            "dvae_lib": __version__,
        }
        try:
            inspect.signature(kind.__init__).bind(self, **self.options)
            if any(name.startswith("*") for name in self.options):
                raise TypeError("it takes unnamed arguments")
        except TypeError as error:
            raise TypeError(
                f"A saved {kind.__name__} could not be built again from its options, {', '.join(self.options)}: "
                f"{error}. Give the arguments of {kind.__name__}.__init__ names, or let it take **options as well"
            ) from error
        try:
            return json.dumps(values, indent=2, default=_as_json)
        except (TypeError, ValueError) as error:
            raise TypeError(f"options and metadata of a saved model must be JSON data: {error}") from error

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """A saved model, from its folder, that of its run, or by the name of one that ships with the library.

        Called on `DVAE` it finds the class by itself; called on a class it insists on that class.

        Raises:
            FileNotFoundError: No such folder or name.
            ValueError: A damaged or incomplete folder, another class, weights that do not fit.
        """
        path = _locate(folder)
        configuration = _read_configuration(path / CONFIGURATION)
        name = configuration["class"]
        known: dict[str, type[Model]] = {c.__name__: c for c in [cls, *_subclasses(cls)]}
        if name not in known:
            raise ValueError(
                f"{path} holds a {name}, which is not a {cls.__name__}; "
                "load it with DVAE.from_pretrained, or import the module that defines it first"
            )
        try:
            model = known[name](**configuration["options"])
        except TypeError as error:
            raise ValueError(f"{path / CONFIGURATION}: options do not fit {name}: {error}") from error
        object.__setattr__(model, "metadata", configuration.get("metadata", {}))
        try:
            weights = load_file(path / WEIGHTS)
            model.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path / WEIGHTS} is damaged or does not belong to this {name}: {error}") from error
        model.eval()
        return model


def as_lengths(lengths: Lengths | None, x: Tensor) -> Int[Tensor, " batch"] | None:
    """Lengths as people have them, as a tensor of 64-bit integers beside x; what no integers are is left for `check`.

    Raises:
        TypeError: Not numbers.
    """
    check_tensor(x, "x")
    if lengths is None:
        return None
    given = lengths if isinstance(lengths, Tensor) else as_tensor(lengths, "lengths").to(x.device)
    return given.long() if _holds_integers(given) else given  # narrow ones cannot be indices


def _holds_integers(values: Tensor) -> bool:
    return not (values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool)


def _saved_standardizer(state: dict[str, list[float]] | None) -> Standardizer | None:
    return None if state is None else Standardizer.from_dict(state)


def check_probability(feedback: float) -> None:
    """Refuse a feedback that is no probability, NaN included."""
    if not 0.0 <= feedback <= 1.0:
        raise ValueError(f"feedback is a probability between 0 and 1; got {feedback}")


def check_tensor(x: object, name: str) -> None:
    """Refuse what is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}: use torch.as_tensor({name})")


def check_sequences(
    x: Tensor,
    name: str,
    dim: int,
    like: Tensor | None = None,
    *,
    observation: str | None = None,
    lengths: Tensor | None = None,
) -> tuple[float, float] | None:
    """Refuse anything but finite floating-point sequences of shape ``(batch, time, dim)``.

    The values are looked at in one pass and one transfer from the device.

    Arguments:
        x: The sequences.
        name: What they are called in the message.
        dim: The expected size of the vectors.
        like: A tensor whose dtype and device they must have.
        observation: The observation model that must give them a probability; None takes every finite number.
        lengths: The sequences' lengths: frames beyond them need no probability.

    Returns:
        The least and the largest value; None where values cannot be looked at, while a graph is recorded.
    """
    check_tensor(x, name)
    if x.ndim != 3:
        raise ValueError(f"{name} must have shape (batch, time, {dim}); got {tuple(x.shape)}")
    if x.shape[2] != dim:
        raise ValueError(f"{name} must have vectors of size {dim}, the model's; got {x.shape[2]}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} holds no frame: its shape is {tuple(x.shape)}")
    if like is not None and (x.dtype != like.dtype or x.device != like.device):
        raise TypeError(
            f"{name} is {x.dtype} on {x.device}, the model {like.dtype} on {like.device}: "
            f"use {name}.to({like.device.type!r}, {like.dtype})"
        )
    if _skip_values(x) or x.numel() == 0:  # vectors without entries: of an undriven model
        return None
    support = Support() if observation is None else support_of(observation)
    low, high, *fraction = _extremes(x, support.whole)
    if not support.holds(low, high, *fraction):
        _refuse_values(x, name, support, observation, lengths)
    return low, high


def _extremes(x: Tensor, whole: bool) -> list[float]:
    """The least and the largest value, and the largest distance to a whole number if wanted; NaN where x holds NaN."""
    x = x.detach()
    # Not every other device has `aminmax`, or lets NaN through.
    one_pass = x.device.type in ("cpu", "cuda")
    found = [*torch.aminmax(x)] if one_pass else [x.amin(), x.amax() + (x - x).sum()]
    if whole:
        found.append((x - x.round()).abs().amax())
    extremes: list[float] = torch.stack(found).tolist()
    return extremes


def _refuse_values(x: Tensor, name: str, support: Support, observation: str | None, lengths: Tensor | None) -> None:
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        i, t, d = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} is not finite: {name}[{i}, {t}, {d}] is {x[i, t, d].item()}")
    wrong = (x < support.low) | (x > support.high)
    if support.whole:
        wrong = wrong | (x != x.round())
    inside = frame_mask(lengths, x.shape[1])
    if inside is not None:
        wrong = wrong & inside[..., None]
    if bool(wrong.any()):
        i, t, d = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{i}, {t}, {d}] is {x[i, t, d].item():g} ({int(wrong.sum())} such values), but the observation "
            f"model {observation!r} gives a probability to {support} only. Do not standardise data for it "
            "(standardize=False), or build the model with another observation, such as 'gaussian'"
        )


def _warn_of_raw_data(x: Tensor, name: str, extremes: tuple[float, float] | None, model: DVAE, attribute: str) -> None:
    """Say where a model that was trained on standardised data seems to get others.

    Only values beyond ten standard deviations raise the question. Then the power of each dimension is to be 1: before
    standardisation if x is what it should be, after it if x is raw.
    """
    if extremes is None or max(-extremes[0], extremes[1]) < 10 or attribute not in model.metadata:
        return
    learned: Standardizer = getattr(model, attribute)
    given = x.detach().double().cpu()
    as_it_is, standardised = (
        float(t.square().mean((0, 1)).clamp_min(1e-6).log().abs().mean()) for t in (given, learned.transform(given))
    )
    if as_it_is > math.log(10) and standardised < 0.5 * as_it_is:
        warnings.warn(
            f"{name} seems not to be standardised (values from {extremes[0]:.3g} to {extremes[1]:.3g}), as the data of "
            f"this model's training were: use model.{attribute}.transform({name}).",
            stacklevel=2,
        )


def _is_up_to_date(cls: type[DVAE]) -> bool:
    """Whether a class's `infer_and_generate` stands for its `inference` and `generation`, or these are newer."""
    newest = next(c for c in cls.__mro__ if vars(c).keys() & {"infer_and_generate", "inference", "generation"})
    return "infer_and_generate" in vars(newest)


def _systematic(weights: Float[Tensor, "particles batch"], generator: Generator | None) -> Tensor:
    """Indices of the particles that go on, drawn in proportion to their weights with one uniform per sequence."""
    k, batch_size = weights.shape
    offset = torch.rand(batch_size, dtype=weights.dtype, device=weights.device, generator=generator)
    positions = (torch.arange(k, device=weights.device, dtype=weights.dtype)[:, None] + offset) / k
    edges = weights.cumsum(0)
    found = torch.searchsorted(edges.T.contiguous(), positions.T.contiguous()).T
    return found.clamp_max(k - 1)


def _emit(observation: Distribution, emission: Literal["sample", "mean"], generator: Generator | None) -> Tensor:
    """What x_t is taken to be: a sample, or the mean."""
    # Not every family of torch takes a generator; all of ours do.
    return observation.sample(generator=generator) if emission == "sample" else observation.mean  # type: ignore[call-arg]


def _stack(steps: list[Distribution]) -> Distribution:
    """Distributions of single frames as one, along a time dimension after the batch."""
    parameters: list[tuple[Tensor, ...]] = [step.parameters for step in steps]  # type: ignore[attr-defined]
    return type(steps[0])(*(torch.stack(p, 1) for p in zip(*parameters, strict=True)))  # type: ignore[arg-type]


def _like(step: Distribution, outputs: list[Tensor]) -> Distribution:
    """The distribution of all frames whose parameters come next among the outputs; they are taken from the list."""
    count = len(step.parameters)  # type: ignore[attr-defined]
    parameters, outputs[:] = outputs[:count], outputs[count:]
    return type(step)(*parameters)  # type: ignore[arg-type]


def _skip_values(x: Tensor) -> bool:
    """Whether values cannot be looked at now: while a graph is being captured or compiled."""
    return torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _repeat_all(
    x: Tensor, u: Tensor | None, lengths: Tensor | None, times: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The whole batch again and again along the first dimension."""
    check_tensor(x, "x")
    return (
        x.repeat(times, 1, 1),
        None if u is None else u.repeat(times, 1, 1),
        None if lengths is None else lengths.repeat(times),
    )


def _named(cls: type[Any], values: tuple[Any, ...]) -> dict[str, Any]:
    """What a constructor takes as ``*args`` by the names that the next class's constructor gives it.

    Where that is not known, or where the constructor takes no such names, a name says so that no constructor has.
    """
    own = inspect.signature(cls.__init__).parameters.values()
    by_name = any(p.kind is p.VAR_KEYWORD for p in own)
    for base in cls.__mro__[1:] if by_name else ():
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            if len(values) <= len(names):
                return dict(zip(names, values, strict=False))
    return {"*args": list(values)} if values else {}


def _as_json(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} is not")


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]


def _locate(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if path.is_dir():
        # The folder of a run of `fit`, whose own configuration is that of the training, holds its best model.
        best = path / "best"
        return best if (best / CONFIGURATION).is_file() and not (path / WEIGHTS).exists() else path
    trained = pretrained_folder(str(folder))
    if trained is not None:
        return trained
    names = pretrained_names()
    near = difflib.get_close_matches(str(folder), names, n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"no folder and no trained model called {str(folder)!r}"
        + (
            f"; did you mean {' or '.join(near)}?"
            if near
            else f"; there are {len(names)} of them ('dvae info' lists them)"
        )
    )


def _read_configuration(path: Path) -> dict[str, Any]:
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        if configuration["format"] > FORMAT:
            raise ValueError(
                f"{path} was written by a newer dvae_lib ({configuration.get('dvae_lib')}): upgrade dvae-lib"
            )
        configuration["class"], configuration["options"]
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is not a saved model: it has no {path.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return configuration  # type: ignore[no-any-return]
