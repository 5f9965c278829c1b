r"""The variational recurrent neural network, VRNN (Chapter 8).

Chung, Kastner, Dinh, Goel, Courville and Bengio (2015), "A recurrent latent variable model for sequential data".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution
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
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["VRNN"]

GENERATION = """
    h_t <- x_{t-1}, u_t, z_{t-1}, h_{t-1}   # (8.1)
    z_t ~ h_t                               # (8.5)
    x_t ~ z_t, h_t                          # (8.3)
"""
SPECS = {
    "filter": DependencySpec(GENERATION, "z_t ~ x_t, h_t  # (8.12)"),
    "smoother": DependencySpec(GENERATION, "g_bwd_t <- x_t, u_t, g_bwd_{t+1} \n z_t ~ h_t, g_bwd_t"),
}


@register(
    "vrnn",
    chapter=8,
    variants=[{"inference_model": name} for name in SPECS],
    small={"feature_x": (8,), "h_dim": 8, "feature_z": (6,), "g_dim": 8},
    speech={"feature_x": (256,), "feature_z": (32, 64), "h_dim": 128, "g_dim": 128},
    motion={"feature_x": (64,), "feature_z": (16, 32), "h_dim": 64, "g_dim": 64},
)
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

    spec = SPECS["filter"].undriven()

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
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
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

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        features = self.phi_x(torch.cat([x.new_zeros(x.shape[0], 1, self.x_dim), x], 1))  # of x_0, ..., x_T
        before, present = append_input(features[:, :-1], u), features[:, 1:]
        known = present if self.e_g is None else past.run("g", self.e_g, append_input(present, u), lengths)
        return Context({"known": known}, states={"driving": before})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(self.e_z(torch.cat([context["known"], known["h"]], -1)))  # (8.11), (8.12)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_t, \mathbf{h}_t)`, Eqs. (8.11)-(8.14)."""
        context = self._context(x, u, lengths, draws, Past())
        driving, z = context.states["driving"], draws.given.get("z")
        if z is not None:  # nothing recurs but h, whose inputs are all known
            h = self._states(driving, z)
            return Inferred({"z": draws("z", self._propose("z", context.frames, {"h": h}))}, {"h": h})
        latent, phi_z, h = self.sample_recursively(draws, driving, context.frames["known"])
        return Inferred({"z": latent}, {"h": h, "phi_z": phi_z})

    def recursion(
        self,
        driving: Float[Tensor, "batch time driving_dim"],
        known: Float[Tensor, "batch time known_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, their features, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        next_state = FrameByFrame(self.d_h, driving)
        e_z = PrecomputedInput([*self.e_z, self.z_head.linear], known)
        state, phi_z = next_state.start(driving.shape[0]), self.phi_z(torch.zeros_like(epsilon[:, 0]))
        frames = []
        for t, epsilon_t in enumerate(epsilon.unbind(1)):
            state = next_state(t, phi_z, state)  # (8.1)
            output = e_z(t, state[0])  # (8.11)
            mean, logvar = output.chunk(2, -1)
            z_t = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)  # (8.12)
            phi_z = self.phi_z(z_t)
            frames.append((z_t, phi_z, state[0], output))
        return tuple(torch.stack(values, 1) for values in zip(*frames, strict=True))

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, h, phi_z = latents["z"], states.get("h"), states.get("phi_z")
        if h is None:
            h = self._states(append_input(self.phi_x(shift(x)), u), z)
        return Generated({"z": self._prior(h)}, self._observe(h, self.phi_z(z) if phi_z is None else phi_z))

    def _states(self, driving: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (8.1), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([driving, self.phi_z(shift(z))], -1))[0]  # type: ignore[no-any-return]

    def _prior(self, h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h))  # (8.4), (8.5)
        return prior

    def _observe(
        self, h: Float[Tensor, "*batch h_dim"], phi_z: Float[Tensor, "*batch feature_z"]
    ) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([phi_z, h], -1)))  # (8.2), (8.3)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = self.d_h.initial_state(batch_size)
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        inputs = torch.cat([append_input(self.phi_x(x_prev), u_t), self.phi_z(state["z"])], -1)
        h, internal = self.d_h(inputs[:, None], state)  # (8.1)
        z = draws("z", self._prior(h[:, 0]), h=h[:, 0])  # (8.5)
        return self._observe(h[:, 0], self.phi_z(z)), {**internal, "z": z}  # (8.3)
