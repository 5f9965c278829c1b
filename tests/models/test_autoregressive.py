"""Laws of the models that look back on past observations: feedback, steps, continuation, the truth by quadrature."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import DVAE, GRNN, MODELS, build_model
from dvae_lib.training import Schedule, TrainingConfig, fit

X_DIM, Z_DIM, U_DIM = 3, 2, 2
SHARED = {"feature_x": (4,), "h_dim": 4, "decoder": (5,), "head": (4,)}
LAYERS = {
    "grnn": {"h_dim": 4},
    "storn": {**SHARED, "feature_z": (3,), "encoder": (4,), "g_dim": 3},
    "vrnn": {**SHARED, "feature_z": (3,), "prior": (3,), "g_dim": 3},
    "vrnn-improved": {**SHARED, "feature_z": (3,), "prior": (3,), "b_dim": 3, "auxiliary": (3,)},
    "srnn": {**SHARED, "prior": (3,), "encoder": (4,), "g_dim": 3},
}
VARIANTS = {
    "storn": ("filter", "lagged", "smoother"),
    "vrnn": ("filter", "smoother"),
    "vrnn-improved": (None,),
    "srnn": ("smoother", "filter"),
}
LATENT = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
ALL = [("grnn", None), *LATENT]


def named(cases):
    return {"argvalues": cases, "ids": ["-".join(filter(None, case)) for case in cases]}


every_model = pytest.mark.parametrize(("name", "variant"), **named(ALL))
every_latent_model = pytest.mark.parametrize(("name", "variant"), **named(LATENT))
driven_or_not = pytest.mark.parametrize("driven", [False, True], ids=["undriven", "driven"])


def test_no_predictive_model_escapes():
    predictive = {name for name in MODELS if looks_back(build_model(name, x_dim=X_DIM, z_dim=Z_DIM))}
    # Of Chapters 12 and 14, which obey the same laws in their own tests and the contract's.
    elsewhere = {"lvrnn", "stcn", "svg", "vrae"}
    assert predictive == set(VARIANTS) | elsewhere


def looks_back(model):
    return any(parent.startswith("x_") for parents in model.spec.compact().values() for parent in parents)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def make(name, variant=None, *, driven=False, x_dim=X_DIM, z_dim=Z_DIM, scale=0.6, seed=0, **options):
    """A small model in double precision; torch's initial weights are too small for the recursions to matter."""
    torch.manual_seed(seed)
    options = {**LAYERS[name], "u_dim": U_DIM if driven else 0, **options}
    if variant:
        options["inference_model"] = variant
    model = GRNN(x_dim, **options) if name == "grnn" else build_model(name, x_dim=x_dim, z_dim=z_dim, **options)
    model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale)
    return model


def data(batch=4, time=6, *, driven=False, observation="gaussian", x_dim=X_DIM, dtype=torch.float64):
    generator = seeded(1)
    x = torch.randn(batch, time, x_dim, generator=generator, dtype=torch.float64)
    x = {"gamma": x.square(), "bernoulli": (x > 0).double()}.get(observation, x)
    u = torch.randn(batch, time, U_DIM, generator=generator, dtype=torch.float64).to(dtype) if driven else None
    return x.to(dtype), u


def values(latents):
    return {name: latent.sample for name, latent in latents.items()}


def at(sequence, t):
    return None if sequence is None else sequence[:, t]


def without_auxiliary(bound):
    return bound.value - sum(bound.auxiliary.values(), torch.zeros_like(bound.value))


def assert_same(one, other, **tolerance):
    """The same priors and the same observation model."""
    assert one.prior.keys() == other.prior.keys()
    for name, prior in one.prior.items():
        torch.testing.assert_close(prior.parameters, other.prior[name].parameters, **tolerance)
    torch.testing.assert_close(one.observation.parameters, other.observation.parameters, **tolerance)


# ---- feedback -------------------------------------------------------------------------------------------


def loop(model, x, latents, u, *, detach=False, own=None):
    """The steps, one after the other, each told what the one before expected; where `own` is False, the truth."""
    state, x_prev, priors, outputs = model.initial_state(len(x)), torch.zeros_like(x[:, 0]), [], []
    for t in range(x.shape[1]):
        out = model.step(state, x_prev, at(u, t), **{f"{name}_t": value[:, t] for name, value in latents.items()})
        priors.append(out.prior.get("z"))
        outputs.append(out.observation)
        state, x_prev = out.state, out.observation.mean.detach() if detach else out.observation.mean
        if own is not None:
            x_prev = torch.where(own[:, t, None], x_prev, x[:, t])
    return priors, outputs


