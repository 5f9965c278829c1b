r"""Recursions over frames: whole sequences at once, and frame by frame where a part of the input comes in late."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dvae_lib.networks.causal import Memory
from dvae_lib.networks.layers import MLP, side_by_side
from dvae_lib.networks.lstm import lstm_on_data, reads_data, sampled_lstm, samples_in_one

__all__ = [
    "FrameByFrame",
    "InternalState",
    "LocallyLinear",
    "PrecomputedInput",
    "Recurrence",
    "reverse_time",
    "sample_chain",
    "sample_with_state",
    "shift",
]

CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class InternalState(Memory):
    r"""The recursion :math:`\mathbf{h}_t = d_h(\mathbf{u}_t, \mathbf{h}_{t-1})`, Eqs. (3.3) and (3.5).

    With ``cell="rnn"`` it is Eq. (3.1), :math:`d_\mathrm{hid}(W_\mathrm{in} \mathbf{u}_t + W_\mathrm{rec}
    \mathbf{h}_{t-1} + \mathbf{b}_\mathrm{hid})`; the other cells add gates.

    Arguments:
        in_dim: Size of the inputs; 0 for a recursion that runs by itself.
        h_dim: Size of the internal state.
        cell: "rnn", "gru" or "lstm".
        activation: :math:`d_\mathrm{hid}` of the simple cell, "tanh" or "relu".
        num_layers: Number of recurrent layers, each driven by the one below.
        learn_initial_state: Learn :math:`\mathbf{h}_0` instead of starting from zero.
    """

    is_recurrent = True

    def __init__(
        self,
        in_dim: int,
        h_dim: int,
        *,
        cell: str = "lstm",
        activation: str = "tanh",
        num_layers: int = 1,
        learn_initial_state: bool = False,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}; got {cell!r}")
        if activation not in ("tanh", "relu"):
            raise ValueError(f"activation must be 'tanh' or 'relu'; got {activation!r}")
        if activation != "tanh" and cell != "rnn":
            raise ValueError(f"activation is an option of the simple cell; the {cell} has its own")
        for name, size, least in (("in_dim", in_dim, 0), ("h_dim", h_dim, 1), ("num_layers", num_layers, 1)):
            if size < least:
                raise ValueError(f"{name} must be at least {least}; got {size}")
        self.in_dim, self.h_dim, self.cell, self.num_layers = in_dim, h_dim, cell, num_layers
        # torch has no recurrent layer without input: an undriven one is driven by a constant zero.
        sizes = {"input_size": max(in_dim, 1), "hidden_size": h_dim, "num_layers": num_layers}
        options = {"nonlinearity": activation} if cell == "rnn" else {}
        self.layers: nn.RNNBase = CELLS[cell](**sizes, **options, batch_first=True)
        names = ("h", "c") if cell == "lstm" else ("h",)
        start = torch.zeros(len(names), num_layers, h_dim)
        self.start = nn.Parameter(start) if learn_initial_state else None
        self.state_names = names
        self.out_dim = h_dim

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """The state before the first frame: ``h`` (and the LSTM's ``c``), each (B, num_layers, h_dim)."""
        if self.start is None:
            start = next(self.layers.parameters()).new_zeros(len(self.state_names), self.num_layers, self.h_dim)
        else:
            start = self.start
        return {name: start[k].expand(batch_size, -1, -1).contiguous() for k, name in enumerate(self.state_names)}

    def forward(
        self, u: Float[Tensor, "batch time in_dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time h_dim"], dict[str, Tensor]]:
        """All states of the top layer, and the state after the last frame.

        Arguments:
            u: The inputs; of size 0 where there are none.
            state: What an earlier call returned, to continue from there; by default the initial state.
        """
        if self.in_dim == 0:
            u = u.new_zeros(*u.shape[:2], 1)
        state = self.initial_state(u.shape[0]) if state is None else state
        layers_first = tuple(state[name].transpose(0, 1).contiguous() for name in self.state_names)
        h, last = self.layers(u, layers_first if self.cell == "lstm" else layers_first[0])
        after = last if self.cell == "lstm" else (last,)
        return h, {name: value.transpose(0, 1) for name, value in zip(self.state_names, after, strict=True)}


class FrameByFrame:
    r"""The recursion :math:`\mathbf{h}_t = d_h([\mathbf{k}_t, \mathbf{r}_t], \mathbf{h}_{t-1})`, one frame at a time.

    For loops in which a part :math:`\mathbf{r}_t` of the input is only known when its frame has come, such as a latent
    vector that was inferred from :math:`\mathbf{h}_{t-1}`. What is known of all frames beforehand,
    :math:`\mathbf{k}_{1:T}`, is multiplied with its weights at once; the loop is left with what recurs.

    Arguments:
        d_h: The recursion; one layer.
        known: :math:`\mathbf{k}_{1:T}`, the first of the recursion's inputs.

    Example:
        >>> import torch
        >>> d_h, inputs = InternalState(5, 4), torch.randn(2, 3, 5)
        >>> frames = FrameByFrame(d_h, inputs[..., :3])
        >>> state = frames.start(2)
        >>> for t in range(3):
        ...     state = frames(t, inputs[:, t, 3:], state)
        >>> torch.testing.assert_close(state[0], d_h(inputs)[0][:, -1])
    """

    def __init__(self, d_h: InternalState, known: Float[Tensor, "batch time known_dim"]) -> None:
        if d_h.num_layers != 1:
            raise ValueError(f"frame by frame runs recursions of one layer; this one has {d_h.num_layers}")
        w_in, w_rec, b_in, b_rec = d_h.layers.all_weights[0]
        n = known.shape[-1]
        self.d_h, self.cell = d_h, d_h.cell
        self.activation = torch.relu if getattr(d_h.layers, "nonlinearity", "tanh") == "relu" else torch.tanh
        # Slices and sums of weights are made once, not in each frame: their gradients are as large as the weights.
        if d_h.cell == "gru":  # whose reset gate acts on the recurrent part of the candidate alone
            self.inputs = F.linear(known, w_in[:, :n], b_in)
            self.w_in, self.w_rec, self.b_rec = w_in[:, n:].t(), w_rec.t(), b_rec
        else:
            self.inputs = F.linear(known, w_in[:, :n], b_in) + b_rec
            self.weight = torch.cat([w_in[:, n:], w_rec], 1).t()
        self.known = self.inputs.unbind(1)

    def start(self, batch_size: int) -> tuple[Tensor, ...]:
        """The initial state: h, and the LSTM's c, each of shape (B, h_dim)."""
        return tuple(value[:, 0] for value in self.d_h.initial_state(batch_size).values())

    def __call__(self, t: int, rest: Float[Tensor, "batch rest_dim"], state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state after frame t (counted from 0), from the state before it; the first entry is h_t."""
        if self.cell == "gru":
            reset, update, candidate = torch.addmm(self.known[t], rest, self.w_in).chunk(3, -1)
            reset_h, update_h, candidate_h = torch.addmm(self.b_rec, state[0], self.w_rec).chunk(3, -1)
            update = torch.sigmoid(update + update_h)
            candidate = torch.tanh(torch.addcmul(candidate, torch.sigmoid(reset + reset_h), candidate_h))
            # Under autocast the first state is of the weights' dtype, and what the layers put out is not.
            return (torch.lerp(candidate, state[0].to(candidate.dtype), update),)
        gates = torch.addmm(self.known[t], torch.cat([rest, state[0]], -1), self.weight)
        if self.cell == "rnn":
            return (self.activation(gates),)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.addcmul(f.sigmoid() * state[1], i.sigmoid(), g.tanh())
        return o.sigmoid() * c.tanh(), c


class PrecomputedInput:
    """A feed-forward network in a loop over frames, of whose input the first part is known of all frames beforehand.

    Arguments:
        layers: The network's layers, a linear one first.
        known: The first part of its inputs, for all frames: multiplied with its weights at once.
    """

    def __init__(self, layers: Sequence[nn.Module], known: Float[Tensor, "batch time known_dim"]) -> None:
        first, *self.rest = layers
        if not isinstance(first, nn.Linear):
            raise TypeError(f"the first layer must be linear; got {type(first).__name__}")
        n = known.shape[-1]
        self.inputs = F.linear(known, first.weight[:, :n], first.bias)
        self.known = self.inputs.unbind(1)
        self.weight = first.weight[:, n:].t()

    def __call__(self, t: int, rest: Float[Tensor, "batch rest_dim"]) -> Float[Tensor, "batch out_dim"]:
        """The output at frame t (counted from 0), given the rest of the input."""
        output = torch.addmm(self.known[t], rest, self.weight)
        for layer in self.rest:
            output = layer(output)
        return output


def sample_chain(
    parameters: Callable[[int, Tensor], Tensor], epsilon: Float[Tensor, "batch time z_dim"]
) -> tuple[Tensor, Tensor]:
    r"""The loop of models whose latent vector is inferred from the one before it: the DKF, the SRNN.

    In every frame :math:`\mathbf{z}_t = \boldsymbol\mu_t + \boldsymbol\sigma_t \odot \boldsymbol\epsilon_t`, from
    :math:`\mathbf{z}_0 = \mathbf{0}`.

    Arguments:
        parameters: Mean and log-variance, side by side, of frame t (counted from 0), from :math:`\mathbf{z}_{t-1}`.
        epsilon: Standard normal noise.

    Returns:
        All :math:`\mathbf{z}_t`, and all outputs of `parameters`, each of shape (B, T, .).
    """
    z_t = torch.zeros_like(epsilon[:, 0])
    samples, outputs = [], []
    for t, epsilon_t in enumerate(epsilon.unbind(1)):
        output = parameters(t, z_t)
        mean, logvar = output.chunk(2, -1)
        z_t = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)
        samples.append(z_t)
        outputs.append(output)
    return torch.stack(samples, 1), torch.stack(outputs, 1)


def sample_with_state(
    next_state: FrameByFrame,
    e_z: PrecomputedInput,
    phi_z: nn.Module,
    epsilon: Float[Tensor, "batch time z_dim"],
    *,
    start: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, ...]:
    r"""The loop of models whose latent vector is inferred from the state before it, and then enters the next one.

    In every frame :math:`[\boldsymbol\mu_t, \log\boldsymbol\sigma^2_t] = e_z(\cdot, \mathbf{h}_{t-1})`,
    :math:`\mathbf{z}_t = \boldsymbol\mu_t + \boldsymbol\sigma_t \odot \boldsymbol\epsilon_t`,
    :math:`\mathbf{h}_t = d_h(\cdot, \varphi_z(\mathbf{z}_t), \mathbf{h}_{t-1})`: STORN's smoother, the improved VRNN.

    Arguments:
        next_state: The recursion :math:`d_h`.
        e_z: The network that puts out mean and log-variance.
        phi_z: The feature extractor :math:`\varphi_z`.
        epsilon: Standard normal noise.
        start: The state before the first frame; by default the recursion's own. Models whose state at t has seen
            :math:`\mathbf{z}_{1:t-1}` start from their state at 1, and get those at 2 to T + 1 (RVAE, DSAE).

    Returns:
        All :math:`\mathbf{z}_t`, :math:`\mathbf{h}_t` and outputs of `e_z`, each of shape (B, T, .).
    """
    state = next_state.start(epsilon.shape[0]) if start is None else start
    if next_state.cell == "lstm" and not e_z.rest and isinstance(phi_z, nn.Identity):
        known, weights = (e_z.inputs, next_state.inputs), (e_z.weight, next_state.weight)
        if samples_in_one(epsilon, *known, *weights, *state):
            return sampled_lstm(known[0], weights[0], known[1], weights[1], epsilon, (state[0], state[1]))
    samples, states, outputs = [], [], []
    for t, epsilon_t in enumerate(epsilon.unbind(1)):
        outputs.append(e_z(t, state[0]))
        mean, logvar = outputs[t].chunk(2, -1)
        samples.append(torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t))
        state = next_state(t, phi_z(samples[t]), state)
        states.append(state[0])
    return torch.stack(samples, 1), torch.stack(states, 1), torch.stack(outputs, 1)


class Recurrence(nn.Module):
    r"""A recurrent network run over whole sequences: the recursions :math:`d_h`, :math:`e_g` of the review.

    Forward, the output at t depends on the inputs 1..t; backward, on the inputs t..T. In a padded batch a
    backward recurrence starts at each sequence's own last frame.

    Arguments:
        in_dim: Size of the input vectors.
        h_dim: Size of the internal state (and of the output).
        cell: "lstm", "gru" or "rnn" (the Tanh network of Eq. (3.1)).
        backward: Run from the last frame to the first.
    """

    def __init__(self, in_dim: int, h_dim: int, *, cell: str = "lstm", backward: bool = False) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}; got {cell!r}")
        self.network = CELLS[cell](in_dim, h_dim, batch_first=True)
        self.out_dim, self.backward = h_dim, backward

    def forward(
        self,
        inputs: Float[Tensor, "batch time in_dim"] | Sequence[Tensor],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time h_dim"]:
        """The internal state after each frame, from a state of zeros.

        Arguments:
            inputs: The frames; or parts of them, which stand side by side, data first. A part that is the same in all
                frames has the shape (batch, 1, .).
            lengths: The sequences' lengths in a padded batch.
        """
        parts = [inputs] if isinstance(inputs, Tensor) else inputs
        if (lengths is None or not self.backward) and reads_data(self.network, parts):
            return lstm_on_data(self.network, parts, backward=self.backward)
        inputs = side_by_side(inputs)
        if not self.backward:
            return self.network(inputs)[0]  # type: ignore[no-any-return]
        states = self.network(reverse_time(inputs, lengths))[0]
        return reverse_time(states, lengths)

    def resume(
        self, inputs: Float[Tensor, "batch time in_dim"] | Sequence[Tensor], last: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The internal states, and what the next frames are to be resumed from.

        Arguments:
            inputs: The frames after those of the call before, or parts of them.
            last: What that call returned beside the states; None at the start of the sequence.

        Raises:
            ValueError: For a backward recurrence, which begins at the end.
        """
        if self.backward:
            raise ValueError("a backward recurrence starts from the last frame: it can't be resumed frame by frame")
        inputs = side_by_side(inputs)
        if isinstance(self.network, nn.LSTM):
            return self.network(inputs, last)  # type: ignore[no-any-return]
        states, after = self.network(inputs, None if last is None else last[0])
        return states, (after,)


class LocallyLinear(nn.Module):
    r"""The recursion of the deep variational Bayes filter: a transition that is linear near every state.

    .. math::
        \mathbf{z}_t = \sum_{i=1}^M \alpha_t^{(i)} \big( \mathbf{A}^{(i)} \mathbf{z}_{t-1}
        + \mathbf{B}^{(i)} \mathbf{u}_t + \mathbf{C}^{(i)} \mathbf{w}_t \big), \qquad
        \boldsymbol\alpha_t = \mathrm{Softmax}\big( \alpha(\mathbf{z}_{t-1}, \mathbf{u}_t) \big)

    from :math:`\mathbf{z}_1 = f_1(\mathbf{w}_1) + \sum_i \alpha_1^{(i)} \mathbf{B}^{(i)} \mathbf{u}_1`: the first state
    has a noise of its own kind, since where a sequence starts is less certain than where it goes.

    It begins near rest: every :math:`\mathbf{A}^{(i)}` near the identity, so that gradients of late frames reach the
    early ones, and every :math:`\mathbf{C}^{(i)}` zero, so that noise comes in only where it is worth its price.

    Arguments:
        w_dim: Size of the noise.
        z_dim: Size of the state.
        u_dim: Size of the inputs.
        matrices: Number M of transitions that are mixed.
        weights: Sizes of the hidden layers (Tanh) of the network :math:`\alpha`.
        initial: Sizes of the hidden layers (Tanh) of :math:`f_1`; none: it is linear.

    Attributes:
        A: The matrices, of shape (M, z_dim, z_dim).
        B: Of shape (M, z_dim, u_dim).
        C: Of shape (M, z_dim, w_dim).

    Raises:
        ValueError: There is no matrix.

    Source: Karl, Soelch, Bayer and van der Smagt (2017), "Deep variational Bayes filters: unsupervised learning of
    state space models from raw data".
    """

    def __init__(
        self,
        w_dim: int,
        z_dim: int,
        *,
        u_dim: int = 0,
        matrices: int = 16,
        weights: Sequence[int] = (16,),
        initial: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if isinstance(matrices, bool) or not isinstance(matrices, int) or matrices < 1:
            raise ValueError(f"matrices must be an integer of at least 1; got {matrices!r}")
        self.u_dim, self.w_dim, self.out_dim = u_dim, w_dim, z_dim
        features, first = MLP(z_dim + u_dim, weights), MLP(w_dim, initial)
        self.alpha = nn.Sequential(*features, nn.Linear(features.out_dim, matrices), nn.Softmax(-1))
        self.f_1 = nn.Sequential(*first, nn.Linear(first.out_dim, z_dim))
        self.A = nn.Parameter(torch.eye(z_dim) + 0.05 * torch.randn(matrices, z_dim, z_dim))
        self.B = nn.Parameter(0.1 * torch.randn(matrices, z_dim, u_dim))
        self.C = nn.Parameter(torch.zeros(matrices, z_dim, w_dim))

    def forward(self, drivers: Float[Tensor, "batch time in_dim"]) -> Float[Tensor, "batch time z_dim"]:
        """All states.

        Arguments:
            drivers: Inputs, where there are some, and noises, side by side.
        """
        inputs, noises = (part.unbind(1) for part in drivers.split((self.u_dim, self.w_dim), -1))
        states = [self.first(inputs[0], noises[0])]
        for u_t, w_t in zip(inputs[1:], noises[1:], strict=True):
            states.append(self.step(states[-1], u_t, w_t))
        return torch.stack(states, 1)

    def first(self, u: Float[Tensor, "batch u_dim"], w: Float[Tensor, "batch w_dim"]) -> Float[Tensor, "batch z_dim"]:
        """The first state."""
        nothing = w.new_zeros(w.shape[0], self.out_dim)
        start: Tensor = self.f_1(w)
        return start + self.step(nothing, u, torch.zeros_like(w))

    def step(
        self,
        z_prev: Float[Tensor, "batch z_dim"],
        u: Float[Tensor, "batch u_dim"],
        w: Float[Tensor, "batch w_dim"],
    ) -> Float[Tensor, "batch z_dim"]:
        """The next state."""
        alpha = self.alpha(torch.cat([z_prev, u], -1))
        # What each transition would lead to, by one product, then the mean: the same as by the mean of the matrices.
        together = torch.cat([self.A, self.B, self.C], -1)
        moved = F.linear(torch.cat([z_prev, u, w], -1), together.flatten(0, 1)).unflatten(-1, together.shape[:2])
        mixed: Tensor = (alpha[:, None] @ moved).squeeze(1)
        return mixed


def reverse_time(
    sequences: Float[Tensor, "batch time dim"], lengths: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch time dim"]:
    """Every sequence from its own last frame to its first; padding stays where it is.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0], [2.0], [0.0]]])
        >>> reverse_time(x, torch.tensor([2])).flatten()
        tensor([2., 1., 0.])
    """
    if lengths is None:
        return sequences.flip(1)
    time = torch.arange(sequences.shape[1], device=sequences.device)
    index = lengths[:, None] - 1 - time
    index = torch.where(index >= 0, index, time)
    return sequences.gather(1, index[..., None].expand_as(sequences))


def shift(
    sequences: Float[Tensor, "batch time dim"], first: Float[Tensor, "batch dim"] | None = None
) -> Float[Tensor, "batch time dim"]:
    r"""The sequence one frame late: :math:`\mathbf{x}_{0:T-1}` from :math:`\mathbf{x}_{1:T}`.

    Arguments:
        sequences: :math:`\mathbf{x}_{1:T}`.
        first: :math:`\mathbf{x}_0`; zeros if not given.
    """
    if first is None:
        return F.pad(sequences[:, :-1], (0, 0, 1, 0))
    return torch.cat([first[:, None], sequences[:, :-1]], 1)
