r"""Stochastic video generation, SVG, with a fixed and with a learned prior (Section 12.2).

Denton and Fergus (2018), "Stochastic video generation with a learned prior".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    GaussianHead,
    InternalState,
    ObservationHead,
    Recurrence,
    append_input,
)
from dvae_lib.objectives import Generated

__all__ = ["SVG"]

FRAMES = """
    h_t <- x_{t-1}, u_t, z_t, h_{t-1}       # the predictor
    x_t ~ h_t
"""
INFERENCE = """
    g_t <- x_t, u_t, g_{t-1}
    z_t ~ g_t
"""
SPECS = {
    "learned": DependencySpec("k_t <- x_{t-1}, u_t, k_{t-1} \n z_t ~ k_t" + FRAMES, INFERENCE),
    "fixed": DependencySpec("z_t ~" + FRAMES, INFERENCE),
}


@register(
    "svg",
    chapter=12.4,
    variants=[{"prior": name} for name in SPECS],
    small={"feature": (8,), "h_dim": 8, "k_dim": 5, "decoder": (8,), "g_dim": 6},
)
class SVG(DVAE):
    r"""A recurrent network into which noise is fed, as much of it as the past calls for.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}\big(\mathbf{x}_t | \mathbf{h}_t(\mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})\big) \,
        p_{\theta_z}\big(\mathbf{z}_t | \mathbf{k}_t(\mathbf{x}_{1:t-1})\big)

    with :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:t})` for an inference model, in which no latent vector looks at
    another: it needs no loop, and reads a stream. The prior is

    - "learned": :math:`p_{\theta_z}(\mathbf{z}_t | \mathbf{x}_{1:t-1})`, from a recursion :math:`\mathbf{k}_t` of its
      own. Its deviation says how much there is to decide in the next frame;
    - "fixed": :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})`. Then the model is a `STORN`, Eqs. (7.4)-(7.8) and
      (7.15)-(7.19).

    All three recursions read the frames through one feature extractor, as in the paper (Denton and Fergus, 2018), whose
    convolutions and skip connections from the last frame of the context are left out here. An input
    :math:`\mathbf{u}_t` enters each recursion beside the features.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        prior: "learned" or "fixed".
        feature: Sizes of the layers (Tanh) of the feature extractor :math:`\varphi_x`.
        h_dim: Size of the predictor's state :math:`\mathbf{h}_t`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        k_dim: Size of the state :math:`\mathbf{k}_t` of the learned prior.
        g_dim: Size of the state of the inference network.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = SVG(x_dim=64, z_dim=4, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 64)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=torch.ones(2, 7, 64)).x.shape
        torch.Size([2, 5, 64])
    """

    spec = SPECS["learned"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        prior: str = "learned",
        feature: Sequence[int] = (256,),
        h_dim: int = 128,
        decoder: Sequence[int] = (256,),
        k_dim: int = 128,
        g_dim: int = 128,
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.spec = choose_spec(SPECS, u_dim, prior=prior)
        self.phi_x = MLP(x_dim, feature)
        read_dim = self.phi_x.out_dim + u_dim
        # h_t, p(x_t | h_t), p(z_t | k_t)
        self.d_h = InternalState(read_dim + z_dim, h_dim, cell=cell)
        self.d_x = MLP(h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        self.d_k = InternalState(read_dim, k_dim, cell=cell) if prior == "learned" else None
        self.prior_head = GaussianHead(k_dim, z_dim) if prior == "learned" else None
        # q(z_t | .)
        self.e_g = Recurrence(read_dim, g_dim, cell=cell)
        self.z_head = GaussianHead(g_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        features = self._features(x)  # of x_0, ..., x_T
        g = past.run("g", self.e_g, append_input(features[:, 1:], u), lengths)
        return Context({"g": g}, states={"before": features[:, :-1]})

    def _features(self, x: Tensor) -> Float[Tensor, "batch time_1 feature"]:
        return self.phi_x(torch.cat([x.new_zeros(x.shape[0], 1, self.x_dim), x], 1))  # type: ignore[no-any-return]

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(context["g"])
        return posterior

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        before = append_input(states["before"] if "before" in states else self._features(x)[:, :-1], u)
        h, _ = self.d_h(torch.cat([before, latents["z"]], -1))
        k = None if self.d_k is None else self.d_k(before)[0]
        return Generated({"z": self._prior(latents["z"], k)}, self._observe(h))

    def _prior(self, like: Float[Tensor, "*batch z_dim"], k: Float[Tensor, "*batch k_dim"] | None) -> DiagonalGaussian:
        prior: DiagonalGaussian = standard_normal(like) if self.prior_head is None else self.prior_head(k)
        return prior

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        of_prior = {} if self.d_k is None else self.d_k.initial_state(batch_size)
        return self.d_h.initial_state(batch_size) | _of_prior(of_prior)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        before, k = append_input(self.phi_x(x_prev), u_t), None
        if self.d_k is not None:
            states, own = self.d_k(before[:, None], {name: state[f"k.{name}"] for name in self.d_k.state_names})
            k, state = states[:, 0], state | _of_prior(own)
        z = draws("z", self._prior(x_prev.new_empty(x_prev.shape[0], self.z_dim), k))
        internal = {name: state[name] for name in self.d_h.state_names}
        h, internal = self.d_h(torch.cat([before, z], -1)[:, None], internal)
        return self._observe(h[:, 0]), state | internal


def _of_prior(state: State) -> State:
    """The state of the prior's recursion under names of its own, beside the predictor's."""
    return {f"k.{name}": value for name, value in state.items()}
