"""What an objective wants prepared for it; it may say so in attributes, and need not."""

from collections.abc import Iterable, Mapping

from trainer.batch import MODALITIES
from trainer.stage import Objective


def modalities_needed(objective: Objective, towers: Iterable[str]) -> tuple[str, ...]:
    """Which modalities have to be decoded and embedded: its `modalities`, or all that there are towers for.

    Raises ValueError for one without a tower.
    """
    towers = tuple(towers)
    named = tuple(getattr(objective, "modalities", towers))
    if unknown := [modality for modality in named if modality not in towers]:
        raise ValueError(
            f"{name_of(objective)} wants {', '.join(unknown)}; expected some of the model's towers,"
            f" {', '.join(towers)}: give the model that tower, or the objective other pairs"
        )
    return tuple(modality for modality in MODALITIES if modality in named)


def labels_needed(objective: Objective) -> bool:
    """Whether it reads `Batch.targets` or `Batch.label_sets`; one that does not say is given them."""
    return bool(getattr(objective, "needs_labels", True))


def knows_mixup(objective: Objective) -> bool:
    """Whether it says `mixes`: that it reads `Batch.shares`, and so what a mixed sound is a match for."""
    return bool(getattr(objective, "mixes", False))


def parameters_of(objective: Objective) -> Mapping[str, float]:
    """Scalars that the objective has the learner train, with their initial values.

    An objective is a value and owns no weights. The learner makes a parameter of each name, decays none of
    them, saves them with its own, and gives them back among its `scales()`.
    """
    return dict(getattr(objective, "parameters", {}))


def name_of(objective: Objective) -> str:
    """For messages."""
    return getattr(objective, "__name__", type(objective).__name__)
