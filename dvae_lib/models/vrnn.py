r"""The variational recurrent neural network, VRNN (Chapter 8).

Chung, Kastner, Dinh, Goel, Courville and Bengio (2015), "A recurrent latent variable model for sequential data".
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
    FrameByFrame,
    GaussianHead,
    InternalState,
    ObservationHead,
    PartlyKnown,
    Recurrence,
    beside,
    shift,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["VRNN"]

INFERENCE_MODELS = ("filter", "smoother")


class VRNN(DVAE):
    r"""A VAE in every frame, tied to the whole past by one recurrent network: the most general causal DVAE.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t) \, p_{\theta_z}(\mathbf{z}_t | \mathbf{h}_t),
        \qquad \mathbf{h}_t = \mathbf{h}_t(\mathbf{x}_{1:t-1}, \mathbf{z}_{1:t-1})

    Eqs. (8.1)-(8.6). An input :math:`\mathbf{u}_t` enters :math:`d_h` beside the features of
    :math:`\mathbf{x}_{t-1}`.

    Inference models, both on the state :math:`\mathbf{h}_t` that generates:

    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:t})`, Eqs. (8.11)-(8.12);
    - "smoother": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:T})`, the structure of the exact
      posterior (8.10): a backward network on :math:`\mathbf{x}_{t:T}` replaces :math:`\varphi_x(\mathbf{x}_t)`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        inference_model: "filter" or "smoother".
        feature_x: Sizes of the layers (Tanh) of the feature extractor :math:`\varphi_x`.
        feature_z: The same of :math:`\varphi_z`.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_z`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        g_dim: Size of the smoother's backward network.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = VRNN(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=torch.ones(2, 7, 88)).x.shape
        torch.Size([2, 5, 88])
    """

    spec = DependencySpec(
        generation="""
            h_t <- x_{t-1}, z_{t-1}, h_{t-1}    # (8.1)
            z_t ~ h_t                           # (8.5)
            x_t ~ z_t, h_t                      # (8.3)
        """,
        inference="""
            z_t ~ x_t, h_t                      # (8.12)
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
        prior: Sequence[int] = (),
        decoder: Sequence[int] = (),
        g_dim: int = 128,
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if inference_model not in INFERENCE_MODELS:
            raise ValueError(f"inference_model must be one of {', '.join(INFERENCE_MODELS)}; got {inference_model!r}")
        self.spec = _spec(inference_model, driven=u_dim > 0)
        # h_t, p(z_t | h_t), p(x_t | z_t, h_t)
        self.phi_x = MLP(x_dim, feature_x)
        self.phi_z = MLP(z_dim, feature_z)
        self.d_h = InternalState(self.phi_x.out_dim + u_dim + self.phi_z.out_dim, h_dim, cell=cell)
        self.d_z = MLP(h_dim, prior)
        self.prior_head = GaussianHead(self.d_z.out_dim, z_dim)
        self.d_x = MLP(self.phi_z.out_dim + h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        smoother = inference_model == "smoother"
        self.e_g = Recurrence(self.phi_x.out_dim + u_dim, g_dim, cell=cell, backward=True) if smoother else None
        self.e_z = MLP((g_dim if smoother else self.phi_x.out_dim) + h_dim, head)
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
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_t, \mathbf{h}_t)`, Eqs. (8.11)-(8.14)."""
        return {"z": self._infer(x, u, lengths, (latents or {}).get("z"), draw, generator)[0]}

    def _infer(
        self,
        x: Tensor,
        u: Tensor | None,
        lengths: Tensor | None,
        z: Tensor | None,
        draw: Draw,
        generator: Generator | None,
    ) -> tuple[Latent, Float[Tensor, "batch time h_dim"], Float[Tensor, "batch time feature_z"]]:
        """The posterior, and the states h_{1:T} and features of z_{1:T} that it was computed along with."""
        features = self.phi_x(torch.cat([x.new_zeros(x.shape[0], 1, self.x_dim), x], 1))  # of x_0, ..., x_T
        past, present = beside(features[:, :-1], u), features[:, 1:]
        known = present if self.e_g is None else self.e_g(beside(present, u), lengths)
        if z is not None:  # nothing recurs but h, whose inputs are all known
            h = self._states(past, z)
            q_z = self.z_head(self.e_z(torch.cat([known, h], -1)))  # (8.11)
            return Latent(z, q_z), h, self.phi_z(z)
        epsilon = noise(x.new_empty(*x.shape[:2], self.z_dim), draw, generator)
        z, phi_z, h, output = self.run_recursion(past, known, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output)), h, phi_z

    def recursion(
        self,
        past: Float[Tensor, "batch time past_dim"],
        known: Float[Tensor, "batch time known_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, their features, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        next_state = FrameByFrame(self.d_h, past)
        e_z = PartlyKnown([*self.e_z, self.z_head.linear], known)
        state, phi_z = next_state.start(len(past)), self.phi_z(torch.zeros_like(epsilon[:, 0]))
        frames = []
        for t, epsilon_t in enumerate(epsilon.unbind(1)):
            state = next_state(t, phi_z, state)  # (8.1)
            output = e_z(t, state[0])  # (8.11)
            mean, logvar = output.chunk(2, -1)
            z_t = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)  # (8.12)
            phi_z = self.phi_z(z_t)
            frames.append((z_t, phi_z, state[0], output))
        return tuple(torch.stack(values, 1) for values in zip(*frames, strict=True))

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
        latent, h, phi_z = self._infer(x, u, lengths, None, draw, generator)
        return {"z": latent}, self._generated(h, phi_z)

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
        r"""The prior, Eqs. (8.4)-(8.5), and the observation model, Eqs. (8.1)-(8.3), for all frames at once.

        With `feedback`, frame by frame: see `generation_fed_back`.
        """
        if feedback != 0:
            return self.generation_fed_back(x, latents, u, feedback=feedback, generator=generator)
        z = latents["z"]
        return self._generated(self._states(beside(self.phi_x(shift(x)), u), z), self.phi_z(z))

    def _states(self, past: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (8.1), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([past, self.phi_z(shift(z))], -1))[0]  # type: ignore[no-any-return]

    def _generated(self, h: Tensor, phi_z: Tensor) -> Generated:
        return Generated({"z": self._prior(h)}, self._observe(h, phi_z))

    def _prior(self, h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h))  # (8.4), (8.5)
        return prior

    def _observe(
        self, h: Float[Tensor, "*batch h_dim"], phi_z: Float[Tensor, "*batch feature_z"]
    ) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([phi_z, h], -1)))  # (8.2), (8.3)
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
        """Update the state (8.1), draw z_t from its prior (8.5), observe (8.3)."""
        inputs = torch.cat([beside(self.phi_x(x_prev), u_t), self.phi_z(state["z"])], -1)
        h, internal = self.d_h(inputs[:, None], state)
        prior = self._prior(h[:, 0])
        if z_t is None:
            z_t = prior.sample(generator=generator)
        return StepOutput(prior, z_t, self._observe(h[:, 0], self.phi_z(z_t)), {**internal, "z": z_t})


def _spec(inference_model: str, *, driven: bool) -> DependencySpec:
    """The dependencies of a variant, in the review's notation."""
    if inference_model == "filter" and not driven:
        return VRNN.spec
    u_t = ", u_t" if driven else ""
    return DependencySpec(
        generation=f"""
            h_t <- x_{{t-1}}{u_t}, z_{{t-1}}, h_{{t-1}}     # (8.1)
            z_t ~ h_t                                       # (8.5)
            x_t ~ z_t, h_t                                  # (8.3)
        """,
        inference={
            "filter": """
                z_t ~ x_t, h_t                              # (8.12)
            """,
            "smoother": f"""
                g_bwd_t <- x_t{u_t}, g_bwd_{{t+1}}
                z_t ~ h_t, g_bwd_t
            """,
        }[inference_model],
    )
