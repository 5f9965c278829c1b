"""Everything that a reader calls, on a machine that has a GPU."""

import pytest
import torch
from torch import Generator, nn

from dvae_lib.data import SequenceDataset, Standardizer, from_arrays
from dvae_lib.data.toy import TOYS
from dvae_lib.devices import accelerator, chosen_device
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.enhancement import enhance
from dvae_lib.evaluation import resynthesise, score_sequences
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import MODELS, VAE, build_model
from dvae_lib.objectives import importance_weighted_bound, log_weights
from dvae_lib.training import TrainingConfig, fit, training_fabric

OPTIONS = [
    *((name, {}) for name in MODELS),
    ("kvae", {"mixture": 3, "u_dim": 2}),
    ("dkf", {"inference_model": "smoother"}),
    ("srnn", {"u_dim": 2}),
]
TWO = TrainingConfig(max_epochs=2, batch_size=2)


def walks(u_dim=0):
    g = Generator().manual_seed(0)
    lengths = (5, 8, 8, 3)
    inputs = [torch.randn(n, u_dim, generator=g) for n in lengths] if u_dim else None
    return SequenceDataset([torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in lengths], inputs)


def made(name, **options):
    torch.manual_seed(0)
    return build_model(name, x_dim=3, z_dim=2, **options)


def seeded(device="cpu"):
    return Generator(device).manual_seed(1)


def device_of(model):
    return next(model.parameters()).device.type


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[f"{n}{'-'.join(map(str, o.values()))}" for n, o in OPTIONS])
def test_what_a_reader_does_with_a_model(second, name, options, tmp_path):
    data, model, trained_on = walks(options.get("u_dim", 0)), made(name, **options), []

    def watch(model, record):
        trained_on.append(device_of(model))

    result = fit(model, data, data, TWO, folder=tmp_path / "run", callback=watch, progress=False)
    assert trained_on == ["second", "second"]
    on_cpu = fit(made(name, **options), data, data, TWO, fabric=training_fabric("cpu"), progress=False)
    assert result.best_value == pytest.approx(on_cpu.best_value, rel=1e-4, abs=1e-4)  # its noise is the CPU's

    # The next cell: the data lie on the CPU.
    assert device_of(model) == "cpu"
    x, lengths, u = data.batch(range(4))
    given = {"lengths": lengths}
    bounds = [model.importance_weighted_bound]
    if name != "kvae" and model.is_causal and not model.infers_backwards:
        bounds.append(model.smc_bound)
    model.vlb(x, u, **given)
    model.reconstruct(x, u, **given)
    for bound in bounds:
        size = {"num_samples": 3} if bound == model.importance_weighted_bound else {"num_particles": 3}
        there = bound(x, u, **given, **size, device="auto", generator=seeded())
        assert there.device == x.device
        assert torch.isfinite(there).all()
    future = None if u is None else torch.cat([u, u[:, :2]], 1)
    sample = model.generate(2, prefix=x, u=future, device="auto", generator=seeded())
    assert {v.device.type for v in (sample.x, sample.observation.mean, *sample.latents.values())} == {"cpu"}
    first, again = (model.generate(2, 2, u=None if u is None else u[:2, :2], device="auto", generator=g) for g in
                    (seeded(), seeded()))  # fmt: skip
    assert torch.equal(first.x, again.x)
    assert device_of(model) == "cpu"
    score_sequences(model, data, device="auto", generator=seeded())
    assert device_of(model) == "cpu"

    # Or the reader moves both.
    model.to(second)
    x, lengths, u = data.batch(range(4)).to(second)
    model.vlb(x, u, lengths=lengths, generator=seeded(second)).value.sum().backward()
    assert all(p.grad.device.type == "second" for p in model.parameters() if p.grad is not None)
    for bound in bounds:
        size = {"num_samples": 3} if bound == model.importance_weighted_bound else {"num_particles": 3}
        assert bound(x, u, lengths=lengths, **size).device == second
    assert model.generate(2, prefix=x, u=None if u is None else torch.cat([u, u[:, :2]], 1)).x.device == second
    score_sequences(model, data)
    assert device_of(fit(model, data, data, TWO, progress=False).best_model) == "second"
    assert type(model).from_pretrained(tmp_path / "run").x_dim == 3


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_given_back_however_the_training_ends(second, fails):
    def stop(model, record):
        if fails:
            raise KeyError("callback")
        return True

    model = made("vae")
    if fails:
        with pytest.raises(KeyError):
            fit(model, walks(), None, TWO, callback=stop, progress=False)
    else:
        assert fit(model, walks(), None, TWO, callback=stop, progress=False).stopped == "callback"
    assert device_of(model) == "cpu"


