"""Which real data: the flags and TOML keys that every command shares."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.settings import Positive
from . import Dataset, load


@checked(frozen=True, config=settings.CONFIG)
class DataSpec:
    """Which real data: a name, a folder of images or a CSV table, where it is, and how it is decoded.

    ``zca`` whitens images with that strength (0.1 as published for colour images).
    """

    data: str = "digits"
    data_root: str | None = None
    download: bool = False
    image_size: Positive | None = None
    zca: Annotated[float, Field(gt=0)] | None = None
    device: str = "cpu"

    def dataset(self, progress: Callable[[int, int], None] | None = None) -> Dataset:
        """Load the data; see :func:`proxynas.datasets.load`."""
        root = None if self.data_root is None else Path(self.data_root)
        return load(
            self.data,
            root,
            download=self.download,
            image_size=self.image_size,
            whiten=self.zca,
            device=self.device,
            progress=progress,
        )
