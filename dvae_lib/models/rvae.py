r"""The recurrent variational autoencoder, RVAE (Chapter 10).

Leglaive, Alameda-Pineda, Girin and Horaud (2020), "A recurrent variational autoencoder for speech enhancement".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import FactorisedDistribution, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    FrameByFrame,
    GaussianHead,
    InternalState,
    ObservationHead,
    PrecomputedInput,
    Recurrence,
    append_input,
    prepend_input,
    sample_with_state,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["RVAE"]

GENERATION = {
    "instantaneous": """
        z_t ~                                   # (10.3)
        x_t ~ z_t, u_t                          # (10.2)
    """,
    "causal": """
        z_t ~                                   # (10.3)
        h_t <- z_t, u_t, h_{t-1}                # (10.4)
        x_t ~ h_t                               # (10.6)
    """,
    "noncausal": """
        z_t ~                                   # (10.3)
        h_fwd_t <- z_t, u_t, h_fwd_{t-1}        # (10.9)
        h_bwd_t <- z_t, u_t, h_bwd_{t+1}        # (10.10)
        h_t <- h_fwd_t, h_bwd_t                 # (10.11)
        x_t ~ h_t                               # (10.13)
    """,
}
FILTER = """
    gz_fwd_t <- z_{t-1}, u_{t-1}, gz_fwd_{t-1}
    gx_fwd_t <- x_t, u_t, gx_fwd_{t-1}
    g_t <- gz_fwd_t, gx_fwd_t
    z_t ~ g_t
