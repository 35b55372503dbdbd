"""What a report shows of a decision: its winner, its trust and its cost, in the report's own
terms."""

from collections.abc import Mapping

from ..datasets import Dataset
from ..rank import DecisionCost, words
from ..report import Trust, Winner
from ..specs import SearchSpec
from ..truth import TruthTable
from .decision import Decision
from .winner import TrainedWinner


def shown_winner(
    spec: SearchSpec,
    dataset: Dataset,
    decision: Decision,
    last: TrainedWinner | None,
    table: TruthTable | None,
) -> Winner | None:
    """The winner with its accuracy: that of its last training, else the truth table's, else that it
    was picked by."""
    arch, trained = decision.winner, decision.trained
    if arch is None:
        return None
    if last is not None:
        epochs = words.times(spec.epochs, "epoch")
        accuracy, measure, files = last.test_accuracy, "test_accuracy", last.files
        training = f"trained afresh, {epochs} on all {len(dataset.train):,} training images"
    elif decision.charged and table is not None:
        seeds = int((table.rows["arch"] == arch).sum())
        accuracy, measure, files = float(table.accuracy()[arch]), table.measure, ()
        training = f"from the truth table, mean of {seeds} seed(s)"
    else:
        accuracy, measure, files = float(trained[arch]), "val_accuracy", ()
        training = (
            f"{words.times(spec.epochs, 'epoch')} on all {len(dataset.train):,} training images; "
            "it was picked by this figure"
        )
    room = decision.headroom
    return Winner(
        arch,
        accuracy,
        measure,
        training,
        int(trained.notna().sum()),
        files,
        None if room is None else room.probability,
        0.0 if room is None else max(room.high, 0.0),
        decision.label_epochs,
    )


def shown_trust(decision: Decision) -> Trust | None:
    """The agreement with labels that the ranking had not seen."""
    trust = decision.trust
    if trust is None or not trust.labels:
        return None
    note = "out-of-fold predictions against labels, weighted by how the labels were chosen"
    if decision.label_epochs:
        few = words.times(decision.label_epochs, "epoch")
        note += f"; labels are accuracies after {few}, and so is what the ranking agrees with"
    return Trust(trust.rho, trust.low, trust.high, trust.labels, note, decision.label_epochs)


def decision_cost(
    decision: Decision, last: TrainedWinner | None, stages: Mapping[str, Mapping[str, float]]
) -> DecisionCost:
    """What trainings on the whole data cost."""
    wall = sum(stages.get(name, {}).get("seconds", 0.0) for name in ("labels", "winner"))
    return DecisionCost(
        labels=len(decision.labels),
        label_s=decision.label_s,
        verified=len(decision.verified),
        verify_s=decision.verify_s,
        winner_s=0.0 if last is None else last.seconds,
        charged=decision.charged,
        wall_s=wall,
        label_epochs=decision.label_epochs,
        shortlisted=len(decision.shortlisted),
        shortlist_s=decision.shortlist_s,
    )
