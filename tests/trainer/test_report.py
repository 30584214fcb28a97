"""The page of a run: what it shows of the log, the results, the papers and the data."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import soundfile
from reported_run import measured, reported_run
from shard_folders import shard_folder
from toy_training import FULL, STANDALONE

from shards.sample_reader import SampleReader
from shards.selection import select_samples
from trainer.embedded import Embedded, Items, Sentences
from trainer.evaluations import EvaluationError
from trainer.measure import DEFINITIONS, definition
from trainer.published_results import PublishedResult, published_results
from trainer.report import read_record, write_report
from trainer.report_charts import Curve, curves_figure, round_values, thinned
from trainer.report_examples import Shown
from trainer.report_findings import EXAMPLES, Answer, Findings, Question, confused, find, most_confused
from trainer.report_media import PICTURE_BYTES, fitted_sound, media_of
from trainer.report_papers import compared_metric, comparisons
from trainer.results_page import read_published

RATE = 44_100


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data if self.tags[-1:] != ["style"] else ""


def page_of(run: Path, shown: Shown | None = None) -> Page:
    write_report(run / "report.html", read_record(run), shown)
    return Page(run / "report.html")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return reported_run(tmp_path / "a3", FULL)


def test_the_header_says_what_was_run_with_what(run: Path) -> None:
    text = page_of(run).text
    for said in (
        *("toy.full", "all three towers", "finished, 40 of 40 steps", "2026-11-21T08:00:00Z"),
        *("2026-11-21T09:00:00Z", "a toaster", "ab" * 32, "SELECT key", "0123abc", "2.14.1"),
        *("trichord train toy --out here", "epochs=4", "random weights"),
    ):
        assert said in text


def test_each_term_stands_over_its_floor_where_it_has_one(run: Path) -> None:
    text = page_of(run).text
    assert re.search(r"loss: audio_text\s*0\.325\s*floor 0\.25", text)
    assert re.search(r"loss: audio_image\s*0\.05", text)
    assert text.count("floor") == 1


def test_curves_of_training_and_of_dev_are_drawn_over_epochs(run: Path) -> None:
    text = page_of(run).text
    assert "retrieval: R@1" in text
    assert "text → audio 0.4 at epoch 4" in text  # of the last point of its curve
    assert "audio_text 50 at epoch 4" in text  # a scale
    assert "16 at epoch 4" in text  # samples per second
    assert "1 more measures on dev" in text


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path: Path) -> None:
    run = reported_run(tmp_path / "new", FULL)
    (run / "log.jsonl").unlink()
    (run / "status.json").unlink()
    assert "Nothing is logged yet" in page_of(run).text


def test_a_toy_run_is_marked_and_a_full_one_is_not(tmp_path: Path) -> None:
    toy = reported_run(tmp_path / "toy", FULL)
    full_model = dataclasses.replace(FULL.model, size="full")
    full = reported_run(tmp_path / "full", dataclasses.replace(FULL, model=full_model))
    for run in (toy, full):
        measured(run, "zero_shot/audio/accuracy", 0.7)
    toy_text, full_text = page_of(toy).text, page_of(full).text
    assert "A toy run." in toy_text
    assert "70.0 [68.1, 71.9] toy model; n = 400" in toy_text
    assert "70.0 [68.1, 71.9] n = 400" in full_text
    assert "A toy run." not in full_text


def test_without_data_each_section_says_how_to_have_it(run: Path) -> None:
    assert page_of(run).text.count(f"trichord report {run} --data DATA") == 4


def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run\.json"):
        read_record(tmp_path)


# -- curves


def test_what_is_no_number_is_left_out_of_a_curve() -> None:
    drawn = curves_figure(
        "loss", [Curve(name="one", points=[(0, 1.0), (1, math.nan), (2, 3.0)])], across="step"
    ).text
    assert "nan" not in drawn
    assert drawn.count("<circle") == 2


def test_a_curve_of_one_point_and_one_without_change_are_drawn() -> None:
    for points in ([(1.0, 5.0)], [(1.0, 0.0), (2.0, 0.0)], []):
        assert "<svg" in curves_figure("flat", [Curve(name="", points=points)], across="step").text


def test_thinning_keeps_the_mean() -> None:
    points = [(float(x), float(x % 7)) for x in range(1_000)]
    few = thinned(points, most=100)
    assert len(few) == 100
    assert np.mean([y for _, y in few]) == pytest.approx(np.mean([y for _, y in points]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 4e5), (1e-9, 2e-9), (99.5, 100.5)])
def test_rules_are_round_and_within(low: float, high: float) -> None:
    values = round_values(low, high)
    assert 2 <= len(values) <= 6
    assert all(low <= value <= high for value in values)


# -- against the papers


def test_printed_numbers_are_percent_whatever_the_paper_prints() -> None:
    found = {(each.system, each.variant, each.dataset, each.metric): each for each in published_results()}
    assert found["AudioCLIP", "full model", "audioset", "classification/both/mAP"].percent == 32.38
    assert found["CLAP", "2022", "us8k", "zero_shot/audio/accuracy"].percent == pytest.approx(73.24)
    tuned = found["vip-AnT", "VA fine-tuned", "us8k", "classification/audio/accuracy"]
    assert (tuned.percent, tuned.spread) == (86.0, "2.8")


def test_what_papers_print_under_names_of_their_own_compares_to_nothing() -> None:
    printed = zip(read_published(), published_results(), strict=True)
    assert {bool(each.metric) for row, each in printed if "as printed" in row["metric"]} == {False}


def test_every_metric_that_compares_has_a_definition() -> None:
    names = {each.metric for each in published_results() if each.metric}
    assert len(names) > 10
    assert all(definition(name) in DEFINITIONS.values() for name in names)


def test_our_tables_and_our_comparisons_agree_on_what_compares() -> None:
    for row, each in zip(read_published(), published_results(), strict=True):
        if row["our_metric"]:
            ours = {"metric": row["our_metric"], "dataset": row["our_dataset"], "recipe": row["our_recipe"]}
            assert (compared_metric(ours), each.dataset) == (each.metric, row["our_dataset"]), row


def test_our_number_stands_beside_the_papers_with_its_interval(run: Path) -> None:
    measured(run, "zero_shot/audio/accuracy", 0.7)
    measured(run, "zero_shot/audio_prompted/accuracy_fold_mean", 0.6, setting="prompt=the sound of {}")
    measured(run, "zero_shot/audio/accuracy", 0.1, fold="fold1")
    found = comparisons(read_record(run).rows, published_results())
    [ours] = [each for each in found if each.ours]
    assert ours.title == "ESC-50, zero-shot: audio, accuracy"
    assert {row["value"] for row in ours.ours} == {0.7, 0.6}
    text = page_of(run).text
    assert "60.0 [58.1, 61.9] toy model; prompt=the sound of {}; mean of folds; n = 400" in text
    assert "93.9" in text  # the best that is printed


def test_an_empty_cell_names_the_command_that_fills_it(run: Path) -> None:
    text = page_of(run).text
    for command in (
        f"trichord evaluate {run} --task zero-shot --data data/us8k",
        f"trichord evaluate {run} --task query --data data/audioset --split eval",
        f"trichord crossval audioclip.finetune_esc50 --from {run} --data data/esc50",
    ):
        assert f"not measured: {command}" in text


def test_an_empty_cell_says_what_the_model_lacks(tmp_path: Path) -> None:
    classifier = page_of(reported_run(tmp_path / "a1", STANDALONE)).text
    assert "this model only names the classes of sounds" in classifier
    assert "trichord crossval audioclip.finetune_esc50_standalone --from" in classifier
    assert "--task query" not in classifier
    clip = dataclasses.replace(FULL.model, towers=("audio", "text"))
    two = page_of(reported_run(tmp_path / "a2", dataclasses.replace(FULL, model=clip))).text
    assert "this model has no image head" in two
    assert "--task query --data data/esc50" in two


def test_a_fine_tuned_model_is_not_compared_as_zero_shot(run: Path) -> None:
    measured(run, "zero_shot/audio/accuracy", 0.9, recipe="audioclip.finetune_esc50")
    [ours] = [each for each in comparisons(read_record(run).rows, published_results()) if each.ours]
    assert ours.metric == "classification/audio/accuracy"


def test_a_number_chosen_on_the_test_data_says_so(run: Path) -> None:
    measured(run, "zero_shot/audio/accuracy_selected_on_test", 0.9)
    assert "chosen on the test data" in page_of(run).text


def test_numbers_of_earlier_weights_say_so_and_go_when_measured_again(run: Path) -> None:
    measured(run, "zero_shot/audio/accuracy", 0.3, checkpoint="0" * 16)
    measured(run, "zero_shot/audio/mAP", 0.4, checkpoint="0" * 16)
    measured(run, "zero_shot/audio/accuracy", 0.7)
    rows = {row["metric"]: row for row in read_record(run).rows}
    assert (rows["zero_shot/audio/accuracy"]["value"], rows["zero_shot/audio/accuracy"]["beside"]) == (
        0.7,
        "",
    )
    assert rows["zero_shot/audio/mAP"]["beside"] == "of earlier weights, 00000000"
    assert page_of(run).text.count("of earlier weights") == 1


def test_results_of_what_came_from_the_run_stand_with_it(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "tuned"
    measured(
        other,
        "zero_shot/audio/accuracy_fold_mean",
        0.9,
        recipe="audioclip.finetune_esc50 from audioclip.full",
    )
    record = read_record(run, [other])
    [ours] = [each for each in comparisons(record.rows, published_results()) if each.ours]
    assert ours.metric == "classification/audio/accuracy"
    write_report(run / "report.html", record)
    assert f"audioclip.finetune_esc50 from audioclip.full in {other}" in Page(run / "report.html").text
    with pytest.raises(ValueError, match=r"no results\.jsonl"):
        read_record(run, [tmp_path])


def test_a_folder_of_runs_names_one_of_them(run: Path) -> None:
    with pytest.raises(ValueError, match=f"there is one in {run}"):
        read_record(run.parent)


def test_a_result_without_a_value_is_left_out(run: Path) -> None:
    measured(run, "zero_shot/audio/accuracy", math.nan)
    assert "nan" not in page_of(run).text


def test_data_sets_of_which_nothing_is_printed_have_their_results(run: Path) -> None:
    measured(run, "zero_shot/audio/mAP", 0.5, dataset="mine")
    text = page_of(run).text
    assert "zero-shot on mine (fold1)" in text
    assert "0.5000 [0.4810, 0.5190]" in text


def test_the_table_can_be_another_one(run: Path) -> None:
    ours = PublishedResult(
        system="Ours",
        variant="",
        dataset="esc50",
        metric="zero_shot/audio/accuracy",
        percent=1.25,
        spread="",
        protocol="",
        source="here",
    )
    measured(run, "zero_shot/audio/accuracy", 0.5)
    write_report(run / "other.html", read_record(run), published=[ours])
    assert "1.25 Ours" in Page(run / "other.html").text


# -- what is found in data


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def embedded_of(targets: np.ndarray, *, noise: float = 0.8, seed: int = 0) -> Embedded:
    """Sounds and pictures near the texts of their classes."""
    random = np.random.default_rng(seed)
    names = tuple(f"class {place}" for place in range(targets.shape[1]))
    texts = [", ".join(np.array(names)[row]) for row in targets]
    unique = tuple(dict.fromkeys(texts))
    items = Items(
        keys=tuple(f"item {row}" for row in range(len(targets))),
        targets=targets,
        class_names=names,
        label_sets=np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64),
        texts=unique,
        text_of=np.array([unique.index(text) for text in texts]),
        folds=("eval",) * len(targets),
        missing=3,
    )
    directions = random.standard_normal((len(names), 16))
    centres = targets @ directions
    strings = tuple(dict.fromkeys((*names, *unique)))
    rows = [np.sum([directions[names.index(name)] for name in text.split(", ")], axis=0) for text in strings]
    return Embedded(
        items=items,
        audio=unit(centres + noise * random.standard_normal(centres.shape)),
        image=unit(centres + noise * random.standard_normal(centres.shape)),
        sentences=Sentences(strings=strings, rows=unit(np.array(rows))),
    )


@pytest.fixture(scope="module")
def single() -> Embedded:
    return embedded_of(np.eye(6, dtype=bool)[np.arange(48) % 6], noise=1.5)


def test_the_matrix_counts_what_each_item_was_taken_for(single: Embedded) -> None:
    counts = find(single).confusion
    assert counts is not None
    scores = single.rows("audio") @ single.sentences.of(single.items.class_names).T
    for truth in range(6):
        taken = scores[single.items.classes == truth].argmax(axis=1)
        assert counts[truth].tolist() == np.bincount(taken, minlength=6).tolist()
    assert counts.trace() < counts.sum()  # or nothing below means anything


def test_accuracies_of_classes_are_the_matrixs_diagonal(single: Embedded) -> None:
    found = find(single)
    assert found.confusion is not None
    assert [each.accuracy for each in found.classes] == (found.confusion.diagonal() / 8).tolist()


def test_items_of_several_classes_have_precisions_and_no_matrix() -> None:
    targets = np.random.default_rng(3).random((40, 5)) < 0.4
    targets[:, 0] |= ~targets.any(axis=1)
    found = find(embedded_of(targets))
    assert found.confusion is None
    assert {each.accuracy for each in found.classes} == {None}
    assert all(0 < each.average_precision <= 1 for each in found.classes)


def test_the_most_confused_classes_come_first() -> None:
    counts = np.array([[5, 4, 0, 0], [1, 8, 0, 0], [0, 0, 9, 2], [0, 0, 0, 0]])
    assert most_confused(counts, 9) == [(0, 1), (2, 3), (1, 0)]
    assert confused(counts, 2).tolist() == [0, 1]
    assert confused(np.diag([1, 0, 1]), 9).tolist() == [0, 2]  # a class that never occurs is no row


def test_examples_are_right_and_wrong_ones_of_several_classes(single: Embedded) -> None:
    examples = find(single).examples
    right = [each for each in examples if each.right]
    wrong = [each for each in examples if not each.right]
    assert len(right) == len(wrong) == EXAMPLES
    assert all(each.guesses[0][0] in each.classes for each in right)
    assert not any(each.guesses[0][0] in each.classes for each in wrong)
    assert len({each.classes for each in right}) == EXAMPLES
    assert all(
        scores == sorted(scores, reverse=True) for scores in ([s for _, s in e.guesses] for e in examples)
    )


def test_answers_are_the_nearest_in_every_direction(single: Embedded) -> None:
    questions = find(single).questions
    assert len(questions) == 8
    assert len({(each.asked, each.found) for each in questions}) == 6
    sides: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = {
        "audio": (single.items.keys, single.rows("audio")),
        "image": (single.items.keys, single.rows("image")),
        "text": (single.items.texts, single.sentences.of(single.items.texts)),
    }
    for question in questions:
        names, vectors = sides[question.found]
        asked, queries = sides[question.asked]
        scores = dict(zip(names, vectors @ queries[asked.index(question.name)], strict=True))
        assert [answer.name for answer in question.answers] == sorted(scores, key=lambda name: -scores[name])[
            :3
        ]
        assert all(answer.score == pytest.approx(scores[answer.name]) for answer in question.answers)


def test_an_answer_is_relevant_where_the_set_of_labels_is_the_same(single: Embedded) -> None:
    classes = {**dict(zip(single.items.keys, single.items.classes.tolist(), strict=True))}
    classes |= {name: place for place, name in enumerate(single.items.class_names)}
    for question in find(single).questions:
        for place, answer in enumerate(question.answers):
            assert answer.relevant == (classes[answer.name] == classes[question.name])
            assert not answer.relevant or question.rank <= place + 1


def test_a_classifier_has_classes_and_nothing_to_ask(single: Embedded) -> None:
    logits = np.asarray(single.rows("audio") @ single.sentences.of(single.items.class_names).T)
    found = find(Embedded(items=single.items, class_logits=logits))
    assert (found.score, found.questions, len(found.examples)) == ("logit", (), 2 * EXAMPLES)
    assert found.confusion is not None


def test_a_classifier_of_other_classes_is_refused(single: Embedded) -> None:
    logits = np.zeros((len(single.items), 9), dtype=np.float32)
    with pytest.raises(EvaluationError, match="tells 9 classes apart, the data set has 6"):
        find(Embedded(items=single.items, class_logits=logits))


def test_a_model_without_texts_has_no_classes_but_answers(single: Embedded) -> None:
    found = find(Embedded(items=single.items, audio=single.audio, image=single.image))
    assert (found.subject, found.classes) == ("", ())
    assert {(each.asked, each.found) for each in found.questions} == {("audio", "image"), ("image", "audio")}


def test_sections_show_what_was_found(run: Path, single: Embedded) -> None:
    page = page_of(run, Shown(findings=find(single, dataset="toys"), media={}, labels={}))
    assert "48 items of toys (eval), 3 missing" in page.text
    assert "taken for class" in page.text  # of a cell of the matrix
    assert "cannot be shown" in page.text  # no media were given
    assert "--data DATA" not in page.text.split("Confusions")[-1]


def test_a_model_that_can_do_less_says_what_it_cannot(tmp_path: Path, single: Embedded) -> None:
    run = reported_run(tmp_path / "a1", STANDALONE)
    only_sound = Embedded(items=single.items, audio=single.audio)
    text = page_of(run, Shown(findings=find(only_sound), media={}, labels={})).text
    assert "this model names no classes" in text
    assert "has not two modalities to compare" in text


# -- media


def noise(seconds: float, channels: int, form: str = "FLAC") -> bytes:
    pcm = np.random.default_rng(0).integers(-9_000, 9_000, (round(seconds * RATE), channels)).astype(np.int16)
    with BytesIO() as file:
        soundfile.write(file, pcm, RATE, format=form, subtype="PCM_16")
        return file.getvalue()


def test_a_small_sound_stays_as_it_is() -> None:
    sound = noise(0.2, 2)
    assert fitted_sound(sound, 1_000_000) == sound


@pytest.mark.parametrize(
    ("limit", "channels", "rate", "seconds"),
    [(200_000, 2, 44_100, 1.0), (80_000, 1, 44_100, 1.0), (45_000, 1, 22_050, 1.0), (10_000, 1, 11_025, 0.5)],
)
def test_a_large_sound_loses_channels_then_rate_then_its_end(
    limit: int, channels: int, rate: int, seconds: float
) -> None:
    fitted = fitted_sound(noise(1.0, 2, "WAV"), limit)
    assert fitted is not None
    assert len(fitted) <= limit
    heard = soundfile.info(BytesIO(fitted))
    assert (heard.format, heard.channels, heard.samplerate) == ("FLAC", channels, rate)
    assert heard.duration == pytest.approx(seconds, rel=0.25)


def test_halving_the_rate_keeps_what_is_low_and_folds_nothing_over() -> None:
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * pitch * time) for pitch in (440, 19_000))
    with BytesIO() as file:
        soundfile.write(file, 0.4 * (low + high), RATE, format="WAV", subtype="PCM_16")
        whole = fitted_sound(file.getvalue(), 1_000_000)
        assert whole is not None
        fitted = fitted_sound(whole, len(whole) - 1)
    assert fitted is not None
    samples, rate = soundfile.read(BytesIO(fitted))
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    pitches = np.fft.rfftfreq(len(samples), 1 / rate)
    assert rate == 22_050
    assert pitches[power.argmax()] == pytest.approx(440, abs=3)
    assert power[pitches > 1_000].sum() < 0.001 * power.sum()


def test_a_sound_that_is_damaged_is_none() -> None:
    assert fitted_sound(b"RIFF of nothing", 1_000) is None


def test_media_are_those_of_the_samples_and_small(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (5, 4), seconds=0.2, side=480)
    selection = select_samples(store)
    shards = {key: selection.shards[at] for key, at in zip(selection.keys, selection.shard_of, strict=True)}
    findings = Findings(
        dataset="", splits=(), items=9, missing=0, subject="", score="", single_label=False,
        questions=tuple(asked_by_sound(list(selection.keys))),
    )  # fmt: skip
    with SampleReader(store=store, cache=tmp_path / "cache") as reader:
        media = media_of(findings, reader, shards)
    assert set(media) == set(selection.keys)
    for key, found in media.items():
        assert len(found.frames) == 1
        assert len(found.frames[0]) <= PICTURE_BYTES
        assert simplejpeg.is_jpeg(found.frames[0])
        assert (found.sound is not None) == (key in findings.heard_and_seen()[0])


def asked_by_sound(keys: list[str]) -> list[Question]:
    answers = tuple(Answer(name=key, score=0.5, relevant=False) for key in keys[1:])
    return [Question(asked="audio", found="image", name=keys[0], answers=answers, rank=0)]


def test_a_sound_that_stands_on_a_page_often_is_smaller(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (2,), seconds=0.5)
    selection = select_samples(store)
    key = selection.keys[0]
    answer = Answer(name=key, score=0.5, relevant=False)
    question = Question(asked="text", found="audio", name="Dog", answers=(answer,) * 3, rank=0)
    findings = Findings(
        dataset="", splits=(), items=2, missing=0, subject="", score="", single_label=False,
        questions=(question,) * 4,
    )  # fmt: skip
    with SampleReader(store=store, cache=tmp_path / "cache") as reader:
        media = media_of(findings, reader, {key: selection.shards[0]}, sound_bytes=60_000)
    assert findings.players == 12
    assert media[key].sound is not None
    assert 2_000 < len(media[key].sound) <= 5_000


def test_every_value_of_the_stage_is_on_the_page(run: Path) -> None:
    values = json.loads((run / "run.json").read_text())["stage"]["values"]
    text = page_of(run).text
    assert all(path in text for path in values)
