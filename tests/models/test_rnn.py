import pytest
import torch
from torch import nn

from dvae_lib.models import DVAE
from dvae_lib.models.rnn import GRNN, RNN
from dvae_lib.networks import InternalState

LIKELIHOODS = ("gaussian", "unit_gaussian", "centimetre_gaussian", "gamma", "bernoulli")  # others: test_observations.py
CELLS = ("rnn", "gru", "lstm")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(observation, *shape, seed=0):
    x = torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)
    return {"bernoulli": (x > 0).double(), "gamma": x.square()}.get(observation, x)


def grnn(x_dim=3, h_dim=5, **options):
    torch.manual_seed(0)
    model = GRNN(x_dim, h_dim, **options).double()
    for parameter in model.parameters():  # torch's initial weights are small: make the recursion matter
        nn.init.normal_(parameter, std=0.5)
    return model


class TestDeterministic:
    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_equations_by_hand(self, activation):
        torch.manual_seed(0)
        network = RNN(2, 4, 3, activation=activation, d_out=nn.Sigmoid(), learn_initial_state=True).double()
        nn.init.normal_(network.d_h.start)
        u = data("gaussian", 5, 7, 2)
        w = network.weights
        h, outputs = network.d_h.start[0, 0].expand(5, 4), []
        for t in range(7):
            h = getattr(torch, activation)(u[:, t] @ w["W_in"].T + h @ w["W_rec"].T + w["b_hid"])  # (3.1)
            outputs.append(torch.sigmoid(h @ w["W_out"].T + w["b_out"]))  # (3.2)
        torch.testing.assert_close(network(u), torch.stack(outputs, 1))

    def test_is_torchs_network(self):
        torch.manual_seed(0)
        network = RNN(2, 4, 3)
        reference = nn.RNN(2, 4, batch_first=True)
        with torch.no_grad():
            for name, weight in zip(("weight_ih_l0", "weight_hh_l0"), ("W_in", "W_rec"), strict=True):
                getattr(reference, name).copy_(network.weights[weight])
            reference.bias_ih_l0.copy_(network.weights["b_hid"])
            reference.bias_hh_l0.zero_()
        u = torch.randn(2, 6, 2, generator=seeded())
        expected = reference(u)[0] @ network.weights["W_out"].T + network.weights["b_out"]
        torch.testing.assert_close(network(u), expected)

    @pytest.mark.parametrize("cell", CELLS)
    def test_state_continues_a_sequence(self, cell):
        torch.manual_seed(0)
        d_h = InternalState(3, 4, cell=cell, num_layers=2, learn_initial_state=True)
        u = torch.randn(2, 9, 3, generator=seeded())
        whole, end = d_h(u)
        first, state = d_h(u[:, :4])
        second, state = d_h(u[:, 4:], state)
        torch.testing.assert_close(torch.cat((first, second), 1), whole)
        for name in end:
            torch.testing.assert_close(state[name], end[name])
            assert end[name].shape == (2, 2, 4)

    def test_free_run_feeds_outputs_back(self):
        torch.manual_seed(0)
        network = RNN(2, 8, 2, cell="gru")
        prefix = torch.randn(1, 5, 2, generator=seeded())
        run = network.free_run(4, prefix=prefix)
        heard = prefix
        for t in range(4):
            following = network(heard)[:, -1:]
            torch.testing.assert_close(run[:, t : t + 1], following)
            heard = torch.cat((heard, following), 1)

    def test_runs_by_itself(self):
        network = RNN(0, 4, 2, learn_initial_state=True)
        assert network(torch.zeros(3, 6, 0)).shape == (3, 6, 2)

    @pytest.mark.usefixtures("as_a_user")
    def test_refuses(self):
        with pytest.raises(ValueError, match="cell must be one of rnn, gru, lstm"):
            RNN(1, 2, 3, cell="elman")
        with pytest.raises(ValueError, match="activation must be"):
            RNN(1, 2, 3, activation="sin")
        with pytest.raises(ValueError, match="option of the simple cell"):
            RNN(1, 2, 3, cell="gru", activation="relu")
        with pytest.raises(ValueError, match="h_dim must be at least 1"):
            RNN(1, 0, 3)
        with pytest.raises(ValueError, match="one simple layer; this network has 1 layer"):
            _ = RNN(1, 2, 3, cell="gru").weights
        with pytest.raises(ValueError, match="u_dim is 1"):
            RNN(1, 2, 3).free_run(4, prefix=torch.zeros(1, 2, 1))
        with pytest.raises(ValueError, match="u must have vectors of size 1"):
            RNN(1, 2, 3)(torch.zeros(1, 4, 2))


