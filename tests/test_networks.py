"""The loops over frames, against torch's own recurrent layers and the plain networks."""

import pytest
import torch
from torch import nn

from dvae_lib.networks import (
    MLP,
    FrameByFrame,
    InternalState,
    PrecomputedInput,
    Recurrence,
    append_input,
    reverse_time,
    shift,
)

KINDS = [("rnn", "tanh"), ("rnn", "relu"), ("gru", "tanh"), ("lstm", "tanh")]
every_cell = pytest.mark.parametrize(("cell", "activation"), KINDS, ids=["-".join(kind) for kind in KINDS])
SIZE, H_DIM = 5, 4


def tensor(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recursion(cell, activation="tanh", in_dim=SIZE, **options):
    torch.manual_seed(0)
    d_h = InternalState(in_dim, H_DIM, cell=cell, activation=activation, **options).double()
    for parameter in d_h.parameters():
        nn.init.normal_(parameter, std=0.7)
    return d_h


def run(d_h, inputs, known_dim):
    """All states, of which the first is h, by the loop."""
    frames = FrameByFrame(d_h, inputs[..., :known_dim])
    state = frames.start(len(inputs))
    states = []
    for t in range(inputs.shape[1]):
        state = frames(t, inputs[:, t, known_dim:], state)
        states.append(state)
    return [torch.stack(values, 1) for values in zip(*states, strict=True)]


def torchs(cell, activation):
    """torch's network, told nothing but its weights."""
    cls, options = {"rnn": (nn.RNN, {"nonlinearity": activation}), "gru": (nn.GRU, {}), "lstm": (nn.LSTM, {})}[cell]
    return cls(SIZE, H_DIM, batch_first=True, **options).double()


class TestFrameByFrame:
    @pytest.mark.parametrize("known_dim", range(SIZE + 1))
    @every_cell
    def test_is_torchs_layer(self, cell, activation, known_dim):
        """States, last cell, and gradients of the inputs and of every weight, however the input is split."""
        d_h, inputs = recursion(cell, activation), tensor(3, 6, SIZE).requires_grad_()
        reference = torchs(cell, activation)
        reference.load_state_dict(d_h.layers.state_dict())
        expected, last = reference(inputs)
        states = run(d_h, inputs, known_dim)
        torch.testing.assert_close(states[0], expected)
        for value, end in zip(states, last if cell == "lstm" else (last,), strict=True):
            torch.testing.assert_close(value[:, -1], end[0])
        weight = tensor(*expected.shape, seed=2)
        ours = torch.autograd.grad((weight * states[0]).sum(), [inputs, *d_h.layers.parameters()])
        theirs = torch.autograd.grad((weight * expected).sum(), [inputs, *reference.parameters()])
        torch.testing.assert_close(ours, theirs)

    @every_cell
    def test_gradients(self, cell, activation):
        d_h, inputs = recursion(cell, activation), tensor(2, 2, SIZE).requires_grad_()
        assert torch.autograd.gradcheck(lambda *_: run(d_h, inputs, 2)[0], (inputs, *d_h.layers.parameters()))

    @every_cell
    def test_starts_where_the_recursion_starts(self, cell, activation):
        d_h, inputs = recursion(cell, activation, learn_initial_state=True), tensor(3, 4, SIZE)
        state = FrameByFrame(d_h, inputs[..., :2]).start(3)
        assert [value.shape for value in state] == [(3, H_DIM)] * (2 if cell == "lstm" else 1)
        assert all((value != 0).all() for value in state)
        torch.testing.assert_close(run(d_h, inputs, 2)[0], d_h(inputs)[0])
        ours, theirs = (torch.autograd.grad(h.sum(), d_h.start)[0] for h in (run(d_h, inputs, 2)[0], d_h(inputs)[0]))
        torch.testing.assert_close(ours, theirs)

    @every_cell
    def test_a_state_can_be_gone_back_to(self, cell, activation):
        d_h, inputs = recursion(cell, activation), tensor(3, 4, SIZE)
        frames = FrameByFrame(d_h, inputs[..., :2])
        state = frames(0, inputs[:, 0, 2:], frames.start(3))
        before = [value.clone() for value in state]
        one, other = (frames(1, inputs[:, 1, 2:], state) for _ in range(2))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        torch.testing.assert_close(list(state), before, rtol=0, atol=0)

    def test_float32(self):
        d_h, inputs = recursion("lstm").float(), tensor(3, 30, SIZE).float()
        torch.testing.assert_close(run(d_h, inputs, 2)[0], d_h(inputs)[0], rtol=1e-5, atol=1e-6)

    def test_several_layers_are_refused(self):
        with pytest.raises(ValueError, match="recursions of one layer; this one has 2"):
            FrameByFrame(recursion("gru", num_layers=2), tensor(1, 2, 3))


class TestPrecomputedInput:
    @pytest.mark.parametrize("hidden", [(), (6,), (6, 3)])
    @pytest.mark.parametrize("known_dim", range(SIZE + 1))
    def test_is_the_plain_network(self, known_dim, hidden):
        torch.manual_seed(0)
        network = nn.Sequential(*MLP(SIZE, hidden), nn.Linear((SIZE, *hidden)[-1], 2)).double()
        inputs = tensor(3, 4, SIZE).requires_grad_()
        split = PrecomputedInput([*network], inputs[..., :known_dim])
        outputs = torch.stack([split(t, inputs[:, t, known_dim:]) for t in range(4)], 1)
        expected = network(inputs)
        torch.testing.assert_close(outputs, expected)
        weight = tensor(*expected.shape, seed=2)
        ours, theirs = (
            torch.autograd.grad((weight * y).sum(), [inputs, *network.parameters()]) for y in (outputs, expected)
        )
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.usefixtures("as_a_user")
    def test_its_first_layer_must_be_linear(self):
        with pytest.raises(TypeError, match="first layer must be linear; got Tanh"):
            PrecomputedInput([nn.Tanh(), nn.Linear(3, 2)], torch.zeros(1, 2, 3))


class TestRecurrence:
    @pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
    def test_backward_is_torchs_layer_on_each_reversed_sequence(self, cell):
        torch.manual_seed(0)
        network = Recurrence(SIZE, H_DIM, cell=cell, backward=True).double()
        reference = torchs(cell, "tanh")
        reference.load_state_dict(network.network.state_dict())
        inputs, lengths = tensor(3, 6, SIZE), torch.tensor([6, 1, 4])
        states = network(inputs, lengths)
        torch.testing.assert_close(network(inputs), reference(inputs.flip(1))[0].flip(1))
        for i, n in enumerate(lengths.tolist()):
            alone = reference(inputs[i : i + 1, :n].flip(1))[0].flip(1)
            torch.testing.assert_close(states[i : i + 1, :n], alone)

    def test_forward_is_torchs_layer(self):
        network = Recurrence(SIZE, H_DIM, cell="gru").double()
        inputs = tensor(3, 6, SIZE)
        torch.testing.assert_close(network(inputs, torch.tensor([6, 1, 4])), network.network(inputs)[0])

    def test_cell(self):
        with pytest.raises(ValueError, match="cell must be one of rnn, gru, lstm; got 'elman'"):
            Recurrence(SIZE, H_DIM, cell="elman")


def test_reversal_undoes_itself_and_leaves_padding():
    x, lengths = tensor(3, 5, 2), torch.tensor([5, 1, 3])
    turned = reverse_time(x, lengths)
    torch.testing.assert_close(reverse_time(turned, lengths), x)
    torch.testing.assert_close(turned[2], x[2, [2, 1, 0, 3, 4]])
    torch.testing.assert_close(reverse_time(x), x[:, [4, 3, 2, 1, 0]])


def test_shift():
    x = tensor(2, 3, 2)
    late = shift(x)
    assert (late[:, 0] == 0).all()
    torch.testing.assert_close(late[:, 1:], x[:, :2])
    torch.testing.assert_close(shift(x, x[:, 2])[:, 0], x[:, 2])
    torch.testing.assert_close(shift(x[:, :1]), torch.zeros(2, 1, 2, dtype=torch.float64))


def test_beside():
    x, u = tensor(2, 3, 2), tensor(2, 3, 1)
    assert append_input(x, None) is x
    torch.testing.assert_close(append_input(x, u), torch.cat([x, u], -1))
