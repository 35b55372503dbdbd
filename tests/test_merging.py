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


def proxy_of(seed: int, n: int = 4, **extra: Any) -> ProxySet:
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
        {**provenance, **extra},
    )


def test_order_labels_and_provenance_are_kept(tmp_path: Path) -> None:
    sets = [proxy_of(0), proxy_of(1, 6), proxy_of(2)]
    merged = proxyset.merge(sets)
    assert torch.equal(merged.x, torch.cat([part.x for part in sets]))
    assert torch.equal(merged.y, torch.cat([part.y for part in sets]))
    assert (merged.recipe, merged.preprocessing, merged.class_names) == (
        sets[0].recipe, sets[0].preprocessing, sets[0].class_names,
    )  # fmt: skip
    provenance = merged.provenance
    assert provenance["merged"] == [part.provenance for part in sets]
    assert (
        provenance["method"],
        provenance["ipc"],
        provenance["data"],
        provenance["fingerprint"],
    ) == (
        "apm",
        7,
        "toy",
        "f",
    )
    assert (
        provenance["seconds"],
        provenance["core_seconds"],
        provenance["peak_mib"],
        provenance["steps"],
    ) == (
        210.0,
        270.0,
        102.0,
        15,
    )
    merged.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert torch.equal(read.x, merged.x)
    assert torch.equal(read.y, merged.y)
    assert read.provenance == json.loads(json.dumps(provenance))


def test_experts_that_all_used_are_paid_for_once() -> None:
    larger = {**POOL, "seconds": 65.0, "core_seconds": 85.0}
    other = {**POOL, "key": "another"}
    merged = proxyset.merge(
        [
            proxy_of(0, shared=POOL),
            proxy_of(1, shared=larger),
            proxy_of(2, shared=other),
            proxy_of(3),
        ]
    )
    assert merged.provenance["seconds"] == pytest.approx(10 + 5 + 10 + 70 + 65 + 60)
    assert merged.provenance["core_seconds"] == pytest.approx(10 + 5 + 10 + 90 + 85 + 80)


def test_merging_in_two_goes_is_merging_at_once() -> None:
    sets = [proxy_of(0, shared=POOL), proxy_of(1, shared=POOL), proxy_of(2, method="gm")]
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
    change, message = OTHERS[case]
    with pytest.raises(ProxyFileError, match=f"set 1 and set 3 cannot be merged: {message}"):
        proxyset.merge([proxy_of(0), proxy_of(1), change(proxy_of(2))])


def test_one_set_alone_is_refused() -> None:
    with pytest.raises(ProxyFileError, match="takes two sets or more, but got 1"):
        proxyset.merge([proxy_of(0)])


def test_steps_of_each_set_follow_those_of_the_one_before() -> None:
    one = replace(
        proxy_of(0), curriculum=Curriculum(torch.tensor([[0, 1], [2, 3]]), torch.tensor([0.1, 0.2]))
    )
    two = replace(proxy_of(1), curriculum=Curriculum(torch.tensor([[3, 0]]), torch.tensor([0.3])))
    merged = proxyset.merge([one, two]).curriculum
    assert merged is not None
    assert merged.rates is not None
    assert merged.order.tolist() == [[0, 1], [2, 3], [7, 4]]
    assert merged.rates.tolist() == pytest.approx([0.1, 0.2, 0.3])
    without = Curriculum(torch.tensor([[0, 1]]))
    for other in (proxy_of(1), replace(proxy_of(1), curriculum=Curriculum(torch.tensor([[0]])))):
        with pytest.raises(ProxyFileError, match="cannot be merged"):
            proxyset.merge([replace(proxy_of(0), curriculum=without), other])


def test_a_merged_set_trains_and_has_no_generator(digits: Dataset) -> None:
    spec = DistillSpec(method="random", ipc=1)
    merged = proxyset.merge([distill(replace(spec, seed=seed), digits) for seed in (0, 1)])
    assert (len(merged), merged.generator) == (20, None)
    assert merged.y.tolist() == [*range(10), *range(10)]
    proxyset.check(merged, digits)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert training.fit([net], merged.x, merged.y, Recipe(updates=3)).failed == (None,)
