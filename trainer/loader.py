"""Batches of decoded samples, straight from the shards: exact in their order, resumable at any step.

Threads fill slots of memory that is taken once. All that decides what a batch holds is the selection and the
state; threads, processes and shards decide only how fast it comes.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from shards.sample_reader import SampleReader
from trainer.filling import Filling, Plan
from trainer.host_batch import HostBatch
from trainer.order import (
    INTERLEAVE,
    WINDOW,
    LoaderState,
    Part,
    Rows,
    drawn_order,
    epoch_order,
    padded_order,
)
from trainer.sample_decoder import (
    DEFAULT_SIDE,
    BadSamplesError,
    Decoded,
    SampleDecoder,
    Samples,
    Wanted,
)
from trainer.slots import Slot

LOOKAHEAD = 3  # batches decoded before they are asked for
LEAD = 512  # samples, or a window: how far ahead far members are asked for
ROOM = 4  # windows that a cache should hold: being read, asked for, and the ends of their blocks
SCOUTS = 4  # threads that open far shards in time
JUDGED = 1000  # samples, or all of them, before their bad share is judged
NAMED = 5  # bad samples in the message that ends a run

log = logging.getLogger(__name__)


class Loader:
    """One process's part of every batch of a selection.

    In training an epoch is its N // batch_size whole batches, each sample at most once, in an order that
    follows from seed and epoch; the N % batch_size left out do too. With `weights` samples are drawn with
    replacement instead. With `training=False` samples come in order, once each, and the last batch is filled
    up with samples that `valid` marks as none.
    """

    def __init__(
        self,
        selection: Samples,
        reader: SampleReader,
        *,
        batch_size: int,  # of all processes together
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        training: bool = True,
        wanted: Wanted = Wanted(),  # noqa: B008  # a frozen value
        channels: int = 1,
        max_seconds: float = 10.0,  # of sound; what is longer is cut at its end
        threads: int = 0,  # that decode; 0: one per core
        max_bad_share: float = 0.01,  # of samples that do not decode; more raise BadSamplesError
        weights: NDArray[np.float64] | None = None,  # (N,) relative probabilities
        lookahead: int = LOOKAHEAD,
        interleave: int = INTERLEAVE,
        window: int = WINDOW,
        lead: int = LEAD,
    ) -> None:
        self.part = Part(batch_size=batch_size, rank=rank, world=world)
        self.samples = len(selection)
        self.training, self.wanted, self.seed = training, wanted, seed
        self.max_bad_share = max_bad_share
        self.bad: dict[str, str] = {}  # key → why it did not decode, of this process's since it began
        self._seen = 0
        self._threads = threads or _cores()
        self._lookahead, self._ahead = lookahead, max(window, lead) // world
        self._reader, self._selection = reader, selection
        self._shard_of = np.asarray(selection.shard_of)
        self._new_decoder: Callable[[], SampleDecoder] = partial(
            SampleDecoder,
            keys=selection.keys,
            shards=selection.shards,
            shard_of=self._shard_of,
            reader=reader,
            wanted=wanted,
        )
        self._new_slot = _slots(reader, wanted, channels, max_seconds, self.part.size)
        self._weights, self._interleave, self._window = weights, interleave, window
        self._order = lru_cache(maxsize=3)(self._new_order)
        self._check_size(batch_size)

    def _check_size(self, batch_size: int) -> None:
        if self.samples < (batch_size if self.training else 1):
            raise ValueError(
                f"{self.samples} samples for batches of {batch_size}; expected at least one batch: select "
                "more, or give a smaller batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank."""
        whole, rest = divmod(self.samples, self.part.batch_size)
        return whole if self.training else whole + (rest > 0)

    @property
    def start(self) -> LoaderState:
        return LoaderState(seed=self.seed)

    @property
    def replaced(self) -> int:
        """Samples that did not decode so far."""
        return len(self.bad)

    def state_at(self, step: int) -> LoaderState:
        """The state before global step `step`, counted over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return LoaderState(seed=self.seed, epoch=epoch, step=within)

    def batches(self, state: LoaderState | None = None) -> Generator[HostBatch, None, None]:
        """From `state` on: in training without end, in evaluation to the end of the epoch.

        Asking for the next batch releases the last one. Closing the iterator, as leaving a loop over it
        does, ends its threads. Raises BadSamplesError, and StoreError where the shards cannot be read.
        """
        begin = state or self.start
        plan = Plan(
            start=begin,
            steps_per_epoch=self.steps_per_epoch,
            epochs=None if self.training else 1,
            rows_of=partial(self._rows_of, begin.seed),
        )
        filling = Filling(
            plan,
            slots=[self._new_slot() for _ in range(self._lookahead + 1)],
            decoders=[self._new_decoder() for _ in range(self._threads)],
            scouts=[self._new_decoder() for _ in range(SCOUTS if self._reader.far else 0)],
            scout_ahead=-(-self._lead() // self.part.size),
        )
        return self._judged(filling)

    def _lead(self) -> int:
        """Samples that are asked for ahead: they must not drive out what has not been read yet."""
        if not self._reader.far:
            return self._ahead
        first = self._shard_of[0]
        room = self._reader.room(self._selection.shards[first], int((self._shard_of == first).sum()))
        enough = ROOM * (min(self._window, self.samples) if self.training else 0)
        if room < enough:
            log.warning(
                "a cache of %.3g GB for blocks may drive out what is needed soon, to be fetched again; "
                "expected machine.cache_gb=%.3g or more",
                self._reader.cache_bytes / 1e9,
                self._reader.cache_bytes / 1e9 * enough / max(room, 1),
            )
        return min(self._ahead, room // 2 // self.part.world)

    def _judged(self, filling: Filling) -> Generator[HostBatch, None, None]:
        with contextlib.closing(filling.turns()) as turns:
            for batch, decoded in turns:
                self._judge(decoded)
                # what does not decode is replaced in training; an evaluation goes without it
                yield batch if self.training else _without_bad(batch, decoded)

    def _judge(self, decoded: Sequence[Decoded]) -> None:
        """Log and count what did not decode; BadSamplesError when that is too much."""
        self._seen += len(decoded)
        for each in decoded:
            for key, reason in each.bad:
                if key not in self.bad:
                    log.warning("sample %s does not decode: %s; %s takes its place", key, reason, each.key)
                self.bad[key] = reason
        limit = self.max_bad_share * max(self._seen, min(JUDGED, self.samples // self.part.world))
        if len(self.bad) > limit:
            raise BadSamplesError(_too_many(self.bad, self._seen, self.max_bad_share))

    def _rows_of(self, seed: int, epoch: int, step: int) -> tuple[Rows, NDArray[np.bool_]]:
        """(rows, valid) of this process's part of a step."""
        rows, valid = self._order(seed, epoch)
        part = self.part.positions(step)
        return rows[part], valid[part]

    def _new_order(self, seed: int, epoch: int) -> tuple[Rows, NDArray[np.bool_]]:
        if not self.training:
            return padded_order(self.samples, self.part.batch_size)
        if self._weights is not None:
            rows = drawn_order(self._weights, seed, epoch)
        else:
            rows = epoch_order(self._shard_of, seed, epoch, interleave=self._interleave, window=self._window)
        return rows, np.ones(len(rows), np.bool_)


def _cores() -> int:
    """Those that this process may use, where the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _slots(
    reader: SampleReader, wanted: Wanted, channels: int, max_seconds: float, samples: int
) -> Callable[[], Slot]:
    return partial(
        Slot.of,
        samples,
        channels=channels if wanted.audio else 0,
        frames_per_channel=round(max_seconds * reader.profile.sample_rate),
        side=(wanted.side or reader.profile.short_side or DEFAULT_SIDE) if wanted.frame else 0,
    )


def _without_bad(batch: HostBatch, decoded: Sequence[Decoded]) -> HostBatch:
    good = np.array([not each.bad for each in decoded], np.bool_)
    return replace(batch, valid=batch.valid & good)


def _too_many(bad: Mapping[str, str], seen: int, share: float) -> str:
    some = "; ".join(f"{key} ({reason})" for key, reason in list(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return (
        f"{len(bad)} of {seen} samples do not decode, more than max_bad_share = {share:g} allows: "
        f"{some}{more}. `trichord verify --deep` says what is damaged; raise max_bad_share to go on"
    )
