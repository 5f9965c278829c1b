"""Who leads when, and what fit and generalisation cost: on made-up curves, and on those of the benchmark."""

import math

import pytest

from dvae_lib.experiments import read_records
from dvae_lib.experiments.curves import best_so_far, kept, place
from dvae_lib.resources import resource_path

VAE_TRAIN, VAE_VALIDATION = [1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 1.0, 3.0]


def made(record, model, train, validation, best, seed=0, rate=0.002, **options):
    training = {"epochs": len(train), "steps": 10 * len(train), "best_epoch": best, "converged": True}
    training["curve"] = {"train": train, "validation": validation}
    config = {"max_epochs": 4, "learning_rate": rate}
    return record(model, seed=seed, training=training, config=config, **options)


@pytest.fixture
def records(record):
    falling = [[0, 0.002], [2, 0.002], [4, 0.001]]
    return [
        made(record, "srnn", [5.0, 6.0, 9.0], [3.0, 2.5, 1.0], best=1, rate=falling),
        made(record, "srnn", [5.0, 8.0, 9.0, 9.5], [1.0, 2.0, 2.0, 7.0], best=4, seed=1, rate=falling),
        made(record, "vae", VAE_TRAIN, VAE_VALIDATION, best=4),
        made(record, "srnn", [99.0], [99.0], best=1, scheduled=True),
        record("dkf", status="diverged"),
    ]


def test_the_best_so_far_is_what_early_stopping_would_have_kept(records):
    found = best_so_far(records, [9, 10, 25, 30, 40, 1000])
    assert list(found) == ["VAE", "SRNN"]
    assert math.isnan(found["VAE"][0])
    assert math.isnan(found["SRNN"][0])
    assert found["VAE"][1:] == (0.0, 2.0, 2.0, 3.0, 3.0)
    assert found["SRNN"][1:] == (2.0, 2.5, 2.5, 5.0, 5.0)  # means of (3, 1), (3, 2), (3, 2), (3, 7)
    assert place({name: values[-1] for name, values in found.items()}, "VAE") == 2


def test_what_a_model_lacks_is_fit_and_generalisation(records):
    found = kept(records)
    assert list(found) == ["VAE", "SRNN"]
    first, second = found["SRNN"]
    assert first[:6] == (0, 1, 1.0, 5.0, 3.0, 9.0)
    assert (first.fit, first.generalisation) == (1.0, -1.0)  # 5 - 4, (3 - 5) - (3 - 4)
    assert second[:6] == (1, 4, 0.75, 9.5, 7.0, 9.5)
    (vae,) = found["VAE"]
    assert (vae.fit, vae.generalisation, vae.rate) == (0.0, 0.0, 1.0)
    for line in found["SRNN"]:
        assert line.fit + line.generalisation == pytest.approx(line.validation - vae.validation)
    with pytest.raises(ValueError, match="no training of DKF to compare with; there are VAE, SRNN"):
        kept(records, "DKF")


# --- the first block of Table 13.1 ---


def test_the_vae_leads_only_at_the_end_of_the_benchmark():
    """Six DVAEs are ahead of it on unheard speakers for half of the training."""
    records = read_records(resource_path("results", "benchmark-librispeech.json"))
    steps = (1200, 2400, 3000, 3600, 4800, 5496, 6000)
    found = best_so_far(records, steps)
    places = [place({name: values[i] for name, values in found.items()}, "VAE") for i in range(len(steps))]
    assert places == [7, 7, 7, 5, 4, 1, 1]
    assert [round(found[name][0]) for name in ("SRNN", "VAE", "DKF")] == [1394, 1078, 1036]


def test_models_of_the_benchmark_generalise_worse_and_only_the_dkf_also_fits_worse_to_its_end():
    records = read_records(resource_path("results", "benchmark-librispeech.json"))
    found = kept(records)
    vae = max(line.last_train for line in found["VAE"])
    for name, lines in found.items():
        if name == "VAE":
            continue
        assert all(-220 < line.generalisation < -55 for line in lines)
        assert all(line.last_train > vae for line in lines) == (name != "DKF")
    # Kept before the rate had fallen: an epoch that happened to be good.
    assert all(line.rate == 1 and line.generalisation < -160 for line in found["STORN"])
    for name in ("DSAE", "SRNN"):
        assert all(line.rate > 0.5 for line in found[name])
    assert all(line.rate < 0.15 for line in found["VAE"])
