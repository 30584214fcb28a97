"""Reading ahead: threads read the next sources while the last one's items are in use."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(
    sources: Iterable[S], read: Callable[[S], Iterable[T]], *, readers: int, held: int
) -> Generator[T, None, None]:
    """What `read` gives for each source, one source after the other, in order.

    `readers` threads work at once, each on a source of its own, and at most `held` items of a source wait.
    What `read` raises is raised here, in its place. Whoever stops asking stops the readers.
    """
    stop = Event()
    waiting: deque[_Reading[T]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as pool:
        try:
            for source in sources:
                reading: _Reading[T] = _Reading(held, stop)
                pool.submit(reading.fill, lambda source=source: read(source))  # type: ignore[misc]
                waiting.append(reading)
                if len(waiting) > readers:
                    yield from waiting[0]
                    waiting.popleft()
            while waiting:
                yield from waiting[0]
                waiting.popleft()
        finally:
            stop.set()
            for reading in waiting:
                reading.wake()


class _Reading(Generic[T]):
    """One source's items on their way from a reader."""

    def __init__(self, held: int, stop: Event) -> None:
        self._items: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()  # None ends them
        self._room = Semaphore(held)
        self._stop = stop

    def fill(self, read: Callable[[], Iterable[T]]) -> None:
        """In the reader's thread."""
        end: BaseException | None = None
        if self._stop.is_set():
            return
        try:
            for item in read():
                self._room.acquire()
                if self._stop.is_set():
                    return
                self._items.put((item,))
        except BaseException as error:  # it belongs to whoever asks for the items
            end = error
        self._items.put(end)

    def wake(self) -> None:
        """A reader that waits for room sees that it is to stop."""
        self._room.release()

    def __iter__(self) -> Iterator[T]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._room.release()
            yield item[0]
