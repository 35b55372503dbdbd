"""Zero-cost indicators against closed forms, finite differences, brute force and numpy."""

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxynas.core import seeds
from proxynas.nets import nasbench201
from proxynas.search import zerocost

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def images(
    n: int = 6, shape: tuple[int, ...] = (2, 4, 4), dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(7), dtype=dtype)


def labels(n: int = 6, classes: int = 3) -> Tensor:
    return torch.arange(n) % classes


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with seeds.seeded(seed):
        return make()


def smooth() -> nn.Module:
    """A network without kinks, so that finite differences converge; batch norm couples its
    images."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Conv2d(3, 2, 1),
        nn.Softplus(),
        nn.LayerNorm([2, 4, 4]),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).double()


def rectified() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def cell_network(arch: str = CELL) -> nn.Module:
    return nasbench201.make((2, 4, 4), 3, **nasbench201.operations(arch), channels=4, cells=1)


# --- each against an independent answer


def test_synflow_of_a_linear_network_is_the_sum_over_its_paths() -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)
        )
    )
    a, b, c = (layer.weight.detach().abs().double().numpy() for layer in net)
    paths = sum(
        c[k, j] * b[j, i] * a[i, h]
        for k in range(2)
        for j in range(5)
        for i in range(4)
        for h in range(3)
    )
    assert zerocost.synflow(net, torch.zeros(1, 3)) == pytest.approx(3 * paths, rel=1e-12)


def test_synflow_counts_the_paths_from_a_bias_on() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    a, b = (layer.weight.detach().abs().double() for layer in net)
    bias = net[0].bias.detach().abs().double()
    first, second = (b @ a).sum(), (b @ (a.sum(1) + bias)).sum()
    assert zerocost.synflow(net, torch.zeros(5, 3)) == pytest.approx(
        (first + second).item(), rel=1e-12
    )


class Functional(nn.Module):
    """A network that normalises and rectifies with functions, not modules."""

    def __init__(self, normalise: bool = True) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, bias=False), nn.Linear(16, 3)
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.normalise:
            x = (
                torch.group_norm(x, 2)
                if len(x) == 1
                else F.batch_norm(x, None, None, training=True)
            )
            x = F.layer_norm(x, x.shape[1:])
        return self.fc(F.leaky_relu(F.relu(x)).flatten(1))


def test_synflow_does_without_normalisation() -> None:
    with_it, without = seeded(Functional), seeded(lambda: Functional(normalise=False))
    assert zerocost.synflow(with_it, images()) == zerocost.synflow(without, images()) > 0
    norms = [
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 2, 2]),
    ]
    scores = [
        zerocost.synflow(
            seeded(
                lambda n=n: nn.Sequential(nn.Conv2d(2, 4, 3), n, nn.Flatten(), nn.Linear(16, 3))
            ),
            images(),
        )
        for n in [nn.Identity(), *norms]
    ]
    assert scores == [scores[0]] * 5


def test_synflow_depends_on_neither_images_nor_signs() -> None:
    net = seeded(rectified)
    flipped = copy.deepcopy(net)
    with torch.no_grad():
        for p in flipped.parameters():
            p.neg_()
    assert zerocost.synflow(net, images()) == zerocost.synflow(flipped, images(3).float())


def test_synflow_of_a_deep_network_stays_finite() -> None:
    net = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(50)))
    for layer in net:
        nn.init.ones_(layer.weight)
    assert zerocost.synflow(net, torch.zeros(1, 100)) == pytest.approx(
        50 * 100.0**51, rel=1e-12
    )  # over float32's end


def by_differences(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy in training mode for each weight, by central
    differences."""
    gradients = {}
    with torch.no_grad():
        for name, p in net.named_parameters():
            gradient = torch.zeros_like(p)
            for i in range(p.numel()):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = copy.deepcopy(net).train()
                    dict(moved.named_parameters())[name].view(-1)[i] += step
                    log = moved(x).log_softmax(1)
                    ends.append(-log[torch.arange(len(y)), y].mean())
                gradient.view(-1)[i] = (ends[0] - ends[1]) / 2e-6
            gradients[name] = gradient
    return gradients


def test_snip_and_grad_norm_equal_finite_differences() -> None:
    net, x, y = seeded(smooth), images(), labels()
    gradients = {
        name: g
        for name, g in by_differences(net, x, y).items()
        if name in ("0.weight", "3.weight", "7.weight")
    }
    weights = dict(net.named_parameters())
    assert zerocost.snip(net, x, y) == pytest.approx(
        sum((weights[name] * g).abs().sum().item() for name, g in gradients.items()), rel=1e-6
    )
    assert zerocost.grad_norm(net, x, y) == pytest.approx(
        sum(g.norm().item() for g in gradients.values()), rel=1e-6
    )


def test_soft_labels_are_taken() -> None:
    net, x = seeded(smooth), images()
    soft = F.one_hot(labels(), 3).double()
    assert zerocost.snip(net, x, soft) == pytest.approx(zerocost.snip(net, x, labels()), rel=1e-9)


def brute_force_kernel(codes: list[list[bool]]) -> np.ndarray:
    n, units = len(codes), len(codes[0])
    kernel = np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        kernel[i, j] = units - sum(a != b for a, b in zip(codes[i], codes[j], strict=True))
    return kernel


def test_naswot_equals_brute_force() -> None:
    net, x = seeded(rectified).double(), images()
    first = net[:1](x).detach()
    second = net[:4](x).detach()
    codes = [
        [v > 0 for v in (*a.flatten().tolist(), *b.tolist())]
        for a, b in zip(first, second, strict=True)
    ]
    expected = np.linalg.slogdet(brute_force_kernel(codes))[1]
    assert zerocost.naswot(net, x) == pytest.approx(expected, rel=1e-10)


