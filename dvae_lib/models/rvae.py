r"""The recurrent variational autoencoder, RVAE (Chapter 10).

Leglaive, Alameda-Pineda, Girin and Horaud (2020), "A recurrent variational autoencoder for speech enhancement".
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

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

__all__ = ["RVAE"]

GENERATION_MODELS = ("instantaneous", "causal", "noncausal")
INFERENCE_MODELS = ("smoother", "filter")


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

    spec = DependencySpec(
        generation="""
            z_t ~                               # (10.3)
            h_t <- z_t, h_{t-1}                 # (10.4)
            x_t ~ h_t                           # (10.6)
        """,
        inference="""
            g_fwd_t <- z_{t-1}, g_fwd_{t-1}     # (10.18)
            g_bwd_t <- x_t, g_bwd_{t+1}         # (10.19)
            g_t <- g_fwd_t, g_bwd_t             # (10.20)
            z_t ~ g_t                           # (10.22)
        """,
    )

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
        for name, value, allowed in (
            ("generation_model", generation_model, GENERATION_MODELS),
            ("inference_model", inference_model, INFERENCE_MODELS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        if generation_model == "instantaneous" and inference_model == "filter":
            raise ValueError(
                "the exact posterior of the instantaneous model needs x_t alone: there is no filter to choose; "
                "leave inference_model out"
            )
        recurrent, noncausal = generation_model != "instantaneous", generation_model == "noncausal"
        self.spec = _spec(generation_model, inference_model, driven=u_dim > 0)
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
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{t:T})`, Eqs. (10.18)-(10.23)."""
        z = (latents or {}).get("z")
        known = self._encode(x, u, lengths)
        if self.e_gz is None:  # nothing recurs in z
            q_z = self.z_head(self.e_z(known))
            if z is None:
                z = q_z.mean + q_z.stddev * noise(q_z.mean, draw, generator)
            return {"z": Latent(z, q_z)}
        if z is not None:  # the past of z is known
            g_z, _ = self.e_gz(after_input(None if u is None else shift(u), shift(z)))  # (10.18), (10.24)
            return {"z": Latent(z, self.z_head(self.e_z(torch.cat([known, g_z], -1))))}  # (10.21), (10.28)
        inputs = x.new_zeros(*x.shape[:2], 0) if u is None else u
        epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
        z, output = self.run_recursion(known, inputs, epsilon)
        return {"z": Latent(z, DiagonalGaussian.from_output(output))}

    def _encode(self, x: Tensor, u: Tensor | None, lengths: Tensor | None) -> Float[Tensor, "batch time g_dims"]:
        """What the inference network keeps of the data, Eqs. (10.19), (10.25) and (10.26), side by side."""
        features = self.encoder(beside(x, u))
        if self.e_gz is None:
            states: Tensor = self.e_gx[0](features)
            return states
        return torch.cat([recurrence(features, lengths) for recurrence in self.e_gx], -1)

    def recursion(
        self,
        known: Float[Tensor, "batch time g_dims"],
        inputs: Float[Tensor, "batch time u_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        assert self.e_gz is not None
        # Known are the inputs; the state that frame 1 is inferred from has seen z_0 = 0 and u_0 = 0.
        first = self.e_gz(epsilon.new_zeros(len(epsilon), 1, self.e_gz.in_dim))[1]
        z, _, output = draw_then_update(
            FrameByFrame(self.e_gz, inputs),
            PartlyKnown([*self.e_z, self.z_head.linear], known),
            nn.Identity(),
            epsilon,
            start=tuple(value[:, 0] for value in first.values()),
        )
        return z, output

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        r"""The prior (10.3) and the decoder, Eqs. (10.4)-(10.6) or (10.9)-(10.13), for all frames at once."""
        z = latents["z"]
        inputs = after_input(u, z)
        h = self.d_h(inputs) if self.e_gz is None else self.d_h(inputs)[0]  # (10.4), (10.9)
        if self.d_h_bwd is not None:
            h = torch.cat([h, self.d_h_bwd(inputs, lengths)], -1)  # (10.10), (10.11)
        return Generated({"z": standard_normal(z)}, self._observe(h))

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))  # (10.5), (10.12)
        return observation

    def initial_state(self, batch_size: int) -> State:
        """The internal state h_0 = 0 (and the LSTM's cell); nothing for the instantaneous model.

        Raises:
            NotImplementedError: For the noncausal model, whose frames can only be generated together.
        """
        if self.d_h_bwd is not None:
            return super().initial_state(batch_size)
        return self.d_h.initial_state(batch_size) if isinstance(self.d_h, InternalState) else {}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """Draw z_t from its prior (10.3), update the state (10.4), observe (10.6); not for the noncausal model."""
        if self.d_h_bwd is not None:
            raise NotImplementedError("the noncausal RVAE does not generate frame by frame; use generate")
        prior = standard_normal(x_prev.new_zeros(x_prev.shape[0], self.z_dim))
        z_t = prior.sample(generator=generator) if z_t is None else z_t
        inputs = after_input(u_t, z_t)
        if not isinstance(self.d_h, InternalState):
            return StepOutput(prior, z_t, self._observe(self.d_h(inputs)), state)
        h, state = self.d_h(inputs[:, None], state)
        return StepOutput(prior, z_t, self._observe(h[:, 0]), state)

    def _independent_parts(self, weights: Float[Tensor, "samples batch time"]) -> Float[Tensor, "samples batch parts"]:
        """Every frame of the instantaneous model by itself; else the whole sequence."""
        return weights if self.e_gz is None else super()._independent_parts(weights)


