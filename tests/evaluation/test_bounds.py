"""Bounds of many sequences: against the exact likelihood where there is one, and against the definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator

from dvae_lib import DSAE, VAE, VRNN
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import COLLAPSED, active_dimensions, bounds_per_frame
from dvae_lib.models import build_model
from dvae_lib.models.rnn import GRNN

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
    found = [bounds_per_frame(model, linear.data, importance_samples, seed=seed) for seed in range(count)]
    return {
        "vlb": float(np.mean([bounds.vlb for bounds in found])),
        "iw": float(np.mean([bounds.importance_weighted[importance_samples] for bounds in found])),
    }


def test_at_the_exact_posterior_both_bounds_are_the_likelihood(linear):
    for importance_samples in (1, 7):
        found = bounds_per_frame(linear.model(), linear.data, importance_samples)
        assert found.importance_weighted[importance_samples] == pytest.approx(linear.log_likelihood, abs=1e-9)
    assert averaged(linear, linear.model())["vlb"] == pytest.approx(linear.log_likelihood, abs=0.02)


def test_the_kl_divergence_is_the_closed_form_per_frame_and_dimension(linear):
    mean = (linear.frames - linear.b) @ linear.gain.T
    by_frame = 0.5 * (linear.variance + mean.square() - 1 - linear.variance.log())
    for batch_size in (1, 3, 8, None):
        found = bounds_per_frame(linear.model(), linear.data, 1, batch_size=batch_size)
        assert found.kl == pytest.approx(float(by_frame.sum(1).mean()), rel=1e-9)
        assert found.kl_per_dim == {"z": pytest.approx(by_frame.mean(0).tolist(), rel=1e-9)}
        assert found.importance_weighted[1] == pytest.approx(linear.log_likelihood, abs=1e-9)


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
    first = bounds_per_frame(linear.model(widen=0.5), linear.data, 2)
    torch.manual_seed(2)
    assert bounds_per_frame(linear.model(widen=0.5), linear.data, 2, seed=0) == first
    other = bounds_per_frame(linear.model(widen=0.5), linear.data, 2, seed=1)
    assert other.vlb != first.vlb
    assert other.importance_weighted != first.importance_weighted
    assert not torch.is_grad_enabled() or all(p.grad is None for p in linear.model().parameters())


# --- bounds of other models, against the model's own, sequence by sequence ---


def small(cls, **options):
    torch.manual_seed(0)
    sizes = {"h_dim": 4, "g_dim": 4, "decoder": (6,), "encoder": (6,)}
    wanted = {"feature_x": (6,), "feature_z": (6,), "h_dim": 4, "g_dim": 4} if cls is VRNN else sizes
    return cls(6, 2, observation="centimetre_gaussian", **{**wanted, **options}).eval()


def walks(lengths=(8, 3, 5, 8, 3)):
    """Sequences that wander about."""
    g = Generator().manual_seed(200)
    return SequenceDataset([torch.randn(length, 6, generator=g).cumsum(0) * 0.02 for length in lengths])


@pytest.mark.parametrize("feedback", [0.0, 1.0])
def test_bounds_are_sums_over_sequences_by_the_number_of_frames(feedback):
    model, data = small(VRNN), walks()
    found = bounds_per_frame(model, data, 3, feedback=feedback, seed=4)
    generator, order = Generator().manual_seed(4), data.lengths.argsort().tolist()
    x, lengths, _ = data.batch(order)
    with torch.no_grad():
        bound = model.vlb(x, lengths=lengths, feedback=feedback, generator=generator)
        weighted = model.importance_weighted_bound(
            x, lengths=lengths, num_samples=3, feedback=feedback, generator=generator
        )
    assert found.vlb == pytest.approx(float(bound.value.sum() / data.num_frames), rel=1e-5)
    assert found.importance_weighted[3] == pytest.approx(float(weighted.sum() / data.num_frames), rel=1e-5)
    assert found.kl == pytest.approx(float(bound.kl["z"].sum() / data.num_frames), rel=1e-5)
    assert sum(found.kl_per_dim["z"]) == pytest.approx(found.kl, rel=1e-5)
    other = bounds_per_frame(model, data, 3, feedback=1.0 - feedback, seed=4)
    assert other.vlb != pytest.approx(found.vlb, rel=5e-5)
    assert other.importance_weighted[3] != pytest.approx(found.importance_weighted[3], rel=5e-5)


@pytest.mark.parametrize("batch_size", [2, None])
def test_the_kl_of_a_sequences_own_latent_vector_is_per_sequence(batch_size):
    model, data = small(DSAE, v_dim=3, prior=(4,), head=(4,)), walks()
    found = bounds_per_frame(model, data, 1, batch_size=batch_size)
    alone = [model.vlb(data[i][None]).kl_per_dim["v"][0] for i in range(len(data))]
    assert set(found.kl_per_dim) == {"z", "v"}
    assert found.kl_per_dim["v"] == pytest.approx(torch.stack(alone).mean(0).tolist(), rel=1e-4)
    of_z, of_v = (sum(found.kl_per_dim[name]) for name in ("z", "v"))
    assert found.kl * data.num_frames == pytest.approx(of_z * data.num_frames + of_v * len(data), rel=1e-5)


def test_what_a_training_adds_to_the_bound_is_no_part_of_it():
    torch.manual_seed(0)
    model, data = build_model("vrnn-improved", x_dim=6, z_dim=2, feature_x=(6,), h_dim=4, b_dim=4), walks((8,) * 5)
    bound = model.vlb(data.batch(range(5)).x, generator=Generator().manual_seed(0))
    assert bound.auxiliary
    found = bounds_per_frame(model, data, 1)
    assert found.vlb == pytest.approx(float((bound.reconstruction - bound.total_kl).sum().detach() / 40), rel=1e-5)


def test_dimensions_at_or_below_the_threshold_have_collapsed():
    assert COLLAPSED == 0.01
    assert active_dimensions([0.011, 0.01, 0.5, 0.0, 0.0099]) == 2
    assert active_dimensions([0.011, 0.01, 0.5, 0.0], threshold=0.2) == 1
    assert active_dimensions([]) == 0


def test_several_numbers_of_samples_give_several_bounds():
    """In the order given, from the noise of one seed: the first is what it is alone."""
    model, data = small(VRNN), walks()
    found = bounds_per_frame(model, data, (2, 30), batch_size=5)
    assert list(found.importance_weighted) == [2, 30]
    alone = bounds_per_frame(model, data, 2, batch_size=5)
    assert (found.vlb, found.importance_weighted[2]) == (alone.vlb, alone.importance_weighted[2])
    assert bounds_per_frame(model, data).importance_weighted == {}


def test_a_model_without_latents_has_its_log_likelihood_for_a_bound():
    torch.manual_seed(0)
    model, data = GRNN(6, 4), walks()
    found = bounds_per_frame(model, data)
    with torch.no_grad():
        alone = sum(float(model.log_likelihood(data[i][None])) for i in range(len(data)))
    assert found.vlb == pytest.approx(alone / data.num_frames, rel=1e-5)
    assert (found.kl, sum(found.kl_per_dim.get("z", []))) == (0.0, 0.0)
