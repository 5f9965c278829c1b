r"""An LSTM on data: what torch's own computes, without the gradient of the data, which nobody asks for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dvae_lib.networks.layers import linear
from dvae_lib.scans import records_steps, writes_down

__all__ = ["lstm_on_data", "reads_data"]


def reads_data(network: nn.Module, parts: Sequence[Tensor]) -> bool:
    """Whether `lstm_on_data` is the faster way to the states of a network that reads vectors side by side.

    On a CPU torch's LSTM, which is oneDNN's, multiplies the gradient of the gates with the weights of all inputs, also
    where these are data: at 513 power spectra and 128 units a quarter of all that it computes. It is the faster one
    where inputs are not much wider than the state, where there are no gradients, and for small states.
    """
    data = parts[0]
    return (
        isinstance(network, nn.LSTM)
        and not writes_down()
        and not (network._forward_hooks or network._forward_pre_hooks)  # such as those of pruning
        and data.shape[-1] >= 4 * network.hidden_size >= 256
        and torch.is_grad_enabled()
        and not data.requires_grad
        and data.device.type == "cpu"
        and data.dtype == network.weight_ih_l0.dtype == torch.float32  # in others oneDNN is not asked
        and not torch.is_autocast_enabled("cpu")
        and not records_steps(*parts, *network.parameters())
    )


def lstm_on_data(network: nn.LSTM, parts: Sequence[Tensor], *, backward: bool) -> Float[Tensor, "batch time h_dim"]:
    """The states of a network of one layer, from a state of zeros.

    Arguments:
        network: The weights.
        parts: Inputs that stand side by side, each of shape (batch, time, .); of one frame where it is the same in all.
        backward: Run from the last frame to the first.
    """
    w_in, w_rec, b_in, b_rec = network.all_weights[0]
    gates = linear([part.transpose(0, 1) for part in parts], w_in, b_in + b_rec)
    states: Tensor = _States.apply(gates, w_rec, backward)  # type: ignore[no-untyped-call]
    return states.transpose(0, 1)


def sampled_lstm(
    known: Float[Tensor, "batch time outputs"],
    w_z: Float[Tensor, "h_dim outputs"],
    inputs: Float[Tensor, "batch time gates"],
    w_h: Float[Tensor, "inputs_dim gates"],
    epsilon: Float[Tensor, "batch time z_dim"],
    start: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Latent vectors that are drawn from the state of an LSTM, which they then drive: a loop with its own gradient.

    .. math::
        [\boldsymbol\mu_t, \log\boldsymbol\sigma^2_t] = \mathbf{k}_t + \mathbf{h}_t W_z, \qquad
        \mathbf{z}_t = \boldsymbol\mu_t + \boldsymbol\sigma_t \odot \boldsymbol\epsilon_t, \qquad
        \mathbf{h}_{t+1} = \mathrm{LSTM}(\mathbf{u}_t + [\mathbf{z}_t, \mathbf{h}_t] W_h, \mathbf{h}_t)

    Arguments:
        known: :math:`\mathbf{k}_t`, what is added to mean and log-variance.
        w_z: :math:`W_z`.
        inputs: :math:`\mathbf{u}_t`, what is added to the gates.
        w_h: :math:`W_h`.
        epsilon: Standard normal noise.
        start: The first state, h and c.

    Returns:
        All :math:`\mathbf{z}_t`, :math:`\mathbf{h}_{t+1}`, and means with log-variances.
    """
    frames = (value.transpose(0, 1) for value in (known, inputs, epsilon))
    found = _Sampled.apply(*frames, w_z, w_h, *start)  # type: ignore[no-untyped-call]
    z, h, outputs = (value.transpose(0, 1).contiguous() for value in found)
    return z, h, outputs


def samples_in_one(epsilon: Tensor, *others: Tensor) -> bool:
    """Whether `sampled_lstm` may stand for the loop that it equals: it has derivatives by backward passes alone."""
    return (
        epsilon.device.type == "cpu"
        and all(value.dtype == torch.float32 for value in (epsilon, *others))
        and not epsilon.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and not writes_down()
        and not records_steps(epsilon, *others)
    )


class _Cells:
    r"""The gates of all frames, worked out in place, one frame at a time.

    With i, f, g, o for the gates after their activations: :math:`\mathbf{c}_t = \mathbf{f} \odot \mathbf{c}_{t-1}
    + \mathbf{i} \odot \mathbf{g}`, :math:`\mathbf{h}_t = \mathbf{o} \odot \tanh \mathbf{c}_t`.

    Arguments:
        gates: Where they are to stand, of shape (time, batch, 4 h_dim).
    """

    def __init__(self, gates: Tensor) -> None:
        dim = gates.shape[-1] // 4
        self.gates, self.squashed = gates, gates.new_empty(*gates.shape[:2], dim)
        self.at, self.tanh_c = gates.unbind(0), self.squashed.unbind(0)
        self.i, self.f, self.g, self.o = (gate.unbind(0) for gate in gates.split(dim, -1))
        self.both = gates[..., : 2 * dim].unbind(0)  # i and f, which stand side by side

    def step(self, t: int, c_before: Tensor, c_after: Tensor, h_after: Tensor) -> None:
        """The state after frame t, whose gates have been written without their activations."""
        self.both[t].sigmoid_()
        self.g[t].tanh_()
        self.o[t].sigmoid_()
        torch.mul(self.f[t], c_before, out=c_after).addcmul_(self.i[t], self.g[t])
        torch.mul(self.o[t], torch.tanh(c_after, out=self.tanh_c[t]), out=h_after)


