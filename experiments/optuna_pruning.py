"""Does pruning find as good a network for less? Digits, convnet-grid, two processes on one journal.

    python experiments/optuna_pruning.py [SEEDS [SAMPLER]]

For each seed three studies of 40 trials: without pruning, with the median pruner, and with
Hyperband. A trial trains a network on the shipped ten-image GM set; its value is the training loss
sum of 100 updates, asked for at ten points; that takes no validation, so next to none is done. Two
processes share each study through Optuna's JournalStorage. Random sampling (the default) proposes
the same networks to all three; TPESampler goes by what it has seen. The best network of a study is
then looked up in the shipped truth table, which no study sees.
"""

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import proxynas as pn
from proxynas.optuna import Objective, objective

TRIALS, PROCESSES, POINTS, INDICATOR = 40, 2, 10, "sotl"

SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SAMPLER = sys.argv[2] if len(sys.argv) > 2 else "RandomSampler"

PRUNERS: dict[str, Any] = {
    "none": optuna.pruners.NopPruner(),
    "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=10),
    "Hyperband": optuna.pruners.HyperbandPruner(
        min_resource=10, max_resource=100, reduction_factor=3
    ),
}


def take_part(journal: str, goal: Objective, pruner: str, seed: int, trials: int) -> None:
    """What one process adds to the study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="study",
        storage=storage(journal),
        sampler=getattr(optuna.samplers, SAMPLER)(seed=seed),
        pruner=PRUNERS[pruner],
    )
    study.optimize(goal, n_trials=trials)


def storage(journal: str) -> Any:
    """The journal that the processes share."""
    return JournalStorage(JournalFileBackend(journal))


def run(goal: Objective, pruner: str, seed: int, truth: Any) -> dict[str, Any]:
    """One study, whole: what it found, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.log")
        optuna.create_study(
            study_name="study", storage=storage(journal), directions=goal.directions
        )
        share = TRIALS // PROCESSES
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            pool.starmap(
                take_part,
                [
                    (journal, goal, pruner, PROCESSES * seed + process, share)
                    for process in range(PROCESSES)
                ],
            )
        return described(optuna.load_study(study_name="study", storage=storage(journal)), truth)


def described(study: Any, truth: Any) -> dict[str, Any]:
    """What a study found, and what it took."""
    states = [trial.state.name for trial in study.trials]
    best = study.best_trial.user_attrs["arch"]
    return {
        "pruned": states.count("PRUNED"),
        "trials": len(states),
        "core_seconds": sum(trial.user_attrs["core_seconds"] for trial in study.trials),
        "best": best,
        "value": study.best_value,
        "truth": float(truth[best]),
        "best_truth_of_trials": max(
            float(truth[trial.user_attrs["arch"]]) for trial in study.trials
        ),
    }


def main() -> None:
    """Print a line a study, and the means."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data, space = pn.load_data("digits"), pn.load_space("convnet-grid")
    truth = pn.load_truth(space, data).accuracy()
    evaluator = pn.Evaluator(
        pn.read_proxy("digits-gm-ipc1"), data, val_points=POINTS, val_size=10, calibrate=0
    )
    goal = objective(space, evaluator, INDICATOR)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in PRUNERS}
    for seed in range(SEEDS):
        for pruner, done in rows.items():
            done.append(run(goal, pruner, seed, truth))
            print(pruner, seed, json.dumps(done[-1]), flush=True)
    for pruner, done in rows.items():
        means = {
            key: round(mean(row[key] for row in done), 4)
            for key in ("pruned", "core_seconds", "value", "truth", "best_truth_of_trials")
        }
        print(pruner, json.dumps(means))


if __name__ == "__main__":
    main()
