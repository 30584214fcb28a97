"""A data set streamed through a model: the same numbers however the work is cut, and rows that say it all."""

import hashlib
import json
import shutil
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluating import FEW, evaluated, evaluated_by_two, requested, toy_model, two_folds
from ledgered_dataset import CLASSES
from numpy.typing import NDArray
from tiny_models import tiny_encoder

from shards.labels import read_labels
from shards.layout import LABELS
from shards.sample_reader import SampleReader
from shards.selection import select_samples
from shards.store import open_store
from trainer.classifier import Classifier, ClassifierConfig
from trainer.distributed import Ranks
from trainer.embedded import Embedded
from trainer.evaluate import TOGETHER, embed_selection
from trainer.evaluation_run import embed_request, run_evaluation
from trainer.evaluations import named_evaluations
from trainer.label_table import label_table
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.measure import DEFINITIONS, Draws, Measure
from trainer.objectives import Pairwise
from trainer.overrides import apply_overrides
from trainer.prepare import Inputs, Preparer
from trainer.recipes import resolve
from trainer.results import (
    REPLICATES,
    RESULTS,
    Provenance,
    ResultsError,
    append_results,
    compare,
    latest,
    read_results,
)
from trainer.run_folder import RunFolder
from trainer.run_request import RunError
from trainer.sample_decoder import Wanted
from trainer.stage import Data, Stage
from trainer.stage_view import stage_to_json
from trainer.weights import save_model

pytestmark = pytest.mark.usefixtures("one_thread")  # as the processes that are compared have
TASKS = ("zero-shot", "query")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_folds(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all tasks by one process."""
    out = tmp_path_factory.mktemp("alone")
    evaluated(model, data, TASKS, out)
    return out


def values(out: Path) -> dict[tuple[object, ...], object]:
    rows = latest(read_results(out))
    return {
        (row["metric"], row["fold"], row["class_name"], row["setting"]): (
            row["value"],
            row["low"],
            row["high"],
        )
        for row in rows
    }


def test_evaluating_twice_gives_the_same_bits(model: Path, data: Path, alone: Path, tmp_path: Path) -> None:
    evaluated(model, data, TASKS, tmp_path / "again")
    assert values(tmp_path / "again") == values(alone)


def test_two_processes_give_the_same_bits_as_one_also_from_embeddings_that_were_kept(
    model: Path, data: Path, alone: Path, tmp_path: Path
) -> None:
    with socket.create_server(("localhost", 0)) as free, socket.create_server(("localhost", 0)) as other:
        ports = free.getsockname()[1], other.getsockname()[1]
    evaluated_by_two(model, data, TASKS, tmp_path / "both", ports=ports)
    assert values(tmp_path / "both") == values(alone)
    assert len(list((tmp_path / "both" / "cache").glob("*.npz"))) == 1
    assert values(tmp_path / "both" / "kept") == values(alone)


def scores(model: Path, data: Path, batch_size: int) -> NDArray[np.float32]:
    """Cosines of sounds and pictures with texts."""
    embedded, _ = embed_request(requested(model, data, batch_size=batch_size))
    return np.concatenate([embedded.rows(name) @ embedded.sentences.rows.T for name in ("audio", "image")])


def test_at_another_batch_size_scores_have_the_same_bits(model: Path, data: Path) -> None:
    np.testing.assert_array_equal(scores(model, data, 3), scores(model, data, 64))


def test_batches_that_are_no_multiple_of_what_runs_together_lose_and_add_nothing(data: Path) -> None:
    one, other = embedded_in(data, TOGETHER), embedded_in(data, TOGETHER + 4)
    assert one.items.keys == other.items.keys
    assert len(one.items) == 17
    for name in ("audio", "image"):
        np.testing.assert_allclose(other.rows(name), one.rows(name), atol=1e-5)


def embedded_in(data: Path, batch_size: int) -> Embedded:
    """As training evaluates on dev, whose batches are the stage's."""
    store, encoder = open_store(data), tiny_encoder()
    selection = select_samples(store)
    with store.open(LABELS) as file:
        labels = label_table(selection, read_labels(file))
    stage = Stage(name="dev", about="", objective=Pairwise(), data=Data(seconds=0.1))
    with SampleReader(store=store) as reader:
        return embed_selection(
            Learner(encoder, trainable=()).eval(),
            selection,
            labels,
            named_evaluations(["zero_shot"]),
            loader=Loader(
                selection,
                reader,
                batch_size=batch_size,
                training=False,
                wanted=Wanted(audio=True, frame="central"),
                max_seconds=0.5,
                threads=2,
            ),
            preparer=Preparer(
                stage, labels, Inputs.of(encoder), device=torch.device("cpu"), recorded_rate=44_100
            ),
            ranks=Ranks(),
        )


def test_a_row_says_all_that_its_number_depends_on(alone: Path, model: Path, data: Path) -> None:
    rows = read_results(alone)
    row = next(row for row in rows if row["metric"] == "retrieval/text_to_audio/R@1" and not row["fold"])
    assert row["definition"] == DEFINITIONS["R@k"]
    assert row["interval"] == "95% centred percentile bootstrap, 20 resamples, seed 0"
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["split"], row["seconds"], row["address"]) == ("fold1,fold2", 0.5, str(data))
    assert row["missing"] == 3  # segments of three shards that gave no sample
    assert len(row["dataset_sha256"]) == len(row["key_list_sha256"]) == 64
    assert len(row["checkpoint"]) == 16
    assert "outcome = 'ok'" in row["query"]
    assert row["versions"]["torch"]
    assert row["command"]