class TestFeedback:
    @pytest.mark.parametrize(("driven", "feedback"), [(False, 1.0), (True, 0.0), (True, 1.0)])
    @every_model
    def test_code_has_the_dependencies_of_the_equations(self, name, variant, driven, feedback):
        verdict = verify_dependencies(make(name, variant, driven=driven), feedback=feedback)
        assert verdict.agrees, str(verdict)

    @pytest.mark.parametrize("observation", ["gamma", "bernoulli"])
    @driven_or_not
    @every_model
    def test_all_own_output_is_the_loop_over_steps(self, name, variant, driven, observation):
        model = make(name, variant, driven=driven, observation=observation)
        x, u = data(driven=driven, observation=observation)
        latents = values(model.inference(x, u, generator=seeded()))
        fed = model.generation(x, latents, u, feedback=1.0)
        priors, outputs = loop(model, x, latents, u)
        for t in range(x.shape[1]):
            torch.testing.assert_close(fed.observation[:, t].parameters, outputs[t].parameters)
            if latents:
                torch.testing.assert_close(fed.prior["z"][:, t].parameters, priors[t].parameters)

    @driven_or_not
    @every_model
    def test_all_own_output_is_teacher_forcing_on_that_output(self, name, variant, driven):
        """The vectorised pass, taught by the means that generation mode gives, gives these means."""
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        latents = values(model.inference(x, u, generator=seeded()))
        taught = torch.zeros_like(x)
        for t in range(x.shape[1]):
            taught[:, t] = model.generation(taught, latents, u).observation.mean[:, t].detach()
        fed = model.generation(x, latents, u, feedback=1.0)
        assert_same(fed, model.generation(taught, latents, u))
        torch.testing.assert_close(fed.observation.mean, taught)

    @driven_or_not
    @every_model
    def test_none_is_teacher_forcing_and_draws_nothing(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        latents = values(model.inference(x, u, generator=seeded()))
        generator = seeded()
        assert_same(
            model.generation(x, latents, u, feedback=0.0, generator=generator),
            model.generation(x, latents, u),
            rtol=0,
            atol=0,
        )
        assert torch.equal(generator.get_state(), seeded().get_state())
        # A loop that is almost never fed back is teacher forcing too.
        assert_same(model.generation(x, latents, u, feedback=1e-12), model.generation(x, latents, u))

    @every_model
    def test_probability_is_per_sequence_and_frame(self, name, variant):
        """Which frames were fed back is read off the result: at each one, what follows is one thing or the other."""
        model, (x, _) = make(name, variant, scale=0.8), data(batch=500, time=6)
        latents = values(model.inference(x, generator=seeded()))
        mixed = model.generation(x, latents, feedback=0.3, generator=seeded()).observation.mean
        given = [{f"{name}_t": value[:, t] for name, value in latents.items()} for t in range(6)]
        out = model.step(model.initial_state(500), torch.zeros_like(x[:, 0]), **given[0])
        fed_back = []
        for t in range(1, 6):
            own, true = (model.step(out.state, prev, **given[t]) for prev in (out.observation.mean, x[:, t - 1]))
            is_own = torch.isclose(mixed[:, t], own.observation.mean, rtol=1e-9, atol=1e-9).all(-1)
            is_true = torch.isclose(mixed[:, t], true.observation.mean, rtol=1e-9, atol=1e-9).all(-1)
            assert (is_own ^ is_true).all()
            fed_back.append(is_own.double())
            out = model.step(out.state, torch.where(is_own[:, None], out.observation.mean, x[:, t - 1]), **given[t])
        mask = torch.stack(fed_back, 1)
        assert mask.mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / mask.numel()))
        for share in mask.mean(0):  # every frame
            assert share.item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 500))
        assert mask.mean(1).var(correction=0).item() == pytest.approx(
            0.21 / 5, rel=0.25
        )  # sequences, frames: independent
        correlation = np.corrcoef(mask.T.numpy()) - np.eye(5)
        assert np.abs(correlation).max() < 0.2

    @every_model
    def test_generator_decides_what_is_fed_back(self, name, variant):
        model, (x, _) = make(name, variant), data()
        latents = values(model.inference(x, generator=seeded()))

        def mixed(seed):
            return model.generation(x, latents, feedback=0.5, generator=seeded(seed)).observation.mean

        before = torch.get_rng_state()
        assert torch.equal(mixed(1), mixed(1))
        assert not torch.equal(mixed(1), mixed(2))
        one, same = (model.vlb(x, feedback=0.5, generator=seeded()).value for _ in range(2))
        assert torch.equal(one, same)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(0)
        model.generation(x, latents, feedback=0.5)
        assert not torch.equal(before, torch.get_rng_state())  # without one, the global randomness is drawn on

    @every_model
    def test_observations_matter_only_through_the_latents(self, name, variant):
        model, (x, _) = make(name, variant), data()
        latents = values(model.inference(x, generator=seeded()))
        x.requires_grad_()
        one = model.generation(x, latents, feedback=1.0)
        other = model.generation(x.detach() + 7.0, latents, feedback=1.0)
        assert_same(one, other, rtol=0, atol=0)
        total = sum(p.sum() for p in one.observation.parameters)
        gradient = torch.autograd.grad(total, x, allow_unused=True)[0]
        assert gradient is None or (gradient == 0).all()

    @driven_or_not
    @every_model
    def test_padded_is_single(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        lengths = torch.tensor([6, 1, 4, 2])
        inside = (torch.arange(6) < lengths[:, None])[..., None]
        x, u = torch.where(inside, x, 0.0), None if u is None else torch.where(inside, u, 0.0)
        latents = values(model.inference(x, u, lengths=lengths, generator=seeded()))
        together = model.generation(x, latents, u, lengths=lengths, feedback=1.0)
        for i, n in enumerate(lengths.tolist()):
            own = {key: value[i : i + 1, :n] for key, value in latents.items()}
            single = model.generation(x[i : i + 1, :n], own, None if u is None else u[i : i + 1, :n], feedback=1.0)
            torch.testing.assert_close(single.observation.mean, together.observation.mean[i : i + 1, :n])
            for key, prior in single.prior.items():
                torch.testing.assert_close(prior.mean, together.prior[key].mean[i : i + 1, :n])

    @every_model
    def test_padding_is_never_read(self, name, variant):
        model, (x, _) = make(name, variant), data()
        lengths = torch.tensor([6, 1, 4, 2])
        inside = (torch.arange(6) < lengths[:, None])[..., None]
        results = []
        for filling in (0.0, 55.0):
            model.zero_grad()
            filled = torch.where(inside, x, filling)
            bound = model.vlb(filled, lengths=lengths, feedback=0.5, generator=seeded())
            bound.value.sum().backward()
            results.append([bound.value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)

    @driven_or_not
    @every_latent_model
    def test_inference_is_unaffected(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        teacher, fed = (model(x, u, feedback=f, generator=seeded()) for f in (0.0, 1.0))
        torch.testing.assert_close(fed.latents["z"].sample, teacher.latents["z"].sample)
        torch.testing.assert_close(fed.latents["z"].posterior.parameters, teacher.latents["z"].posterior.parameters)
        assert not torch.allclose(fed.observation.mean, teacher.observation.mean)
        # The first frame has no past: there, both modes are one.
        torch.testing.assert_close(fed.observation.mean[:, 0], teacher.observation.mean[:, 0])
        direct = model.generation(x, values(fed.latents), u, feedback=1.0)
        torch.testing.assert_close(fed.observation.mean, direct.observation.mean)
        torch.testing.assert_close(fed.latents["z"].prior.mean, direct.prior["z"].mean)

    @pytest.mark.parametrize("feedback", [0.0, 0.5, 1.0])
    @every_model
    def test_gradient_is_that_of_finite_differences(self, name, variant, feedback):
        """Of the whole bound, at fixed noise, in random directions of all parameters and the data at once."""
        model, (x, _) = make(name, variant), data(time=5)

        def bound():
            return without_auxiliary(model.vlb(x, feedback=feedback, generator=seeded())).sum()

        x.requires_grad_()
        unknowns = [x, *model.parameters()]
        gradients = torch.autograd.grad(bound(), unknowns, allow_unused=True)
        generator, step = seeded(5), 1e-6
        for _ in range(2):
            directions = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in unknowns]
            pairs = zip(gradients, directions, strict=True)
            expected = sum((gradient * d).sum().item() for gradient, d in pairs if gradient is not None)
            difference = 0.0
            with torch.no_grad():
                for sign in (1, -1):
                    torch._foreach_add_(unknowns, directions, alpha=sign * step)
                    difference += sign * bound().item()
                    torch._foreach_add_(unknowns, directions, alpha=-sign * step)
            assert difference / (2 * step) == pytest.approx(expected, rel=1e-6, abs=1e-6)

    @every_model
    def test_gradient_flows_through_what_is_fed_back(self, name, variant):
        """Detached, the same loop has the same value and another gradient."""
        model, (x, _) = make(name, variant), data()
        latents = {key: value.detach() for key, value in values(model.inference(x, generator=seeded())).items()}
        head = model.x_head.linear.weight

        def gradient(likelihood):
            return likelihood.item(), torch.autograd.grad(likelihood, head)[0]

        value, flowing = gradient(model.generation(x, latents, feedback=1.0).observation.log_prob(x).sum())
        for detach in (False, True):
            outputs = loop(model, x, latents, None, detach=detach)[1]
            same, other = gradient(sum(out.log_prob(x[:, t]).sum() for t, out in enumerate(outputs)))
            assert same == pytest.approx(value)
            assert torch.allclose(other, flowing) is not detach

    @every_latent_model
    def test_num_samples_and_reconstruction_take_it(self, name, variant):
        model, (x, _) = make(name, variant), data()
        many = model.vlb(x, num_samples=400, feedback=1.0, generator=seeded())
        again = model.vlb(x.repeat(400, 1, 1), feedback=1.0, generator=seeded())
        torch.testing.assert_close(many.reconstruction, again.reconstruction.view(400, 4).mean(0))
        heard = model.reconstruct(x, feedback=1.0, latents="mean").mean
        given = {"z": model.inference(x, draw="mean")["z"].sample}
        torch.testing.assert_close(heard, model.generation(x, given, feedback=1.0).observation.mean)


# ---- steps ----------------------------------------------------------------------------------------------


class TestSteps:
    @pytest.mark.parametrize(
        ("cell", "dtype", "driven"),
        [
            ("lstm", torch.float32, False),
            ("lstm", torch.float64, True),
            ("gru", torch.float32, True),
            ("rnn", torch.float64, False),
        ],
    )
    @every_model
    def test_fed_with_the_true_past_they_are_the_vectorised_pass(self, name, variant, driven, dtype, cell):
        model = make(name, variant, driven=driven, cell=cell).to(dtype)
        x, u = data(time=12, driven=driven, dtype=dtype)
        latents = values(model.inference(x, u, generator=seeded()))
        whole = model.generation(x, latents, u)
        truth = torch.zeros(x.shape[:2], dtype=torch.bool)
        close = {"rtol": 1e-6, "atol": 1e-6 if dtype == torch.float32 else 1e-12}
        priors, outputs = loop(model, x, latents, u, own=truth)
        for t in range(x.shape[1]):
            torch.testing.assert_close(outputs[t].parameters, whole.observation[:, t].parameters, **close)
            if latents:
                torch.testing.assert_close(priors[t].parameters, whole.prior["z"][:, t].parameters, **close)

    @driven_or_not
    @every_model
    def test_state_is_left_as_it_was(self, name, variant, driven):
        """A state can be gone back to, again and again."""
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        state = model.initial_state(4)
        for t in range(3):
            state = model.step(state, x[:, t], at(u, t), generator=seeded()).state
        before = {key: value.clone() for key, value in state.items()}
        one, other = (model.step(state, x[:, 3], at(u, 3), generator=seeded()) for _ in range(2))
        torch.testing.assert_close(one.observation.parameters, other.observation.parameters, rtol=0, atol=0)
        assert all(torch.equal(state[key], value) for key, value in before.items())

    @driven_or_not
    @every_latent_model
    def test_a_latent_that_is_not_given_is_drawn_from_the_prior(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        x, u = data(batch=4000, driven=driven)
        state = model.step(model.initial_state(4000), torch.zeros_like(x[:, 0]), at(u, 0), generator=seeded()).state
        out = model.step(state, x[:, 0], at(u, 1), generator=seeded(4))
        standard = (out.latents["z"] - out.prior["z"].mean) / out.prior["z"].stddev
        torch.testing.assert_close(standard.mean(0), torch.zeros(2).double(), rtol=0, atol=0.07)
        torch.testing.assert_close(standard.T.cov(), torch.eye(2).double(), rtol=0, atol=0.09)
        given = model.step(state, x[:, 0], at(u, 1), z_t=out.latents["z"])
        torch.testing.assert_close(given.observation.parameters, out.observation.parameters, rtol=0, atol=0)


# ---- generation and continuation ------------------------------------------------------------------------


class TestContinuation:
    @pytest.mark.parametrize("emission", ["mean", "sample"])
    @driven_or_not
    @every_model
    def test_is_analysis_of_the_prefix_and_then_steps(self, name, variant, driven, emission):
        model = make(name, variant, driven=driven)
        whole, u = data(time=9, driven=driven)
        prefix = whole[:, :5]
        sample = model.generate(4, prefix=prefix, u=u, emission=emission, generator=seeded())
        generator = seeded()
        analysed = values(model.inference(prefix, None if u is None else u[:, :5], generator=generator))
        state, x_prev = model.initial_state(4), torch.zeros_like(prefix[:, 0])
        for t in range(5):
            given = {f"{key}_t": value[:, t] for key, value in analysed.items()}
            state, x_prev = model.step(state, x_prev, at(u, t), **given).state, prefix[:, t]
        for t in range(4):
            out = model.step(state, x_prev, at(u, 5 + t), generator=generator)
            x_prev = out.observation.mean if emission == "mean" else out.observation.sample(generator=generator)
            state = out.state
            torch.testing.assert_close(sample.x[:, t], x_prev)
            torch.testing.assert_close(sample.observation[:, t].parameters, out.observation.parameters)
            if analysed:
                torch.testing.assert_close(sample.latents["z"][:, t], out.latents["z"])

    @driven_or_not
    @every_model
    def test_is_what_teacher_forcing_says_of_the_whole(self, name, variant, driven):
        """Prefix and new frames as one sequence, at the same latents, by the vectorised pass."""
        model = make(name, variant, driven=driven)
        whole, u = data(time=9, driven=driven)
        prefix = whole[:, :5]
        analysed = values(model.inference(prefix, None if u is None else u[:, :5], generator=seeded()))
        for new in (1, 4):
            inputs = None if u is None else u[:, : 5 + new]
            sample = model.generate(new, prefix=prefix, u=inputs, generator=seeded())
            latents = {key: torch.cat([value, sample.latents[key]], 1) for key, value in analysed.items()}
            expected = model.generation(torch.cat([prefix, sample.x], 1), latents, inputs).observation
            torch.testing.assert_close(sample.observation.parameters, expected[:, 5:].parameters)

    @driven_or_not
    @every_model
    def test_of_ones_own_generation_is_generation_in_one_go(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        _, u = data(time=8, driven=driven)
        whole = model.generate(8, 4, u=u, generator=seeded())
        generator = seeded()
        state, x_prev, frames = model.initial_state(4), torch.zeros(4, X_DIM, dtype=torch.float64), []

        def go_on(state, x_prev, times):
            for t in times:
                out = model.step(state, x_prev, at(u, t), generator=generator)
                state, x_prev = out.state, out.observation.sample(generator=generator)
                frames.append(x_prev)
            return {key: value.clone() for key, value in state.items()}, x_prev.clone()

        stopped = go_on(state, x_prev, range(5))
        go_on(*stopped, range(5, 8))
        torch.testing.assert_close(torch.stack(frames, 1), whole.x)

    @pytest.mark.parametrize("observation", ["gamma", "bernoulli"])
    @driven_or_not
    @every_model
    def test_generated_frames_are_drawn_from_what_the_vectorised_pass_says(self, name, variant, driven, observation):
        model = make(name, variant, driven=driven, observation=observation)
        _, u = data(batch=3, time=7, driven=driven)
        for emission in ("sample", "mean"):
            sample = model.generate(7, 3, u=u, emission=emission, generator=seeded())
            expected = model.generation(sample.x, sample.latents, u).observation
            torch.testing.assert_close(sample.observation.parameters, expected.parameters)
            if emission == "mean":
                torch.testing.assert_close(sample.x, expected.mean)


# ---- both directions in one pass ------------------------------------------------------------------------


class TestBothDirections:
    @pytest.mark.parametrize("options", [{}, {"draw": "mean", "lengths": [6, 1, 4, 2]}, {"feedback": 0.5}], ids=str)
    @driven_or_not
    @every_latent_model
    def test_the_pass_that_shares_is_one_after_the_other(self, name, variant, driven, options):
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        if "lengths" in options:
            options = {**options, "lengths": torch.tensor(options["lengths"])}
        x.requires_grad_()
        unknowns = [x, *model.parameters()]
        results = []
        inference = {key: value for key, value in options.items() if key != "feedback"}
        generation = {key: value for key, value in options.items() if key != "draw"}
        for together in (True, False):
            generator = seeded()
            if together:
                (latent,), observation = (out := model(x, u, generator=generator, **options))[0].values(), out[1]
                prior = latent.prior
            else:
                latent = model.inference(x, u, generator=generator, **inference)["z"]
                prior, observation = model.generation(x, {"z": latent.sample}, u, generator=generator, **generation)
                prior = prior["z"]
            parameters = [*latent.posterior.parameters, *prior.parameters]
            parameters += [latent.sample, *observation.parameters]
            total = sum((p * p.detach().cos()).sum() for p in parameters)
            results.append((parameters, torch.autograd.grad(total, unknowns, allow_unused=True)))
        torch.testing.assert_close(results[0][0], results[1][0])
        for one, other in zip(results[0][1], results[1][1], strict=True):
            zero = torch.zeros(())  # what one pass does not touch, the other touches without effect
            both = [zero if g is None else g for g in (one, other)]
            torch.testing.assert_close(*torch.broadcast_tensors(*both), check_dtype=False)

    @driven_or_not
    @every_latent_model
    def test_recursion_is_the_pass_with_the_latents_given(self, name, variant, driven):
        """And its noise is standard normal, drawn once for all frames."""
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        drawn = model.inference(x, u, generator=seeded())["z"]
        again = model.inference(x, u, latents={"z": drawn.sample})["z"]
        torch.testing.assert_close(drawn.posterior.parameters, again.posterior.parameters)
        epsilon = torch.randn(4, 6, Z_DIM, generator=seeded(), dtype=torch.float64)
        torch.testing.assert_close((drawn.sample - again.posterior.mean) / again.posterior.stddev, epsilon)
        mean = model.inference(x, u, draw="mean")["z"]
        torch.testing.assert_close(mean.sample, mean.posterior.mean)

    @driven_or_not
    @every_latent_model
    def test_padded_inference_is_single(self, name, variant, driven):
        model = make(name, variant, driven=driven)
        x, u = data(driven=driven)
        lengths = torch.tensor([6, 1, 4, 2])
        together = model.inference(x, u, lengths=lengths, draw="mean")["z"]
        for i, n in enumerate(lengths.tolist()):
            alone = model.inference(x[i : i + 1, :n], None if u is None else u[i : i + 1, :n], draw="mean")["z"]
            torch.testing.assert_close(together.sample[i : i + 1, :n], alone.sample)


# ---- the truth, by quadrature ---------------------------------------------------------------------------


NODES, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(16))
PATHS = torch.cartesian_prod(NODES, NODES, NODES)
LOG_WEIGHTS = torch.cartesian_prod(*[(WEIGHTS / WEIGHTS.sum()).log()] * 3).sum(1)


@torch.no_grad()
def path_densities(model, x, u, feedback, drawn_from, paths=PATHS):
    """log p(x, z) and log q(z | x) along all paths z_{1:3} that are the nodes under a prior or a posterior."""
    n, u_n = len(paths), None if u is None else u.repeat(len(paths), 1, 1)
    x_n, z = x.repeat(n, 1, 1), torch.zeros(n, 3, 1, dtype=torch.float64)
    for t in range(3):
        if drawn_from == "prior":
            density = model.generation(x_n, {"z": z}, u_n, feedback=feedback).prior["z"]
        else:
            density = model.inference(x_n, u_n, latents={"z": z})["z"].posterior
        z[:, t] = density.mean[:, t] + density.stddev[:, t] * paths[:, t, None]
    generated = model.generation(x_n, {"z": z}, u_n, feedback=feedback)
    likelihood = generated.observation.log_prob(x_n).sum(1)
    prior = generated.prior["z"].log_prob(z).sum(1)
    return likelihood, prior, model.inference(x_n, u_n, latents={"z": z})["z"].posterior.log_prob(z).sum(1)


def log_evidence(model, x, u=None, feedback=0.0):
    """log p(x_{1:3}), by Gauss-Hermite quadrature over z_{1:3} under the model's prior."""
    return (LOG_WEIGHTS + path_densities(model, x, u, feedback, "prior")[0]).logsumexp(0).item()


def scalar(name, variant=None, *, driven=False, **options):
    """Vectors of size one; variances near one, so that the quadrature is exact and proposals are good ones."""
    model = make(name, variant, driven=driven, x_dim=1, z_dim=1, scale=0.5, seed=2, **options)
    for head in (model.z_head, model.x_head, *([model.prior_head] if hasattr(model, "prior_head") else [])):
        with torch.no_grad():
            weight = head.linear.weight
            weight[0] *= 2
            weight[1:] *= 0.1  # of the log-variance
            head.linear.bias.zero_()
    return model


SERIES = torch.tensor([[[1.5], [-1.2], [0.8]]], dtype=torch.float64)


class TestTruth:
    @pytest.mark.parametrize("feedback", [0.0, 1.0])
    @every_latent_model
    def test_bounds(self, name, variant, feedback):
        """The VLB's expectation is its integral, below log p(x); the other bounds' estimates are unbiased."""
        driven = name == "srnn"
        model = scalar(name, variant, driven=driven)
        x, (_, u) = SERIES, data(1, 3, driven=driven)
        exact = log_evidence(model, x, u, feedback)
        likelihood, prior, posterior = path_densities(model, x, u, feedback, "posterior")
        integral = (LOG_WEIGHTS.exp() * (likelihood + prior - posterior)).sum().item()
        # The other proposal gives the same evidence: the rule is fine enough.
        assert (LOG_WEIGHTS + likelihood + prior - posterior).logsumexp(0).item() == pytest.approx(exact, abs=2e-3)
        assert integral < exact - 2e-3

        many = 2000
        x_n, u_n = x.repeat(many, 1, 1), None if u is None else u.repeat(many, 1, 1)
        with torch.no_grad():
            for kl in ("analytic", "sampled"):
                bound = without_auxiliary(model.vlb(x_n, u_n, feedback=feedback, kl=kl, generator=seeded()))
                assert bound.mean().item() == pytest.approx(integral, abs=4 * bound.std().item() / math.sqrt(many))
        estimates = {"weighted": model.importance_weighted_bound(
            x_n[:600], None if u is None else u_n[:600], num_samples=30, feedback=feedback, generator=seeded()
        )}  # fmt: skip
        if feedback == 0:
            estimates["particles"] = model.smc_bound(
                x_n[:600], None if u is None else u_n[:600], num_particles=15, generator=seeded()
            )
        for estimate in estimates.values():
            ratio = (estimate - exact).exp()
            assert ratio.mean().item() == pytest.approx(1.0, abs=4 * ratio.std().item() / math.sqrt(600) + 1e-3)
            assert estimate.mean().item() > integral

    @pytest.mark.parametrize("name", VARIANTS)
    def test_modes_are_different_models(self, name):
        model = scalar(name)
        assert abs(log_evidence(model, SERIES) - log_evidence(model, SERIES, feedback=1.0)) > 3e-3

    @pytest.mark.parametrize("feedback", [0.0, 1.0])
    @driven_or_not
    @pytest.mark.parametrize("name", VARIANTS)
    def test_sums_to_one_over_all_binary_sequences(self, name, driven, feedback):
        """Exactly so even at four nodes, because every conditional sums to one along every path."""
        model = scalar(name, driven=driven, observation="bernoulli")
        nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(4))
        log_weights = torch.cartesian_prod(*[(weights / weights.sum()).log()] * 3).sum(1)
        paths = torch.cartesian_prod(nodes, nodes, nodes)
        _, u = data(1, 3, driven=driven)
        total = []
        for bits in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3):
            likelihood = path_densities(model, bits.view(1, 3, 1), u, feedback, "prior", paths)[0]
            total.append((log_weights + likelihood).logsumexp(0))
        total = torch.stack(total)
        assert total.exp().max() < 0.9
        assert total.logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)

    @driven_or_not
    @pytest.mark.parametrize("name", VARIANTS)
    def test_frequencies_are_the_models_probabilities(self, name, driven):
        """What `generate` draws has the density that the quadrature over the vectorised pass gives."""
        model = scalar(name, driven=driven, observation="bernoulli")
        with torch.no_grad():
            model.x_head.linear.weight.mul_(2)
        _, u = data(1, 3, driven=driven)
        many = 10_000
        x = model.generate(3, many, u=None if u is None else u.repeat(many, 1, 1), generator=seeded()).x
        for pattern in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3):
            p = math.exp(log_evidence(model, pattern.view(1, 3, 1), u))
            frequency = (x[..., 0] == pattern).all(1).double().mean().item()
            assert frequency == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / many) + 1e-4)


