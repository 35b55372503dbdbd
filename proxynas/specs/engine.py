"""Where tasks are done. It changes no result, so it is part of no run's identity."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .option import RUN, Option, PositiveNumber


@checked(frozen=True, config=settings.CONFIG)
class EngineSpec:
    """The engine of a command: processes of this machine, or Ray's."""

    engine: Annotated[
        Literal["local", "ray"],
        Option("Where tasks are done: local, in processes of this machine; or ray.", RUN),
    ] = "local"
    ray_address: Annotated[
        str | None,
        Option(
            "HOST:PORT of a Ray cluster, ray://HOST:PORT, or auto. Default: RAY_ADDRESS, else Ray "
            "is started on this machine.",
            RUN,
            metavar="ADDRESS",
        ),
    ] = None
    gpus_per_task: Annotated[
        PositiveNumber | None,
        Option(
            "GPUs that a task takes on Ray, such as 0.25 for four tasks on each. Default: 1 with "
            "--device cuda.",
            RUN,
            metavar="N",
        ),
    ] = None
