import math
from itertools import pairwise

import pytest
import torch
from scipy.signal import welch

from dvae_lib.enhancement import babble, bursts, coloured_noise, mix, pink_noise, speech_shaped_noise

RATE = 16_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def voices(number: int) -> list[torch.Tensor]:
    """Recordings of different lengths and levels."""
    return [(0.1 + i) * torch.randn(5000 + 700 * i, generator=seeded(i)) for i in range(number)]


NOISES = {
    "pink": lambda n, g: pink_noise(n, g),
    "speech-shaped": lambda n, g: speech_shaped_noise(voices(1)[0], n, g),
    "bursts": lambda n, g: bursts(n, RATE, g),
    "babble": lambda n, g: babble(voices(4), n, g),
}


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5])
def test_the_ratio_is_exact(snr):
    speech, noise = torch.randn(9001, generator=seeded(1)), 7 * pink_noise(9001, seeded(2))
    noisy = mix(speech, noise, snr)
    added = (noisy - speech).double()
    assert 10 * math.log10(speech.double().square().sum() / added.square().sum()) == pytest.approx(snr, abs=1e-4)
    assert torch.corrcoef(torch.stack([added, noise.double()]))[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("num_samples", [16_001, 48_000])
def test_length_level_and_seed(make, num_samples):
    noise = make(num_samples, seeded())
    assert noise.shape == (num_samples,)
    assert noise.dtype == torch.float32
    assert noise.square().mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.equal(noise, make(num_samples, seeded()))
    assert not torch.allclose(noise, make(num_samples, seeded(1)))


def test_pink_noise_falls_by_three_decibels_per_octave():
    frequency, power = welch(pink_noise(2**18, seeded()).numpy(), nperseg=1024)
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (2**-k for k in range(3, 8))]
    steps = [10 * math.log10(lower / higher) for higher, lower in pairwise(bands)]
    assert steps == pytest.approx([3.01] * 4, abs=0.4)


def test_coloured_noise_has_the_spectrum_asked_for():
    spectrum = 0.05 + torch.arange(129.0).mul(0.1).sin().square()
    _, power = welch(coloured_noise(2**18, spectrum, seeded()).numpy(), nperseg=256, detrend=False)
    # Windows mix neighbouring bins; the ends have none to mix with.
    ratio = torch.from_numpy(power)[5:-5] / spectrum[5:-5]
    assert (ratio / ratio.mean()).log().abs().max() < 0.2


def test_speech_shaped_noise_has_the_spectrum_of_the_speech():
    speech = coloured_noise(2**17, torch.linspace(1, 0.01, 50), seeded(3))
    noise = speech_shaped_noise(speech, 2**17, seeded(4))
    theirs, ours = (welch(signal.numpy(), nperseg=256)[1][3:-3] for signal in (speech, noise))
    assert abs(torch.from_numpy(ours / theirs).log()).max() < 0.3


def test_bursts_come_and_go_and_stationary_noise_does_not():
    def spread(noise):
        """Standard deviation of the level of frames of 32 ms, in dB."""
        return (10 * noise.unfold(0, 512, 512).square().mean(1).log10()).std().item()

    assert spread(bursts(10 * RATE, RATE, seeded())) > 5 > 3 > spread(pink_noise(10 * RATE, seeded()))


def test_voices_of_babble_are_equally_loud():
    """Two tones of whole periods, told apart by their frequencies, however they are shifted."""
    phase = 2 * math.pi * torch.arange(4000) / 4000
    crowd = babble([50 * torch.sin(10 * phase), 0.01 * torch.sin(30 * phase)], 8000, seeded())
    spectrum = torch.fft.rfft(crowd).abs().square()
    assert spectrum[20].item() == pytest.approx(spectrum[60].item(), rel=1e-3)
    assert (spectrum[20] + spectrum[60]) / spectrum.sum() > 0.999


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mix(torch.ones(5), torch.ones(4), 0.0), "5 samples, the noise 4"),
        (lambda: mix(torch.zeros(5), torch.ones(5), 0), "the speech has an energy of 0"),
        (lambda: mix(torch.ones(5), torch.full((5,), math.nan), 0), "the noise has an energy of nan"),
        (lambda: pink_noise(0), "num_samples"),
        (lambda: babble([], 100), "a voice at least"),
        (lambda: babble([torch.zeros(50)], 100), "silent"),
        (lambda: speech_shaped_noise(torch.ones(100), 1000), "512 samples"),
    ],
)
def test_errors(as_a_user, call, message):
    with pytest.raises(ValueError, match=message):
        call()