# ---- bad input ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_a_user")
class TestBadInput:
    @pytest.mark.parametrize("feedback", [-0.1, 1.1, math.nan])
    @every_model
    def test_feedback_is_a_probability(self, name, variant, feedback):
        model, (x, _) = make(name, variant), data()
        for ask in (model.vlb, model.reconstruct, model.importance_weighted_bound):
            with pytest.raises(ValueError, match=f"feedback is a probability between 0 and 1; got {feedback}"):
                ask(x, feedback=feedback)
        latents = {} if name == "grnn" else {"z": torch.zeros(*x.shape[:2], Z_DIM, dtype=x.dtype)}
        with pytest.raises(ValueError, match="feedback is a probability"):
            model.generation(x, latents, feedback=feedback)

    @every_model
    def test_input_of_new_frames(self, name, variant):
        model, (_, u) = make(name, variant, driven=True), data(driven=True)
        wrong = u.clone()
        wrong[1, -1, 0] = math.nan
        with pytest.raises(ValueError, match=rf"u\[1, {u.shape[1] - 1}, 0\] is nan"):
            model.generate(u.shape[1], len(u), u=wrong)

    @every_model
    def test_prefix(self, name, variant):
        model, (x, _) = make(name, variant), data()
        with pytest.raises(ValueError, match="prefix must have vectors of size 3, the model's; got 2"):
            model.generate(2, prefix=x[..., :2])
        with pytest.raises(ValueError, match=r"prefix must have shape \(batch, time, 3\); got \(4, 6\)"):
            model.generate(2, prefix=x[..., 0])
        with pytest.raises(ValueError, match="prefix holds no frame"):
            model.generate(2, prefix=x[:, :0])
        with pytest.raises(TypeError, match=r"prefix is torch\.float32.*float64"):
            model.generate(2, prefix=x.float())
        x[2, 1, 0] = math.inf
        with pytest.raises(ValueError, match=r"prefix is not finite: prefix\[2, 1, 0\] is inf"):
            model.generate(2, prefix=x)
        with pytest.raises(ValueError, match="num_steps and batch_size must be at least 1; got 0"):
            model.generate(0)
        with pytest.raises(ValueError, match="emission must be 'sample' or 'mean'; got 'mode'"):
            model.generate(1, emission="mode")

    @every_model
    def test_input(self, name, variant):
        model = make(name, variant, driven=True)
        x, u = data(driven=True)
        with pytest.raises(ValueError, match=r"this model is driven \(u_dim=2\): pass u of shape \(batch, time, 2\)"):
            model.vlb(x)
        with pytest.raises(ValueError, match=r"as many sequences and frames as x, \(4, 6\); got \(4, 5\)"):
            model.vlb(x, u[:, :5])
        with pytest.raises(ValueError, match="u must have vectors of size 2, the model's; got 1"):
            model.vlb(x, u[..., :1])
        # Prefix and new frames both need their inputs: here the inputs end before the prefix does, or just with it.
        for frames in (5, 6, 8):
            with pytest.raises(ValueError, match=rf"expected u of shape \(4, 9, 2\).*; got \(4, {frames}, 2\)"):
                model.generate(3, prefix=x, u=torch.zeros(4, frames, 2, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"expected u of shape \(1, 5, 2\).*; got None"):
            model.generate(5)

    @every_model
    def test_no_input_for_undriven_models(self, name, variant):
        model = make(name, variant)
        x, u = data(driven=True)
        with pytest.raises(ValueError, match="undriven"):
            model.vlb(x, u)
        with pytest.raises(ValueError, match=r"expected .*; got \(4, 6, 2\)"):
            model.generate(6, 4, u=u)

    @pytest.mark.parametrize("name", ["storn", "vrnn", "srnn"])
    def test_inference_model(self, name):
        with pytest.raises(ValueError, match=f"inference_model must be one of .*{VARIANTS[name][0]}.*; got 'oracle'"):
            build_model(name, x_dim=3, z_dim=2, inference_model="oracle")

    @pytest.mark.parametrize("name", VARIANTS)
    def test_options(self, name):
        for options, message in (
            ({"cell": "elman"}, "cell must be one of rnn, gru, lstm; got 'elman'"),
            ({"observation": "weibull"}, "observation must be one of"),
            ({"u_dim": -1}, "u_dim must be an integer of at least 0; got -1"),
            ({"h_dim": 0}, "h_dim must be at least 1; got 0"),
        ):
            with pytest.raises(ValueError, match=message):
                build_model(name, **{"x_dim": 3, "z_dim": 2, **options})

    @pytest.mark.parametrize("name", ["vae", "dkf"])
    def test_a_schedule_of_feedback_needs_a_predictive_link(self, name):
        series = SequenceDataset([torch.ones(3, 4)])
        model = build_model(name, x_dim=4, z_dim=2)
        with pytest.raises(ValueError, match=r"past observations|predictive"):
            fit(model, series, series, TrainingConfig(schedules={"feedback": 0.5}, max_epochs=1))

    @pytest.mark.parametrize("name", ["vae", "dkf"])
    def test_nothing_is_fed_back_where_nothing_looks_back(self, name):
        model, x = build_model(name, x_dim=3, z_dim=2), torch.zeros(2, 4, 3)
        with pytest.raises(ValueError, match="does not generate from past observations"):
            model.importance_weighted_bound(x, feedback=1.0)
        with pytest.raises(ValueError, match="takes no feedback"):
            verify_dependencies(model, feedback=1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_schedule_of_feedback_trains(name):
    """Scheduled sampling (Section 4.4.1) from the training loop: the modes are mixed, and the bound rises."""
    generator = seeded()
    series = SequenceDataset([torch.randn(6, X_DIM, generator=generator).cumsum(0) for _ in range(8)])
    model = make(name, scale=0.2).float()
    schedule = Schedule.linear(0.0, 1.0, epochs=4)
    config = TrainingConfig(schedules={"feedback": schedule}, max_epochs=8, batch_size=8, learning_rate=0.02)
    curve = [record["validation_vlb_per_frame"] for record in fit(model, series, series, config).history]
    assert curve[-1] > curve[0]


@driven_or_not
@every_latent_model
def test_saved_and_loaded(name, variant, driven, tmp_path):
    model = make(name, variant, driven=driven, cell="gru").float()
    x, u = data(driven=driven, dtype=torch.float32)
    again = DVAE.from_pretrained(model.save_pretrained(tmp_path))
    assert again.spec == model.spec
    expected = model.vlb(x, u, feedback=0.5, generator=seeded()).value
    assert torch.equal(again.vlb(x, u, feedback=0.5, generator=seeded()).value, expected)
