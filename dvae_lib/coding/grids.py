r"""Vectors as whole numbers, and the probabilities with which an entropy coder writes them.

A latent vector stands on a grid around the mean of its prior, which both ends know:

.. math:: \hat z_l = \mu_l + \Delta_l k_l, \qquad P(k_l) = \int_{\Delta_l (k_l - 1/2)}^{\Delta_l (k_l + 1/2)}
    \mathcal{N}(r; 0, \sigma_l^2) \, dr
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import Bernoulli, DiagonalGaussian, Poisson
from dvae_lib.extras import needed

__all__ = ["Code", "Grid", "bits_of", "constriction", "gaussian_codes", "observation_codes"]

Symbols = NDArray[np.int32]
Code = tuple[Any, Any, tuple[NDArray[np.float64], ...]]
"""Which entries of a vector; their entropy model, of `constriction`; its parameters, an array each."""

LEAST, MOST, REACH = 8, 2**12, 10.0
"""Half the width of a grid in steps: at least, at most, and in standard deviations of what is coded."""

FINE = 64
"""Steps to the octave in which scales are rounded, so that a last bit that machines differ in does not matter."""

OCTAVE = 8
"""The same of the grid's own step, which has one byte in a file."""


def constriction() -> Any:
    """The package that does the entropy coding."""
    return needed("constriction", "Entropy coding", "codec")


class Grid:
    """The grid of one latent variable: a step for each entry.

    Arguments:
        steps: The steps wanted; they are rounded to an eighth of an octave, which is how a file holds them.
    """

    def __init__(self, steps: Tensor) -> None:
        exponents = (OCTAVE * steps.double().cpu().log2()).round().clamp(-128, 127)
        self.code = (exponents + 128).to(torch.uint8).numpy().tobytes()
        self.steps = (exponents / OCTAVE).exp2()

    @classmethod
    def decoded(cls, code: bytes) -> "Grid":
        """The grid from what a file holds of it."""
        exponents = torch.tensor(list(code), dtype=torch.float64) - 128
        return cls((exponents / OCTAVE).exp2())

    def reach(self, prior: DiagonalGaussian) -> NDArray[np.int64]:
        """The largest number of each entry, a power of two: what the prior thinks possible, and some more."""
        wide = REACH * self._in_steps(prior.stddev)
        return (2 ** np.ceil(np.log2(np.clip(wide, LEAST, MOST)))).astype(np.int64)

    def codes(self, of: DiagonalGaussian, prior: DiagonalGaussian) -> Iterator[Code]:
        """The entropy models of a Gaussian, the prior itself or a posterior, on the grid around the prior."""
        mean = ((of.mean - prior.mean)[0].detach().numpy() / self.steps.numpy()).astype(np.float64)
        return gaussian_codes(mean, self._in_steps(of.stddev), self.reach(prior))

    def nearest(self, value: Tensor, prior: DiagonalGaussian) -> Symbols:
        """The numbers of the point of the grid that is nearest to a value."""
        numbers = ((value - prior.mean)[0] / self.steps).round().numpy()
        reach = self.reach(prior)
        symbols: Symbols = np.clip(numbers, -reach, reach).astype(np.int32)
        return symbols

    def value(self, symbols: Symbols, prior: DiagonalGaussian) -> Tensor:
        """The point of the grid with these numbers."""
        return prior.mean + self.steps * torch.from_numpy(symbols.astype(np.float64))

    def _in_steps(self, deviation: Tensor) -> NDArray[np.float64]:
        """Standard deviations in steps, rounded to a fraction of an octave."""
        octaves = (deviation[0].detach() / self.steps).log2()
        return (octaves.mul(FINE).round() / FINE).exp2().numpy().astype(np.float64)


def gaussian_codes(
    mean: NDArray[np.float64], deviation: NDArray[np.float64], reach: NDArray[np.int64]
) -> Iterator[Code]:
    """Entropy models of Gaussians in units of the grid's step, one for all entries with the same reach."""
    model = constriction().stream.model
    for most in np.unique(reach):
        where = np.flatnonzero(reach == most)
        yield where, model.QuantizedGaussian(-int(most), int(most)), (mean[where], deviation[where])


def bits_of(symbols: Symbols, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> float:
    """What an ideal code would take for these numbers, in bits: the negative logarithm of the cells' probabilities."""
    k, m, s = (torch.as_tensor(np.asarray(v, np.float64)) for v in (symbols, mean, deviation))
    near = ((k - m).abs() - 0.5) / s  # the edge on the mean's side: both in one tail, where differences are exact
    far = ((k - m).abs() + 0.5) / s
    cell = torch.special.erfc(near / math.sqrt(2)) - torch.special.erfc(far / math.sqrt(2))
    return float(-(cell / 2).clamp_min(2.0**-24).log2().sum())


def observation_codes(observation: Distribution, most: int) -> Iterator[Code]:
    """The entropy models of an observed vector of zeros and ones, or of counts.

    Arguments:
        observation: p(x_t | .) of one frame, with a batch of one.
        most: The largest count.

    Raises:
        NotImplementedError: Another family.
    """
    every = slice(None)
    if isinstance(observation, Bernoulli):
        yield every, constriction().stream.model.Bernoulli(perfect=False), (_numbers(observation.mean),)
    elif isinstance(observation, Poisson):
        yield every, _poisson(most), (_numbers(observation.mean),)
    else:
        raise NotImplementedError(
            "lossless coding takes zeros and ones, or counts: observation='bernoulli' or 'poisson'; got "
            f"{type(observation).__name__}. Of what is continuous, code the latents: dvae_lib.coding.encode"
        )


def _poisson(most: int) -> Any:
    """Counts up to a largest one, as tables of probabilities."""
    from scipy.stats import poisson

    model: Callable[..., Any] = constriction().stream.model.ScipyModel
    return model(poisson, 0, most)


def _numbers(parameter: Tensor) -> NDArray[np.float64]:
    return parameter[0].detach().double().numpy()
