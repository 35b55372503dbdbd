"""The winner: trained once more, afresh, on the whole data, tested once, and saved with code that
loads it.

The accuracy by which it was picked is the best of several and so looks better than it is. A
training with another seed does not: its test accuracy is what is reported.

winner.safetensors   the weights, and in the header what they are of
winner.py            a few lines that build the network and load them
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from .. import spaces
from ..core import files
from ..datasets import Dataset
from ..search.run import Wanted, run
from ..search.score import Source, Work
from ..search.sources import WINNER
from ..search.store import Store
from ..spaces import SearchSpace
from ..specs import SearchSpec
from .run import Run

WEIGHTS, CODE = "winner.safetensors", "winner.py"


@dataclass(frozen=True)
class TrainedWinner:
    """The last training of the winner: accuracies in [0, 1], core seconds, and the files it
    left."""

    arch: str
    val_accuracy: float
    test_accuracy: float
    seconds: float
    files: tuple[str, ...]


def train(this: Run, arch: str) -> TrainedWinner | None:
    """Train the winner in this process, or find it trained; ``None`` where its training failed."""
    spec, store, folder = this.spec, this.store, this.folder
    known = _row(store, arch)
    if known is None or not (folder / WEIGHTS).exists():
        this.watcher.say(f"training the winner afresh on the whole data: {arch}")
        if known is not None:
            store.forget(WINNER, arch)
        work = partial(prepare, spec, folder, this.dataset)
        run(store, Wanted([arch], [WINNER], [0]), work, workers=1)
        write_code(spec, arch, folder, this.dataset)
    return last_training(store, arch, folder)


def last_training(store: Store, arch: str, folder: Path) -> TrainedWinner | None:
    """The winner's training as the store has it; ``None`` where it is not there, or failed."""
    row = _row(store, arch)
    if row is None or isinstance(row["failed"], str):
        return None
    there = tuple(name for name in (WEIGHTS, CODE) if (folder / name).exists())
    return TrainedWinner(
        arch, float(row["val_accuracy"]), float(row["test_accuracy"]), float(row["seconds"]), there
    )


def prepare(spec: SearchSpec, folder: Path, dataset: Dataset) -> Work:
    """What trains the winner: the whole training split, tested on the test split, its weights
    kept."""
    torch.set_flush_denormal(True)
    x, y = dataset.train.x, dataset.train.y
    source = Source(WINNER, x, y, spec.whole_recipe(len(x)), test=True, weights=folder / WEIGHTS)
    space, limit = spaces.load(spec.space, spec.whole_options()), spec.time_limit
    return Work(space, dataset, {WINNER: source}, spec.seed, spec.device, time_limit=limit)


def write_code(spec: SearchSpec, arch: str, folder: Path, dataset: Dataset) -> None:
    """Write the lines that build the winner and load its weights."""
    space = spaces.load(spec.space, spec.whole_options())
    files.write_text(folder / CODE, code(space, spec, arch, dataset))


def code(space: SearchSpace, spec: SearchSpec, arch: str, dataset: Dataset) -> str:
    """Python that builds the network ``arch``, loads its weights and says how inputs are
    normalised."""
    mean, std = (
        tuple(round(float(v), 6) for v in t)
        for t in (dataset.preprocessing.mean, dataset.preprocessing.std)
    )
    zca = (
        "\n# The images were ZCA-whitened after that; the proxy set's file has the matrix."
        if spec.zca
        else ""
    )
    return f'''"""{arch}: the winner of a search on {dataset.name}, with its weights."""

from pathlib import Path

from safetensors.torch import load_file

import proxynas as pn

space = {_loaded_space(spec)}
net = space.build({arch!r}, {tuple(dataset.shape)!r}, {dataset.num_classes})
net.load_state_dict(load_file(Path(__file__).with_name("{WEIGHTS}")))
net.eval()

# Inputs: float32 (N, {", ".join(map(str, dataset.shape))}), values minus mean, divided by std.{zca}
mean, std = {mean}, {std}
class_names = {tuple(dataset.class_names)!r}
'''


def _loaded_space(spec: SearchSpec) -> str:
    """The call that loads the space; a file of one's own by its whole path."""
    path = Path(spec.space)
    file = path.suffix == ".toml"
    name = str(path.resolve()) if file else spec.space
    fixed = "".join(f", {key}={value!r}" for key, value in spec.whole_options().items())
    moved = "  # its path now, if you move it" if file else ""
    return f"pn.load_space({name!r}{fixed}){moved}"


def _row(store: Store, arch: str) -> pd.Series | None:
    scores = store.scores()
    rows = scores[(scores["source"] == WINNER) & (scores["arch"] == arch)]
    return None if rows.empty else rows.iloc[0]
