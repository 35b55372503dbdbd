"""The networks that proxy sets are evaluated with: shapes, parameters counted by hand, batches of
replicas.
"""

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from proxynas import spaces, training
from proxynas.core import seeds
from proxynas.core.errors import SpaceError
from proxynas.datasets import Dataset
from proxynas.nets import alexnet, convnet, lenet, mlp, published, resnet, vgg, vit

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
CLASSES = 7


def conv(inputs: int, outputs: int, side: int, bias: bool = True) -> int:
    return inputs * outputs * side**2 + (outputs if bias else 0)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def lenet_parameters(shape: tuple[int, ...]) -> int:
    side = {8: 2, 28: 5, 32: 5}[shape[1]]  # 8 → pool 4 → pool 2; 32 → 28 → 14 → 10 → 5
    head = linear(16 * side**2, 120) + linear(120, 84) + linear(84, CLASSES)
    return conv(shape[0], 6, 5) + conv(6, 16, 5) + head


def alexnet_parameters(shape: tuple[int, ...]) -> int:
    side = {8: 1, 28: 4, 32: 4}[shape[1]]  # three poolings
    body = (
        conv(shape[0], 128, 5)
        + conv(128, 192, 5)
        + conv(192, 256, 3)
        + conv(256, 192, 3)
        + conv(192, 192, 3)
    )
    return body + linear(192 * side**2, CLASSES)


def vgg_parameters(shape: tuple[int, ...]) -> int:
    maps = [64, 128, 256, 256, 512, 512, 512, 512]
    body = sum(conv(a, b, 3) + 2 * b for a, b in zip([shape[0], *maps], maps, strict=False))
    side = 2 if shape[1] == 8 else 1  # 8 → 4, and after the last layer 2
    return body + linear(512 * side**2, CLASSES)


def resnet_parameters(shape: tuple[int, ...]) -> int:
    total, before = conv(shape[0], 64, 3, bias=False) + 2 * 64, 64
    for maps in (64, 128, 256, 512):
        total += (
            conv(before, maps, 3, bias=False) + 3 * conv(maps, maps, 3, bias=False) + 4 * 2 * maps
        )
        if before != maps:
            total += conv(before, maps, 1, bias=False) + 2 * maps  # the shortcut
        before = maps
    return total + linear(512, CLASSES)


def mlp_parameters(shape: tuple[int, ...]) -> int:
    return linear(prod(shape), 128) + linear(128, 128) + linear(128, CLASSES)


def convnet_parameters(shape: tuple[int, ...]) -> int:
    side = {8: 1, 28: 4, 32: 4}[shape[1]]
    return (
        conv(shape[0], 128, 3)
        + 2 * conv(128, 128, 3)
        + 3 * 2 * 128
        + linear(128 * side**2, CLASSES)
    )


COUNTED: dict[str, Callable[[tuple[int, ...]], int]] = {
    "convnet": convnet_parameters,
    "lenet": lenet_parameters,
    "alexnet": alexnet_parameters,
    "vgg11": vgg_parameters,
    "resnet18": resnet_parameters,
    "mlp": mlp_parameters,
}


