"""Causal memories: whole sequences and steps are one function, of the past alone, and no more of it than they say."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from dvae_lib.networks import MEMORIES, TCN, CausalAttention, InternalState, LinearRecurrence, Memory, make_memory
from dvae_lib.scans import affine_recursion, diagonal_recursion

SIZE, H_DIM = 3, 8
KINDS = {
    "lstm": {},
    "gru two layers": {"layers": 2},
    "rnn": {},
    "tcn": {"kernel": 3, "layers": 2},
    "tcn by hand": {"kernel": 2, "dilations": (1, 3)},
    "attention": {"layers": 2, "heads": 2},
    "attention window": {"layers": 2, "window": 3},
    "linear": {"states": 5},
    "linear real": {"real": True},
}
FIELDS = {"tcn": 9, "tcn by hand": 5, "attention window": 5}
every_memory = pytest.mark.parametrize("kind", KINDS)


def tensor(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(kind, dtype=torch.float64, in_dim=SIZE):
    torch.manual_seed(0)
    return make_memory(kind.split()[0], in_dim, H_DIM, **KINDS[kind]).to(dtype)


def by_steps(memory, u, state=None):
    state, outputs = memory.initial_state(len(u)) if state is None else state, []
    for u_t in u.unbind(1):
        output, state = memory.step(u_t, state)
        outputs.append(output)
    return torch.stack(outputs, 1), state


def reach(memory, num_steps=14):
    """How far back each output's gradient goes; and whether any goes forward."""
    u = tensor(2, num_steps, SIZE).requires_grad_()
    outputs, _ = memory(u)
    found = torch.zeros(num_steps, num_steps, dtype=torch.bool)
    for t in range(num_steps):
        (gradient,) = torch.autograd.grad(outputs[:, t].pow(2).sum(), u, retain_graph=True)
        found[t] = gradient.abs().amax((0, 2)) > 1e-14
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@every_memory
@torch.no_grad()
def test_steps_are_the_whole_sequence(kind, dtype, tolerance):
    """Outputs, and all that is carried on; in single precision relative to outputs of size one or more."""
    memory, u = make(kind, dtype), tensor(4, 40, SIZE, dtype=dtype)
    whole, last = memory(u)
    steps, state = by_steps(memory, u)
    assert (whole - steps).abs().max() <= tolerance * max(1.0, float(whole.abs().max()))
    assert state.keys() == last.keys() == set(memory.state_names)
    for name, value in state.items():
        assert value.shape == last[name].shape
        if value.numel():
            assert (value - last[name]).abs().max() <= 4 * tolerance * max(1.0, float(value.abs().max()))


@every_memory
def test_pieces_of_any_length_are_the_whole_sequence(kind):
    memory, u = make(kind), tensor(4, 12, SIZE)
    whole, _ = memory(u)
    state, outputs = memory.initial_state(4), []
    for piece in u.split([5, 1, 2, 4], 1):
        output, state = memory(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-12)


@every_memory
def test_rows_of_a_state_are_sequences(kind):
    """What particles need: rows of the state may be picked and repeated."""
    memory, u = make(kind), tensor(4, 9, SIZE)
    rows = torch.tensor([2, 2, 0])
    _, state = memory(u[:, :6])
    picked, _ = memory(u[rows, 6:], {name: value[rows] for name, value in state.items()})
    torch.testing.assert_close(picked, memory(u)[0][rows, 6:], rtol=0, atol=1e-12)


@every_memory
def test_no_output_looks_ahead_and_none_further_back_than_the_field(kind):
    memory = make(kind)
    assert memory.receptive_field == FIELDS.get(kind)
    found = reach(memory)
    distance = torch.arange(14)[:, None] - torch.arange(14)
    field = memory.receptive_field or math.inf
    assert not found[distance < 0].any(), "an output looks ahead"
    assert not found[distance >= field].any(), "an output looks further back than its field"
    # It looks that far, too; dilations by hand may leave gaps.
    looked_at = (distance >= 0) & (distance < field)
    if kind == "tcn by hand":
        looked_at &= distance != 2
    assert torch.equal(found, looked_at)


@pytest.mark.parametrize("kind", FIELDS)
def test_what_left_the_field_is_forgotten_to_the_last_bit(kind):
    """By perturbation, from the very input: an exact equality, not a small number."""
    memory, u = make(kind), tensor(4, 20, SIZE)
    other = u.clone()
    other[:, 5] += 1e3
    same = memory(u)[0] == memory(other)[0]
    assert same[:, :5].all()
    assert not same[:, 5].any()
    assert not same[:, 4 + FIELDS[kind]].any()
    assert same[:, 5 + FIELDS[kind] :].all()


