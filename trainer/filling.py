"""Threads that fill slots with samples, a few batches ahead of whoever takes them."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shards.store import StoreError
from shards.tar import TarError
from trainer.host_batch import Fence, HostBatch
from trainer.order import LoaderState, Rows
from trainer.sample_decoder import Decoded, SampleDecoder
from trainer.slots import Slot

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one process's batches hold."""

    start: LoaderState
    steps_per_epoch: int
    epochs: int | None  # None: without end
    rows_of: Callable[[int, int], tuple[Rows, NDArray[np.bool_]]]  # (epoch, step) -> (rows, valid)

    def state(self, turn: int) -> LoaderState | None:
        """Of the batch that is `turn` batches behind the start; None after the last one."""
        at = self.start.epoch * self.steps_per_epoch + self.start.step + turn
        epoch, step = divmod(at, self.steps_per_epoch)
        if self.epochs is not None and epoch >= self.start.epoch + self.epochs:
            return None
        return LoaderState(seed=self.start.seed, epoch=epoch, step=step)


@dataclass(kw_only=True)
class _Turn:
    """A batch being filled."""

    state: LoaderState
    rows: Rows
    valid: NDArray[np.bool_]
    slot: Slot
    taken: int = 0  # places that a thread has begun with
    done: int = 0
    decoded: list[Decoded | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decoded = [None] * len(self.rows)

    @property
    def whole(self) -> bool:
        return self.done == len(self.rows)


class Filling:
    """One pass over a plan: a ring of slots, threads with a decoder each, and one taker."""

    def __init__(
        self,
        plan: Plan,
        *,
        slots: Sequence[Slot],
        decoders: Sequence[SampleDecoder],
        scouts: Sequence[SampleDecoder] = (),  # go ahead and have far samples brought near
        scout_ahead: int = 0,  # turns
    ) -> None:
        self._plan, self._slots = plan, slots
        self._scout_ahead = scout_ahead
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # for the threads: a slot is free, or all is over
        self._filled = threading.Condition(
            self._lock
        )  # for the taker: a batch is whole, or a thread has died
        self._turns: dict[int, _Turn] = {}
        self._next = 0  # turn that threads fill
        self._released = 0  # turns whose slots are free again
        self._stopped = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._fill, args=(each,), name=f"trichord-decode-{number}", daemon=True)
            for number, each in enumerate(decoders)
        ]
        self._threads += [
            threading.Thread(
                target=self._scout,
                args=(each, first, len(scouts)),
                name=f"trichord-scout-{first}",
                daemon=True,
            )
            for first, each in enumerate(scouts)
        ]

    def turns(self) -> Generator[tuple[HostBatch, list[Decoded]], None, None]:
        """Each batch with what came to lie at its places; whatever ends this ends the threads."""
        for thread in self._threads:
            thread.start()
        try:
            turn = 0
            while self._plan.state(turn) is not None:
                begun = time.perf_counter()
                taken = self._wait(turn)
                yield self._batch(turn, taken, time.perf_counter() - begun)
                self._release(turn, None)
                turn += 1
        finally:
            self._stop()

    def _wait(self, turn: int) -> _Turn:
        with self._lock:
            while self._error is None and not (turn in self._turns and self._turns[turn].whole):
                self._filled.wait()
            if self._error is not None:
                raise self._error
            return self._turns.pop(turn)

    def _batch(self, number: int, turn: _Turn, waited_s: float) -> tuple[HostBatch, list[Decoded]]:
        decoded = [each for each in turn.decoded if each is not None]
        batch = HostBatch(
            rows=np.array([each.row for each in decoded], np.int64),
            keys=tuple(each.key for each in decoded),
            audio=turn.slot.audio,
            lengths=turn.slot.lengths,
            frames=turn.slot.frames,
            seeds=np.array([each.seed for each in decoded], np.int64),
            valid=turn.valid,
            epoch=turn.state.epoch,
            step=turn.state.step,
            waited_s=waited_s,
            on_release=lambda after: self._release(number, after),
        )
        return batch, decoded

    def _release(self, turn: int, after: Fence | None) -> None:
        with self._lock:
            if turn == self._released:  # not for the second time
                self._slots[turn % len(self._slots)].fence = after
                self._released += 1
                self._changed.notify_all()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _fill(self, decoder: SampleDecoder) -> None:
        try:
            while (work := self._take()) is not None:
                turn, place = work
                turn.slot.wait()
                state, row = turn.state, int(turn.rows[place])
                turn.decoded[place] = decoder.decode(row, state.seed, state.epoch, turn.slot, place)
                self._finish(turn)
        except BaseException as error:  # the taker raises it
            self._fail(error)

    def _take(self) -> tuple[_Turn, int] | None:
        """The next place to fill; waits while every slot is in use, None when there is no more to do."""
        with self._lock:
            while not self._stopped:
                if self._next >= self._released + len(self._slots):
                    self._changed.wait()
                    continue
                turn = self._turns.get(self._next) or self._begin(self._next)
                if turn is None:
                    return None
                turn.taken += 1
                if turn.taken == len(turn.rows):
                    self._next += 1
                return turn, turn.taken - 1
            return None

    def _begin(self, number: int) -> _Turn | None:
        state = self._plan.state(number)
        if state is None:
            return None
        rows, valid = self._plan.rows_of(state.epoch, state.step)
        turn = _Turn(state=state, rows=rows, valid=valid, slot=self._slots[number % len(self._slots)])
        self._turns[number] = turn
        return turn

    def _finish(self, turn: _Turn) -> None:
        with self._lock:
            turn.done += 1
            if turn.whole:
                self._filled.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error, self._stopped = self._error or error, True
            self._filled.notify_all()
            self._changed.notify_all()

    def _scout(self, decoder: SampleDecoder, first: int, stride: int) -> None:
        """Every `stride`-th turn from `first` on: several scouts open several shards at once."""
        try:
            for number in itertools.count(first, stride):
                state = self._plan.state(number)
                if state is None or not self._wait_until_near(number):
                    return
                rows, _ = self._plan.rows_of(state.epoch, state.step)
                self._announce(decoder, rows.tolist(), state)
        except BaseException as error:  # the taker raises it
            self._fail(error)

    def _announce(self, decoder: SampleDecoder, rows: Sequence[int], state: LoaderState) -> None:
        for row in rows:
            if self._stopped:
                return
            try:
                decoder.prefetch(row, state.seed, state.epoch)
            except (TarError, StoreError) as error:  # who decodes the sample meets it too, and says so
                log.debug("not prefetched: %s", error)

    def _wait_until_near(self, turn: int) -> bool:
        """Until so many turns have been released that scouts may see to this one; False when all is over."""
        with self._lock:
            while not self._stopped and turn - self._released > self._scout_ahead:
                self._changed.wait()
            return not self._stopped
