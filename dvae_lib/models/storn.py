r"""The stochastic recurrent network, STORN (Chapter 7).

Bayer and Osendorfer (2014), "Learning stochastic recurrent networks".
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

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
    beside,
    draw_then_update,
    shift,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["STORN"]

INFERENCE_MODELS = ("filter", "lagged", "smoother")


class STORN(DVAE):
    r"""A recurrent network into which independent noise is fed, frame by frame.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}\big(\mathbf{x}_t | \mathbf{h}_t(\mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})\big) \, p(\mathbf{z}_t),
        \qquad p(\mathbf{z}_t) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    Eqs. (7.4)-(7.8). An input :math:`\mathbf{u}_t` enters :math:`d_h` beside :math:`\mathbf{x}_{t-1}`.

    Inference models:

    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t})`, Eqs. (7.15)-(7.17), as the review corrects the paper;
    - "lagged": :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t-1})`, the paper's own, one frame late (Section 7.2);
    - "smoother": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:T})`, the structure of the exact
      posterior (7.12). The past comes in through :math:`\mathbf{h}_{t-1}` and :math:`\mathbf{x}_{t-1}`, which are all
      that the future knows of it; a backward network reads :math:`\mathbf{x}_{t:T}`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        inference_model: "filter", "lagged" or "smoother".
        feature_x: Sizes of the layers (Tanh) between :math:`\mathbf{x}_{t-1}` and the recursion :math:`d_h`.
        feature_z: The same between :math:`\mathbf{z}_t` and :math:`d_h`.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) between :math:`\mathbf{x}_t` and the recursion :math:`e_g`.
        g_dim: Size of the inference network's internal state.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = STORN(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=torch.ones(2, 7, 88)).x.shape
        torch.Size([2, 5, 88])
    """

    spec = DependencySpec(
        generation="""
            z_t ~                           # (7.7)
            h_t <- x_{t-1}, z_t, h_{t-1}    # (7.4)
            x_t ~ h_t                       # (7.6)
        """,
        inference="""
            g_t <- x_t, g_{t-1}             # (7.15)
            z_t ~ g_t                       # (7.17)
        """,
    )

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        inference_model: str = "filter",
        feature_x: Sequence[int] = (256,),
        feature_z: Sequence[int] = (32, 64),
        h_dim: int = 128,
        decoder: Sequence[int] = (256,),
        encoder: Sequence[int] = (256,),
        g_dim: int = 128,
        head: Sequence[int] = (64, 32),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if inference_model not in INFERENCE_MODELS:
            raise ValueError(f"inference_model must be one of {', '.join(INFERENCE_MODELS)}; got {inference_model!r}")
        self.inference_model = inference_model
        self.spec = _spec(inference_model, driven=u_dim > 0)
        smoother = inference_model == "smoother"
        # h_t, and p(x_t | h_t)
        self.phi_x = MLP(x_dim, feature_x)
        self.phi_z = MLP(z_dim, feature_z)
        past_dim = self.phi_x.out_dim + u_dim
        self.d_h = InternalState(past_dim + self.phi_z.out_dim, h_dim, cell=cell)
        self.d_x = MLP(h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        self.e_g = Recurrence(self.encoder.out_dim, g_dim, cell=cell, backward=smoother)
        self.e_z = MLP(g_dim + past_dim + h_dim if smoother else g_dim, head)
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
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t})`, Eqs. (7.15)-(7.19)."""
        z = (latents or {}).get("z")
        if self.inference_model == "smoother":
            return {"z": self._smooth(x, u, lengths, z, draw, generator)[0]}
        q_z = self.z_head(self.e_z(self._encode(x, u, lengths)))  # (7.16)
        if z is None:
            z = q_z.mean + q_z.stddev * noise(q_z.mean, draw, generator)  # (7.17)
        return {"z": Latent(z, q_z)}

    def _encode(self, x: Tensor, u: Tensor | None, lengths: Tensor | None) -> Float[Tensor, "batch time g_dim"]:
        """The inference network's internal states, Eq. (7.15); backward for the smoother."""
        seen = shift(x) if self.inference_model == "lagged" else x
        states: Tensor = self.e_g(self.encoder(beside(seen, u)), lengths)
        return states

    def _smooth(
        self,
        x: Tensor,
        u: Tensor | None,
        lengths: Tensor | None,
        z: Tensor | None,
        draw: Draw,
        generator: Generator | None,
    ) -> tuple[Latent, Float[Tensor, "batch time h_dim"]]:
        """q(z_t | z_{1:t-1}, x_{1:T}) from h_{t-1}, x_{t-1} and the backward states; and the states h_{1:T}."""
        past = beside(self.phi_x(shift(x)), u)
        known = torch.cat([self._encode(x, u, lengths), past], -1)
        if z is not None:  # nothing recurs but h, whose inputs are all known
            h = self._states(past, z)
            return Latent(z, self.z_head(self.e_z(torch.cat([known, shift(h)], -1)))), h
        epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
        z, h, output = self.run_recursion(past, known, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output)), h

    def recursion(
        self,
        past: Float[Tensor, "batch time past_dim"],
        known: Float[Tensor, "batch time known_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The smoother's loop: all z_t, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        e_z = PartlyKnown([*self.e_z, self.z_head.linear], known)
        return draw_then_update(FrameByFrame(self.d_h, past), e_z, self.phi_z, epsilon)  # (7.4)

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
        """Both directions; under teacher forcing the smoother's states h_t are also those that generate."""
        if self.inference_model != "smoother" or feedback > 0:
            return super().infer_and_generate(x, u, lengths=lengths, feedback=feedback, draw=draw, generator=generator)
        latent, h = self._smooth(x, u, lengths, None, draw, generator)
        return {"z": latent}, self._generated(latent.sample, h)

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        feedback: float = 0.0,
        generator: Generator | None = None,
    ) -> Generated:
        r"""The prior (7.7), and :math:`p(\mathbf{x}_t | \mathbf{h}_t)`, Eqs. (7.4)-(7.6), for all frames at once.

        With `feedback`, frame by frame: see `generation_fed_back`.
        """
        if feedback != 0:
            return self.generation_fed_back(x, latents, u, feedback=feedback, generator=generator)
        z = latents["z"]
        return self._generated(z, self._states(beside(self.phi_x(shift(x)), u), z))

    def _states(self, past: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (7.4), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([past, self.phi_z(z)], -1))[0]  # type: ignore[no-any-return]

    def _generated(self, z: Tensor, h: Tensor) -> Generated:
        return Generated({"z": standard_normal(z)}, self._observe(h))  # (7.7)

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))  # (7.5), (7.6)
        return observation

    def initial_state(self, batch_size: int) -> State:
        """The internal state h_0 = 0 (and the LSTM's cell)."""
        return self.d_h.initial_state(batch_size)

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """Draw z_t from its prior (7.7), update the state (7.4), observe (7.6)."""
        prior = standard_normal(x_prev.new_empty(len(x_prev), self.z_dim))
        if z_t is None:
            z_t = prior.sample(generator=generator)
        inputs = torch.cat([beside(self.phi_x(x_prev), u_t), self.phi_z(z_t)], -1)
        h, state = self.d_h(inputs[:, None], state)
        return StepOutput(prior, z_t, self._observe(h[:, 0]), state)


def _spec(inference_model: str, *, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if inference_model == "filter" and not driven:
        return STORN.spec
    u_t = ", u_t" if driven else ""
    return DependencySpec(
        generation=f"""
            z_t ~                                   # (7.7)
            h_t <- x_{{t-1}}{u_t}, z_t, h_{{t-1}}   # (7.4)
            x_t ~ h_t                               # (7.6)
        """,
        inference={
            "filter": f"""
                g_t <- x_t{u_t}, g_{{t-1}}          # (7.15)
                z_t ~ g_t                           # (7.17)
            """,
            "lagged": f"""
                g_t <- x_{{t-1}}{u_t}, g_{{t-1}}
                z_t ~ g_t
            """,
            "smoother": f"""
                g_bwd_t <- x_t{u_t}, g_bwd_{{t+1}}
                z_t ~ h_{{t-1}}, x_{{t-1}}{u_t}, g_bwd_t
            """,
        }[inference_model],
    )
