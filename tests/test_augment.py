import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from proxynas import spaces, training
from proxynas.core import seeds, settings
from proxynas.core.errors import SpecError
from proxynas.datasets import Dataset, augment
from proxynas.training import Recipe


def images(n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))


def drawn(
    op: str, seed: int = 0, n: int = 1, shape: tuple[int, ...] = (3, 8, 8)
) -> Callable[[Tensor], Tensor]:
    return augment.draw(op, shape, torch.Generator().manual_seed(seed), n)


@pytest.mark.parametrize("op", augment.OPS)
def test_shared_parameters_treat_all_images_alike(op: str) -> None:
    """Siamese: one draw does to each image what it does to it alone, whatever the batch."""
    x = images(5)
    for seed in range(4):
        transform = drawn(op, seed)
        together = transform(x)
        assert together.shape == x.shape
        assert together.dtype == x.dtype
        for i in range(5):
            torch.testing.assert_close(together[i : i + 1], transform(x[i : i + 1]))


@pytest.mark.parametrize("op", augment.OPS)
def test_own_parameters_differ_between_images(op: str) -> None:
    x = images(1).expand(12, -1, -1, -1)
    transformed = drawn(op, 1, 12)(x)
    assert len({tuple(image.flatten().tolist()) for image in transformed}) >= 2
    assert torch.equal(transformed, drawn(op, 1, 12)(x))


@pytest.mark.parametrize("op", augment.OPS)
def test_gradients_against_finite_differences(op: str) -> None:
    x = images(2)[:, :, :5, :6].requires_grad_()
    transform = drawn(op, 3, 2, (3, 5, 6))
    assert torch.autograd.gradcheck(transform, (x,), eps=1e-6, atol=1e-6)


def test_operations_by_hand() -> None:
    x = images(400)
    shift = drawn("crop", 5)(x) - 0  # a shift of at most one pixel: 8 · 0.125
    rows = [
        shift[0, :, 1:7, 1:7].equal(x[0, :, 1 + a : 7 + a, 1 + b : 7 + b])
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
    ]
    assert sum(rows) == 1
    cut = (
        (drawn("cutout", 0, 400)(x) == 0).all(1).sum((1, 2))
    )  # squares of 4 × 4, smaller at the border
    assert cut.max() == 16
    assert cut.min() >= 4
    flipped = drawn("flip", 0, 400)(x)
    turned = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    assert 150 < sum(turned) < 250
    assert all(t or torch.equal(a, b) for t, a, b in zip(turned, flipped, x, strict=True))
    flat = torch.full((400, 3, 8, 8), 2.0)
    assert (
        drawn("color", 0, 400)(flat) - 2
    ).abs().max() <= 0.5 + 1e-6  # a flat image only changes brightness
    assert (drawn("color", 0, 400)(flat) - 2).abs().max() > 0.45


def test_a_rotation_keeps_the_centre_and_lengths() -> None:
    """A point a quarter of the height right of the centre turns by at most 15 degrees, also in a
    wide image.
    """
    y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(64.0) - 31.5, indexing="ij")
    spot = torch.exp(-((x - 8) ** 2 + y**2) / 4)[None, None].double()
    for seed in range(5):
        turned = drawn("rotate", seed, 1, (1, 32, 64))(spot)[0, 0]
        at_x, at_y = (turned * x).sum() / turned.sum(), (turned * y).sum() / turned.sum()
        assert math.hypot(at_x, at_y) == pytest.approx(8, rel=0.02)
        assert abs(math.degrees(math.atan2(at_y, at_x))) <= 15.5


def test_a_scale_is_within_its_factor() -> None:
    y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
    spot = torch.exp(-((x - 8) ** 2 + (y - 8) ** 2) / 4)[None, None].double()
    for seed in range(5):
        transformed = drawn("scale", seed, 1, (1, 32, 32))(spot)[0, 0]
        for axis in (x, y):
            assert 8 / 1.22 < (transformed * axis).sum() / transformed.sum() < 8 * 1.22


def test_one_operation_a_batch_is_drawn_from_the_strategy() -> None:
    x = images(3)
    generator = torch.Generator().manual_seed(0)
    kinds = set()
    for _ in range(40):
        transformed = augment.draw("flip+cutout", (3, 8, 8), generator)(x)
        kinds.add(
            "same"
            if torch.equal(transformed, x)
            else "flip"
            if torch.equal(transformed, x.flip(3))
            else "cutout"
        )
    assert kinds == {"same", "flip", "cutout"}


def test_no_augmentation_draws_nothing() -> None:
    x, generator = images(2), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment.draw("", (3, 8, 8), generator)(x) is x
    assert torch.equal(generator.get_state(), before)


def test_errors() -> None:
    with pytest.raises(
        SpecError, match=r"augment: operations joined by '\+' are expected, of color, .* no 'spin'"
    ):
        augment.draw("crop+spin", (3, 8, 8), torch.Generator())
    with pytest.raises(SpecError, match="is for images"):
        augment.draw("crop", (7,), torch.Generator())
    with pytest.raises(SpecError, match="there is no 'spin'"):
        settings.make(Recipe, {"augment": "spin"})


def replicas(n: int) -> list[torch.nn.Module]:
    nets = []
    for r in range(n):
        with seeds.seeded(r):
            nets.append(
                spaces.load("convnet-grid").build("D1-W32-relu-batchnorm-avgpooling", (1, 8, 8), 10)
            )
    return nets


