"""Replaying the recursion from a recording: the bookkeeping on any machine, CUDA graphs where there is a GPU."""

import copy
import gc

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
    "rvae-causal": {"h_dim": 8, "g_dim": 8},
    "rvae-noncausal": {"h_dim": 8, "g_dim": 8},
    "dsae": {"inference_model": "structured", "h_dim": 8, "g_dim": 8},
}
of_every_recursion = pytest.mark.parametrize("name", RECURSIVE)


PREDICTIVE = ("storn", "vrnn", "vrnn-improved", "srnn", "grnn")
of_every_predictive_model = pytest.mark.parametrize("name", PREDICTIVE)


def make_predictive(name) -> DVAE:
    """With the inference models that need no loop, where there is one."""
    torch.manual_seed(0)
    if name == "grnn":
        return GRNN(5)
    return build_model(name, x_dim=5, z_dim=3, **{k: v for k, v in RECURSIVE[name].items() if k != "inference_model"})


def make(name) -> DVAE:
    torch.manual_seed(0)
    return build_model(name, x_dim=5, z_dim=3, **RECURSIVE[name])


def data(batch=4, time=6):
    return torch.randn(batch, time, 5, generator=torch.Generator().manual_seed(1))


def bound_and_gradients(model, x, feedback=0.0):
    model.zero_grad()
    value = model.vlb(x, feedback=feedback, generator=torch.Generator(x.device).manual_seed(2)).value
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


class StaticRecorder:
    """Does what CUDA graphs do to memory: inputs, outputs and gradients have buffers that every replay overwrites."""

    def __call__(self, loop, examples):
        weights = [p for p in loop.parameters() if p.requires_grad]
        inputs = [value.detach().clone().requires_grad_(value.requires_grad) for value in examples]
        sources = [value for value in (*inputs, *weights) if value.requires_grad]

        def run(cotangents=None):
            outputs = loop(*inputs)
            cotangents = [torch.ones_like(o) for o in outputs] if cotangents is None else cotangents
            return outputs, torch.autograd.grad(outputs, sources, cotangents, allow_unused=True)

        with torch.enable_grad():
            outputs, buffers = run()
        static = [o.detach() for o in outputs]

        class Graphed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *values):
                with torch.no_grad():
                    for buffer, value in zip(inputs, values, strict=False):
                        buffer.copy_(value)
                    for buffer, output in zip(static, loop(*inputs), strict=True):
                        buffer.copy_(output)
                return tuple(o.detach() for o in static)

            @staticmethod
            def backward(ctx, *cotangents):
                with torch.enable_grad():
                    _, gradients = run(cotangents)
                for buffer, gradient in zip(buffers, gradients, strict=True):
                    if buffer is not None:
                        buffer.copy_(gradient)
                found = iter(None if b is None else b.detach() for b in buffers)
                return tuple(next(found) if v.requires_grad else None for v in (*inputs, *weights))

        return lambda *known: Graphed.apply(*known, *weights)


