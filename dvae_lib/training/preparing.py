"""What a model takes from the training data before its first step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models.base import DVAE
from dvae_lib.models.reading import log_powers
from dvae_lib.networks import ObservationHead
from dvae_lib.networks.window import WindowWriter
from dvae_lib.training.config import TrainingConfig

__all__ = ["check_preparation", "prepare", "start_at_mean"]


def _mean_log_power(train: SequenceDataset) -> Tensor:
    return log_powers(train).mean


def _log_odds(train: SequenceDataset) -> Tensor:
    """Of counts with a half added to both outcomes, so that what never occurs is rare and not impossible."""
    ones = zeros = torch.tensor(0.5, dtype=torch.float64)
    for i in range(len(train)):
        x = train[i].to("cpu", torch.float64)
        ones, zeros = ones + x.nansum(0), zeros + (1 - x).nansum(0)
    return (ones / zeros).log()


STARTS: dict[str, Callable[[SequenceDataset], Tensor]] = {"gamma": _mean_log_power, "bernoulli": _log_odds}
"""Where an output can start, by the observation model."""


def check_preparation(model: nn.Module, config: TrainingConfig) -> None:
    """Refuse a preparation of a model that has nothing to prepare.

    Raises:
        TypeError: Inputs are chosen for what is no `DVAE`.
        ValueError: The observation model has no start at the data's mean.
    """
    if config.inputs is not None and not isinstance(model, DVAE):
        raise TypeError(f"inputs={config.inputs!r} is for a DVAE; got {type(model).__name__}: leave it out")
    if config.start_at_mean and getattr(model, "observation", None) not in STARTS:
        raise ValueError(
            "start_at_mean starts the output of an observation model of powers ('gamma') at the mean log-power of the "
            "data, and that of zeros and ones ('bernoulli') at the log-odds of its ones; "
            f"got {getattr(model, 'observation', None)!r}: use start_at_mean=False"
        )


def prepare(model: nn.Module, train: SequenceDataset, config: TrainingConfig) -> None:
    """What the configuration asks for: what the networks read, and where their output starts.

    A model that reads what is wanted already keeps the standardisation that it has learned.
    """
    if config.inputs is not None and isinstance(model, DVAE) and model.inputs != config.inputs:
        model.read_as(config.inputs, train)
    if config.start_at_mean:
        start_at_mean(model, train)


@torch.no_grad()
def start_at_mean(model: nn.Module, train: SequenceDataset) -> None:
    r"""Start the biases of the output layer at what the training frames are on average, entry by entry.

    With a Gamma likelihood that is the mean log-power: an untrained model says of every frame
    :math:`\log \sigma_d^2 \approx \frac{1}{N} \sum_n \log x_{nd}`. With a Bernoulli likelihood it is the log-odds of
    the ones. From there on it learns what is particular. A model that has to learn the averages first learns meanwhile
    to do without its latent vectors.

    Arguments:
        model: Whose every `ObservationHead`, or blank canvas, gives the log-variances of a Gamma likelihood, or the
            log-odds of a Bernoulli likelihood.
        train: The training sequences; missing values do not count.
    """
    start = STARTS[str(model.observation)](train)
    for head in model.modules():
        if isinstance(head, ObservationHead):
            head.linear.bias.copy_(start)
        elif isinstance(head, WindowWriter):
            head.blank.copy_(start)
