"""What a model takes from the training data before its first step."""

import torch
from torch import nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models.base import DVAE
from dvae_lib.models.reading import log_powers
from dvae_lib.networks import ObservationHead
from dvae_lib.training.config import TrainingConfig

__all__ = ["check_preparation", "prepare", "start_at_mean"]


def check_preparation(model: nn.Module, config: TrainingConfig) -> None:
    """Refuse a preparation of a model that has nothing to prepare.

    Raises:
        TypeError: Inputs are chosen for what is no `DVAE`.
        ValueError: The observation model has no start at the data's mean.
    """
    if config.inputs is not None and not isinstance(model, DVAE):
        raise TypeError(f"inputs={config.inputs!r} is for a DVAE; got {type(model).__name__}: leave it out")
    if config.start_at_mean and getattr(model, "observation", None) != "gamma":
        raise ValueError(
            "start_at_mean starts the output of an observation model of powers ('gamma') at the mean log-power of the "
            f"data; got {getattr(model, 'observation', None)!r}: use start_at_mean=False"
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
    r"""Start the biases of the output layer at the mean log-power of each entry over the training frames.

    An untrained model then says of every frame :math:`\log \sigma_d^2 \approx \frac{1}{N} \sum_n \log x_{nd}`; from
    there on it learns what is particular.

    Arguments:
        model: Whose every `ObservationHead` gives the log-variances of a Gamma likelihood.
        train: The training sequences.
    """
    mean = log_powers(train).mean
    for head in model.modules():
        if isinstance(head, ObservationHead):
            head.linear.bias.copy_(mean)
