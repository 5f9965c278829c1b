"""A second device without a GPU: tensors on "second" lie in ordinary memory, and the CPU computes.

What a machine with a GPU refuses is refused here, too: operands on two devices, a generator of the CPU for tensors of
the device, `.numpy()` of what is not on the CPU. It is PyTorch's accelerator while `in_use` says so, so that
the library finds it as it finds a GPU. PyTorch's own extension loader builds it once, in half a minute; it needs a C++
compiler and ninja.
"""

import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

NAME = "second"


class SecondDeviceModule:
    """`torch.second`: what PyTorch asks of a device's Python module."""

    available = False

    @classmethod
    def is_available(cls) -> bool:
        """Whether programs are to see the device."""
        return cls.available

    @staticmethod
    def is_initialized() -> bool:
        """There is nothing to set up."""
        return True

    @staticmethod
    def device_count() -> int:
        """One."""
        return 1

    @staticmethod
    def current_device() -> int:
        """The only one."""
        return 0

    @staticmethod
    def synchronize(device: object = None) -> None:
        """Every operation has ended when it returns."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        """What mixed precision may compute in."""
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Seed the device's default generator."""
        extension().default_generator().manual_seed(seed)

    @staticmethod
    def get_rng_state(device: object = None) -> torch.Tensor:
        """Of the device's default generator."""
        return extension().default_generator().get_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: object = None) -> None:
        """Of the device's default generator."""
        extension().default_generator().set_state(state)


@cache
def extension():
    """The device, built where this version of it has not been, and known to PyTorch from now on.

    It must be loaded before the first backward pass of the process, with which PyTorch counts its devices.
    """
    from torch.utils import cpp_extension

    source = Path(__file__).with_name("second_device.cpp")
    # The loader calls ninja by its name; that of this environment comes first.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    made = cpp_extension.load("dvae_second_device", [str(source)], extra_cflags=["-O1", "-w"])
    made.register_hooks()
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, SecondDeviceModule)
    torch.utils.generate_methods_for_privateuse1_backend()
    return made


@contextmanager
def in_use() -> Iterator[torch.device]:
    """Within it, the second device is the machine's accelerator."""
    extension()
    SecondDeviceModule.available = True
    try:
        yield torch.device(NAME, 0)
    finally:
        SecondDeviceModule.available = False
