"""Dynamical variational autoencoders in PyTorch: models of sequences that read like their equations."""

__version__ = "0.1.0"