def _spec(generation_model: str, inference_model: str, *, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if (generation_model, inference_model, driven) == ("causal", "smoother", False):
        return RVAE.spec
    u_prev, u_t = (", u_{t-1}", ", u_t") if driven else ("", "")
    if generation_model == "instantaneous":
        return DependencySpec(
            generation=f"""
                z_t ~                                   # (10.3)
                x_t ~ z_t{u_t}                          # (10.2)
            """,
            inference=f"""
                z_t ~ x_t{u_t}                          # (10.17)
            """,
        )
    if generation_model == "causal":
        generation = f"""
                z_t ~                                   # (10.3)
                h_t <- z_t{u_t}, h_{{t-1}}              # (10.4)
                x_t ~ h_t                               # (10.6)
        """
    else:
        generation = f"""
                z_t ~                                   # (10.3)
                h_fwd_t <- z_t{u_t}, h_fwd_{{t-1}}      # (10.9)
                h_bwd_t <- z_t{u_t}, h_bwd_{{t+1}}      # (10.10)
                h_t <- h_fwd_t, h_bwd_t                 # (10.11)
                x_t ~ h_t                               # (10.13)
        """
    of_z, forward, backward = "gz_fwd", "gx_fwd", "gx_bwd"
    if (generation_model, inference_model) == ("causal", "smoother"):
        of_z, backward = "g_fwd", "g_bwd"  # the names of (10.18) and (10.19)
    lines = [f"{of_z}_t <- z_{{t-1}}{u_prev}, {of_z}_{{t-1}}"]  # (10.18), (10.24)
    states = [of_z]
    if generation_model == "noncausal" or inference_model == "filter":
        lines.append(f"{forward}_t <- x_t{u_t}, {forward}_{{t-1}}")  # (10.25)
        states.append(forward)
    if inference_model == "smoother":
        lines.append(f"{backward}_t <- x_t{u_t}, {backward}_{{t+1}}")  # (10.19), (10.26)
        states.append(backward)
    lines += [f"g_t <- {', '.join(f'{state}_t' for state in states)}", "z_t ~ g_t"]  # (10.27), (10.29)
    return DependencySpec(generation=generation, inference="\n".join(lines))
