import numpy as np
import pytest
import soundfile
import torch

from dvae_lib.data import AudioError
from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.enhancement import enhance, enhance_file, files, pink_noise, recordings, separation, vem
from dvae_lib.enhancement.nmf import random_factors
from dvae_lib.enhancement.pieces import cuts, weights
from dvae_lib.enhancement.recordings import Mixture
from dvae_lib.enhancement.separation import Settings, separate
from dvae_lib.metrics import si_sdr
from dvae_lib.models import build_model
from dvae_lib.waveforms import as_waveform

RATE = 2_000
SETTINGS = FrontEndSettings(sample_rate=RATE, window_length=64, hop_length=16)
SMALL = {"vae": {"encoder": (8,), "decoder": (8,)}, "rvae-noncausal": {"h_dim": 8, "g_dim": 8}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech_model(name: str = "vae", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(name, x_dim=33, z_dim=2, observation="gamma", **SMALL[name], **options)
    model.metadata["front_end"] = SETTINGS.to_dict()
    return model


def recording(seconds: float = 9.0, channels: int = 1, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """A tone that comes and goes, in noise; (samples,) or (channels, samples)."""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    noise = 0.05 * rng.standard_normal((channels, len(t)))
    x = (0.5 * np.sin(2 * np.pi * 200 * t) * (np.sin(5 * t) > 0) + noise).astype(np.float32)
    return x[0] if channels == 1 else x


def difference(estimate: torch.Tensor, other: torch.Tensor) -> float:
    return ((estimate - other).norm() / other.norm()).item()


# --- pieces ---


@pytest.mark.parametrize("method", ["peem", "vem"])
@pytest.mark.parametrize("name", SMALL)
def test_pieces_are_nearly_the_whole(name, method):
    options = {"method": method, "num_iterations": 20, "learning_rate": 0.01, "num_samples": 2}
    whole, other = (
        enhance(speech_model(name), recording(), **options, piece_seconds=None, generator=seeded(s)) for s in (0, 1)
    )
    pieces = enhance(speech_model(name), recording(), **options, piece_seconds=4.0, generator=seeded())
    assert pieces.waveform.shape == whole.waveform.shape
    assert pieces.gain is pieces.speech is None
    assert pieces.H.shape == whole.H.shape
    assert pieces.g.shape == whole.g.shape
    assert 0 < difference(pieces.waveform, whole.waveform) < difference(other.waveform, whole.waveform)
    for found, expected in ((pieces.W @ pieces.H, whole.W @ whole.H), (pieces.g, whole.g)):
        assert difference(found, expected) < 0.2


def test_where_the_network_sees_one_frame_hardly_anything_is_left():
    """The VAE has no memory: only the filters before its inference network begin anew in each piece."""
    whole, other, pieces = (
        enhance(speech_model(), recording(), num_iterations=5, piece_seconds=p, generator=seeded(s))
        for p, s in ((None, 0), (None, 1), (4.0, 0))
    )
    assert difference(pieces.waveform, whole.waveform) < 0.5 * difference(other.waveform, whole.waveform)


def test_a_recording_shorter_than_a_piece_is_taken_at_once():
    whole, short = (
        enhance(speech_model(), recording(4), num_iterations=3, piece_seconds=p, generator=seeded())
        for p in (None, 5.0)
    )
    assert torch.equal(whole.waveform, short.waveform)
    assert torch.equal(whole.gain, short.gain)


@pytest.mark.parametrize("length", [16_000, 16_001, 16_015, 19_999])
@pytest.mark.parametrize(("window", "hop"), [(64, 16), (64, 25), (128, 32)])
def test_frames_of_a_piece_are_those_of_the_whole(length, window, hop):
    settings = FrontEndSettings(sample_rate=RATE, window_length=window, hop_length=hop)
    front_end, x = SpeechFrontEnd(settings), torch.randn(length, generator=seeded())
    mixture = Mixture(front_end, recordings._Held(x), 1.0, 4.0, torch.zeros(1))
    spectrum = front_end.spectrum(x)
    assert len(mixture.places) > 1
    for i, (first, last) in enumerate(mixture.places):
        torch.testing.assert_close(mixture.spectrum(i), spectrum[first:last])
        ones = mixture.spectrum(i).real * 0 + 1
        start, stop = mixture.sample_places()[i]
        torch.testing.assert_close(mixture.estimate(i, ones), x[start:stop], atol=1e-5, rtol=1e-4)


def test_silence_at_a_boundary_and_in_a_whole_piece():
    x = recording(14.0)
    x[3 * RATE : 10 * RATE] = 0
    result = enhance(speech_model(), x, num_iterations=4, piece_seconds=4.0, generator=seeded())
    assert torch.isfinite(result.waveform).all()
    assert result.waveform[3 * RATE + 64 : 10 * RATE - 64].abs().max() == 0
    assert si_sdr(x, result.waveform) > 0


def test_memory_does_not_grow_with_the_length(monkeypatch):
    """No more than a piece, with what its frames touch, is asked for at once."""
    asked = []
    read = recordings._Held.read

    def listen(self, start, stop):
        asked.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(recordings._Held, "read", listen)
    enhance(speech_model(), recording(60.0), num_iterations=1, piece_seconds=4.0, generator=seeded())
    assert max(asked) <= 4 * RATE + 2 * 64


def test_options_of_pieces_are_checked():
    for seconds in (3.9, 0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="piece_seconds must be 4 or more, or None"):
            enhance(speech_model(), recording(), piece_seconds=seconds)
    with pytest.raises(ValueError, match="method must be one of"):
        Settings(method="mcem").checked()


# --- channels ---


@pytest.mark.parametrize("piece_seconds", [None, 4.0])
def test_equal_channels_are_one(piece_seconds):
    options = {"num_iterations": 4, "piece_seconds": piece_seconds}
    mono = enhance(speech_model(), recording(), generator=seeded(), **options)
    stereo = enhance(speech_model(), np.stack([recording()] * 2), generator=seeded(), **options)
    assert stereo.waveform.shape == (2, len(recording()))
    for channel in stereo.waveform:
        torch.testing.assert_close(channel, mono.waveform, atol=1e-6, rtol=1e-5)
    opposite = enhance(speech_model(), np.stack([recording(), -recording()]), generator=seeded(), **options)
    torch.testing.assert_close(opposite.waveform[1], -mono.waveform, atol=1e-6, rtol=1e-5)  # their sum is silent


def test_where_a_voice_comes_from_is_heard_as_before():
    """Channels keep their differences of level: a bin is multiplied by the same number in all."""
    x = recording(channels=3)
    x[1] *= 0.1
    x[2] = 0
    result = enhance(speech_model(), x, num_iterations=4, generator=seeded())
    front_end = SpeechFrontEnd(SETTINGS)
    before, after = (front_end.spectrum(s) for s in (torch.from_numpy(x), result.waveform))
    expected = front_end.spectrum(front_end.from_spectrum(result.gain * before, x.shape[-1]))
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert result.waveform[2].abs().max() == 0
    assert 0.05 < result.waveform[1].norm() / result.waveform[0].norm() < 0.5


# --- kinds of numbers, devices, defaults ---


@pytest.mark.parametrize("rate", [RATE, 1000, 3200])
def test_every_kind_of_waveform_is_enhanced(rate):
    x = recording(2.0, rate=rate)
    expected = enhance(speech_model(), x, rate, num_iterations=3, generator=seeded()).waveform
    kinds = (x.astype(np.float16), torch.from_numpy(x).bfloat16(), x.astype(">f4"), x[::-1].copy()[::-1], x.tolist(),
             (x * 2**15).round().astype(np.int16), x.astype(np.float64))  # fmt: skip
    for kind in kinds:
        found = enhance(speech_model(), kind, rate, num_iterations=3, generator=seeded()).waveform
        assert found.dtype == (torch.float64 if getattr(kind, "dtype", 0) in (np.float64, 0) else torch.float32)
        assert difference(found, expected) < 0.02


def test_defaults_of_the_user_change_nothing():
    x = recording(9.0)
    expected = enhance(speech_model(), x, num_iterations=2, piece_seconds=4.0, generator=seeded()).waveform
    model = speech_model()
    torch.set_default_dtype(torch.float64)
    try:
        found = enhance(model, x, num_iterations=2, piece_seconds=4.0, generator=seeded()).waveform
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_what_is_made_for_a_recording_is_made_where_it_is():
    with torch.device("meta"):  # what is made there by accident has no values
        assert as_waveform(recording(1.0)).device.type == "cpu"
        assert weights([(0, 8), (4, 12)])[0].sum() == 6
        assert pink_noise(9, seeded()).device.type == "cpu"
        assert SpeechFrontEnd(SETTINGS).analyse(recording(1.0)).power.device.type == "cpu"


# --- files ---


@pytest.mark.parametrize("rate", [RATE, 3200])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("piece_seconds", [4.0, 30.0])
def test_a_file_is_enhanced_as_its_samples_are(tmp_path, rate, channels, piece_seconds):
    x = recording(9.0, channels, rate=rate)
    soundfile.write(tmp_path / "in.wav", x.T, rate, subtype="FLOAT")
    options = {"num_iterations": 3, "piece_seconds": piece_seconds}
    seen = []
    result = enhance_file(
        speech_model(),
        tmp_path / "in.wav",
        tmp_path / "out.flac",
        generator=seeded(),
        progress=lambda *numbers: seen.append(numbers),
        **options,
    )
    expected = enhance(speech_model(), x, rate, generator=seeded(), **options).waveform
    found, found_rate = soundfile.read(tmp_path / "out.flac", dtype="float32")
    assert found_rate == rate
    np.testing.assert_allclose(found.T, expected, atol=2e-6)
    assert (result.seconds, result.num_channels, result.clipped) == (9.0, channels, 0)
    assert result.peak == pytest.approx(np.abs(x).max())
    total = 3 * (1 if piece_seconds == 30 else 3)
    assert seen == [(i + 1, total) for i in range(total)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.flac"]


def test_files_that_cannot_be_enhanced_are_named(tmp_path):
    soundfile.write(tmp_path / "many.wav", np.zeros((100, 9)), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(10 * RATE), RATE)
    broken = np.zeros(10 * RATE)
    broken[12_345] = np.nan
    soundfile.write(tmp_path / "broken.wav", broken, RATE, subtype="FLOAT")
    for name, message in {
        "many": "9 channels; at most 8",
        "silent": "only silence",
        "broken": "not finite, the first at 12345",
    }.items():
        with pytest.raises(AudioError, match=rf"{name}\.wav.*{message}"):
            enhance_file(speech_model(), tmp_path / f"{name}.wav", tmp_path / "out.wav")
    with pytest.raises(ValueError, match=r"must end in \.wav or \.flac; got out\.mp3"):
        enhance_file(speech_model(), tmp_path / "silent.wav", tmp_path / "out.mp3")
    assert not list(tmp_path.glob("out*"))


# --- what pieces add up to ---


class Known(vem.PointEstimate):
    """A posterior that knows the speech: what is left are the sums over frames."""

    def __init__(self, speech: torch.Tensor) -> None:
        self.parameters = [torch.zeros(1, requires_grad=True)]
        self._speech = speech

    def draw(self, num_samples, generator=None):
        return vem.Drawn(self._speech[None] + 0 * self.parameters[0], torch.zeros(()))


def test_the_updates_of_pieces_are_those_of_the_whole():
    """Where the speech is known, a frame of two pieces counts once, and nothing else is lost or counted twice."""
    power, speech = torch.rand(2, 50, 33, generator=seeded()) + 0.1
    W, H = random_factors(power, power.mean(0), 2, seeded(1))
    places = cuts(50, 20, 5)
    results = []
    for cut in ([(0, 50)], places):
        posteriors = [Known(speech[a:b]) for a, b in cut]
        optimizer = torch.optim.SGD([p for posterior in posteriors for p in posterior.parameters], lr=1.0)
        levels = [vem.Levels(W, H[:, a:b], torch.ones(b - a)) for a, b in cut]
        for _ in range(3):
            _, levels = vem.expectation_maximisation_step(
                posteriors, optimizer, [power[a:b] for a, b in cut], levels, weights=[w.float() for w in weights(cut)]
            )
        results.append(levels)
    (whole,), pieces = results
    for (first, last), piece in zip(places, pieces, strict=True):
        torch.testing.assert_close(piece.W, whole.W)
        torch.testing.assert_close(piece.H, whole.H[:, first:last])
        torch.testing.assert_close(piece.g, whole.g[first:last])


def test_a_seed_begins_alike_in_pieces_and_in_the_whole(monkeypatch):
    begun = []

    def listen(posteriors, optimizer, powers, levels, *rest, **options):
        begun.append((levels, options["weights"]))
        return 0.0, levels

    monkeypatch.setattr(separation, "expectation_maximisation_step", listen)
    power = torch.rand(500, 33, generator=seeded()) + 0.1
    places = cuts(500, 200, 50)
    for cut in ([(0, 500)], places):
        separate(
            speech_model(),
            lambda i, cut=cut: power[slice(*cut[i])],
            cut,
            Settings(num_iterations=1),
            generator=seeded(),
        )
    ((whole,), none), (pieces, shares) = begun
    assert none is None
    assert [len(w) for w in shares] == [b - a for a, b in places]
    for (first, last), piece in zip(places, pieces, strict=True):
        # The level is that of the quietest frames, of which some are in two pieces.
        torch.testing.assert_close(piece.H, whole.H[:, first:last], rtol=0.02, atol=0)
        torch.testing.assert_close(piece.W, whole.W, rtol=0.2, atol=1e-3)


def test_the_power_of_channels_is_their_mean():
    x = torch.randn(3, 4_000, generator=seeded()) * torch.tensor([[1.0], [2.0], [0.1]])
    front_end = SpeechFrontEnd(SETTINGS)
    mixture = Mixture(front_end, recordings._Held(x), 1.0, None, torch.zeros(1))
    expected = torch.stack([front_end.spectrum(channel).abs().square() for channel in x]).mean(0)
    torch.testing.assert_close(mixture.power(0), expected)


@pytest.mark.parametrize("length", [0, 3, 10, 12, 40])
def test_what_is_written_has_the_length_of_the_recording(length):
    blocks = [np.full((n, 2), 1.0, np.float32) for n in (5, 7)]
    found = np.concatenate(list(files._of_length(blocks, length, 2)))
    assert found.shape == (length, 2)
    assert found.sum() == 2 * min(length, 12)
