"""What the review reports: Tables 13.1 and 13.2, and its counts of collapsed dimensions (Section 13.3.4)."""

from dvae_lib.experiments.protocol import Experiment

__all__ = ["COLLAPSED_IN_REVIEW", "LABELS", "REVIEW"]

LABELS: dict[str, str] = {
    "vae": "VAE",
    "dkf": "DKF",
    "storn": "STORN",
    "vrnn": "VRNN",
    "srnn": "SRNN",
    "rvae-causal": "RVAE-causal",
    "rvae-noncausal": "RVAE-noncausal",
    "dsae": "DSAE",
}
"""The models' names in the review's tables."""

REVIEW: dict[Experiment, dict[str, dict[str, float]]] = {
    "speech": {
        "VAE": {"si_sdr": 5.3, "pesq": 2.97, "estoi": 0.83},
        "DKF": {"si_sdr": 9.3, "pesq": 3.53, "estoi": 0.91},
        "STORN": {"si_sdr": 6.9, "pesq": 3.42, "estoi": 0.90},
        "VRNN": {"si_sdr": 10.0, "pesq": 3.61, "estoi": 0.92},
        "SRNN": {"si_sdr": 11.0, "pesq": 3.68, "estoi": 0.93},
        "RVAE-causal": {"si_sdr": 9.0, "pesq": 3.49, "estoi": 0.90},
        "RVAE-noncausal": {"si_sdr": 8.9, "pesq": 3.58, "estoi": 0.91},
        "DSAE": {"si_sdr": 9.2, "pesq": 3.55, "estoi": 0.91},
        "SRNN-TF-GM": {"si_sdr": -1.0, "pesq": 1.93, "estoi": 0.64},
        "SRNN-GM": {"si_sdr": 7.8, "pesq": 3.37, "estoi": 0.88},
    },
    "motion": {
        "VAE": {"mpjpe": 48.69},
        "DKF": {"mpjpe": 42.21},
        "STORN": {"mpjpe": 9.47},
        "VRNN": {"mpjpe": 9.22},
        "SRNN": {"mpjpe": 7.86},
        "RVAE-causal": {"mpjpe": 31.09},
        "RVAE-noncausal": {"mpjpe": 28.59},
        "DSAE": {"mpjpe": 28.61},
        "SRNN-TF-GM": {"mpjpe": 221.87},
        "SRNN-GM": {"mpjpe": 43.98},
    },
}
"""Table 13.1 (WSJ0) and Table 13.2 (Human3.6M), by the name of the line."""

COLLAPSED_IN_REVIEW: dict[str, int] = {"SRNN": 8, "VRNN": 2, "STORN": 12, "DKF": 0, "DSAE": 0, "RVAE-noncausal": 0}
"""Of 16 dimensions, with teacher forcing, on speech."""
