"""Which samples a stage learns from, which it chooses its best checkpoint by, and which it is judged on."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.annotations import AnnotationError
from shards.selection import NothingSelected, Overlap, Selection, SelectionError, overlap, select_samples
from shards.store import Store
from trainer.label_table import LABEL_TEXT
from trainer.run_request import RunError
from trainer.stage import Data

EVALUATION = "eval"  # AudioSet's own evaluation split

Mask = NDArray[np.bool_]


class RoleError(RunError):
    """Data whose roles contradict one another, or that are not there; one line that says what to do."""


class NoSamples(RoleError):
    """A role that no sample of the dataset has."""


def training_selection(store: Store, data: Data) -> Selection:
    """Samples of `data.train`, with all their columns for learning, without the videos of `dev`.

    Raises RoleError, also where a test split is to be learned from without `train_on_test`.
    """
    _check_roles(data)
    found = _selected(store, data, data.train, where=data.where)
    dev = found.table.column("ytid").filter(pa.array(_is_dev(found, data)))
    if not len(dev):
        return found
    kept = ~_mask(pc.is_in(found.table.column("ytid"), value_set=dev.combine_chunks()))
    if not kept.any():
        raise RoleError(
            f"all {len(found):,} samples are dev; expected a data.dev_share below {data.dev_share:g}"
        )
    return found.only(kept, f"{found.sql} -- but not the videos of dev: {_dev_rule(data)}")


def dev_selection(store: Store, data: Data) -> Selection | None:
    """The samples of `data.dev_from` whose video's hash is below `dev_share`; None where there are none.

    `where` applies to them as it does to the training samples. All windows of a video stay together.
    """
    _check_roles(data)
    if not data.dev_from or data.dev_share <= 0:
        return None
    try:
        found = _selected(store, data, (data.dev_from,), where=data.where)
    except NoSamples:
        return None
    chosen = _is_dev(found, data)
    return found.only(chosen, f"{found.sql} -- only {_dev_rule(data)}") if chosen.any() else None


def test_selection(store: Store, data: Data) -> Selection:
    """All samples of `data.test`: `where` chooses what is learned, not what is judged. Raises RoleError."""
    return _selected(store, data, data.test)


def shared_with_test(store: Store, data: Data, training: Selection) -> Overlap | None:
    """How many training samples have a video or a sound of the test splits; None where none of these is here.

    Nothing is left out for it: the published splits are what they are, and a run says what they share.
    """
    try:
        return overlap(store, training, _selected(store, data, data.test)) if data.test else None
    except NoSamples:
        return None


def dev_draw(ytid: str) -> float:
    """In [0, 1), by a hash of a video's id: below `dev_share` it is dev, in every run."""
    return int.from_bytes(hashlib.sha256(ytid.encode()).digest()[:6]) / 2**48


def _check_roles(data: Data) -> None:
    if not data.train:
        raise RoleError("data.train names no split; expected at least one")
    judged = {EVALUATION, *data.test}
    if data.dev_from in judged:
        raise RoleError(
            f"dev would be cut out of {data.dev_from}, a test split; expected a data.dev_from of its own"
        )
    if (leak := sorted(judged & set(data.train))) and not data.train_on_test:
        raise RoleError(
            f"data.train has {', '.join(leak)}, which results are measured on; expected other splits, or "
            "--set data.train_on_test=true where that is meant"
        )


def _selected(store: Store, data: Data, splits: tuple[str, ...], *, where: str = "") -> Selection:
    columns = ("ytid",) if data.text == LABEL_TEXT else ("ytid", data.text)
    try:
        return select_samples(
            store, splits=splits, where=where, annotations=data.annotations, columns=columns
        )
    except NothingSelected as error:
        raise NoSamples(str(error)) from None
    except (SelectionError, AnnotationError) as error:
        raise RoleError(str(error)) from None


def _is_dev(found: Selection, data: Data) -> Mask:
    """(N,) which samples are dev."""
    mask = np.zeros(len(found), dtype=bool)
    rows = np.flatnonzero(_mask(pc.equal(found.table.column("split").cast(pa.string()), data.dev_from)))
    ytids = found.table.column("ytid").take(rows).to_pylist()
    mask[rows] = [dev_draw(ytid) < data.dev_share for ytid in ytids]
    return mask


def _mask(values: pa.ChunkedArray) -> Mask:
    mask: Mask = values.to_numpy().astype(bool)
    return mask


def _dev_rule(data: Data) -> str:
    return f"{data.dev_from} where trainer.roles.dev_draw(ytid) < {data.dev_share:g}"
