import itertools
import json
import math

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from dvae_lib.data import AudioError, FrontEndSettings, SpeechFrontEnd


def speechlike(num_samples, seed=0, dtype=torch.float32):
    """Harmonics with a moving pitch and a syllable's rhythm, plus noise: peak 1."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(num_samples, dtype=torch.float64) / 16_000
    pitch = 2 * math.pi * (120 * t + 3 * torch.sin(2 * math.pi * 1.5 * t))
    voice = sum(torch.sin(k * pitch) / k for k in range(1, 20)) * torch.sin(2 * math.pi * 3 * t).square()
    x = voice + 0.02 * torch.randn(num_samples, generator=generator, dtype=torch.float64)
    return (x / x.abs().max()).to(dtype)


@pytest.mark.parametrize("num_samples", [1, 2, 255, 256, 257, 1023, 1024, 12_800, 50_001])
@pytest.mark.parametrize("window", ["sine", "hann"])
def test_analysis_and_synthesis_are_exact_to_the_last_sample(num_samples, window):
    front_end = SpeechFrontEnd(FrontEndSettings(window=window))
    waveform = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    power, phase, length = front_end.analyse(waveform)
    assert power.shape == (1 + num_samples // 256, 513)
    assert (front_end.synthesise(power, phase, length) - waveform).abs().max() < 1e-5
    restored = front_end.from_spectrum(front_end.spectrum(waveform.double()), length)
    assert (restored - waveform.double()).abs().max() < 1e-13


@pytest.mark.parametrize(("window_length", "hop_length"), [(1024, 512), (1024, 100), (512, 256), (400, 160)])
def test_other_settings_are_exact_too(window_length, hop_length):
    front_end = SpeechFrontEnd(FrontEndSettings(window_length=window_length, hop_length=hop_length))
    waveform = speechlike(9_999)
    assert (front_end.synthesise(*front_end.analyse(waveform)) - waveform).abs().max() < 1e-5


def test_batches_are_the_single_waveforms_side_by_side():
    front_end = SpeechFrontEnd()
    waveforms = torch.stack([speechlike(5_000, seed) for seed in range(6)]).reshape(2, 3, 5_000)
    power, phase, length = front_end.analyse(waveforms)
    assert power.shape == (2, 3, 20, 513)
    torch.testing.assert_close(power[1, 2], front_end.analyse(waveforms[1, 2]).power)
    torch.testing.assert_close(front_end.synthesise(power, phase, length), waveforms, atol=1e-6, rtol=0)


def test_the_transform_is_librosas_and_scipys_and_torchs():
    librosa = pytest.importorskip("librosa")
    front_end, x = SpeechFrontEnd(), speechlike(20_000, dtype=torch.float64)
    ours = front_end.spectrum(x)
    np.testing.assert_allclose(front_end.window(torch.float64), scipy.signal.windows.cosine(1024), atol=1e-15)
    options = {"n_fft": 1024, "hop_length": 256, "center": True, "pad_mode": "constant"}
    theirs = librosa.stft(x.numpy(), window=scipy.signal.windows.cosine(1024), dtype=np.complex128, **options)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-10)
    window = front_end.window(torch.float64)
    torchs = torch.stft(x, window=window, return_complex=True, **options)
    torch.testing.assert_close(ours, torchs.T)
    # Synthesis, also of frames that come from no signal.
    wild = ours * torch.rand(ours.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.istft(wild.T, 1024, 256, window=window, length=20_000)
    torch.testing.assert_close(front_end.from_spectrum(wild, 20_000), expected)
    frames = scipy.signal.ShortTimeFFT(window.numpy(), 256, 16_000, phase_shift=None).stft(x.numpy(), p0=0, p1=79)
    np.testing.assert_allclose(ours, frames.T, atol=1e-10)


def test_fifty_frames_last_eight_tenths_of_a_second():
    settings = FrontEndSettings()
    assert settings.seconds(50) == 0.8
    assert settings.window_length / settings.sample_rate == 0.064
    assert settings.num_bins == 513


def test_powers_are_bounded_below():
    power, _, _ = SpeechFrontEnd().analyse(torch.cat([torch.zeros(4096), speechlike(4096)]))
    assert power.min() == pytest.approx(1e-10)
    assert SpeechFrontEnd(FrontEndSettings(power_floor=0.0)).analyse(torch.zeros(4096)).power.max() == 0


def test_the_floor_lies_below_the_rounding_noise_of_16_bits():
    x = speechlike(16_000)
    rounding = (x * 32767).round() / 32767 - x
    assert 10 * math.log10(SpeechFrontEnd().spectrum(rounding).abs().square().mean() / 1e-10) > 20


class TestPreparation:
    def test_trimming_is_librosas(self):
        librosa = pytest.importorskip("librosa")
        front_end = SpeechFrontEnd(FrontEndSettings(normalise="none"))
        for seed, (before, after) in enumerate([(0, 0), (5_000, 9_000), (300, 20_000), (12_345, 1)]):
            noise = 1e-3 * torch.randn(before + after, generator=torch.Generator().manual_seed(seed))
            x = torch.cat([noise[:before], speechlike(10_000, seed), noise[before:]])
            options = {"top_db": 30, "frame_length": 1024, "hop_length": 256}
            expected, _ = librosa.effects.trim(x.numpy(), **options)
            np.testing.assert_array_equal(front_end.prepare(x), expected)

    def test_the_peak_becomes_one(self):
        assert SpeechFrontEnd().prepare(0.03 * speechlike(8_000)).abs().max() == 1
        kept = SpeechFrontEnd(FrontEndSettings(trim_db=None)).prepare(torch.cat([torch.zeros(8000), speechlike(10)]))
        assert len(kept) == 8010

    def test_level_changes_nothing(self):
        x = torch.cat([torch.zeros(3_000), speechlike(8_000), torch.zeros(3_000)])
        torch.testing.assert_close(SpeechFrontEnd().prepare(x / 64), SpeechFrontEnd().prepare(x))

    @pytest.mark.parametrize("silence", [torch.zeros(5_000), torch.full((5_000,), 1e-8), torch.zeros(0)])
    def test_silence_is_refused(self, silence):
        with pytest.raises(AudioError, match=r"hush\.wav holds only silence"):
            SpeechFrontEnd().prepare(silence, name="hush.wav")

    def test_reading_says_what_it_changed(self, tmp_path, caplog):
        x = speechlike(22_050).numpy()
        soundfile.write(tmp_path / "a.wav", np.stack([x, x], 1), 44_100)
        waveform = SpeechFrontEnd().read(tmp_path / "a.wav")
        assert 0 < len(waveform) <= 8_000
        assert "2 channels averaged to one" in caplog.text
        assert "resampled from 44,100 to 16,000 Hz" in caplog.text


class TestGriffinLim:
    def relative_error(self, front_end, power, x):
        magnitude = power.sqrt()
        return float((front_end.spectrum(x).abs() - magnitude).norm() / magnitude.norm())

    def test_without_momentum_the_error_never_grows(self):
        front_end = SpeechFrontEnd()
        power, _, length = front_end.analyse(speechlike(8_000, dtype=torch.float64))
        errors = [
            self.relative_error(
                front_end,
                power,
                front_end.griffin_lim(
                    power, length, num_iterations=n, momentum=0.0, generator=torch.Generator().manual_seed(0)
                ),
            )
            for n in (0, 1, 2, 4, 9)
        ]
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
        assert errors[-1] < 0.6 * errors[0]

    def test_it_does_as_well_as_librosas(self):
        librosa = pytest.importorskip("librosa")
        front_end, x = SpeechFrontEnd(), speechlike(16_000)
        power, _, length = front_end.analyse(x)
        ours = front_end.griffin_lim(power, length, num_iterations=60, generator=torch.Generator().manual_seed(0))
        theirs = librosa.griffinlim(
            power.sqrt().numpy().T,
            n_iter=60,
            hop_length=256,
            window=scipy.signal.windows.cosine(1024),
            length=length,
            pad_mode="constant",
            random_state=0,
        )
        error = self.relative_error(front_end, power, ours)
        assert error < 1.2 * self.relative_error(front_end, power, torch.from_numpy(theirs))

    def test_the_seed_decides(self):
        front_end = SpeechFrontEnd()
        power = front_end.analyse(speechlike(3_000)).power

        def run(seed):
            generator = torch.Generator().manual_seed(seed)
            return front_end.griffin_lim(power, num_iterations=2, generator=generator)

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))


class TestSettings:
    def test_they_survive_json(self):
        settings = FrontEndSettings(hop_length=128, trim_db=None, normalise="none")
        assert FrontEndSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings

    def test_unknown_and_missing_keys_are_named(self):
        state = FrontEndSettings().to_dict()
        state["overlap"] = state.pop("hop_length")
        with pytest.raises(ValueError, match=r"missing \['hop_length'\], unknown \['overlap'\]"):
            FrontEndSettings.from_dict(state)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"sample_rate": 0}, "sample_rate is positive"),
            ({"window_length": 1023}, "even"),
            ({"hop_length": 0}, "hop_length lies between 1 and half the window, 512, not 0"),
            ({"hop_length": 513}, "cannot be restored"),
            ({"trim_db": -30.0}, "trim_db is positive"),
            ({"power_floor": float("nan")}, "power_floor is finite"),
        ],
    )
    def test_nonsense_is_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            FrontEndSettings(**wrong)


class TestTheDoor:
    def test_analysis(self):
        with pytest.raises(ValueError, match="no samples"):
            SpeechFrontEnd().analyse(torch.zeros(0))
        with pytest.raises(ValueError, match="not finite"):
            SpeechFrontEnd().analyse(torch.tensor([0.0, float("nan")]))

    def test_synthesis(self):
        front_end = SpeechFrontEnd()
        power, phase, length = front_end.analyse(speechlike(1_000))
        with pytest.raises(ValueError, match="power is never negative"):
            front_end.synthesise(power.log(), phase, length)
        with pytest.raises(ValueError, match="4 frames stand for 768 to 1023 samples, not for 1024"):
            front_end.synthesise(power, phase, 1024)
        with pytest.raises(ValueError, match="Expected frames of 513 bins"):
            front_end.synthesise(power[:, :512], phase[:, :512])
