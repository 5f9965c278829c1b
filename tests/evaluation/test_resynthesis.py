import math

import numpy as np
import pytest
import soundfile
import torch

from dvae_lib import VAE, metrics
from dvae_lib.data import SequenceDataset, Standardizer
from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.evaluation import analysis_resynthesis, front_end_of, resynthesise, score_sequences
from dvae_lib.metrics import Metric, mpjpe, si_sdr
from dvae_lib.models import build_model

RATE = 16_000


def voice(seconds: float, seed: int) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    tone = sum(torch.sin(2 * math.pi * 120 * k * time) / k for k in range(1, 20))
    noise = torch.randn(time.shape, generator=torch.Generator().manual_seed(seed))
    return tone * (1 + torch.sin(2 * math.pi * 2 * time)) + 0.1 * noise


@pytest.fixture(scope="module")
def utterances():
    return [voice(1.0 + 0.3 * i, i) for i in range(3)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(513, 4, observation="gamma", encoder=(8,), decoder=(8,))


def test_a_model_that_returns_what_it_sees_resynthesises_exactly(model, utterances, monkeypatch):
    original = model.forward

    def told(x, *arguments, **options):
        return original(x, *arguments, **options)._replace(observation=DiagonalGaussian(x, torch.zeros_like(x)))

    monkeypatch.setattr(model, "forward", told)
    for result, utterance in zip(resynthesise(model, utterances), utterances, strict=True):
        assert torch.equal(result.original, SpeechFrontEnd().prepare(utterance))
        assert torch.equal(result.reconstruction, result.power)
        assert (result.resynthesised - result.original).abs().max() < 1e-5
    table = analysis_resynthesis(model, utterances, num_workers=0)
    assert min(table.columns["si_sdr"]) > 80
    assert min(table.columns["pesq_nb"]) > 4.5
    assert min(table.columns["estoi"]) > 0.999
    assert list(table.columns) == ["si_sdr", "pesq_nb", "pesq_wb", "estoi", "bound"]


def test_the_table_follows_the_definitions(model, utterances):
    """Encode, decode, original phase, inverse transform: written out for one utterance at a time."""
    table = analysis_resynthesis(model, utterances, latents="mean", metrics=["si_sdr"], num_workers=0)
    for i, utterance in enumerate(utterances):
        front_end = SpeechFrontEnd()
        original = front_end.prepare(utterance)
        spectrum = front_end.spectrum(original)
        x = spectrum.abs().square().clamp(min=1e-10)[None]
        with torch.no_grad():
            z = model.inference(x, draw="mean")["z"].sample
            power = model.generation(x, {"z": z}).observation.mean[0]
        resynthesised = front_end.from_spectrum(power.sqrt() * torch.exp(1j * spectrum.angle()), len(original))
        assert table.columns["si_sdr"][i] == pytest.approx(si_sdr(original, resynthesised), abs=1e-3)
    assert table.names == ("0", "1", "2")


def test_the_bound_is_the_models_per_frame(model, utterances):
    (result,) = resynthesise(model, utterances[:1], generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        bound = model.vlb(result.power[None], generator=generator)
    assert result.bound == pytest.approx(float(bound.value / len(result.power)), rel=1e-5)


def test_results_do_not_depend_on_what_runs_side_by_side(model, utterances):
    alone, together = (
        list(resynthesise(model, utterances, latents="mean", batch_size=batch_size)) for batch_size in (1, 3)
    )
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.reconstruction, other.reconstruction)
        torch.testing.assert_close(one.resynthesised, other.resynthesised, atol=1e-5, rtol=1e-4)


def test_the_same_generator_gives_the_same_table_and_the_model_stays_as_it_was(model, utterances):
    model.train()
    options = {"metrics": ["si_sdr"], "num_workers": 0}
    first, second = (
        analysis_resynthesis(model, utterances, generator=torch.Generator().manual_seed(5), **options) for _ in "12"
    )
    assert first == second
    assert model.training


def test_files_are_read_and_named(model, tmp_path, utterances):
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * utterances[0].numpy(), RATE, subtype="FLOAT")
    (result,) = resynthesise(model, [path], latents="mean")
    (direct,) = resynthesise(model, [0.1 * utterances[0]], latents="mean")
    assert result.name == str(path)
    torch.testing.assert_close(result.resynthesised, direct.resynthesised)


def test_the_front_end_and_the_standardiser_travel_with_the_model(utterances):
    settings = FrontEndSettings(window_length=256, hop_length=64)
    powers = [SpeechFrontEnd(settings).analyse(SpeechFrontEnd(settings).prepare(u)).power for u in utterances]
    standardizer = Standardizer.fit(powers)
    model = VAE(129, 4, observation="unit_gaussian")
    model.metadata |= {"front_end": settings.to_dict(), "standardizer": standardizer.to_dict()}
    assert front_end_of(model).settings == settings
    seen = []
    original = model.forward
    model.forward = lambda x, *a, **k: (seen.append(x), original(x, *a, **k))[1]
    (result,) = resynthesise(model, utterances[:1])
    torch.testing.assert_close(seen[0][0], standardizer.transform(powers[0]))
    assert bool((result.reconstruction > 0).all())


