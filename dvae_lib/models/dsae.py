r"""The disentangled sequential autoencoder, DSAE (Chapter 11).

Li and Mandt (2018), "Disentangled sequential autoencoder".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution, standard_normal
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

__all__ = ["DSAE"]

GENERATION = """
    v ~                                         # (11.1)
    h_t <- z_{t-1}, u_t, h_{t-1}                # (11.2)
    z_t ~ h_t                                   # (11.4)
    x_t ~ z_t, v                                # (11.6)
"""
OF_V = """
    gv_fwd_t <- x_t, u_t, gv_fwd_{t-1}          # (11.12)
    gv_bwd_t <- x_t, u_t, gv_bwd_{t+1}          # (11.13)
    gv <- gv_fwd_T, gv_bwd_1                    # (11.14)
    v ~ gv                                      # (11.16)
"""
FULL = """
    gz_fwd_t <- x_t, u_t, v, gz_fwd_{t-1}       # (11.17)
    gz_bwd_t <- x_t, u_t, v, gz_bwd_{t+1}       # (11.18)
    gz_t <- gz_fwd_t, gz_bwd_t                  # (11.19)
    z_t ~ gz_t                                  # (11.21)
"""
STRUCTURED = """
    gz_bwd_t <- x_t, u_t, v, gz_bwd_{t+1}       # (11.18)
    z_t ~ h_t, gz_bwd_t                         # (11.9)
