"""A device that torch knows and Fabric does not."""

from typing import Any

import torch
from lightning_fabric.accelerators.accelerator import Accelerator

from dvae_lib.devices import accelerator as this_machines

__all__ = ["OtherAccelerator"]


class OtherAccelerator(Accelerator):
    """An accelerator that torch knows and Fabric does not: one device, which this process computes on."""

    def setup_device(self, device: torch.device) -> None:
        """There is nothing to do."""

    def teardown(self) -> None:
        """There is nothing to do."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        """The number asked for."""
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        """The one that there is."""
        return [this_machines()]

    @staticmethod
    def auto_device_count() -> int:
        """One."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """It is: torch has said so."""
        return True

    @staticmethod
    def name() -> str:
        """What torch calls it."""
        return this_machines().type
