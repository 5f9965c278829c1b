"""One graph with four memories: the study at a tiny size, its truth, and what it kept."""

import json
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from dvae_lib.experiments.studies.memories import (
    CONTESTANTS,
    MemoriesProtocol,
    bound_by_frame,
    echo,
    main,
    memory_model,
    train_echo,
)
from dvae_lib.resources import resource_path

TINY = MemoriesProtocol(lag=3, frames=7, steps=2, batch_size=3, test_sequences=4, lengths=(5, 9), repeats=1)


def test_study_runs_and_goes_on_where_it_was(tmp_path, capsys):
    output = tmp_path / "memories.json"
    arguments = ["--seeds", "0", "1", "--output", str(output)]
    assert main(["echo", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert main(arguments, TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert records[: len(first)] == first
    assert len(records) == 5 * len(CONTESTANTS)
    timed = [r for r in records if r["experiment"] == "speed"]
    assert all(r["training_ms"].keys() == r["frame_ms"].keys() == {"5", "9"} for r in timed)
    assert {r["receptive_field"] for r in first} == {None, 8, 32}
    with pytest.raises(SystemExit):
        main(["noise", *arguments], TINY)
    capsys.readouterr()


def test_truth_is_that_of_a_dense_gaussian():
    """Of all frames after the first K, given these: by the covariance of the whole sequence."""
    lag, a, frames = TINY.lag, TINY.strength, 9
    system = torch.eye(frames, dtype=torch.float64) - a * torch.diag(torch.ones(frames - lag).double(), -lag)
    noise = torch.tensor([1.0] * lag + [1 - a**2] * (frames - lag), dtype=torch.float64)
    inverse = torch.linalg.inv(system)
    covariance = inverse @ noise.diag() @ inverse.T
    torch.testing.assert_close(covariance.diagonal(), torch.ones(frames).double())
    near = [(s, t) for s in range(frames) for t in range(s) if s - t < lag]
    assert all(abs(float(covariance[s, t])) < 1e-12 for s, t in near)  # fewer than K frames tell nothing
    entropy = MultivariateNormal(torch.zeros(frames).double(), covariance).entropy()
    start = MultivariateNormal(torch.zeros(lag).double(), covariance[:lag, :lag]).entropy()
    assert TINY.truth * (frames - lag) == pytest.approx(-TINY.x_dim * float(entropy - start))
    assert TINY.without_memory * lag == pytest.approx(-TINY.x_dim * float(start))
    assert TINY.truth - TINY.without_memory == pytest.approx(-TINY.x_dim * math.log(TINY.innovation))


def test_sequences_echo():
    x = echo(5000, 9, TINY, torch.Generator().manual_seed(0)).double()
    assert (x.var((0, 2)) - 1).abs().max() < 0.06
    for t in range(3, 9):
        assert float((x[:, t] * x[:, t - 3]).mean()) == pytest.approx(TINY.strength, abs=0.05)
        assert abs(float((x[:, t] * x[:, t - 2]).mean())) < 0.05


def test_a_training_is_decided_by_its_seed():
    one, again, other = (train_echo("linear", seed, TINY).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_bounds_of_frames_add_up_to_the_bound():
    model, x = memory_model("tcn-short", TINY), echo(4, 7, TINY, torch.Generator().manual_seed(0))
    whole = model.vlb(x, generator=torch.Generator().manual_seed(1)).value.mean()
    torch.testing.assert_close(bound_by_frame(model, x, torch.Generator().manual_seed(1)).sum(), whole)


def test_about_the_same_number_of_weights():
    weights = [sum(p.numel() for p in memory_model(name, TINY).d_h.parameters()) for name in CONTESTANTS]
    assert max(weights) < 1.25 * min(weights)


def test_what_was_kept():
    """No bound lies above what is attainable, but for the error of a mean over 256 sequences; three seeds of each."""
    records = json.loads(resource_path("results", "memories.json").read_text(encoding="utf-8"))
    bounds = {name: [r["bound"] for r in records if r["memory"] == name and "bound" in r] for name in CONTESTANTS}
    assert all(len(values) == 6 for values in bounds.values())  # with and without the ladder
    first = next(r for r in records if "bound" in r)
    assert max(map(max, bounds.values())) < first["truth"] + 0.03
    assert max(bounds["tcn-short"]) < first["without_memory"] + 0.03  # eight frames, and the echo comes after twelve
    assert {r["memory"] for r in records if r["experiment"] == "speed"} == set(CONTESTANTS)
