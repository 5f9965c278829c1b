"""What users of neighbouring libraries ask for again and again, each in the few lines that do it here.

The wishes are those of the public trackers of dynamax, pykalman, simdkalman, statsmodels, KFAS, latent ODE, darts and
others. What each computes is tested where it stands, so are BVH files and m4a; here it has to be possible in so many
lines.
"""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from dvae_lib import SRNN, VAE, build_model
from dvae_lib.data import SequenceDataset, from_arrays
from dvae_lib.data.music import midi_to_roll, write_midi
from dvae_lib.enhancement import enhance
from dvae_lib.export import export_step
from dvae_lib.series import TrainedModel
from dvae_lib.statespace import (
    LinearGaussianSSM,
    diffuse_log_likelihood,
    fit_components,
    fit_em,
    fit_supervised,
    forecast,
    kalman_filter,
    level,
    local_level,
    ssm_at_times,
    standard_errors,
    trend,
)
from dvae_lib.training import TrainingConfig, fit

pytestmark = pytest.mark.usefixtures("as_a_user")
NILE = np.cumsum(np.random.default_rng(0).standard_normal((60, 1)), axis=0) + 100
QUICK = partial(TrainingConfig, batch_size=4, max_epochs=1, patience=None)


def train(model, data, **options):
    fit(model, data, None, QUICK(**options), progress=False)
    return model.eval()


def series(count=6, length=20, columns=2):
    return list(np.random.default_rng(1).standard_normal((count, length, columns)).astype(np.float32))


def test_missing_values_in_training_data():
    gaps = series()
    gaps[0][3, 1] = np.nan
    model = train(SRNN(2, 2), SequenceDataset(gaps, missing=True))
    assert model.vlb(torch.tensor(gaps[1])[None]).value.isfinite().all()


def test_irregular_times():
    times = torch.tensor([0.0, 0.3, 1.1, 4.0, 4.2])
    walk = ssm_at_times(
        torch.zeros(1, 1), torch.eye(1), times, torch.eye(1), torch.eye(1), mu_1=torch.zeros(1), Lambda_1=torch.eye(1)
    )
    torch.testing.assert_close(walk.Lambda.flatten()[-4:], times.diff())


def test_one_measurement_at_a_time_by_particles():
    watch = SRNN(2, 2).filter(num_particles=10)
    assert all(watch.update(torch.tensor(frame)[None]).score.isfinite() for frame in series()[0])


def test_one_measurement_at_a_time_by_a_kalman_filter():
    model = walk = local_level(1.0, 0.5, mean=100.0, variance=9.0)
    total = 0.0
    for frame in torch.tensor(NILE):
        now = kalman_filter(walk, frame[None])
        ahead = forecast(walk, frame[None], 1)
        walk = walk.replace(mu_1=ahead.state_mean[0], Lambda_1=ahead.state_covariance[0])
        total += now.log_likelihood
    whole = kalman_filter(model, torch.tensor(NILE))
    torch.testing.assert_close(now.mean[-1], whole.mean[-1])
    torch.testing.assert_close(total, whole.log_likelihood)


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("poisson", [0.0, 3.0]),
        ("negative_binomial", [0.0, 7.0]),
        ("student_t", [-2.0, 0.1]),
        ("laplace", [-2.0, 0.1]),
    ],
)
def test_counts_and_heavy_tails(family, values):
    x = torch.tensor(values).expand(3, 5, 2)
    assert VAE(2, 2, observation=family).vlb(x).value.isfinite().all()


def test_em_takes_a_list_of_series_of_different_lengths():
    start = local_level(1.0, 1.0, mean=100.0, variance=9.0)
    assert fit_em(start, [NILE[:20], NILE[20:]], num_iterations=3).log_likelihoods.diff().min() >= 0


def test_em_keeps_single_elements_and_floors_of_variances():
    start = local_level(1.0, 1.0, mean=100.0, variance=9.0)
    found = fit_em(start, NILE, update=("Lambda", "Sigma"), min_variance=0.7, num_iterations=3).ssm
    assert min(found.Lambda.item(), found.Sigma.item()) >= 0.7
    assert found.mu_1 == start.mu_1
    kept = fit_em(start, NILE, update=("A", "Lambda"), kept={"A": [[True]]}, num_iterations=3).ssm
    assert kept.A == start.A


def test_standard_errors():
    found = fit_components(level(), NILE)
    assert set(found.standard_errors) == set(found.variances)
    walk = fit_em(local_level(1.0, 1.0, mean=100.0, variance=9.0), NILE, update="Lambda").ssm
    assert standard_errors(walk, NILE, update="Lambda")["Lambda"] > 0


def test_exact_diffuse_initialisation():
    assert diffuse_log_likelihood(trend(1.0, 0.1).ssm(noise=1.0), NILE).isfinite()


def test_a_fully_observed_linear_system():
    rng = np.random.default_rng(2)
    z = np.zeros((4000, 2))
    for t in range(1, len(z)):
        z[t] = [[0.9, 0.1], [0.0, 0.7]] @ z[t - 1] + rng.standard_normal(2)
    eye = torch.eye(2, dtype=torch.float64)
    blank = LinearGaussianSSM(0 * eye, 0 * eye[:1], eye, eye[:1, :1], mu_1=0 * eye[0], Lambda_1=eye)
    found = fit_supervised(blank, z @ [[3.0], [2.0]] + rng.standard_normal((4000, 1)), z)
    torch.testing.assert_close(found.A, torch.tensor([[0.9, 0.1], [0.0, 0.7]]).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(found.C, torch.tensor([[3.0, 2.0]]).double(), atol=0.05, rtol=0)


def test_data_frames_in_and_out():
    days = pd.date_range("2024-01-01", periods=60, freq="D")
    table = pd.DataFrame(series(1, 60)[0], columns=["a", "b"], index=days)
    model = train(SRNN(2, 2), from_arrays([table], fractions=(0.5, 0.25, 0.25), split="time").train)
    ahead = TrainedModel(model).forecast(table, 3, num_samples=5)
    assert list(ahead.mean.columns) == ["a", "b"]
    assert ahead.mean.index[0] == pd.Timestamp("2024-03-01")


def test_midi_in_and_out(tmp_path):
    roll = np.zeros((8, 88), dtype=np.uint8)
    roll[2:5, 40] = 1
    write_midi(tmp_path / "a.mid", roll)
    np.testing.assert_array_equal(midi_to_roll(tmp_path / "a.mid")[:5], roll[:5])


def test_stereo_is_enhanced_as_stereo():
    noisy = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert enhance(build_model("vae", preset="speech"), noisy, num_iterations=1).waveform.shape == noisy.shape


def test_a_step_runs_elsewhere(tmp_path):
    export_step(SRNN(2, 2), tmp_path / "step.pt2")
    assert torch.export.load(tmp_path / "step.pt2").module()
