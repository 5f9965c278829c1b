r"""The disentangled sequential autoencoder, DSAE (Chapter 11).

Li and Mandt (2018), "Disentangled sequential autoencoder".
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Draw, State, StepOutput, noise
from dvae_lib.networks import (
    MLP,
    FrameByFrame,
    GaussianHead,
    InternalState,
    ObservationHead,
    PartlyKnown,
    Recurrence,
    after_input,
    beside,
    draw_then_update,
    shift,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["DSAE"]

INFERENCE_MODELS = ("full", "factorised", "structured")


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

    spec = DependencySpec(
        generation="""
            v ~                                 # (11.1)
            h_t <- z_{t-1}, h_{t-1}             # (11.2)
            z_t ~ h_t                           # (11.4)
            x_t ~ z_t, v                        # (11.6)
        """,
        inference="""
            gv_fwd_t <- x_t, gv_fwd_{t-1}       # (11.12)
            gv_bwd_t <- x_t, gv_bwd_{t+1}       # (11.13)
            gv <- gv_fwd_T, gv_bwd_1            # (11.14)
            v ~ gv                              # (11.16)
            gz_fwd_t <- x_t, v, gz_fwd_{t-1}    # (11.17)
            gz_bwd_t <- x_t, v, gz_bwd_{t+1}    # (11.18)
            gz_t <- gz_fwd_t, gz_bwd_t          # (11.19)
            z_t ~ gz_t                          # (11.21)
        """,
    )

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
        if inference_model not in INFERENCE_MODELS:
            raise ValueError(f"inference_model must be one of {', '.join(INFERENCE_MODELS)}; got {inference_model!r}")
        v_dim = z_dim if v_dim is None else v_dim
        for name, size, least in (("v_dim", v_dim, 1), ("head_rnn", head_rnn, 0)):
            if not isinstance(size, int) or size < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {size!r}")
        # The full model alone has this part of Appendix B.6; the others are built from the same preset without it.
        recurrent_head = head_rnn > 0 and inference_model == "full"
        self.v_dim, self.inference_model = v_dim, inference_model
        self.spec = _spec(inference_model, recurrent_head=recurrent_head, driven=u_dim > 0)
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
        r"""v, Eqs. (11.12)-(11.16), then z given v; default: Eqs. (11.17)-(11.22)."""
        return self._infer(x, u, lengths, latents or {}, draw, generator)[0]

    def _infer(
        self,
        x: Tensor,
        u: Tensor | None,
        lengths: Tensor | None,
        latents: Mapping[str, Tensor],
        draw: Draw,
        generator: Generator | None,
    ) -> tuple[dict[str, Latent], Tensor | None]:
        """The latents, and the states h_{1:T} where inference made them."""
        seen = self.encoder(beside(x, u))
        q_v = self.v_head(self._summary(seen, lengths))  # (11.15)
        v, z = latents.get("v"), latents.get("z")
        if v is None:
            v = q_v.mean + q_v.stddev * noise(q_v.mean, draw, generator)  # (11.16)
        known, h = self._encode(seen, v, lengths), None
        if self.inference_model != "structured":  # nothing recurs in z
            q_z = self.z_head(self.e_z(known))  # (11.20), (11.10)
            if z is None:
                z = q_z.mean + q_z.stddev * noise(q_z.mean, draw, generator)  # (11.21)
        elif z is not None:  # the past of z is known
            h = self._states(z, u)
            q_z = self.z_head(self.e_z(torch.cat([known, h], -1)))
        else:
            first = after_input(None if u is None else u[:, 0], x.new_zeros(len(x), self.z_dim))
            # What h_{t+1} is made of beside z_t; the last one is never used.
            u_next = x.new_zeros(*x.shape[:2], 0) if u is None else F.pad(u[:, 1:], (0, 0, 0, 1))
            epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
            z, h, output = self.run_recursion(known, first, u_next, epsilon)
            q_z = DiagonalGaussian.from_output(output)
        return {"v": Latent(v, q_v), "z": Latent(z, q_z)}, h

    def _summary(self, seen: Tensor, lengths: Tensor | None) -> Float[Tensor, "batch gv_dim"]:
        """The last state of the forward and the first of the backward recursion, Eqs. (11.12)-(11.14)."""
        forward, backward = (recurrence(seen, lengths) for recurrence in self.e_gv)
        rows = torch.arange(len(seen), device=seen.device)
        last = forward[:, -1] if lengths is None else forward[rows, lengths - 1]
        return torch.cat([last, backward[:, 0]], -1)

    def _encode(self, seen: Tensor, v: Tensor, lengths: Tensor | None) -> Float[Tensor, "batch time states_dim"]:
        """What z_t is inferred from that is no latent of a frame, Eqs. (11.17)-(11.19)."""
        if self.inference_model == "factorised":
            return seen
        seen = torch.cat([seen, v[:, None].expand(-1, seen.shape[1], -1)], -1)
        states = torch.cat([recurrence(seen, lengths) for recurrence in self.e_gz], -1)
        return states if self.head_rnn is None else self.head_rnn(states)

    def recursion(
        self,
        known: Float[Tensor, "batch time g_dim"],
        first: Float[Tensor, "batch in_dim"],
        u_next: Float[Tensor, "batch time u_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop of the structured model: all z_t, h_t, and outputs that hold mean and log-variance of q(z_t | .)."""
        h_1, state = self.d_h(first[:, None])
        z, h_next, output = draw_then_update(
            FrameByFrame(self.d_h, u_next),
            PartlyKnown([*self.e_z, self.z_head.linear], known),
            nn.Identity(),
            epsilon,
            start=tuple(value[:, 0] for value in state.values()),
        )
        return z, torch.cat([h_1, h_next[:, :-1]], 1), output

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
        """Both directions; in the structured model they share the states h_t."""
        latents, h = self._infer(x, u, lengths, {}, draw, generator)
        z, v = latents["z"].sample, latents["v"].sample
        return latents, self._generated(self._states(z, u) if h is None else h, z, v)

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        r"""The priors, Eqs. (11.2)-(11.4), and the observation model, Eqs. (11.5)-(11.6), for all frames at once."""
        return self._generated(self._states(latents["z"], u), latents["z"], latents["v"])

    def _states(self, z: Tensor, u: Tensor | None) -> Float[Tensor, "batch time h_dim"]:
        """The internal states of the past of z, Eq. (11.2)."""
        return self.d_h(after_input(u, shift(z)))[0]  # type: ignore[no-any-return]

    def _generated(self, h: Tensor, z: Tensor, v: Tensor) -> Generated:
        of_sequence = v[:, None].expand(-1, z.shape[1], -1)
        return Generated({"v": standard_normal(v), "z": self._prior(h)}, self._observe(z, of_sequence))

    def _prior(self, h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h))  # (11.3), (11.4)
        return prior

    def _observe(self, z: Float[Tensor, "*batch z_dim"], v: Float[Tensor, "*batch v_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([z, v], -1)))  # (11.5), (11.6)
        return observation

    def initial_state(
        self,
        batch_size: int,
        *,
        v: Float[Tensor, "batch v_dim"] | None = None,
        generator: Generator | None = None,
    ) -> State:
        """The internal state h_0 = 0 (and the LSTM's cell), z_0 = 0, and v: the given one, or one from its prior."""
        state = self.d_h.initial_state(batch_size)
        if v is None:
            v = standard_normal(state["h"].new_zeros(batch_size, self.v_dim)).sample(generator=generator)
        elif v.shape != (batch_size, self.v_dim):
            raise ValueError(f"v must have shape {(batch_size, self.v_dim)}; got {tuple(v.shape)}")
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim), "v": v}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """Update the state (11.2), draw z_t from its prior (11.4), observe (11.6)."""
        internal = {name: state[name] for name in self.d_h.state_names}
        h, internal = self.d_h(after_input(u_t, state["z"])[:, None], internal)
        prior = self._prior(h[:, 0])
        z_t = prior.sample(generator=generator) if z_t is None else z_t
        return StepOutput(prior, z_t, self._observe(z_t, state["v"]), {**internal, "z": z_t, "v": state["v"]})


