"""Dynamical variational autoencoders in PyTorch: models of sequences that read like their equations.

The models and what they are trained with stand here; `dvae_lib.data`, `dvae_lib.statespace`,
`dvae_lib.graphs`, `dvae_lib.metrics` and `dvae_lib.plotting` are imported by name.
"""

from dvae_lib._version import __version__ as __version__
from dvae_lib.graphs import DependencySpec
from dvae_lib.models import (
    DKF,
    DSAE,
    DSSM,
    DVAE,
    DVBF,
    GPVAE,
    GRNN,
    KVAE,
    LVRNN,
    MODELS,
    RNN,
    RSSM,
    RVAE,
    SRNN,
    STCN,
    STORN,
    SVAE,
    SVG,
    VAE,
    VRAE,
    VRNN,
    BlackBoxSSM,
    ImprovedVRNN,
    SwitchingSSM,
    build_model,
)

__all__ = [
    "DKF",
    "DSAE",
    "DSSM",
    "DVAE",
    "DVBF",
    "GPVAE",
    "GRNN",
    "KVAE",
    "LVRNN",
    "MODELS",
    "RNN",
    "RSSM",
    "RVAE",
    "SRNN",
    "STCN",
    "STORN",
    "SVAE",
    "SVG",
    "VAE",
    "VRAE",
    "VRNN",
    "BlackBoxSSM",
    "DependencySpec",
    "ImprovedVRNN",
    "SwitchingSSM",
    "build_model",
]
