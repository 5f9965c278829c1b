"""What goes with given data: a model of their size, and the review's training for their kind."""

import inspect
from collections.abc import Mapping
from typing import Any

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.distributions import by_column
from dvae_lib.models import DVAE, MODELS, build_model
from dvae_lib.training.config import TrainingConfig

__all__ = ["config_for", "model_for"]

PRESETS = ("speech", "motion")
LATENT_SIZE = 16
"""Of a model of data that the review does not have, unless the vectors are smaller."""


def model_for(
    name: str,
    data: SequenceDataset,
    *,
    kind: str | None = None,
    observation: str | Mapping[str, str] = "gaussian",
    **options: Any,
) -> DVAE:
    """A model for these sequences: sizes from the data, the review's architecture where it has these data's kind.

    Arguments:
        name: One of `dvae_lib.models.MODELS`.
        data: The training sequences.
        kind: "speech" and "motion" take the review's architectures (Appendices B and C); all else takes the model's
            own, with as many latent dimensions as the data have, 16 at most.
        observation: The likelihood where the kind does not decide it; or that of each column, by its name.
        options: Of the model; they win.

    Raises:
        ValueError: An unknown model, an option that it does not have, or columns of other names.

    Example:
        >>> import torch
        >>> model = model_for("srnn", SequenceDataset(torch.zeros(5, 20, 3)), h_dim=8)
        >>> model.x_dim, model.z_dim
        (3, 3)
        >>> from dvae_lib.data import from_arrays
        >>> days, _ = from_arrays([torch.zeros(20, 2)], columns=["visits", "heat"], standardize=["heat"],
        ...     split="time", fractions=(0.8, 0.2))
        >>> model_for("srnn", days, observation={"visits": "poisson", "heat": "student_t"}).observation
        'poisson, student_t'
    """
    if not isinstance(observation, str):
        observation = by_column(observation, data.labels.columns)
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")
    known = inspect.signature(MODELS[name].cls).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    sizes: dict[str, Any] = {"x_dim": data.x_dim} | ({"u_dim": data.u_dim} if data.u_dim else {})
    preset: Any = kind if kind in PRESETS else None
    if preset is None:
        sizes |= {"z_dim": min(LATENT_SIZE, data.x_dim), "observation": observation}
    return build_model(name, preset, **{**sizes, **options})


def config_for(kind: str | None, **settings: Any) -> TrainingConfig:
    """The review's training for "speech" or "motion" (Section 13.2.3), the library's own for other kinds of data.

    Example:
        >>> config_for("motion", max_epochs=10).learning_rate.final
        0.0001
    """
    makers = {"speech": TrainingConfig.speech, "motion": TrainingConfig.motion}
    return makers.get(kind or "", TrainingConfig)(**settings)
