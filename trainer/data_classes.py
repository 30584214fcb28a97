"""How many classes a dataset's table has, and stages whose classifier takes the number from there."""

from shards.labels import LabelsError, read_labels
from shards.layout import LABELS
from shards.store import StoreError, open_store
from trainer.run_request import RunError
from trainer.stage import CLASSES_OF_DATA, Stage, derive
from trainer.stage_view import source_of

_PATH = "model.classes"


def with_classes_of(stage: Stage, address: str) -> Stage:
    """`stage` with as many classes as the table of the dataset at `address` has, if it asks for that.

    Raises RunError where there is no table to ask, and where the stage states another number. A stated number
    without a table passes: whoever opens the dataset misses the table, too.
    """
    if not stage.model.classes:
        return stage
    found = _classes_in(address)
    if stage.model.classes == CLASSES_OF_DATA:
        if not found:
            raise RunError(
                f"{stage.name} has as many classes as its data, and {address} has "
                f"{f'no {LABELS}' if found is None else f'none in its {LABELS}'}; expected a dataset that "
                "`trichord ingest` or `rebuild` made, or --set model.classes=N"
            )
        return derive(stage, f"{LABELS} of the data", model__classes=found)
    if found is not None and stage.model.classes != found:
        raise RunError(
            f"{_PATH} is {stage.model.classes} ({source_of(stage, _PATH)}), and the table of {address} has "
            f"{found} classes; expected as many: --set model.classes={CLASSES_OF_DATA}, or other --data"
        )
    return stage


def _classes_in(address: str) -> int | None:
    """None without a table."""
    try:
        with open_store(address).open(LABELS) as file:
            return len(read_labels(file).indexed)
    except FileNotFoundError:
        return None
    except (StoreError, LabelsError) as error:
        raise RunError(str(error)) from error
