"""The machine: which device was asked for, what it is called, how much memory was used at most."""

import platform
import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

from .errors import DeviceError
from .text import quoted


def check(device: str) -> str:
    """The device to use; ``auto`` is CUDA when it is there.

    Raises:
        DeviceError: not a device name, or not on this machine.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not re.fullmatch(r"cuda(:[0-9]{1,4})?", device):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, but got {quoted(device)}")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = device.removeprefix("cuda").removeprefix(":") or "0"
        if int(number) >= count:
            raise DeviceError(
                f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices; "
                "use --device cpu"
            )
    return device


def describe(device: str) -> str:
    """One line: the processor or GPU that numbers were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread" + ("" if threads == 1 else "s")


def same_kind(a: str, b: str) -> bool:
    """Whether two descriptions are of one processor or GPU; core seconds do not count threads."""
    return _THREADS.sub("", a) == _THREADS.sub("", b)


_THREADS = re.compile(r", \d+ threads?$")


def peak_mib(device: str) -> float:
    """Peak memory so far in MiB: of the GPU, or of this process on a CPU, since its start or
    :func:`reset_peak`.

    Linux keeps a high-water mark for each process. ``ru_maxrss``, taken elsewhere, cannot be reset,
    and a process inherits it from the one that started it.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    mib = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if mib is None else mib


def reset_peak(device: str) -> float:
    """Reset the peak, where the system can; return the memory in use now, in MiB."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    mib = _status("VmRSS")
    return peak_mib(device) if mib is None else mib


def _status(key: str) -> float | None:
    """A size that Linux reports of this process, in MiB; ``None`` where there is no such thing."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), None)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
