"""The models, one file each, and the registry that builds them by name."""

from typing import Any, NamedTuple

from dvae_lib.models.base import DVAE, Sample, State, StepOutput
from dvae_lib.models.dkf import DKF
from dvae_lib.models.dsae import DSAE
from dvae_lib.models.improved_vrnn import ImprovedVRNN
from dvae_lib.models.kvae import KVAE
from dvae_lib.models.rnn import GRNN, RNN
from dvae_lib.models.rvae import RVAE
from dvae_lib.models.srnn import SRNN
from dvae_lib.models.storn import STORN
from dvae_lib.models.vae import VAE
from dvae_lib.models.vrnn import VRNN

__all__ = [
    "DKF",
    "DSAE",
    "DVAE",
    "GRNN",
    "KVAE",
    "MODELS",
    "PRESETS",
    "RNN",
    "RVAE",
    "SRNN",
    "STORN",
    "VAE",
    "VRNN",
    "ImprovedVRNN",
    "ModelEntry",
    "Preset",
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
    "dkf": ModelEntry(DKF, {}),
    "kvae": ModelEntry(KVAE, {}),
    "storn": ModelEntry(STORN, {}),
    "vrnn": ModelEntry(VRNN, {}),
    "vrnn-improved": ModelEntry(ImprovedVRNN, {}),
    "srnn": ModelEntry(SRNN, {}),
    "rvae-causal": ModelEntry(RVAE, {"generation_model": "causal"}),
    "rvae-noncausal": ModelEntry(RVAE, {"generation_model": "noncausal"}),
    "dsae": ModelEntry(DSAE, {}),
}
"""The models by name."""


class Preset(NamedTuple):
    """What all models of an experiment share, and each model's own layers."""

    shared: dict[str, Any]
    layers: dict[str, dict[str, Any]]


PRESETS: dict[str, Preset] = {
    "speech": Preset(
        {"x_dim": 513, "z_dim": 16, "observation": "gamma"},
        {
            "vae": {"encoder": (128,), "decoder": (128,)},
            "dkf": {
                "transition": 16,
                "decoder": (32, 64, 128, 256),
                "encoder": (256,),
                "g_dim": 128,
                "combiner": (32,),
                "head": (32,),
            },
            "storn": {
                "feature_x": (256,),
                "feature_z": (32, 64),
                "h_dim": 128,
                "decoder": (256,),
                "encoder": (256,),
                "g_dim": 128,
                "head": (64, 32),
            },
            "vrnn": {"feature_x": (256,), "feature_z": (32, 64), "h_dim": 128, "g_dim": 128},
            "vrnn-improved": {"feature_x": (256,), "feature_z": (32, 64), "h_dim": 128, "b_dim": 128},
            "srnn": {
                "feature_x": (256,),
                "h_dim": 128,
                "prior": (64, 32),
                "decoder": (256,),
                "encoder": (256,),
                "g_dim": 128,
                "head": (64, 32),
            },
            "rvae-causal": {"h_dim": 128, "g_dim": 128},
            "rvae-noncausal": {"h_dim": 128, "g_dim": 128},
            "dsae": {"h_dim": 128, "decoder": (32, 64, 128, 256), "g_dim": 128, "head_rnn": 128},
        },
    ),
    "motion": Preset(
        {"x_dim": 93, "z_dim": 10, "observation": "centimetre_gaussian"},
        {
            "vae": {"encoder": (128,), "decoder": (128,)},
            "dkf": {
                "transition": 10,
                "decoder": (32, 64),
                "encoder": (64,),
                "g_dim": 64,
                "combiner": (16,),
                "head": (32,),
            },
            "storn": {
                "feature_x": (64,),
                "feature_z": (32,),
                "h_dim": 64,
                "decoder": (),
                "encoder": (64,),
                "g_dim": 64,
                "head": (32,),
            },
            "vrnn": {"feature_x": (64,), "feature_z": (16, 32), "h_dim": 64, "g_dim": 64},
            "vrnn-improved": {"feature_x": (64,), "feature_z": (16, 32), "h_dim": 64, "b_dim": 64},
            "srnn": {
                "feature_x": (64,),
                "h_dim": 64,
                "prior": (32,),
                "decoder": (64,),
                "encoder": (64,),
                "g_dim": 64,
                "head": (32,),
            },
            "rvae-causal": {"h_dim": 64, "g_dim": 64},
            "rvae-noncausal": {"h_dim": 64, "g_dim": 64},
            "dsae": {"h_dim": 64, "decoder": (32, 64), "g_dim": 64, "head_rnn": 64},
        },
    ),
}
"""The architectures of the experiments on speech (Appendix B) and human motion (Appendix C)."""


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
    chosen = PRESETS[preset] if preset else Preset({}, {})
    return entry.cls(**{**chosen.shared, **chosen.layers.get(name, {}), **entry.options, **overrides})
