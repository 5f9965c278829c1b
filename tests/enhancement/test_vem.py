import copy
import math

import numpy as np
import pytest
import soxr
import torch

from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.data.speech.audio import AudioError
from dvae_lib.distributions import Gamma
from dvae_lib.enhancement import check_speech_model, enhance, inference_parameters, mix, vem, wiener_gain
from dvae_lib.enhancement.nmf import random_factors
from dvae_lib.enhancement.vem import (
    Levels,
    PointEstimate,
    TunedPosterior,
    expectation_maximisation_step,
    expected_log_likelihood,
)
from dvae_lib.metrics.speech import si_sdr
from dvae_lib.models import DSAE, MODELS, RVAE, VAE, build_model
from dvae_lib.models.reading import INPUTS

SETTINGS = FrontEndSettings(window_length=64, hop_length=16)
FRONT_END = SpeechFrontEnd(SETTINGS)
BINS = SETTINGS.num_bins
METHODS = ("peem", "vem")
SMALL = {
    "vae": {"encoder": (8,), "decoder": (8,)},
    "dkf": {"g_dim": 8, "encoder": (8,), "decoder": (8,)},
    "kvae": {"weights_dim": 6},
    "rvae-causal": {"h_dim": 8, "g_dim": 8},
    "rvae-noncausal": {"h_dim": 8, "g_dim": 8},
    "dsae": {"h_dim": 8, "decoder": (8,), "g_dim": 8, "v_dim": 3},
}
PREDICTIVE = ("storn", "vrnn", "vrnn-improved", "srnn")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech_model(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {**SMALL.get(name, {}), **options}
    model = build_model(name, **{"x_dim": BINS, "z_dim": 2, "observation": "gamma", **options})
    model.metadata["front_end"] = SETTINGS.to_dict()
    return model


def formants(pitch_range: float = 2.0) -> VAE:
    r"""A model whose truth is known: log v_s is linear in z, two bumps that come and go, 25 dB up or down."""
    model = speech_model("vae", decoder=())
    bins = torch.arange(BINS)
    bumps = torch.stack([(-((bins - centre) ** 2) / 18.0).exp() for centre in (6, 20)], 1)
    with torch.no_grad():
        model.x_head.linear.weight.copy_(3 * pitch_range * bumps)
        model.x_head.linear.bias.copy_(-5 + 2 * bumps.sum(1))
        model.z_head.linear.weight.zero_()
        model.z_head.linear.bias.copy_(torch.tensor([0.0, 0.0, -1.0, -1.0]))
    return model


def scene(model: VAE, num_frames: int = 120, snr: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Speech that the model itself has made, slowly changing, and the same in white noise."""
    z = torch.randn(1, num_frames // 12, 2, generator=seeded(1)).repeat_interleave(12, 1)
    with torch.no_grad():
        variance = model.generation(torch.zeros(1, num_frames, BINS), {"z": z}).observation.mean[0]
    spectrum = torch.randn(num_frames, BINS, dtype=torch.complex64, generator=seeded(2)) * variance.sqrt()
    speech = FRONT_END.from_spectrum(spectrum)
    speech = speech / speech.abs().max()
    return speech, mix(speech, torch.randn(len(speech), generator=seeded(3)), snr)


# --- what is accepted, what is tuned ---


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_every_model_without_a_predictive_link_enhances(name, method, inputs):
    model = speech_model(name, inputs=inputs)
    before = copy.deepcopy(model.state_dict())
    noisy = torch.randn(700, generator=seeded())
    result = enhance(model, noisy, method=method, num_iterations=3, rank=2, num_samples=2, generator=seeded())
    frames = 1 + 700 // SETTINGS.hop_length
    assert result.waveform.shape == noisy.shape
    assert torch.isfinite(result.waveform).all()
    assert result.gain.shape == result.speech.shape == (frames, BINS)
    assert result.gain.min() >= 0
    assert result.gain.max() <= 1
    assert (result.W.shape, result.H.shape, result.g.shape) == ((BINS, 2), (2, frames), (frames,))
    assert len(result.objective) == 3
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert result.waveform.requires_grad is result.gain.requires_grad is False


@pytest.mark.parametrize("name", PREDICTIVE)
def test_models_that_hear_themselves_are_refused(name):
    with pytest.raises(ValueError, match=r"past clean frames.*such as a VAE, DKF, RVAE or DSAE"):
        check_speech_model(speech_model(name))


def test_every_model_of_the_registry_is_either():
    known = {name for name, entry in MODELS.items() if entry.chapter < 12}
    assert {*SMALL, *PREDICTIVE} == known


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.chapter >= 12])
def test_the_models_of_chapter_12_are_refused_where_they_hear_themselves(name):
    options = MODELS[name].small
    model = build_model(name, **{"x_dim": BINS, "z_dim": 2, "observation": "gamma", **options})
    model.metadata["front_end"] = SETTINGS.to_dict()
    if model.links.predictive:
        with pytest.raises(ValueError, match="past clean frames"):
            check_speech_model(model)
    else:
        check_speech_model(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: speech_model("vae", observation="gaussian"), "'gaussian' observations.*observation='gamma'"),
        (lambda: speech_model("vae", x_dim=20), "vectors of size 20.*spectra of 33 bins"),
        (lambda: speech_model("dkf", u_dim=2), "driven"),
    ],
)
def test_other_models_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        enhance(model(), torch.randn(700))
    standardised = speech_model("vae")
    standardised.metadata["standardizer"] = {}
    with pytest.raises(ValueError, match="standardised"):
        check_speech_model(standardised)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in SMALL),
        ("srnn", {"h_dim": 8, "g_dim": 8}),
        ("dsae", {"inference_model": "structured"}),
        ("rvae-causal", {"inference_model": "filter"}),
    ],
)
def test_tuned_parameters_are_those_that_generation_does_not_use(name, options):
    """Each parameter by itself: changed at random, it changes what is generated, or it is tuned. Never both."""
    model = speech_model(name, **options)
    tuned = inference_parameters(model)
    assert tuned
    x = torch.rand(1, 6, BINS, generator=seeded()) + 0.1
    latents = {key: latent.sample for key, latent in model.inference(x, generator=seeded()).items()}

    def generated():
        prior, observation = model.generation(x, latents)
        return torch.cat([observation.mean.flatten(), *(prior[key].log_prob(latents[key]).flatten() for key in prior)])

    with torch.no_grad():
        before = generated()
        for key, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
            assert torch.equal(generated(), before) == (key in tuned), key
            parameter.copy_(kept)


def test_the_tuning_reaches_what_it_should_and_nothing_else():
    model = speech_model("dsae", inference_model="structured")
    posterior = TunedPosterior(model, torch.rand(9, BINS, generator=seeded()) + 0.1)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(posterior.parameters, lr=0.1)
    power = torch.rand(9, BINS, generator=seeded(1)) + 0.1
    levels = Levels(*random_factors(power, power.mean(0), 1, seeded()), torch.ones(9))
    expectation_maximisation_step([posterior], optimizer, [power], [levels], 1, seeded())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(inference_parameters(model))


# --- the objective ---


def test_the_likelihood_is_that_of_the_power_of_a_complex_gaussian():
    power, variance = torch.rand(4, 3, generator=seeded()), torch.rand(2, 4, 3, generator=seeded(1)) + 0.1
    expected = torch.stack([Gamma(v.log()).log_prob(power).sum() for v in variance]).mean()
    torch.testing.assert_close(expected_log_likelihood(power, variance), expected)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", ["vae", "rvae-noncausal", "dsae"])
def test_without_noise_the_bounds_are_those_of_the_model(name, inputs):
    """At g = 1 and no noise, vem's objective is the VLB of the model, and peem's is log p(x, z)."""
    model = speech_model(name, inputs=inputs)
    x = torch.rand(9, BINS, generator=seeded()) + 0.1
    with torch.no_grad():
        speech, cost = TunedPosterior(model, x).draw(3, seeded(1))
        expected = model.vlb(x[None], num_samples=3, generator=seeded(1)).value[0]
        torch.testing.assert_close(expected_log_likelihood(x, speech) - cost, expected)
        point = PointEstimate(model, x)
        speech, cost = point.draw(1)
        prior, observation = model.generation(x[None], point.latents)
        joint = observation.log_prob(x[None]).sum()
        for key, value in point.latents.items():
            joint = joint + prior[key].log_prob(value).sum()
        torch.testing.assert_close(expected_log_likelihood(x, speech) - cost, joint)


@pytest.mark.parametrize("name", ["vae", "dkf", "rvae-causal", "dsae"])
@pytest.mark.parametrize("method", METHODS)
def test_every_iteration_raises_the_objective(name, method):
    """With small steps, and for vem the same noise in every iteration."""
    model = speech_model(name).requires_grad_(True)
    power = 10 ** (2 * torch.rand(20, BINS, generator=seeded()))
    posterior = (PointEstimate if method == "peem" else TunedPosterior)(model, power)
    optimizer = torch.optim.SGD(posterior.parameters, lr=1e-5)
    levels = [Levels(*random_factors(power, power.mean(0), 2, seeded()), torch.ones(20))]
    values = []
    for _ in range(15):
        value, levels = expectation_maximisation_step([posterior], optimizer, [power], levels, 2, seeded(7))
        values.append(value)
    assert (np.diff(values) > 0).all(), values


@pytest.mark.parametrize("method", METHODS)
def test_the_recorded_objective_rises(method):
    _, noisy = scene(formants())
    objective = enhance(formants(), noisy, method=method, num_iterations=40, learning_rate=0.02).objective
    assert np.mean(objective[-8:]) > np.mean(objective[:8])
    if method == "peem":  # no sampling: the last value is the highest
        assert objective[-1] == max(objective)


def test_a_point_estimate_finds_the_mode():
    """One latent number per frame: a search over a fine grid knows the maximum of log p(|x|^2, z)."""
    model = speech_model("vae", z_dim=1, encoder=(), decoder=())
    with torch.no_grad():
        model.x_head.linear.weight.copy_(torch.linspace(-2, 2, BINS)[:, None])
    power = torch.empty(10, BINS).exponential_(generator=seeded()) * torch.linspace(0.3, 3, BINS)
    noise = torch.full((10, BINS), 0.5)
    posterior = PointEstimate(model, power)
    optimizer = torch.optim.Adam(posterior.parameters, lr=0.05)
    for _ in range(400):
        speech, cost = posterior.draw(1)
        optimizer.zero_grad()
        (cost - expected_log_likelihood(power, speech + noise)).backward()
        optimizer.step()
    grid = torch.linspace(-5, 5, 4001)
    with torch.no_grad():
        variance = model.x_head(grid[:, None]).mean + 0.5  # (grid, bins)
    joint = -variance.log().sum(1)[:, None] - (1 / variance) @ power.T - 0.5 * grid[:, None].square()
    torch.testing.assert_close(posterior.latents["z"].detach()[0, :, 0], grid[joint.argmax(0)], rtol=0, atol=5e-3)


# --- the estimate ---


def test_the_estimate_is_the_posterior_mean_at_the_result():
    """The gain is E[g v_s / (g v_s + WH)], and the waveform is the filtered recording at its own level."""
    _, noisy = scene(formants())
    noisy = 0.2 * noisy
    result = enhance(formants(), noisy, num_iterations=5, generator=seeded())
    torch.testing.assert_close(result.gain, wiener_gain(result.speech, (result.W @ result.H).mT))
    filtered = FRONT_END.from_spectrum(result.gain * FRONT_END.spectrum(noisy), len(noisy))
    torch.testing.assert_close(result.waveform, filtered, rtol=1e-4, atol=1e-6)


def test_the_gains_of_the_frames_enter_the_estimate(monkeypatch):
    """Frames whose gain is next to nothing hold no speech."""
    _, noisy = scene(formants())

    def half(power, g, speech, noise):
        return torch.where(torch.arange(len(g)) < 60, 1e-9, 1.0)

    monkeypatch.setattr(vem, "update_gains", half)
    result = enhance(formants(), noisy, num_iterations=3, generator=seeded())
    assert result.gain[:60].max() < 1e-3 * result.gain[60:].max()
    assert result.speech[:60].max() < 1e-3 * result.speech[60:].max()


@pytest.mark.parametrize("method", METHODS)
def test_speech_of_the_model_is_found_in_noise(method):
    model = formants()
    clean, noisy = scene(model)
    options = {"peem": {"learning_rate": 0.1}, "vem": {"learning_rate": 0.05, "num_samples": 4}}[method]
    result = enhance(model, noisy, method=method, num_iterations=100, rank=1, generator=seeded(), **options)
    assert si_sdr(clean, result.waveform) > si_sdr(clean, noisy) + 5
    # White noise: its spectrum is found flat, at its level.
    scale = noisy.abs().max()
    noise = (result.W @ result.H).mT
    true = FRONT_END.analyse((noisy - clean) / scale).power
    assert abs(10 * math.log10(noise.mean() / true.mean())) < 1.5


def test_the_point_estimate_comes_near_the_oracle():
    """Within 4 dB of the Wiener filter that knows the latents and the noise, and not above it."""
    model = formants()
    clean, noisy = scene(model)
    noise = FRONT_END.analyse(noisy - clean).power.mean()
    scale = (FRONT_END.analyse(clean).power).mean()
    z = torch.randn(1, 10, 2, generator=seeded(1)).repeat_interleave(12, 1)
    with torch.no_grad():
        variance = model.generation(torch.zeros(1, 120, BINS), {"z": z}).observation.mean[0]
    variance = variance * scale / variance.mean()
    oracle = FRONT_END.from_spectrum(variance / (variance + noise) * FRONT_END.spectrum(noisy), len(noisy))
    result = enhance(model, noisy, num_iterations=100, rank=1, learning_rate=0.1, generator=seeded())
    assert si_sdr(clean, oracle) - 4 < si_sdr(clean, result.waveform) < si_sdr(clean, oracle) + 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything(method):
    _, noisy = scene(formants())
    results = [
        enhance(speech_model("rvae-causal"), noisy, method=method, num_iterations=3, generator=seeded(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0].waveform, results[1].waveform)
    assert results[0].objective == results[1].objective
    assert not torch.equal(results[0].waveform, results[2].waveform)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_a_caller_without_gradients_gets_the_same(name, method, mode):
    """Also where the model and the recording were made without them."""
    noisy = torch.randn(700, generator=seeded())
    first = enhance(speech_model(name), noisy, method=method, num_iterations=2, generator=seeded())
    with mode():
        second = enhance(speech_model(name), noisy.clone(), method=method, num_iterations=2, generator=seeded())
    assert torch.equal(first.waveform, second.waveform)
    assert first.objective == second.objective


def test_level_and_length_are_kept():
    model = formants()
    _, noisy = scene(model)
    first = enhance(model, noisy, num_iterations=10, generator=seeded())
    quiet = enhance(model, 0.01 * noisy, num_iterations=10, generator=seeded())
    torch.testing.assert_close(100 * quiet.waveform, first.waveform, rtol=1e-2, atol=1e-3)

    # The front end trims silence for training; here it stays, and what is between stays where it is.
    padded = torch.cat([torch.zeros(800), noisy, torch.zeros(333)])
    result = enhance(model, padded, num_iterations=10, generator=seeded())
    assert result.waveform.shape == padded.shape
    assert len(result.gain) == 1 + len(padded) // SETTINGS.hop_length
    assert si_sdr(padded, result.waveform) > 0
    assert result.waveform[: 800 - SETTINGS.window_length].abs().max() < 1e-6
    shortest = enhance(model, noisy[: SETTINGS.window_length], num_iterations=2)
    assert shortest.waveform.shape == (SETTINGS.window_length,)


def test_another_sample_rate_comes_back():
    model = formants()
    _, noisy = scene(model)
    at_48k = torch.from_numpy(soxr.resample(noisy.numpy(), 16_000, 48_000))[:-1]
    result = enhance(model, at_48k, 48_000, num_iterations=10, generator=seeded())
    assert result.waveform.shape == at_48k.shape
    assert result.sample_rate == 48_000
    same = enhance(model, noisy, num_iterations=10, generator=seeded())
    assert si_sdr(same.waveform[20:-20], result.waveform[::3][: len(noisy)][20:-20]) > 10


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(700), "only silence"),
        (torch.randn(63), "4 ms, less than one window of 4 ms"),
        (torch.tensor([0.1] * 99 + [math.nan]), "1 NaN or infinite samples, the first at 99"),
        (torch.randn(2, 2, 700), r"\(samples,\) or \(channels, samples\), with at most 8 channels; got \(2, 2, 700\)"),
        (torch.randn(700, 2), r"at most 8 channels; got \(700, 2\)"),
    ],
)
def test_recordings_that_cannot_be_enhanced(as_a_user, waveform, message):
    with pytest.raises((AudioError, ValueError), match=message):
        enhance(formants(), waveform)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mcem"}, "peem, vem; got 'mcem'"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"num_samples": 0}, "num_samples"),
        ({"rank": 0}, "rank"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"sample_rate": 0}, "sample_rate"),
    ],
)
def test_options_out_of_range(as_a_user, options, message):
    with pytest.raises(ValueError, match=message):
        enhance(formants(), torch.randn(700), **options)


def test_steps_that_are_too_large_are_reported():
    with pytest.raises(FloatingPointError, match="smaller learning_rate than 1e"):
        enhance(formants(), torch.randn(700, generator=seeded()), learning_rate=1e6, num_iterations=20)


def test_the_progress_bar(capsys):
    enhance(formants(), torch.randn(700, generator=seeded()), num_iterations=2, progress=True)
    assert "Enhancing" in capsys.readouterr().err
    enhance(formants(), torch.randn(700, generator=seeded()), num_iterations=2)
    assert capsys.readouterr().err == ""


def test_on_an_sequence_level_latent_the_gradient_arrives():
    model = speech_model("dsae")
    assert isinstance(model, DSAE)
    point = PointEstimate(model.requires_grad_(True), torch.rand(9, BINS, generator=seeded()) + 0.1)
    assert {key: tuple(value.shape) for key, value in point.latents.items()} == {"v": (1, 3), "z": (1, 9, 2)}
    speech, cost = point.draw(1)
    (cost - expected_log_likelihood(torch.ones(9, BINS), speech)).backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in point.latents.values())


def test_double_precision():
    model = speech_model("rvae-noncausal").double()
    assert isinstance(model, RVAE)
    result = enhance(model, torch.randn(700, generator=seeded()), num_iterations=2)
    assert result.gain.dtype == torch.float64
    assert result.waveform.dtype == torch.float32


def test_samples_that_are_no_floats_are_refused(as_a_user):
    with pytest.raises(TypeError, match=r"the waveform holds int64, not floating-point samples; scale it to"):
        enhance(formants(), torch.ones(4000, dtype=torch.int64))


def test_a_last_step_that_is_too_large_is_reported():
    """The objective is that before a step; what the last one did shows in the estimate."""
    _, noisy = scene(formants())
    with pytest.raises(FloatingPointError, match="last iteration diverged"):
        enhance(formants(), noisy, method="vem", num_iterations=1, learning_rate=1e30, generator=seeded())


def test_a_waveform_that_wants_a_gradient_is_enhanced_without_one():
    _, noisy = scene(formants())
    result = enhance(formants(), noisy.clone().requires_grad_(), num_iterations=2, generator=seeded())
    assert not result.waveform.requires_grad


def test_parameters_of_driven_models_are_told_apart():
    model = build_model("rvae-causal", x_dim=9, z_dim=2, u_dim=3)
    assert {name.split(".")[0] for name in inference_parameters(model)} == {"e_gz", "e_gx", "z_head"}
