r"""Causal memories beside the recurrent one: convolution, attention, and a linear recurrence (Section 14.2.4).

They share a skeleton. A linear layer takes the inputs to vectors of size H; then come residual blocks,

.. math::
    \mathbf{a} \leftarrow \mathbf{a} + \mathrm{mix}(\mathrm{norm}(\mathbf{a})), \qquad
    \mathbf{a}_t \leftarrow \mathbf{a}_t + \mathrm{mlp}(\mathrm{norm}(\mathbf{a}_t)),

of which only the first part looks at other frames. What differs is how it mixes them.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dvae_lib.networks.causal import Memory
from dvae_lib.networks.recurrence import CELLS, InternalState
from dvae_lib.scans import diagonal_recursion

__all__ = ["MEMORIES", "TCN", "CausalAttention", "LinearRecurrence", "make_memory"]


class Stack(Memory):
    """Residual blocks that mix over time; see the module.

    Arguments:
        in_dim: Size of the inputs.
        h_dim: Size of the vectors in all blocks, and of the outputs.
        mixers: What mixes over time in each block; each a memory from and to vectors of size `h_dim`.
    """

    def __init__(self, in_dim: int, h_dim: int, mixers: Sequence[Memory]) -> None:
        super().__init__()
        for name, size in (("in_dim", in_dim), ("h_dim", h_dim), ("the number of layers", len(mixers))):
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        self.in_dim, self.out_dim = in_dim, h_dim
        self.state_names = tuple(f"{name}{i}" for i, mixer in enumerate(mixers, 1) for name in mixer.state_names)
        self.enter = nn.Linear(in_dim, h_dim)
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(nn.LayerNorm(h_dim) for _ in mixers)
        self.frames = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(h_dim), nn.Linear(h_dim, 2 * h_dim), nn.GELU(), nn.Linear(2 * h_dim, h_dim))
            for _ in mixers
        )
        self.leave = nn.LayerNorm(h_dim)
        fields = [mixer.receptive_field for mixer in mixers]
        self.receptive_field = None if None in fields else 1 + sum(field - 1 for field in fields if field is not None)

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """The states of all blocks before the first frame, numbered from the lowest."""
        states = (value for mixer in self._mixers for value in mixer.initial_state(batch_size).values())
        return dict(zip(self.state_names, states, strict=True))

    def forward(
        self, u: Float[Tensor, "batch time in_dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time h_dim"], dict[str, Tensor]]:
        """All outputs, and the state after the last frame; see `Memory`."""
        state = self.initial_state(u.shape[0]) if state is None else state
        a = self.enter(u)
        after: dict[str, Tensor] = {}
        for i, (norm, mix, frame) in enumerate(zip(self.norms, self._mixers, self.frames, strict=True), 1):
            mixed, own = mix(norm(a), {name: state[f"{name}{i}"] for name in mix.state_names})
            after |= {f"{name}{i}": value for name, value in own.items()}
            a = a + mixed
            a = a + frame(a)
        return self.leave(a), after

    @property
    def _mixers(self) -> list[Memory]:
        return list(self.mixers)  # type: ignore[arg-type]


# ---------------------------------------------------------------- convolution


class TCN(Stack):
    r"""A temporal convolutional network: causal dilated convolutions, whose weights are the same at all frames.

    Block i mixes the K inputs :math:`\mathbf{a}_t, \mathbf{a}_{t-D_i}, \dots, \mathbf{a}_{t-(K-1)D_i}`. What came
    before the first frame is zero. The receptive field is finite: :math:`R = 1 + (K-1) \sum_i D_i`, and :math:`K^N`
    with the default dilations of N layers. A stream keeps :math:`(K-1) \sum_i D_i` vectors.

    Arguments:
        in_dim: Size of the inputs.
        h_dim: Size H of the vectors in all layers.
        kernel: Number K of frames that a layer mixes.
        layers: Number N of layers.
        dilations: The distances :math:`D_i` between these frames; by default :math:`K^0, \dots, K^{N-1}`, with which
            every frame of the field is looked at along one path.

    Raises:
        ValueError: Sizes or distances below 1, a kernel below 2.

    Example:
        >>> memory = TCN(3, 8, kernel=2, layers=4)
        >>> memory.receptive_field
        16
        >>> outputs, state = memory(torch.ones(5, 100, 3))
        >>> memory.step(torch.ones(5, 3), state)[0].shape
        torch.Size([5, 8])

    Source: Bai, Kolter and Koltun (2018), "An empirical evaluation of generic convolutional and recurrent networks for
    sequence modeling".
    """

    def __init__(
        self,
        in_dim: int,
        h_dim: int,
        *,
        kernel: int = 2,
        layers: int = 6,
        dilations: Sequence[int] | None = None,
    ) -> None:
        chosen = [kernel**i for i in range(layers)] if dilations is None else list(dilations)
        super().__init__(in_dim, h_dim, [DilatedConvolution(h_dim, kernel, dilation) for dilation in chosen])


class DilatedConvolution(Memory):
    r"""One causal convolution, :math:`\mathbf{y}_t = \sum_{k=0}^{K-1} W_k \mathbf{a}_{t-kD} + \mathbf{b}`."""

    state_names = ("x",)

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        if kernel < 2 or dilation < 1:
            raise ValueError(f"a kernel must be at least 2, a dilation at least 1; got {kernel}, {dilation}")
        self.in_dim = self.out_dim = dim
        self.convolution = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.receptive_field = 1 + (kernel - 1) * dilation

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """The inputs before the first one: zeros."""
        assert self.receptive_field is not None
        return {"x": self.convolution.weight.new_zeros(batch_size, self.receptive_field - 1, self.in_dim)}

    def forward(
        self, u: Float[Tensor, "batch time dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], dict[str, Tensor]]:
        """The outputs, and the last inputs."""
        before = self.initial_state(u.shape[0])["x"] if state is None else state["x"]
        together = torch.cat([before.to(u.dtype), u], 1)
        return self.convolution(together.mT).mT, {"x": together[:, u.shape[1] :]}


# ---------------------------------------------------------------- attention


class CausalAttention(Stack):
    r"""Masked self-attention: every frame looks at all before it, or at those in a window, by what they contain.

    .. math::
        \mathbf{y}_t = \sum_{s \le t} \alpha_{ts} V \mathbf{a}_s, \qquad
        \alpha_{ts} \propto \exp\Big( \tfrac{1}{\sqrt{d}} (Q \mathbf{a}_t)^\top \rho_{t-s} K \mathbf{a}_s \Big)

    in each of several heads. The rotation :math:`\rho_{t-s}` of pairs of coordinates, by angles in proportion to
    :math:`t - s`, says how far back a frame is; where the sequence began does not matter. A stream keeps the keys and
    values of all frames so far, or of the window: memory and time of a step grow with t, or do not.

    Arguments:
        in_dim: Size of the inputs.
        h_dim: Size of the vectors in all layers; a multiple of twice the number of heads.
        layers: Number N of layers.
        heads: Number of heads.
        window: Number W of frames that a layer looks at, its own included; then :math:`R = 1 + N (W - 1)`. None: all.

    Raises:
        ValueError: Sizes below 1, or one that cannot be shared out to the heads in pairs.

    Example:
        >>> CausalAttention(3, 8, layers=2, heads=2, window=5).receptive_field
        9
        >>> CausalAttention(3, 8, heads=2).state_size(100)  # keys and values of two layers
        3200

    Source: Vaswani et al. (2017), "Attention is all you need"; the rotations: Su et al. (2024), "RoFormer: enhanced
    transformer with rotary position embedding".
    """

    def __init__(self, in_dim: int, h_dim: int, *, layers: int = 2, heads: int = 4, window: int | None = None) -> None:
        super().__init__(in_dim, h_dim, [MaskedAttention(h_dim, heads, window) for _ in range(layers)])


class MaskedAttention(Memory):
    """One layer of masked attention with several heads; see `CausalAttention`."""

    state_names = ("k", "v")

    def __init__(self, dim: int, heads: int, window: int | None) -> None:
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"vectors of size {dim} cannot be shared out to {heads} heads in pairs of coordinates")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, or None for all of the past; got {window}")
        self.in_dim = self.out_dim = dim
        self.heads, self.window, self.receptive_field = heads, window, window
        self.project, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """The keys and values of no frame."""
        nothing = self.out.weight.new_zeros(batch_size, 0, self.in_dim)
        return {"k": nothing, "v": nothing}

    def forward(
        self, u: Float[Tensor, "batch time dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], dict[str, Tensor]]:
        """The outputs, and the keys and values that later frames may look at."""
        state = self.initial_state(u.shape[0]) if state is None else state
        query, key, value = self.project(u).chunk(3, -1)
        keys = torch.cat([state["k"].to(key.dtype), key], 1)
        values = torch.cat([state["v"].to(value.dtype), value], 1)
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, keys, values)]
        places = torch.arange(keys.shape[1], device=u.device)
        now = places[-u.shape[1] :]
        q, k = _rotated(split[0], now), _rotated(split[1], places)
        # Of a whole sequence without a window torch need not be given the mask, and then does not hold it all at once.
        whole = self.window is None and len(now) == len(places)
        seen = None if whole else self._seen(now, places)
        mixed = F.scaled_dot_product_attention(q, k, split[2], attn_mask=seen, is_causal=whole)
        kept = keys.shape[1] if self.window is None else self.window - 1
        last = slice(max(0, keys.shape[1] - kept), None)
        return self.out(mixed.transpose(1, 2).flatten(2)), {"k": keys[:, last], "v": values[:, last]}

    def _seen(self, now: Tensor, places: Tensor) -> Tensor:
        """Which frames each of these looks at."""
        distance = now[:, None] - places
        seen = distance >= 0
        return seen if self.window is None else seen & (distance < self.window)


def _rotated(vectors: Float[Tensor, "batch heads time dim"], places: Tensor) -> Float[Tensor, "batch heads time dim"]:
    """Pairs of coordinates turned by angles in proportion to the place, fast ones first."""
    half = vectors.shape[-1] // 2
    # In double precision: late in a long sequence an angle has no digits left to round.
    speeds = 10_000.0 ** -(torch.arange(half, device=places.device, dtype=torch.float64) / half)
    angles = places[:, None] * speeds
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


# ---------------------------------------------------------------- linear recurrence


class LinearRecurrence(Stack):
    r"""A recursion without a nonlinearity in it, which runs in parallel over time; the nonlinearities stand above.

    .. math::
        \mathbf{s}_t = \boldsymbol\lambda \odot \mathbf{s}_{t-1} + \boldsymbol\gamma \odot B \mathbf{a}_t, \qquad
        \mathbf{y}_t = \mathrm{Re}(C \mathbf{s}_t) + \mathbf{d} \odot \mathbf{a}_t, \qquad
        \lambda_n = \exp(-e^{\nu_n} + i \theta_n)

    It is stable whatever the weights: :math:`|\lambda_n| < 1`. The factors :math:`\gamma_n = \sqrt{1 - |\lambda_n|^2}`
    keep states driven by white noise at one size. All states come from one associative scan,
    `dvae_lib.scans.diagonal_recursion`; a stream keeps the last one.

    Arguments:
        in_dim: Size of the inputs.
        h_dim: Size of the vectors in all layers.
        layers: Number of layers.
        states: Number of entries of :math:`\mathbf{s}_t` in each layer; by default `h_dim`.
        real: Without the imaginary part: entries decay, and do not turn.

    Raises:
        ValueError: Sizes below 1.

    Example:
        >>> memory = LinearRecurrence(3, 8)
        >>> outputs, state = memory(torch.ones(5, 100, 3))
        >>> memory.state_size(100) == memory.state_size(1)
        True

    Source: Orvieto et al. (2023), "Resurrecting recurrent neural networks for long sequences"; scans in deep state
    space models: Smith, Warrington and Linderman (2023), "Simplified state space layers for sequence modeling".
    """

    is_recurrent = True

    def __init__(
        self, in_dim: int, h_dim: int, *, layers: int = 2, states: int | None = None, real: bool = False
    ) -> None:
        size = h_dim if states is None else states
        super().__init__(in_dim, h_dim, [DiagonalRecurrence(h_dim, size, real=real) for _ in range(layers)])


class DiagonalRecurrence(Memory):
    """One linear recurrence; see `LinearRecurrence`."""

    is_recurrent, state_names = True, ("s",)

    def __init__(self, dim: int, states: int, *, real: bool = False) -> None:
        super().__init__()
        if states < 1:
            raise ValueError(f"states must be at least 1; got {states}")
        self.in_dim = self.out_dim = dim
        self.parts = 1 if real else 2  # real, and imaginary
        # Moduli from 0.9 to 0.999, which remember for ten to a thousand frames; periods of six frames or more.
        radius = torch.empty(states).uniform_(0.9, 0.999)
        self.nu = nn.Parameter((-radius.log()).log())
        self.theta = None if real else nn.Parameter(torch.empty(states).uniform_(0, math.pi / 3))
        self.B = nn.Parameter(torch.randn(self.parts, states, dim) / math.sqrt(self.parts * dim))
        self.C = nn.Parameter(torch.randn(self.parts, dim, states) / math.sqrt(states))
        self.d = nn.Parameter(torch.randn(dim))

    @property
    def factors(self) -> Tensor:
        r"""The :math:`\lambda_n`, within the unit circle."""
        decay = -self.nu.exp()
        return decay.exp() if self.theta is None else torch.complex(decay, self.theta).exp()

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """Zero: its real part, and its imaginary one if there is one."""
        return {"s": self.B.new_zeros(batch_size, self.parts, self.B.shape[1])}

    def forward(
        self, u: Float[Tensor, "batch time dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], dict[str, Tensor]]:
        """The outputs, and the last state."""
        before = (self.initial_state(u.shape[0]) if state is None else state)["s"]
        gamma = (-torch.expm1(-2 * self.nu.exp())).sqrt()
        driven = torch.einsum("psd,btd->tbps", gamma[:, None] * self.B, u)
        factors = self.factors
        first = driven[0] + _parted(factors * _joined(before))
        driven = _joined(torch.cat([first[None], driven[1:]]))
        s = _parted(diagonal_recursion(factors.expand(len(driven) - 1, 1, -1), driven))
        # The real part of a product: the product of the real parts less that of the imaginary ones.
        sign = self.C.new_tensor([1.0, -1.0][: self.parts])
        return torch.einsum("pds,tbps->btd", sign[:, None, None] * self.C, s) + self.d * u, {"s": s[-1]}


def _joined(parts: Tensor) -> Tensor:
    """Complex numbers from real and imaginary parts along the last dimension but one; or real ones."""
    return parts.squeeze(-2) if parts.shape[-2] == 1 else torch.complex(parts[..., 0, :], parts[..., 1, :])


def _parted(values: Tensor) -> Tensor:
    return torch.stack([values.real, values.imag], -2) if values.is_complex() else values.unsqueeze(-2)


# ---------------------------------------------------------------- by name

MEMORIES: dict[str, Callable[..., Memory]] = {
    **dict.fromkeys(CELLS, InternalState),
    "tcn": TCN,
    "attention": CausalAttention,
    "linear": LinearRecurrence,
}
"""The causal memories by name: recurrent cells, and the three others."""


def make_memory(name: str, in_dim: int, h_dim: int, **options: Any) -> Memory:
    """A causal memory by name.

    Arguments:
        name: One of `MEMORIES`.
        in_dim: Size of the inputs.
        h_dim: Size of the outputs.
        options: Its own, such as `layers`; what is None is left to it.

    Raises:
        ValueError: There is no memory of that name, or it has no such option.

    Example:
        >>> make_memory("tcn", 3, 8, kernel=3, layers=2).receptive_field
        9
    """
    if name not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(MEMORIES)}; got {name!r}")
    given = {key: value for key, value in options.items() if value is not None}
    known = ["layers"] if name in CELLS else list(inspect.signature(MEMORIES[name]).parameters)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"the memory {name!r} has no option {unknown[0]!r}")
    if name in CELLS:
        return InternalState(in_dim, h_dim, cell=name, num_layers=given.get("layers", 1))
    return MEMORIES[name](in_dim, h_dim, **given)
