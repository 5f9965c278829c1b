"""The mutual information gap on codes whose information is known in closed form."""

import itertools
import math

import pytest
import torch

from dvae_lib.metrics import mutual_information_gap

BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).repeat(25, 1)


def test_codes_that_are_the_factors():
    found = mutual_information_gap(BITS.flip(1), BITS)
    assert found.value == pytest.approx(1.0)
    torch.testing.assert_close(found.information, math.log(2) * torch.eye(2).double().flip(1))
    torch.testing.assert_close(found.entropy, torch.full((2,), math.log(2)).double())


def test_a_rotation_by_half_a_right_angle_leaves_no_gap():
    turned = torch.stack([BITS.sum(1), BITS[:, 0] - BITS[:, 1]], 1)
    found = mutual_information_gap(turned, BITS)
    # The sum is 1 half of the time, and then says nothing; else it says all.
    torch.testing.assert_close(found.information, torch.full((2, 2), 0.5 * math.log(2)).double())
    assert found.value == pytest.approx(0.0, abs=1e-12)


def test_codes_that_know_nothing():
    codes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).repeat(10, 1)
    assert mutual_information_gap(codes[:, :2], codes[:, 2:]).value == pytest.approx(0.0, abs=1e-12)


def test_one_entry_for_all_factors_is_not_punished():
    codes = torch.stack([2 * BITS[:, 0] + BITS[:, 1], torch.zeros(100)], 1)
    assert mutual_information_gap(codes, BITS).value == pytest.approx(1.0)


def test_gaussian_information():
    """-log(1 - r^2) / 2 of correlated Gaussians; a little is lost between bins."""
    generator = torch.Generator().manual_seed(0)
    v, noise, other = torch.randn(3, 200_000, generator=generator)
    r = 0.8
    codes = torch.stack([r * v + math.sqrt(1 - r**2) * noise, other], 1)
    found = mutual_information_gap(codes, v[:, None], bins=40)
    exact = -0.5 * math.log(1 - r**2)
    assert 0.97 * exact < found.information[0, 0] < 1.01 * exact
    assert found.information[1, 0] == pytest.approx(39**2 / 2 / 200_000, rel=0.2)  # what chance alone gives
    assert found.entropy[0] == pytest.approx(math.log(40), abs=1e-6)


def test_monotone_functions_of_an_entry_change_nothing_and_dimensions_in_front_are_samples():
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 50, 20, 2, generator=generator)
    one = mutual_information_gap(z, v)
    torch.testing.assert_close(one.information, mutual_information_gap(z.exp(), v).information)
    assert one.value == mutual_information_gap(z.flatten(0, 1).numpy(), v.flatten(0, 1).numpy()).value


@pytest.mark.parametrize(
    ("codes", "factors", "options", "message"),
    [
        (BITS[:, :1], BITS, {}, "at least two entries and one factor"),
        (BITS[:50], BITS, {}, "equally many samples"),
        (BITS[:10], BITS[:10], {}, "at least as many as the 20 bins"),
        (BITS * math.nan, BITS, {}, "codes hold NaN"),
        (BITS, 0 * BITS, {}, "factor 0 never changes"),
        (BITS, BITS, {"bins": 1}, "bins must be a whole number of at least 2"),
        (BITS[:, 0], BITS, {}, r"codes must be of shape \(samples, entries\)"),
    ],
)
def test_wrong_input_is_refused(codes, factors, options, message):
    with pytest.raises(ValueError, match=message):
        mutual_information_gap(codes, factors, **options)
