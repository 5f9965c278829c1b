r"""The improved variational recurrent neural network, or Z-forcing (Section 8.4).

Goyal, Sordoni, Côté, Ke and Bengio (2017), "Z-forcing: training stochastic recurrent networks".
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import register
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
from dvae_lib.objectives import Generated, frame_mask
from dvae_lib.objectives.terms import frame_log_prob

__all__ = ["ImprovedVRNN"]

SPEC = DependencySpec(
    generation="""
        z_t ~ h_{t-1}
        h_t <- x_{t-1}, u_t, z_t, h_{t-1}   # (7.4)
        x_t ~ h_t                           # (7.6)
    """,
    inference="""
        b_t <- x_t, u_t, b_{t+1}
        z_t ~ h_{t-1}, b_t
    """,
)


@register(
    "vrnn-improved",
    chapter=8.4,
    small={"feature_x": (8,), "h_dim": 8, "feature_z": (6,), "b_dim": 8, "auxiliary": (6,)},
    speech={"feature_x": (256,), "feature_z": (32, 64), "h_dim": 128, "b_dim": 128},
    motion={"feature_x": (64,), "feature_z": (16, 32), "h_dim": 64, "b_dim": 64},
)
class ImprovedVRNN(DVAE):
    r"""A VRNN whose latent vectors reach the data through the state alone, and are trained to tell of the future.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{h}_t) \, p_{\theta_z}(\mathbf{z}_t | \mathbf{h}_{t-1}),
        \qquad \mathbf{h}_t = d_h(\varphi_x(\mathbf{x}_{t-1}), \varphi_z(\mathbf{z}_t), \mathbf{h}_{t-1})

    The state and the observation are STORN's, Eqs. (7.4)-(7.6), with the prior of the VRNN, Eqs. (8.4)-(8.5), on
    :math:`\mathbf{h}_{t-1}`. Inference has a backward network :math:`\mathbf{b}_t = e_b(\varphi_x(\mathbf{x}_t),
    \mathbf{b}_{t+1})`:

    .. math::
        q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1}, \mathbf{x}_{1:T}) =
        q_\phi(\mathbf{z}_t | \mathbf{h}_{t-1}, \mathbf{b}_t)

    Two auxiliary terms stand beside the bound in the objective (they are no part of the model):

    - ``future``: :math:`\alpha_{\mathbf{b}} \sum_t \log p_\xi(\mathbf{b}_t | \mathbf{z}_t)`, without gradient into
      :math:`\mathbf{b}_t`: the latent vector shall know what the backward network knows (a Gaussian whose mean passes
      through a Tanh, as the state does);
    - ``backward``: :math:`\alpha_{\mathbf{x}} \sum_{t \ge 2} \log p_\xi(\mathbf{x}_{t-1} | \mathbf{b}_t)`: the
      backward network shall know something, namely the frame that comes next on its way. (In the paper
      :math:`\mathbf{z}_t` serves to generate :math:`\mathbf{x}_{t+1}`; with such indices this is its
      :math:`p_\xi(\mathbf{x}_t | \mathbf{b}_t)`.)

    As in the paper, inference does not see :math:`\mathbf{x}_{t-1}` directly, and :math:`\mathbf{h}_{t-1}` does not
    contain it: `spec.inference_gap()` shows it missing.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the input vectors, which enter :math:`d_h` and the backward network.
        future: Weight :math:`\alpha_{\mathbf{b}}` of the first auxiliary term.
        backward: Weight :math:`\alpha_{\mathbf{x}}` of the second.
        feature_x: Sizes of the layers (Tanh) of the feature extractor :math:`\varphi_x`.
        feature_z: The same of :math:`\varphi_z`.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_z`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        b_dim: Size of the backward network's state :math:`\mathbf{b}_t`.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        auxiliary: Sizes of the hidden layers (Tanh) of :math:`p_\xi(\mathbf{b}_t | \mathbf{z}_t)`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = ImprovedVRNN(x_dim=88, z_dim=16, observation="bernoulli")
        >>> sorted(model.vlb(torch.ones(2, 7, 88)).auxiliary)
        ['backward', 'future']
    """

    spec = SPEC.undriven()
    functions = {
        "future_net": r"p_\xi(\mathbf{b}_t \mid \mathbf{z}_t)",
        "future_head": r"p_\xi(\mathbf{b}_t \mid \mathbf{z}_t)",
        "backward_head": r"p_\xi(\mathbf{x}_{t-1} \mid \mathbf{b}_t)",
    }

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        future: float = 0.01,
        backward: float = 0.01,
        feature_x: Sequence[int] = (256,),
        feature_z: Sequence[int] = (32, 64),
        h_dim: int = 128,
        prior: Sequence[int] = (),
        decoder: Sequence[int] = (),
        b_dim: int = 128,
        head: Sequence[int] = (),
        auxiliary: Sequence[int] = (128,),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        for name, weight in (("future", future), ("backward", backward)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} weighs an auxiliary term and must be 0 or more, and finite; got {weight}")
        self.future, self.backward = future, backward
        self.spec = SPEC if u_dim else SPEC.undriven()
        # h_t, p(z_t | h_{t-1}), p(x_t | h_t)
        self.phi_x = MLP(x_dim, feature_x)
        self.phi_z = MLP(z_dim, feature_z)
        self.d_h = InternalState(self.phi_x.out_dim + u_dim + self.phi_z.out_dim, h_dim, cell=cell)
        self.d_z = MLP(h_dim, prior)
        self.prior_head = GaussianHead(self.d_z.out_dim, z_dim)
        self.d_x = MLP(h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | h_{t-1}, b_t)
        self.e_b = Recurrence(self.phi_x.out_dim + u_dim, b_dim, cell=cell, backward=True)
        self.e_z = MLP(b_dim + h_dim, head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)
        # p(b_t | z_t), p(x_{t-1} | b_t)
        self.future_net = MLP(z_dim, auxiliary)
        self.future_head = GaussianHead(self.future_net.out_dim, b_dim)
        self.backward_head = ObservationHead(b_dim, x_dim, observation)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        features = self.phi_x(torch.cat([x.new_zeros(x.shape[0], 1, self.x_dim), x], 1))  # of x_0, ..., x_T
        b = past.run("b", self.e_b, append_input(features[:, 1:], u), lengths)
        return Context({"b": b}, states={"driving": append_input(features[:, :-1], u)})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(self.e_z(torch.cat([context["b"], known["h_prev"]], -1)))
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r""":math:`q_\phi(\mathbf{z}_t | \mathbf{h}_{t-1}, \mathbf{b}_t)`."""
        context = self._context(x, u, lengths, draws, Past())
        driving, b, z = context.states["driving"], context.frames["b"], draws.given.get("z")
        if z is not None:  # nothing recurs but h, whose inputs are all known
            h = self._states(driving, z)
            latent = draws("z", self._propose("z", context.frames, {"h_prev": shift(h)}))
        else:
            latent, h = self.sample_recursively(draws, driving, b)
        return Inferred({"z": latent}, {"h": h, "b": b})

    def recursion(
        self,
        driving: Float[Tensor, "batch time driving_dim"],
        b: Float[Tensor, "batch time b_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        e_z = PrecomputedInput([*self.e_z, self.z_head.linear], b)
        return sample_with_state(FrameByFrame(self.d_h, driving), e_z, self.phi_z, epsilon)  # (7.4)

    def _auxiliary(self, x: Tensor, latents: Values, lengths: Tensor | None, states: Values) -> dict[str, Tensor]:
        r"""The weighted terms :math:`\log p_\xi(\mathbf{b}_t | \mathbf{z}_t)` and
        :math:`\log p_\xi(\mathbf{x}_{t-1} | \mathbf{b}_t)`, summed over each sequence.
        """
        b = states["b"]
        told = self.future_head(self.future_net(latents["z"]))
        # A recurrent network's state lies between -1 and 1, and so does the mean of its distribution.
        future = DiagonalGaussian(told.mean.tanh(), told.logvar).log_prob(b.detach())
        mask = frame_mask(lengths, x.shape[1])
        if mask is not None:
            future = future.where(mask, 0.0)
        seen = states.get("observed")
        backward = frame_log_prob(
            self.backward_head(b[:, 1:]),
            x[:, :-1],
            None if mask is None else mask[:, 1:],
            None if seen is None else seen[:, :-1],
        )
        return {"future": self.future * future.sum(1), "backward": self.backward * backward.sum(1)}

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        h = states.get("h")
        if h is None:
            h = self._states(append_input(self.phi_x(shift(x)), u), latents["z"])
        return Generated({"z": self._prior(shift(h))}, self._observe(h))

    def _states(self, driving: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (7.4), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([driving, self.phi_z(z)], -1))[0]  # type: ignore[no-any-return]

    def _prior(self, h_prev: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h_prev))
        return prior

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))  # (7.5), (7.6)
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return self.d_h.initial_state(batch_size)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        h_prev = state["h"][:, 0]
        z = draws("z", self._prior(h_prev), h_prev=h_prev)
        inputs = torch.cat([append_input(self.phi_x(x_prev), u_t), self.phi_z(z)], -1)
        h, state = self.d_h(inputs[:, None], state)  # (7.4)
        return self._observe(h[:, 0]), state  # (7.6)
