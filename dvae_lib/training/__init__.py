"""Training: stochastic gradient ascent on the variational lower bound, after Section 13.2.3.

`fit` is the loop, `TrainingConfig` says how it goes, and an objective says what is maximised. A run in a folder
survives whatever happens to it; started by torchrun, several processes follow the losses of one.
"""

from dvae_lib.training.checkpoints import CheckpointError
from dvae_lib.training.config import TrainingConfig
from dvae_lib.training.failures import NonFiniteError
from dvae_lib.training.for_data import config_for, model_for
from dvae_lib.training.loop import TrainingResult, fit
from dvae_lib.training.objective import Objective, vlb_terms
from dvae_lib.training.parallel import training_fabric
from dvae_lib.training.run_folder import BEST, CHECKPOINT, CONFIG, HISTORY
from dvae_lib.training.schedules import Number, Schedule

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CONFIG",
    "CheckpointError",
    "HISTORY",
    "NonFiniteError",
    "Number",
    "Objective",
    "Schedule",
    "TrainingConfig",
    "TrainingResult",
    "config_for",
    "fit",
    "model_for",
    "training_fabric",
    "vlb_terms",
]
