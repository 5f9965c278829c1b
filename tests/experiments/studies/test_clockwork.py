"""A clockwork on human motion: what each latent is left to, and the study at a tiny size."""

import json

import pytest
import torch
from torch import Generator

from dvae_lib.experiments.studies import clockwork
from dvae_lib.experiments.studies.clockwork import (
    CONTESTANTS,
    LINES,
    ClockworkProtocol,
    Pieces,
    explained,
    followed,
    main,
    persistence,
)
from dvae_lib.experiments.two_clocks import Clockwork, ticking
from dvae_lib.models import DKF
from dvae_lib.resources import resource_path

TINY = ClockworkProtocol(
    frames=8, period=2, b_dim=2, z_dim=2, narrow=1, h_dim=5, steps=2, batch_size=4, num_samples=1, of_train=2
)


def made_pieces():
    """Sequences of two joints, which stand still for two frames each."""
    generator = Generator().manual_seed(0)
    train, test = (torch.randn(n, 4, 6, generator=generator).repeat_interleave(2, 1) for n in (7, 3))
    return Pieces(train, test, torch.zeros(6), {})


def test_the_study_runs_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clockwork, "load_pieces", lambda protocol: made_pieces())
    output = tmp_path / "clockwork.json"
    arguments = ["--output", str(output), "--seeds", "0"]
    assert main([LINES, "one level", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert [r["name"] for r in first] == [LINES, "one level"]
    assert main(arguments, TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert [r["name"] for r in records] == [LINES, "one level", "clockwork", "without a clock", "narrow"]
    assert records[:2] == first
    for record in records[1:]:
        levels = {"z"} if record["name"] == "one level" else {"b", "z"}
        assert set(record["kl"]) == levels
        assert set(record["period"]) == set(record["persistence"]) == ({"s", "z", "both"} if "b" in levels else {"z"})
        assert ("slow" in record) == ("fast" in record) == ("b" in levels)
        assert len(record["forecast"]) == len(record["train"]["forecast"]) == 4
    again = tmp_path / "again.json"
    main(["clockwork", "--output", str(again), "--seeds", "0"], TINY)
    (same,) = json.loads(again.read_text(encoding="utf-8"))
    assert {**same, "seconds": 0} == {**records[2], "seconds": 0}
    with pytest.raises(SystemExit):
        main(["nobody", *arguments], TINY)
    capsys.readouterr()


def test_lines_without_a_model():
    """Frames that change with the clock are their periods' means; a pose 5 units of 25 cm off is 125 cm off."""
    data = made_pieces()
    found = clockwork._lines(data, TINY)
    assert found["mean pose of a period"] == 0.0 < found["its components"] < found["mean pose"]
    assert found["mean pose"] > found["own mean pose"] > 0
    assert found["forecast"][0] == pytest.approx(found["forecast"][1])
    still = data._replace(test=torch.tensor([3.0, 4.0, 0.0, 3.0, 4.0, 0.0]).expand(2, 8, 6))
    assert clockwork._lines(still, TINY)["mean pose"] == pytest.approx(125.0)
    assert clockwork._lines(still, TINY)["own mean pose"] == 0.0


def test_a_regression_explains_what_is_linear_and_not_what_is_not():
    generator = Generator().manual_seed(0)
    features = torch.randn(2, 50, 8, 2, generator=generator)
    poses = features @ torch.randn(2, 6, generator=generator) + 3
    assert explained(tuple(features), tuple(poses)) == pytest.approx(1)
    noise = torch.randn(2, 50, 8, 6, generator=generator)
    assert abs(explained(tuple(features), tuple(noise))) < 0.05
    half = poses - 3 + noise * (poses - 3).square().mean().sqrt()
    assert explained(tuple(features), tuple(half)) == pytest.approx(0.5, abs=0.05)


def test_persistence_is_an_autocorrelation():
    x = [torch.randn(2000, 3, generator=Generator().manual_seed(0))]
    for seed in range(1, 6):
        x.append(0.8 * x[-1] + 0.6 * torch.randn(2000, 3, generator=Generator().manual_seed(seed)))
    values = torch.stack(x, 1)
    assert persistence(values, 1) == pytest.approx(0.8, abs=0.02)
    assert persistence(values, 3) == pytest.approx(0.8**3, abs=0.03)


def test_a_free_latent_follows_its_prior_and_the_others_stay():
    torch.manual_seed(0)
    model, x, u = Clockwork(6, 2, b_dim=3), torch.randn(2, 6, 6), ticking(2, 6, 3)
    latents = {"b": torch.randn(2, 6, 3), "z": torch.randn(2, 6, 2)}
    whole = model.generation(x, latents, u).observation.mean
    torch.testing.assert_close(followed(model, x, u, latents, {}), whole)
    s = model.hold(latents["b"], u)
    assert torch.equal(s[:, 0], s[:, 2])
    assert not torch.equal(s[:, 2], s[:, 3])
    z, ahead = torch.zeros(2, 2), []
    for t in range(6):
        z = latents["z"][:, t] if t < 4 else model.d_z(torch.cat([z, s[:, t]], -1)).mean
        ahead.append(model.d_x(torch.cat([z, s[:, t]], -1)).mean)
    torch.testing.assert_close(followed(model, x, u, latents, {"z": 4}), torch.stack(ahead, 1))
    slow, ticks = [torch.zeros(2, 3)], followed(model, x, u, latents, {"b": 0})
    for _ in range(2):
        slow.append(model.d_b(slow[-1]).mean)
    for t in range(6):
        expected = model.d_x(torch.cat([latents["z"][:, t], slow[1 + t // 3]], -1)).mean
        torch.testing.assert_close(ticks[:, t], expected)


def test_a_forecast_does_not_see_what_it_forecasts():
    torch.manual_seed(0)
    x = made_pieces().test
    moved = torch.cat([x[:, :4], torch.zeros_like(x[:, 4:])], 1)
    for name, model in {"clockwork": Clockwork(6, 2, b_dim=2), "one level": DKF(6, 4)}.items():
        u = clockwork._clock(name, x, TINY)
        ahead = clockwork._forecast(model, x, u)
        assert ahead.shape == (3, 4, 6)
        assert torch.equal(ahead, clockwork._forecast(model, moved, u))
        assert not torch.equal(ahead, clockwork._forecast(model, x.flip(1), u))


def test_all_contestants_have_about_as_many_weights():
    models = [clockwork._built(name, 93, ClockworkProtocol()) for name in CONTESTANTS]
    weights = [sum(p.numel() for p in model.parameters()) for model in models]
    assert max(weights) < 1.1 * min(weights)


def test_what_was_kept():
    """Three seeds of each, of one budget, on the same data."""
    records = json.loads(resource_path("results", "clockwork.json").read_text(encoding="utf-8"))
    models = [r for r in records if r["name"] != LINES]
    assert sorted((r["name"], r["seed"]) for r in models) == [(n, s) for n in sorted(CONTESTANTS) for s in range(3)]
    assert len({r["steps"] for r in models}) == 1
    assert all(r["data"] == models[0]["data"] for r in models)