class _CellGradients:
    """The gradients of the gates before their activations, one frame at a time, from the last that was computed."""

    def __init__(self, gates: Tensor, squashed: Tensor, c_before: Tensor) -> None:
        i, f, g, o = gates.chunk(4, -1)
        # First, of all frames at once, what the gradients of c and h are multiplied with on their way to the gates.
        self.gates, slope = torch.empty_like(gates), torch.ops.aten.sigmoid_backward.grad_input
        d_i, d_f, d_g, d_o = self.gates.chunk(4, -1)
        slope(g, i, grad_input=d_i)
        slope(c_before, f, grad_input=d_f)
        torch.ops.aten.tanh_backward.grad_input(i, g, grad_input=d_g)
        slope(squashed, o, grad_input=d_o)
        self.to_c, self.forget = torch.ops.aten.tanh_backward(o, squashed).unbind(0), f.unbind(0)
        self.at, self.o = self.gates.unbind(0), d_o.unbind(0)
        self.ifg = self.gates.unflatten(-1, (4, -1))[:, :, :3].unbind(0)
        self.c = torch.zeros_like(c_before[0])

    def step(self, t: int, d_h: Tensor) -> Tensor:
        """Those of frame t, from the gradient of the state after it."""
        self.c.addcmul_(d_h, self.to_c[t])
        self.ifg[t].mul_(self.c[:, None])
        self.o[t].mul_(d_h)
        self.c *= self.forget[t]
        return self.at[t]


def _again(*gradients: Tensor) -> bool:
    """Whether the gradient is to be differentiated again, or many are asked for at once (`is_grads_batched`)."""
    batched = torch._C._functorch.is_legacy_batchedtensor
    return torch.is_grad_enabled() or any(batched(value) for value in gradients) or records_steps(*gradients)


# What follows is the same recursion in plain steps, whose gradients torch records, so that these have gradients, too.


def _recorded(
    function: Callable[..., Any], given: Sequence[Tensor], needed: Sequence[bool], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of those that are needed, by a function whose steps are recorded."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        values = function(*given)
    wanted = [value for value, need in zip(given, needed, strict=False) if need]
    found = iter(torch.autograd.grad(values, wanted, gradients, create_graph=create_graph, allow_unused=True))
    return [next(found) if need else None for _, need in zip(given, needed, strict=False)]


def _recorded_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
    return o.sigmoid() * c.tanh(), c


def _recorded_states(inputs: Tensor, w_rec: Tensor, *, backward: bool) -> Tensor:
    h = c = inputs.new_zeros(inputs.shape[1], w_rec.shape[1])
    states = []
    for inputs_t in inputs.flip(0) if backward else inputs:
        h, c = _recorded_cell(torch.addmm(inputs_t, h, w_rec.t()), c)
        states.append(h)
    return torch.stack(states[::-1] if backward else states)


def _recorded_samples(
    known: Tensor, inputs: Tensor, epsilon: Tensor, w_z: Tensor, w_h: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, ...]:
    frames = []
    for known_t, inputs_t, epsilon_t in zip(known, inputs, epsilon, strict=True):
        output = torch.addmm(known_t, h, w_z)
        mean, logvar = output.chunk(2, -1)
        z = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)
        h, c = _recorded_cell(torch.addmm(inputs_t, torch.cat([z, h], -1), w_h), c)
        frames.append((z, h, output))
    return tuple(torch.stack(values) for values in zip(*frames, strict=True))


