"""Where a loop's batches come from: the shards of a dataset, in an order that only seed and epoch decide."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from trainer.batch import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """One step's batch, prepared."""

    batch: Batch
    epoch: int
    waited_s: float = 0.0  # for data that were not decoded in time
    replaced: int = 0  # samples that did not decode, since the run began


class Feed(Protocol):
    """An endless row of batches that can be entered at any step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, step: int) -> Generator[Fed]:
        """From global step `step` on: the same ones as if all steps before had been read."""
        ...
