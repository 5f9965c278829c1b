"""The models, one file each, and the registry that builds them by name."""

from typing import Any, NamedTuple

from dvae_lib.models.base import DVAE, Sample, State, StepOutput
from dvae_lib.models.vae import VAE

__all__ = [
    "DVAE",
    "MODELS",
    "PRESETS",
    "VAE",
    "ModelEntry",
    "Sample",
    "State",
    "StepOutput",
    "build_model",
]


class ModelEntry(NamedTuple):
    """A model's class, and the options that make it this model."""

    cls: type[DVAE]
    options: dict[str, Any]


MODELS: dict[str, ModelEntry] = {
    "vae": ModelEntry(VAE, {}),
}
"""The models by name."""

PRESETS: dict[str, dict[str, Any]] = {
    "speech": {"x_dim": 513, "z_dim": 16, "observation": "gamma"},
    "motion": {"x_dim": 93, "z_dim": 10, "observation": "unit_gaussian"},
}
"""Sizes and observation models of the experiments on speech (Appendix B) and human motion (Appendix C)."""


def build_model(name: str, preset: str | None = None, **overrides: Any) -> DVAE:
    """A new model by name.

    Arguments:
        name: A name in `MODELS`.
        preset: "speech" or "motion", the architectures of Appendices B and C; None: the class's defaults.
        overrides: Options that take precedence over the preset's.

    Raises:
        ValueError: Unknown name or preset.

    Example:
        >>> build_model("vae", preset="speech").x_dim
        513
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
    entry = MODELS[name]
    return entry.cls(**{**PRESETS.get(preset or "", {}), **entry.options, **overrides})
