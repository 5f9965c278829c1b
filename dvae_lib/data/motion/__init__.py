"""Human motion: skeletons, the formats of motion capture, joint positions in metres, and one file for each corpus."""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.motion.acclaim import read_amc, read_asf
from dvae_lib.data.motion.acclaim_corpora import MOCAP_JOINTS, MOCAP_PARENTS, load_acclaim
from dvae_lib.data.motion.bvh import Bvh, read_bvh, write_bvh
from dvae_lib.data.motion.clips import decimate
from dvae_lib.data.motion.cmu import load_cmu
from dvae_lib.data.motion.expmap import H36M_JOINTS, H36M_PARENTS, expmap_to_positions, read_expmap
from dvae_lib.data.motion.h36m import load_h36m
from dvae_lib.data.motion.hdm05 import load_hdm05
from dvae_lib.data.motion.mocap import load_mocap
from dvae_lib.data.motion.posing import pose, rest_skeleton
from dvae_lib.data.motion.skeleton import Skeleton

__all__ = [
    "H36M_JOINTS",
    "H36M_PARENTS",
    "MOCAP_JOINTS",
    "MOCAP_PARENTS",
    "Bvh",
    "Skeleton",
    "decimate",
    "expmap_to_positions",
    "load_acclaim",
    "load_cmu",
    "load_h36m",
    "load_hdm05",
    "load_mocap",
    "pose",
    "read_amc",
    "read_asf",
    "read_bvh",
    "read_expmap",
    "rest_skeleton",
    "write_bvh",
]

import_all(__name__, __path__)
