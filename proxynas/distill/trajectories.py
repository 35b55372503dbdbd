"""Expert trajectories: the weights that networks pass through while they are trained on the real
data.

They are experts (:mod:`proxynas.distill.experts`: trained once, cached, resumable, their seconds
count) of which the weights at the start and after every epoch are kept, instead of the best ones.
"""

from dataclasses import dataclass

from safetensors import safe_open
from torch import Tensor, nn

from .. import training
from ..datasets import Dataset
from .experts import BestSoFar, Pool
from .students import Parameters


@dataclass(frozen=True)
class Trajectories(Pool):
    """Experts 0 to ``size`` - 1, each with its parameters after 0, 1, … ``training.epochs``
    epochs."""

    format: str = "proxynas-trajectory-1"

    def parameters(self, i: int, epoch: int) -> Parameters:
        """Those of expert ``i`` after so many epochs, on the data's device.

        Raises:
            DivergedError: its training stopped being finite.
            RunFolderError: the cache cannot be written.
        """
        path, like = self.path(i), self.dataset.train.x
        if not path.exists():  # the cache was cleared meanwhile
            self.complete()
        start = f"{epoch}."
        with safe_open(path, "pt") as file:  # reads no other epoch
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
            return {name.removeprefix(start): file.get_tensor(name).to(like) for name in names}

    def _kept(self, net: nn.Module, updates: int) -> BestSoFar:
        epochs = self.training.epochs
        return _EveryEpoch(self.dataset, [updates * (i + 1) // epochs for i in range(epochs)], net)


class _EveryEpoch(BestSoFar):
    """The parameters at the start and at each of the updates ``points``; validated at the last."""

    def __init__(self, data: Dataset, points: list[int], net: nn.Module) -> None:
        super().__init__(data, points)
        self._keep(net)

    def look(self, place: int, net: nn.Module, losses: Tensor) -> None:
        """Keep the parameters of ``net`` at the next point."""
        self.update = self.points[self.looks]
        self.looks += 1
        self._keep(net)
        if self.looks == len(self.points):
            self.accuracy, self.loss = training.evaluate(net, self.data.val.x, self.data.val.y)

    def _keep(self, net: nn.Module) -> None:
        for name, value in net.named_parameters():
            self.weights[f"{self.looks}.{name}"] = value.detach().cpu().clone()