@pytest.mark.parametrize("name", published.NETWORKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_parameters(name: str, shape: tuple[int, ...]) -> None:
    net = published.make(shape, CLASSES, net=name)
    assert sum(p.numel() for p in net.parameters()) == COUNTED[name](shape)
    logits = net(torch.randn(2, *shape))
    assert logits.shape == (2, CLASSES)
    assert not torch.allclose(
        logits[0], logits[1]
    )  # no map has shrunk to a pixel that instance norm wipes out


@pytest.mark.parametrize("shape", [(2, 9, 13), (4, 17, 24), (1, 20, 8)])
def test_any_size_and_number_of_channels(shape: tuple[int, ...]) -> None:
    for name in published.NETWORKS:
        assert published.make(shape, 3, net=name)(torch.randn(2, *shape)).shape == (2, 3), name


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_deep_networks_learn_small_images(name: str, digits: Dataset) -> None:
    """Normalised maps must not get too small for that."""
    makes = {
        "vgg11": lambda: vgg.make((1, 8, 8), 10, width=8),
        "resnet18": lambda: resnet.make((1, 8, 8), 10, width=8),
    }
    with seeds.seeded(0):
        net = makes[name]()
    training.fit(
        [net], digits.train.x, digits.train.y, training.Recipe(updates=60, batch_size=64, lr=0.03)
    )
    assert training.evaluate(net, digits.val.x, digits.val.y)[0] > 0.7


def test_the_linear_layer_sees_the_whole_last_map_where_it_should() -> None:
    pooled = resnet.make((3, 32, 32), 10, width=4, downsampling="avgpooling")
    assert isinstance(pooled, resnet.ResNet18)
    assert pooled.classifier.in_features == 32 * 4 * 4
    assert pooled(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert not any(m.stride == (2, 2) for m in pooled.modules() if isinstance(m, nn.Conv2d))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "convnet": lambda: convnet.make((1, 8, 8), 3, width=4),
    "lenet": lambda: lenet.make((1, 8, 8), 3),
    "alexnet": lambda: alexnet.make((1, 8, 8), 3),
    "vgg11": lambda: vgg.make((1, 8, 8), 3, width=2),
    "vgg11, batch norm": lambda: vgg.make((1, 8, 8), 3, width=2, norm="batchnorm"),
    "resnet18": lambda: resnet.make((1, 8, 8), 3, width=2),
    "resnet18, batch norm": lambda: resnet.make((1, 8, 8), 3, width=2, norm="batchnorm"),
    "resnet18, pooled": lambda: resnet.make((1, 8, 8), 3, width=2, downsampling="avgpooling"),
    "mlp": lambda: mlp.make((1, 8, 8), 3, width=4, init="xavier"),
}


@pytest.mark.parametrize("name", SMALL)
def test_stacked_replicas_give_what_each_gives(name: str) -> None:
    """Batch norm with its running average; that of a batch has its test in test_train.py."""
    nets, x = (
        [SMALL[name]().double().eval() for _ in range(2)],
        torch.randn(2, 5, 1, 8, 8, dtype=torch.float64),
    )
    parameters, buffers = stack_module_state(nets)
    actual = vmap(lambda p, b, x: functional_call(nets[0], (p, b), (x,)))(parameters, buffers, x)
    for net, config, logits in zip(nets, x, actual, strict=True):
        torch.testing.assert_close(logits, net(config))


def test_norms_are_where_they_should_be() -> None:
    kinds: tuple[tuple[resnet.Norm, type[nn.Module]], ...]
    kinds = (("instancenorm", convnet.InstanceNorm), ("batchnorm", nn.BatchNorm2d))
    for norm, kind in kinds:
        for net, expected in (
            (vgg.make((3, 32, 32), 10, width=2, norm=norm), 8),
            (resnet.make((3, 32, 32), 10, width=2, norm=norm), 20),
        ):
            assert sum(isinstance(module, kind) for module in net.modules()) == expected


def test_too_small_images_and_tables_are_refused() -> None:
    for make, size in ((lenet.make, 3), (alexnet.make, 7), (vgg.make, 1), (resnet.make, 1)):
        with pytest.raises(
            SpaceError,
            match=rf"at least {size + 1}×{size + 1}, but got shape \(1, {size}, {size}\)",
        ):
            make((1, size, size), 10)
        with pytest.raises(SpaceError, match=r"needs images \(C, H, W\)"):
            make((2,), 10)
    with pytest.raises(SpaceError, match="'mlp-grid' is for tables"):
        convnet.make((2,), 10)


def test_vision_transformers_are_trained_one_by_one() -> None:
    """PyTorch has no batching rule for attention: under vmap it is no faster, and warns."""
    nets, x = (
        [vit.make((1, 8, 8), 3, layers=1, heads=2, width=8, hidden=8) for _ in range(3)],
        torch.randn(1, 1, 8, 8),
    )
    assert not training.fusion_pays(nets, x, training.Recipe(batch_size=1))
    assert training.fusion_pays(
        [SMALL["mlp"]() for _ in range(3)], x, training.Recipe(batch_size=1)
    )


@pytest.mark.parametrize(
    ("side", "patch", "tokens"), [(8, 1, 64), (28, 4, 49), (32, 4, 64), (64, 8, 64)]
)
def test_patches_of_a_vision_transformer(side: int, patch: int, tokens: int) -> None:
    net = vit.make((2, side, side), 5)
    assert net(torch.randn(3, 2, side, side)).shape == (3, 5)
    assert net.conv_proj.weight.shape == (256, 2, patch, patch)  # type: ignore[union-attr]
    assert net.seq_length == tokens + 1
    for shape in ((1, 8, 9), (1, 6, 6), (2,)):
        with pytest.raises(
            SpaceError, match=r"ViT needs square images \(C, H, H\) of at least 7×7"
        ):
            vit.make(shape, 5)


def test_a_one_layer_mlp_is_linear() -> None:
    net = mlp.make((2,), 2, depth=1).double()
    a, b = torch.randn(2, 1, 2, dtype=torch.float64)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(net(a + b) + net(zero), net(a) + net(b))


def test_xavier_weights() -> None:
    torch.manual_seed(0)
    net = mlp.make((300,), 2, depth=2, width=200, init="xavier")
    first = net.features[1]  # type: ignore[index]
    assert first.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert not first.bias.any()


def test_the_mlp_grid() -> None:
    space = spaces.load("mlp-grid")
    assert len(list(space)) == 44
    for arch, expected in {
        "L1-tanh": linear(2, 2),
        "L2x5-relu": linear(2, 5) + linear(5, 2),
    }.items():
        assert space.cost(arch, (2,), 2)[0] == expected
    assert space.cost("L4x10-relu", (2,), 2)[0] == linear(2, 10) + 2 * linear(10, 10) + linear(
        10, 2
    )
    for arch in space:
        assert space.build(arch, (6,), 3)(torch.randn(4, 6)).shape == (4, 3)


@pytest.mark.parametrize("layers", ["4", "x10", "2x", "two", "0x3", "2x0"])
def test_layers_written_otherwise(layers: str) -> None:
    with pytest.raises(SpaceError, match=r"layers must be|at least 1"):
        mlp.grid((2,), 2, layers=layers, activation="relu", init="xavier")


def test_published_names() -> None:
    assert list(spaces.load(spaces.EVALUATION)) == [*published.NETWORKS, *published.MORE]
    with pytest.raises(SpaceError, match="net must be one of convnet, lenet"):
        published.make((1, 8, 8), 10, net="lenet5")


def test_architectures_are_found_in_their_spaces() -> None:
    actual = {
        arch: spaces.resolve(arch)[0].name
        for arch in ("D1-W32-relu-none-none", "lenet", "mlp-grid:L1-relu")
    }
    assert list(actual.values()) == ["convnet-grid", "evaluation-nets", "mlp-grid"]
    assert spaces.resolve("mlp-grid:L1-relu")[1] == "L1-relu"
    assert spaces.resolve("L1-relu", "mlp-grid")[0].name == "mlp-grid"
    with pytest.raises(SpaceError, match="did you mean 'resnet18'"):
        spaces.resolve("resnet")
    with pytest.raises(SpaceError, match="is not in the space 'mlp-grid'"):
        spaces.resolve("mlp-grid:L3")
    with pytest.raises(SpaceError, match="there is no search space 'mlpgrid'"):
        spaces.resolve("mlpgrid:L1-relu")
