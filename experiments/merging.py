"""Do sets that were distilled apart make one as good as a set distilled whole? (Figure 4 of APM)

    python experiments/merging.py MNIST --out runs/merging

MNIST is the folder of its images. Parts of a few images a class are distilled by APM, each with a
seed of its own, and merged one by one; beside them a whole set of as many images as all parts,
which takes as many rounds as each part. Networks are trained on every one of them. What is in the
folder is not made again. The published figure merges ten parts of 50 images a class on CIFAR-10.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import proxynas as pn
from proxynas import datasets, proxyset
from proxynas.compare.evaluation import evaluate
from proxynas.core import files, hardware
from proxynas.core.allocator import keep_freed_memory
from proxynas.proxyset import ProxySet
from proxynas.specs import EvaluationSpec

NETWORK = "doubling-convnet:D3-W16-instancenorm-relu"
AUGMENT = "crop+scale+rotate"
APM = {
    "student": NETWORK,
    "batch": 100,
    "epochs": 20,
    "experts": 3,
    "expert_epochs": 1,
    "augment": AUGMENT,
}
"""As in mnist-apm-ablation.toml, whose experts these are."""


def main(
    data: Annotated[str, typer.Argument(help="MNIST: a name or a folder")],
    out: Annotated[Path, typer.Option(help="folder of the sets and of the results")],
    parts: Annotated[int, typer.Option(help="how many")] = 5,
    ipc: Annotated[int, typer.Option(help="images a class of a part")] = 2,
    steps: Annotated[int, typer.Option(help="rounds of a part, and of the whole set")] = 30,
    networks: Annotated[int, typer.Option(help="networks a set")] = 3,
) -> None:
    """Print a line a set."""
    keep_freed_memory()
    dataset = datasets.load(data)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"hardware": hardware.describe("cpu"), "rows": {}}
    spec = EvaluationSpec(archs=(NETWORK,), students=networks, updates=300, augment=AUGMENT)

    def measure(name: str, tested: ProxySet, seconds: float) -> None:
        path = out / f"{name.replace(' ', '-')}.safetensors"
        tested.save(path)
        (row,) = evaluate(str(path), dataset, spec)
        found["rows"][name] = {
            "images_a_class": len(tested) // dataset.num_classes,
            "accuracy": [round(100 * row.mean, 2), round(100 * row.sd, 2)],
            "core_seconds": round(seconds),
        }
        typer.echo(f"{name}: {json.dumps(found['rows'][name])}")

    made: list[ProxySet] = []
    for seed in range(parts):
        part = f"part-{seed}.safetensors"
        made.append(_distilled(dataset, ipc, steps, seed, out / part))
        merged = proxyset.merge(made) if seed else made[0]
        measure(f"{seed + 1} merged", merged, sum(_own_seconds(one) for one in made))
    whole = _distilled(dataset, ipc * parts, steps, 0, out / "distilled-whole.safetensors")
    measure("whole", whole, _own_seconds(whole))
    measure("random", pn.make_proxy(dataset, "random", ipc=ipc * parts), 0.0)
    files.write_text(out / "merging.json", json.dumps(found, indent=1))


def _distilled(dataset: datasets.Dataset, ipc: int, steps: int, seed: int, path: Path) -> ProxySet:
    return pn.make_proxy(dataset, "apm", ipc=ipc, steps=steps, settings=APM, seed=seed, out=path)


def _own_seconds(made: ProxySet) -> float:
    """Core seconds of a set without its experts, which all sets share."""
    about = made.provenance
    return float(about["core_seconds"] - about["shared"]["core_seconds"])


if __name__ == "__main__":
    typer.run(main)
