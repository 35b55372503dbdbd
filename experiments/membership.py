"""Does a network give away which images its training set was made from? (Table 5 of Loo 2023)

    python experiments/membership.py MNIST --out membership.json

MNIST is the folder of its images. Networks are trained on real images, on random ones as many as
the distilled set has, and on sets that ship. Five attacks are then shown the logits and the loss of
images that the set was made from (members: training images) and of images that it was not (the test
split's), half of them to learn from, and their AUC on the other half is printed: 0.5 is guessing.
Below them all is the network's test accuracy.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from proxynas import datasets, proxyset, spaces, training
from proxynas.core import files, hardware, seeds
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset, Split
from proxynas.specs import Recipe

Floats = NDArray[np.float64]

NETWORK = "D3-W32-relu-instancenorm-avgpooling"
SETS = ("mnist-gm-ipc1", "mnist-rcig-ipc1", "mnist-apm-ipc10")
MEMBERS = 2000
"""Members, and as many others; the networks of the first row are trained on these very members."""
PASSES = 300

ATTACKS: dict[str, Callable[[int], Any]] = {
    "logistic regression": lambda seed: LogisticRegression(max_iter=1000),
    "MLP": lambda seed: MLPClassifier((64, 64), early_stopping=True, random_state=seed),
    "random forest": lambda seed: RandomForestClassifier(100, random_state=seed),
    "nearest neighbours": lambda seed: KNeighborsClassifier(25),
}


def main(
    data: Annotated[str, typer.Argument(help="MNIST: a name or a folder")],
    networks: Annotated[int, typer.Option(help="networks a row")] = 5,
    out: Annotated[Path | None, typer.Option(help="the results as JSON")] = None,
) -> None:
    """Print a line a training set."""
    keep_freed_memory()
    dataset = datasets.load(data)
    members = dataset.train.x[:MEMBERS], dataset.train.y[:MEMBERS]
    result: dict[str, Any] = {"hardware": hardware.describe("cpu"), "rows": {}}
    for name, (images, recipe) in _training_sets(dataset, Split(*members)).items():
        aucs: dict[str, list[float]] = {}
        for seed in range(networks):
            net = _trained(dataset, images, recipe, seed)
            accuracy = training.evaluate(net, dataset.test.x, dataset.test.y)[0]
            aucs.setdefault("test accuracy", []).append(accuracy)
            seen = _features(net, *members)
            unseen = _features(net, dataset.test.x[:MEMBERS], dataset.test.y[:MEMBERS])
            for attack, auc in attacked(seen, unseen, seed).items():
                aucs.setdefault(attack, []).append(auc)
        row = {key: [round(mean(v), 3), round(stdev(v), 3)] for key, v in aucs.items()}
        result["rows"][name] = row
        typer.echo(f"{name}: {json.dumps(row)}")
    if out is not None:
        files.write_text(out, json.dumps(result, indent=1))


def _training_sets(dataset: Dataset, members: Split) -> dict[str, tuple[Split, Recipe]]:
    """What networks are trained on, and how; random images are among the members."""
    rows = {"real images": (members, Recipe(40 * MEMBERS // 256, 256, lr=0.01))}
    for ipc in (1, 10):
        y = members.y
        chosen = torch.cat([(y == c).nonzero()[:ipc, 0] for c in range(dataset.num_classes)])
        rows[f"random, {ipc} a class"] = (
            Split(members.x[chosen], y[chosen]),
            Recipe(PASSES, 256, lr=0.01),
        )
    for name in SETS:
        loaded = proxyset.read(name)
        proxyset.check(loaded, dataset)
        recipe = proxyset.candidate_recipe(loaded, Recipe(PASSES, 256, lr=0.01))
        rows[name] = (Split(loaded.x, loaded.y), recipe)
    return rows


def _trained(dataset: Dataset, images: Split, recipe: Recipe, seed: int) -> nn.Module:
    space, arch = spaces.resolve(NETWORK)
    with seeds.seeded(seeds.derive(seed, "membership")):
        net = space.build(arch, dataset.shape, dataset.num_classes)
    return training.fit([net], images.x, images.y, recipe, seed=seed).nets[0].eval()


@torch.no_grad()
def _features(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Floats:
    """What an attack sees of images (n, …): logits and the loss, (n, classes + 1)."""
    logits = torch.cat([net(part) for part in torch.split(x, 250)])
    loss = F.cross_entropy(logits, y, reduction="none")
    return torch.cat([logits, loss[:, None]], 1).double().numpy()


def attacked(seen: Floats, unseen: Floats, seed: int) -> dict[str, float]:
    """The AUC of every attack, on the half of the images that it did not learn from."""
    x = np.concatenate([seen, unseen])
    y = np.repeat([1, 0], [len(seen), len(unseen)])
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.5, random_state=seed)
    aucs = {"threshold": float(roc_auc_score(y, -x[:, -1]))}  # a member's loss is lower
    for name, make in ATTACKS.items():
        model = make_pipeline(StandardScaler(), make(seed)).fit(x_train, y_train)
        aucs[name] = float(roc_auc_score(y_test, model.predict_proba(x_test)[:, 1]))
    return aucs


if __name__ == "__main__":
    typer.run(main)
