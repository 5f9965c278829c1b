"""How models are tested: in which modes, by which measures, and that these follow their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator

from dvae_lib import DSAE, VAE, VRNN
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import active_dimensions, analysis_resynthesis, bounds_per_frame
from dvae_lib.experiments import REVIEW_MODELS, ExperimentData, evaluate_model, load_experiment
from dvae_lib.experiments.scores import _summary, modes
from dvae_lib.metrics import ScoreTable, raw_pesq
from dvae_lib.models import build_model


def small(cls, **options):
    torch.manual_seed(0)
    sizes = {"h_dim": 4, "g_dim": 4, "decoder": (6,), "encoder": (6,)}
    wanted = {"feature_x": (6,), "feature_z": (6,), "h_dim": 4, "g_dim": 4} if cls is VRNN else sizes
    return cls(6, 2, observation="centimetre_gaussian", **{**wanted, **options}).eval()


# --- modes ---


def test_autoregressive_models_are_judged_in_generation_mode_too():
    for name in REVIEW_MODELS:
        model = build_model(name, "motion", x_dim=6)
        predictive = name in ("storn", "vrnn", "srnn")
        assert modes(model, scheduled=False) == ({"TF": 0.0, "TF-GM": 1.0} if predictive else {"TF": 0.0})
    assert modes(small(VRNN), scheduled=True) == {"GM": 1.0}


# --- the test ---


@pytest.mark.parametrize(("scheduled", "wanted"), [(False, {"TF": 0.0, "TF-GM": 1.0}), (True, {"GM": 1.0})])
def test_motion_is_judged_by_the_distance_of_joints_in_millimetres(walks, scheduled, wanted):
    model, corpus = small(VRNN), walks(test_lengths=(8, 5))
    rows = evaluate_model(model, corpus, 2, scheduled=scheduled)
    assert [row["mode"] for row in rows] == list(wanted)
    x, lengths, _ = corpus.test.batch(range(5))
    for row, feedback in zip(rows, wanted.values(), strict=True):
        generator = Generator().manual_seed(0)
        with torch.no_grad():
            estimate = model.reconstruct(x, lengths=lengths, feedback=feedback, generator=generator).mean.numpy()
        errors, roots = [], []
        for original, made, length in zip(x.numpy(), estimate, lengths.tolist(), strict=True):
            difference = (made - original)[:length]
            errors.append(1000 * np.linalg.norm(difference.reshape(length, 2, 3), axis=-1).mean())
            roots.append(math.sqrt((difference**2).mean()))
        assert set(row["measures"]) == {"mpjpe", "rmse"}
        assert "scores" not in row  # windows of motion overlap
        for name, values in (("mpjpe", errors), ("rmse", roots)):
            low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
            assert row["measures"][name] == {
                "mean": pytest.approx(np.mean(values), rel=1e-5),
                "low": pytest.approx(low, rel=1e-4),
                "high": pytest.approx(high, rel=1e-4),
                "count": 5,
            }
        found = bounds_per_frame(model, corpus.test, 2, feedback=feedback)
        assert (row["vlb"], row["iw"], row["kl"]) == (found.vlb, found.importance_weighted[2], found.kl)
        assert row["kl_per_dim"] == found.kl_per_dim
        assert row["importance_samples"] == 2
        assert row["active"] == active_dimensions(found.kl_per_dim["z"])
    assert rows == evaluate_model(model, corpus, 2, scheduled=scheduled)


def test_speech_is_judged_by_what_is_heard_of_whole_recordings(eight_voices):
    corpus = load_experiment(str(eight_voices), "ci")
    torch.manual_seed(0)
    model = VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).eval()
    model.metadata["front_end"] = corpus.metadata["front_end"]
    (row,) = evaluate_model(model, corpus, 3, scheduled=False, num_workers=0)
    table = analysis_resynthesis(
        model, [r.path for r in corpus.recordings], generator=Generator().manual_seed(0), num_workers=0
    )
    assert set(row["measures"]) == {"si_sdr", "pesq", "pesq_nb", "pesq_wb", "estoi"}
    for line in table.summary():
        if line.metric != "bound":
            assert row["measures"][line.metric]["mean"] == pytest.approx(line.mean, rel=1e-6)
            assert row["measures"][line.metric]["low"] == pytest.approx(line.low, rel=1e-6)
            assert row["measures"][line.metric]["count"] == len(corpus.recordings) >= 2
    for metric, values in table.columns.items():
        assert row["scores"][metric] == pytest.approx(values, abs=6e-5)
    raw = [raw_pesq(score) for score in table.columns["pesq_nb"]]
    assert row["scores"]["pesq"] == pytest.approx(raw, abs=6e-5)
    assert row["measures"]["pesq"]["mean"] == pytest.approx(np.mean(raw), rel=1e-6)
    found = bounds_per_frame(model, corpus.test, 3)
    assert (row["vlb"], row["iw"], row["kl"]) == (found.vlb, found.importance_weighted[3], found.kl)
    assert row["kl_per_dim"] == found.kl_per_dim
    assert (row["mode"], row["importance_samples"]) == ("TF", 3)


def test_what_is_not_defined_is_none():
    """JSON knows no NaN: the interval of one recording, the score of what cannot be scored."""
    table = ScoreTable(("a", "b"), {"si_sdr": (1.0, math.nan), "pesq": (math.nan, math.nan), "bound": (0.0, 0.0)})
    assert _summary(table) == {
        "si_sdr": {"mean": 1.0, "low": None, "high": None, "count": 1},
        "pesq": {"mean": None, "low": None, "high": None, "count": 0},
    }


def test_a_corpus_of_one_test_sequence_is_judged(walks):
    many = walks()
    one = SequenceDataset([many.test[0]], names=["only"])
    corpus = ExperimentData("one", "motion", many.train, many.validation, one, (), {})
    (row,) = evaluate_model(small(DSAE, v_dim=2, prior=(4,), head=(4,)), corpus, 1, scheduled=False)
    assert row["measures"]["mpjpe"]["count"] == 1
    assert row["measures"]["mpjpe"]["mean"] > 0
    assert row["measures"]["mpjpe"]["low"] is None
