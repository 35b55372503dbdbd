"""Seeds: every random choice draws from a generator of its own, derived from the run's seed by
name."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called ``names``, the same on every machine and Python."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the stream called ``names``."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block and put them back after it.

    ``nn.Module`` initialisers draw from the global generator and take no other; this is the one
    place that sets it.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
