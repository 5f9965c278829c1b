r"""Recurrent neural networks (Section 3.1): deterministic, and generative with an observation model.

Both stand on the same recursion :math:`\mathbf{h}_t = d_h(\mathbf{u}_t, \mathbf{h}_{t-1})`. What :math:`\mathbf{u}_t`
is makes the mode: an external input (*driven*), nothing (*undriven*), or the frame before (*predictive*).

Sutskever (2013), "Training recurrent neural networks"; Graves (2013), "Generating sequences with recurrent neural
networks"; Hochreiter and Schmidhuber (1997), "Long short-term memory"; Cho et al. (2014), "Learning phrase
representations using RNN encoder-decoder for statistical machine translation".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Past, State, Values, check_sequences
from dvae_lib.networks import MLP, InternalState, ObservationHead, shift
from dvae_lib.objectives import Generated

__all__ = ["GRNN", "RNN"]

MODES = ("predictive", "driven", "undriven")


class RNN(nn.Module):
    r"""A deterministic recurrent network, from an input sequence to an output sequence.

    .. math::
        \mathbf{h}_t &= d_\mathrm{hid}(W_\mathrm{in} \mathbf{u}_t + W_\mathrm{rec} \mathbf{h}_{t-1}
        + \mathbf{b}_\mathrm{hid}) \qquad (3.1) \\
        \mathbf{x}_t &= d_\mathrm{out}(W_\mathrm{out} \mathbf{h}_t + \mathbf{b}_\mathrm{out}) \qquad (3.2)

    or, with gates and several layers, Eqs. (3.3)-(3.4).

    Arguments:
        u_dim: Size of the input vectors; 0 where the network runs by itself.
        h_dim: Size of the internal state.
        x_dim: Size of the output vectors.
        d_out: The output activation; by default none (the identity).
        cell: See `InternalState`, also for the rest.
        activation: See `InternalState`.
        num_layers: See `InternalState`.
        learn_initial_state: See `InternalState`.

    Example:
        >>> network = RNN(u_dim=2, h_dim=16, x_dim=3)
        >>> network(torch.zeros(4, 10, 2)).shape
        torch.Size([4, 10, 3])
    """

    def __init__(
        self,
        u_dim: int,
        h_dim: int,
        x_dim: int,
        *,
        cell: str = "rnn",
        activation: str = "tanh",
        d_out: nn.Module | None = None,
        num_layers: int = 1,
        learn_initial_state: bool = False,
    ) -> None:
        super().__init__()
        self.u_dim, self.x_dim = u_dim, x_dim
        self.d_h = InternalState(
            u_dim,
            h_dim,
            cell=cell,
            activation=activation,
            num_layers=num_layers,
            learn_initial_state=learn_initial_state,
        )
        self.linear_out = nn.Linear(h_dim, x_dim)
        self.d_out = nn.Identity() if d_out is None else d_out

    @property
    def weights(self) -> dict[str, Tensor]:
        r"""The matrices and vectors of Eqs. (3.1)-(3.2) by name: W_in, W_rec, b_hid, W_out, b_out.

        Raises:
            ValueError: For other cells than the vanilla one, or several layers.
        """
        if self.d_h.cell != "rnn" or self.d_h.num_layers != 1:
            raise ValueError(
                f"Eq. (3.1) is one simple layer; this network has {self.d_h.num_layers} layer(s) of {self.d_h.cell}"
            )
        W_in, W_rec, b_in, b_rec = self.d_h.layers.all_weights[0]
        return {
            "W_in": W_in,
            "W_rec": W_rec,
            "b_hid": b_in + b_rec,  # torch keeps two biases, which only act as a sum
            "W_out": self.linear_out.weight,
            "b_out": self.linear_out.bias,
        }

    def forward(self, u: Float[Tensor, "batch time u_dim"]) -> Float[Tensor, "batch time x_dim"]:
        """The output sequence, Eqs. (3.3)-(3.4). For an undriven network pass inputs of size 0."""
        check_sequences(u, "u", self.u_dim, self.linear_out.weight)
        h, _ = self.d_h(u)  # (3.1), (3.3)
        output: Tensor = self.d_out(self.linear_out(h))  # (3.2), (3.4)
        return output

    @torch.no_grad()
    def free_run(
        self, num_steps: int, *, prefix: Float[Tensor, "batch start u_dim"]
    ) -> Float[Tensor, "batch num_steps x_dim"]:
        r"""Continue a sequence in the predictive mode, :math:`\mathbf{u}_t = \mathbf{x}_{t-1}`: outputs become inputs.

        Arguments:
            num_steps: Number of new frames.
            prefix: What the network hears first; its last output is the first new frame.

        Raises:
            ValueError: Outputs are of another size than inputs, so that they cannot be fed back.
        """
        if self.u_dim != self.x_dim:
            raise ValueError(
                f"outputs (size {self.x_dim}) can be fed back only as inputs of their size; u_dim is {self.u_dim}"
            )
        check_sequences(prefix, "prefix", self.u_dim, self.linear_out.weight)
        h, state = self.d_h(prefix)
        frames = [self.d_out(self.linear_out(h[:, -1:]))]
        while len(frames) < num_steps:
            h, state = self.d_h(frames[-1], state)
            frames.append(self.d_out(self.linear_out(h)))
        return torch.cat(frames, dim=1)


class GRNN(DVAE):
    r"""A generative recurrent network: a deterministic internal state, a random output.

    .. math::
        \mathbf{h}_t = d_h(\mathbf{u}_t, \mathbf{h}_{t-1}) \quad (3.5), \qquad
        p_{\theta_x}(\mathbf{x}_t | \mathbf{h}_t) \text{ with parameters } d_x(\mathbf{h}_t) \quad (3.6)\text{-}(3.7)

    It has no latent variable, so its bound is the log-likelihood itself, Eq. (3.8), its KL terms are none, and all
    that trains or evaluates a `DVAE` works on it.

    Arguments:
        x_dim: Size of the observed vectors.
        h_dim: Size of the internal state.
        mode: "predictive" (:math:`\mathbf{u}_t = \mathbf{x}_{t-1}`; with `u_dim` also an external input beside it),
            "driven" (external input alone) or "undriven" (none).
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{h}_t)`.
        u_dim: Size of the external input.
        cell: See `InternalState`, also for the next two.
        num_layers: See `InternalState`.
        learn_initial_state: See `InternalState`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.

    Example:
        >>> model = GRNN(x_dim=88, h_dim=64, observation="bernoulli")
        >>> x = torch.zeros(2, 10, 88)
        >>> model.log_likelihood(x).shape, model.generate(5, 3).x.shape
        (torch.Size([2]), torch.Size([3, 5, 88]))
    """

    spec = DependencySpec(
        generation="""
            h_t <- x_{t-1}, h_{t-1}     # (3.5), u_t = x_{t-1}
            x_t ~  h_t                  # (3.7)
        """,
    )

    def __init__(
        self,
        x_dim: int,
        h_dim: int = 128,
        *,
        mode: str = "predictive",
        observation: str = "gaussian",
        u_dim: int = 0,
        cell: str = "lstm",
        num_layers: int = 1,
        learn_initial_state: bool = False,
        decoder: Sequence[int] = (),
    ) -> None:
        super().__init__(x_dim, 0, observation=observation, u_dim=u_dim)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
        if (mode == "driven" and u_dim == 0) or (mode == "undriven" and u_dim > 0):
            raise ValueError(f"the {mode} mode needs u_dim {'> 0' if mode == 'driven' else '= 0'}; got {u_dim}")
        self.mode = mode
        parents = (["x_{t-1}"] if mode == "predictive" else []) + (["u_t"] if u_dim else []) + ["h_{t-1}"]
        self.spec = DependencySpec(generation=f"h_t <- {', '.join(parents)}\nx_t ~ h_t")
        in_dim = u_dim + (x_dim if mode == "predictive" else 0)
        self.d_h = InternalState(
            in_dim, h_dim, cell=cell, num_layers=num_layers, learn_initial_state=learn_initial_state
        )
        self.d_x = MLP(h_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)

    def _input(self, x_prev: Float[Tensor, "*batch x_dim"], u: Tensor | None) -> Float[Tensor, "*batch in_dim"]:
        """What the recursion is driven by: the frame before, the external input, both, or nothing."""
        parts = [x_prev] if self.mode == "predictive" else []
        parts += [u] if u is not None else []
        return torch.cat(parts, dim=-1) if parts else x_prev[..., :0]

    def _observe(self, h: Float[Tensor, "*batch h_dim"]) -> FactorisedDistribution:
        r"""The observation model :math:`p(\mathbf{x}_t | \mathbf{h}_t)`, Eqs. (3.6)-(3.7)."""
        observation: FactorisedDistribution = self.x_head(self.d_x(h))
        return observation

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """Nothing: there is no latent variable to infer."""
        return Context({})

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        h, _ = self.d_h(self._input(shift(x), u))  # (3.5), with x_0 = 0
        return Generated({}, self._observe(h))  # (3.6), (3.7)

    def log_likelihood(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        r""":math:`\log p(\mathbf{x}_{1:T} | \mathbf{u}_{1:T})` of each sequence in nats, Eq. (3.8)."""
        return self.vlb(x, u, lengths=lengths).value

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return self.d_h.initial_state(batch_size)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        h, state = self.d_h(self._input(x_prev, u_t)[:, None], state)  # (3.5)
        return self._observe(h[:, 0]), state  # (3.7)
