"""What is maximised: the functions that the loop takes, in both forms."""

import functools
import inspect

import pytest
import torch
from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import DKF, VAE
from dvae_lib.objectives import VLB, free_bits, importance_weighted, particle
from dvae_lib.training import CheckpointError, Schedule, TrainingConfig, fit, vlb_terms
from dvae_lib.training.objective import name_of


def padded(count, seed, **options):
    g = Generator().manual_seed(seed)
    return SequenceDataset([torch.randn(4 + i % 3, 3, generator=g) for i in range(count)], **options)


TRAIN, VALIDATION = padded(9, 1), padded(4, 2)
CONFIG = TrainingConfig(batch_size=4, max_epochs=3, learning_rate=0.02)


def small_vae():
    torch.manual_seed(0)
    return VAE(3, 2, encoder=(4,), decoder=(4,))


class Bound:
    """The least that an objective may return."""

    def __init__(self, value):
        self.value = value


def several_samples(model, x, u=None, *, lengths=None, generator=None, num_samples=1, temperature=1.0):
    """The logarithm of the mean of so many weights, softened by a temperature."""
    values = [model.vlb(x, u, lengths=lengths, generator=generator).value / temperature for _ in range(num_samples)]
    return Bound(temperature * (torch.stack(values).logsumexp(0) - torch.tensor(float(num_samples)).log()))


def test_a_function_of_sequences_is_maximised():
    """Terms, noise and gradients are those of the same function of a batch."""

    def of_a_batch(model, batch, *, generator):
        bound = several_samples(model, batch.x, batch.u, lengths=batch.lengths, generator=generator, num_samples=4)
        return {"objective": bound.value}

    found = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=functools.partial(several_samples, num_samples=4))
    wanted = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=of_a_batch)
    assert all(torch.equal(wanted.last_weights[name], found.last_weights[name]) for name in wanted.last_weights)
    values = [record["validation_objective_per_frame"] for record in found.history]
    assert values == [record["validation_objective_per_frame"] for record in wanted.history]
    assert values[-1] > values[0]
    assert found.best_value == max(values)


def test_more_samples_give_a_higher_bound():
    one, many = (
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=functools.partial(several_samples, num_samples=n))
        for n in (1, 20)
    )
    assert many.best_value > one.best_value


@pytest.mark.parametrize(
    "objective",
    [
        importance_weighted,
        functools.partial(importance_weighted, num_samples=3),
        functools.partial(particle, num_particles=3),
        functools.partial(free_bits, nats=0.2, per="frame"),
    ],
    ids=name_of,
)
def test_the_objectives_of_the_library_are_trained_on(objective):
    """Each raises itself, on padded sequences."""
    generator = Generator().manual_seed(0)
    series = SequenceDataset([torch.randn(n, 3, generator=generator).cumsum(0) for n in (9, 5, 7, 8)])
    torch.manual_seed(0)
    model = DKF(3, 2, decoder=(8,), encoder=(8,), g_dim=8, inference_model="filter")
    batch = series.batch(range(4))
    values = []
    for epochs in (0, 40):
        if epochs:
            config = TrainingConfig(max_epochs=epochs, batch_size=4, learning_rate=0.02)
            fit(model, series, None, config, objective=objective, progress=False)
        draws = Generator().manual_seed(1)
        with torch.no_grad():
            found = [objective(model, batch.x, lengths=batch.lengths, generator=draws).value.mean() for _ in range(20)]
        values.append(torch.stack(found).mean())
    assert values[1] > values[0] + 1.0


def test_the_default_is_the_models_bound():
    """Also when it is written out in either form; a bound is recorded with its parts."""

    def vlb(model, x, u=None, *, lengths=None, generator=None, beta=1.0):
        return model.vlb(x, u, lengths=lengths, generator=generator, beta=beta)

    config = TrainingConfig(batch_size=4, max_epochs=3, schedules={"beta": Schedule.linear(0, 1, epochs=2)})
    runs = [fit(small_vae(), TRAIN, VALIDATION, config, **options) for options in ({}, {"objective": vlb})]
    for record, other in zip(runs[0].history, runs[1].history, strict=True):
        assert {k: v for k, v in record.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    assert {"train_vlb_per_frame", "train_kl_per_frame", "train_reconstruction_per_frame"} <= set(record)
    assert isinstance(small_vae().vlb(TRAIN.batch([0]).x), VLB)


def test_scheduled_arguments_reach_it():
    seen = []

    def objective(model, x, u=None, *, lengths=None, generator=None, temperature=1.0):
        seen.append(temperature)
        return several_samples(model, x, u, lengths=lengths, generator=generator, temperature=temperature)

    config = TrainingConfig(batch_size=9, max_epochs=3, schedules={"temperature": Schedule.linear(3.0, 1.0, epochs=2)})
    result = fit(small_vae(), TRAIN, None, config, objective=objective)
    assert seen == [3.0, 3.0, 2.0, 1.0]  # the first is the rehearsal
    assert [record["temperature"] for record in result.history] == [3.0, 2.0, 1.0]


def test_what_it_does_not_take_is_refused_with_what_it_takes(tmp_path):
    config = TrainingConfig(schedules={"beta": 0.5})
    with pytest.raises(ValueError, match=r"'beta', which is no argument of the objective .* it has temperature$"):
        fit(small_vae(), TRAIN, None, config, objective=several_samples, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_driven_data_reach_it():
    driven = padded(5, 3, inputs=[torch.ones(4 + i % 3, 2) for i in range(5)])
    shapes = []

    def objective(model, x, u=None, *, lengths=None, generator=None):
        shapes.append(u.shape == (*x.shape[:2], 2))
        return several_samples(model, x, u, lengths=lengths, generator=generator)

    fit(DKF(3, 2, u_dim=2), driven, None, TrainingConfig(max_epochs=1), objective=objective)
    assert all(shapes)


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (lambda x: Bound(x.sum()), ValueError, r"'objective' must have one value per sequence, shape \(1,\); got \(\)"),
        (lambda x: x.sum((1, 2)), TypeError, "whose value has that shape.*got Tensor"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_bound_is_refused(result, kind, message):
    def objective(model, x, u=None, *, lengths=None, generator=None):
        return result(x)

    with pytest.raises(kind, match=message):
        fit(small_vae(), TRAIN, None, CONFIG, objective=objective)


def test_a_run_belongs_to_its_objective(tmp_path):
    """Fixed arguments included; and the default goes by its public name."""
    five = functools.partial(several_samples, num_samples=5)
    assert name_of(five).endswith("several_samples(num_samples=5)")
    assert name_of(vlb_terms) == "dvae_lib.training.vlb_terms"
    assert "scheduled" in inspect.signature(vlb_terms).parameters
    one = TrainingConfig(max_epochs=1)
    fit(small_vae(), TRAIN, None, one, objective=five, folder=tmp_path)
    fit(small_vae(), TRAIN, None, one, objective=functools.partial(several_samples, num_samples=5), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"another objective: .*num_samples=5\), and here .*num_samples=6\)"):
        fit(small_vae(), TRAIN, None, one, objective=functools.partial(several_samples, num_samples=6), folder=tmp_path)
