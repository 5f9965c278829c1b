import numpy as np
import pytest
import torch

from dvae_lib.data import SpeechFrontEnd
from dvae_lib.enhancement import babble, classical_wiener, mix, nmf_wiener, speech_shaped_noise
from dvae_lib.extras import needed, require
from dvae_lib.plotting import show_audio
from dvae_lib.waveforms import as_waveform

SINE = 0.5 * np.sin(np.arange(8000) * 0.1)

# As people hold one sound, and how much of it the number format loses.
KINDS = {
    "double": (SINE, 0.0),
    "single": (SINE.astype(np.float32), 1e-7),
    "half": (SINE.astype(np.float16), 1e-3),
    "big-endian": (SINE.astype(">f8"), 0.0),
    "int16": ((SINE * 2**15).round().astype(np.int16), 2**-15),
    "big-endian int16": ((SINE * 2**15).round().astype(">i2"), 2**-15),
    "int32": ((SINE * 2**31).round().astype(np.int32), 1e-7),
    "uint8": ((SINE * 128 + 128).round().astype(np.uint8), 2**-7),
    "reversed twice": (SINE[::-1].copy()[::-1], 0.0),
    "every second": (np.repeat(SINE, 2)[::2], 0.0),
    "list": (SINE.tolist(), 0.0),
    "tensor": (torch.from_numpy(SINE), 0.0),
    "bfloat16": (torch.from_numpy(SINE).bfloat16(), 1e-2),
    "int16 tensor": (torch.from_numpy((SINE * 2**15).round().astype(np.int16)), 2**-15),
}


@pytest.mark.parametrize(("sound", "loss"), KINDS.values(), ids=KINDS)
def test_every_kind_of_sound_is_the_same_sound(sound, loss):
    samples = as_waveform(sound)
    assert samples.dtype in (torch.float32, torch.float64)
    np.testing.assert_allclose(samples.numpy(), SINE, atol=loss + 1e-12)


@pytest.mark.parametrize(("sound", "loss"), KINDS.values(), ids=KINDS)
def test_whatever_takes_a_waveform_takes_every_kind(sound, loss):
    front_end, tolerance = SpeechFrontEnd(), 1e-6 + 3 * loss
    right = front_end.analyse(SINE).power
    power, _, length = front_end.analyse(sound)
    assert length == len(SINE)
    assert (power.sqrt() - right.sqrt()).abs().max() < 1e-4 + 600 * loss
    assert (front_end.prepare(sound).double() - front_end.prepare(SINE)).abs().max() < 1e-6 + 4 * loss
    dictionary = torch.ones(513, 2, dtype=power.dtype)
    for result in (
        classical_wiener(sound),
        nmf_wiener(sound, dictionary, rank=1, num_iterations=1, generator=torch.Generator().manual_seed(0)),
    ):
        assert 0.01 < result.waveform.abs().max() < 0.6
    mixed = mix(sound, sound, 0.0).double()
    np.testing.assert_allclose(mixed.numpy(), 2 * SINE, atol=2 * tolerance)
    assert speech_shaped_noise(sound, 1000).square().mean() == pytest.approx(1, rel=1e-4)
    assert babble([sound, sound], 1000).square().mean() == pytest.approx(1, rel=1e-4)
    assert "audio/wav" in show_audio(sound).data


def test_the_lowest_integer_is_full_scale():
    pcm = np.array([0, -32768, 16384] * 1000, dtype=np.int16)
    assert as_waveform(pcm)[:3].tolist() == [0.0, -1.0, 0.5]
    prepared = SpeechFrontEnd().prepare(pcm)
    assert prepared.abs().max() == 1
    assert as_waveform(np.array([-(2**31)], dtype=np.int32)).item() == -1
    assert as_waveform(np.array([0, 128], dtype=np.uint8)).tolist() == [-1.0, 0.0]


def test_a_batch_is_its_waveforms_side_by_side():
    batch = (np.stack([SINE, SINE[::-1]]) * 2**15).astype(np.int16)
    power = SpeechFrontEnd().analyse(batch).power
    torch.testing.assert_close(power[1], SpeechFrontEnd().analyse(batch[1]).power)


def test_gradients_flow_through_floating_point():
    x = torch.from_numpy(SINE).requires_grad_()
    assert as_waveform(x) is x
    SpeechFrontEnd().analyse(x).power.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.arange(5), r"the waveform holds int64, not floating-point samples; scale it to \[-1, 1\] first"),
        ([0, 1, 2], "int64"),
        (np.arange(5, dtype=np.uint16), "uint16"),
        (torch.arange(5, dtype=torch.int8), "int8"),
        (np.ones(5, dtype=bool), "bool"),
        (np.ones(5, dtype=complex), "complex128"),
        (["a"], "not an array of numbers"),
        ("a.wav", "not an array of numbers"),
    ],
)
def test_numbers_of_unknown_scale_are_refused(sound, message):
    with pytest.raises(TypeError, match=message):
        as_waveform(sound)


def test_masked_samples_are_refused():
    with pytest.raises(ValueError, match="masked"):
        as_waveform(np.ma.masked_less(SINE, 0))


@pytest.mark.parametrize("call", [classical_wiener, SpeechFrontEnd().prepare, lambda x: speech_shaped_noise(x, 9)])
def test_one_channel_is_one_channel(call):
    with pytest.raises(ValueError, match=r"one channel of shape \(samples,\).*\(2, 8000\)"):
        call(np.stack([SINE, SINE]))


def test_a_single_number_is_no_waveform():
    with pytest.raises(ValueError, match="single number"):
        SpeechFrontEnd().spectrum(torch.tensor(0.5))


def test_what_is_missing_says_how_it_comes():
    for door in (needed, require):
        with pytest.raises(ImportError, match=r'Flying needs the package no_such: pip install "dvae-lib\[wings\]"\.$'):
            door("no_such", "Flying", "wings")
    require("math", "A square root")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_precision_changes_nothing(dtype):
    """Noise is drawn in single precision, whatever the user's default."""
    from dvae_lib.enhancement import bursts, pink_noise

    def drawn():
        generator = torch.Generator().manual_seed(0)
        voices = [torch.from_numpy(SINE).float()]
        return [f(generator) for f in (lambda g: pink_noise(999, g), lambda g: bursts(9999, 16_000, g),
                                       lambda g: babble(voices, 999, g))]  # fmt: skip

    expected = drawn()
    torch.set_default_dtype(dtype)
    try:
        found = drawn()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
