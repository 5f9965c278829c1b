"""What a result was computed on."""

import os
import platform
import resource
import sys
from typing import Any

import torch

__all__ = ["machine_facts", "peak_memory"]


def machine_facts(device: torch.device | None = None) -> dict[str, Any]:
    """The device, the machine and the versions, as JSON data.

    Arguments:
        device: Where it was computed; None is the CPU.
    """
    on_gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def peak_memory(device: torch.device) -> float:
    """In megabytes: of the GPU's memory what the run took, of the computer's all that this process ever took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
