"""Settings of labels, verification and the winner."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .option import DECISION, NotNegative, Option, Positive, PositiveNumber
from .recipe import Recipe, whole_data_recipe


@checked(frozen=True, config=settings.CONFIG)
class DecisionSpec:
    """Which candidates are trained on the whole real data, and how: SGD with a cosine, as
    ``proxynas truth`` does."""

    label: Annotated[
        NotNegative,
        Option(
            "Candidates to train on the whole data, to fit a predictor and to check the ranking; "
            "0: none.",
            DECISION,
        ),
    ] = 20
    label_epochs: Annotated[
        NotNegative | None,
        Option(
            "Epochs of labels, and of the best by prediction (--shortlist), of which the best are "
            "verified; 0: as many as --epochs. Default: a quarter of --epochs; 0 where a truth "
            "table that knows all candidates is charged and there is no label table.",
            DECISION,
        ),
    ] = None
    shortlist: Annotated[
        NotNegative | None,
        Option(
            "With labels of fewer epochs: best by prediction to train as long, before "
            "verification. Default: as many as labels.",
            DECISION,
        ),
    ] = None
    label_table: Annotated[
        str | None,
        Option(
            "Where a truth table is charged for accuracies: the table (CSV) of those after "
            "--label-epochs (see 'proxynas truth import'). Default: one that ships.",
            DECISION,
            metavar="FILE",
        ),
    ] = None
    verify: Annotated[
        NotNegative,
        Option(
            "Best-ranked candidates to train on the whole data before the winner is picked; "
            "0: none.",
            DECISION,
        ),
    ] = 5
    epochs: Annotated[Positive, Option("Passes over the whole data.", DECISION)] = 12
    whole_batch_size: Annotated[Positive, Option("Batch size on the whole data.", DECISION)] = 25
    whole_lr: Annotated[
        PositiveNumber,
        Option("Learning rate at the start of these; a cosine takes it to zero.", DECISION),
    ] = 0.01
    oracle: Annotated[
        Literal["auto", "none"],
        Option(
            "auto: read accuracies from the truth table where it knows all candidates, and charge "
            "for them; none: always train.",
            DECISION,
        ),
    ] = "auto"
    train_winner: Annotated[
        Literal["auto", "always", "never"],
        Option(
            "Train the winner afresh on the whole data and save its weights; auto: unless the "
            "truth table was imported.",
            DECISION,
        ),
    ] = "auto"

    def whole_recipe(self, n: int) -> Recipe:
        """How networks are trained on ``n`` real images: SGD with momentum 0.9, weight decay 5e-4
        and a cosine."""
        return whole_data_recipe(n, self.epochs, self.whole_batch_size, self.whole_lr)

    def short_recipe(self, n: int) -> Recipe:
        """The same for ``label_epochs``: the cosine ends at zero then."""
        epochs = self.label_epochs or self.epochs
        return whole_data_recipe(n, epochs, self.whole_batch_size, self.whole_lr)

    @property
    def shortlisted(self) -> int:
        """How many candidates get a short training beside the labels."""
        if not self.label_epochs:
            return 0
        return self.label if self.shortlist is None else self.shortlist
