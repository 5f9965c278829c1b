r"""What the networks of a model read of the data: the data as they are, or a fixed transformation of them.

The likelihood always sees the data themselves. Of powers, which reach over ten decades, a first layer with Tanh units
hears the loudest few entries; of their standardised logarithms it hears all.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.standardize import Standardizer
from dvae_lib.distributions import support_of
from dvae_lib.models import generating
from dvae_lib.models.equations import HOOKS, Equations

__all__ = ["INPUTS", "POWER", "LogPower", "Reading", "log_powers"]

POWER = "power"
"""The name of what is read by default: the data as they are."""

FLOOR = 1e-10
"""Added before the logarithm; the least power that the front end of speech gives."""


class LogPower(nn.Module):
    r"""The logarithm of powers, standardised by entry with the training data's mean and deviation of the logarithms.

    .. math:: r_d = \frac{\log(x_d + 10^{-10}) - \mu_d}{\sigma_d}

    A frame of nothing but zeros is no frame: so models write what stands before the first one, and beyond a sequence's
    end. It is read as zeros.

    Arguments:
        x_dim: Size of the vectors.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(x_dim))
        self.register_buffer("scale", torch.ones(x_dim))

    def learn(self, train: SequenceDataset) -> None:
        """Take mean and deviation from the training sequences."""
        found = log_powers(train)
        self.mean.copy_(found.mean)
        self.scale.copy_(found.scale)

    def forward(self, x: Float[Tensor, "*batch x_dim"]) -> Float[Tensor, "*batch x_dim"]:
        """The standardised logarithms."""
        read = ((x + FLOOR).log() - self.mean) / self.scale
        return torch.where(x.amax(-1, keepdim=True) == 0, 0.0, read)  # there are no negative powers


def log_powers(train: SequenceDataset) -> Standardizer:
    """Mean and deviation of each entry's log-power over the training frames; missing values do not count."""
    logs = ((train[i].to("cpu", torch.float64) + FLOOR).log() for i in range(len(train)))
    return Standardizer.fit(logs, missing=train.missing)


INPUTS: dict[str, type[LogPower] | None] = {POWER: None, "log_power": LogPower}
"""What networks can read, by name."""


class Reading(Equations):
    """What the networks read of the data; see `DVAE`."""

    @property
    def inputs(self) -> str:
        """What the networks read: "power", the data as they are, or "log_power", their standardised logarithms."""
        reading = self._modules.get("reading")
        return next(name for name, kind in INPUTS.items() if (type(reading) if reading is not None else None) is kind)

    def read(
        self, x: Float[Tensor, "*batch x_dim"], observed: Bool[Tensor, "*batch x_dim"] | None = None
    ) -> Float[Tensor, "*batch x_dim"]:
        """What the networks read of these frames; what they generate is fed back to them through it, too.

        Arguments:
            x: The frames, zero where nothing was observed.
            observed: Which entries were observed; the others are read as zeros. None: all.
        """
        reading = self._modules.get("reading")
        if reading is None:
            return x
        read: Tensor = reading(x)
        return read if observed is None else torch.where(observed, read, 0.0)

    def read_as(self, inputs: str, train: SequenceDataset | None = None) -> None:
        """Choose what the networks read, before they are trained; it is saved with the weights.

        Arguments:
            inputs: "power" or "log_power".
            train: The training sequences, from which the standardisation of each entry is learned; None: there is none
                until `fit` is told the same choice.

        Raises:
            ValueError: Another name, or logarithms of data that may be negative.
            NotImplementedError: Of a class that writes a public method itself, which sees the data as they are.

        Example:
            >>> from dvae_lib import SRNN
            >>> model = SRNN(x_dim=513, z_dim=16, observation="gamma")
            >>> model.read_as("log_power")
            >>> model.inputs
            'log_power'
        """
        if inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}; got {inputs!r}")
        self._modules.pop("reading", None)
        kind = INPUTS[inputs]
        if kind is None:
            return
        support = support_of(self.observation)
        if support.low < 0:
            raise ValueError(
                f"inputs={inputs!r} takes logarithms, but the observation model {self.observation!r} gives a "
                f"probability to {support}: use inputs={POWER!r}, or an observation model of powers, such as 'gamma'"
            )
        itself = [door for door, hook in HOOKS.items() if getattr(type(self), hook) is stand_in(door)]
        if itself:
            raise NotImplementedError(
                f"{type(self).__name__} writes {', '.join(itself)} itself, where the data arrive as they are: write "
                f"{', '.join(HOOKS[door] for door in itself)} for inputs={inputs!r}"
            )
        parameter = next(self.parameters())
        reading = kind(self.x_dim)
        if train is not None:
            reading.learn(train)
        self.add_module("reading", reading.to(parameter.device, parameter.dtype))

    def _noted(self) -> dict[str, Any]:
        return {} if self.inputs == POWER else {"inputs": self.inputs}

    def _restore(self, configuration: dict[str, Any]) -> None:
        self.read_as(configuration.get("inputs", POWER))


def stand_in(door: str) -> Any:
    """The hook of a class that writes this public method itself."""
    return getattr(generating, f"{door}_of_its_own")
