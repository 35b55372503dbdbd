"""Two baselines that Zhao 2021 (Appendix C) compares with: a conditional GAN, and learned labels.

    python experiments/more_baselines.py MNIST --out runs/more-baselines

MNIST is the folder of its images. The GAN (Mirza & Osindero 2014) is built as the appendix says: a
generator of two blocks (upsampling by two, convolution, batch norm, leaky ReLU), a discriminator of
three (convolution with stride two, batch norm, leaky ReLU), the label given to both; its images of
each class are the set. Label distillation (Bohdal et al. 2020) keeps real images and learns soft
labels: a student takes one step on them, and the labels move against the gradient of its loss on a
real batch. Networks are then trained on each set as those of
mnist-gm.toml are, random images beside them.
"""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

import proxynas as pn
from proxynas import datasets
from proxynas.compare.evaluation import evaluate
from proxynas.core import files, hardware, seeds
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset
from proxynas.distill import students
from proxynas.distill.method import Task, class_labels
from proxynas.proxyset import ProxySet
from proxynas.specs import EvaluationSpec
from proxynas.training import batches

STUDENT = "D3-W32-relu-instancenorm-avgpooling"
NOISE, BATCH = 64, 64


def main(
    data: Annotated[str, typer.Argument(help="MNIST: a name or a folder")],
    out: Annotated[Path, typer.Option(help="folder of the sets and of the results")],
    seconds: Annotated[float, typer.Option(help="core seconds of each")] = 180.0,
    networks: Annotated[int, typer.Option(help="networks a set")] = 3,
) -> None:
    """Print a line a set."""
    keep_freed_memory()
    dataset = datasets.load(data)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"hardware": hardware.describe("cpu"), "rows": {}}
    spec = EvaluationSpec(archs=(STUDENT,), students=networks, updates=300, augment="zhao2021")

    def measure(name: str, made: ProxySet, **about: float) -> None:
        path = out / f"{name.replace(', ', '-').replace(' ', '-')}.safetensors"
        made.save(path)
        (row,) = evaluate(str(path), dataset, spec)
        accuracy = [round(100 * value, 2) for value in (row.mean, row.sd)]
        found["rows"][name] = {"accuracy": accuracy, **about}
        typer.echo(f"{name}: {json.dumps(found['rows'][name])}")

    generator, steps = conditional_gan(dataset, seconds)
    for ipc in (1, 10):
        y = class_labels(dataset.num_classes, ipc, torch.device("cpu"))
        random = pn.make_proxy(dataset, "random", ipc=ipc)
        measure(f"random, {ipc}", random)
        with torch.no_grad():
            x = generator(torch.randn(len(y), NOISE, generator=seeds.generator(0, "images")), y)
        measure(f"cGAN, {ipc}", _set(dataset, x, y), steps=steps)
        soft, taken = distilled_labels(dataset, random.x, y, seconds)
        measure(f"labels, {ipc}", _set(dataset, random.x, soft), steps=taken)
    files.write_text(out / "more-baselines.json", json.dumps(found, indent=1))


def _set(dataset: Dataset, x: Tensor, y: Tensor) -> ProxySet:
    recipe = pn.Recipe(loss="cross-entropy")
    return ProxySet(x, y, dataset.preprocessing, dataset.class_names, recipe)


class Generator(nn.Module):
    """Images (B, C, H, W) of noise (B, 64) and labels (B,), for sides that are multiples of 4."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 32) -> None:
        super().__init__()
        self.start = (width, shape[1] // 4, shape[2] // 4)
        self.label = nn.Embedding(classes, NOISE)
        self.first = nn.Linear(2 * NOISE, self.start[0] * self.start[1] * self.start[2])
        blocks = [
            nn.Sequential(
                nn.Upsample(scale_factor=2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            )
            for _ in range(2)
        ]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(width, shape[0], 3, padding=1))

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        """The images."""
        hidden = self.first(torch.cat([noise, self.label(y)], 1)).unflatten(1, self.start)
        images: Tensor = self.blocks(hidden)
        return images


class Discriminator(nn.Module):
    """Logits (B,) that images (B, C, H, W) with labels (B,) are real."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 32) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, shape[1] * shape[2])
        sizes = [shape[0] + 1, width, width, width]
        blocks = [
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            )
            for before, after in pairwise(sizes)
        ]
        self.net = nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The logits."""
        plane = self.label(y).view(len(x), 1, *x.shape[2:])
        logits: Tensor = self.net(torch.cat([x, plane], 1))
        return logits[:, 0]


def conditional_gan(dataset: Dataset, seconds: float) -> tuple[Generator, int]:
    """A generator in evaluation mode, trained for so many core seconds, and its updates."""
    with seeds.seeded(seeds.derive(0, "gan")):
        made = Generator(dataset.shape, dataset.num_classes)
        judge = Discriminator(dataset.shape, dataset.num_classes)
        judge(dataset.train.x[:2], dataset.train.y[:2])  # makes its lazy layer
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (made, judge)
    ]
    rng = seeds.generator(0, "gan", "batches")
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
    started, steps = time.process_time(), 0
    for chosen in batches(len(dataset.train), pn.Recipe(batch_size=BATCH), rng):
        x, y = dataset.train.x[chosen], dataset.train.y[chosen]
        fake = made(torch.randn(BATCH, NOISE, generator=rng), y)
        real_loss = F.binary_cross_entropy_with_logits(judge(x, y), ones)
        fake_loss = F.binary_cross_entropy_with_logits(judge(fake.detach(), y), zeros)
        _descend(optimizers[1], real_loss + fake_loss)
        _descend(optimizers[0], F.binary_cross_entropy_with_logits(judge(fake, y), ones))
        steps += 1
        if time.process_time() - started > seconds:
            break
    return made.eval(), steps


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def distilled_labels(
    dataset: Dataset, x: Tensor, y: Tensor, seconds: float, life: int = 50
) -> tuple[Tensor, int]:
    """Labels (n, classes) for real images (n, …), distributions, and the steps taken; a student is
    made anew after ``life`` of them."""
    labels = F.one_hot(y, dataset.num_classes).float().mul(5.0).requires_grad_()  # softmax's input
    optimizer = torch.optim.Adam([labels], lr=0.05)
    task = Task(dataset, 1, None, 0)
    started, steps = time.process_time(), 0
    theta: students.Parameters = {}
    while time.process_time() - started < seconds:
        if steps % life == 0:
            net = students.student(task, STUDENT, "labels", steps)
            theta, loss = students.student_loss([net])
        leaves = students.as_leaves(theta)
        gradients = torch.autograd.grad(
            loss(leaves, x, labels.softmax(1)), list(leaves.values()), create_graph=True
        )
        moved = {name: p - 0.01 * g for (name, p), g in zip(leaves.items(), gradients, strict=True)}
        real = students.real_batch(dataset, 256, seeds.generator(0, "labels", "real", steps))
        _descend(optimizer, loss(moved, *real))
        theta = {name: value.detach() for name, value in moved.items()}
        steps += 1
    return labels.detach().softmax(1), steps


if __name__ == "__main__":
    typer.run(main)
