"""Which samples each step of an epoch takes: a pure function of seed and epoch, the same on any machine.

No random generator of a library is used, since its numbers may change with its version: a run that is resumed
after an update goes on as if nothing had happened.
"""

import hashlib
import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Words = NDArray[np.uint64]

INTERLEAVE = 16  # shards read at once
WINDOW = 4096  # samples shuffled among themselves

# what a stream of random numbers is for
_SHARDS, _WINDOWS, _DRAWS, _REPLACEMENT = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderState:
    """All there is to resume with. `step` is the next one of the epoch, over all processes."""

    seed: int
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One process's part of every batch: rank r of W takes the r-th W-th of it."""

    batch_size: int  # of all processes together
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world}; expected 0 to {self.world - 1}")
        if self.batch_size < 1 or self.batch_size % self.world:
            raise ValueError(
                f"a batch of {self.batch_size} on {self.world} processes; expected a multiple, such as "
                f"{max(1, round(self.batch_size / self.world)) * self.world}"
            )

    @property
    def size(self) -> int:
        return self.batch_size // self.world

    def positions(self, step: int) -> slice:
        """Of the epoch's order."""
        first = step * self.batch_size + self.rank * self.size
        return slice(first, first + self.size)


def epoch_order(
    shard_of: NDArray[np.int32],
    seed: int,
    epoch: int,
    *,
    interleave: int = INTERLEAVE,
    window: int = WINDOW,
) -> Rows:
    """(N,) every row once, so that reads stay near-sequential: shards in random order, `interleave` of them
    read side by side, `window` neighbours at a time shuffled.

    `shard_of` has each row's shard, rows of one shard side by side.
    """
    rows = _interleaved(_runs(shard_of), seed, epoch, interleave)
    keys = random_words(np.arange(len(rows), dtype=np.uint64), seed, epoch, _WINDOWS)
    whole = len(rows) // window * window
    for part in (slice(0, whole), slice(whole, len(rows))):
        if part.start < part.stop:
            width = min(window, part.stop - part.start)
            shuffled = np.argsort(keys[part].reshape(-1, width), axis=1, kind="stable")
            rows[part] = np.take_along_axis(rows[part].reshape(-1, width), shuffled, axis=1).ravel()
    return rows


def drawn_order(weights: NDArray[np.float64], seed: int, epoch: int) -> Rows:
    """(N,) rows drawn with replacement, each with a probability in proportion to its weight.

    Position i's draw follows from (seed, epoch, i) alone.
    """
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("sampling weights that are negative, not finite or all 0; expected shares")
    upto = np.cumsum(weights, dtype=np.float64)
    words = random_words(np.arange(len(weights), dtype=np.uint64), seed, epoch, _DRAWS)
    shares = (words >> np.uint64(11)).astype(np.float64) / float(1 << 53)  # in [0, 1)
    rows = np.searchsorted(upto, shares * upto[-1], side="right")
    last = np.flatnonzero(weights)[-1]  # rounding may reach the total
    drawn: Rows = np.minimum(rows, last).astype(np.int64)
    return drawn


def padded_order(samples: int, batch_size: int) -> tuple[Rows, NDArray[np.bool_]]:
    """(rows, valid) in order, the last row repeated, as not valid, until the batches are full."""
    rows = np.arange(-(-samples // batch_size) * batch_size, dtype=np.int64)
    return np.minimum(rows, samples - 1), rows < samples


def sample_seed(seed: int, epoch: int, key: str) -> int:
    """What chance decides by for this sample in this epoch: 63 bits, whatever else is selected."""
    digest = hashlib.blake2b(f"{seed} {epoch} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def replacement(samples: int, seed: int, epoch: int, key: str, attempt: int) -> int:
    """The row that is tried in place of sample `key`, the n-th that does not decode there."""
    drawn = sample_seed(seed, epoch, f"{key} {_REPLACEMENT} {attempt}")
    return drawn % samples


def random_words(counters: Words, *stream: int) -> Words:
    """64 random bits for each counter of a stream: SplitMix64, whose state is a counter."""
    state = hashlib.blake2b(" ".join(map(str, stream)).encode(), digest_size=8).digest()
    # Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), as Vigna published it
    word = counters * np.uint64(0x9E3779B97F4A7C15) + np.frombuffer(state, "<u8")[0]
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = word ^ (word >> np.uint64(31))
    return mixed


def _runs(shard_of: NDArray[np.int32]) -> NDArray[np.int64]:
    """(S, 2) first row and number of rows of each shard."""
    if len(shard_of) == 0:
        return np.zeros((0, 2), np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(shard_of)) + 1])
    return np.stack([starts, np.diff(np.append(starts, len(shard_of)))], axis=1)


def _interleaved(runs: NDArray[np.int64], seed: int, epoch: int, interleave: int) -> Rows:
    """Rows of the shards in random order, each put into the lane that ends first, lanes read in turn."""
    shuffled = np.argsort(
        random_words(np.arange(len(runs), dtype=np.uint64), seed, epoch, _SHARDS), kind="stable"
    )
    lanes = [(0, lane) for lane in range(max(1, min(interleave, len(runs))))]
    turns = []
    for first, count in runs[shuffled].tolist():
        begin, lane = heapq.heappop(lanes)
        turns.append((begin, lane, first, count))
        heapq.heappush(lanes, (begin + count, lane))
    table = np.full((max((begin for begin, _ in lanes), default=0), len(lanes)), -1, np.int64)
    for begin, lane, first, count in turns:
        table[begin : begin + count, lane] = np.arange(first, first + count)
    return table[table >= 0]
