r"""The deep variational Bayes filter (Section 12.1).

Karl, Soelch, Bayer and van der Smagt (2017), "Deep variational Bayes filters: unsupervised learning of state space
models from raw data".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    GaussianHead,
    LocallyLinear,
    ObservationHead,
    PrecomputedInput,
    Recurrence,
    append_input,
    prepend_input,
    shift,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["DVBF"]

GENERATION = """
    w_t ~                       # (12.c.1)
    z_t <- z_{t-1}, u_t, w_t    # (12.c.2)
    x_t ~ z_t                   # (12.c.4)
"""
INFERENCE = {
    "smoother": "g_t <- x_t, u_t, g_{t+1} \n w_t ~ z_{t-1}, g_t",
    "filter": "w_t ~ z_{t-1}, x_t, u_t",
}
SPECS = {name: DependencySpec(GENERATION, lines) for name, lines in INFERENCE.items()}


@register(
    "dvbf",
    chapter=12.3,
    variants=[{"inference_model": name} for name in INFERENCE],
    small={"matrices": 3, "transition": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
)
class DVBF(DVAE):
    r"""A state that follows from noise: what is inferred is the noise, so errors of the picture train the transition.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{w}_{1:T} | \mathbf{u}_{1:T}) = \prod_{t=1}^T
        p_{\theta_\mathbf{x}}(\mathbf{x}_t | \mathbf{z}_t) \, p(\mathbf{w}_t), \qquad
        p(\mathbf{w}_t) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    .. math::
        \mathbf{z}_t = \mathbf{A}_t \mathbf{z}_{t-1} + \mathbf{B}_t \mathbf{u}_t + \mathbf{C}_t \mathbf{w}_t, \qquad
        (\mathbf{A}, \mathbf{B}, \mathbf{C})_t = \sum_{i=1}^M \alpha_t^{(i)} (\mathbf{A}, \mathbf{B}, \mathbf{C})^{(i)}

    with :math:`\boldsymbol\alpha_t` the Softmax of a network of :math:`\mathbf{z}_{t-1}, \mathbf{u}_t`, and
    :math:`\mathbf{z}_1 = f_1(\mathbf{w}_1) + \mathbf{B}_1 \mathbf{u}_1`. Inference models:

    - "smoother": :math:`q_\phi(\mathbf{w}_t | \mathbf{z}_{t-1}, \mathbf{x}_{t:T}, \mathbf{u}_{t:T})`, the structure of
      the exact posterior. The paper looks ahead in this way at the first frame alone;
    - "filter": :math:`q_\phi(\mathbf{w}_t | \mathbf{z}_{t-1}, \mathbf{x}_t, \mathbf{u}_t)`, the paper's of all others.

    The transition is learned late. With small weights of the KL terms at first noise is cheap, and may say anew in each
    frame what the transition should have said; to hold the maps of the noise at zero at first, as the study
    `dvae_lib.experiments.studies.physics` does, makes states that no single frame shows.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the states.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors.
        w_dim: Size of the noise, the latent vectors; by default that of the states.
        matrices: Number M of transitions that are mixed; 1: a linear one.
        inference_model: "smoother" or "filter".
        transition: Sizes of the hidden layers (Tanh) of the network that puts out the weights.
        initial: Sizes of the hidden layers (Tanh) of :math:`f_1`; none: it is linear.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_\mathbf{x}`.
        encoder: Sizes of the layers (Tanh) on :math:`\mathbf{x}_t, \mathbf{u}_t` before the inference network.
        g_dim: Size of the backward recursion's state; of the hidden layer in the filter.
        head: Sizes of the hidden layers (Tanh) of :math:`e_\mathbf{w}`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = DVBF(x_dim=256, z_dim=3, observation="bernoulli", matrices=8, u_dim=1)
        >>> bound = model.vlb(torch.ones(2, 7, 256), torch.zeros(2, 7, 1))
        >>> {name: tuple(kl.shape) for name, kl in bound.kl.items()}
        {'w': (2, 7)}
        >>> model.states(torch.zeros(2, 7, 3), torch.zeros(2, 7, 1)).shape
        torch.Size([2, 7, 3])
    """

    spec = SPECS["smoother"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        w_dim: int | None = None,
        matrices: int = 16,
        inference_model: str = "smoother",
        transition: Sequence[int] = (16,),
        initial: Sequence[int] = (),
        decoder: Sequence[int] = (128,),
        encoder: Sequence[int] = (128,),
        g_dim: int = 64,
        head: Sequence[int] = (64,),
        cell: str = "gru",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        w_dim = z_dim if w_dim is None else w_dim
        for name, size in (("z_dim", z_dim), ("w_dim", w_dim)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {size!r}")
        self.w_dim, self.inference_model = w_dim, inference_model
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
        # z_t of z_{t-1}, u_t, w_t; p(x_t | z_t)
        self.d_z = LocallyLinear(w_dim, z_dim, u_dim=u_dim, matrices=matrices, weights=transition, initial=initial)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(w_t | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        features = self.encoder.out_dim
        smoother = inference_model == "smoother"
        self.e_g = Recurrence(features, g_dim, cell=cell, backward=True) if smoother else MLP(features, [g_dim])
        self.e_w = MLP(g_dim + z_dim, head)
        self.w_head = GaussianHead(self.e_w.out_dim, w_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """What the present and later frames, or the present one alone, say of the noise."""
        seen = self.encoder(append_input(x, u))
        return Context({"g": past.run("g", self.e_g, seen, lengths) if self._looks_ahead else self.e_g(seen)})

    @property
    def _looks_ahead(self) -> bool:
        return self.inference_model == "smoother"

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.w_head(self.e_w(torch.cat([context["g"], known["z_prev"]], -1)))  # (12.c.6)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""The noises in turn, each given the state that those before have led to; and the states."""
        g = self._context(x, u, lengths, draws, Past()).frames["g"]
        w = draws.given.get("w")
        if w is not None:
            z = self.d_z(prepend_input(u, w))
            return Inferred({"w": draws("w", self._propose("w", {"g": g}, {"z_prev": shift(z)}))}, {"z": z})
        epsilon = draws.noise(g.new_empty(*g.shape[:2], self.w_dim))
        w, z, output = self.run_recursion(g, _inputs(u, g), epsilon)
        return Inferred({"w": Latent(w, DiagonalGaussian.from_output(output))}, {"z": z})

    def recursion(
        self,
        g: Float[Tensor, "batch time g_dim"],
        u: Float[Tensor, "batch time u_dim"],
        epsilon: Float[Tensor, "batch time w_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all w_t, all z_t, and the outputs that hold mean and log-variance of q(w_t | .)."""
        parameters = PrecomputedInput([*self.e_w, self.w_head.linear], g)
        z_t = epsilon.new_zeros(epsilon.shape[0], self.z_dim)
        noises, states, outputs = [], [], []
        for t, (u_t, epsilon_t) in enumerate(zip(u.unbind(1), epsilon.unbind(1), strict=True)):
            outputs.append(parameters(t, z_t))
            mean, logvar = outputs[t].chunk(2, -1)
            noises.append(torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t))
            z_t = self.d_z.step(z_t, u_t, noises[t]) if t else self.d_z.first(u_t, noises[t])  # (12.c.2)
            states.append(z_t)
        return torch.stack(noises, 1), torch.stack(states, 1), torch.stack(outputs, 1)

    def states(
        self, w: Float[Tensor, "batch time w_dim"], u: Float[Tensor, "batch time u_dim"] | None = None
    ) -> Float[Tensor, "batch time z_dim"]:
        r"""The states :math:`\mathbf{z}_{1:T}` that noises lead to.

        Arguments:
            w: The noises: of the prior, or the samples of `inference`.
            u: The input sequences of a driven model.

        Raises:
            ValueError: Noises or inputs of another shape.
        """
        if w.ndim != 3 or w.shape[-1] != self.w_dim:
            raise ValueError(f"expected w of shape (batch, time, {self.w_dim}); got {tuple(w.shape)}")
        wanted = (*w.shape[:2], self.u_dim) if self.u_dim else None
        if wanted != (None if u is None else tuple(u.shape)):
            raise ValueError(f"expected {f'u of shape {wanted}' if wanted else 'no u'}; got {_shape(u)}")
        z: Tensor = self.d_z(prepend_input(u, w))
        return z

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        w, z = latents["w"], states.get("z")
        if z is None:
            z = self.d_z(prepend_input(u, w))  # (12.c.2)
        return Generated({"w": standard_normal(w)}, self.x_head(self.d_x(z)))  # (12.c.1), (12.c.4)

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        blank = next(self.parameters()).new_zeros(batch_size, self.z_dim)
        return {"z": blank, "begun": blank[:, :1]}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z_prev, begun = state["z"], state["begun"]
        w = draws("w", standard_normal(z_prev.new_zeros(z_prev.shape[0], self.w_dim)), z_prev=z_prev)  # (12.c.1)
        u_t = _inputs(u_t, w)
        z = torch.where(begun > 0, self.d_z.step(z_prev, u_t, w), self.d_z.first(u_t, w))  # (12.c.2)
        return self.x_head(self.d_x(z)), {"z": z, "begun": torch.ones_like(begun)}  # (12.c.4)


def _shape(u: Tensor | None) -> tuple[int, ...] | None:
    return None if u is None else tuple(u.shape)


def _inputs(u: Tensor | None, frames: Float[Tensor, "*batch _"]) -> Tensor:
    """The inputs; of size 0 in an undriven model."""
    return frames[..., :0] if u is None else u