@pytest.mark.parametrize(
    ("kind", "sizes"),
    {
        "lstm": (2 * H_DIM, 2 * H_DIM),
        "tcn": (8 * H_DIM, 8 * H_DIM),  # R - 1 vectors
        "attention": (2 * 2 * 20 * H_DIM, 2 * 2 * 200 * H_DIM),  # keys and values of two layers, of all frames
        "attention window": (2 * 2 * 2 * H_DIM, 2 * 2 * 2 * H_DIM),
        "linear": (2 * 2 * 5, 2 * 2 * 5),
        "linear real": (2 * H_DIM, 2 * H_DIM),
    }.items(),
)
def test_what_a_stream_keeps(kind, sizes):
    memory = make(kind)
    assert (memory.state_size(20), memory.state_size(200)) == sizes


class TestConvolution:
    def test_is_the_sum_over_its_taps(self):
        memory, u = make("tcn"), tensor(2, 8, H_DIM)
        layer = memory.mixers[1]  # dilation 3
        weight, bias = layer.convolution.weight, layer.convolution.bias
        for t in range(8):
            # torch's convolutions are correlations: their last tap is the present frame.
            taps = [u[:, t - 3 * k] @ weight[..., 2 - k].T for k in range(3) if t >= 3 * k]
            torch.testing.assert_close(layer(u)[0][:, t], sum(taps) + bias)

    def test_is_the_same_at_all_frames(self):
        """Shifted inputs give shifted outputs, once the start has left the field."""
        memory, u = make("tcn"), tensor(2, 30, SIZE)
        torch.testing.assert_close(memory(u)[0][:, 15:], memory(u[:, 5:])[0][:, 10:], rtol=0, atol=1e-13)

    def test_default_dilations_look_at_each_frame_of_the_field_once(self):
        for kernel, layers in ((2, 5), (3, 3), (4, 2)):
            field = {0}
            for i in range(layers):
                lags = [k * kernel**i for k in range(kernel)]
                assert len({a + b for a in field for b in lags}) == len(field) * kernel
                field = {a + b for a in field for b in lags}
            assert TCN(1, 2, kernel=kernel, layers=layers).receptive_field == len(field) == kernel**layers


class TestAttention:
    def test_is_the_softmax_written_out(self):
        """Rotations of keys against queries, by distance; one frame at a time, one head at a time."""
        torch.manual_seed(0)
        layer = CausalAttention(SIZE, H_DIM, layers=1, heads=2, window=4).double().mixers[0]
        u, dim = tensor(2, 7, H_DIM), 4
        query, key, value = layer.project(u).chunk(3, -1)
        speeds = torch.tensor([1.0, 10_000**-0.5], dtype=torch.float64)
        for t in range(7):
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                past = range(max(0, t - 3), t + 1)
                scores = []
                for s in past:
                    turn = torch.polar(torch.ones(2, dtype=torch.float64), (t - s) * speeds)
                    q, k = (torch.complex(v[..., :2], v[..., 2:]) for v in (query[:, t, h], key[:, s, h]))
                    scores.append((q * turn * k.conj()).real.sum(-1) / math.sqrt(dim))
                weights = torch.stack(scores, -1).softmax(-1)
                heads.append(sum(weights[:, i, None] * value[:, s, h] for i, s in enumerate(past)))
            torch.testing.assert_close(layer(u)[0][:, t], layer.out(torch.cat(heads, -1)))

    def test_where_a_sequence_began_does_not_matter(self):
        memory, u = make("attention window"), tensor(2, 300, SIZE)
        torch.testing.assert_close(memory(u)[0][:, 290:], memory(u[:, 200:])[0][:, 90:], rtol=0, atol=1e-11)

    def test_places_far_out_keep_their_digits(self):
        """In single precision too: angles are computed in double."""
        memory, u = make("attention window", torch.float32), tensor(1, 3000, SIZE, dtype=torch.float32)
        torch.testing.assert_close(memory(u)[0][:, -20:], memory(u[:, -60:])[0][:, -20:], rtol=0, atol=5e-6)


