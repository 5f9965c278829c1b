r"""The stochastic recurrent neural network, SRNN (Chapter 9).

Fraccaro, Sønderby, Paquet and Winther (2016), "Sequential neural models with stochastic layers".
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Draw, State, StepOutput, noise
from dvae_lib.networks import (
    MLP,
    GaussianHead,
    InternalState,
    ObservationHead,
    PartlyKnown,
    Recurrence,
    beside,
    draw_in_turn,
    shift,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["SRNN"]

INFERENCE_MODELS = ("smoother", "filter")


class SRNN(DVAE):
    r"""A state-space model stacked on a deterministic recurrent network.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t) \,
        p_{\theta_z}(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{h}_t),
        \qquad \mathbf{h}_t = \mathbf{h}_t(\mathbf{x}_{1:t-1})

    Eqs. (9.1)-(9.6). An input :math:`\mathbf{u}_t` enters :math:`d_h` beside :math:`\mathbf{x}_{t-1}`.

    Inference models:

    - "smoother": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{1:T})`, Eqs. (9.9)-(9.12), the structure of
      the exact posterior (9.8);
    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{1:t})`, by a feed-forward network on
      :math:`\mathbf{z}_{t-1}`, :math:`\mathbf{h}_t` and :math:`\mathbf{x}_t` (end of Section 9.2).

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        inference_model: "smoother" or "filter".
        feature_x: Sizes of the layers (Tanh) between :math:`\mathbf{x}_{t-1}` and the recursion :math:`d_h`.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_z`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) on :math:`[\mathbf{h}_t, \mathbf{x}_t]`, before the backward network.
        g_dim: Size of the backward network's internal state.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = SRNN(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=torch.ones(2, 7, 88)).x.shape
        torch.Size([2, 5, 88])
    """

    spec = DependencySpec(
        generation="""
            h_t <- x_{t-1}, h_{t-1}         # (9.1)
            z_t ~ z_{t-1}, h_t              # (9.5)
            x_t ~ z_t, h_t                  # (9.3)
        """,
        inference="""
            g_bwd_t <- h_t, x_t, g_bwd_{t+1}    # (9.10)
            z_t ~ z_{t-1}, g_bwd_t              # (9.12)
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
        feature_x: Sequence[int] = (256,),
        h_dim: int = 128,
        prior: Sequence[int] = (64, 32),
        decoder: Sequence[int] = (256,),
        encoder: Sequence[int] = (256,),
        g_dim: int = 128,
        head: Sequence[int] = (64, 32),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if inference_model not in INFERENCE_MODELS:
            raise ValueError(f"inference_model must be one of {', '.join(INFERENCE_MODELS)}; got {inference_model!r}")
        self.spec = _spec(inference_model, driven=u_dim > 0)
        # h_t, p(z_t | z_{t-1}, h_t), p(x_t | z_t, h_t)
        self.phi_x = MLP(x_dim, feature_x)
        self.d_h = InternalState(self.phi_x.out_dim + u_dim, h_dim, cell=cell)
        self.d_z = MLP(z_dim + h_dim, prior)
        self.prior_head = GaussianHead(self.d_z.out_dim, z_dim)
        self.d_x = MLP(z_dim + h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(h_dim + x_dim, encoder)
        smoother = inference_model == "smoother"
        self.e_g = Recurrence(self.encoder.out_dim, g_dim, cell=cell, backward=True) if smoother else None
        self.e_z = MLP((g_dim if smoother else self.encoder.out_dim) + z_dim, head)
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
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{1:T})`, Eqs. (9.9)-(9.13)."""
        return {"z": self._infer(x, self._states(x, u), lengths, (latents or {}).get("z"), draw, generator)}

    def _infer(
        self,
        x: Tensor,
        h: Tensor,
        lengths: Tensor | None,
        z: Tensor | None,
        draw: Draw,
        generator: Generator | None,
    ) -> Latent:
        """The posterior, given the states h_{1:T} of the true past."""
        known = self.encoder(torch.cat([h, x], -1))
        if self.e_g is not None:
            known = self.e_g(known, lengths)  # (9.10)
        if z is not None:  # nothing recurs: the past of z is known
            return Latent(z, self.z_head(self.e_z(torch.cat([known, shift(z)], -1))))  # (9.11)
        epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
        z, output = self.run_recursion(known, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output))

    def recursion(
        self, known: Float[Tensor, "batch time known_dim"], epsilon: Float[Tensor, "batch time z_dim"]
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        e_z = PartlyKnown([*self.e_z, self.z_head.linear], known)
        return draw_in_turn(e_z, epsilon)  # (9.11), (9.12)

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
        """Both directions; under teacher forcing they share the states h_t."""
        if feedback > 0:
            return super().infer_and_generate(x, u, lengths=lengths, feedback=feedback, draw=draw, generator=generator)
        h = self._states(x, u)
        latent = self._infer(x, h, lengths, None, draw, generator)
        return {"z": latent}, self._generated(h, latent.sample)

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
        r"""The prior, Eqs. (9.4)-(9.5), and the observation model, Eqs. (9.1)-(9.3), for all frames at once.

        With `feedback`, frame by frame: see `generation_fed_back`.
        """
        if feedback != 0:
            return self.generation_fed_back(x, latents, u, feedback=feedback, generator=generator)
        return self._generated(self._states(x, u), latents["z"])

    def _states(self, x: Tensor, u: Tensor | None) -> Float[Tensor, "batch time h_dim"]:
        """The internal states of the true past, Eq. (9.1)."""
        return self.d_h(beside(self.phi_x(shift(x)), u))[0]  # type: ignore[no-any-return]

    def _generated(self, h: Tensor, z: Tensor) -> Generated:
        return Generated({"z": self._prior(shift(z), h)}, self._observe(z, h))

    def _prior(self, z_prev: Float[Tensor, "*batch z_dim"], h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(torch.cat([z_prev, h], -1)))  # (9.4), (9.5)
        return prior

    def _observe(self, z: Float[Tensor, "*batch z_dim"], h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([z, h], -1)))  # (9.2), (9.3)
        return observation

    def initial_state(self, batch_size: int) -> State:
        """The internal state h_0 = 0 (and the LSTM's cell), and z_0 = 0."""
        state = self.d_h.initial_state(batch_size)
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim)}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """Update the state (9.1), draw z_t from its prior (9.5), observe (9.3)."""
        h, internal = self.d_h(beside(self.phi_x(x_prev), u_t)[:, None], state)
        prior = self._prior(state["z"], h[:, 0])
        if z_t is None:
            z_t = prior.sample(generator=generator)
        return StepOutput(prior, z_t, self._observe(z_t, h[:, 0]), {**internal, "z": z_t})


def _spec(inference_model: str, *, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if inference_model == "smoother" and not driven:
        return SRNN.spec
    return DependencySpec(
        generation=f"""
            h_t <- x_{{t-1}}{", u_t" if driven else ""}, h_{{t-1}}      # (9.1)
            z_t ~ z_{{t-1}}, h_t                                        # (9.5)
            x_t ~ z_t, h_t                                              # (9.3)
        """,
        inference={
            "smoother": """
                g_bwd_t <- h_t, x_t, g_bwd_{t+1}                        # (9.10)
                z_t ~ z_{t-1}, g_bwd_t                                  # (9.12)
            """,
            "filter": """
                z_t ~ z_{t-1}, h_t, x_t
            """,
        }[inference_model],
    )
