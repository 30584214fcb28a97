"""Plans: the same question, the same shards; another question, shards of its own."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.audioset import SegmentsError
from pipeline.planning import Todo, begin_dataset, make_plan, make_retry_plan
from pipeline.settings import IngestSettings
from shards.layout import CLAIMS
from shards.plan import read_planned, read_plans
from shards.store import Store, open_store

ENDS = "048AEIMQUYcgkosw"


@pytest.fixture
def settings(tmp_path: Path) -> IngestSettings:
    """Forty rows, every fourth of them a dog, in shards of ten."""
    rows = [
        f'plan{i:06d}{ENDS[i % 16]}, {i}.000, {i + 10}.000, "{"/m/0bt9lr" if i % 4 == 0 else "/m/0jbk"}"\n'
        for i in range(40)
    ]
    (tmp_path / "eval_segments.csv").write_text("".join(rows))
    labels = 'index,mid,display_name\n0,/m/0bt9lr,"Dog"\n1,/m/0jbk,"Animal"\n'
    (tmp_path / "class_labels_indices.csv").write_text(labels)
    return IngestSettings(
        segments=str(tmp_path / "eval_segments.csv"),
        out=str(tmp_path / "out"),
        split="eval",
        segments_per_shard=10,
        exact=True,
    )


@pytest.fixture
def store(settings: IngestSettings) -> Store:
    return open_store(settings.out)


def plan(store: Store, settings: IngestSettings) -> Todo:
    return make_plan(store, settings, begin_dataset(store, settings))


def keys(store: Store, todo: Todo) -> dict[str, list[str]]:
    return {shard: [s.key for s in read_planned(store, todo.plan_of(shard), shard)] for shard in todo.shards}


def finish(store: Store, *shards: str) -> None:
    for shard in shards:
        store.publish_bytes(b"", f"{shard}.parquet")


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"audioset-eval-{number:06d}" for number in numbers)


def test_rows_fall_into_shards_in_their_order(store: Store, settings: IngestSettings) -> None:
    todo = plan(store, settings)
    assert todo.shards == names(0, 1, 2, 3)
    assert todo.left == todo.segments == 40
    assert [key for shard in keys(store, todo).values() for key in shard] == [
        f"plan{i:06d}{ENDS[i % 16]}_{i * 1000}" for i in range(40)
    ]


def test_the_same_question_finds_its_plan_without_the_rows(store: Store, settings: IngestSettings) -> None:
    first = plan(store, settings)
    dataset = begin_dataset(store, settings)
    Path(settings.segments).unlink()
    assert make_plan(store, settings, dataset) == first


def test_finished_shards_are_not_to_do(store: Store, settings: IngestSettings) -> None:
    before = keys(store, plan(store, settings))
    finish(store, *names(0, 2))
    after = plan(store, settings)
    assert after.shards == names(1, 3)
    assert after.left == 20
    assert keys(store, after) == {shard: before[shard] for shard in names(1, 3)}


def test_another_question_takes_what_nobody_has(store: Store, settings: IngestSettings) -> None:
    limited = plan(store, dataclasses.replace(settings, limit=20))
    finish(store, *limited.shards)
    whole = plan(store, settings)
    assert whole.shards == names(2, 3)
    finish(store, *whole.shards)
    assert plan(store, dataclasses.replace(settings, labels="Dog")).shards == ()


def test_a_question_given_up_does_not_bind_the_next(store: Store, settings: IngestSettings) -> None:
    plan(store, settings)
    finish(store, *names(0))
    dogs = plan(store, dataclasses.replace(settings, labels="Dog"))
    found = keys(store, dogs)
    assert [key for shard in found.values() for key in shard] == [
        f"plan{i:06d}{ENDS[i % 16]}_{i * 1000}" for i in range(12, 40, 4)
    ]
    finish(store, *dogs.shards)
    rest = keys(store, plan(store, settings))
    assert sum(map(len, rest.values())) == 40 - 10 - 7


def test_a_question_somebody_works_on_keeps_its_segments(store: Store, settings: IngestSettings) -> None:
    plan(store, settings)
    claim = store.claim(f"{CLAIMS}/audioset-eval-000001")
    assert claim is not None
    assert plan(store, dataclasses.replace(settings, labels="Dog")).shards == ()
    assert plan(store, settings).shards == names(0, 1, 2, 3)
    claim.release()


def test_begun_shards_survive_another_question(store: Store, settings: IngestSettings) -> None:
    whole = plan(store, settings)
    begun = keys(store, whole)["audioset-eval-000002"]
    store.publish_bytes(b"{}", "_work/audioset-eval-000002/000000.json")
    plan(store, dataclasses.replace(settings, labels="Dog"))
    held = {shard: each for each in read_plans(store, "eval") for shard in each.shards}
    assert [s.key for s in read_planned(store, held["audioset-eval-000002"], "audioset-eval-000002")] == begun


def test_a_retry_comes_after_the_last_shard_and_only_once(store: Store, settings: IngestSettings) -> None:
    todo = plan(store, settings)
    finish(store, *todo.shards)
    failed = read_planned(store, todo.plan_of("audioset-eval-000001"), "audioset-eval-000001")[:3]
    retry = make_retry_plan(store, settings, failed)
    assert retry.shards == names(4)
    again = make_retry_plan(store, settings, failed)  # the first was not finished
    assert again.shards == names(4)
    finish(store, *retry.shards)
    assert make_retry_plan(store, settings, failed[:1]).shards == names(5)
    assert make_retry_plan(store, settings, []).shards == names(5)


def test_a_bad_row_leaves_no_plan(store: Store, settings: IngestSettings) -> None:
    with Path(settings.segments).open("a") as file:
        file.write("not-an-id, 0.0, 10.0, /m/0bt9lr\n")
    with pytest.raises(SegmentsError, match="line 41"):
        plan(store, settings)
    assert read_plans(store, "eval") == []
