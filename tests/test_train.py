import copy
import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxynas import spaces, training
from proxynas.core import seeds
from proxynas.datasets import Dataset
from proxynas.training import Recipe

ARCHS = [
    "D2-W32-relu-instancenorm-avgpooling",
    "D2-W32-relu-batchnorm-maxpooling",
    "D1-W32-sigmoid-layernorm-none",
    "D4-W32-leakyrelu-groupnorm-avgpooling",
]


def replicas(arch: str, n: int) -> list[nn.Module]:
    nets = []
    for r in range(n):
        with seeds.seeded(r):
            nets.append(spaces.load("convnet-grid").build(arch, (1, 8, 8), 10))
    return nets


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fused_training_is_the_same_training(arch: str, optimizer: str, digits: Dataset) -> None:
    """In float64 the stacked call and one replica after the other agree to rounding, batch
    statistics included.
    """
    recipe = Recipe(updates=6, batch_size=20, optimizer=optimizer, lr=0.01, schedule="cosine")  # type: ignore[arg-type]
    x = digits.train.x[:100].double()
    one = [net.double() for net in replicas(arch, 3)]
    two = copy.deepcopy(one)
    a = training.fit(one, x, digits.train.y[:100], recipe, fused=False)
    b = training.fit(two, x, digits.train.y[:100], recipe, fused=True)
    torch.testing.assert_close(a.losses, b.losses, rtol=1e-9, atol=1e-12)
    for left, right in zip(one, two, strict=True):
        for (name, p), (_, q) in zip(
            left.state_dict().items(), right.state_dict().items(), strict=True
        ):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-10, msg=name)


