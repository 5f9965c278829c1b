r"""The deep Kalman filter, or deep Markov model (Chapter 5).

Krishnan, Shalit and Sontag (2015), "Deep Kalman filters"; Krishnan, Shalit and Sontag (2017), "Structured
inference networks for nonlinear state space models".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Draw, State, StepOutput, noise
from dvae_lib.networks import MLP, GatedTransition, GaussianHead, ObservationHead, Recurrence, draw_in_turn, shift
from dvae_lib.objectives import Generated, Latent

__all__ = ["DKF", "INFERENCE_MODELS"]


class InferenceModel(NamedTuple):
    """What a variant of the inference model lets z_t depend on."""

    z_prev: bool
    forward: bool = False
    backward: bool = False
    context: int = 0


INFERENCE_MODELS: dict[str, InferenceModel] = {
    "smoother": InferenceModel(z_prev=True, backward=True),
    "bidirectional": InferenceModel(z_prev=True, forward=True, backward=True),
    "filter": InferenceModel(z_prev=True, forward=True),
    "instantaneous": InferenceModel(z_prev=False),
    "local": InferenceModel(z_prev=False, context=1),
    "past": InferenceModel(z_prev=False, forward=True),
    "whole": InferenceModel(z_prev=False, forward=True, backward=True),
}
"""The inference models of both papers: with :math:`\\mathbf{z}_{t-1}` those of 2017 ("smoother" is the DKS,
Eq. (5.3)), without it those of 2015 (Section 5.2)."""


class DKF(DVAE):
    r"""A Markov chain of latent vectors, each of which generates one frame: a state-space model with networks.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T} | \mathbf{u}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t) \, p_{\theta_z}(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)

    Eqs. (3.9)-(3.13) with the gated transition (B.1)-(B.5) generate; Eqs. (5.4)-(5.8) infer.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors, which enter the transition and every inference model.
        inference_model: A name in `INFERENCE_MODELS`.
        transition: Size of the hidden layers of the gated transition.
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh).
        encoder: Sizes of the layers before the recurrent networks (Tanh).
        g_dim: Size of the recurrent networks' internal state.
        combiner: Sizes of the hidden layers between :math:`\mathbf{z}_{t-1}` and the Tanh layer of Eq. (5.5).
        head: Sizes of the hidden layers of :math:`e_z` (Tanh).
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = DKF(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
    """

    spec = DependencySpec(
        generation="""
            z_t ~ z_{t-1}               # (3.10)
            x_t ~ z_t                   # (3.12)
        """,
        inference="""
            gb_t <- x_t, gb_{t+1}       # (5.4)
            g_t <- z_{t-1}, gb_t        # (5.5)
            z_t ~ g_t                   # (5.7)
        """,
    )

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        inference_model: str = "smoother",
        transition: int = 16,
        decoder: Sequence[int] = (128,),
        encoder: Sequence[int] = (128,),
        g_dim: int = 128,
        combiner: Sequence[int] = (),
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if inference_model not in INFERENCE_MODELS:
            raise ValueError(f"inference_model must be one of {', '.join(INFERENCE_MODELS)}; got {inference_model!r}")
        self.variant = variant = INFERENCE_MODELS[inference_model]
        self.spec = _spec(variant, driven=u_dim > 0)
        # p(z_t | z_{t-1}, u_t), p(x_t | z_t)
        self.d_z = GatedTransition(z_dim, hidden=transition, u_dim=u_dim)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP((x_dim + u_dim) * (1 + 2 * variant.context), encoder)
        features = self.encoder.out_dim
        self.e_forward = Recurrence(features, g_dim, cell=cell) if variant.forward else None
        self.e_backward = Recurrence(features, g_dim, cell=cell, backward=True) if variant.backward else None
        self.e_local = None if variant.forward or variant.backward else MLP(features, [g_dim])
        self.combiner = MLP(z_dim, [*combiner, g_dim]) if variant.z_prev else None
        self.e_z = MLP(g_dim, head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

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
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{t:T}, \mathbf{u}_{t:T})`, Eq. (5.8)."""
        observed = self._observed(x, u, lengths)  # everything of g_t but z_{t-1}, for all frames at once
        z = (latents or {}).get("z")
        if self.combiner is None:
            q_z = self.z_head(self.e_z(observed))  # (5.6)
            if z is None:
                z = q_z.mean + q_z.stddev * noise(q_z.mean, draw, generator)
            return {"z": Latent(z, q_z)}
        if z is not None:  # nothing recurs: the past of z is known
            q_z = self.z_head(self.e_z(self._combine(shift(z), observed)))
            return {"z": Latent(z, q_z)}
        epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
        z, output = self.run_recursion(observed, epsilon)
        return {"z": Latent(z, DiagonalGaussian.from_output(output))}

    def recursion(
        self, observed: Float[Tensor, "batch time g_dim"], epsilon: Float[Tensor, "batch time z_dim"]
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        at_t = observed.unbind(1)

        def parameters(t: int, z_prev: Tensor) -> Tensor:
            output: Tensor = self.z_head.linear(self.e_z(self._combine(z_prev, at_t[t])))  # (5.5), (5.6)
            return output

        return draw_in_turn(parameters, epsilon)  # (5.7)

    def _observed(self, x: Tensor, u: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The part of g_t, Eq. (5.5), that observations and inputs determine, weighted as it enters the mean."""
        inputs = x if u is None else torch.cat([x, u], -1)
        if self.variant.context:
            if lengths is not None:  # beyond a sequence's end there is nothing, as before its start
                inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
                inputs = torch.where(inside[..., None], inputs, inputs.new_zeros(()))
            padded = F.pad(inputs, (0, 0, 1, 1))
            inputs = torch.cat([padded[:, :-2], inputs, padded[:, 2:]], -1)
        features = self.encoder(inputs)
        if self.e_local is not None:
            parts = [self.e_local(features)]
        else:
            parts = [e(features, lengths) for e in (self.e_forward, self.e_backward) if e is not None]  # (5.4)
        total: Tensor = sum(parts[1:], parts[0])
        return total / (len(parts) + self.variant.z_prev)

    def _combine(self, z_prev: Tensor, observed: Tensor) -> Tensor:
        """The combiner of Eq. (5.5): the mean of a Tanh layer on z_{t-1} and of the recurrent states."""
        assert self.combiner is not None
        weight = 1 / (1 + self.variant.forward + self.variant.backward)
        return torch.add(observed, self.combiner(z_prev), alpha=weight)

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        r"""The transition (3.9)-(3.10) and the observation model (3.11)-(3.12), for all frames at once."""
        z = latents["z"]
        return Generated({"z": self._transition(shift(z), u)}, self.x_head(self.d_x(z)))

    def _transition(self, z_prev: Tensor, u: Tensor | None) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.d_z(z_prev if u is None else torch.cat([z_prev, u], -1))  # (3.9)
        return prior

    def initial_state(self, batch_size: int) -> State:
        """The latent vector z_0 = 0."""
        parameter = next(self.parameters())
        return {"z": parameter.new_zeros(batch_size, self.z_dim)}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """One step of the chain (3.10), then the observation model (3.12)."""
        prior = self._transition(state["z"], u_t)
        if z_t is None:
            z_t = prior.sample(generator=generator)
        return StepOutput(prior, z_t, self.x_head(self.d_x(z_t)), {"z": z_t})


def _spec(variant: InferenceModel, *, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if variant == INFERENCE_MODELS["smoother"] and not driven:
        return DKF.spec

    def both(index: str) -> str:
        return f"x_{{{index}}}, u_{{{index}}}" if driven else f"x_{{{index}}}"

    lines, g = [], ["z_{t-1}"] if variant.z_prev else []
    if variant.forward:
        lines.append(f"gf_t <- gf_{{t-1}}, {both('t')}")
        g.append("gf_t")
    if variant.backward:
        lines.append(f"gb_t <- {both('t')}, gb_{{t+1}}      # (5.4)")
        g.append("gb_t")
    if not (variant.forward or variant.backward):
        k = variant.context
        g.append(both(f"t-{k}:t+{k}" if k else "t"))
    lines += [f"g_t <- {', '.join(g)}      # (5.5)", "z_t ~ g_t      # (5.7)"]
    return DependencySpec(
        generation=f"""
            z_t ~ z_{{t-1}}{", u_t" if driven else ""}      # (3.10)
            x_t ~ z_t      # (3.12)
        """,
        inference="\n".join(lines),
    )
