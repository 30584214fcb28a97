"""What each step of an epoch takes follows from seed and epoch alone."""

import hashlib

import numpy as np
import pytest

from trainer.order import (
    Part,
    drawn_order,
    epoch_order,
    padded_order,
    random_words,
    replacement,
    sample_seed,
)


def shard_of(*samples: int) -> np.ndarray:
    return np.repeat(np.arange(len(samples), dtype=np.int32), samples)


GOLDEN_ORDER = [0, 4, 1, 5, 7, 6, 3, 2, 8, 11, 9, 10]
GOLDEN_DRAWS = [3, 2, 3, 3]
GOLDEN_SEED = 7822697547943982718
UNEVEN = shard_of(7, 1, 0, 300, 45, 64, 2)


def test_an_epoch_is_every_sample_once() -> None:
    for epoch in range(3):
        order = epoch_order(UNEVEN, 5, epoch, interleave=3, window=16)
        assert sorted(order) == list(range(len(UNEVEN)))


def test_an_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    orders = {
        (seed, epoch): tuple(epoch_order(UNEVEN, seed, epoch, window=16))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    np.random.seed(1)  # nobody listens
    assert orders[1, 2] == tuple(epoch_order(UNEVEN, 1, 2, window=16))


def test_an_order_is_the_same_with_every_version_of_every_library() -> None:
    order = epoch_order(shard_of(4, 3, 5), 7, 1, interleave=2, window=4)
    assert order.tolist() == GOLDEN_ORDER
    assert drawn_order(np.array([1.0, 2.0, 3.0, 4.0]), 7, 1).tolist() == GOLDEN_DRAWS
    assert sample_seed(7, 1, "video00001A_30000") == GOLDEN_SEED


def test_words_are_splitmix64s() -> None:
    """By the recurrence as published: state += gamma, then mix."""
    words = random_words(np.arange(3, dtype=np.uint64), 1, 2)
    state = int.from_bytes(hashlib.blake2b(b"1 2", digest_size=8).digest(), "little")
    for word in words.tolist():
        mixed = state
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        assert word == mixed ^ (mixed >> 31)
        state = (state + 0x9E3779B97F4A7C15) % 2**64


def test_only_so_many_shards_are_read_at_once() -> None:
    shards = shard_of(*[512] * 40)
    order = epoch_order(shards, 0, 0, interleave=8, window=1024)
    for first in range(0, len(order) - 1024, 1024):
        # those that are read side by side, and those that took the place of one that ended
        assert len(set(shards[order[first : first + 1024]])) <= 16
    assert len(set(shards[order[:1024]])) == 8


def test_neighbours_in_a_window_are_shuffled() -> None:
    order = epoch_order(shard_of(4096), 0, 0, window=4096)
    steps = np.diff(order)
    assert (steps == 1).mean() < 0.01
    assert abs(np.corrcoef(order, np.arange(4096))[0, 1]) < 0.1


def test_the_samples_left_out_differ_by_epoch() -> None:
    left_out = {tuple(sorted(epoch_order(UNEVEN, 0, epoch)[len(UNEVEN) // 30 * 30 :])) for epoch in range(5)}
    assert len(left_out) == 5


def test_ranks_share_out_every_batch() -> None:
    for world in (1, 2, 3, 5, 6, 10, 15, 30):
        parts = [Part(batch_size=30, rank=rank, world=world).positions(4) for rank in range(world)]
        positions = [place for part in parts for place in range(part.start, part.stop)]
        assert positions == list(range(120, 150))


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 30 on 4 processes; expected a multiple, such as 32"):
        Part(batch_size=30, world=4)
    with pytest.raises(ValueError, match="rank 4 of 4; expected 0 to 3"):
        Part(batch_size=32, rank=4, world=4)


def test_draws_are_in_proportion_to_weights() -> None:
    weights = np.array([0.0, 1.0, 2.0, 0.0, 5.0, 0.0] * 10_000)
    drawn = np.bincount(drawn_order(weights, 0, 0) % 6, minlength=6) / len(weights)
    # six standard deviations of a share of 60 000 draws are 0.012
    assert np.abs(drawn - np.array([0, 1, 2, 0, 5, 0]) / 8).max() < 0.012
    assert drawn[[0, 3, 5]].tolist() == [0, 0, 0]


def test_draws_differ_by_epoch() -> None:
    weights = np.ones(100)
    assert drawn_order(weights, 0, 0).tolist() != drawn_order(weights, 0, 1).tolist()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected shares"):
        drawn_order(np.array(weights), 0, 0)


def test_an_evaluation_is_padded_to_whole_batches() -> None:
    rows, valid = padded_order(7, 3)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6]
    assert valid.tolist() == [True] * 7 + [False] * 2


def test_a_samples_seed_survives_another_selection() -> None:
    """It goes by the key; and by seed and epoch, all bits of it."""
    seeds = {sample_seed(seed, epoch, key) for seed in range(5) for epoch in range(5) for key in "abcde"}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sum(seed.bit_count() for seed in seeds) / 125 == pytest.approx(31.5, abs=2)


def test_what_replaces_a_sample_is_drawn_from_all() -> None:
    drawn = {replacement(10, 0, 0, f"key{number}", 0) for number in range(200)}
    assert drawn == set(range(10))
    assert replacement(1000, 0, 0, "key", 0) != replacement(1000, 0, 0, "key", 1)
