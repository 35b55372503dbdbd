"""The generator of Medvedev & D'yakonov 2021, Fig. 6: noise and labels to images.

It is a generative teaching network (Such et al. 2019). Where implementations differ: the authors'
code normalises with the statistics of the batch while it distils and with their running average
where it trains on the result. Here every batch of images is made with its own statistics, so
networks train on the very images that were optimised. A batch is always laid out class by class, an
equal number each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core import seeds

NOISE = 64
"""Length of a generator's input beside the label."""


class Generator(nn.Module):
    """Noise and one-hot labels (B, 64 + C) to normalised images (B, channels, H, W) in (−1, 1).

    ``k`` is its size: (64 + C)·k + k/2·H·W·k weights in its linear layers. Batch norms take the
    statistics of the batch and keep none.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, k: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.map = (k // 2, height, width)
        self.fc1 = nn.Linear(NOISE + classes, k)
        self.bn1 = nn.BatchNorm1d(k, track_running_stats=False)
        self.fc2 = nn.Linear(k, k // 2 * height * width)
        self.bn2 = nn.BatchNorm2d(k // 2, track_running_stats=False)
        self.conv1 = nn.Conv2d(k // 2, k // 4, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(k // 4, track_running_stats=False)
        self.conv2 = nn.Conv2d(k // 4, channels, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(channels, track_running_stats=False)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Images of inputs (B, 64 + C)."""
        x = self.bn1(F.leaky_relu(self.fc1(x), 0.1))  # (B, k)
        x = self.bn2(F.leaky_relu(self.fc2(x), 0.1).view(-1, *self.map))  # (B, k/2, H, W)
        x = F.leaky_relu(self.bn3(self.conv1(x)), 0.1)  # (B, k/4, H, W)
        x = F.leaky_relu(self.bn4(self.conv2(x)), 0.1)  # (B, channels, H, W)
        return torch.tanh(x)


def generate(network: Mapping[str, Tensor], shape: tuple[int, ...], z: Tensor) -> Tensor:
    """Images (C, n, …) by the generator ``network`` from noise ``z`` (C, n, 64), in one batch."""
    classes, n, _ = z.shape
    labels = torch.eye(classes, dtype=z.dtype, device=z.device).repeat_interleave(n, 0)  # (C·n, C)
    with torch.device("meta"):  # the layers alone: their parameters are handed in
        layers = Generator(shape, classes, len(network["fc1.bias"]))
    inputs = torch.cat([z.flatten(0, 1), labels], 1)  # (C·n, 64 + C)
    images: Tensor = functional_call(layers, dict(network), (inputs,))
    return images.view(classes, n, *shape)


def noise(
    network: Mapping[str, Tensor], classes: int, n: int, generator: torch.Generator
) -> Tensor:
    """Fresh input (C, n, 64), uniform on [0, 1), of the network's dtype and device."""
    return torch.rand(classes, n, NOISE, generator=generator).to(network["fc1.weight"])


@dataclass(frozen=True)
class Distilled:
    """A distilled generator's tensors; ``batch`` is its images per class in one forward pass.

    ``kind`` is ``gtn-lrn`` where its input was fixed and learned, ``gtn-rnd`` where it was fresh
    noise. A gtn-lrn has never seen noise other than its own input: its further images are what it
    makes of noise like that which its input started from.
    """

    network: Mapping[str, Tensor]
    kind: str
    batch: int

    def images(self, shape: tuple[int, ...], classes: int, ipc: int, seed: int) -> Tensor:
        """``ipc`` new images per class from fresh noise, (C, ipc, …).

        They come in batches of ``batch`` per class: batch norms know no other statistics.
        """
        parts = []
        with torch.no_grad():
            for b in range(-(-ipc // self.batch)):
                z = noise(self.network, classes, self.batch, seeds.generator(seed, "generate", b))
                parts.append(generate(self.network, shape, z))
        return torch.cat(parts, 1)[:, :ipc]