def test_each_fold_and_their_mean_stand_beside_the_pooled_number(alone: Path) -> None:
    found = {key[:2]: triple[0] for key, triple in values(alone).items()}  # type: ignore[index]
    folds = [found["retrieval/audio_to_text/MRR", fold] for fold in ("fold1", "fold2")]
    assert found["retrieval/audio_to_text/MRR_fold_mean", ""] == pytest.approx(np.mean(folds))
    assert ("retrieval/audio_to_text/MRR", "") in found


def test_only_the_keys_of_a_list_are_evaluated(model: Path, data: Path, tmp_path: Path) -> None:
    listed = tmp_path / "keys.txt"
    keys = list(select_samples(open_store(data)).keys)
    listed.write_text("# a list\n\n" + "\n".join(keys[:9]) + "\n")
    found = evaluated(model, data, ["query"], tmp_path / "some", only=listed)
    [pooled] = [row for row in found.rows if row["metric"].endswith("audio_to_text/MRR") and not row["fold"]]
    assert pooled["n"] == 9
    assert "keys.txt" in pooled["query"]
    assert (
        pooled["key_list_sha256"]
        == hashlib.sha256("".join(f"{key}\n" for key in keys[:9]).encode()).hexdigest()
    )


def test_a_classifier_is_evaluated_by_its_logits(data: Path, tmp_path: Path) -> None:
    classes = len(CLASSES)
    classifier = Classifier(ClassifierConfig(classes=classes, size="toy"))
    save_model(classifier, classifier.config, tmp_path / "run")
    found = evaluated(tmp_path / "run", data, ["classification"], tmp_path / "run")
    assert [row["metric"] for row in read_results(tmp_path / "run")] == [row["metric"] for row in found.rows]
    assert {row["metric"] for row in found.rows} == {
        "classification/audio/mAP",
        "classification/audio/mAP_fold_mean",
    }


