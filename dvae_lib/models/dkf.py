r"""The deep Kalman filter, or deep Markov model (Chapter 5).

Krishnan, Shalit and Sontag (2015), "Deep Kalman filters"; Krishnan, Shalit and Sontag (2017), "Structured
inference networks for nonlinear state space models".
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    FlowHead,
    GatedTransition,
    GaussianHead,
    ObservationHead,
    Recurrence,
    append_input,
    sample_chain,
    shift,
)
from dvae_lib.objectives import Generated

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

GENERATION = """
    z_t ~ z_{t-1}, u_t          # (3.10)
    x_t ~ z_t                   # (3.12)
"""
FORWARD = "gf_t <- gf_{t-1}, x_t, u_t"
BACKWARD = "gb_t <- x_t, u_t, gb_{t+1}  # (5.4)"
INFERENCE = {
    "smoother": f"{BACKWARD} \n g_t <- z_{{t-1}}, gb_t",  # (5.5)
    "bidirectional": f"{FORWARD} \n {BACKWARD} \n g_t <- z_{{t-1}}, gf_t, gb_t",
    "filter": f"{FORWARD} \n g_t <- z_{{t-1}}, gf_t",
    "instantaneous": "g_t <- x_t, u_t",
    "local": "g_t <- x_{t-1:t+1}, u_{t-1:t+1}",
    "past": f"{FORWARD} \n g_t <- gf_t",
    "whole": f"{FORWARD} \n {BACKWARD} \n g_t <- gf_t, gb_t",
}
SYMBOLS = {"gf": r"\overrightarrow{\mathbf{g}}", "gb": r"\overleftarrow{\mathbf{g}}"}
SPECS = {
    name: DependencySpec(GENERATION, f"{lines} \n z_t ~ g_t  # (5.7)", symbols=SYMBOLS)
    for name, lines in INFERENCE.items()
}


@register(
    "dkf",
    chapter=5,
    variants=[{"inference_model": name} for name in INFERENCE_MODELS],
    small={"g_dim": 8, "encoder": (8,), "decoder": (8,)},
    speech={
        "transition": 16,
        "decoder": (32, 64, 128, 256),
        "encoder": (256,),
        "g_dim": 128,
        "combiner": (32,),
        "head": (32,),
    },
    motion={
        "transition": 10,
        "decoder": (32, 64),
        "encoder": (64,),
        "g_dim": 64,
        "combiner": (16,),
        "head": (32,),
    },
)
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
        posterior: "gaussian", Eq. (5.7); or "planar" or "iaf", a normalizing flow in its place (Section 14.3.2), which
            is sampled frame by frame beside the generator's steps.
        flow_steps: Number of the flow's steps.

    Example:
        >>> import torch
        >>> model = DKF(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
    """

    spec = SPECS["smoother"].undriven()
    functions = {"combiner": r"\text{of } \mathbf{g}_t"}

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
        posterior: str = "gaussian",
        flow_steps: int = 4,
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
        self.variant = variant = INFERENCE_MODELS[inference_model]
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
        self.z_head: GaussianHead | FlowHead = GaussianHead(self.e_z.out_dim, z_dim)
        if posterior != "gaussian":
            self.z_head = FlowHead(self.e_z.out_dim, z_dim, posterior, flow_steps)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """The part of g_t, Eq. (5.5), that observations and inputs determine, weighted as it enters the mean."""
        inputs = append_input(x, u)
        if self.variant.context:  # beyond a sequence's end there is nothing, as before its start
            after = F.pad(inputs[:, 1:], (0, 0, 0, 1))
            inputs = torch.cat([past.shift("inputs", inputs), inputs, after], -1)
        features = self.encoder(inputs)
        if self.e_local is not None:
            return Context({"observed": self.e_local(features)})
        networks = {"gf": self.e_forward, "gb": self.e_backward}
        parts = [past.run(name, e, features, lengths) for name, e in networks.items() if e is not None]  # (5.4)
        return Context({"observed": sum(parts[1:], parts[0]) / (len(parts) + self.variant.z_prev)})

    def _combine(self, z_prev: Tensor, observed: Tensor) -> Tensor:
        """The combiner of Eq. (5.5): the mean of a Tanh layer on z_{t-1} and of the recurrent states."""
        assert self.combiner is not None
        weight = 1 / (1 + self.variant.forward + self.variant.backward)
        return torch.add(observed, self.combiner(z_prev), alpha=weight)

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        g = context["observed"]
        if self.combiner is not None:
            g = self._combine(known["z_prev"], g)  # (5.5)
        posterior: Distribution = self.z_head(self.e_z(g))  # (5.6), (5.7)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{t:T}, \mathbf{u}_{t:T})`, Eq. (5.8)."""
        if self.combiner is None or isinstance(self.z_head, FlowHead):  # nothing recurs, or not as `recursion` has it
            return super()._infer(x, u, lengths, draws)
        frames = self._context(x, u, lengths, draws, Past()).frames
        if "z" in draws.given:
            return Inferred({"z": draws("z", self._propose("z", frames, {"z_prev": shift(draws.given["z"])}))})
        return Inferred({"z": self.sample_recursively(draws, frames["observed"])[0]})

    def recursion(
        self, observed: Float[Tensor, "batch time g_dim"], epsilon: Float[Tensor, "batch time z_dim"]
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        at_t = observed.unbind(1)

        def parameters(t: int, z_prev: Tensor) -> Tensor:
            output: Tensor = self.z_head.linear(self.e_z(self._combine(z_prev, at_t[t])))  # (5.5), (5.6)
            return output

        return sample_chain(parameters, epsilon)  # (5.7)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = latents["z"]
        return Generated({"z": self._transition(shift(z), u)}, self.x_head(self.d_x(z)))  # (3.11), (3.12)

    def _transition(self, z_prev: Tensor, u: Tensor | None) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.d_z(append_input(z_prev, u))  # (3.9), (3.10)
        return prior

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return {"z": next(self.parameters()).new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z = draws("z", self._transition(state["z"], u_t), z_prev=state["z"])  # (3.10)
        return self.x_head(self.d_x(z)), {"z": z}  # (3.12)