class TestLinearRecurrence:
    @pytest.mark.parametrize("real", [False, True])
    def test_is_its_equations_step_by_step(self, real):
        torch.manual_seed(0)
        layer = LinearRecurrence(SIZE, H_DIM, layers=1, states=5, real=real).double().mixers[0]
        u = tensor(2, 9, H_DIM)
        B, C = ((w[0] if real else torch.complex(w[0], w[1])) for w in (layer.B, layer.C))
        factors = layer.factors
        s = torch.zeros(2, 5, dtype=B.dtype)
        for t in range(9):
            s = factors * s + (1 - factors.abs() ** 2).sqrt() * (u[:, t].to(B.dtype) @ B.T)
            y = (s @ C.T).real if not real else s @ C.T
            torch.testing.assert_close(layer(u)[0][:, t], y + layer.d * u[:, t])

    def test_is_stable_whatever_the_weights(self):
        layer = LinearRecurrence(SIZE, H_DIM, layers=1).mixers[0]
        for shift in (-30.0, -5.0, 0.0, 5.0):
            nn.init.normal_(layer.nu, shift, 3.0)
            assert (layer.factors.abs() <= 1).all()
            outputs, _ = layer(torch.ones(1, 5000, H_DIM))
            assert torch.isfinite(outputs).all()
            assert outputs.abs().max() < 1e5

    def test_states_driven_by_white_noise_keep_their_size(self):
        layer = LinearRecurrence(1, H_DIM, layers=1).double().mixers[0]
        driven = torch.polar(torch.ones(20000, 1, 1, dtype=torch.float64), 2 * math.pi * tensor(20000, 1, 1))
        for factor in layer.factors.detach()[:3]:
            gamma = (1 - factor.abs() ** 2).sqrt()
            s = diagonal_recursion(factor.expand(19999, 1, 1), gamma * driven)
            assert 0.6 < s[2000:].abs().square().mean() < 1.6


class TestDiagonalRecursion:
    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 16, 33])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_both_ways_are_the_recursion_by_matrices(self, steps, dtype):
        a, b = torch.randn(steps, 4, dtype=dtype), torch.randn(steps + 1, 4, dtype=dtype)
        one, other = (diagonal_recursion(a, b, method) for method in ("sequential", "parallel"))
        torch.testing.assert_close(one, other)
        if dtype == torch.float64:
            torch.testing.assert_close(affine_recursion(a[..., None, None], b[..., None, None])[..., 0, 0], one)
        y = b[0]
        for t in range(steps):
            y = a[t] * y + b[t + 1]
        torch.testing.assert_close(one[-1], y)

    @pytest.mark.parametrize("method", ["sequential", "parallel"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    @pytest.mark.parametrize("shape", [(5, 3, 2), (5, 1, 2)], ids=["own", "shared"])
    def test_derivatives(self, method, dtype, shape):
        """First and second, against differences; where one factor stands for many entries, too."""
        a = (0.7 * torch.randn(shape, dtype=dtype)).requires_grad_()
        b = torch.randn(6, 3, 2, dtype=dtype, requires_grad=True)
        assert gradcheck(lambda a, b: diagonal_recursion(a, b, method), (a, b))
        assert gradgradcheck(lambda a, b: diagonal_recursion(a, b, method), (a, b))

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_forward_mode_and_transforms(self):
        a, b, da, db = (torch.randn(n, 2, dtype=torch.float64) for n in (4, 5, 4, 5))
        _, tangent = torch.func.jvp(diagonal_recursion, (a, b), (da, db))
        step = 1e-6
        difference = diagonal_recursion(a + step * da, b + step * db) - diagonal_recursion(a - step * da, b - step * db)
        torch.testing.assert_close(tangent, difference / (2 * step), rtol=1e-6, atol=1e-7)


def test_the_recurrent_cells_are_memories_too():
    assert isinstance(InternalState(3, 4), Memory)
    assert InternalState(3, 4).is_recurrent
    assert set(MEMORIES) == {"rnn", "gru", "lstm", "tcn", "attention", "linear"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_memory("conv", 3, 4), "memory must be one of rnn, gru, lstm, tcn, attention, linear; got 'conv'"),
        (lambda: make_memory("gru", 3, 4, window=3), "the memory 'gru' has no option 'window'"),
        (lambda: make_memory("tcn", 3, 4, heads=3), "the memory 'tcn' has no option 'heads'"),
        (lambda: TCN(3, 4, kernel=1), "a kernel must be at least 2, a dilation at least 1; got 1, 1"),
        (lambda: TCN(3, 4, layers=0), "the number of layers must be at least 1; got 0"),
        (lambda: TCN(0, 4), "in_dim must be at least 1; got 0"),
        (lambda: CausalAttention(3, 6, heads=2), "size 6 cannot be shared out to 2 heads in pairs"),
        (lambda: CausalAttention(3, 8, window=0), "window must be at least 1, or None for all of the past; got 0"),
        (lambda: LinearRecurrence(3, 8, states=0), "states must be at least 1; got 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
