"""The models, one file each, and the registry that builds them by name."""

from importlib import import_module
from pkgutil import iter_modules

from dvae_lib.models.base import DVAE, Proposal, Sample, State, StepOutput
from dvae_lib.models.black_box import BlackBoxSSM
from dvae_lib.models.dkf import DKF
from dvae_lib.models.draw import DRAW
from dvae_lib.models.dsae import DSAE
from dvae_lib.models.dssm import DSSM
from dvae_lib.models.dvbf import DVBF
from dvae_lib.models.fhvae import FHVAE
from dvae_lib.models.filtering import Filter, FilterOutput
from dvae_lib.models.gpvae import GPVAE
from dvae_lib.models.imputing import Imputation
from dvae_lib.models.kvae import KVAE
from dvae_lib.models.lvrnn import LVRNN
from dvae_lib.models.registry import MODELS, PRESETS, ModelEntry, Preset, build_model, register
from dvae_lib.models.rnn import GRNN, RNN
from dvae_lib.models.rssm import RSSM
from dvae_lib.models.rvae import RVAE
from dvae_lib.models.srnn import SRNN
from dvae_lib.models.stcn import STCN
from dvae_lib.models.storn import STORN
from dvae_lib.models.svae import SVAE
from dvae_lib.models.svg import SVG
from dvae_lib.models.switching import SwitchingSSM
from dvae_lib.models.vae import VAE
from dvae_lib.models.vrae import VRAE
from dvae_lib.models.vrnn import VRNN
from dvae_lib.models.z_forcing import ImprovedVRNN

__all__ = [
    "BlackBoxSSM",
    "DKF",
    "DRAW",
    "DSAE",
    "DSSM",
    "DVAE",
    "DVBF",
    "FHVAE",
    "Filter",
    "FilterOutput",
    "GPVAE",
    "GRNN",
    "Imputation",
    "KVAE",
    "LVRNN",
    "MODELS",
    "PRESETS",
    "Proposal",
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
    "ImprovedVRNN",
    "ModelEntry",
    "Preset",
    "Sample",
    "State",
    "StepOutput",
    "SwitchingSSM",
    "build_model",
    "register",
]

# A model registers itself: every file of this folder is read, so that a new one needs no other file to name it.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
