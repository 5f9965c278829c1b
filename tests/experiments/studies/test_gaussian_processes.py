"""Missing pixels filled in: the study at a tiny size, and its scores against brute force."""

import json
from dataclasses import replace

import pytest
import torch

from dvae_lib.experiments.studies.gaussian_processes import (
    CONTESTANTS,
    DigitsProtocol,
    interpolated,
    main,
    missing_scores,
    train_digits,
)
from dvae_lib.resources import resource_path

pytest.importorskip("sklearn")

TINY = DigitsProtocol(films=12, test_films=4, frames=5, hidden=8, z_dim=2, steps=2, batch_size=3, num_samples=2)


def test_study_runs_and_goes_on_where_it_was(tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["--output", str(output), "--seeds", "0", "1"]
    assert main(["vae", "interpolation", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert [(r["name"], r["seed"]) for r in first] == [("vae", 0), ("interpolation", 0), ("vae", 1)]
    assert main(arguments, TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert len(records) == 2 * (len(CONTESTANTS) - 1) + 1
    assert records[:3] == first
    for record in records:
        assert len(record["film"]) == 5
        assert record["mse"] > 0
    with pytest.raises(SystemExit):
        main(["rnn", *arguments], TINY)
    capsys.readouterr()


def test_what_is_kept_is_whole():
    """Three trainings of each contestant, by the protocol that stands in the code; interpolation has none."""
    records = json.loads(resource_path("results", "gaussian_processes.json").read_text(encoding="utf-8"))
    trained = {(name, seed) for name in CONTESTANTS if name != "interpolation" for seed in range(3)}
    assert {(r["name"], r["seed"]) for r in records} == trained | {("interpolation", 0)}
    assert {r["steps"] for r in records} == {DigitsProtocol().steps}


def test_a_training_is_decided_by_its_seed_and_ignores_what_is_missing():
    films = TINY.films_of("training")
    spoilt = films._replace(x=torch.where(films.observed, films.x, torch.nan))
    one, other = (train_digits("free", 3, TINY, f).state_dict() for f in (films, spoilt))
    assert all(torch.equal(one[name], other[name]) for name in one)
    another = train_digits("free", 4, TINY, films).state_dict()
    assert not all(torch.equal(one[name], another[name]) for name in one)


def test_interpolation():
    x = torch.tensor([[[0.0, 1.0, 5.0], [9.0, 9.0, 9.0], [2.0, 9.0, 9.0], [9.0, 4.0, 9.0]]])
    seen = torch.tensor([[[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]]).bool()
    filled = interpolated(x, seen)
    assert filled[0, :, 0].tolist() == [0, 1, 2, 2]
    assert filled[0, :, 1].tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(filled[0, :, 2], torch.full((4,), x[seen].mean()))


def test_scores_are_of_the_missing_pixels_alone():
    wide = replace(TINY, scale=1.0)  # so that probabilities of whole films are numbers
    films, model = wide.films_of("test"), wide.model("vae")
    filled, scores = missing_scores(model, films, 3, torch.Generator().manual_seed(0))
    gaps = ~films.observed
    assert torch.equal(filled[films.observed], films.x[films.observed])
    assert scores["mse"] == pytest.approx(float((filled - films.x)[gaps].square().mean()), abs=1e-5)
    generator, each = torch.Generator().manual_seed(0), []
    for _ in range(3):
        hidden = torch.where(films.observed, films.x, torch.nan)
        mean = model.reconstruct(hidden, observed=films.observed, generator=generator).mean
        normal = torch.distributions.Normal(mean, 1.0).log_prob(films.x)
        each.append((normal * gaps).double().sum((1, 2)).detach())
    expected = -float((torch.stack(each).exp().mean(0)).log().sum() / gaps.sum())
    assert scores["nll"] == pytest.approx(expected, abs=1e-3)
