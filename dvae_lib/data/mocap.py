"""The former path of `dvae_lib.data.motion`."""

from dvae_lib.data.motion import MOCAP_JOINTS, MOCAP_PARENTS, decimate, load_cmu, load_h36m, load_hdm05, load_mocap

__all__ = ["MOCAP_JOINTS", "MOCAP_PARENTS", "decimate", "load_cmu", "load_h36m", "load_hdm05", "load_mocap"]
