"""The contract of :mod:`proxynas.testing` for every method on every synthetic set: a new method
adds its rows here.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from proxynas import distill, testing
from proxynas.distill.method import State, Task
from proxynas.distill.synthetic import Kind
from proxynas.testing import Case

STUDENT = "D1-W32-relu-instancenorm-avgpooling"
GM = {"student": STUDENT, "real_batch": 16, "outer": 2, "inner": 2}
UNROLL = {"students": [STUDENT], "real_batch": 60, "inner": 4}
IFT = {"student": STUDENT, "real_batch": 60, "inner": 5, "terms": 3}
APM = {"student": STUDENT, "epochs": 20, "checkpoints": 2, "experts": 2, "expert_epochs": 30}
DM = {"student": STUDENT, "real_batch": 16}
MTT = {
    "student": STUDENT,
    "inner": 5,
    "start": 3,
    "lr": 10.0,
    "student_lr": 0.02,
    "rate_lr": 1e-4,
    "experts": 2,
    "expert_lr": 0.05,
    "expert_batch": 30,
}
BATCH_NORM = "D1-W32-relu-batchnorm-avgpooling"
GTN = {"k": 8}
FOUND = {
    "student": "doubling-convnet:D1-W8-none-softplus",
    "real_batch": 60,
    "n_inner": 3,
    "n_hinv": 3,
    "pool": 2,
    "lr": 0.03,
}
RCIG = {**FOUND, "inner_lr": 0.003, "hinv_lr": 0.003}

TABLE: dict[str, tuple[str, dict[str, Any]]] = {  # row: method and settings
    "gm-pixels": ("gm", GM),
    "gm-pixels-not-per-class": ("gm", {**GM, "per_class": False, "real_batch": 60}),
    "gm-pixels-siamese": ("gm", {**GM, "augment": "crop+scale+rotate"}),
    "gm-gtn-lrn": ("gm", {**GM, **GTN, "synthetic": "gtn-lrn"}),
    "gm-gtn-rnd": ("gm", {**GM, **GTN, "synthetic": "gtn-rnd"}),
    "unroll-pixels": ("unroll", {**UNROLL, "replicas": 2}),
    "unroll-pixels-ordered-rates": (
        "unroll",
        {**UNROLL, "ic": 2, "learn_rates": True, "segment": 1},
    ),
    "unroll-gtn-lrn": ("unroll", {**UNROLL, **GTN, "synthetic": "gtn-lrn", "ic": 2}),
    "unroll-gtn-rnd": ("unroll", {**UNROLL, **GTN, "synthetic": "gtn-rnd"}),
    "ift-pixels": ("ift", {**IFT, "augment": "crop"}),
    "ift-pixels-one-student": ("ift", {**IFT, "restart": 0}),
    "ift-gtn-lrn": ("ift", {**IFT, **GTN, "synthetic": "gtn-lrn", "restart": 2}),
    "ift-gtn-rnd": ("ift", {**IFT, **GTN, "synthetic": "gtn-rnd"}),
    "apm": ("apm", APM),
    "apm-segments-reused-batches": (
        "apm",
        {**APM, "segment": 2, "reuse": 2, "batch": 4, "log": False, "lr": 0.1},
    ),
    "rcig": ("rcig", {**FOUND, "life": 2}),
    "rcig-flip-subset": ("rcig", {**RCIG, "flip": True, "subset": 4}),
    "rig": ("rcig", {**RCIG, "linearise": False}),
    "cig": ("rcig", {**RCIG, "reparameterise": False}),
    "vig": ("rcig", {**RCIG, "linearise": False, "reparameterise": False}),
    "rcig-last-layer": ("rcig", {**RCIG, "n_inner": 0, "n_hinv": 0, "outer": "mse"}),
    "dm-pixels": ("dm", DM),
    "dm-noise-augmented-batch-norm": (
        "dm",
        {**DM, "init": "noise", "augment": "crop+scale", "student": BATCH_NORM},
    ),
    "dm-gtn-lrn": ("dm", {**DM, **GTN, "init": "noise", "synthetic": "gtn-lrn"}),
    "dm-gtn-rnd": ("dm", {**DM, **GTN, "init": "noise", "synthetic": "gtn-rnd"}),
    "mtt-pixels": ("mtt", MTT),
    "mtt-augmented-batches-batch-norm": (
        "mtt",
        {**MTT, "init": "noise", "augment": "crop+scale", "batch": 4, "student": BATCH_NORM},
    ),
    "mtt-gtn-lrn": ("mtt", {**MTT, **GTN, "init": "noise", "lr": 0.01, "synthetic": "gtn-lrn"}),
    "mtt-gtn-rnd": ("mtt", {**MTT, **GTN, "init": "noise", "lr": 0.01, "synthetic": "gtn-rnd"}),
    "random": ("random", {}),
    "herding": ("herding", {"width": 8, "updates": 10}),
    "kcenter": ("kcenter", {"width": 8, "updates": 10}),
    "forgetting": ("forgetting", {"width": 8, "epochs": 2}),
    "entropy": ("entropy", {"width": 8, "updates": 10}),
    "el2n": ("el2n", {"width": 8, "updates": 10, "networks": 2}),
    "best-random": ("best-random", {"width": 8, "draws": 2, "updates": 5}),
}


@pytest.mark.parametrize("check", testing.CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("row", TABLE)
def test_contract(row: str, check: Callable[[Case], None]) -> None:
    method, settings = TABLE[row]
    check(Case(distill.find(method), settings))


def test_every_method_and_synthetic_set_has_a_row() -> None:
    rows = {(method, settings.get("synthetic", "pixels")) for method, settings in TABLE.values()}
    wanted = set()
    for name, method in distill.METHODS.items():
        learned = any(field.name == "synthetic" for field in fields(method.settings))
        wanted |= {(name, kind) for kind in (get_args(Kind) if learned else ("pixels",))}
    assert wanted <= rows


def _wrong(**parts: Any) -> Case:
    method, settings = TABLE["gm-pixels"]
    return Case(replace(distill.find(method), **parts), settings)


def _gm() -> Any:
    return distill.find("gm")


def changes_its_argument(task: Task, state: State, k: int) -> tuple[State, float]:
    state["synthetic.x"].add_(1.0)
    return dict(state), 0.0


def draws_globally(task: Task, state: State, k: int) -> tuple[State, float]:
    return {"synthetic.x": state["synthetic.x"] + torch.randn(1)}, 0.0


def remembers_outside(task: Task, state: State, k: int) -> tuple[State, float]:
    COUNT.append(k)
    return {"synthetic.x": state["synthetic.x"] + len(COUNT)}, 0.0


def gives_nan(task: Task, state: State, k: int) -> tuple[State, float]:
    return state, float("nan")


def does_nothing(task: Task, state: State, k: int) -> tuple[State, float]:
    return state, 0.0


def mixes_classes(task: Task, state: State) -> tuple[Tensor, Tensor]:
    x, y = _gm().finish(task, state)
    return x, y.flip(0)


COUNT: list[int] = []


@pytest.mark.parametrize(
    ("check", "parts", "message"),
    [
        (
            testing.does_not_change_its_arguments,
            {"step": changes_its_argument},
            "must not change its argument",
        ),
        (
            testing.does_not_change_its_arguments,
            {"step": draws_globally},
            "global random generator was used",
        ),
        (
            testing.same_seed_same_result,
            {"step": remembers_outside},
            "same seed differ in synthetic.x",
        ),
        (testing.resumes_bit_for_bit, {"step": remembers_outside}, "resumed after 0 steps"),
        (testing.stays_finite, {"step": gives_nan}, "losses must be finite"),
        (testing.improves, {"step": does_nothing}, "did not improve"),
        (testing.keeps_dtype_device_and_shape, {"finish": mixes_classes}, "class by class"),
    ],
)
def test_the_contract_notices(
    check: Callable[[Case], None], parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check(_wrong(**parts))
