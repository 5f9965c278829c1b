"""Where tensors lie and are computed with: the machine's accelerator, and work that is done there and brought back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

__all__ = [
    "Device",
    "accelerator",
    "brought_back",
    "chosen_device",
    "computed_on",
    "generator_on",
    "moved",
    "on_the_host",
    "uncast",
]

Device = torch.device | str | None
"""Where something heavy is computed: a device, "auto" for the machine's GPU where it has one, None for where the
model is."""

Result = TypeVar("Result")


def accelerator() -> torch.device:
    """The machine's GPU (CUDA, Apple's MPS, or another accelerator that torch knows); the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    known = getattr(torch, "accelerator", None)  # from torch 2.6 on
    if known is not None and known.is_available():
        return torch.device(known.current_accelerator().type, 0)
    return torch.device("cpu")


def chosen_device(device: Device, model: nn.Module) -> torch.device:
    """The device that is meant.

    Raises:
        ValueError: Torch knows no such device.
    """
    if device is None:
        return next(model.parameters()).device
    if device == "auto":
        return accelerator()
    try:
        return torch.empty(0, device=device).device  # with its index
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}); "
            'expected "auto", None, or a device of torch such as "cpu" or "cuda"'
        ) from error


def generator_on(device: torch.device, generator: Generator | None) -> Generator | None:
    """The generator itself where it is on the device; else one there, seeded with its next number."""
    if generator is None or generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return Generator(device).manual_seed(int(seed))


@contextmanager
def on_the_host() -> Iterator[None]:
    """Within it, and in a function that it decorates, what is made without saying where is made on the CPU.

    For what belongs there, such as data and indices, also where `torch.set_default_device` names a GPU.
    """
    if torch.get_default_device().type == "cpu":
        yield
    else:
        with torch.device("cpu"):
            yield


@contextmanager
def brought_back(model: nn.Module) -> Iterator[None]:
    """Afterwards, however it ends, the model is on the device, and its tensors of the dtypes, that they had before."""
    device = chosen_device(None, model)
    dtypes = {name: tensor.dtype for name, tensor in _tensors(model)}
    try:
        yield
    finally:
        if chosen_device(None, model) != device:
            model.to(device)
        for name, tensor in _tensors(model):
            if tensor.dtype != dtypes.get(name, tensor.dtype):
                tensor.grad = None
                tensor.data = tensor.data.to(dtypes[name])


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def computed_on(
    device: Device, method: Callable[..., Result], model: nn.Module, *arguments: Any, **options: Any
) -> Result:
    """What a model's method gives, computed on a device; the results lie where the model lies, which stays there.

    Arguments:
        device: The device.
        method: A function whose first argument is the model.
        model: The model.
        arguments: Further ones; tensors are moved.
        options: By name; tensors are moved, and for a `generator` of another device there is one on this device.
    """
    home, there = chosen_device(None, model), chosen_device(device, model)
    options["generator"] = generator_on(there, options.get("generator"))
    with brought_back(model):
        model.to(there)
        result = method(model, *moved(arguments, there), **moved(options, there))
    back: Result = moved(result, home)
    return back


def moved(value: Any, device: torch.device) -> Any:
    """The same with all tensors on the device: in tuples, dictionaries and distributions of this library, too."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Distribution) and hasattr(value, "parameters"):
        return type(value)(*(parameter.to(device) for parameter in value.parameters))
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, tuple):
        items = (moved(item, device) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def uncast(device: torch.device) -> AbstractContextManager[object]:
    """Within it, the automatic casts of mixed precision rest: for sums of squares and factorisations of matrices."""
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # a device without such casts
        return nullcontext()
