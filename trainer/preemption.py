"""Being asked to stop: remembered when the signal comes, answered when a step is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.run_request import Outcome

_MEANING = {
    signal.SIGTERM: Outcome.PREEMPTED,  # clusters, and torchrun to its workers
    signal.SIGUSR1: Outcome.PREEMPTED,  # sbatch --signal=USR1@120
    signal.SIGINT: Outcome.INTERRUPTED,
}


class StopRequest:
    """Whether this process has been asked to stop, and how."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def remember(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler. Whoever presses Ctrl-C twice does not want to wait for the step."""
        if number == signal.SIGINT and self.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        self.outcome = _MEANING[signal.Signals(number)]

    @property
    def code(self) -> int:
        """0: go on; 1: preempted; 2: interrupted. The largest of all processes counts."""
        return (None, Outcome.PREEMPTED, Outcome.INTERRUPTED).index(self.outcome)


def outcome_of(code: int) -> Outcome | None:
    """The inverse of `StopRequest.code`."""
    return (None, Outcome.PREEMPTED, Outcome.INTERRUPTED)[code]


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Signals are remembered as long as this lasts. In another than the main thread there are none."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.remember) for number in _MEANING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