class _States(torch.autograd.Function):
    """All states, from what the inputs add to the gates and the recurrent weights."""

    @staticmethod
    def forward(ctx: Any, inputs: Float[Tensor, "time batch gates"], w_rec: Tensor, backward: bool) -> Tensor:
        time, batch, _ = inputs.shape
        cells = _Cells(torch.empty_like(inputs))
        # One more than there are frames: the state before the first, which is the last if time runs backward.
        h, c = inputs.new_empty(2, time + 1, batch, w_rec.shape[1]).unbind(0)
        before, after = (slice(1, None), slice(None, -1)) if backward else (slice(None, -1), slice(1, None))
        h[-1 if backward else 0] = 0
        c[-1 if backward else 0] = 0
        h_before, h_after, c_before, c_after = (s.unbind(0) for s in (h[before], h[after], c[before], c[after]))
        for t in reversed(range(time)) if backward else range(time):
            torch.addmm(inputs[t], h_before[t], w_rec.t(), out=cells.at[t])
            cells.step(t, c_before[t], c_after[t], h_after[t])
        ctx.save_for_backward(inputs, w_rec, cells.gates, cells.squashed, h[before], c[before])
        ctx.backward_in_time = backward
        return h[after]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_rec, gates, squashed, h_before, c_before = ctx.saved_tensors
        if _again(gradient):
            by = functools.partial(_recorded_states, backward=ctx.backward_in_time)
            return *_recorded(by, (inputs, w_rec), ctx.needs_input_grad, (gradient,)), None
        cells, time = _CellGradients(gates, squashed, c_before), len(gates)
        d_h, d_states = torch.zeros_like(h_before[0]), gradient.unbind(0)
        for t in range(time) if ctx.backward_in_time else reversed(range(time)):
            d_h += d_states[t]
            torch.mm(cells.step(t, d_h), w_rec, out=d_h)
        return cells.gates, cells.gates.flatten(0, 1).t() @ h_before.flatten(0, 1), None


class _Sampled(torch.autograd.Function):
    """`sampled_lstm`, with the frames first."""

    @staticmethod
    def forward(
        ctx: Any, known: Tensor, inputs: Tensor, epsilon: Tensor, w_z: Tensor, w_h: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        (time, batch, z_dim), dim = epsilon.shape, h.shape[-1]
        cells = _Cells(inputs.new_empty(time, batch, 4 * dim))
        outputs, std = inputs.new_empty(time, batch, 2 * z_dim), inputs.new_empty(time, batch, z_dim)
        z_h = inputs.new_empty(time + 1, batch, z_dim + dim)  # z_t and h_t side by side
        states, samples, cell = z_h[..., z_dim:], z_h[:-1, :, :z_dim], inputs.new_empty(time + 1, batch, dim)
        states[0], cell[0] = h, c
        z_h_at, h_at, z_at, c_at, out_at, std_at = (v.unbind(0) for v in (z_h, states, samples, cell, outputs, std))
        mean_at, logvar_at = (part.unbind(0) for part in outputs.chunk(2, -1))
        for t, (known_t, inputs_t, epsilon_t) in enumerate(zip(known, inputs, epsilon, strict=True)):
            torch.addmm(known_t, h_at[t], w_z, out=out_at[t])
            torch.mul(logvar_at[t], 0.5, out=std_at[t]).exp_()
            torch.addcmul(mean_at[t], std_at[t], epsilon_t, out=z_at[t])
            torch.addmm(inputs_t, z_h_at[t], w_h, out=cells.at[t])
            cells.step(t, c_at[t], c_at[t + 1], h_at[t + 1])
        ctx.save_for_backward(
            known, inputs, epsilon, w_z, w_h, h, c, cells.gates, cells.squashed, z_h[:-1], cell[:-1], std * epsilon
        )
        return samples.clone(), states[1:].clone(), outputs

    @staticmethod
    def backward(ctx: Any, d_z: Tensor, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *given, gates, squashed, z_h, c_before, deviation = ctx.saved_tensors
        if _again(d_z, d_states, d_outputs):
            return tuple(_recorded(_recorded_samples, given, ctx.needs_input_grad, (d_z, d_states, d_outputs)))
        w_z, w_h = given[3:5]
        cells, z_dim = _CellGradients(gates, squashed, c_before), deviation.shape[-1]
        by_logvar, d_outputs = (0.5 * deviation).unbind(0), d_outputs.clone(memory_format=torch.contiguous_format)
        d_out_at, (d_mean, d_logvar) = d_outputs.unbind(0), (part.unbind(0) for part in d_outputs.chunk(2, -1))
        d_z_h = torch.empty_like(z_h[0])
        d_z_t, d_h_t = d_z_h.split([z_dim, z_h.shape[-1] - z_dim], -1)
        d_h, d_z_at, d_h_at = torch.zeros_like(c_before[0]), d_z.unbind(0), d_states.unbind(0)
        to_z_h, to_h = w_h.t(), w_z.t()
        for t in reversed(range(len(gates))):
            d_h += d_h_at[t]
            torch.mm(cells.step(t, d_h), to_z_h, out=d_z_h)
            d_z_t += d_z_at[t]
            d_mean[t].add_(d_z_t)
            d_logvar[t].addcmul_(d_z_t, by_logvar[t])
            torch.addmm(d_h_t, d_out_at[t], to_h, out=d_h)
        d_w_z = z_h[..., z_dim:].flatten(0, 1).t() @ d_outputs.flatten(0, 1)
        d_w_h = z_h.flatten(0, 1).t() @ cells.gates.flatten(0, 1)
        return d_outputs, cells.gates, None, d_w_z, d_w_h, d_h, cells.c