@pytest.mark.usefixtures("as_a_user")
def test_a_run_goes_on_where_it_was(second, tmp_path):
    whole = fit(made("srnn"), walks(), walks(), TWO, progress=False)
    for epochs in (1, 2):
        config = TrainingConfig(max_epochs=epochs, batch_size=2)
        parts = fit(made("srnn"), walks(), walks(), config, folder=tmp_path / "run", progress=False)
    assert all(torch.equal(value, parts.last_weights[name]) for name, value in whole.last_weights.items())


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("method", ["peem", "vem"])
def test_noise_is_taken_out_of_speech_on_a_gpu(second, method):
    torch.manual_seed(0)
    model, noisy = VAE(513, 4, observation="gamma"), torch.randn(4000, generator=seeded())
    found = enhance(model, noisy, num_iterations=2, method=method, generator=seeded(), device="auto")
    there = enhance(model.to(second), noisy, num_iterations=2, method=method, generator=seeded())
    assert found.waveform.device.type == there.waveform.device.type == "cpu"
    assert (found.W.device.type, there.W.device.type) == ("cpu", "second")
    torch.testing.assert_close(found.waveform, there.waveform)
    with torch.inference_mode():
        torch.testing.assert_close(
            enhance(model, noisy, num_iterations=2, method=method, generator=seeded()).waveform, there.waveform
        )


@pytest.fixture(params=["device", "dtype"])
def default(request, second):
    """A user who has set a default device, or a default precision."""
    if request.param == "device":
        torch.set_default_device(second)
    else:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("as_a_user", "default")
@pytest.mark.parametrize("name", MODELS)
def test_default_devices_and_precisions_are_the_users_matter(name):
    g = Generator().manual_seed(0)
    clips = [torch.randn(5 + i % 4, 3, generator=g, device="cpu").numpy() for i in range(12)]
    train, validation, test = from_arrays(clips)
    model = made(name)
    where, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    fit(model, train, validation, TWO, progress=False)
    assert (next(model.parameters()).device, next(model.parameters()).dtype) == (where, dtype)
    x, lengths, _ = train.batch([0, 1, 2]).to(where)
    assert torch.isfinite(model.vlb(x, lengths=lengths).value).all()
    model.importance_weighted_bound(x, lengths=lengths, num_samples=2)
    assert model.generate(2, prefix=x).x.device == where
    score_sequences(model, test)
    assert verify_dependencies(model).missing == frozenset()
    assert Standardizer.from_dict(train.standardizer.to_dict()).mean.device.type == "cpu"


@pytest.mark.usefixtures("as_a_user", "default")
def test_data_are_made_under_every_default():
    for toy in TOYS.values():
        toy(3, 4, generator=Generator().manual_seed(0))
    model = VAE(513, 2, observation="gamma")
    waveform = 0.1 * torch.randn(8000, generator=Generator().manual_seed(0), device="cpu", dtype=torch.float32)
    assert len(list(resynthesise(model, [waveform], device="auto"))) == 1


class Forgetful(VAE):
    """Its author has never had a GPU: a tensor is made without saying where."""

    def inference(self, x, u=None, **options):
        """As that of its base class, on shifted data."""
        return super().inference(x + torch.zeros(x.shape[-1]), u, **options)


@pytest.mark.usefixtures("as_a_user")
def test_a_forgotten_device_is_caught(second):
    model = Forgetful(3, 2)
    model.vlb(walks().batch([0, 1]).x)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        fit(model, walks(), None, TWO, progress=False)
    assert device_of(model) == "cpu"


@pytest.mark.usefixtures("as_a_user")
def test_data_that_were_forgotten_are_named(second):
    model = made("vae").to(second)
    with pytest.raises(TypeError, match=r"x is torch.float32 on cpu, the model torch.float32 on second:0: use x.to"):
        model.vlb(walks().batch([0, 1]).x)


def test_objectives_stay_where_their_arguments_are(second):
    model = made("vae").to(second)
    x = walks().batch([1, 2]).x.to(second)
    weights = log_weights(model(x), x).sum(-1)[None]
    assert importance_weighted_bound(weights).device == second
    assert DiagonalGaussian(x, x).sample().device == second


def test_where_something_is_computed(second):
    model = nn.Linear(2, 2)
    assert chosen_device("auto", model) == accelerator() == second
    assert chosen_device(None, model) == torch.device("cpu")
    assert chosen_device("second", model) == second
    with pytest.raises(ValueError, match=r"device 'gpu' cannot be used here .*\"auto\""):
        chosen_device("gpu", model)
