"""The codec of speech, with a small model: level and length come back, phases are made up."""

import numpy as np
import pytest
import torch
from damage import check_refusals

from dvae_lib import VAE
from dvae_lib.coding import CodecError, decode_speech, encode_speech, model_of
from dvae_lib.data.speech.audio import AudioError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).eval()


def tone(seconds: float = 0.4, level: float = 0.25) -> np.ndarray:
    t = np.arange(int(16_000 * seconds)) / 16_000
    return level * np.sin(2 * np.pi * 200 * t) * np.sin(np.pi * t / seconds)


def test_a_recording_has_its_length_and_is_the_same_each_time(model):
    file = encode_speech(model, tone(), name="mine")
    waveform, rate = decode_speech(model, file.data, num_iterations=3)
    assert (waveform.shape, rate, model_of(file.data)) == ((6400,), 16_000, "mine")
    assert torch.equal(waveform, decode_speech(model, file.data, num_iterations=3)[0])
    assert file.seconds == 0.4
    assert file.bits_per_second == 8 * len(file.data) / 0.4
    assert file.power.shape == (26, 513)


def test_the_level_is_that_of_the_recording(model):
    loud, quiet = (encode_speech(model, tone(level=level)).data for level in (0.5, 0.05))
    ratio = decode_speech(model, loud, num_iterations=2)[0] / decode_speech(model, quiet, num_iterations=2)[0]
    assert torch.allclose(ratio, torch.tensor(10.0), rtol=1e-3)


def test_a_stream_cut_anywhere_and_any_changed_byte_are_refused(model):
    data = encode_speech(model, tone(0.1), step=10.0, name="mine").data
    check_refusals(lambda data: decode_speech(model, data, num_iterations=1), data)
    check_refusals(model_of, data)


def test_what_is_no_speech_is_refused(model):
    with pytest.raises(AudioError, match="only silence"):
        encode_speech(model, np.zeros(5000))
    with pytest.raises(AudioError, match="not finite"):
        encode_speech(model, np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="one channel"):
        encode_speech(model, np.zeros((2, 5000)))
    with pytest.raises(ValueError, match="not trained on such speech"):
        encode_speech(VAE(5, 2), tone())
    with pytest.raises(CodecError, match="another model"):
        decode_speech(VAE(513, 2, observation="gamma"), encode_speech(model, tone()).data)
    with pytest.raises(CodecError, match="something else"):
        model_of(b"no file of ours")
