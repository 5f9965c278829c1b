r"""The stochastic recurrent network, STORN (Chapter 7).

Bayer and Osendorfer (2014), "Learning stochastic recurrent networks".
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

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
    sample_with_state,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["STORN"]

GENERATION = """
    z_t ~                                   # (7.7)
    h_t <- x_{t-1}, u_t, z_t, h_{t-1}       # (7.4)
    x_t ~ h_t                               # (7.6)
"""
SPECS = {
    "filter": DependencySpec(
        GENERATION,
        """
        g_t <- x_t, u_t, g_{t-1}                # (7.15)
        z_t ~ g_t                               # (7.17)
        """,
    ),
    "lagged": DependencySpec(GENERATION, "g_t <- x_{t-1}, u_t, g_{t-1} \n z_t ~ g_t"),
    "smoother": DependencySpec(GENERATION, "g_bwd_t <- x_t, u_t, g_bwd_{t+1} \n z_t ~ h_{t-1}, x_{t-1}, u_t, g_bwd_t"),
}
WITH_MEMORY = {
    name: DependencySpec(GENERATION.replace("z_t ~ ", "z_t ~ z_{t-1}"), spec.inference) for name, spec in SPECS.items()
}
"""The same with the prior z_t ~ z_{t-1}, which Chapter 14b needs."""


@register(
    "storn",
    chapter=7,
    variants=[{"inference_model": name} for name in SPECS],
    small={
        "feature_x": (8,),
        "h_dim": 8,
        "feature_z": (6,),
        "decoder": (8,),
        "encoder": (8,),
        "g_dim": 8,
        "head": (8,),
    },
    speech={
        "feature_x": (256,),
        "feature_z": (32, 64),
        "h_dim": 128,
        "decoder": (256,),
        "encoder": (256,),
        "g_dim": 128,
        "head": (64, 32),
    },
    motion={
        "feature_x": (64,),
        "feature_z": (32,),
        "h_dim": 64,
        "decoder": (),
        "encoder": (64,),
        "g_dim": 64,
        "head": (32,),
    },
)
class STORN(DVAE):
    r"""A recurrent network into which independent noise is fed, frame by frame.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}\big(\mathbf{x}_t | \mathbf{h}_t(\mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})\big) \, p(\mathbf{z}_t),
        \qquad p(\mathbf{z}_t) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    Eqs. (7.4)-(7.8). An input :math:`\mathbf{u}_t` enters :math:`d_h` beside :math:`\mathbf{x}_{t-1}`.

    Inference models:

    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t})`, Eqs. (7.15)-(7.17), as the review corrects the paper;
    - "lagged": :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t-1})`, one frame late: the paper's, as the review
      reads it (Section 7.2);
    - "smoother": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:T})`, the structure of the exact
      posterior (7.12). The past comes in through :math:`\mathbf{h}_{t-1}` and :math:`\mathbf{x}_{t-1}`, which are all
      that the future knows of it; a backward network reads :math:`\mathbf{x}_{t:T}`.

    With a `memory` :math:`\alpha` the noise is no longer independent: each entry is a stationary autoregressive
    process, :math:`z_t \sim \mathcal{N}(\alpha z_{t-1}, 1 - \alpha^2)`. The first two inference models,
    which do not look at :math:`\mathbf{z}_{t-1}`, can then not collapse: they pay at least
    `dvae_lib.objectives.committed_rate` (Razavi et al., 2019).

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        inference_model: "filter", "lagged" or "smoother".
        memory: Correlation :math:`\alpha` of an entry of the latent vector with itself a frame before, under the prior.
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

    spec = SPECS["filter"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        inference_model: str = "filter",
        memory: float = 0.0,
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
        if not -1 < memory < 1:
            raise ValueError(f"memory is a correlation between -1 and 1; got {memory}")
        self.inference_model, self.memory = inference_model, memory
        self.spec = choose_spec(WITH_MEMORY if memory else SPECS, u_dim, inference_model=inference_model)
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

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        before = past.shift("x", x)
        seen = before if self.inference_model == "lagged" else x
        known = past.run("g", self.e_g, self.encoder(append_input(seen, u)), lengths)  # (7.15)
        if self.inference_model != "smoother":
            return Context({"known": known})
        driving = append_input(self.phi_x(before), u)  # what h_t is made of beside z_t and h_{t-1}
        return Context({"known": torch.cat([known, driving], -1)}, states={"driving": driving})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        read = context["known"]
        if self.inference_model == "smoother":
            read = torch.cat([read, known["h_prev"]], -1)
        posterior: Distribution = self.z_head(self.e_z(read))  # (7.16), (7.17)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Default: :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t})`, Eqs. (7.15)-(7.19)."""
        if self.inference_model != "smoother":
            return super()._infer(x, u, lengths, draws)
        context = self._context(x, u, lengths, draws, Past())
        driving = context.states["driving"]
        if "z" in draws.given:  # nothing recurs but h, whose inputs are all known
            h = self._states(driving, draws.given["z"])
            z = draws("z", self._propose("z", context.frames, {"h_prev": shift(h)}))
        else:
            z, h = self.sample_recursively(draws, driving, context.frames["known"])
        return Inferred({"z": z}, {"h": h})

    def recursion(
        self,
        driving: Float[Tensor, "batch time driving_dim"],
        known: Float[Tensor, "batch time known_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The smoother's loop: all z_t, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        e_z = PrecomputedInput([*self.e_z, self.z_head.linear], known)
        return sample_with_state(FrameByFrame(self.d_h, driving), e_z, self.phi_z, epsilon)  # (7.4)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, h = latents["z"], states.get("h")
        if h is None:
            h = self._states(append_input(self.phi_x(shift(x)), u), z)
        before = shift(z)
        started = torch.ones_like(z[..., :1])
        started[:, 0] = 0.0
        return Generated({"z": self._prior(before, started)}, self._observe(h))  # (7.7), (7.5), (7.6)

    def _prior(self, z_prev: Float[Tensor, "*batch z_dim"], started: Float[Tensor, "*batch 1"]) -> DiagonalGaussian:
        """The prior given the frame before; where nothing has started there is none."""
        if not self.memory:
            return standard_normal(z_prev)  # (7.7)
        logvar = math.log1p(-(self.memory**2)) * started.expand_as(z_prev)
        return DiagonalGaussian(self.memory * z_prev, logvar)

    def _states(self, driving: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (7.4), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([driving, self.phi_z(z)], -1))[0]  # type: ignore[no-any-return]

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))  # (7.5), (7.6)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = self.d_h.initial_state(batch_size)
        if self.memory:
            state = {**state, "z": state["h"].new_zeros(batch_size, self.z_dim), "started": state["h"][:, 0, :1] * 0}
        return state

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z_prev = state["z"] if self.memory else x_prev.new_empty(x_prev.shape[0], self.z_dim)
        prior = self._prior(z_prev, state.get("started", z_prev[:, :1]))
        z = draws("z", prior, h_prev=state["h"][:, 0])
        inputs = torch.cat([append_input(self.phi_x(x_prev), u_t), self.phi_z(z)], -1)
        h, internal = self.d_h(inputs[:, None], state)  # (7.4)
        memory = {"z": z, "started": torch.ones_like(z[:, :1])} if self.memory else {}
        return self._observe(h[:, 0]), {**internal, **memory}  # (7.6)