@of_every_recursion
def test_static_buffers_never_become_gradients(name):
    """Gradients that are scaled in place, as clipping does, or summed over steps, are those of the plain loop."""
    found = []
    for enabled in (False, True):
        model = make(name)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        with replay_recursion(model, enabled) as replay:
            if replay is not None:
                replay.record = StaticRecorder()
            for step in range(4):
                if replay is not None:
                    replay.begin_step()
                generator = torch.Generator().manual_seed(step)
                (-model.vlb(data() + step, generator=generator).value.sum()).backward()
                if step % 2:  # every other step adds to the gradient of the one before
                    for parameter in model.parameters():
                        if parameter.grad is not None:
                            parameter.grad.mul_(0.1)
                    optimiser.step()
                    optimiser.zero_grad()
            assert replay is None or (not replay.given_up and replay.recordings)
        found.append(model.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


def test_recurrent_biases_have_gradients_of_their_own():
    model = make("vrnn")
    model.vlb(data()).value.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len({g.data_ptr() for g in gradients}) == len(gradients)


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


@of_every_predictive_model
@pytest.mark.parametrize("feedback", [0.4, 1.0])
def test_generation_mode_is_recorded_too(name, feedback):
    model, x, recorder = make_predictive(name), data(), Recorder()
    plain = bound_and_gradients(model, x, feedback)
    model.replay = replay = Replay(model, record=recorder)
    for _ in range(2):
        replay.begin_step()
        for a, b in zip(bound_and_gradients(model, x, feedback), plain, strict=True):
            torch.testing.assert_close(a, b)
    loops = 1 if name in ("grnn", "storn") else 2  # generation, and inference where that is recursive
    assert recorder.recorded == loops
    assert recorder.replayed == 3 * loops


def test_a_recording_of_generation_mode_hears_what_it_is_told_to_hear():
    model = make("srnn")
    plain = [bound_and_gradients(model, data(), feedback) for feedback in (1.0, 0.4)]
    with replay_recursion(model, True) as replay:
        replay.record = StaticRecorder()
        for feedback, wanted in zip((1.0, 0.4), plain, strict=True):
            replay.begin_step()
            for a, b in zip(bound_and_gradients(model, data(), feedback), wanted, strict=True):
                torch.testing.assert_close(a, b)
        assert len(replay.recordings) == 2


def test_a_driven_model_in_generation_mode_is_recorded():
    torch.manual_seed(0)
    model, x = build_model("vrnn", x_dim=5, z_dim=3, u_dim=2, **RECURSIVE["vrnn"]), data()
    u = torch.randn(4, 6, 2)
    plain = model.vlb(x, u, feedback=1.0, generator=torch.Generator().manual_seed(2)).value
    model.replay = Replay(model, record=Recorder())
    found = model.vlb(x, u, feedback=1.0, generator=torch.Generator().manual_seed(2)).value
    torch.testing.assert_close(found, plain)


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


def test_no_garbage_is_collected_during_a_recording():
    recorder, seen = Recorder(), []

    def record(loop, examples):
        seen.append(gc.isenabled())
        return recorder(loop, examples)

    model = make("srnn")
    model.replay = Replay(model, record=record)
    model.vlb(data())
    assert seen == [False]
    assert gc.isenabled()


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


def test_while_all_is_frozen_the_plain_loop_runs():
    model, x, recorder = make("dkf"), data(), Recorder()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.replay = replay = Replay(model, record=recorder)
    assert torch.isfinite(model.vlb(x).value).all()
    assert recorder.recorded == 0
    assert not replay.given_up


def test_a_constant_does_not_pass_for_a_recording():
    def record(loop, examples):
        outputs = loop(*examples)  # at the recorded values, whatever comes
        return lambda *known: tuple(o + 0 * known[0].sum() for o in outputs)

    model = make("srnn")
    model.replay = Replay(model, record=record)
    with pytest.warns(RuntimeWarning, match="differ|recording failed"):
        model.vlb(data())


def test_a_copy_of_the_model_has_no_recordings():
    model = make("srnn")
    with replay_recursion(model, True):
        assert copy.deepcopy(model).replay is None


def test_training_refuses_it_without_a_device(as_a_user):
    sequences = SequenceDataset(data(4))
    with pytest.raises(ValueError, match="one CUDA device"):
        fit(make("srnn"), sequences, sequences, TrainingConfig(max_epochs=1), replay=True)


def test_only_within_the_block_and_only_where_there_is_a_recursion():
    model = make("srnn")
    with replay_recursion(model, True) as replay:
        assert model.replay is replay
    assert model.replay is None
    assert copy.deepcopy(model).replay is None
    with replay_recursion(build_model("vae", x_dim=5, z_dim=3), True) as replay:
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

    @of_every_predictive_model
    def test_graph_of_generation_mode_gives_the_numbers_of_the_loop(self, name):
        model, x = make_predictive(name).cuda(), data().cuda()
        plain = bound_and_gradients(model, x, 0.4)
        with replay_recursion(model, True) as replay:
            for _ in range(3):
                replay.begin_step()
                for a, b in zip(bound_and_gradients(model, x, 0.4), plain, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
            assert not replay.given_up

    def test_training_uses_it(self):
        sequences = SequenceDataset(data(16).cuda())
        config = TrainingConfig(batch_size=8, max_epochs=3, patience=None, gradient_clip=0.5)
        for name in RECURSIVE:
            bounds = [fit(make(name), sequences, sequences, config, replay=r).best_value for r in (False, True)]
            assert bounds[0] == pytest.approx(bounds[1], rel=1e-3)
