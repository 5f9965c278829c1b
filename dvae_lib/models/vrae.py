r"""The variational recurrent autoencoder, VRAE, and the model with noise in each frame beside it (Section 12.2).

Fabius and van Amersfoort (2014), "Variational recurrent auto-encoders"; Babaeizadeh, Finn, Erhan, Campbell and Levine
(2018), "Stochastic variational video prediction".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import FactorisedDistribution, standard_normal
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
    prepend_input,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["VRAE"]

SPECS = {
    "sequence": DependencySpec(
        """
        v ~
        h_t <- x_{t-1}, u_t, h_{t-1}, v         # v makes h_0
        x_t ~ h_t                               # (12.2)
        """,
        """
        g_t <- x_t, u_t, g_{t-1}
        v ~ g_T
        """,
    ),
    "frame": DependencySpec(
        """
        h_t <- x_{t-1}, u_t, h_{t-1}
        z_t ~
        x_t ~ h_t, z_t
        """,
        """
        g_fwd_t <- x_t, u_t, g_fwd_{t-1}
        g_bwd_t <- x_t, u_t, g_bwd_{t+1}
        z_t ~ g_fwd_t, g_bwd_t
        """,
    ),
}


@register(
    "vrae",
    chapter=12.4,
    variants=[{"latent": name} for name in SPECS],
    small={"feature": (8,), "h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 6, "head": (7,)},
)
class VRAE(DVAE):
    r"""A whole sequence from one latent vector.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{v}) = p(\mathbf{v}) \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{x}_{1:t-1}, \mathbf{v}), \qquad p(\mathbf{v}) = \mathcal{N}(\mathbf{0},
        \mathbf{I})

    Eq. (12.2), with :math:`\mathbf{v}` for what is :math:`\mathbf{z}` there, as in Chapter 11. The latent vector makes
    the initial state of the recursion, :math:`\mathbf{h}_0 = \tanh(W \mathbf{v} + \mathbf{b})`, through which it
    reaches all frames; it is inferred from the last state of a recursion over the frames,
    :math:`q_\phi(\mathbf{v} | \mathbf{x}_{1:T})`. An input :math:`\mathbf{u}_t` enters both recursions beside the
    frames. With `feedback` 1 the model is what Fabius and van Amersfoort (2014) trained,
    :math:`\prod_t p(\mathbf{x}_t | \mathbf{v})`.

    What `latent` says is drawn once for the

    - "sequence": as above;
    - "frame": the model that Babaeizadeh et al. (2018) compare with,
      :math:`p(\mathbf{x}_t | \mathbf{x}_{1:t-1}, \mathbf{z}_t)` with :math:`p(\mathbf{z}_t) = \mathcal{N}(\mathbf{0},
      \mathbf{I})`. Here its inference model reads all frames, :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_{1:T})`. Under
      teacher forcing the exact posterior looks at :math:`\mathbf{x}_{1:t}` only; in generation mode also at what
      follows.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vector, :math:`\mathbf{v}` or :math:`\mathbf{z}_t`.
        observation: The family of :math:`p(\mathbf{x}_t | \cdot)`.
        u_dim: Size of the input vectors.
        latent: "sequence" or "frame".
        feature: Sizes of the layers (Tanh) on :math:`\mathbf{x}_{t-1}`, before the recursion.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) on :math:`\mathbf{x}_t`, before the inference network's recursion.
        g_dim: Size of each internal state of the inference network.
        head: Sizes of the hidden layers (Tanh) between these and the posterior's parameters.
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> import torch
        >>> model = VRAE(x_dim=88, z_dim=2, observation="bernoulli")
        >>> model.vlb(torch.ones(3, 16, 88), feedback=1.0).kl["v"].shape
        torch.Size([3])
        >>> model.generate(16, 5).latents["v"].shape
        torch.Size([5, 2])
    """

    spec = SPECS["sequence"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        latent: str = "sequence",
        feature: Sequence[int] = (),
        h_dim: int = 128,
        decoder: Sequence[int] = (),
        encoder: Sequence[int] = (),
        g_dim: int = 128,
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if self.z_dim == 0:
            raise ValueError("z_dim must be an integer of at least 1; got 0")
        self.spec = choose_spec(SPECS, u_dim, latent=latent)
        self.of_sequence, self.v_dim = latent == "sequence", self.z_dim
        # h_t and p(x_t | .)
        self.phi_x = MLP(x_dim, feature)
        self.d_h = InternalState(self.phi_x.out_dim + u_dim, h_dim, cell=cell)
        self.d_x = MLP(h_dim if self.of_sequence else h_dim + z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # h_0 (with an LSTM: and its cell) from v
        states_dim = len(self.d_h.state_names) * h_dim
        self.d_0 = nn.Linear(z_dim, states_dim) if self.of_sequence else None
        # q(v | .), or q(z_t | .)
        self.encoder = MLP(x_dim + u_dim, encoder)
        directions = (False,) if self.of_sequence else (False, True)
        self.e_g = nn.ModuleList(Recurrence(self.encoder.out_dim, g_dim, cell=cell, backward=b) for b in directions)
        self.e_z = MLP(len(directions) * g_dim, head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        seen = self.encoder(append_input(x, u))
        g = torch.cat([past.run(f"g_{i}", e_g, seen, lengths) for i, e_g in enumerate(self.e_g)], -1)
        if not self.of_sequence:
            return Context({"g": g})
        last = g[:, -1] if lengths is None else g[torch.arange(g.shape[0], device=g.device), lengths - 1]
        return Context({}, {"v": draws("v", self.z_head(self.e_z(last)))})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(self.e_z(context["g"]))
        return posterior

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        value = latents["v" if self.of_sequence else "z"]
        start = self._start(value) if self.of_sequence else None
        h, _ = self.d_h(append_input(self.phi_x(shift(x)), u), start)
        prior: dict[str, Distribution] = {name: standard_normal(latents[name]) for name in self.spec.latents}
        return Generated(prior, self._observe(h, None if self.of_sequence else value))

    def _start(self, v: Float[Tensor, "batch v_dim"]) -> State:
        r"""The recursion's state before the first frame, :math:`\tanh(W \mathbf{v} + \mathbf{b})`."""
        assert self.d_0 is not None
        names = self.d_h.state_names
        return dict(zip(names, self.d_0(v).tanh()[:, None].chunk(len(names), -1), strict=True))

    def _observe(
        self, h: Float[Tensor, "*batch h_dim"], z: Float[Tensor, "*batch z_dim"] | None
    ) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(prepend_input(z, h)))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        if not self.of_sequence:
            return self.d_h.initial_state(batch_size)
        v = draws("v", standard_normal(next(self.parameters()).new_zeros(batch_size, self.v_dim)))
        return {**self._start(v), "v": v}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z = None
        if not self.of_sequence:
            z = draws("z", standard_normal(x_prev.new_empty(x_prev.shape[0], self.z_dim)))
        internal = {name: state[name] for name in self.d_h.state_names}
        h, internal = self.d_h(append_input(self.phi_x(x_prev), u_t)[:, None], internal)
        return self._observe(h[:, 0], z), state | internal