"""
SPECS = {
    "full": DependencySpec(GENERATION, OF_V + FULL),
    "factorised": DependencySpec(GENERATION, OF_V + "z_t ~ x_t, u_t  # (11.10)"),
    "structured": DependencySpec(GENERATION, OF_V + STRUCTURED),
}
WITH_RECURRENT_HEAD = DependencySpec(
    GENERATION, OF_V + FULL.replace("gz_t <- gz_fwd_t, gz_bwd_t", "gz_t <- gz_fwd_t, gz_bwd_t, gz_{t-1}")
)


@register(
    "dsae",
    chapter=11,
    variants=[*({"inference_model": name} for name in SPECS), {"head_rnn": 7}],
    small={"v_dim": 2, "h_dim": 8, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    speech={"h_dim": 128, "decoder": (32, 64, 128, 256), "g_dim": 128, "head_rnn": 128},
    motion={"h_dim": 64, "decoder": (32, 64), "g_dim": 64, "head_rnn": 64},
)
class DSAE(DVAE):
    r"""A latent vector of the whole sequence, and one per frame with a dynamical model of its own.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}, \mathbf{v}) = p(\mathbf{v}) \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t, \mathbf{v}) \,
        p_{\theta_z}(\mathbf{z}_t | \mathbf{z}_{1:t-1}),
        \qquad p(\mathbf{v}) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    Eqs. (11.1)-(11.6). An input :math:`\mathbf{u}_t` enters :math:`d_h` beside :math:`\mathbf{z}_{t-1}`.

    Inference models; all have :math:`q_\phi(\mathbf{v} | \mathbf{x}_{1:T})`, Eqs. (11.12)-(11.16), and for z

    - "full": :math:`q_\phi(\mathbf{z}_t | \mathbf{v}, \mathbf{x}_{1:T})`, Eqs. (11.17)-(11.22);
    - "factorised": :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_t)`, Eq. (11.10);
    - "structured": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{v}, \mathbf{x}_{t:T})`, the structure of
      the exact posterior (11.9). The past comes in through :math:`\mathbf{h}_t`, the state that the prior of
      :math:`\mathbf{z}_t` is made of; a backward network reads :math:`\mathbf{v}` and :math:`\mathbf{x}_{t:T}`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors of the frames.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{v})`.
        u_dim: Size of the input vectors.
        v_dim: Size of the latent vector of the sequence; by default that of the frames' (Appendix B.6).
        inference_model: "full", "factorised" or "structured".
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_\mathbf{z}`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_\mathbf{x}`.
        encoder: Sizes of the layers (Tanh) on :math:`\mathbf{x}_t`, before the inference of both v and z.
        g_dim: Size of each internal state of the inference networks; of the hidden layer in the factorised one.
        head: Sizes of the hidden layers (Tanh) of :math:`e_\mathbf{z}`.
        head_rnn: Size of a simple recurrent network that stands before these in the full model, as Appendix B.6
            has it; 0: none, as in Eq. (11.20).
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = DSAE(x_dim=513, z_dim=16, observation="gamma")
        >>> {name: tuple(kl.shape) for name, kl in model.vlb(torch.rand(2, 7, 513)).kl.items()}
        {'v': (2,), 'z': (2, 7)}
        >>> model.generate(5, prefix=torch.rand(2, 7, 513)).x.shape
        torch.Size([2, 5, 513])
    """

    spec = SPECS["full"].undriven()
    functions = {"head_rnn": r"e_{\mathbf{z}}"}

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        v_dim: int | None = None,
        inference_model: str = "full",
        h_dim: int = 128,
        prior: Sequence[int] = (),
        decoder: Sequence[int] = (32, 64, 128, 256),
        encoder: Sequence[int] = (),
        g_dim: int = 128,
        head: Sequence[int] = (),
        head_rnn: int = 0,
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        v_dim = z_dim if v_dim is None else v_dim
        for name, size, least in (("v_dim", v_dim, 1), ("head_rnn", head_rnn, 0)):
            if not isinstance(size, int) or size < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {size!r}")
        # The full model alone has this part of Appendix B.6; the others are built from the same preset without it.
        recurrent_head = head_rnn > 0 and inference_model == "full"
        self.v_dim, self.inference_model = v_dim, inference_model
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
        if recurrent_head:
            self.spec = WITH_RECURRENT_HEAD if u_dim else WITH_RECURRENT_HEAD.undriven()
        # h_t, p(z_t | h_t), p(x_t | z_t, v)
        self.d_h = InternalState(z_dim + u_dim, h_dim, cell=cell)
        self.d_z = MLP(h_dim, prior)
        self.prior_head = GaussianHead(self.d_z.out_dim, z_dim)
        self.d_x = MLP(z_dim + v_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(v | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        seen_dim = self.encoder.out_dim
        self.e_gv = nn.ModuleList(Recurrence(seen_dim, g_dim, cell=cell, backward=b) for b in (False, True))
        self.v_head = GaussianHead(2 * g_dim, v_dim)
        # q(z_t | .)
        directions = {"full": (False, True), "factorised": (), "structured": (True,)}[inference_model]
        self.e_gz = nn.ModuleList(Recurrence(seen_dim + v_dim, g_dim, cell=cell, backward=b) for b in directions)
        self.head_rnn = Recurrence(2 * g_dim, head_rnn, cell="rnn") if recurrent_head else None
        if inference_model == "factorised":
            self.e_z = MLP(seen_dim, [g_dim, *head])
        else:
            states_dim = {"full": head_rnn if recurrent_head else 2 * g_dim, "structured": g_dim + h_dim}
            self.e_z = MLP(states_dim[inference_model], head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        seen = self.encoder(append_input(x, u))
        v = draws("v", self.v_head(self._summary(seen, lengths, past)))  # (11.15), (11.16)
        if self.inference_model == "factorised":
            return Context({"known": seen}, {"v": v})
        # (11.17)-(11.19)
        both = (seen, v.sample[:, None])
        known = torch.cat([past.run(f"gz_{i}", e, both, lengths) for i, e in enumerate(self.e_gz)], -1)
        if self.head_rnn is not None:
            known = past.run("head", self.head_rnn, known)
        return Context({"known": known}, {"v": v})

    def _summary(self, seen: Tensor, lengths: Tensor | None, past: Past) -> Float[Tensor, "batch gv_dim"]:
        """The last state of the forward and the first of the backward recursion, Eqs. (11.12)-(11.14)."""
        forward, backward = (past.run(f"gv_{i}", recurrence, seen, lengths) for i, recurrence in enumerate(self.e_gv))
        rows = torch.arange(seen.shape[0], device=seen.device)
        last = forward[:, -1] if lengths is None else forward[rows, lengths - 1]
        return torch.cat([last, backward[:, 0]], -1)

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        read = context["known"]
        if self.inference_model == "structured":
            read = torch.cat([read, known["h"]], -1)
        posterior: Distribution = self.z_head(self.e_z(read))  # (11.20), (11.21)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""v, Eqs. (11.12)-(11.16), then z given v; default: Eqs. (11.17)-(11.22)."""
        if self.inference_model != "structured":  # nothing recurs in z
            return super()._infer(x, u, lengths, draws)
        context = self._context(x, u, lengths, draws, Past())
        z = draws.given.get("z")
        if z is not None:
            h = self._states(z, u)
            return Inferred(
                {**context.latents, "z": draws("z", self._propose("z", context.frames, {"h": h}))}, {"h": h}
            )
        first = prepend_input(None if u is None else u[:, 0], x.new_zeros(x.shape[0], self.z_dim))
        # What h_{t+1} is made of beside z_t; the last one is never used.
        u_next = x.new_zeros(*x.shape[:2], 0) if u is None else F.pad(u[:, 1:], (0, 0, 0, 1))
        latent, h = self.sample_recursively(draws, context.frames["known"], first, u_next)
        return Inferred({**context.latents, "z": latent}, {"h": h})

    def recursion(
        self,
        known: Float[Tensor, "batch time g_dim"],
        first: Float[Tensor, "batch in_dim"],
        u_next: Float[Tensor, "batch time u_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop of the structured model: all z_t, h_t, and outputs that hold mean and log-variance of q(z_t | .)."""
        h_1, state = self.d_h(first[:, None])
        z, h_next, output = sample_with_state(
            FrameByFrame(self.d_h, u_next),
            PrecomputedInput([*self.e_z, self.z_head.linear], known),
            nn.Identity(),
            epsilon,
            start=tuple(value[:, 0] for value in state.values()),
        )
        return z, torch.cat([h_1, h_next[:, :-1]], 1), output

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, v, h = latents["z"], latents["v"], states.get("h")
        if h is None:
            h = self._states(z, u)
        of_sequence = v[:, None].expand(-1, z.shape[1], -1)
        return Generated({"v": standard_normal(v), "z": self._prior(h)}, self._observe(z, of_sequence))

    def _states(self, z: Tensor, u: Tensor | None) -> Float[Tensor, "batch time h_dim"]:
        """The internal states of the past of z, Eq. (11.2)."""
        return self.d_h(prepend_input(u, shift(z)))[0]  # type: ignore[no-any-return]

    def _prior(self, h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h))  # (11.3), (11.4)
        return prior

    def _observe(self, z: Float[Tensor, "*batch z_dim"], v: Float[Tensor, "*batch v_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([z, v], -1)))  # (11.5), (11.6)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = self.d_h.initial_state(batch_size)
        v = draws("v", standard_normal(state["h"].new_zeros(batch_size, self.v_dim)))  # (11.1)
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim), "v": v}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        internal = {name: state[name] for name in self.d_h.state_names}
        h, internal = self.d_h(prepend_input(u_t, state["z"])[:, None], internal)  # (11.2)
        z = draws("z", self._prior(h[:, 0]), h=h[:, 0])  # (11.4)
        return self._observe(z, state["v"]), {**internal, "z": z, "v": state["v"]}  # (11.6)