def test_other_models_and_bad_utterances_are_refused(model, utterances):
    with pytest.raises(ValueError, match="vectors of size 12, the front end gives spectra of 513"):
        list(resynthesise(VAE(12, 2), utterances))
    with pytest.raises(ValueError, match="Utterance 1 holds only silence"):
        list(resynthesise(model, [utterances[0], torch.zeros(8_000)]))
    with pytest.raises(ValueError, match="no utterances"):
        analysis_resynthesis(model, [])
    with pytest.raises(ValueError, match="batch_size"):
        list(resynthesise(model, utterances, batch_size=0))


def test_sequences_are_scored_in_the_units_of_the_data(as_a_user):
    torch.manual_seed(0)
    sequences = [5 + 3 * torch.randn(length, 6) for length in (12, 20, 15)]
    standardizer = Standardizer.fit(sequences)
    model = VAE(6, 2, observation="gaussian")
    model.metadata["standardizer"] = standardizer.to_dict()
    dataset = SequenceDataset(sequences, standardizer=standardizer)
    table = score_sequences(model, dataset, positions="m", latents="mean", batch_size=2)
    assert list(table.columns) == ["bound", "rmse", "mpjpe"]
    for i, sequence in enumerate(sequences):
        with torch.no_grad():
            mean = model.reconstruct(standardizer.transform(sequence)[None], latents="mean").mean[0]
        estimate = standardizer.inverse(mean)
        assert table.columns["rmse"][i] == pytest.approx(np.sqrt(((estimate - sequence).numpy() ** 2).mean()), rel=1e-5)
        assert table.columns["mpjpe"][i] == pytest.approx(float(mpjpe(sequence, estimate)), rel=1e-5)
    with pytest.raises(ValueError, match="not standardised as the model's"):
        score_sequences(model, SequenceDataset(sequences))


def test_a_registered_measure_of_sequences_has_its_column(monkeypatch):
    """A newcomer's measure is known to `dvae evaluate` from one line, in metres where it is one of motion."""
    sequences = [torch.full((4, 3), 2.0), torch.full((5, 3), 4.0)]
    found = []
    for name, kind in (("largest", "sequences"), ("reach", "motion")):
        metric = Metric(name, name, function=lambda x, y: float(x.max()), kind=kind)
        monkeypatch.setitem(metrics.METRICS, name, metric)
    for unit in (None, "m", "mm"):
        table = score_sequences(VAE(3, 2), SequenceDataset(sequences), positions=unit)
        found.append({name: table.columns.get(name) for name in ("largest", "reach")})
    assert [row["largest"] for row in found] == [(2.0, 4.0)] * 3
    assert [row["reach"] for row in found] == [None, (2.0, 4.0), (pytest.approx(0.002), pytest.approx(0.004))]


# --- one pass where there could be two ---


def small(name):
    torch.manual_seed(0)
    options = {"decoder": (8,), "h_dim": 5, "g_dim": 5} if name in ("srnn", "storn") else {}
    if name == "kvae":
        options = {"a_dim": 3, "encoder": (8,), "decoder": (8,)}
    return build_model(name, x_dim=4, z_dim=2, observation="unit_gaussian", **options)


@pytest.fixture(scope="module")
def sequences():
    generator = torch.Generator().manual_seed(0)
    return SequenceDataset([torch.randn(length, 4, generator=generator) for length in (7, 12, 9)])


@pytest.mark.parametrize(
    ("name", "feedback"), [("vae", 0.0), ("dsae", 0.0), ("kvae", 0.0), ("srnn", 0.0), ("srnn", 1.0), ("storn", 1.0)]
)
def test_one_pass_gives_what_two_give_from_the_same_noise(name, feedback, sequences):
    """Reconstruction and bound, each as the model itself gives it."""
    model = small(name).eval()
    table = score_sequences(model, sequences, feedback=feedback, generator=torch.Generator().manual_seed(3))
    x, lengths, _ = sequences.batch(range(3))
    options = {"lengths": lengths, "feedback": feedback}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        mean = model.reconstruct(x, **options, generator=generator).mean
        if name != "kvae":  # whose bound integrates the state out, and takes a second pass
            generator.manual_seed(3)
        bound = model.vlb(x, **options, generator=generator)
    for i, length in enumerate(lengths.tolist()):
        error = (mean[i, :length] - x[i, :length]).square().mean().sqrt()
        assert table.columns["rmse"][i] == pytest.approx(float(error), rel=1e-6)
        assert table.columns["bound"][i] == pytest.approx(float(bound.value[i] / length), rel=1e-6)


@pytest.mark.parametrize(("latents", "passes"), [("sample", 1), ("mean", 2)])
def test_a_model_is_run_once_for_a_sample_and_its_bound(latents, passes, sequences, monkeypatch):
    model, calls = small("srnn"), []
    original = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    score_sequences(model, sequences, latents=latents)
    assert len(calls) == passes


def test_the_bound_is_one_of_samples_where_the_reconstruction_is_of_means(sequences):
    model = small("srnn").eval()
    table = score_sequences(model, sequences, latents="mean", generator=torch.Generator().manual_seed(3))
    x, lengths, _ = sequences.batch(range(3))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.reconstruct(x, lengths=lengths, latents="mean", generator=generator)
        bound = model.vlb(x, lengths=lengths, generator=generator)
    assert table.columns["bound"] == pytest.approx((bound.value / lengths).tolist(), rel=1e-6)