class TestLikelihood:
    @pytest.mark.parametrize("observation", LIKELIHOODS)
    @pytest.mark.parametrize("cell", CELLS)
    def test_stepwise_is_vectorised(self, observation, cell):
        model = grnn(observation=observation, cell=cell, num_layers=2, decoder=(6,), learn_initial_state=True)
        x = data(observation, 4, 8, 3)
        state, x_prev, total = model.initial_state(4), torch.zeros(4, 3, dtype=torch.float64), 0
        for t in range(8):
            out = model.step(state, x_prev)
            state, x_prev = out.state, x[:, t]
            total = total + out.observation.log_prob(x[:, t])
        torch.testing.assert_close(model.log_likelihood(x), total)

    @pytest.mark.parametrize("mode", ["predictive", "driven", "undriven"])
    def test_bound_is_the_likelihood(self, mode):
        model = grnn(mode=mode, u_dim=2 if mode == "driven" else 0)
        x, u = data("gaussian", 4, 6, 3), data("gaussian", 4, 6, 2, seed=1) if mode == "driven" else None
        bound = model.vlb(x, u, beta=0.3, generator=seeded())
        assert bound.kl == {}
        assert torch.equal(bound.value, bound.reconstruction)
        expected = model.generation(x, {}, u).observation.log_prob(x).sum(1)
        torch.testing.assert_close(bound.value, expected, rtol=0, atol=0)
        torch.testing.assert_close(model.importance_weighted_bound(x, u, num_samples=3), expected)

    def test_sums_to_one_over_all_binary_sequences(self):
        model = grnn(x_dim=2, observation="bernoulli")
        bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
        total = model.log_likelihood(bits.reshape(-1, 3, 2)).logsumexp(0)
        assert total.item() == pytest.approx(0.0, abs=1e-12)

    def test_gaussian_likelihood_from_the_definition(self):
        model = grnn()
        x = data("gaussian", 2, 5, 3)
        p = model.generation(x, {}).observation
        normal = torch.distributions.Normal(p.mean, p.stddev)
        torch.testing.assert_close(model.log_likelihood(x), normal.log_prob(x).sum((1, 2)))

    @pytest.mark.parametrize("mode", ["predictive", "driven"])
    def test_padded_is_single(self, mode):
        model = grnn(mode=mode, u_dim=2)
        x, u, lengths = data("gaussian", 3, 9, 3), data("gaussian", 3, 9, 2, seed=1), torch.tensor([9, 4, 1])
        padded = model.log_likelihood(x, u, lengths=lengths)
        for i, n in enumerate(lengths):
            torch.testing.assert_close(padded[i : i + 1], model.log_likelihood(x[i : i + 1, :n], u[i : i + 1, :n]))

    def test_gradients_of_padding_are_zero(self):
        model = grnn()
        x = data("gaussian", 2, 5, 3).requires_grad_()
        model.log_likelihood(x, lengths=torch.tensor([5, 3])).sum().backward()
        assert (x.grad[1, 3:] == 0).all()
        assert (x.grad[0] != 0).any()


