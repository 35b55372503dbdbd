"""The engine that a user asks for."""

from ..core.errors import SpecError
from ..specs import EngineSpec
from .cluster import RayCluster
from .contract import Engine
from .local import LOCAL


def make_engine(spec: EngineSpec) -> Engine:
    """Processes of this machine, or a Ray cluster, which is reached when work begins.

    Raises:
        SpecError: settings of Ray without it.
    """
    if spec.engine == "ray":
        return RayCluster(spec.ray_address, spec.gpus_per_task)
    for name in ("ray_address", "gpus_per_task"):
        if getattr(spec, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise SpecError(f"{flag} is for Ray; add --engine ray, or leave it out")
    return LOCAL
