"""Which samples are learned from, which choose the checkpoint and which judge it."""

from dataclasses import replace
from pathlib import Path

import pytest
from ledgered_dataset import DOG, LedgeredDataset, attempt, segment

from shards.selection import Selection, overlap
from shards.store import Store
from trainer.roles import (
    NoSamples,
    RoleError,
    dev_draw,
    dev_selection,
    shared_with_test,
    test_selection,
    training_selection,
)
from trainer.stage import Data

test_selection.__test__ = False  # type: ignore[attr-defined]  # a function under test, not a test

DATA = Data(dev_share=0.2)
MANY = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Sixty balanced videos, some with a second window in another split, ten of evaluation."""
    folder = tmp_path_factory.mktemp("roles")
    made = LedgeredDataset.begin(folder / "audioset", folder)
    made.finish([attempt(segment(n, split="balanced_train"), rms_dbfs=-float(n)) for n in range(MANY)])
    made.finish([attempt(segment(n, split="unbalanced_train", start=60.0)) for n in range(0, 100, 2)])
    made.finish([attempt(segment(n, DOG)) for n in range(200, 210)])
    return made.store


def videos(selection: Selection | None) -> set[str]:
    assert selection is not None
    return {key.rpartition("_")[0] for key in selection.keys}


def test_training_is_what_is_left_of_its_splits_without_the_videos_of_dev(store: Store) -> None:
    train, dev = training_selection(store, DATA), dev_selection(store, DATA)
    assert dev is not None
    assert set(dev.splits) == {"balanced_train"}
    assert 0 < len(dev) < MANY / 2
    assert videos(train).isdisjoint(videos(dev))  # nor their windows in the other split
    assert not overlap(store, train, dev).same_video
    assert videos(train) | videos(dev) == {segment(n).ytid for n in {*range(MANY), *range(0, 100, 2)}}


def test_dev_is_a_function_of_the_video_alone(store: Store) -> None:
    dev, some = (dev_selection(store, replace(DATA, where=where)) for where in ("", "rms_dbfs > -30.5"))
    assert dev is not None
    assert some is not None
    assert videos(dev) == {segment(n).ytid for n in range(MANY) if dev_draw(segment(n).ytid) < DATA.dev_share}
    assert videos(some) == {ytid for ytid in videos(dev) if int(ytid[5:10]) <= 30}
    assert dev_draw("video00001A") == pytest.approx(0.12438, abs=1e-5)  # what past runs have seen stays so


def test_a_tenth_of_ids_is_below_a_tenth() -> None:
    draws = [dev_draw(segment(n).ytid) for n in range(5_000)]
    assert sum(draw < 0.1 for draw in draws) == pytest.approx(500, abs=70)


def test_where_chooses_what_is_learned_and_not_what_is_judged(store: Store) -> None:
    data = replace(DATA, where="rms_dbfs > -10")
    assert len(test_selection(store, data)) == 10
    assert len(training_selection(store, replace(data, train=("balanced_train",), dev_share=0.0))) == 10


@pytest.mark.parametrize("train", [("balanced_train", "eval"), ("eval",)])
def test_evaluation_enters_training_only_on_request(store: Store, train: tuple[str, ...]) -> None:
    data = replace(DATA, train=train, test=())
    with pytest.raises(RoleError, match=r"data\.train has eval, .*--set data\.train_on_test=true"):
        training_selection(store, data)
    assert "eval" in training_selection(store, replace(data, train_on_test=True)).splits


def test_folds_are_splits_and_the_tested_one_stays_out(tmp_path: Path) -> None:
    made = LedgeredDataset.begin(tmp_path / "esc50", tmp_path)
    for fold in range(1, 4):
        made.finish([attempt(segment(10 * fold + n, split=f"fold{fold}")) for n in range(2)])
    data = Data(train=("fold2", "fold3"), test=("fold1",), dev_from="", dev_share=0.0)
    assert training_selection(made.store, data).splits == {"fold2": 2, "fold3": 2}
    assert test_selection(made.store, data).splits == {"fold1": 2}
    assert dev_selection(made.store, data) is None
    with pytest.raises(RoleError, match=r"data\.train has fold1"):
        training_selection(made.store, replace(data, train=("fold1", "fold2")))
    whole_fold = replace(data, train=("fold2",), dev_from="fold3", dev_share=1.0)
    assert dev_selection(made.store, whole_fold) is not None


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (replace(DATA, train=()), "names no split"),
        (replace(DATA, dev_from="eval"), "dev would be cut out of eval, a test split"),
        (replace(DATA, train=("balanced_train",), dev_share=1.0), r"all 60 samples are dev; .*below 1"),
        (replace(DATA, train=("balanced",)), "no samples in balanced; .* has balanced_train 60"),
        (replace(DATA, where="rms_db > 3"), "no column rms_db; did you mean rms_dbfs"),
        (replace(DATA, text="caption"), "no column caption"),
        (replace(DATA, annotations=("captions",)), "no annotation captions"),
    ],
)
def test_roles_that_cannot_be_are_answered_in_one_line(store: Store, data: Data, answer: str) -> None:
    with pytest.raises(RoleError, match=answer) as wrong:
        training_selection(store, data)
    assert "\n" not in str(wrong.value)


def test_a_dataset_without_the_split_that_dev_is_cut_from_has_no_dev(store: Store) -> None:
    data = replace(DATA, train=("unbalanced_train",), dev_from="fold9")
    assert dev_selection(store, data) is None
    assert len(training_selection(store, data)) == 50
    with pytest.raises(NoSamples):
        test_selection(store, replace(data, test=("fold1",)))


def test_what_training_shares_with_the_test_split_is_counted(store: Store) -> None:
    assert not shared_with_test(store, DATA, training_selection(store, DATA))
    judged = replace(DATA, test=("unbalanced_train",), train=("balanced_train",), dev_from="", dev_share=0.0)
    found = shared_with_test(store, judged, training_selection(store, judged))
    assert found is not None
    assert found.same_video == MANY / 2
    assert shared_with_test(store, replace(DATA, test=("fold9",)), training_selection(store, DATA)) is None