class TestDependencies:
    @staticmethod
    def moved_by(model, frame, of, u=None):
        """Which frames of x (or u) move the parameters of p(x_frame)."""
        x = data("gaussian", 1, 5, 3).requires_grad_()
        if u is not None:
            u = u.requires_grad_()
        sum(p[0, frame].sum() for p in model.generation(x, {}, u).observation.parameters).backward()
        gradient = {"x": x, "u": u}[of].grad
        return [] if gradient is None else [t for t in range(5) if (gradient[0, t] != 0).any()]

    def test_predictive(self):
        assert self.moved_by(grnn(), 3, "x") == [0, 1, 2]

    def test_driven(self):
        model, u = grnn(mode="driven", u_dim=2), data("gaussian", 1, 5, 2)
        assert self.moved_by(model, 3, "u", u) == [0, 1, 2, 3]
        assert self.moved_by(model, 3, "x", u) == []

    def test_predictive_and_driven(self):
        model, u = grnn(u_dim=2), data("gaussian", 1, 5, 2)
        assert self.moved_by(model, 3, "u", u) == [0, 1, 2, 3]
        assert self.moved_by(model, 3, "x", u) == [0, 1, 2]

    def test_undriven(self):
        assert self.moved_by(grnn(mode="undriven"), 3, "x") == []

    @pytest.mark.parametrize(
        ("options", "parents"),
        [
            ({}, {"x_{1:t-1}"}),
            ({"mode": "driven", "u_dim": 2}, {"u_{1:t}"}),
            ({"u_dim": 2}, {"u_{1:t}", "x_{1:t-1}"}),
            ({"mode": "undriven"}, set()),
        ],
    )
    def test_spec_says_the_same(self, options, parents):
        assert grnn(**options).spec.compact("generation") == {"x_t": frozenset(parents)}


class TestFeedback:
    def test_all_own_output(self):
        model = grnn(observation="gamma")
        x = data("gamma", 2, 6, 3)
        p = model.generation(x, {}, feedback=1.0).observation
        means = model.generate(6, 2, emission="mean").observation
        torch.testing.assert_close(p.mean, means.mean)  # nothing of x is looked at

    def test_none_is_teacher_forcing(self):
        model, x = grnn(), data("gaussian", 2, 6, 3)
        tiny = model.vlb(x, feedback=1e-12, generator=seeded()).value
        torch.testing.assert_close(tiny, model.vlb(x).value)

    def test_probability_is_per_sequence_and_frame(self):
        model, x = grnn(), data("gaussian", 400, 3, 3)
        teacher, own = (model.generation(x, {}, feedback=f).observation.mean for f in (0.0, 1.0))
        mixed = model.generation(x, {}, feedback=0.25, generator=seeded()).observation.mean
        # The second frame looks on one fed-back frame only, so it is either that of the one mode or of the other.
        is_own = torch.isclose(mixed[:, 1], own[:, 1]).all(-1)
        assert (is_own | torch.isclose(mixed[:, 1], teacher[:, 1]).all(-1)).all()
        assert 0.18 < is_own.double().mean() < 0.32

    def test_gradient_flows_through_what_is_fed_back(self):
        model, x = grnn(), data("gaussian", 2, 6, 3)
        (-model.vlb(x, feedback=1.0).value.sum()).backward()
        assert all((p.grad != 0).any() for p in model.parameters())

    def test_only_where_the_past_is_looked_at(self):
        with pytest.raises(ValueError, match="GRNN does not generate from past observations"):
            grnn(mode="undriven").vlb(data("gaussian", 2, 6, 3), feedback=0.5)