def test_naswot_sees_rectifiers_called_as_functions_and_of_other_kinds() -> None:
    net, x = seeded(lambda: Functional(normalise=False)).double(), images()
    before = net.conv(x).detach().flatten(1)
    codes = [[v > 0 for v in (*row, *row)] for row in before.tolist()]
    expected = np.linalg.slogdet(brute_force_kernel(codes))[1]
    assert zerocost.naswot(net, x) == pytest.approx(expected, rel=1e-10)
    linear = seeded(lambda: nn.Linear(32, 16)).double()
    kinds = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.PReLU()]
    scores = [zerocost.naswot(nn.Sequential(linear, kind).double(), x.flatten(1)) for kind in kinds]
    assert scores == [scores[0]] * 4
    assert math.isfinite(scores[0])


class DeadBranch(nn.Module):
    """Two branches of one map: only the first one leads to the logits."""

    def __init__(self, rectifier: nn.Module) -> None:
        super().__init__()
        self.live, self.dead, self.fc = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 5, 1), nn.Linear(12, 3)
        self.rectifier = rectifier

    def forward(self, x: Tensor) -> Tensor:
        self.rectifier(self.dead(x))
        return self.fc(self.rectifier(self.live(x)).flatten(1))


RECTIFIERS = {
    "ReLU": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "leaky in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "PReLU": nn.PReLU,
}


@pytest.mark.parametrize("kind", RECTIFIERS)
def test_naswot_counts_the_rectifiers_that_lead_to_the_logits_or_all(kind: str) -> None:
    net, x = seeded(lambda: DeadBranch(RECTIFIERS[kind]())).double(), images()
    live, dead = (branch(x).detach().flatten(1) > 0 for branch in (net.live, net.dead))
    for units, codes in (("reached", live), ("all", torch.cat([live, dead], 1))):
        expected = np.linalg.slogdet(brute_force_kernel(codes.tolist()))[1]
        assert zerocost.naswot(net, x, units) == pytest.approx(expected, rel=1e-10)


def test_naswot_of_a_cell_whose_first_node_leads_nowhere() -> None:
    dead = cell_network(
        "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|"
    )
    without = cell_network(
        "|none~0|+|skip_connect~0|none~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|"
    )
    without.load_state_dict({k: v for k, v in dead.state_dict().items() if "e01" not in k})
    x = images().float()
    score = zerocost.naswot(without, x, "all")
    assert zerocost.naswot(without, x, "reached") == score == zerocost.naswot(dead, x, "reached")
    assert zerocost.naswot(dead, x, "all") != score


def test_naswot_reaches_the_rectifiers_of_a_frozen_network() -> None:
    net, x = seeded(rectified), images().float()
    score = zerocost.naswot(net, x, "all")
    frozen = net.requires_grad_(False)
    assert zerocost.naswot(frozen, x, "reached") == score
    with torch.no_grad():
        assert zerocost.naswot(frozen, x, "reached") == score


class ReachedByHooks:
    """The authors' rule: a module's codes count once a backward pass has come by it
    (``score_networks.py``)."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.reached: set[nn.Module] = set()
        inputs: dict[nn.Module, Tensor] = {}
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda m, i, o: inputs.update({m: i[0].detach()}))
                module.register_full_backward_hook(lambda m, i, o: self.reached.add(m))
        net.train()(x).sum().backward()
        codes = torch.cat([(v > 0).flatten(1) for m, v in inputs.items() if m in self.reached], 1)
        self.score = np.linalg.slogdet(brute_force_kernel(codes.tolist()))[1]


@pytest.mark.parametrize(
    "arch", [CELL, "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"]
)
def test_naswot_equals_the_authors_hooks(arch: str) -> None:
    net, x = seeded(lambda: cell_network(arch)), images().float()
    score = zerocost.naswot(net, x, "reached")
    assert score == pytest.approx(ReachedByHooks(copy.deepcopy(net), x).score, rel=1e-6)


def test_naswot_without_rectifiers_is_nan_and_of_twins_minus_infinity() -> None:
    assert math.isnan(zerocost.naswot(seeded(smooth), images()))
    assert zerocost.naswot(seeded(rectified), images(1).float().repeat(2, 1, 1, 1)) == -math.inf


def test_jacob_cov_equals_numpy() -> None:
    net, x = (
        seeded(
            lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
        ),
        images(),
    )
    net = net.double()
    jacobian = np.stack(
        [
            torch.autograd.functional.jacobian(lambda i: net(i[None]).sum(), image)
            .flatten()
            .numpy()
            for image in x
        ]
    )
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(jacobian))
    expected = -np.sum(np.log(eigenvalues + 1e-5) + 1 / (eigenvalues + 1e-5))
    assert zerocost.jacob_cov(net, x) == pytest.approx(expected, rel=1e-8)


def test_jacob_cov_prefers_images_that_a_network_treats_differently() -> None:
    linear = nn.Sequential(
        nn.Flatten(), nn.Linear(32, 3)
    ).double()  # every image has the same gradient
    assert zerocost.jacob_cov(linear, images()) < zerocost.jacob_cov(
        seeded(rectified).double(), images()
    )


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3)


def test_network_that_ignores_its_input_has_no_score() -> None:
    dead = seeded(lambda: cell_network(NONE))
    x, y = images().float(), labels()
    assert math.isnan(zerocost.jacob_cov(dead, x))
    assert math.isnan(zerocost.jacob_cov(Constant(), x))
    assert (
        zerocost.synflow(dead, x)
        == zerocost.snip(dead, x, y)
        == zerocost.grad_norm(dead, x, y)
        == 0
    )
