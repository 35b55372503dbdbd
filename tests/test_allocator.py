import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from proxynas.core.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(2**24)
for _ in range(10):
    x + 1
before = faults()
for _ in range(5):
    x + 1
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    assert faults(keep=True) * 3 < faults(keep=False)


def faults(keep: bool) -> int:
    """Pages that the system gave to a process for sums that had the room of those before."""
    python = [sys.executable, "-c", CODE.format(keep=keep)]
    return int(subprocess.run(python, capture_output=True, check=True).stdout)
