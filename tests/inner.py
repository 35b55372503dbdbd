"""A small inner problem in float64, and parameters for it: for the tests of parts of RCIG."""

import torch
from torch import Tensor, nn

from proxynas.core import seeds
from proxynas.distill import linearised
from proxynas.distill.implicit import Pair
from proxynas.distill.linearised import Centred, Inner, Linearised, Standard
from proxynas.distill.students import Parameters
from proxynas.nets import doubling

N, CLASSES, L2 = 6, 3, 0.02
KINDS = [(Linearised, True), (Linearised, False), (Centred, True), (Standard, False)]
NAMES = ["rcig", "cig", "rig", "vig"]


def network() -> nn.Module:
    """One block of two filters on 4×4 images, with a smooth activation that is far from linear."""
    with seeds.seeded(0):
        net = doubling.make((1, 4, 4), CLASSES, depth=1, width=2)
        net.features[1] = nn.Tanh()
        for p in net.parameters():
            p.data.add_(0.2 * torch.randn(p.shape))
    return net


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def data() -> tuple[Pair, Pair]:
    synthetic = some(N, 1, 4, 4, seed=1), some(N, CLASSES, seed=2)
    return synthetic, (some(9, 1, 4, 4, seed=3), torch.arange(9) % CLASSES)


def problem(dynamics: type, reparameterise: bool) -> Inner:
    return Inner(dynamics(linearised.cut(network(), CLASSES)), reparameterise, L2)


def like(u: Parameters, seed: int) -> Parameters:
    return {
        name: some(*value.shape, seed=seed + place) for place, (name, value) in enumerate(u.items())
    }


def plus(u: Parameters, v: Parameters, size: float = 1.0) -> Parameters:
    return {name: u[name] + size * v[name] for name in u}


def flat(u: Parameters) -> Tensor:
    return torch.cat([value.flatten() for value in u.values()])


def shaped(values: Tensor, u: Parameters) -> Parameters:
    parts = values.split([value.numel() for value in u.values()])
    return {name: part.view_as(u[name]) for name, part in zip(u, parts, strict=True)}


def close(actual: Tensor, wanted: Tensor, rtol: float) -> None:
    assert (actual - wanted).norm() <= rtol * wanted.norm()
