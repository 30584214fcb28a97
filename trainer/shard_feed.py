"""A stage's samples in the shards where they lie: selected, ordered, decoded, prepared, and held out."""

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shards.labels import Labels, LabelsError, read_labels
from shards.layout import LABELS
from shards.profile import ProfileError
from shards.sample_reader import SampleReader
from shards.selection import Selection
from shards.store import Store, StoreError, open_store
from trainer.dev_evaluation import dev_evaluation
from trainer.distributed import Ranks
from trainer.evaluate import BATCH as EVALUATED_AT_ONCE
from trainer.feed import Fed
from trainer.label_table import LabelTable, label_table
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.loop import Evaluate
from trainer.prepare import Inputs, Preparer
from trainer.roles import dev_selection, training_selection
from trainer.run_request import RunError, RunFailed, RunRequest
from trainer.sample_decoder import BadSamplesError, Wanted
from trainer.sampling import class_balanced_weights
from trainer.stage import Stage

LONGEST_S = 10.0  # AudioSet's windows; a crop is chosen out of what was recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What training samples and held-out ones are read with."""

    stage: Stage
    learner: Learner
    ranks: Ranks
    store: Store
    reader: SampleReader
    labels: Labels

    def loader(self, selection: Selection, *, training: bool, weights: Any = None) -> Loader:
        """Raises ValueError for fewer samples than one batch has.

        In evaluation a process's batches are of one size however many there are: so are their bits.
        """
        stage = self.stage
        held_out = min(EVALUATED_AT_ONCE, stage.batch_size) * self.ranks.world
        return Loader(
            selection,
            self.reader,
            batch_size=stage.batch_size if training else held_out,
            rank=self.ranks.rank,
            world=self.ranks.world,
            seed=stage.seed,
            training=training,
            wanted=self._wanted(training),
            channels=stage.data.channels,
            max_seconds=max(LONGEST_S, stage.data.seconds),
            threads=stage.machine.threads or _own_cores(),
            max_bad_share=stage.data.max_bad_share,
            weights=weights,
        )

    def table(self, selection: Selection) -> LabelTable:
        return label_table(selection, self.labels, text=self.stage.data.text)

    def preparer(self, table: LabelTable, *, text_table: bool = False) -> Preparer:
        return Preparer(
            self.stage,
            table,
            Inputs.of(self.learner),
            device=self.ranks.device,
            recorded_rate=self.reader.profile.sample_rate,
            text_table=text_table,
        )

    def _wanted(self, training: bool) -> Wanted:
        embeds = self.learner.embeds
        frame = (self.stage.augment.frame if training else "central") if "image" in embeds else None
        return Wanted(audio="audio" in embeds, frame=frame)


class ShardData:
    """A stage's data, as a run needs them (`trainer.run.RunData`)."""

    def __init__(self, opened: Opened) -> None:
        """Raises RunError, and what selecting and reading raise."""
        stage = opened.stage
        self._opened = opened
        self._training = training_selection(opened.store, stage.data)
        self._table = opened.table(self._training)
        self._dev = dev_selection(opened.store, stage.data) if stage.evaluations else None
        self.feed = ShardFeed(
            opened.loader(self._training, training=True, weights=self._weights()),
            opened.preparer(self._table, text_table=opened.learner.text_stands_still),
        )
        opened.learner.name_classes(self._table.class_names)
        if "text" in opened.learner.embeds and opened.learner.text_stands_still:
            opened.learner.remember_texts(self._table.texts)
        self.evaluate: Evaluate | None = self._evaluation()

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        held_out = {"dev_samples": len(self._dev)} if self._dev is not None else {}
        return {
            "samples": len(self._training),
            **held_out,
            "splits": ", ".join(f"{split} {count:,}" for split, count in self._training.splits.items()),
            "shards": len(self._training.shards),
            "distinct_texts": len(self._table.texts),
            "query": self._training.sql,
            "key_list_sha256": self._training.key_list_sha256,
        }

    def _weights(self) -> Any:
        if self._opened.stage.data.sampling == "uniform":
            return None
        return class_balanced_weights([labels.tolist() for labels in self._table.label_lists()])

    def _evaluation(self) -> Evaluate | None:
        stage = self._opened.stage
        if not stage.evaluations:
            return None
        if self._dev is None:
            raise RunError(
                f"evaluations={','.join(stage.evaluations)}, but no sample is dev "
                f"(data.dev_from={stage.data.dev_from or 'empty'}, data.dev_share={stage.data.dev_share:g}); "
                "expected a larger data.dev_share, or --set evaluations="
            )
        table = self._opened.table(self._dev)
        return dev_evaluation(
            stage.evaluations,
            self._dev,
            table,
            loader=self._opened.loader(self._dev, training=False),
            preparer=self._opened.preparer(table),
            ranks=self._opened.ranks,
        )


class ShardFeed:
    """Batches from shards, prepared on the device (`trainer.feed.Feed`)."""

    def __init__(self, loader: Loader, preparer: Preparer) -> None:
        self._loader, self._preparer = loader, preparer

    @property
    def steps_per_epoch(self) -> int:
        return self._loader.steps_per_epoch

    def batches(self, step: int) -> Generator[Fed]:
        """Raises RunFailed for shards that cannot be read, or hold too much that does not decode."""
        begin = self._loader.state_at(step)
        try:
            with contextlib.closing(self._loader.batches(begin)) as batches:
                for host in batches:
                    batch = self._preparer.prepare(host, training=True)
                    yield Fed(
                        batch=batch,
                        epoch=host.epoch,
                        waited_s=host.waited_s,
                        replaced=self._loader.replaced,
                    )
        except (BadSamplesError, StoreError) as error:
            raise RunFailed(str(error)) from error


@contextmanager
def open_shards(request: RunRequest, stage: Stage, learner: Learner, ranks: Ranks) -> Iterator[ShardData]:
    """The data of `request` as `stage` uses them. Raises RunError, one line."""
    with ExitStack() as stack:
        try:
            store = open_store(request.data)
            reader = SampleReader(store=store, cache_bytes=round(stage.machine.cache_gb * 1e9))
            stack.enter_context(reader)
            opened = Opened(
                stage=stage,
                learner=learner,
                ranks=ranks,
                store=store,
                reader=reader,
                labels=_labels(store),
            )
            data = ShardData(opened)
        except RunError:
            raise
        except (StoreError, ProfileError, LabelsError, ValueError) as error:
            raise RunError(str(error)) from error
        yield data


def _labels(store: Store) -> Labels:
    try:
        with store.open(LABELS) as file:
            return read_labels(file)
    except FileNotFoundError:
        raise RunError(
            f"{store.url} has no {LABELS}; expected a dataset that `trichord ingest` or `rebuild` made"
        ) from None


def _own_cores() -> int:
    """This process's share of the machine's cores."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(len(os.sched_getaffinity(0)) // beside, 1)
