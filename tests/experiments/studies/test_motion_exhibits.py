"""What stands behind Table 13.2: against dense Gaussians and closed forms, on made-up movements, and as recorded."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from dvae_lib.data.motion import MOCAP_PARENTS
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments import LABELS, REVIEW_MODELS, SCHEDULED, read_records, summarise
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies.motion_exhibits import (
    KEY,
    PARTS,
    PREDICTORS,
    SIGMA,
    Line,
    Movement,
    best_map,
    bone_change,
    distances,
    linear_latents,
    linear_model,
    main,
    resynthesis,
    speeds,
    tasks,
    with_and_without,
)
from dvae_lib.models import build_model
from dvae_lib.resources import resource_path

JOINTS = len(MOCAP_PARENTS)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def movement():
    """Three people who tremble more and more."""
    parts = [0.3 * drawn(1, 1, 3 * JOINTS) + 0.01 * drawn(n, 8, 3 * JOINTS, seed=n).cumsum(1) for n in (12, 3, 4)]
    names = ("03_01", "03_01", "HDM_dg_kick_120", "03_02")
    return Movement(*parts, names, data_facts(test=SequenceDataset(list(parts[2]))))


@pytest.fixture(scope="module")
def lines():
    torch.manual_seed(0)
    models = {name: build_model(name, "motion", x_dim=3 * JOINTS).eval() for name in ("vae", "vrnn", "srnn")}
    return [*(Line(LABELS[name], model) for name, model in models.items()), Line("SRNN-TF-GM", models["srnn"], 1.0)]


def test_principal_components_have_the_density_of_a_dense_gaussian():
    train, test = 0.02 * drawn(50, 4, 6) * torch.arange(1, 7), 0.05 * drawn(5, 4, 6, seed=1)
    vectors = train.flatten(0, 1).double().numpy()
    values, directions = np.linalg.eigh(np.cov(vectors.T, bias=True))
    wide = directions[:, -2:] * np.sqrt(np.maximum(values[-2:] - SIGMA**2, 0))
    model = multivariate_normal(vectors.mean(0), wide @ wide.T + SIGMA**2 * np.eye(6))
    error, log_likelihood = linear_latents(train, test, 2)
    expected = torch.from_numpy(model.logpdf(test.double().numpy()))
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-5, atol=1e-4)
    assert (error.float() @ torch.from_numpy(directions[:, -2:]).float()).abs().max() < 1e-5


def test_orders_are_the_mean_the_last_frame_and_the_straight_line():
    train, test = drawn(9, 5, 6), drawn(2, 5, 6, seed=1)
    errors = [linear_model(train, test, order, 0)[0] for order in range(3)]
    torch.testing.assert_close(errors[0].float(), test - train.mean((0, 1)), atol=1e-5, rtol=0)
    mean_step = train.diff(dim=1).mean((0, 1))
    torch.testing.assert_close(errors[1][:, 1:].float(), test.diff(dim=1) - mean_step, atol=1e-5, rtol=0)
    line = 2 * test[:, 1:-1] - test[:, :-2]
    mean_bend = train.diff(n=2, dim=1).mean((0, 1))
    torch.testing.assert_close(errors[2][:, 2:].float(), test[:, 2:] - line - mean_bend, atol=1e-5, rtol=0)
    torch.testing.assert_close(errors[2][:, 0], linear_latents(train[:, :1], test[:, :1], 0)[0][:, 0])


def test_a_latent_vector_adds_what_lies_between_prediction_and_resynthesis(lines, movement):
    model, x = lines[1].model, movement.test
    without, informed = with_and_without(model, x, draws=2)
    with torch.no_grad():
        again = model.reconstruct(x, generator=torch.Generator().manual_seed(0)).mean
    torch.testing.assert_close(informed, again)
    assert (without - informed).abs().max() > 1e-4


def test_an_affine_map_is_found():
    inputs, matrix = drawn(30, 4, 5), drawn(5, 3, seed=1)
    reader = best_map(inputs, inputs @ matrix + 2.0)
    torch.testing.assert_close(reader(inputs), inputs @ matrix + 2.0, atol=1e-3, rtol=1e-3)


def test_a_stiff_body_that_glides():
    pose, steps = drawn(1, 1, JOINTS, 3), torch.arange(6.0)[None, :, None, None] / 30
    gliding = (pose + steps * torch.tensor([3.0, 4.0, 0.0])).flatten(-2)
    assert bone_change(gliding) < 1e-3
    torch.testing.assert_close(speeds(gliding), torch.full((1, 5, JOINTS - 1), 5.0))
    growing = (pose * (1 + steps)).flatten(-2)
    expected = 100 * (1 + steps.flatten()).std() / (1 + steps.flatten()).mean()
    assert bone_change(growing) == pytest.approx(expected.item(), rel=1e-4)
    assert distances(torch.zeros(1, 1, 6), torch.tensor([[[3.0, 4.0, 0, 0, 0, 0]]])).tolist() == [[[5000.0, 0.0]]]


def test_what_was_interrupted_goes_on_to_the_same_numbers(movement, lines, made_by, tmp_path):
    whole = ResultFile(tmp_path / "whole.json", KEY)
    complete(whole, tasks(movement, lines), say=lambda line: None)
    assert {record["part"] for record in whole.records} == set(PARTS)
    for record in whole.records:
        made_by(record)
    steps = ResultFile(tmp_path / "steps.json", KEY)
    complete(steps, tasks(movement, lines, PARTS[:4]), say=lambda line: None)
    assert len(complete(steps, tasks(movement, lines), say=lambda line: None)) < len(whole.records)
    by_key = {(record["part"], record["name"]): record for record in steps.records}
    assert by_key == {(record["part"], record["name"]): record for record in whole.records}
    repeated = by_key["corrected", "no model"]["mean_1"]
    last = distances(movement.test[:, 2:-1], movement.test[:, 3:]).mean().item()
    assert repeated == pytest.approx(last, abs=1e-3)
    found = by_key["resynthesis", "SRNN-TF-GM"]
    fed_back = distances(movement.test, resynthesis(lines[-1].model, movement.test, 1.0))
    assert found["mpjpe"] == pytest.approx(fed_back.mean().item(), abs=1e-3)
    assert found["by_person"]["HDM05 dg"] == pytest.approx(fed_back[2].mean().item(), abs=1e-3)


def test_the_command_knows_its_parts(capsys):
    with pytest.raises(SystemExit):
        main(["dancing"])
    assert "there is no dancing" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- as recorded


@pytest.fixture(scope="module")
def recorded():
    records = json.loads(resource_path("results", "motion-exhibits.json").read_text())
    return {part: {r["name"]: r for r in records if r["part"] == part} for part in PARTS}


def test_every_line_of_the_table_is_recorded_and_agrees_with_it(recorded):
    lines = summarise(read_records(resource_path("results", "benchmark-mocap.json")))
    assert set(recorded["resynthesis"]) == {line.name for line in lines}
    for line in lines:
        found = recorded["resynthesis"][line.name]
        run = next(run for run in line.runs if run["seed"] == found["seed"])
        (said,) = (row["measures"]["mpjpe"]["mean"] for row in run["test"] if row["mode"] == line.mode)
        assert found["mpjpe"] == pytest.approx(said, rel=0.03)
        assert found["data"]["test"]["sequences"] == run["data"]["test"]["sequences"]
    taught = {LABELS[name] for name in REVIEW_MODELS}
    assert set(recorded["corrected"]) == taught | {"no model"}
    assert set(recorded["generated"]) > taught
    assert set(recorded["past"]) == {LABELS[name] for name in SCHEDULED}
    assert set(recorded["linear"]) == {f"{name} + {L}" for name in PREDICTORS for L in (0, 10)}


def test_means_are_those_of_their_parts(recorded):
    for record in [*recorded["resynthesis"].values(), *recorded["linear"].values()]:
        assert np.mean(record["by_frame"]) == pytest.approx(record["mpjpe"], abs=0.01)
        assert min(record["by_recording"].values()) <= min(record["by_person"].values())
        assert max(record["by_recording"].values()) >= max(record["by_person"].values())
        assert not math.isnan(record["late"])
