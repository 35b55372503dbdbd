"""Which real data, and on which device: what every command shares."""

from typing import Annotated

from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .option import DATA, RUN, Option, Size, Text
from .whitening import WhiteningSetting


@checked(frozen=True, config=settings.CONFIG)
class DataSpec:
    """Which real data: a name, a folder of images or a CSV table, where it is, and how it is
    decoded."""

    data: Annotated[
        Text,
        Option(
            "digits, mnist, fashion-mnist, svhn, cifar10, cifar100 or moons; a folder of images "
            "with train/<class>/*; or a table, a .csv with the target in its last column.",
            DATA,
        ),
    ] = "digits"
    data_root: Annotated[
        str | None, Option("Where torchvision's datasets are (mnist to cifar100).", DATA)
    ] = None
    download: Annotated[bool, Option("Download the dataset if it is not there.", DATA)] = False
    image_size: Annotated[
        Size | None, Option("Resize every image to N×N; not for tables.", DATA, metavar="N")
    ] = None
    zca: Annotated[
        WhiteningSetting | None,
        Option(
            "Whiten images (ZCA). 0.1 adds a tenth of the mean eigenvalue to the covariance of "
            "normalised images (FRePo, RCIG); kornia:0.1 adds 0.1 to that of pixels in 0 to 1 "
            "(APM). Give every command on a whitened set the same.",
            DATA,
            metavar="STRENGTH",
        ),
    ] = None
    device: Annotated[Text, Option("cpu, cuda, cuda:N or auto.", RUN)] = "cpu"
