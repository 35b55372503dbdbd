import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proxynas import proxyset, training
from proxynas.core.errors import ProxyFileError
from proxynas.datasets import Dataset, Preprocessing
from proxynas.distill.loop import distill
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec
from proxynas.training import Recipe
from proxynas.training.curriculum import Curriculum

POOL = {"what": "experts", "key": "abc", "seconds": 60.0, "core_seconds": 80.0}


def made(seed: int, n: int = 4, **told: Any) -> ProxySet:
    generator = torch.Generator().manual_seed(seed)
    provenance = {
        "method": "apm",
        "ipc": n // 2,
        "seed": seed,
        "data": "toy",
        "fingerprint": "f",
        "steps": 5,
        "seconds": 70.0,
        "core_seconds": 90.0,
        "peak_mib": 100.0 + seed,
        "losses": [1.0],
    }
    return ProxySet(
        torch.randn(n, 1, 3, 3, generator=generator),
        torch.randn(n, 2, generator=generator),
        Preprocessing((0.5,), (2.0,)),
        ("a", "b"),
        Recipe(loss="l1"),
        {**provenance, **told},
    )


def test_order_labels_and_provenance_are_kept(tmp_path: Path) -> None:
    sets = [made(0), made(1, 6), made(2)]
    found = proxyset.merge(sets)
    assert torch.equal(found.x, torch.cat([part.x for part in sets]))
    assert torch.equal(found.y, torch.cat([part.y for part in sets]))
    assert (found.recipe, found.preprocessing, found.class_names) == (
        sets[0].recipe, sets[0].preprocessing, sets[0].class_names,
    )  # fmt: skip
    told = found.provenance
    assert told["merged"] == [part.provenance for part in sets]
    assert (told["method"], told["ipc"], told["data"], told["fingerprint"]) == (
        "apm",
        7,
        "toy",
        "f",
    )
    assert (told["seconds"], told["core_seconds"], told["peak_mib"], told["steps"]) == (
        210.0,
        270.0,
        102.0,
        15,
    )
    found.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert torch.equal(read.x, found.x)
    assert torch.equal(read.y, found.y)
    assert read.provenance == json.loads(json.dumps(told))


def test_experts_that_all_used_are_paid_for_once() -> None:
    larger = {**POOL, "seconds": 65.0, "core_seconds": 85.0}
    other = {**POOL, "key": "another"}
    found = proxyset.merge(
        [made(0, shared=POOL), made(1, shared=larger), made(2, shared=other), made(3)]
    )
    assert found.provenance["seconds"] == pytest.approx(10 + 5 + 10 + 70 + 65 + 60)
    assert found.provenance["core_seconds"] == pytest.approx(10 + 5 + 10 + 90 + 85 + 80)


def test_merging_in_two_goes_is_merging_at_once() -> None:
    sets = [made(0, shared=POOL), made(1, shared=POOL), made(2, method="gm")]
    once, twice = proxyset.merge(sets), proxyset.merge([proxyset.merge(sets[:2]), sets[2]])
    assert once.provenance == twice.provenance
    assert once.provenance["method"] == "apm+gm"
    assert torch.equal(once.x, twice.x)


def hard(part: ProxySet) -> ProxySet:
    return replace(part, y=part.hard_labels())


OTHERS = {
    "data": (
        lambda s: replace(s, provenance={**s.provenance, "fingerprint": "g"}),
        "data is f and g",
    ),
    "preprocessing": (
        lambda s: replace(s, preprocessing=Preprocessing((0.4,), (2.0,))),
        "preprocessing is",
    ),
    "hard labels": (hard, "kind of labels is soft, for l1 and hard"),
    "other soft labels": (
        lambda s: replace(s, recipe=Recipe(loss="mse")),
        "kind of labels is soft, for l1 and soft, for mse",
    ),
    "shape": (lambda s: replace(s, x=s.x[..., :2]), "image shape is"),
    "classes": (lambda s: replace(s, class_names=("a", "c")), "classes is"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_sets_that_do_not_go_together_are_refused(case: str) -> None:
    change, said = OTHERS[case]
    with pytest.raises(ProxyFileError, match=f"set 1 and set 3 cannot be merged: {said}"):
        proxyset.merge([made(0), made(1), change(made(2))])


def test_one_set_alone_is_refused() -> None:
    with pytest.raises(ProxyFileError, match="takes two sets or more, but got 1"):
        proxyset.merge([made(0)])


def test_steps_of_each_set_follow_those_of_the_one_before() -> None:
    one = replace(
        made(0), curriculum=Curriculum(torch.tensor([[0, 1], [2, 3]]), torch.tensor([0.1, 0.2]))
    )
    two = replace(made(1), curriculum=Curriculum(torch.tensor([[3, 0]]), torch.tensor([0.3])))
    found = proxyset.merge([one, two]).curriculum
    assert found is not None
    assert found.rates is not None
    assert found.order.tolist() == [[0, 1], [2, 3], [7, 4]]
    assert found.rates.tolist() == pytest.approx([0.1, 0.2, 0.3])
    without = Curriculum(torch.tensor([[0, 1]]))
    for other in (made(1), replace(made(1), curriculum=Curriculum(torch.tensor([[0]])))):
        with pytest.raises(ProxyFileError, match="cannot be merged"):
            proxyset.merge([replace(made(0), curriculum=without), other])


def test_a_merged_set_trains_and_has_no_generator(digits: Dataset) -> None:
    spec = DistillSpec(method="random", ipc=1)
    found = proxyset.merge([distill(replace(spec, seed=seed), digits) for seed in (0, 1)])
    assert (len(found), found.generator) == (20, None)
    assert found.y.tolist() == [*range(10), *range(10)]
    proxyset.check(found, digits)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert training.fit([net], found.x, found.y, Recipe(updates=3)).failed == (None,)
