r"""The improved variational recurrent neural network, or Z-forcing (Section 8.4).

Goyal, Sordoni, Côté, Ke and Bengio (2017), "Z-forcing: training stochastic recurrent networks".
"""

import math
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
    draw_then_update,
    shift,
)
from dvae_lib.objectives import Generated, Latent, frame_mask

__all__ = ["ImprovedVRNN"]


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

    spec = DependencySpec(
        generation="""
            z_t ~ h_{t-1}
            h_t <- x_{t-1}, z_t, h_{t-1}        # (7.4)
            x_t ~ h_t                           # (7.6)
        """,
        inference="""
            b_t <- x_t, b_{t+1}
            z_t ~ h_{t-1}, b_t
        """,
    )

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
        self.spec = _spec(driven=u_dim > 0)
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
        r""":math:`q_\phi(\mathbf{z}_t | \mathbf{h}_{t-1}, \mathbf{b}_t)`."""
        past, b = self._read(x, u, lengths)
        return {"z": self._infer(past, b, (latents or {}).get("z"), draw, generator)[0]}

    def _read(self, x: Tensor, u: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """What enters the state beside z_t and h_{t-1}; and the backward network's states."""
        features = self.phi_x(torch.cat([x.new_zeros(x.shape[0], 1, self.x_dim), x], 1))  # of x_0, ..., x_T
        return beside(features[:, :-1], u), self.e_b(beside(features[:, 1:], u), lengths)

    def _infer(
        self, past: Tensor, b: Tensor, z: Tensor | None, draw: Draw, generator: Generator | None
    ) -> tuple[Latent, Float[Tensor, "batch time h_dim"]]:
        """The posterior, and the states h_{1:T} that it was computed along with."""
        if z is not None:  # nothing recurs but h, whose inputs are all known
            h = self._states(past, z)
            return Latent(z, self.z_head(self.e_z(torch.cat([b, shift(h)], -1)))), h
        epsilon = noise(b.new_empty(*b.shape[:2], self.z_dim), draw, generator)
        z, h, output = self.run_recursion(past, b, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output)), h

    def recursion(
        self,
        past: Float[Tensor, "batch time past_dim"],
        b: Float[Tensor, "batch time b_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, h_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        e_z = PartlyKnown([*self.e_z, self.z_head.linear], b)
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
        """Both directions, and the auxiliary terms; under teacher forcing the directions share the states h_t."""
        past, b = self._read(x, u, lengths)
        latent, h = self._infer(past, b, None, draw, generator)
        if feedback > 0:
            generated = self.generation(
                x, {"z": latent.sample}, u, lengths=lengths, feedback=feedback, generator=generator
            )
        else:
            generated = self._generated(h)
        return {"z": latent}, generated._replace(auxiliary=self._auxiliary(x, b, latent.sample, lengths))

    def _auxiliary(self, x: Tensor, b: Tensor, z: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
        r"""The weighted terms :math:`\log p_\xi(\mathbf{b}_t | \mathbf{z}_t)` and
        :math:`\log p_\xi(\mathbf{x}_{t-1} | \mathbf{b}_t)`, summed over each sequence.
        """
        told = self.future_head(self.future_net(z))
        # A recurrent network's state lies between -1 and 1, and so does the mean of its distribution.
        future = DiagonalGaussian(told.mean.tanh(), told.logvar).log_prob(b.detach())
        backward = self.backward_head(b[:, 1:]).log_prob(x[:, :-1])
        mask = frame_mask(lengths, x.shape[1])
        if mask is not None:
            future, backward = future.where(mask, 0.0), backward.where(mask[:, 1:], 0.0)
        return {"future": self.future * future.sum(1), "backward": self.backward * backward.sum(1)}

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
        r"""The prior on :math:`\mathbf{h}_{t-1}` and :math:`p(\mathbf{x}_t | \mathbf{h}_t)`, for all frames at once.

        With `feedback`, frame by frame: see `generation_fed_back`.
        """
        if feedback != 0:
            return self.generation_fed_back(x, latents, u, feedback=feedback, generator=generator)
        return self._generated(self._states(beside(self.phi_x(shift(x)), u), latents["z"]))

    def _states(self, past: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The internal states, Eq. (7.4), from what is known of the past and the latent vectors."""
        return self.d_h(torch.cat([past, self.phi_z(z)], -1))[0]  # type: ignore[no-any-return]

    def _generated(self, h: Tensor) -> Generated:
        return Generated({"z": self._prior(shift(h))}, self._observe(h))

    def _prior(self, h_prev: Float[Tensor, "*batch h_dim"]) -> DiagonalGaussian:
        prior: DiagonalGaussian = self.prior_head(self.d_z(h_prev))
        return prior

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
        """Draw z_t from its prior given h_{t-1}, update the state (7.4), observe (7.6)."""
        prior = self._prior(state["h"][:, 0])
        if z_t is None:
            z_t = prior.sample(generator=generator)
        inputs = torch.cat([beside(self.phi_x(x_prev), u_t), self.phi_z(z_t)], -1)
        h, state = self.d_h(inputs[:, None], state)
        return StepOutput(prior, z_t, self._observe(h[:, 0]), state)


def _spec(*, driven: bool) -> DependencySpec:
    """The dependencies, in the review's notation."""
    if not driven:
        return ImprovedVRNN.spec
    return DependencySpec(
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
