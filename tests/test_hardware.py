"""Peak memory: that of this process, from when it was asked to begin anew."""

from pathlib import Path

import pytest
import torch

from proxynas.core import hardware


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells and resets the peak")
def test_the_peak_is_that_of_what_came_last() -> None:
    big = torch.ones(50 * 2**18)  # 50 MiB
    del big
    base = hardware.reset_peak("cpu")
    assert hardware.peak_mib("cpu") - base < 10
    big = torch.ones(50 * 2**18)
    del big
    assert 45 < hardware.peak_mib("cpu") - base < 70
