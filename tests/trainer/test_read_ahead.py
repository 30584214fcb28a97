"""Items come in order, few are held, and nobody reads on for someone who left."""

import threading
import time
from collections.abc import Iterator

import pytest

from trainer.read_ahead import read_ahead


def test_items_come_in_the_order_of_their_sources_whoever_is_done_first() -> None:
    def read(source: int) -> Iterator[tuple[int, int]]:
        for item in range(3):
            time.sleep(0.002 * (5 - source))
            yield source, item

    expected = [(source, item) for source in range(5) for item in range(3)]
    assert list(read_ahead(range(5), read, readers=3, held=1)) == expected


def test_sources_are_read_while_earlier_items_are_in_use() -> None:
    second_began = threading.Event()

    def read(source: str) -> Iterator[str]:
        if source == "second":
            second_began.set()
        yield source

    items = read_ahead(["first", "second"], read, readers=2, held=1)
    assert next(items) == "first"
    assert second_began.wait(10)
    assert list(items) == ["second"]


def test_few_items_are_held_however_many_there_are() -> None:
    made = []

    def read(source: int) -> Iterator[int]:
        for item in range(1000):
            made.append((source, item))
            yield item

    items = read_ahead(range(100), read, readers=2, held=3)
    next(items)
    time.sleep(0.05)
    # of each of the three sources begun or waiting: those held, one in the reader's hand, one given out
    assert len(made) <= 3 * (3 + 2)
    items.close()  # type: ignore[attr-defined]


def test_what_a_source_raises_is_raised_in_its_place_and_the_readers_end() -> None:
    def read(source: int) -> Iterator[int]:
        yield source
        if source == 1:
            raise KeyError("lost")

    found = []
    before = threading.active_count()
    with pytest.raises(KeyError, match="lost"):
        found.extend(read_ahead(range(9), read, readers=2, held=1))
    items = read_ahead(range(9), read, readers=2, held=1)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="lost"):
        next(items)
    assert threading.active_count() == before


def test_whoever_stops_asking_stops_the_readers_and_closes_what_they_read() -> None:
    closed = []

    def read(source: int) -> Iterator[int]:
        try:
            while True:
                yield source
        finally:
            closed.append(source)

    before = threading.active_count()
    items = read_ahead(range(9), read, readers=2, held=4)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert sorted(closed) in ([0], [0, 1])
