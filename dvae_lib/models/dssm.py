r"""The disentangled state-space model (Section 12.1).

Miladinovic, Gondal, Schölkopf, Buhmann and Bauer (2019), "Disentangled state space representations".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    GatedTransition,
    GaussianHead,
    ObservationHead,
    PrecomputedInput,
    Recurrence,
    append_input,
    prepend_input,
    sample_chain,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["DSSM"]

GENERATION = """
    v ~                             # (12.1)
    z_t ~ z_{t-1}, u_t, v           # (12.1)
    x_t ~ z_t                       # (12.1)
"""
OF_V = """
    gv_t <- x_t, u_t, gv_{t-1}      # (12.c.9)
    v ~ gv_T                        # (12.c.10)
"""
INFERENCE = {
    "filter": "z_t ~ z_{t-1}, x_t, u_t, v          # (12.c.11)",
    "smoother": "gz_t <- x_t, u_t, gz_{t+1} \n z_t ~ z_{t-1}, gz_t, v  # (12.c.8)",
}
QUIET = -4.0
"""Log-variance of the state's noise in a new model, in the prior and in the posterior."""
SPECS = {name: DependencySpec(GENERATION, OF_V + lines) for name, lines in INFERENCE.items()}


@register(
    "dssm",
    chapter=12.3,
    variants=[{"inference_model": name} for name in INFERENCE],
    small={"v_dim": 2, "transition": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
)
class DSSM(DVAE):
    r"""A Markov chain whose law is the sequence's own: one latent vector says how the others move, and no more.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}, \mathbf{v}) = p(\mathbf{v}) \prod_{t=1}^T
        p_{\theta_\mathbf{x}}(\mathbf{x}_t | \mathbf{z}_t) \,
        p_{\theta_\mathbf{z}}(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{v}), \qquad
        p(\mathbf{v}) = \mathcal{N}(\mathbf{0}, \mathbf{I})

    Eq. (12.1), from the first frame on. The transition is the gated one of the deep Kalman filter, Eqs. (B.1)-(B.5),
    which reads :math:`\mathbf{v}`, and an input :math:`\mathbf{u}_t`, beside :math:`\mathbf{z}_{t-1}`. The first state
    has a Gaussian of its own, as uncertain as where sequences start: else :math:`\mathbf{v}` would be used to say it.

    Inference models; both have :math:`q_\phi(\mathbf{v} | \mathbf{x}_{1:T})`, and for z

    - "filter": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{v}, \mathbf{x}_t)`, as in the paper;
    - "smoother": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{v}, \mathbf{x}_{t:T})`, the structure of the
      exact posterior.

    From the second frame on the mean of the posterior is that of the transition plus a correction. So the gradient of a
    frame's likelihood passes through the transitions before it, as in a deep variational Bayes filter, the framework
    that the paper puts its filter into. The correction is zero in a new model, and stays so for as many epochs as a
    training's configuration freezes ``"e_z"`` and ``"z_head"``. While it does, all that is seen must come from the
    first state and from :math:`\mathbf{v}`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors of the frames.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors.
        v_dim: Size of the latent vector of the sequence; by default that of the frames'.
        inference_model: "filter" or "smoother".
        transition: Size of the hidden layers of the gated transition.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_\mathbf{x}`.
        encoder: Sizes of the layers (Tanh) on :math:`\mathbf{x}_t, \mathbf{u}_t`, before the inference of both v and z.
        g_dim: Size of the recursions' states; of the hidden layer on a frame in the filter.
        head: Sizes of the hidden layers (Tanh) of :math:`e_\mathbf{z}`.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = DSSM(x_dim=256, z_dim=6, v_dim=2, observation="bernoulli")
        >>> {name: tuple(kl.shape) for name, kl in model.vlb(torch.ones(2, 7, 256)).kl.items()}
        {'v': (2,), 'z': (2, 7)}
    """

    spec = SPECS["filter"].undriven()
    functions = dict.fromkeys(("e_1", "first_head"), r"e_{\mathbf{z}_1}")

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        v_dim: int | None = None,
        inference_model: str = "filter",
        transition: int = 32,
        decoder: Sequence[int] = (128,),
        encoder: Sequence[int] = (128,),
        g_dim: int = 64,
        head: Sequence[int] = (64,),
        cell: str = "gru",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        v_dim = z_dim if v_dim is None else v_dim
        if not isinstance(v_dim, int) or v_dim < 1:
            raise ValueError(f"v_dim must be an integer of at least 1; got {v_dim!r}")
        self.v_dim, self.inference_model = v_dim, inference_model
        self.spec = choose_spec(SPECS, u_dim, inference_model=inference_model)
        # p(z_t | z_{t-1}, u_t, v), p(x_t | z_t)
        self.d_z = Transition(z_dim, hidden=transition, u_dim=u_dim + v_dim)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(v | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        features = self.encoder.out_dim
        self.e_gv = Recurrence(features, g_dim, cell=cell)
        self.v_head = GaussianHead(g_dim, v_dim)
        # q(z_1 | .), and how q(z_t | .) differs from p(z_t | .)
        smoother = inference_model == "smoother"
        self.e_gz = Recurrence(features, g_dim, cell=cell, backward=True) if smoother else MLP(features, [g_dim])
        self.e_1 = MLP(g_dim + v_dim, head)
        self.first_head = GaussianHead(self.e_1.out_dim, z_dim)
        self.e_z = MLP(g_dim + v_dim + z_dim, head)
        self.z_head = Correction(self.e_z.out_dim, z_dim)
        self._start_near_rest()

    @torch.no_grad()
    def _start_near_rest(self) -> None:
        """A transition that keeps the state, nearly without noise, and a posterior that does not correct it yet."""
        self.d_z.linear.weight.copy_(torch.eye(*self.d_z.linear.weight.shape))
        gate = self.d_z.gate[2]
        assert isinstance(gate, nn.Linear)
        gate.bias.fill_(-2.0)
        self.d_z.variance.bias.fill_(QUIET)
        for head in (self.first_head, self.z_head):
            head.linear.bias[self.z_dim :] = QUIET
        self.z_head.linear.weight[: self.z_dim] = 0
        self.z_head.linear.bias[: self.z_dim] = 0

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """v, and what the present and later frames, or the present one alone, say of z_t; with v beside it."""
        seen = self.encoder(append_input(x, u))
        v = draws("v", self.v_head(self._summary(seen, lengths, past)))  # (12.c.10)
        looks_ahead = self.inference_model == "smoother"
        g = past.run("gz", self.e_gz, seen, lengths) if looks_ahead else self.e_gz(seen)
        return Context({"known": torch.cat([g, _drivers(None, v.sample, g.shape[1])], -1)}, {"v": v})

    def _summary(self, seen: Tensor, lengths: Tensor | None, past: Past) -> Float[Tensor, "batch g_dim"]:
        """The forward recursion's state after each sequence's last frame, Eq. (12.c.9)."""
        states = past.run("gv", self.e_gv, seen, lengths)
        rows = torch.arange(seen.shape[0], device=seen.device)
        return states[:, -1] if lengths is None else states[rows, lengths - 1]

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        """In the first frame a posterior of its own; then what the transition says, corrected."""
        read, begun = context["known"], known["begun"]
        features, first = self.e_z(torch.cat([read, known["z_prev"]], -1)), self.first_head(self.e_1(read))
        posterior: Distribution = self.z_head(features, known["expected"], first, begun)  # (12.c.11)
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""v, Eqs. (12.c.9)-(12.c.10), then z in turn given v; default: Eq. (12.c.11)."""
        context = self._context(x, u, lengths, draws, Past())
        z, known = draws.given.get("z"), context.frames["known"]
        drivers = _drivers(u, context.latents["v"].sample, x.shape[1])
        if z is not None:
            z_prev, begun = shift(z), _begun(z)
            expected = self.d_z(torch.cat([z_prev, drivers], -1), begun).mean
            past = {"z_prev": z_prev, "expected": expected, "begun": begun}
            latent = draws("z", self._propose("z", context.frames, past))
        else:
            (latent,) = self.sample_recursively(draws, known, drivers)
        return Inferred({**context.latents, "z": latent})

    def recursion(
        self,
        known: Float[Tensor, "batch time known_dim"],
        drivers: Float[Tensor, "batch time driver_dim"],
        epsilon: Float[Tensor, "batch time z_dim"],
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        first: Tensor = self.first_head.linear(self.e_1(known[:, 0]))
        change = PrecomputedInput([*self.e_z, self.z_head.linear], known)
        at_t, begun = drivers.unbind(1), torch.ones_like(known[:, 0, :1])

        def parameters(t: int, z_prev: Tensor) -> Tensor:
            if t == 0:
                return first
            mean = self.d_z(torch.cat([z_prev, at_t[t]], -1), begun).mean
            return change(t, z_prev) + torch.cat([mean, torch.zeros_like(mean)], -1)  # (12.c.11)

        return sample_chain(parameters, epsilon)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, v = latents["z"], latents["v"]
        prior = self.d_z(torch.cat([shift(z), _drivers(u, v, z.shape[1])], -1), _begun(z))  # (12.1)
        return Generated({"v": standard_normal(v), "z": prior}, self.x_head(self.d_x(z)))

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        blank = next(self.parameters()).new_zeros(batch_size, self.z_dim + self.v_dim)
        v = draws("v", standard_normal(blank[:, : self.v_dim]))
        return {"z": blank[:, self.v_dim :], "v": v, "begun": blank[:, :1]}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z_prev, v, begun = state["z"], state["v"], state["begun"]
        prior = self.d_z(torch.cat([z_prev, prepend_input(u_t, v)], -1), begun)  # (12.1)
        z = draws("z", prior, z_prev=z_prev, expected=prior.mean, begun=begun)
        return self.x_head(self.d_x(z)), {"z": z, "v": v, "begun": torch.ones_like(begun)}


class Transition(GatedTransition):
    """The gated transition, and a Gaussian for the first state, which nothing leads to: it is less certain.

    Arguments:
        z_dim: Size of the state.
        hidden: Size of the hidden layers.
        u_dim: Size of what is read beside the state, and alone in the first frame.
    """

    def __init__(self, z_dim: int, *, hidden: int, u_dim: int) -> None:
        super().__init__(z_dim, hidden=hidden, u_dim=u_dim)
        self.start = GaussianHead(u_dim, z_dim)

    def forward(  # type: ignore[override]
        self, features: Float[Tensor, "*batch in_dim"], begun: Float[Tensor, "*batch 1"]
    ) -> DiagonalGaussian:
        """The Gaussian of the next state; of the first one where `begun` is zero."""
        later, first = super().forward(features), self.start(features[..., self.linear.out_features :])
        mean = torch.where(begun > 0, later.mean, first.mean)
        return DiagonalGaussian(mean, torch.where(begun > 0, later.logvar, first.logvar))


class Correction(GaussianHead):
    """A Gaussian whose mean is what was expected, corrected by a linear layer, which puts out the variance, too."""

    def forward(  # type: ignore[override]
        self,
        features: Float[Tensor, "*batch in_dim"],
        expected: Float[Tensor, "*batch dim"],
        first: DiagonalGaussian,
        begun: Float[Tensor, "*batch 1"],
    ) -> DiagonalGaussian:
        """The Gaussian; in a first frame, of which nothing is expected, the other one."""
        change = super().forward(features)
        mean = torch.where(begun > 0, expected + change.mean, first.mean)
        return DiagonalGaussian(mean, torch.where(begun > 0, change.logvar, first.logvar))


def _begun(frames: Float[Tensor, "batch time _"]) -> Float[Tensor, "batch time 1"]:
    """Zero at the first frame, one at the others."""
    begun = torch.ones_like(frames[..., :1])
    begun[:, 0] = 0
    return begun


def _drivers(u: Tensor | None, v: Float[Tensor, "batch v_dim"], num_steps: int) -> Tensor:
    """What the transition reads beside the state: the inputs, and v beside each frame."""
    return prepend_input(u, v[:, None].expand(-1, num_steps, -1))