def test_what_does_not_decode_is_counted_as_missing_and_nothing_takes_its_place(
    model: Path, data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    tar = min(broken.glob("**/*.tar"))
    content = bytearray(tar.read_bytes())
    at = content.index(b"RIFF")
    content[at : at + 4] = b"RUFF"
    tar.write_bytes(content)
    found = evaluated(model, broken, ["zero-shot"], tmp_path / "out", max_bad_share=0.5)
    assert {row["missing"] for row in found.rows} == {4}
    assert max(row["n"] for row in found.rows) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("zeroshot",)}, "no task 'zeroshot'; expected one of zero-shot"),
        ({"tasks": ()}, "no task; expected some of"),
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "nothing"}, "nothing"),
        ({"splits": ("fold9",)}, "no samples in fold9"),
        ({"where": "loudness > 3"}, "no column loudness"),
        ({"prompts": ("the sound of",)}, "no place for the name"),
        ({"only": Path("nothing.txt")}, "nothing.txt cannot be read"),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_one_line(
    model: Path, data: Path, tmp_path: Path, options: Mapping[str, object], message: str
) -> None:
    asked = requested(model, data, tasks=("zero-shot",), out=tmp_path)
    with pytest.raises(RunError, match=message) as caught:
        run_evaluation(replace(asked, **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_items_that_the_model_has_learned_from_are_counted(data: Path, tmp_path: Path) -> None:
    run = toy_model(tmp_path / "run")
    learned = {
        "data": {"address": str(data)},
        "stage": stage_to_json(apply_overrides(resolve("debug.full"), ["data.train=fold2"])),
        "recipe": "debug.full",
    }
    RunFolder(run).write(RunFolder(run).facts, learned)
    rows = evaluated(run, data, ["zero-shot"], tmp_path / "out").rows
    assert rows[0]["shared_with_training"] == 6 + 6  # whose sound is, to the bit, that of a sample of fold1
    assert rows[0]["recipe"] == "debug.full"


# -- rows


def provenance(checkpoint: str = "a" * 16) -> Provenance:
    return Provenance(
        dataset="esc50",
        address="data",
        dataset_sha256="d" * 64,
        key_list_sha256="k" * 64,
        query="true",
        split="fold1",
        checkpoint=checkpoint,
        model="runs/a",
    )


def accuracies(*shares: float, seed: int = 0, n: int = 300) -> list[Measure]:
    """As an evaluation of `n` items gives them, some of which are hard for every model."""
    hard = np.random.default_rng(seed).random(n)
    drawn = Draws(resamples=200).of(n)
    return [
        Measure(
            name="zero_shot/audio/accuracy",
            value=float((hard < share).mean()),
            n=n,
            replicates=drawn.means((hard < share).astype(float)),
        )
        for share in shares
    ]


def test_two_models_are_compared_on_the_same_items_and_the_difference_is_surer_than_either(
    tmp_path: Path,
) -> None:
    weak, strong = accuracies(0.60, 0.65)
    append_results(tmp_path / "a", [weak], provenance("a" * 16), FEW)
    append_results(tmp_path / "b", [strong], provenance("b" * 16), FEW)
    [found] = compare(tmp_path / "a", tmp_path / "b")
    assert found.difference == pytest.approx(strong.value - weak.value)
    assert found.interval.low < found.difference < found.interval.high
    assert found.interval.high - found.interval.low < (weak.interval.high - weak.interval.low) / 1.5
    assert found.sure
    assert not next(iter(compare(tmp_path / "a", tmp_path / "a"))).sure


def test_models_that_were_evaluated_on_other_items_are_not_compared(tmp_path: Path) -> None:
    one, other = accuracies(0.5, 0.6)
    append_results(tmp_path / "a", [one], provenance(), FEW)
    append_results(tmp_path / "b", [other], replace(provenance(), key_list_sha256="o" * 64), FEW)
    with pytest.raises(ResultsError, match="no metric of the same items"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ResultsError, match="has no results"):
        compare(tmp_path / "a", tmp_path / "nothing")


def test_of_a_number_evaluated_twice_the_newest_counts(tmp_path: Path) -> None:
    older, newer = accuracies(0.5, 0.6)
    for measure in (older, newer):
        append_results(tmp_path, [measure], provenance(), FEW)
    assert len(read_results(tmp_path)) == 2
    [newest] = latest(read_results(tmp_path))
    assert newest["value"] == newer.value > older.value
    assert pq.read_table(tmp_path / REPLICATES).num_rows == 1


def test_numbers_that_do_not_exist_are_null_and_not_nan(tmp_path: Path) -> None:
    nothing = Measure(name="zero_shot/audio/mAP", value=float("nan"), n=4, left_out=7)
    append_results(tmp_path, [nothing], provenance(), FEW)
    [line] = (tmp_path / RESULTS).read_text().splitlines()
    assert json.loads(line)["value"] is None
    assert "NaN" not in line


def test_results_that_are_no_results_are_one_error(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("{")
    with pytest.raises(ResultsError, match="cannot be read as results"):
        read_results(tmp_path)
