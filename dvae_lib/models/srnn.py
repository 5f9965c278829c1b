r"""The stochastic recurrent neural network, SRNN (Chapter 9).

Fraccaro, Sønderby, Paquet and Winther (2016), "Sequential neural models with stochastic layers".
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
    GaussianHead,
    InternalState,
    ObservationHead,
    PrecomputedInput,
    Recurrence,
    append_input,
    sample_chain,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["SRNN"]

GENERATION = """
    h_t <- x_{t-1}, u_t, h_{t-1}        # (9.1)
    z_t ~ z_{t-1}, h_t                  # (9.5)
    x_t ~ z_t, h_t                      # (9.3)
"""
SPECS = {
    "smoother": DependencySpec(
        GENERATION,
        """
        g_bwd_t <- h_t, x_t, g_bwd_{t+1}    # (9.10)
        z_t ~ z_{t-1}, g_bwd_t              # (9.12)
        """,
    ),
    "filter": DependencySpec(GENERATION, "z_t ~ z_{t-1}, h_t, x_t"),
}


@register(
    "srnn",
    chapter=9,
    variants=[{"inference_model": name} for name in SPECS],
    small={"feature_x": (8,), "h_dim": 8, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    speech={
        "feature_x": (256,),
        "h_dim": 128,
        "prior": (64, 32),
        "decoder": (256,),
        "encoder": (256,),
        "g_dim": 128,
        "head": (64, 32),
    },
    motion={
        "feature_x": (64,),
        "h_dim": 64,
        "prior": (32,),
        "decoder": (64,),
        "encoder": (64,),
        "g_dim": 64,
        "head": (32,),
    },
)
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

    spec = SPECS["smoother"].undriven()

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
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
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

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        h = past.run("h", self.d_h, append_input(self.phi_x(past.shift("x", x)), u))  # (9.1)
        known = self.encoder((h, x))
        if self.e_g is not None:
            known = past.run("g", self.e_g, known, lengths)  # (9.10)
        return Context({"known": known}, states={"h": h})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(
            self.e_z(torch.cat([context["known"], known["z_prev"]], -1))
        )  # (9.11), (9.12)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Default: :math:`q(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{1:T})`, Eqs. (9.9)-(9.13)."""
        context = self._context(x, u, lengths, draws, Past())
        if "z" in draws.given:
            z = draws("z", self._propose("z", context.frames, {"z_prev": shift(draws.given["z"])}))
        else:
            z, *_ = self.sample_recursively(draws, context.frames["known"])
        return Inferred({"z": z}, context.states)

    def recursion(
        self, known: Float[Tensor, "batch time known_dim"], epsilon: Float[Tensor, "batch time z_dim"]
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        return sample_chain(PrecomputedInput([*self.e_z, self.z_head.linear], known), epsilon)  # (9.11), (9.12)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, h = latents["z"], states.get("h")
        if h is None:
            h, _ = self.d_h(append_input(self.phi_x(shift(x)), u))  # (9.1)
        return Generated({"z": self._prior(shift(z), h)}, self._observe(z, h))

    def _prior(self, z_prev: Float[Tensor, "*batch z_dim"], h: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(torch.cat([z_prev, h], -1)))  # (9.4), (9.5)
        return prior

    def _observe(self, z: Float[Tensor, "*batch z_dim"], h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([z, h], -1)))  # (9.2), (9.3)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = self.d_h.initial_state(batch_size)
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        h, internal = self.d_h(append_input(self.phi_x(x_prev), u_t)[:, None], state)  # (9.1)
        z = draws("z", self._prior(state["z"], h[:, 0]), z_prev=state["z"])  # (9.5)
        return self._observe(z, h[:, 0]), {**internal, "z": z}  # (9.3)