class TestGeneration:
    @pytest.mark.parametrize("observation", LIKELIHOODS)
    def test_samples_have_the_likelihood_they_were_drawn_with(self, observation):
        model = grnn(observation=observation)
        sample = model.generate(7, 3, generator=seeded())
        assert sample.x.shape == (3, 7, 3)
        assert sample.latents == {}
        torch.testing.assert_close(sample.observation.log_prob(sample.x).sum(1), model.log_likelihood(sample.x))

    def test_continuation_is_conditioned_on_the_prefix(self):
        model, prefix = grnn(), data("gaussian", 2, 6, 3)
        sample = model.generate(4, prefix=prefix, generator=seeded())
        whole = torch.cat((prefix, sample.x), 1)
        expected = model.generation(whole, {}).observation
        torch.testing.assert_close(sample.observation.mean, expected.mean[:, 6:])

    def test_driven(self):
        model, u = grnn(mode="driven", u_dim=2), data("gaussian", 2, 5, 2)
        sample = model.generate(5, 2, u=u, emission="mean")
        torch.testing.assert_close(sample.x, model.generation(sample.x, {}, u).observation.mean)

    def test_same_seed_same_sample(self):
        model = grnn()
        one, same, other = (model.generate(5, 2, generator=seeded(s)).x for s in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_frequencies_are_the_models_probabilities(self):
        model = grnn(x_dim=1, observation="bernoulli")
        x = model.generate(3, 40_000, generator=seeded()).x
        patterns, counts = x.flatten(1).unique(dim=0, return_counts=True)
        probability = model.log_likelihood(patterns[..., None]).exp()
        torch.testing.assert_close(counts / 40_000, probability.detach(), atol=0.01, rtol=0, check_dtype=False)

    @pytest.mark.usefixtures("as_a_user")
    def test_refuses(self):
        model = grnn(mode="driven", u_dim=2)
        with pytest.raises(ValueError, match=r"expected u of shape \(3, 5, 2\), for 5 new frames; got None"):
            model.generate(5, 3)
        with pytest.raises(ValueError, match="num_steps and batch_size"):
            grnn().generate(0)
        with pytest.raises(ValueError, match="emission must be"):
            grnn().generate(2, emission="median")


class TestOptions:
    @pytest.mark.usefixtures("as_a_user")
    def test_refuses(self):
        for options, message in (
            ({"mode": "free"}, "mode must be one of predictive, driven, undriven"),
            ({"mode": "driven"}, "driven mode needs u_dim > 0"),
            ({"mode": "undriven", "u_dim": 2}, "undriven mode needs u_dim = 0"),
            ({"observation": "cauchy"}, "observation must be one of"),
        ):
            with pytest.raises(ValueError, match=message):
                GRNN(3, **options)

    def test_non_finite_data_are_refused(self):
        x = data("gaussian", 2, 6, 3)
        x[1, 4, 2] = float("nan")
        with pytest.raises(ValueError, match=r"x\[1, 4, 2\] is nan"):
            grnn().log_likelihood(x)

    def test_saved_and_loaded(self, tmp_path):
        model = grnn(mode="driven", u_dim=2, observation="gamma", cell="gru").float()
        model.save_pretrained(tmp_path)
        again = DVAE.from_pretrained(tmp_path)
        assert isinstance(again, GRNN)
        x, u = data("gamma", 2, 5, 3).float(), data("gaussian", 2, 5, 2).float()
        assert torch.equal(again.log_likelihood(x, u), model.log_likelihood(x, u))


def test_maximum_likelihood_finds_the_system():
    """An autoregression of order one: the trained network predicts as well as the truth does."""
    generator = seeded()
    noise = torch.randn(32, 60, 1, generator=generator)
    frames = [noise[:, 0]]
    for t in range(1, 60):
        frames.append(0.9 * frames[-1] + 0.5 * noise[:, t])
    x = torch.stack(frames, 1)
    truth = torch.distributions.Normal(0.9 * x[:, :-1], 0.5).log_prob(x[:, 1:]).mean().item()
    torch.manual_seed(0)
    model = GRNN(1, 8, cell="gru")
    optimiser = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(100):
        optimiser.zero_grad()
        (-model.vlb(x).value.mean() / 60).backward()
        optimiser.step()
    fitted = model.generation(x, {}).observation.log_prob(x)[:, 1:].mean().item()
    assert truth - 0.03 < fitted < truth + 0.03


def test_inputs_of_size_zero_are_inputs():
    """An undriven network is a function of time alone."""
    assert RNN(0, 3, 2, learn_initial_state=True)(torch.zeros(1, 4, 0)).shape == (1, 4, 2)
