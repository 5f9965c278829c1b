import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.enhancement import (
    classical_wiener,
    decision_directed_gain,
    factorise,
    mix,
    nmf_wiener,
    pink_noise,
    track_noise,
    wiener_gain,
)
from dvae_lib.metrics.speech import si_sdr


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decibels(value: torch.Tensor | float) -> float:
    return 10 * math.log10(float(value))


def test_the_gain_is_gaussian_conditioning():
    """Against the joint covariance of real and imaginary parts of s and x = s + b, conditioned by brute force."""
    v_s, v_b, x = 2.3, 0.7, 0.4 - 1.1j
    speech, both = np.eye(2) * v_s / 2, np.eye(2) * (v_s + v_b) / 2
    mean = speech @ np.linalg.solve(both, [x.real, x.imag])
    covariance = speech - speech @ np.linalg.solve(both, speech)
    gain = wiener_gain(torch.tensor([[v_s]]), torch.tensor([[v_b]])).item()
    assert [gain * x.real, gain * x.imag] == pytest.approx(mean)
    assert covariance == pytest.approx(np.eye(2) * gain * v_b / 2)


def test_the_gain_is_the_best_factor_in_the_mean_square():
    speech, noise = (torch.randn(100_000, dtype=torch.complex64, generator=seeded(i)) for i in range(2))
    speech *= 3
    noisy = speech + noise

    def error(factor):
        return (speech - factor * noisy).abs().square().mean().item()

    gain = wiener_gain(torch.tensor([[9.0]]), torch.tensor([[1.0]])).item()
    assert error(gain) < min(error(gain - 0.03), error(gain + 0.03))
    assert error(gain) == pytest.approx(0.9, rel=0.02)  # the posterior variance


def settled_noise() -> float:
    """Where the tracked level comes to rest in white noise of level 1, by quadrature: E[(1 - P) (|x|^2 - v)] = 0.

    The fluctuation of v around it, which pulls it down further, is neglected.
    """
    snr = 10**1.5

    def pull(v):
        def integrand(y):
            absent = 1 / (1 + math.exp(y / v * snr / (1 + snr)) / (1 + snr))
            return absent * (y - v) * math.exp(-y)

        return quad(integrand, 0, 50)[0]

    return brentq(pull, 0.3, 2.0)


@pytest.mark.parametrize("level", [1e-4, 1.0, 300.0])
def test_the_level_of_white_noise_is_found(level):
    power = level * torch.empty(400, 65).exponential_(generator=seeded())
    tracked = track_noise(power)
    assert tracked.shape == power.shape
    assert abs(decibels(tracked[100:].mean() / level) - decibels(settled_noise())) < 0.5
    assert abs(decibels(tracked[100:].mean() / level)) < 1.5


def test_speech_does_not_pass_for_noise_but_a_jump_of_the_noise_does():
    power = torch.empty(600, 33).exponential_(generator=seeded())
    power[100:120] += 1000.0  # 0.3 s at 30 dB
    before, during = track_noise(power)[[90, 115]].mean(1)
    assert abs(decibels(during / before)) < 0.5
    jumped = torch.cat([power[:50], 100 * power[200:]])
    assert abs(decibels(track_noise(jumped)[-50:].mean() / 100)) < 1.5


def test_decision_directed_gain_by_hand():
    power, noise = torch.tensor([[4.0], [9.0], [0.5]]), torch.ones(3, 1)
    first = 0.5 * 3 + 0.5 * 3
    g_1 = first / (1 + first)
    second = 0.5 * g_1**2 * 4 + 0.5 * 8
    g_2 = second / (1 + second)
    third = max(0.5 * g_2**2 * 9 + 0.5 * 0, 1e-1)
    expected = [g_1, g_2, third / (1 + third)]
    assert decision_directed_gain(power, noise, smoothing=0.5, floor_db=-10.0).flatten().tolist() == pytest.approx(
        expected
    )
    quiet = decision_directed_gain(torch.full((50, 1), 0.1), torch.ones(50, 1))
    assert quiet[-1].item() == pytest.approx(10**-2.5 / (1 + 10**-2.5))


def test_decision_directed_gain_is_the_wiener_gain_where_nothing_changes():
    """A constant a-posteriori SNR: the recursion comes to rest where xi = a G^2 snr + (1 - a) (snr - 1)."""
    snr = 200.0
    gain = decision_directed_gain(torch.full((3000, 1), snr), torch.ones(3000, 1))[-1].item()
    prior = gain / (1 - gain)
    assert prior == pytest.approx(0.98 * gain**2 * snr + 0.02 * (snr - 1), rel=1e-4)
    assert gain == pytest.approx((snr - 1) / snr, rel=1e-3)


def tones(num_samples: int) -> torch.Tensor:
    """Harmonics that come and go, with pauses as speech has them."""
    time = torch.arange(num_samples) / 16_000
    envelope = (torch.sin(2 * math.pi * 2 * time) > 0).float()
    return envelope * sum(torch.sin(2 * math.pi * 170 * k * time) / k for k in range(1, 15))


def test_classical_wiener_takes_off_stationary_noise():
    clean = torch.cat([torch.zeros(4000), tones(44_000)])
    noisy = mix(clean, pink_noise(len(clean), seeded()), 0.0)
    waveform, gain = classical_wiener(noisy)
    assert waveform.shape == noisy.shape
    assert gain.min() >= 0
    assert gain.max() <= 1
    assert si_sdr(clean, waveform) > si_sdr(clean, noisy) + 4
    louder = classical_wiener(100 * noisy)
    torch.testing.assert_close(louder.waveform, 100 * waveform, rtol=1e-2, atol=1e-2)


def test_nmf_wiener_knows_the_speech():
    front_end = SpeechFrontEnd(FrontEndSettings(window_length=512, hop_length=128))
    clean = tones(32_000)
    dictionary = factorise(front_end.analyse(clean).power, 1, num_iterations=20, generator=seeded()).W
    noisy = mix(clean, pink_noise(len(clean), seeded(1)), 0.0)
    first = nmf_wiener(noisy, dictionary, front_end, rank=1, num_iterations=50, generator=seeded(2))
    assert si_sdr(clean, first.waveform) > si_sdr(clean, noisy) + 6
    again = nmf_wiener(noisy, dictionary, front_end, rank=1, num_iterations=50, generator=seeded(2))
    assert torch.equal(first.waveform, again.waveform)


def test_errors():
    with pytest.raises(ValueError, match="spectra of 100 bins, the front end gives 513"):
        nmf_wiener(torch.randn(4000), torch.rand(100, 3))
    with pytest.raises(ValueError, match="smoothing"):
        decision_directed_gain(torch.ones(2, 2), torch.ones(2, 2), smoothing=1.0)
    with pytest.raises(ValueError, match="not finite"):
        classical_wiener(torch.full((4000,), math.nan))


def test_the_level_of_the_recording_does_not_matter_to_the_dictionary():
    """Neither does that of the dictionary's columns."""
    clean = tones(16_000)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=seeded())
    power = SpeechFrontEnd().analyse(clean).power
    dictionary = torch.rand(power.shape[1], 2, generator=seeded()) + power.mean(0)[:, None]
    gains = [
        nmf_wiener(level * noisy, scale * dictionary, num_iterations=20, generator=seeded()).gain
        for level, scale in ((1.0, 1.0), (0.1, 1.0), (10.0, 1.0), (1.0, 100.0))
    ]
    for gain in gains[1:]:
        torch.testing.assert_close(gain, gains[0], rtol=1e-2, atol=1e-3)
