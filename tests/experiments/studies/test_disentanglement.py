"""What separates factors: the study at a tiny size, and its sources against their law."""

import json

import pytest
import torch

from dvae_lib.experiments.studies.disentanglement import (
    CONTESTANTS,
    DisentanglementProtocol,
    main,
    mixed_sources,
    separation,
)

TINY = DisentanglementProtocol(
    sequences=24, test_sequences=20, frames=4, channels=3, steps=2, batch_size=6, hidden=4, box=8
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_study_runs_and_goes_on_where_it_was(tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["--output", str(output), "--seeds", "0"]
    assert main(["sequence", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert [(r["part"], r["name"], r["seed"]) for r in first] == [
        ("sequence", name, 0) for name in ("dsae", "fhvae", "fhvae-10")
    ]
    assert main(arguments, TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert len(records) == sum(map(len, CONTESTANTS.values()))
    assert records[0] == first[0]
    for record in records:
        assert 0 <= record["mig"] <= 1
    again = tmp_path / "again.json"
    main(["sources", "--output", str(again), "--seeds", "0"], TINY)
    same = [{k: v for k, v in r.items() if k != "seconds"} for r in json.loads(again.read_text(encoding="utf-8"))]
    assert all(record in [{k: v for k, v in r.items() if k != "seconds"} for r in records] for record in same)
    with pytest.raises(SystemExit):
        main(["digits", *arguments], TINY)
    capsys.readouterr()


def test_sources_have_their_time_constants_and_are_mixed_by_orthonormal_columns():
    _, s = mixed_sources(4000, 6, (0.9, 0.3), 5, 0.3, seeded())
    for l, rho in enumerate((0.9, 0.3)):
        found = torch.corrcoef(s[:, :, l].mT)
        apart = (torch.arange(6)[:, None] - torch.arange(6)).abs()
        assert (found - rho**apart).abs().max() < 0.06
    clean, s = mixed_sources(50, 6, (1.0, 0.3), 5, 0.0, seeded())
    assert torch.allclose(s[:, :1, 0].expand(-1, 6), s[:, :, 0])  # a source that never changes
    assert torch.allclose(clean.square().sum(-1), s.square().sum(-1), atol=1e-4)  # lengths are kept


def test_separation_is_squared_correlation():
    s = torch.randn(5000, 2, generator=seeded())
    angle = torch.tensor(0.3)
    turned = torch.stack([angle.cos() * s[:, 0] - angle.sin() * s[:, 1], angle.sin() * s[:, 0] + angle.cos() * s[:, 1]])
    expected = torch.tensor([[angle.cos(), angle.sin()], [angle.sin(), angle.cos()]]).square().double()
    assert (separation(turned.mT, s) - expected).abs().max() < 0.03
