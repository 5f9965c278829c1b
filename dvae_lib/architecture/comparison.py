"""A model's networks against what a paper says of them."""

from torch import nn

from dvae_lib.architecture.notation import layers
from dvae_lib.models.base import DVAE

__all__ = ["check_networks"]


def check_networks(model: DVAE, **expected: "str | int") -> None:
    """Compare a model's networks with their published sizes.

    Arguments:
        model: The running model.
        expected: By the network's name in the model, with ``__`` for a dot: the layers of an MLP in the review's
            notation, without its output layer, or the size of an LSTM's state.

    Raises:
        ValueError: If a network is missing or has other sizes.

    Example:
        >>> from dvae_lib import build_model
        >>> check_networks(build_model("vae", preset="speech"), e_z="128, Tanh", d_x="128, Tanh")
        >>> check_networks(build_model("vae", preset="speech"), e_z="64, Tanh")
        Traceback (most recent call last):
        ValueError: e_z: expected 64, Tanh; the model has 128, Tanh
    """
    for name, says in expected.items():
        try:
            part = model.get_submodule(name.replace("__", "."))
        except AttributeError as error:
            raise ValueError(f"{name}: expected {says}; the model has no network of this name") from error
        lstms = [module.hidden_size for module in part.modules() if isinstance(module, nn.LSTM)]
        found = layers(part) if isinstance(says, str) else ", ".join(map(str, lstms)) or "no LSTM"
        if found != str(says):
            raise ValueError(f"{name}: expected {says}; the model has {found}")
