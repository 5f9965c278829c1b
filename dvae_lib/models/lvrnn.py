r"""The latent-variable recurrent network of neural adaptive sequential Monte Carlo, LV-RNN (Chapter 12).

Gu, Ghahramani and Turner (2015), "Neural adaptive sequential Monte Carlo".
"""

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
    prepend_input,
    sample_with_state,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["LVRNN"]

DECODER = """
    h_t <- x_{t-1}, u_t, z_t, h_{t-1}
    x_t ~ h_t
"""
SPECS = {
    "rnn": DependencySpec(
        "k_t <- z_{t-1}, u_t, k_{t-1} \n z_t ~ k_t" + DECODER, "g_t <- x_t, u_t, g_{t-1} \n z_t ~ k_t, g_t"
    ),
    "iid": DependencySpec("z_t ~" + DECODER, "g_t <- x_t, u_t, g_{t-1} \n z_t ~ h_{t-1}, g_t"),
}


@register(
    "lvrnn",
    chapter=12.7,
    variants=[{"prior": name} for name in SPECS],
    small={"feature_x": (8,), "feature_z": (6,), "h_dim": 8, "k_dim": 8, "g_dim": 8, "decoder": (8,), "head": (8,)},
)
class LVRNN(DVAE):
    r"""A latent chain with a memory of its own, and a recurrent network that reads it: made for particle filters.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}\big(\mathbf{x}_t | \mathbf{h}_t(\mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})\big) \,
        p_{\theta_z}\big(\mathbf{z}_t | \mathbf{k}_t(\mathbf{z}_{1:t-1})\big)

    Unlike in the VRNN, past observations do not move the prior of :math:`\mathbf{z}_t`. With `prior="iid"` past
    latents do not either, and the generative model is STORN's. An input :math:`\mathbf{u}_t` enters the recursions of
    :math:`\mathbf{h}_t`, :math:`\mathbf{g}_t` and :math:`\mathbf{k}_t`.

    The inference model has the form of Eq. (8.14), :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{1:t-1},
    \mathbf{x}_{1:t})`: a forward network :math:`\mathbf{g}_t` on the observations, beside the generative model's own
    memory of past latents (:math:`\mathbf{k}_t`, or :math:`\mathbf{h}_{t-1}` where the prior has none). In the paper
    one recurrent network reads both. It is the proposal of a particle filter, and can be trained as such with
    `dvae_lib.objectives.nasmc`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the input vectors.
        prior: "rnn", or "iid" for a standard normal one.
        feature_x: Sizes of the layers (Tanh) between :math:`\mathbf{x}_{t-1}`, or :math:`\mathbf{x}_t` at inference,
            and the recursions.
        feature_z: The same between :math:`\mathbf{z}_t` and the recursions.
        h_dim: Size of the decoder's internal state :math:`\mathbf{h}_t`.
        k_dim: Size of the prior's internal state :math:`\mathbf{k}_t`.
        g_dim: Size of the inference model's internal state :math:`\mathbf{g}_t`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = LVRNN(x_dim=88, z_dim=16, observation="bernoulli")
        >>> model.vlb(torch.ones(2, 7, 88)).kl["z"].shape
        torch.Size([2, 7])
        >>> model.filter(2, num_particles=4).update(torch.ones(2, 88)).score.shape
        torch.Size([2])
    """

    spec = SPECS["rnn"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        prior: str = "rnn",
        feature_x: Sequence[int] = (256,),
        feature_z: Sequence[int] = (32, 64),
        h_dim: int = 128,
        k_dim: int = 64,
        g_dim: int = 128,
        decoder: Sequence[int] = (),
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.spec = choose_spec(SPECS, u_dim, prior=prior)
        # k_t, p(z_t | k_t), h_t, p(x_t | h_t)
        self.phi_x = MLP(x_dim, feature_x)
        self.phi_z = MLP(z_dim, feature_z)
        self.d_k = InternalState(u_dim + self.phi_z.out_dim, k_dim, cell=cell) if prior == "rnn" else None
        self.prior_head = GaussianHead(k_dim, z_dim) if prior == "rnn" else None
        self.d_h = InternalState(self.phi_x.out_dim + u_dim + self.phi_z.out_dim, h_dim, cell=cell)
        self.d_x = MLP(h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(x_dim + u_dim, feature_x)
        self.e_g = Recurrence(self.encoder.out_dim, g_dim, cell=cell)
        self.e_z = MLP(g_dim + (k_dim if prior == "rnn" else h_dim), head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        return Context({"g": past.run("g", self.e_g, self.encoder(append_input(x, u)), lengths)})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(self.e_z(torch.cat([context["g"], known["memory"]], -1)))
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        g = self._context(x, u, lengths, draws, Past()).frames["g"]
        driving = self._driving(x, u)
        if "z" in draws.given:  # nothing recurs but the memory, whose inputs are all known
            z = draws.given["z"]
            h, k = self._decoded(driving, z), self._remembered(u, z)
            memory = shift(h) if k is None else k
            return Inferred({"z": draws("z", self._propose("z", {"g": g}, {"memory": memory}))}, {"h": h})
        inputs = driving if self.d_k is None else append_input(x[..., :0], u)
        latent, memory = self.sample_recursively(draws, inputs, g)
        return Inferred({"z": latent}, {"h" if self.d_k is None else "k": memory})

    def recursion(
        self,
        inputs: Float[Tensor, "batch time in_dim"],
        g: Float[Tensor, "batch time g_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, the memory of past latents, and the outputs with mean and log-variance of q(z_t | .)."""
        e_z = PrecomputedInput([*self.e_z, self.z_head.linear], g)
        if self.d_k is None:
            return sample_with_state(FrameByFrame(self.d_h, inputs), e_z, self.phi_z, epsilon)
        next_state = FrameByFrame(self.d_k, inputs)
        state, z_t, frames = next_state.start(epsilon.shape[0]), torch.zeros_like(epsilon[:, 0]), []
        for t, epsilon_t in enumerate(epsilon.unbind(1)):
            state = next_state(t, self.phi_z(z_t), state)
            output = e_z(t, state[0])
            mean, logvar = output.chunk(2, -1)
            z_t = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)
            frames.append((z_t, state[0], output))
        return tuple(torch.stack(values, 1) for values in zip(*frames, strict=True))

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, h, k = latents["z"], states.get("h"), states.get("k")
        if h is None:
            h = self._decoded(self._driving(x, u), z)
        if self.prior_head is None:
            return Generated({"z": standard_normal(z)}, self._observe(h))
        return Generated({"z": self.prior_head(self._remembered(u, z) if k is None else k)}, self._observe(h))

    def _driving(self, x: Tensor, u: Tensor | None) -> Tensor:
        """What h_t is made of beside z_t and h_{t-1}."""
        return append_input(self.phi_x(shift(x)), u)

    def _decoded(self, driving: Tensor, z: Tensor) -> Float[Tensor, "batch time h_dim"]:
        """The decoder's states h_t of whole sequences."""
        return self.d_h(torch.cat([driving, self.phi_z(z)], -1))[0]  # type: ignore[no-any-return]

    def _remembered(self, u: Tensor | None, z: Tensor) -> Float[Tensor, "batch time k_dim"] | None:
        """The prior's states k_t of whole sequences; None where it has none."""
        return None if self.d_k is None else self.d_k(prepend_input(u, self.phi_z(shift(z))))[0]

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(h))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = self.d_h.initial_state(batch_size)
        if self.d_k is not None:
            state |= {f"prior {name}": value for name, value in self.d_k.initial_state(batch_size).items()}
        return {**state, "z": state["h"].new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        following: State = {}
        prior: DiagonalGaussian
        if self.d_k is None or self.prior_head is None:
            prior, memory = standard_normal(state["z"]), state["h"][:, 0]
        else:
            before = {name.removeprefix("prior "): v for name, v in state.items() if name.startswith("prior ")}
            k, before = self.d_k(prepend_input(u_t, self.phi_z(state["z"]))[:, None], before)
            following, memory = {f"prior {name}": value for name, value in before.items()}, k[:, 0]
            prior = self.prior_head(memory)
        z = draws("z", prior, memory=memory)
        inputs = torch.cat([append_input(self.phi_x(x_prev), u_t), self.phi_z(z)], -1)
        h, internal = self.d_h(inputs[:, None], {name: state[name] for name in self.d_h.state_names})
        return self._observe(h[:, 0]), {**internal, **following, "z": z}