def test_augmented_training_does_not_depend_on_fusion_or_company(digits: Dataset) -> None:
    recipe = Recipe(updates=5, batch_size=16, augment="crop+rotate+scale+cutout+color+flip")
    x, y = digits.train.x[:60].double(), digits.train.y[:60]
    fused = training.fit([net.double() for net in replicas(3)], x, y, recipe, fused=True)
    each = training.fit([net.double() for net in replicas(3)], x, y, recipe, fused=False)
    alone = training.fit(
        [net.double() for net in replicas(3)[2:]], x, y, recipe, fused=False, replicas=[2]
    )
    torch.testing.assert_close(fused.losses, each.losses, rtol=1e-9, atol=1e-12)
    assert torch.equal(each.losses[2], alone.losses[0])
    plain = training.fit(
        [net.double() for net in replicas(3)], x, y, replace(recipe, augment=""), fused=False
    )
    assert not torch.allclose(plain.losses, each.losses)


def test_an_old_recipe_reads_as_none() -> None:
    assert settings.make(Recipe, {"updates": 5, "lr": 0.1}).augment == ""


def spots(n: int, side: tuple[int, int]) -> Tensor:
    """Images (n, 2, H, W) of noise about different means."""
    x = torch.randn(n, 2, *side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return x + torch.tensor([0.5, -2.0], dtype=torch.float64).view(1, 2, 1, 1)


def one_place(kind: int, **config: object) -> Tensor:
    """The matrix of one image, float64 (1, 2, 3)."""
    usual = {"shift": (0, 0), "factor": (1.0, 1.0), "angle": 0.0, **config}
    return augment.zhao2021_places(
        torch.tensor([kind]),
        torch.tensor([usual["shift"]]),
        torch.tensor([usual["factor"]], dtype=torch.float64),
        torch.tensor([usual["angle"]], dtype=torch.float64),
        (9, 7),
    )


def test_a_shift_of_zhao2021_is_a_crop_of_the_padded_image() -> None:
    x = spots(1, (9, 7))
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    for left, up in ((-4, 3), (0, 0), (2, -1)):
        wanted = padded[:, :, 4 + up : 13 + up, 4 + left : 11 + left]
        actual = augment._sampled(x, one_place(0, shift=(left, up)))
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [(0.8, 1.2), (1.1, 0.9)])
def test_a_scale_of_zhao2021_is_scipys(factor: tuple[float, float]) -> None:
    x = spots(1, (9, 7))
    actual = augment._sampled(x, one_place(1, factor=factor))[0, 0].numpy()
    steps = np.array([1 / factor[1], 1 / factor[0]])  # rows, columns
    centre = np.array([4.0, 3.0])
    wanted = ndimage.affine_transform(
        x[0, 0].numpy(), steps, centre - steps * centre, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(actual, wanted, atol=1e-12)


@pytest.mark.parametrize("degrees", [-45.0, 10.0, 30.0])
def test_a_rotation_of_zhao2021_is_scipys(degrees: float) -> None:
    """Non-square images too: no shear."""
    x = spots(1, (9, 7))
    actual = augment._sampled(x, one_place(2, angle=math.radians(degrees)))[0, 0].numpy()
    wanted = ndimage.rotate(x[0, 0].numpy(), degrees, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(actual, wanted, atol=1e-12)


def test_zhao2021_draws_an_operation_for_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third each is shifted, scaled and turned within the published ranges, and filled with the
    published values.
    """
    places, drawn_values = augment.zhao2021_places, []

    def watched(*values: Tensor) -> Tensor:
        drawn_values.append(values)
        return places(*values)

    monkeypatch.setattr(augment, "zhao2021_places", watched)
    x = spots(900, (9, 7))
    transformed = drawn("zhao2021", 0, 900, (2, 9, 7))(x)
    kind, shift, factor, angle, side = drawn_values[0]
    assert side == (9, 7)
    assert all(250 < (kind == k).sum() < 350 for k in range(3))
    assert all(set(shift[:, axis].tolist()) == set(range(-4, 4)) for axis in range(2))
    assert 0.8 <= factor.min() < 0.81 < 1.19 < factor.max() <= 1.2
    assert (factor[:, 0] != factor[:, 1]).any()
    degrees = torch.rad2deg(angle)
    assert -45 <= degrees.min() < -44 < 44 < degrees.max() <= 45
    mean = x.mean((0, 2, 3))  # (C,)
    for k, fill in enumerate((mean, torch.zeros(2).double(), mean.mean().expand(2))):
        i = int((kind == k).nonzero()[0])
        one = torch.tensor([i])
        theta = places(kind[one], shift[one], factor[one], angle[one], side)
        wanted = torch.stack(
            [augment._sampled(x[one, c : c + 1] - fill[c], theta)[0, 0] + fill[c] for c in range(2)]
        )
        torch.testing.assert_close(transformed[i], wanted, rtol=0, atol=1e-6)


def test_zhao2021_with_one_set_of_parameters_treats_images_alike() -> None:
    x = images(5)
    for seed in range(6):
        transformed = drawn("zhao2021", seed)(x)
        again = drawn("zhao2021", seed)(x.flip(0))
        torch.testing.assert_close(transformed, again.flip(0))
    assert torch.autograd.gradcheck(
        drawn("zhao2021", 1, 2, (3, 5, 6)), (images(2)[:, :, :5, :6].requires_grad_(),)
    )


def test_zhao2021_stands_alone() -> None:
    assert settings.make(Recipe, {"augment": "zhao2021"}).augment == "zhao2021"
    with pytest.raises(SpecError, match="or zhao2021 alone; there is no 'zhao2021'"):
        settings.make(Recipe, {"augment": "crop+zhao2021"})
    with pytest.raises(SpecError, match="is for images"):
        augment.draw("zhao2021", (7,), torch.Generator())
