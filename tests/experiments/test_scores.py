"""How models are judged: against the exact likelihood where there is one, and against the definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator

from dvae_lib import DSAE, VAE, VRNN
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import analysis_resynthesis
from dvae_lib.experiments import COLLAPSED, MODELS, Corpus, active_dimensions, bounds, judge, load
from dvae_lib.experiments.scores import _summary, modes
from dvae_lib.metrics import ScoreTable, raw_pesq
from dvae_lib.models import build_model

SCALES = torch.tensor([1.3, 0.4], dtype=torch.float64)


# --- bounds of a linear VAE, whose likelihood and posterior are known ---


class Linear:
    """x = W z + b + noise of variance one, with orthogonal columns of W: the posterior has independent entries."""

    def __init__(self):
        g = Generator().manual_seed(0)
        directions = torch.linalg.qr(torch.randn(3, 2, generator=g, dtype=torch.float64))[0]
        self.W, self.b = directions * SCALES, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        self.gain = self.W.T / (1 + SCALES**2)[:, None]
        self.variance = 1 / (1 + SCALES**2)
        lengths = (500, 300, 700, 500)
        self.sequences = [
            self.b + torch.randn(n, 2, generator=g, dtype=torch.float64) @ self.W.T
            + torch.randn(n, 3, generator=g, dtype=torch.float64) + shift
            for n, shift in zip(lengths, (0, 3, 0, -2), strict=True)
        ]  # fmt: skip
        self.data = SequenceDataset(self.sequences, dtype=torch.float64)
        self.frames = torch.cat(self.sequences)
        marginal = stats.multivariate_normal(self.b, self.W @ self.W.T + torch.eye(3))
        self.log_likelihood = float(marginal.logpdf(self.frames.numpy()).mean())

    def model(self, shift=0.0, widen=0.0):
        """The model with the exact posterior, or one that is moved and wider."""
        model = VAE(3, 2, observation="unit_gaussian", encoder=(), decoder=()).double()
        decoder, encoder = model.x_head.linear, model.z_head.linear
        with torch.no_grad():
            decoder.weight.copy_(self.W)
            decoder.bias.copy_(self.b)
            encoder.weight.zero_()
            encoder.weight[:2] = self.gain
            encoder.bias[:2] = -self.gain @ self.b + shift
            encoder.bias[2:] = self.variance.log() + widen
        return model


@pytest.fixture(scope="module")
def linear():
    return Linear()


def averaged(linear, model, importance_samples=1, count=12):
    found = [bounds(model, linear.data, importance_samples, seed=seed) for seed in range(count)]
    return {name: float(np.mean([row[name] for row in found])) for name in ("vlb", "iw", "kl")}


def test_at_the_exact_posterior_both_bounds_are_the_likelihood(linear):
    for importance_samples in (1, 7):
        found = bounds(linear.model(), linear.data, importance_samples)
        assert found["iw"] == pytest.approx(linear.log_likelihood, abs=1e-9)  # whatever the samples
    assert averaged(linear, linear.model())["vlb"] == pytest.approx(linear.log_likelihood, abs=0.02)


def test_the_kl_divergence_is_the_closed_form_per_frame_and_dimension(linear):
    mean = (linear.frames - linear.b) @ linear.gain.T
    by_frame = 0.5 * (linear.variance + mean.square() - 1 - linear.variance.log())
    for batch_size in (1, 3, 8, None):
        found = bounds(linear.model(), linear.data, 1, batch_size=batch_size)
        assert found["kl"] == pytest.approx(float(by_frame.sum(1).mean()), rel=1e-9)
        assert found["kl_per_dim"] == {"z": pytest.approx(by_frame.mean(0).tolist(), rel=1e-9)}
        assert found["iw"] == pytest.approx(linear.log_likelihood, abs=1e-9)


def test_at_another_posterior_the_bounds_are_below_by_what_theory_says(linear):
    model = linear.model(shift=0.5, widen=0.7)
    gap = 0.5 * (math.exp(0.7) + 0.25 / linear.variance - 1 - 0.7).sum().item()
    once, often, more = (averaged(linear, model, k, count) for k, count in ((1, 12), (5, 4), (60, 2)))
    for found in (once, often):
        assert found["vlb"] == pytest.approx(linear.log_likelihood - gap, abs=0.06)
    assert once["iw"] == pytest.approx(linear.log_likelihood - gap, abs=0.06)  # with one sample they are the same bound
    assert linear.log_likelihood - 0.7 * gap < often["iw"] < more["iw"] < linear.log_likelihood + 0.01
    assert more["iw"] > linear.log_likelihood - 0.1 * gap


def test_the_noise_of_the_bounds_is_that_of_their_seed(linear):
    torch.manual_seed(1)
    first = bounds(linear.model(widen=0.5), linear.data, 2)
    torch.manual_seed(2)
    assert bounds(linear.model(widen=0.5), linear.data, 2, seed=0) == first
    other = bounds(linear.model(widen=0.5), linear.data, 2, seed=1)
    assert other["vlb"] != first["vlb"]
    assert other["iw"] != first["iw"]
    assert not torch.is_grad_enabled() or all(p.grad is None for p in linear.model().parameters())


# --- bounds of other models, against the model's own, sequence by sequence ---


def small(cls, **options):
    torch.manual_seed(0)
    sizes = {"h_dim": 4, "g_dim": 4, "decoder": (6,), "encoder": (6,)}
    wanted = {"feature_x": (6,), "feature_z": (6,), "h_dim": 4, "g_dim": 4} if cls is VRNN else sizes
    return cls(6, 2, observation="centimetre_gaussian", **{**wanted, **options}).eval()


@pytest.mark.parametrize("feedback", [0.0, 1.0])
def test_bounds_are_sums_over_sequences_by_the_number_of_frames(walks, feedback):
    model, data = small(VRNN), walks(test_lengths=(8, 3, 5)).test
    found = bounds(model, data, 3, feedback=feedback, seed=4)
    generator, order = Generator().manual_seed(4), data.lengths.argsort().tolist()
    x, lengths, _ = data.batch(order)
    with torch.no_grad():
        bound = model.vlb(x, lengths=lengths, feedback=feedback, generator=generator)
        weighted = model.importance_weighted_bound(
            x, lengths=lengths, num_samples=3, feedback=feedback, generator=generator
        )
    assert found["vlb"] == pytest.approx(float(bound.value.sum() / data.num_frames), rel=1e-5)
    assert found["iw"] == pytest.approx(float(weighted.sum() / data.num_frames), rel=1e-5)
    assert found["kl"] == pytest.approx(float(bound.kl["z"].sum() / data.num_frames), rel=1e-5)
    assert sum(found["kl_per_dim"]["z"]) == pytest.approx(found["kl"], rel=1e-5)
    other = bounds(model, data, 3, feedback=1.0 - feedback, seed=4)
    assert other["vlb"] != pytest.approx(found["vlb"], rel=5e-5)
    assert other["iw"] != pytest.approx(found["iw"], rel=5e-5)


@pytest.mark.parametrize("batch_size", [2, None])
def test_the_kl_of_a_sequences_own_latent_vector_is_per_sequence(walks, batch_size):
    model, data = small(DSAE, v_dim=3, prior=(4,), head=(4,)), walks(test_lengths=(8, 3, 5)).test
    found = bounds(model, data, 1, batch_size=batch_size)
    alone = [model.vlb(data[i][None]).kl_per_dim["v"][0] for i in range(len(data))]
    assert set(found["kl_per_dim"]) == {"z", "v"}
    assert found["kl_per_dim"]["v"] == pytest.approx(torch.stack(alone).mean(0).tolist(), rel=1e-4)
    of_z, of_v = (sum(found["kl_per_dim"][name]) for name in ("z", "v"))
    assert found["kl"] * data.num_frames == pytest.approx(of_z * data.num_frames + of_v * len(data), rel=1e-5)


def test_what_a_training_adds_to_the_bound_is_no_part_of_it(walks):
    torch.manual_seed(0)
    model, data = build_model("vrnn-improved", x_dim=6, z_dim=2, feature_x=(6,), h_dim=4, b_dim=4), walks().test
    bound = model.vlb(data.batch(range(5)).x, generator=Generator().manual_seed(0))
    assert bound.auxiliary
    found = bounds(model, data, 1)
    assert found["vlb"] == pytest.approx(float((bound.reconstruction - bound.total_kl).sum().detach() / 40), rel=1e-5)


def test_dimensions_at_or_below_the_threshold_have_collapsed():
    assert COLLAPSED == 0.01
    assert active_dimensions([0.011, 0.01, 0.5, 0.0, 0.0099]) == 2
    assert active_dimensions([0.011, 0.01, 0.5, 0.0], threshold=0.2) == 1
    assert active_dimensions([]) == 0


# --- modes ---


def test_autoregressive_models_are_judged_in_generation_mode_too():
    for name in MODELS:
        model = build_model(name, "motion", x_dim=6)
        predictive = name in ("storn", "vrnn", "srnn")
        assert modes(model, scheduled=False) == ({"TF": 0.0, "TF-GM": 1.0} if predictive else {"TF": 0.0})
    assert modes(small(VRNN), scheduled=True) == {"GM": 1.0}


# --- the judge ---


@pytest.mark.parametrize(("scheduled", "wanted"), [(False, {"TF": 0.0, "TF-GM": 1.0}), (True, {"GM": 1.0})])
def test_motion_is_judged_by_the_distance_of_joints_in_millimetres(walks, scheduled, wanted):
    model, corpus = small(VRNN), walks(test_lengths=(8, 5))
    rows = judge(model, corpus, 2, scheduled=scheduled)
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
        for name, values in (("mpjpe", errors), ("rmse", roots)):
            low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
            assert row["measures"][name] == {
                "mean": pytest.approx(np.mean(values), rel=1e-5),
                "low": pytest.approx(low, rel=1e-4),
                "high": pytest.approx(high, rel=1e-4),
                "count": 5,
            }
        found = bounds(model, corpus.test, 2, feedback=feedback)
        assert {name: row[name] for name in found} == found
        assert row["importance_samples"] == 2
        assert row["active"] == active_dimensions(found["kl_per_dim"]["z"])
    assert rows == judge(model, corpus, 2, scheduled=scheduled)


def test_speech_is_judged_by_what_is_heard_of_whole_recordings(eight_voices):
    corpus = load(str(eight_voices), "ci")
    torch.manual_seed(0)
    model = VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).eval()
    model.metadata["front_end"] = corpus.metadata["front_end"]
    (row,) = judge(model, corpus, 3, scheduled=False, num_workers=0)
    table = analysis_resynthesis(
        model, [r.path for r in corpus.recordings], generator=Generator().manual_seed(0), num_workers=0
    )
    assert set(row["measures"]) == {"si_sdr", "pesq", "pesq_nb", "pesq_wb", "estoi"}
    for line in table.summary():
        if line.metric != "bound":
            assert row["measures"][line.metric]["mean"] == pytest.approx(line.mean, rel=1e-6)
            assert row["measures"][line.metric]["low"] == pytest.approx(line.low, rel=1e-6)
            assert row["measures"][line.metric]["count"] == len(corpus.recordings) >= 2
    raw = [raw_pesq(score) for score in table.columns["pesq_nb"]]
    assert row["measures"]["pesq"]["mean"] == pytest.approx(np.mean(raw), rel=1e-6)
    found = bounds(model, corpus.test, 3)
    assert {name: row[name] for name in found} == found
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
    corpus = Corpus("one", "motion", many.train, many.validation, one, (), {})
    (row,) = judge(small(DSAE, v_dim=2, prior=(4,), head=(4,)), corpus, 1, scheduled=False)
    assert row["measures"]["mpjpe"]["count"] == 1
    assert row["measures"]["mpjpe"]["mean"] > 0
    assert row["measures"]["mpjpe"]["low"] is None
