"""The machine: which device was asked for, what it is called, how much memory was used at most."""

import platform
import resource
from pathlib import Path

import torch

from .errors import DeviceError


def check(device: str) -> str:
    """The device to use; ``auto`` is CUDA when it is there.

    Raises:
        DeviceError: not a device name, or not on this machine.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, but got {device!r}")
    if device.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = device.removeprefix("cuda").removeprefix(":") or "0"
        if not number.isdigit() or int(number) >= found:
            raise DeviceError(
                f"device {device!r} was asked for, but PyTorch sees {found} CUDA devices; use --device cpu"
            )
    return device


def describe(device: str) -> str:
    """One line: the processor or GPU that numbers were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def peak_mib(device: str) -> float:
    """Peak memory so far in MiB: of the GPU, or of this process (its high-water mark, never falling) on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
