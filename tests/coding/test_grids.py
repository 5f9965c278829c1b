"""Numbers of a grid and their probabilities, against SciPy's and against what the coder writes."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dvae_lib.coding.grids import Grid, bits_of, constriction
from dvae_lib.distributions import DiagonalGaussian


def prior(deviation: float, mean: float = 0.7) -> DiagonalGaussian:
    shape = torch.full((1, 4), mean, dtype=torch.float64)
    return DiagonalGaussian(shape, torch.full_like(shape, 2 * np.log(deviation)))


def test_probabilities_are_those_of_cells():
    symbols = np.array([-3, 0, 2, 40], np.int32)
    mean, deviation = np.array([0.3, -0.4, 5.0, 0.0]), np.array([1.0, 0.2, 3.0, 5.0])
    cells = norm.cdf(symbols + 0.5, mean, deviation) - norm.cdf(symbols - 0.5, mean, deviation)
    cells[3] = norm.sf(39.5, 0, 5) - norm.sf(40.5, 0, 5)
    assert bits_of(symbols, mean, deviation) == pytest.approx(-np.log2(np.maximum(cells, 2.0**-24)).sum(), rel=1e-9)


def test_what_is_estimated_is_what_is_written():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(0, 3, 5000), np.exp2(rng.uniform(-2, 4, 5000))
    symbols = np.clip(np.round(rng.normal(mean, deviation)), -255, 255).astype(np.int32)
    coder = constriction().stream.queue.RangeEncoder()
    coder.encode(symbols, constriction().stream.model.QuantizedGaussian(-256, 256), mean, deviation)
    assert coder.num_bits() == pytest.approx(bits_of(symbols, mean, deviation), rel=2e-3)


@pytest.mark.parametrize("deviation", [1e-3, 1.0, 50.0])
def test_rounding_errs_by_half_a_step_at_most(deviation):
    grid, around = Grid(torch.tensor([0.01, 0.1, 1.0, 3.0])), prior(deviation)
    value = around.mean + deviation * torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    symbols = grid.nearest(value, around)
    assert (np.abs(symbols) <= grid.reach(around)).all()
    inside = np.abs(symbols) < grid.reach(around)
    error = (grid.value(symbols, around) - value)[0].abs() / grid.steps
    assert (error.numpy()[inside] <= 0.5 + 1e-9).all()
    assert inside.all() or deviation == 50.0  # no grid has more than 2^12 steps on a side


def test_a_file_holds_the_steps():
    steps = torch.tensor([1e-4, 0.3, 1.0, 900.0], dtype=torch.float64)
    grid = Grid(steps)
    assert torch.equal(Grid.decoded(grid.code).steps, grid.steps)
    assert ((grid.steps / steps).log2().abs() <= 1 / 16 + 1e-12).all()


def test_a_last_bit_changes_no_probability():
    """What machines may compute differently is rounded before it is a probability."""
    grid, around = Grid(torch.tensor([0.01, 0.1, 1.0, 3.0])), prior(0.731)
    other = DiagonalGaussian(around.mean, around.logvar * (1 + 2e-16))
    for (_, _, ours), (_, _, theirs) in zip(grid.codes(around, around), grid.codes(other, other), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
