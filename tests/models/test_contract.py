"""Laws that every model of the registry obeys, whatever its equations."""

import copy
import json

import numpy as np
import pytest
import torch

import dvae_lib.models
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.models import DVAE, GRNN, MODELS, VAE, build_model
from dvae_lib.models.draws import Draws
from dvae_lib.objectives import importance_weighted_bound, log_weights, variational_lower_bound
from dvae_lib.testing import LAWS, check_model

MODELS_AND_OPTIONS = [(name, options) for name, entry in MODELS.items() for options in entry.variants]
SHAPES = {"x_dim": 5, "z_dim": 3}
LIKELIHOODS = ("gaussian", "unit_gaussian", "centimetre_gaussian", "gamma", "bernoulli")  # others: test_observations.py


def of_every_model(test):
    """Run a test on every variant of every model."""
    names = ["-".join([name, *map(str, options.values())]) for name, options in MODELS_AND_OPTIONS]
    return pytest.mark.parametrize(("name", "options"), MODELS_AND_OPTIONS, ids=names)(test)


def test_no_model_escapes():
    """Every class of the library that is a DVAE is registered, or is known to have no latent variable."""
    classes = {cls for cls in vars(dvae_lib.models).values() if isinstance(cls, type) and issubclass(cls, DVAE)}
    assert classes - {entry.cls for entry in MODELS.values()} == {DVAE, GRNN}
    assert all(entry.variants for entry in MODELS.values())


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
@pytest.mark.parametrize("law", LAWS)
@of_every_model
def test_every_model_obeys_every_law(name, options, law, u_dim):
    if u_dim and name in ("vae", "gpvae"):
        pytest.skip("its equations have no input")
    check_model(make(name, **options, u_dim=u_dim), laws=[law])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("mode", ["predictive", "driven", "undriven"])
def test_a_model_without_latents_obeys_them_too(mode, law):
    check_model(GRNN(5, 8, mode=mode, u_dim=2 if mode == "driven" else 0), laws=[law])


def make(name, **options):
    torch.manual_seed(0)
    return build_model(name, **{**SHAPES, **MODELS[name].small, **options}).double()


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
    if set(bound.kl) == set(model.spec.latents):  # a joint term is sampled
        closed = model.spec.divergences  # the others are log-ratios at samples, of either sign
        assert all((term >= 0).all() for latent, term in model.vlb(x).kl.items() if latent in closed)


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
        if door == model.smc_bound and (model.infers_backwards or not model.is_causal):
            continue
        values = []
        for lengths in (torch.tensor([6, 1, 4, 2]), [6, 1, 4, 2], np.array([6, 1, 4, 2], "i2")):
            bound = door(x, lengths=lengths, generator=seeded(), **small.get(door.__name__, {}))
            values.append(bound if isinstance(bound, torch.Tensor) else bound.value)
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


@of_every_model
def test_own_steps_equal_the_steps_that_follow_from_generation(name, options):
    model, x = make(name, **options), data()
    if not model.is_causal:
        with pytest.raises(NotImplementedError, match="does not generate frame by frame"):
            model.initial_state(4)
        return
    inherited = {hook: getattr(DVAE, hook) for hook in ("_initial_state", "_step")}
    outputs = []
    for cls in (type(model), type("Inherited", (type(model),), inherited)):
        model.__class__ = cls
        generator = seeded()
        state, x_prev = model.initial_state(4, generator=generator), torch.zeros(4, 5, dtype=torch.float64)
        frames = []
        for t in range(4):
            out = model.step(state, x_prev, generator=generator)
            frames.append(({k: (p.mean, p.variance) for k, p in out.prior.items()}, out.latents, out.observation.mean))
            state, x_prev = out.state, x[:, t]
        outputs.append(frames)
    torch.testing.assert_close(*outputs)


@of_every_model
def test_own_inference_is_what_follows_from_proposals(name, options):
    model, x = make(name, **options), data()
    if not model.has_proposal or type(model)._filter_step is not DVAE._filter_step:  # it filters with fewer latents
        return
    given = {k: v.sample for k, v in model.inference(x, generator=seeded()).items()}
    own = model._infer(x, None, None, Draws(given)).latents
    inherited = DVAE._infer(model, x, None, None, Draws(given)).latents
    for k, latent in own.items():
        for parameter in ("mean", "variance"):
            torch.testing.assert_close(getattr(latent.posterior, parameter), getattr(inherited[k].posterior, parameter))
        assert torch.equal(inherited[k].sample, given[k])
    inherited = DVAE._infer(model, x, None, None, Draws(how="mean")).latents
    for k, latent in model.inference(x, draw="mean").items():
        torch.testing.assert_close(inherited[k].sample, latent.sample)


@pytest.mark.parametrize("observation", LIKELIHOODS)
@of_every_model
def test_generates(name, options, observation):
    model = make(name, **options, observation=observation)
    sample = model.generate(7, 2, generator=seeded())
    assert sample.x.shape == (2, 7, 5)
    assert {k: tuple(v.shape) for k, v in sample.latents.items()} == model.latent_shapes(2, 7)
    torch.testing.assert_close(model.generate(7, 2, emission="mean", generator=seeded()).x.shape, sample.x.shape)
    assert torch.isfinite(sample.observation.log_prob(sample.x)).all()
    x = data(observation)
    continued = model.generate(3, prefix=x, generator=seeded())
    assert continued.x.shape == (4, 3, 5)
    inferred = model.inference(x, generator=seeded())
    for latent in model.spec.latents:
        if not model.spec.is_framewise(latent):  # it stays what it was in the prefix
            assert torch.equal(continued.latents[latent], inferred[latent].sample)


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