def test_against_a_loop_written_with_pytorch_alone(digits: Dataset) -> None:
    net, mine = (replicas(ARCHS[0], 1)[0] for _ in range(2))
    x, y = digits.train.x[:30], digits.train.y[:30]
    recipe = Recipe(
        updates=5, batch_size=30, lr=0.05, momentum=0.9, weight_decay=1e-3, schedule="step"
    )
    trained = training.fit([mine], x, y, recipe)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    expected = []
    for k in range(5):
        optimizer.param_groups[0]["lr"] = 0.05 if k < 2.5 else 0.005
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    torch.testing.assert_close(
        trained.losses[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5
    )
    assert trained.sotl().item() == pytest.approx(sum(expected), rel=1e-4)
    assert trained.sotl(burn_in=3).item() == pytest.approx(sum(expected[3:]), rel=1e-4)


def test_same_seed_same_bits(digits: Dataset) -> None:
    runs = [
        training.fit(
            replicas(ARCHS[1], 2), digits.train.x, digits.train.y, Recipe(updates=4, batch_size=16)
        )
        for _ in "ab"
    ]
    assert torch.equal(runs[0].losses, runs[1].losses)


def test_replicas_are_independent_of_their_company(digits: Dataset) -> None:
    recipe, data = Recipe(updates=4, batch_size=16), (digits.train.x, digits.train.y)
    both = training.fit(replicas(ARCHS[0], 2), *data, recipe, fused=False)
    alone = training.fit(replicas(ARCHS[0], 2)[1:], *data, recipe, replicas=[1], fused=False)
    assert torch.equal(both.losses[1], alone.losses[0])
    assert not torch.equal(both.losses[0], both.losses[1])


def test_batches_visit_everything_once_a_pass() -> None:
    stream = training.batches(10, Recipe(batch_size=4), seeds.generator(0))
    seen = torch.cat(list(islice(stream, 5)))
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert len(next(training.batches(3, Recipe(batch_size=256), seeds.generator(0)))) == 3


def test_a_loss_that_explodes_ends_the_replica_and_says_when(digits: Dataset) -> None:
    nets = replicas("D2-W32-relu-none-none", 3)
    with torch.no_grad():
        next(nets[1].parameters()).fill_(math.inf)
    for fused in (False, True):
        trained = training.fit(
            copy.deepcopy(nets),
            digits.train.x[:20],
            digits.train.y[:20],
            Recipe(updates=30),
            fused=fused,
        )
        assert trained.failed[0] is None
        assert trained.failed[2] is None
        assert trained.failed[1] == "the training loss stopped being finite at update 0"
        assert trained.losses[1].isnan().all()
        assert trained.losses[0].isfinite().all()


def test_losses_on_soft_labels() -> None:
    logits, soft = torch.randn(4, 3), torch.rand(4, 3).softmax(1)
    cross = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(training.loss_of(logits, soft, "cross-entropy"), cross)
    torch.testing.assert_close(training.loss_of(logits, soft, "l1"), (logits - soft).abs().mean())
    hard = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(
        training.loss_of(logits, hard, "mse"), (logits - torch.eye(3)[hard]).square().mean()
    )


def test_evaluate_counts(digits: Dataset) -> None:
    net = nn.Flatten()  # the "logits" are the pixels
    x = torch.zeros(5, 1, 2, 2)
    x[torch.arange(5), 0, 0, 1] = 9.0  # all say class 1
    accuracy, loss = training.evaluate(net, x, torch.tensor([1, 1, 1, 0, 2]), batch_size=2)
    assert accuracy == pytest.approx(0.6)
    assert loss == pytest.approx(
        F.cross_entropy(x.flatten(1), torch.tensor([1, 1, 1, 0, 2])).item(), rel=1e-5
    )


def test_rates() -> None:
    assert training.rate_at(Recipe(lr=1.0, updates=10), 9) == 1.0
    assert training.rate_at(Recipe(lr=1.0, updates=10, schedule="step"), 4) == 1.0
    assert training.rate_at(Recipe(lr=1.0, updates=10, schedule="step"), 5) == pytest.approx(0.1)
    assert training.rate_at(Recipe(lr=1.0, updates=10, schedule="cosine"), 5) == pytest.approx(0.5)
    most = Recipe(lr=1.0, updates=10**7, schedule="cosine")  # one is known without the others
    assert training.rate_at(most, 5 * 10**6) == pytest.approx(0.5)
    warm = Recipe(lr=1.0, updates=14, schedule="cosine", warmup=4)
    assert [training.rate_at(warm, update) for update in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert training.rate_at(warm, 9) == pytest.approx(0.5)
    assert training.rate_at(
        Recipe(lr=1.0, updates=14, schedule="step", warmup=4), 9
    ) == pytest.approx(0.1)


@pytest.mark.parametrize("fused", [True, False])
def test_watching_sees_the_networks_on_their_way_and_changes_nothing(
    fused: bool, digits: Dataset
) -> None:
    x, y, recipe = digits.train.x[:20], digits.train.y[:20], Recipe(updates=6, batch_size=10)
    seen: dict[tuple[int, int], float] = {}
    histories: dict[int, Tensor] = {}
    nets = replicas(ARCHS[1], 2)

    def watch(place: int, net: nn.Module, losses: Tensor) -> None:
        histories[place] = losses
        training.calibrate(net, x)
        seen[place, len(seen)] = training.evaluate(net, x, y)[1]

    watched = training.fit(nets, x, y, recipe, fused=fused, watch=watch, watch_at=[2, 4])
    alone = training.fit(replicas(ARCHS[1], 2), x, y, recipe, fused=fused)
    assert sorted(place for place, _ in seen) == [0, 0, 1, 1]
    assert torch.equal(watched.losses, alone.losses)
    for place, history in histories.items():
        assert torch.equal(history, alone.losses[place, :4])
    half = training.fit(replicas(ARCHS[1], 2), x, y, Recipe(updates=2, batch_size=10), fused=fused)
    training.calibrate(half.nets[0], x)
    assert training.evaluate(half.nets[0], x, y)[1] == pytest.approx(
        next(iter(seen.values())), rel=1e-5
    )


def test_calibration_gives_batch_norms_the_averages_of_what_they_see(digits: Dataset) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.0))
    weights = copy.deepcopy(dict(net.named_parameters()))
    training.calibrate(net, digits.train.x[:50])
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.momentum == 0.1
    assert norm.running_mean is not None
    assert norm.running_var is not None
    flat = digits.train.x[:50].flatten(1)
    torch.testing.assert_close(norm.running_mean, flat.mean(0))
    torch.testing.assert_close(norm.running_var, flat.var(0))
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
