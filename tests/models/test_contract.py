"""Laws that every model of the registry obeys, whatever its equations."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import DVAE, MODELS, VAE, build_model
from dvae_lib.models.dkf import INFERENCE_MODELS
from dvae_lib.objectives import importance_weighted_bound, log_weights, variational_lower_bound

VARIANTS = {
    "vae": [{}],
    "dkf": [{"inference_model": name} for name in INFERENCE_MODELS],
    "kvae": [{"mixture": 1}, {"mixture": 3}],
    "storn": [{"inference_model": name} for name in ("filter", "lagged", "smoother")],
    "vrnn": [{"inference_model": name} for name in ("filter", "smoother")],
    "vrnn-improved": [{}],
    "srnn": [{"inference_model": name} for name in ("smoother", "filter")],
    "rvae-causal": [{}, {"inference_model": "filter"}, {"generation_model": "instantaneous"}],
    "rvae-noncausal": [{"inference_model": name} for name in ("smoother", "filter")],
    "dsae": [{"inference_model": name} for name in ("full", "factorised", "structured")] + [{"head_rnn": 7}],
}
LIKELIHOODS = ("gaussian", "unit_gaussian", "centimetre_gaussian", "gamma", "bernoulli")  # others: test_observations.py
MODELS_AND_OPTIONS = [(name, options) for name, variants in VARIANTS.items() for options in variants]
SHAPES = {"x_dim": 5, "z_dim": 3}
FEATURES = {"feature_x": (8,), "h_dim": 8}
SMALL = {
    "vae": {},
    "dkf": {"g_dim": 8, "encoder": (8,), "decoder": (8,)},
    "kvae": {"weights_dim": 6},
    "storn": {**FEATURES, "feature_z": (6,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "vrnn": {**FEATURES, "feature_z": (6,), "g_dim": 8},
    "vrnn-improved": {**FEATURES, "feature_z": (6,), "b_dim": 8, "auxiliary": (6,)},
    "srnn": {**FEATURES, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "rvae-causal": {"h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "rvae-noncausal": {"h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "dsae": {"v_dim": 2, "h_dim": 8, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
}


def of_every_model(test):
    """Run a test on every variant of every model."""
    names = ["-".join([name, *map(str, options.values())]) for name, options in MODELS_AND_OPTIONS]
    return pytest.mark.parametrize(("name", "options"), MODELS_AND_OPTIONS, ids=names)(test)


def test_no_model_escapes():
    assert set(VARIANTS) == set(MODELS)


def make(name, **options):
    torch.manual_seed(0)
    return build_model(name, **SHAPES, **SMALL[name], **options).double()


def data(observation="gaussian", batch=4, time=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, time, 5, generator=generator, dtype=torch.float64)
    return {"gamma": x.square(), "bernoulli": (x > 0).double()}.get(observation, x)


def seeded():
    return torch.Generator().manual_seed(3)


def without_auxiliary(bound):
    """The bound itself, where a model adds training terms to its objective."""
    return bound.value - sum(bound.auxiliary.values(), torch.zeros_like(bound.value))


@pytest.mark.parametrize("observation", LIKELIHOODS)
@of_every_model
def test_vlb_is_reconstruction_less_kl(name, options, observation):
    model, x = make(name, **options, observation=observation), data(observation)
    for kl in ("analytic", "sampled"):
        bound = model.vlb(x, beta=0.3, kl=kl, generator=seeded())
        assert bound.value.shape == (4,)
        auxiliary = sum(bound.auxiliary.values(), torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(bound.value, bound.reconstruction - 0.3 * bound.total_kl + auxiliary)
        for latent, term in bound.kl.items():
            if latent in bound.kl_per_dim:
                torch.testing.assert_close(bound.kl_per_dim[latent].sum(-1), term)
    if name != "kvae":  # whose KL term is sampled
        assert all((term >= 0).all() for term in model.vlb(x).kl.values())


@of_every_model
def test_sampled_and_analytic_kl_agree_on_average(name, options):
    model, x = make(name, **options), data(batch=1)
    analytic = model.vlb(x, num_samples=3000, generator=seeded()).value
    sampled = model.vlb(x, num_samples=3000, kl="sampled", generator=seeded()).value
    torch.testing.assert_close(analytic, sampled, rtol=0.02, atol=0.1)


@of_every_model
def test_sampled_value_is_the_log_weight(name, options):
    model, x = make(name, **options), data()
    output = model(x, generator=seeded())
    bound = model.vlb(x, kl="sampled", generator=seeded())
    torch.testing.assert_close(log_weights(output, x).sum(1), without_auxiliary(bound))
    torch.testing.assert_close(variational_lower_bound(output, x, kl="sampled").value, bound.value)


@of_every_model
def test_code_has_the_dependencies_of_the_equations(name, options):
    verdict = verify_dependencies(make(name, **options))
    assert not verdict.missing
    assert not verdict.extra


@of_every_model
def test_padded_equals_single(name, options):
    model, x = make(name, **options), data()
    lengths = torch.tensor([6, 1, 4, 2])
    padded = torch.where((torch.arange(6) < lengths[:, None])[..., None], x, 0.0)
    given = {k: v.sample for k, v in model.inference(padded, lengths=lengths, generator=seeded()).items()}
    together = model.inference(padded, lengths=lengths, latents=given)
    generated = model.generation(padded, given, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = x[i : i + 1, :length]
        own = {k: v[i : i + 1, :length] if v.ndim == 3 else v[i : i + 1] for k, v in given.items()}
        for k, latent in model.inference(alone, latents=own).items():
            both = together[k].posterior.log_prob(given[k])[i : i + 1]
            torch.testing.assert_close(latent.posterior.log_prob(own[k]), both[:, :length] if both.ndim == 2 else both)
        single = model.generation(alone, own)
        torch.testing.assert_close(single.observation.mean, generated.observation.mean[i : i + 1, :length])
        for k, prior in single.prior.items():
            both = generated.prior[k].log_prob(given[k])[i : i + 1]
            torch.testing.assert_close(prior.log_prob(own[k]), both[:, :length] if both.ndim == 2 else both)
    bound = model.vlb(padded, lengths=lengths, generator=seeded())
    for term in bound.kl.values():
        if term.ndim == 2:
            assert (term[torch.arange(6) >= lengths[:, None]] == 0).all()


@of_every_model
def test_padding_is_never_read(name, options):
    """What stands in the padded frames changes neither the bound nor any gradient."""
    model, x = make(name, **options), data()
    lengths = torch.tensor([6, 1, 4, 2])
    inside = (torch.arange(6) < lengths[:, None])[..., None]
    results = []
    for filling in (0.0, 123.0):
        model.zero_grad()
        bound = model.vlb(torch.where(inside, x, filling), lengths=lengths, generator=seeded())
        bound.value.sum().backward()
        results.append([bound.value.detach(), *(p.grad.clone() for p in model.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@of_every_model
def test_padding_of_any_size_leaves_the_gradients_finite(name, options):
    """A masked array holds 1e20 where it holds nothing, and its square is infinite in single precision."""
    model, x = make(name, **options).float(), data().float()
    lengths = [6, 1, 4, 2]
    outside = (torch.arange(6) >= torch.tensor(lengths)[:, None])[..., None]
    results = []
    for filling in (0.0, 1e20):
        model.zero_grad()
        bound = model.vlb(torch.where(outside, filling, x), lengths=lengths, generator=seeded())
        bound.value.sum().backward()
        results.append([bound.value.detach(), *(p.grad.clone() for p in model.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.isfinite(second).all()
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_bound_from_a_forward_pass_has_finite_gradients_too():
    model, x = make("vae").float(), data().float()
    lengths = torch.tensor([6, 1, 4, 2])
    padded = torch.where((torch.arange(6) < lengths[:, None])[..., None], x, 1e20)
    output = model(padded, lengths=lengths)
    for value in (
        variational_lower_bound(output, padded, lengths=lengths).value,
        log_weights(output, padded, lengths=lengths),
    ):
        model.zero_grad()
        value.sum().backward(retain_graph=True)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@of_every_model
def test_lengths_may_be_a_list_or_an_array(name, options):
    model, x = make(name, **options), data()
    doors = [model.vlb, model.importance_weighted_bound] + ([model.smc_bound] if name != "kvae" else [])
    small = {"importance_weighted_bound": {"num_samples": 2}, "smc_bound": {"num_particles": 2}}
    for door in doors:
        if door == model.smc_bound and not model.is_causal:
            continue
        values = []
        for lengths in (torch.tensor([6, 1, 4, 2]), [6, 1, 4, 2], np.array([6, 1, 4, 2], "i2")):
            bound = door(x, lengths=lengths, generator=seeded(), **small.get(door.__name__, {}))
            values.append(bound if isinstance(bound, torch.Tensor) else bound.value)
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


@of_every_model
def test_recursion_equals_the_pass_with_the_latents_given(name, options):
    """What the sampling loop says of each posterior is what the vectorised pass says at the same latents."""
    model, x = make(name, **options), data()
    drawn = model.inference(x, generator=seeded())
    again = model.inference(x, latents={k: v.sample for k, v in drawn.items()})
    for k, latent in drawn.items():
        torch.testing.assert_close(latent.posterior.log_prob(latent.sample), again[k].posterior.log_prob(latent.sample))


@of_every_model
def test_latents_given_are_conditioned_on(name, options):
    model, x = make(name, **options), data()
    drawn = {k: v.sample for k, v in model.inference(x, generator=seeded()).items()}
    again = model.inference(x, latents=drawn)
    for k, value in drawn.items():
        assert torch.equal(again[k].sample, value)


@of_every_model
def test_generator_decides_everything(name, options):
    model, x = make(name, **options), data()
    assert torch.equal(model.vlb(x, generator=seeded()).value, model.vlb(x, generator=seeded()).value)
    first, second = (model.generate(5, 2, generator=seeded()) for _ in range(2))
    assert torch.equal(first.x, second.x)
    before = torch.get_rng_state()
    model.vlb(x, generator=seeded())
    model.generate(5, 2, generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


@of_every_model
def test_stepwise_generation_equals_the_vectorised_pass(name, options):
    model, x = make(name, **options), data()
    latents = {k: v.sample for k, v in model.inference(x, generator=seeded()).items()}
    whole = model.generation(x, latents)
    if not model.is_causal:
        with pytest.raises(NotImplementedError, match="does not generate frame by frame"):
            model.initial_state(4)
        return
    of_sequence = {k: v for k, v in latents.items() if v.ndim == 2}
    framewise = {k: v for k, v in latents.items() if v.ndim == 3}
    state, x_prev = model.initial_state(4, **of_sequence), torch.zeros(4, 5, dtype=torch.float64)
    for t in range(x.shape[1]):
        out = model.step(state, x_prev, **{f"{k}_t": v[:, t] for k, v in framewise.items()})
        torch.testing.assert_close(out.prior.mean, whole.prior["z"].mean[:, t])
        torch.testing.assert_close(out.observation.mean, whole.observation.mean[:, t])
        state, x_prev = out.state, x[:, t]


@of_every_model
def test_a_sequence_may_have_one_frame(name, options):
    model, x = make(name, **options), data(time=1)
    assert torch.isfinite(model.vlb(x, generator=seeded()).value).all()
    assert torch.isfinite(model.vlb(x, kl="sampled", generator=seeded()).value).all()
    assert model.reconstruct(x).mean.shape == x.shape


@of_every_model
def test_own_steps_equal_the_steps_that_follow_from_generation(name, options):
    model, x = make(name, **options), data()
    if model.spec.latents != ("z",) or not model.is_causal:
        with pytest.raises(NotImplementedError, match="does not generate frame by frame"):
            DVAE.initial_state(model, 4)
        return
    outputs = []
    for start, step in (
        (model.initial_state, model.step),
        (partial(DVAE.initial_state, model), partial(DVAE.step, model)),
    ):
        state, x_prev, generator = start(4), torch.zeros(4, 5, dtype=torch.float64), seeded()
        frames = []
        for t in range(4):
            out = step(state, x_prev, generator=generator)
            frames.append((out.prior.mean, out.z_t, out.observation.mean))
            state, x_prev = out.state, x[:, t]
        outputs.append(frames)
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("observation", LIKELIHOODS)
@of_every_model
def test_generates(name, options, observation):
    model = make(name, **options, observation=observation)
    sample = model.generate(7, 2, generator=seeded())
    assert sample.x.shape == (2, 7, 5)
    assert sample.latents["z"].shape == (2, 7, 3)
    torch.testing.assert_close(model.generate(7, 2, emission="mean", generator=seeded()).x.shape, sample.x.shape)
    assert torch.isfinite(sample.observation.log_prob(sample.x)).all()
    x = data(observation)
    continued = model.generate(3, prefix=x, generator=seeded())
    assert continued.x.shape == (4, 3, 5)
    inferred = model.inference(x, generator=seeded())
    for latent in model.spec.latents:
        if not model.spec.is_framewise(latent):  # it stays what it was in the prefix
            assert torch.equal(continued.latents[latent], inferred[latent].sample)


@of_every_model
def test_reconstruction_from_the_mean_is_deterministic(name, options):
    model, x = make(name, **options), data()
    assert torch.equal(model.reconstruct(x, latents="mean").mean, model.reconstruct(x, latents="mean").mean)
    assert model.reconstruct(x).mean.shape == x.shape


@of_every_model
def test_importance_weighted_bound_rises(name, options):
    """Over many repetitions the average bound rises with the number of samples (Burda et al., 2016)."""
    model, x = make(name, **options), data(batch=1).repeat(200, 1, 1)
    averages = [model.importance_weighted_bound(x, num_samples=k, generator=seeded()).mean() for k in (1, 8, 64)]
    assert averages[0] < averages[1] < averages[2]
    one = without_auxiliary(model.vlb(x, kl="sampled", generator=seeded()))
    torch.testing.assert_close(
        model.importance_weighted_bound(x, num_samples=1, generator=seeded()), one, rtol=1e-10, atol=1e-10
    )


def test_importance_weights_average_in_log_space():
    weights = torch.tensor([[0.0], [2.0], [-900.0]])
    expected = torch.log(weights.double().exp().mean(0))
    torch.testing.assert_close(importance_weighted_bound(weights.double()), expected)


@of_every_model
def test_save_and_load(name, options, tmp_path):
    model, x = make(name, **options, observation="gamma"), data("gamma")
    model.metadata["corpus"] = "made up"
    model.float().save_pretrained(tmp_path / "model")
    for cls in (DVAE, type(model)):
        loaded = cls.from_pretrained(tmp_path / "model")
        assert loaded.options == json.loads(json.dumps(model.options))
        assert loaded.metadata == {"corpus": "made up"}
        assert not loaded.training
        expected = model.vlb(x.float(), generator=seeded()).value
        assert torch.equal(loaded.vlb(x.float(), generator=seeded()).value, expected)
    assert copy.deepcopy(model).options == model.options


class TestBadInput:
    def test_shapes_dtypes_values(self, as_a_user):
        model = VAE(5, 3)
        x = torch.randn(2, 4, 5)
        for wrong, error, words in [
            (x[0], ValueError, r"\(batch, time, 5\)"),
            (x[..., :4], ValueError, "vectors of size 5"),
            (x.double(), TypeError, "float64 .*float32"),
            (x[:, :0], ValueError, "no frame"),
            (torch.where(x == x[1, 2, 3], torch.nan, x), ValueError, r"x\[1, 2, 3\] is nan"),
        ]:
            with pytest.raises(error, match=words):
                model.vlb(wrong)
        with pytest.raises(ValueError, match="between 1 and the 4 frames"):
            model.vlb(x, lengths=torch.tensor([4, 5]))
        with pytest.raises(ValueError, match="one integer per sequence, 2"):
            model.vlb(x, lengths=torch.tensor([4]))
        for wrong in (torch.tensor([True, True]), torch.tensor([4.0, 2.0]), [True, False], [4.0, 2.0]):
            with pytest.raises(ValueError, match="one integer per sequence, 2"):
                model.vlb(x, lengths=wrong)
        for several in ({}, {"num_samples": 2}):
            with pytest.raises(TypeError, match=r"x must be a torch\.Tensor; got ndarray"):
                model.vlb(x.numpy(), lengths=[4, 2], **several)
        with pytest.raises(ValueError, match="takes no input u"):
            model.vlb(x, x)

    def test_options(self):
        with pytest.raises(ValueError, match="gaussian, unit_gaussian, centimetre_gaussian, gamma, bernoulli"):
            VAE(5, 3, observation="cauchy")
        with pytest.raises(ValueError, match="x_dim must be an integer of at least 1"):
            VAE(0, 3)
        with pytest.raises(ValueError, match="no input u"):
            VAE(5, 3, u_dim=2)
        with pytest.raises(ValueError, match="no model is called 'vea'"):
            build_model("vea", x_dim=1, z_dim=1)
        with pytest.raises(ValueError, match="speech, motion"):
            build_model("vae", preset="text")

    def test_feedback(self):
        model, x = VAE(5, 3), torch.randn(2, 4, 5)
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.vlb(x, feedback=1.5)
        with pytest.raises(ValueError, match="does not generate from past observations"):
            model.vlb(x, feedback=0.5)

    def test_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder and no trained model called"):
            DVAE.from_pretrained(tmp_path / "nothing")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="not a saved model"):
            DVAE.from_pretrained(tmp_path / "empty")
        folder = VAE(5, 3).save_pretrained(tmp_path / "model")
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:-100])
        with pytest.raises(ValueError, match="damaged"):
            DVAE.from_pretrained(folder)
        (folder / "model.safetensors").write_bytes(weights)
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"x_dim": 5', '"x_dim": 6'))
        with pytest.raises(ValueError, match="does not belong"):
            DVAE.from_pretrained(folder)
        (folder / "config.json").write_text(text[:-30])
        with pytest.raises(ValueError, match="damaged"):
            DVAE.from_pretrained(folder)
        (folder / "config.json").write_text(text.replace('"VAE"', '"Elephant"'))
        with pytest.raises(ValueError, match="holds a Elephant, which is not a DVAE"):
            DVAE.from_pretrained(folder)
        (folder / "config.json").write_text(text.replace('"format": 1', '"format": 2'))
        with pytest.raises(ValueError, match="newer dvae_lib"):
            DVAE.from_pretrained(folder)

    def test_unfinished_files_never_replace_finished_ones(self, tmp_path, monkeypatch):
        model = VAE(5, 3)
        folder = model.save_pretrained(tmp_path / "model")
        before = (folder / "model.safetensors").read_bytes()

        def full_disk(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            VAE(5, 3).save_pretrained(folder)
        assert (folder / "model.safetensors").read_bytes() == before
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]

    def test_metadata_must_be_json(self, tmp_path):
        model = VAE(5, 3)
        model.metadata["x"] = object()
        with pytest.raises(TypeError, match="must be JSON data"):
            model.save_pretrained(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_posterior_is_the_prior_when_equal():
    """KL is zero, and the bound has no gap, where the encoder gives the exact posterior."""
    q = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    assert torch.distributions.kl_divergence(q, q).item() == 0
