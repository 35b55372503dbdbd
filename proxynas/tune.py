"""A proxy set in Ray Tune: a trainable whose trials a scheduler such as ASHA stops early.

    from ray import tune

    import proxynas as pn
    from proxynas.tune import param_space, trainable

    data, space = pn.load_data("digits"), pn.load_space("convnet-grid")
    evaluator = pn.Evaluator(pn.read_proxy("digits-gm-ipc1"), data)
    asha = tune.schedulers.ASHAScheduler(metric="val_accuracy", mode="max")
    tuner = tune.Tuner(
        trainable(space, evaluator),
        param_space=param_space(space),
        tune_config=tune.TuneConfig(num_samples=20, scheduler=asha),
    )
    print(tuner.fit().get_best_result("val_accuracy", "max").metrics["arch"])

Evaluator and space travel once, through Ray's object store. A trial takes seconds and gives the
same numbers whenever it is run, so it has no checkpoints: ``tune.Tuner.restore(path,
trainable(…))`` keeps the trials that ended and runs the others from their start.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from .api.evaluator import INDICATORS, TRAINED, Evaluator, check_indicator
from .core.extras import need
from .spaces import SearchSpace

__all__ = ["param_space", "trainable"]

Networks = SearchSpace | Callable[[Mapping[str, Any]], nn.Module]
Trainable = Callable[[dict[str, Any]], None]


def trainable(
    networks: Networks, evaluator: Evaluator, indicator: str = "val_accuracy", *, seed: int = 0
) -> Trainable:
    """What ``tune.Tuner`` takes: a trial's network, trained on the evaluator's proxy set.

    Args:
        networks: a search space, whose axes are the keys of a trial's config (:func:`param_space`);
            or a function of a config that makes a network.
        evaluator: trains and validates.
        indicator: what is reported at each of the evaluator's ``val_points``, for a scheduler: one
            of ``val_accuracy``, ``val_loss``, ``val_auc``, ``sotl`` and ``sotl_late``.
        seed: of every training.

    The last report of a trial has all indicators, ``seconds``, ``core_seconds``, and ``failed``
    (empty where nothing did); those before have ``indicator`` alone, and NaN for the others. All
    have ``update``, and ``arch`` where there is a space.

    Raises:
        SpecError: an indicator that is none of these, or Ray Tune is not installed.
    """
    check_indicator(indicator, TRAINED)
    wrap = need("ray.tune", "a trainable", "ray").with_parameters
    wrapped: Trainable = wrap(
        _train, networks=networks, evaluator=evaluator, indicator=indicator, seed=seed
    )
    return wrapped


def param_space(space: SearchSpace) -> dict[str, Any]:
    """The axes of a space as Tune's, each a uniform choice.

    Raises:
        SpecError: Ray Tune is not installed.
    """
    choice = need("ray.tune", "a space for Tune", "ray").choice
    return {axis: choice(list(values)) for axis, values in space.axes.items()}


def _train(
    config: dict[str, Any],
    *,
    networks: Networks,
    evaluator: Evaluator,
    indicator: str,
    seed: int,
) -> None:
    """One trial, in a process of Ray's."""
    report = need("ray.tune", "a trial", "ray").report
    updates, data = evaluator.trained_by.updates, evaluator.data
    name, make = "", partial(_made, networks, config)
    if isinstance(networks, SearchSpace):
        name = networks.write({axis: config[axis] for axis in networks.axes})
        make = partial(networks.build, name, data.shape, data.num_classes)
    always: dict[str, Any] = {"arch": name} if name else {}
    nothing = dict.fromkeys((*INDICATORS, "seconds", "core_seconds"), math.nan)

    def tell(update: int, value: float) -> None:
        if update < updates:
            report({**always, **nothing, "failed": "", "update": update, indicator: value})

    evaluation = evaluator.evaluate(make, name=name, indicator=indicator, report=tell, seed=seed)
    times = {"seconds": evaluation.seconds, "core_seconds": evaluation.core_seconds}
    report({**always, **evaluation, **times, "failed": evaluation.failed or "", "update": updates})


def _made(networks: Any, config: Mapping[str, Any]) -> nn.Module:
    network: nn.Module = networks(config)
    return network