def _spec(inference_model: str, *, recurrent_head: bool, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if inference_model == "full" and not recurrent_head and not driven:
        return DSAE.spec
    u_t = ", u_t" if driven else ""
    of_z = {
        "full": f"""
            gz_fwd_t <- x_t{u_t}, v, gz_fwd_{{t-1}}     # (11.17)
            gz_bwd_t <- x_t{u_t}, v, gz_bwd_{{t+1}}     # (11.18)
            gz_t <- gz_fwd_t, gz_bwd_t{", gz_{t-1}" if recurrent_head else ""}      # (11.19)
            z_t ~ gz_t                                  # (11.21)
        """,
        "factorised": f"""
            z_t ~ x_t{u_t}                              # (11.10)
        """,
        "structured": f"""
            gz_bwd_t <- x_t{u_t}, v, gz_bwd_{{t+1}}     # (11.18)
            z_t ~ h_t, gz_bwd_t                         # (11.9)
        """,
    }
    return DependencySpec(
        generation=f"""
            v ~                                         # (11.1)
            h_t <- z_{{t-1}}{u_t}, h_{{t-1}}            # (11.2)
            z_t ~ h_t                                   # (11.4)
            x_t ~ z_t, v                                # (11.6)
        """,
        inference=f"""
            gv_fwd_t <- x_t{u_t}, gv_fwd_{{t-1}}        # (11.12)
            gv_bwd_t <- x_t{u_t}, gv_bwd_{{t+1}}        # (11.13)
            gv <- gv_fwd_T, gv_bwd_1                    # (11.14)
            v ~ gv                                      # (11.16)
        """
        + of_z[inference_model],
    )
