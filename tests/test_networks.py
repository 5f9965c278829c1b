"""The loops over frames, against torch's own recurrent layers and the plain networks."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

from dvae_lib.networks import (
    MLP,
    FrameByFrame,
    InternalState,
    PrecomputedInput,
    Recurrence,
    append_input,
    reverse_time,
    sample_with_state,
    shift,
)
from dvae_lib.networks.layers import linear
from dvae_lib.networks.lstm import reads_data, sampled_lstm, samples_in_one

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


class TestData:
    """Inputs that have no gradient are spared the product for it; what comes out is the same."""

    @staticmethod
    def network(cell, backward, parts=(300, 20), dtype=torch.float32):
        torch.manual_seed(0)
        network = Recurrence(sum(parts), 64, cell=cell, backward=backward).to(dtype)
        x, v = torch.randn(3, 5, parts[0], dtype=dtype), torch.randn(3, 1, parts[1], dtype=dtype)
        return network, x, v.requires_grad_()

    @staticmethod
    def results(network, states, v):
        weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states.dtype)
        return states, *torch.autograd.grad((weight * states).sum(), [v, *network.parameters()])

    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize("cell", ["lstm", "gru"])
    @pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2, 4])])
    def test_parts_are_the_whole(self, cell, backward, lengths):
        network, x, v = self.network(cell, backward)
        ours = self.results(network, network((x, v), lengths), v)
        whole = torch.cat([x, v.expand(-1, 5, -1)], -1)
        double, wide = self.network(cell, backward, dtype=torch.float64)[0], whole.double()
        double.load_state_dict(network.state_dict())
        truth = self.results(double, double(wide, lengths), v)
        for value, expected in zip(ours, truth, strict=True):
            torch.testing.assert_close(value.double(), expected.double(), rtol=1e-4, atol=2e-5)

    @pytest.mark.parametrize("backward", [False, True])
    def test_one_part(self, backward):
        network, x, _ = self.network("lstm", backward, parts=(300, 0))
        assert reads_data(network.network, [x])
        reference = network(x.clone().requires_grad_())  # torch's own, since the inputs have a gradient
        weight = torch.randn(reference.shape)
        ours, theirs = (
            torch.autograd.grad((weight * states).sum(), list(network.parameters()))
            for states in (network(x), reference)
        )
        torch.testing.assert_close(network(x), reference)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)

    def test_nothing_is_computed_for_the_data(self):
        network, x, v = self.network("lstm", True)
        network((x, v)).sum().backward()
        assert x.grad is None
        assert v.grad is not None

    def test_when(self):
        network, x, v = self.network("lstm", False)
        assert reads_data(network.network, [x, v])
        assert not reads_data(network.network, [x.clone().requires_grad_(), v])
        assert not reads_data(network.network, [x[..., :200], v])
        assert not reads_data(Recurrence(300, 8).network, [x])
        assert not reads_data(Recurrence(300, 64, cell="gru").network, [x])
        assert not reads_data(network.double().network, [x.double(), v.double()])
        with torch.no_grad():
            assert not reads_data(network.float().network, [x, v])
        with torch.autocast("cpu", torch.bfloat16):
            assert not reads_data(network.network, [x, v])

    @staticmethod
    def of_a_penalised_gradient(states, leaves):
        """The gradient of a sum and of the squared norm of its own gradient, and many gradients at once."""
        (slope,) = torch.autograd.grad(states.sum(), leaves[:1], create_graph=True)
        by_grad = torch.autograd.grad(states.sum() + slope.square().sum(), leaves, retain_graph=True)
        many = torch.autograd.grad(
            states.sum((1, 2)), leaves, torch.eye(len(states)), is_grads_batched=True, retain_graph=True
        )
        for leaf in leaves:
            leaf.grad = None
        (states.sum() + slope.square().sum()).backward()
        return [*by_grad, *many, *(leaf.grad.clone() for leaf in leaves)]

    @pytest.mark.parametrize("backward", [False, True])
    def test_gradients_have_gradients(self, backward):
        network, x, _ = self.network("lstm", backward, parts=(256, 0))
        assert reads_data(network.network, [x])
        weights = [network.network.weight_hh_l0, network.network.weight_ih_l0]
        ours = self.of_a_penalised_gradient(network(x), weights)
        theirs = self.of_a_penalised_gradient(network(x.clone().requires_grad_()), weights)
        for value, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
        network.network.weight_hh_l0.requires_grad_(False)
        network(x).sum().backward()

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
    def test_a_traced_network_can_be_saved(self, tmp_path):
        network, x, _ = self.network("lstm", False, parts=(300, 0))
        torch.jit.trace(network, x, check_trace=False).save(tmp_path / "traced.pt")
        torch.testing.assert_close(torch.jit.load(tmp_path / "traced.pt")(x), network(x))

    def test_hooks_are_called_and_pruned_weights_trained(self):
        network, x, _ = self.network("lstm", False, parts=(300, 0))
        mlp, h = MLP(8, [7]), torch.randn(2, 3, 5, requires_grad=True)
        for inner, run in ((network.network, lambda: network(x)), (mlp[0], lambda: mlp((h, torch.randn(2, 3, 3))))):
            calls = []
            handle = inner.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            run()
            assert calls == [1]
            handle.remove()
            name = "weight" if inner is mlp[0] else "weight_hh_l0"
            prune.l1_unstructured(inner, name, 0.5)
            for _ in range(2):  # the second time no graph of the first may be needed
                run().sum().backward()

    def test_what_replaced_a_layer_is_asked(self):
        class Doubled(nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        h, data = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 3)
        for layer in (Doubled(8, 7), nn.Sequential(nn.Linear(8, 7))):
            mlp = MLP(8, [7])
            mlp[0] = layer
            torch.testing.assert_close(mlp((h, data)), mlp(torch.cat([h, data], -1)))

    def test_precision_does_not_depend_on_who_has_a_gradient(self):
        h, data, layer = torch.randn(2, 3, 5), torch.randn(2, 3, 3), nn.Linear(8, 7)
        with torch.autocast("cpu", torch.bfloat16):
            kinds = {linear((part, data), layer.weight, layer.bias).dtype for part in (h, h.clone().requires_grad_())}
        assert kinds == {torch.bfloat16}

    @pytest.mark.parametrize("sizes", [[7], [7, 6], []])
    def test_layers(self, sizes):
        mlp, h = MLP(8, sizes).double(), tensor(2, 3, 5).requires_grad_()
        for rest in (tensor(2, 3, 3, seed=2), tensor(2, 1, 3, seed=2)):
            whole = mlp(torch.cat([h, rest.expand(2, 3, 3)], -1))
            torch.testing.assert_close(mlp((h, rest)), whole)
            ours, theirs = (
                torch.autograd.grad(y.square().sum(), [h, *mlp.parameters()]) for y in (mlp((h, rest)), whole)
            )
            torch.testing.assert_close(ours, theirs)


class TestSampledLstm:
    """The loop with a gradient of its own, against the loop frame by frame."""

    @staticmethod
    def found(dtype, monkeypatch, *, time, rest=()):
        """What comes out, and the gradients of all that goes in; in one, or frame by frame."""
        torch.manual_seed(0)
        d_h, head = InternalState(3 + 2, 4), nn.Linear(5 + 4, 6)
        for parameter in d_h.parameters():
            nn.init.normal_(parameter, std=0.7)
        d_h, head = d_h.to(dtype), head.to(dtype)
        u, known, epsilon = (tensor(2, time, n, seed=n).float().to(dtype) for n in (2, 5, 3))
        start = [tensor(2, 4, seed=seed).float().to(dtype).requires_grad_() for seed in (7, 8)]
        leaves = [u.requires_grad_(), known.requires_grad_(), *start, *d_h.parameters(), *head.parameters()]
        calls = []

        def counted(*args):
            calls.append(1)
            return sampled_lstm(*args)

        monkeypatch.setattr("dvae_lib.networks.recurrence.sampled_lstm", counted)
        values = sample_with_state(
            FrameByFrame(d_h, u), PrecomputedInput([head, *rest], known), nn.Identity(), epsilon, start=tuple(start)
        )
        loss = sum((tensor(*v.shape, seed=9 + i).to(dtype) * v).sum() for i, v in enumerate(values))
        return [*values, *torch.autograd.grad(loss, leaves)], len(calls)

    @pytest.mark.parametrize("time", [1, 2, 6])
    def test_is_the_loop(self, time, monkeypatch):
        ours, calls = self.found(torch.float32, monkeypatch, time=time)
        assert calls == 1
        plain, calls = self.found(torch.float32, monkeypatch, time=time, rest=[nn.Identity()])
        assert calls == 0
        truth, calls = self.found(torch.float64, monkeypatch, time=time)
        assert calls == 0
        assert all(value.is_contiguous() for value in ours[:3])
        for value, same, exact in zip(ours, plain, truth, strict=True):
            torch.testing.assert_close(value, same, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-5)

    def test_gradients_have_gradients(self):
        torch.manual_seed(0)
        d_h, head = InternalState(3 + 2, 4), nn.Linear(5 + 4, 6)
        u, known, epsilon = torch.randn(2, 5, 2), torch.randn(2, 5, 5), torch.randn(2, 5, 3)
        leaves = [head.weight, d_h.layers.weight_hh_l0]
        found = []
        for rest in ([], [nn.Identity()]):
            z, *_ = sample_with_state(
                FrameByFrame(d_h, u), PrecomputedInput([head, *rest], known), nn.Identity(), epsilon
            )
            found.append(TestData.of_a_penalised_gradient(z, leaves))
        for ours, plain in zip(*found, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # forward mode's own
    def test_a_tangent_of_the_first_state_comes_through(self):
        d_h, head, u = InternalState(3, 4), nn.Linear(4, 6), torch.zeros(2, 5, 0)
        epsilon = torch.randn(2, 5, 3)
        with forward_ad.dual_level():
            start = forward_ad.make_dual(torch.zeros(2, 4), torch.ones(2, 4)), torch.zeros(2, 4)
            z, *_ = sample_with_state(
                FrameByFrame(d_h, u), PrecomputedInput([head], u), nn.Identity(), epsilon, start=start
            )
            assert forward_ad.unpack_dual(z).tangent.abs().min() > 0

    def test_frozen_weights_and_no_gradients(self):
        d_h, head, u = InternalState(3, 4), nn.Linear(4, 6), torch.zeros(2, 5, 0)
        d_h.requires_grad_(False)
        epsilon = torch.randn(2, 5, 3)

        def run():
            return sample_with_state(FrameByFrame(d_h, u), PrecomputedInput([head], u), nn.Identity(), epsilon)

        z, *_ = run()
        z.sum().backward()
        assert head.weight.grad is not None
        with torch.no_grad():
            torch.testing.assert_close(run()[0], z.detach())

    def test_when(self):
        value = torch.zeros(2, 3, 4)
        assert samples_in_one(value, value)
        assert not samples_in_one(value, value.double())
        assert not samples_in_one(value.clone().requires_grad_(), value)
        with torch.autocast("cpu", torch.bfloat16):
            assert not samples_in_one(value, value)
        assert not torch.func.vmap(lambda v: v + samples_in_one(v, v))(value).any()
