"""Replaying the recursion from a recording: the bookkeeping on any machine, CUDA graphs where there is a GPU."""

import copy

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import DVAE, GRNN, build_model
from dvae_lib.models.replay import Replay, replay_recursion
from dvae_lib.training import TrainingConfig, fit

RECURSIVE = {
    "dkf": {"g_dim": 8, "encoder": (8,), "decoder": (8,)},
    "storn": {"inference_model": "smoother", "feature_x": (8,), "h_dim": 8, "g_dim": 8},
    "vrnn": {"feature_x": (8,), "h_dim": 8},
    "vrnn-improved": {"feature_x": (8,), "h_dim": 8, "b_dim": 8},
    "srnn": {"feature_x": (8,), "h_dim": 8, "g_dim": 8},
}
of_every_recursion = pytest.mark.parametrize("name", RECURSIVE)


def make(name) -> DVAE:
    torch.manual_seed(0)
    return build_model(name, x_dim=5, z_dim=3, **RECURSIVE[name])


def data(batch=4, time=6):
    return torch.randn(batch, time, 5, generator=torch.Generator().manual_seed(1))


def bound_and_gradients(model, x):
    model.zero_grad()
    value = model.vlb(x, generator=torch.Generator(x.device).manual_seed(2)).value
    value.sum().backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


class Recorder:
    """Stands in for CUDA: counts what is recorded and replayed, and insists on the recorded shapes."""

    def __init__(self, scale=1.0):
        self.recorded, self.replayed, self.scale = 0, 0, scale

    def __call__(self, loop, examples):
        self.recorded += 1
        shapes = [value.shape for value in examples]

        def recording(*known):
            assert [value.shape for value in known] == shapes
            self.replayed += 1
            return tuple(self.scale * output for output in loop(*known))

        return recording


@of_every_recursion
def test_recording_gives_the_numbers_of_the_loop(name):
    model, x, recorder = make(name), data(), Recorder()
    plain = bound_and_gradients(model, x)
    model.replay = replay = Replay(model, record=recorder)
    for _ in range(3):
        replay.begin_step()
        for a, b in zip(bound_and_gradients(model, x), plain, strict=True):
            torch.testing.assert_close(a, b)
    assert recorder.recorded == 1
    assert recorder.replayed == 1 + 3  # once to compare


def test_a_recording_serves_once_a_step():
    model, x, recorder = make("srnn"), data(), Recorder()
    model.replay = replay = Replay(model, record=recorder)
    first, second = model.vlb(x).value, model.vlb(x).value
    assert recorder.replayed == 1 + 1
    (first + second).sum().backward()
    replay.begin_step()
    model.vlb(x)
    assert recorder.replayed == 1 + 2


def test_plain_loop_without_gradient_and_in_evaluation():
    model, x, recorder = make("vrnn"), data(), Recorder()
    model.replay = Replay(model, record=recorder)
    with torch.no_grad():
        model.vlb(x)
    model.eval().vlb(x)
    assert recorder.recorded == 0


def test_one_recording_per_shape_and_not_too_many():
    model, recorder = make("vrnn"), Recorder()
    model.replay = Replay(model, record=recorder, max_recordings=2)
    for batch in (4, 3, 2, 4):
        assert model.vlb(data(batch)).value.shape == (batch,)
    assert recorder.recorded == 2


def test_frozen_weights_need_a_recording_of_their_own():
    model, x, recorder = make("vrnn"), data(), Recorder()
    model.replay = replay = Replay(model, record=recorder)
    model.vlb(x)
    for parameter in model.phi_z.parameters():
        parameter.requires_grad_(False)
    replay.begin_step()
    model.vlb(x)
    assert recorder.recorded == 2


def test_wrong_numbers_are_refused():
    model, x = make("srnn"), data()
    plain = bound_and_gradients(model, x)
    model.replay = Replay(model, record=Recorder(scale=1.1))
    with pytest.warns(RuntimeWarning, match="its numbers differ from the plain loop's by up to"):
        found = bound_and_gradients(model, x)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b)
    assert model.replay.given_up


def test_wrong_gradients_are_refused():
    def record(loop, examples):
        return lambda *known: tuple(output.detach() + 0 * output for output in loop(*known))

    model = make("srnn")
    model.replay = Replay(model, record=record)
    with pytest.warns(RuntimeWarning, match="differ"):
        model.vlb(data())


def test_failure_to_record_is_no_failure():
    def record(loop, examples):
        raise RuntimeError("out of memory")

    model, x = make("dkf"), data()
    model.replay = Replay(model, record=record)
    with pytest.warns(RuntimeWarning, match="recording failed: out of memory"):
        assert torch.isfinite(model.vlb(x).value).all()
    model.vlb(x)  # says so only once


def test_only_within_the_block_and_only_where_there_is_a_recursion():
    model = make("srnn")
    with replay_recursion(model, True) as replay:
        assert model.replay is replay
    assert model.replay is None
    assert copy.deepcopy(model).replay is None
    for other in (GRNN(5), build_model("vae", x_dim=5, z_dim=3)):
        with replay_recursion(other, True) as replay:
            assert replay is None
    with replay_recursion(model, False) as replay:
        assert replay is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnTheDevice:
    @of_every_recursion
    def test_graph_gives_the_numbers_of_the_loop(self, name):
        model, x = make(name).cuda(), data().cuda()
        plain = bound_and_gradients(model, x)
        with replay_recursion(model, True) as replay:
            for _ in range(3):
                replay.begin_step()
                for a, b in zip(bound_and_gradients(model, x), plain, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
            assert not replay.given_up

    def test_training_uses_it(self):
        sequences = SequenceDataset(data(16).cuda())
        config = TrainingConfig(batch_size=8, max_epochs=2, patience=None)
        bounds = [fit(make("srnn"), sequences, sequences, config).best_value for _ in range(2)]
        assert bounds[0] == pytest.approx(bounds[1], rel=1e-3)