"""
INFERENCE = {
    ("instantaneous", "smoother"): "z_t ~ x_t, u_t  # (10.17)",
    ("causal", "smoother"): """
        g_fwd_t <- z_{t-1}, u_{t-1}, g_fwd_{t-1}    # (10.18)
        g_bwd_t <- x_t, u_t, g_bwd_{t+1}            # (10.19)
        g_t <- g_fwd_t, g_bwd_t                     # (10.20)
        z_t ~ g_t                                   # (10.22)
    """,
    ("causal", "filter"): FILTER,
    ("noncausal", "smoother"): """
        gz_fwd_t <- z_{t-1}, u_{t-1}, gz_fwd_{t-1}  # (10.24)
        gx_fwd_t <- x_t, u_t, gx_fwd_{t-1}          # (10.25)
        gx_bwd_t <- x_t, u_t, gx_bwd_{t+1}          # (10.26)
        g_t <- gz_fwd_t, gx_fwd_t, gx_bwd_t         # (10.27)
        z_t ~ g_t                                   # (10.29)
    """,
    ("noncausal", "filter"): FILTER,
}
SPECS = {names: DependencySpec(GENERATION[names[0]], lines) for names, lines in INFERENCE.items()}
SMALL = {"h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)}


@register(
    "rvae-noncausal",
    chapter=10,
    options={"generation_model": "noncausal"},
    variants=[{"inference_model": "smoother"}, {"inference_model": "filter"}],
    small=SMALL,
    speech={"h_dim": 128, "g_dim": 128},
    motion={"h_dim": 64, "g_dim": 64},
)
@register(
    "rvae-causal",
    chapter=10,
    options={"generation_model": "causal"},
    variants=[{}, {"inference_model": "filter"}, {"generation_model": "instantaneous"}],
    small=SMALL,
    speech={"h_dim": 128, "g_dim": 128},
    motion={"h_dim": 64, "g_dim": 64},
)
class RVAE(DVAE):
    r"""Independent latent vectors, decoded together by a recurrent network.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_\mathcal{T}) \, p(\mathbf{z}_t),
        \qquad p(\mathbf{z}_t) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    Eqs. (10.1)-(10.3). Generation models, by the set of frames :math:`\mathcal{T}`:

    - "instantaneous": :math:`\{t\}`, which is a VAE with one hidden layer more;
    - "causal": :math:`\{1:t\}`, a forward recurrent network, Eqs. (10.4)-(10.8);
    - "noncausal": :math:`\{1:T\}`, a forward and a backward one, Eqs. (10.9)-(10.15).

    Inference models:

    - "smoother": the structure of the exact posterior, Eq. (10.16):
      :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_t)`,
      :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{t:T})`, Eqs. (10.18)-(10.23), and
      :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:T})`, Eqs. (10.24)-(10.30), respectively;
    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:t})`, which needs no future and so can
      run while the data come in.

    An input :math:`\mathbf{u}_t` enters :math:`d_h` beside :math:`\mathbf{z}_t`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`; "gamma" on power spectra is the complex
            Gaussian of Eq. (10.2) on the spectra themselves.
        u_dim: Size of the input vectors.
        generation_model: "instantaneous", "causal" or "noncausal".
        inference_model: "smoother" or "filter".
        h_dim: Size of each internal state of the decoder.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) between :math:`\mathbf{x}_t` and the recursions on it.
        g_dim: Size of each internal state of the inference network.
        head: Sizes of the hidden layers (Tanh) of :math:`e_\mathbf{z}`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = RVAE(x_dim=513, z_dim=16, observation="gamma", generation_model="noncausal")
        >>> model.vlb(torch.rand(2, 7, 513)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=torch.rand(2, 7, 513)).x.shape
        torch.Size([2, 5, 513])
    """

    spec = SPECS["causal", "smoother"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        generation_model: str = "causal",
        inference_model: str = "smoother",
        h_dim: int = 128,
        decoder: Sequence[int] = (),
        encoder: Sequence[int] = (),
        g_dim: int = 128,
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if generation_model == "instantaneous" and inference_model == "filter":
            raise ValueError(
                "the exact posterior of the instantaneous model needs x_t alone: there is no filter to choose; "
                "leave inference_model out"
            )
        specs = {inference: spec for (generation, inference), spec in SPECS.items() if generation == generation_model}
        if not specs:
            raise ValueError(f"generation_model must be one of {', '.join(GENERATION)}; got {generation_model!r}")
        self.spec = choose_spec(specs, u_dim, inference_model=inference_model)
        recurrent, noncausal = generation_model != "instantaneous", generation_model == "noncausal"
        # p(x_t | h_t)
        self.d_h = InternalState(z_dim + u_dim, h_dim, cell=cell) if recurrent else MLP(z_dim + u_dim, [h_dim])
        self.d_h_bwd = Recurrence(z_dim + u_dim, h_dim, cell=cell, backward=True) if noncausal else None
        self.d_x = MLP(2 * h_dim if noncausal else h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        self.e_gz = InternalState(z_dim + u_dim, g_dim, cell=cell) if recurrent else None
        if recurrent:
            directions = [False] * (noncausal or inference_model == "filter") + [True] * (inference_model == "smoother")
            self.e_gx = nn.ModuleList(
                Recurrence(self.encoder.out_dim, g_dim, cell=cell, backward=backward) for backward in directions
            )
        else:
            self.e_gx = nn.ModuleList([MLP(self.encoder.out_dim, [g_dim])])
        self.e_z = MLP(g_dim * (len(self.e_gx) + recurrent), head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """What the inference network keeps of the data, Eqs. (10.19), (10.25) and (10.26), side by side."""
        features = self.encoder(append_input(x, u))
        if self.e_gz is None:
            return Context({"known": self.e_gx[0](features)})
        states = [past.run(f"gx_{i}", recurrence, features, lengths) for i, recurrence in enumerate(self.e_gx)]
        return Context({"known": torch.cat(states, -1)})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        read = context["known"]
        if self.e_gz is not None:
            read = torch.cat([read, known["gz"]], -1)  # (10.20), (10.27)
        posterior: Distribution = self.z_head(self.e_z(read))  # (10.21), (10.28)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{t:T})`, Eqs. (10.18)-(10.23)."""
        if self.e_gz is None:  # nothing recurs in z
            return super()._infer(x, u, lengths, draws)
        frames = self._context(x, u, lengths, draws, Past()).frames
        if "z" in draws.given:
            u_prev = None if u is None else shift(u)
            gz, _ = self.e_gz(prepend_input(u_prev, shift(draws.given["z"])))  # (10.18), (10.24)
            return Inferred({"z": draws("z", self._propose("z", frames, {"gz": gz}))})
        inputs = x.new_zeros(*x.shape[:2], 0) if u is None else u
        return Inferred({"z": self.sample_recursively(draws, frames["known"], inputs)[0]})

    def recursion(
        self,
        known: Float[Tensor, "batch time g_dims"],
        inputs: Float[Tensor, "batch time u_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        assert self.e_gz is not None
        # Known are the inputs; the state that frame 1 is inferred from has seen z_0 = 0 and u_0 = 0.
        first = self.e_gz(epsilon.new_zeros(epsilon.shape[0], 1, self.e_gz.in_dim))[1]
        z, _, output = sample_with_state(
            FrameByFrame(self.e_gz, inputs),
            PrecomputedInput([*self.e_z, self.z_head.linear], known),
            nn.Identity(),
            epsilon,
            start=tuple(value[:, 0] for value in first.values()),
        )
        return z, output

    # The state that z_t is inferred from has seen z_{1:t-1}: it is the inference model's own memory.

    def _initial_memory(self, batch_size: int) -> State:
        if self.e_gz is None:
            return {}
        blank = next(self.parameters()).new_zeros(batch_size, 1, self.e_gz.in_dim)
        return self._memory(*self.e_gz(blank))

    def _remember(self, memory: State, latents: Values, u_t: Tensor | None) -> State:
        if self.e_gz is None:
            return memory
        internal = {name: memory[name] for name in self.e_gz.state_names}
        return self._memory(*self.e_gz(prepend_input(u_t, latents["z"])[:, None], internal))  # (10.18), (10.24)

    @staticmethod
    def _memory(states: Tensor, internal: State) -> State:
        return {**internal, "gz": states[:, 0]}

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = latents["z"]
        inputs = prepend_input(u, z)
        h = self.d_h(inputs)[0] if isinstance(self.d_h, InternalState) else self.d_h(inputs)  # (10.4), (10.9)
        if self.d_h_bwd is not None:
            h = torch.cat([h, self.d_h_bwd(inputs, lengths)], -1)  # (10.10), (10.11)
        return Generated({"z": standard_normal(z)}, self._observe(h))

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))  # (10.5), (10.12)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return self.d_h.initial_state(batch_size) if isinstance(self.d_h, InternalState) else {}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z = draws("z", standard_normal(x_prev.new_zeros(x_prev.shape[0], self.z_dim)))  # (10.3)
        inputs = prepend_input(u_t, z)
        if not isinstance(self.d_h, InternalState):
            return self._observe(self.d_h(inputs)), state
        h, state = self.d_h(inputs[:, None], state)  # (10.4)
        return self._observe(h[:, 0]), state  # (10.6)
