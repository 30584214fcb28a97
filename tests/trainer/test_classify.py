from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tiny_models import RATE, SIZE, TinyAudio, tiny_encoder

from shards.labels import ClassLabel, Labels, write_labels
from trainer.class_names import ESC50, ClassNamesError, class_names
from trainer.classifier import Classifier, ClassifierConfig, is_classifier, load_classifier
from trainer.classify import Answer, classify, classify_by_logits, named_places, prompted
from trainer.embed import Embedded, Skipped, embed_files, embed_texts, found_files, write_embeddings
from trainer.models import load_model
from trainer.models.encoder import Encoder
from trainer.weights import WEIGHTS, WeightsError, save_model


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture
def sounds(tmp_path: Path) -> list[Path]:
    for index in range(3):
        noise = 0.1 * np.random.default_rng(index).standard_normal(RATE // 2)
        soundfile.write(tmp_path / f"{index}.wav", noise, RATE)
    return found(tmp_path)


def found(folder: Path) -> list[Path]:
    return list(found_files([folder]))


def answers(encoder: Encoder, sounds: list[Path], **options: object) -> list[Answer]:
    made = list(classify(encoder, sounds, ["rain", "wind", "dog"], **options))  # type: ignore[arg-type]
    return [answer for answer in made if isinstance(answer, Answer)]


def test_single_scores_are_probabilities_and_multi_scores_cosines(
    encoder: Encoder, sounds: list[Path]
) -> None:
    [single, *_], [multi, *_] = answers(encoder, sounds, top=3), answers(encoder, sounds, top=3, multi=True)
    assert sum(scored.score for scored in single.names) == pytest.approx(1, abs=1e-5)
    cosines = (encoder.embed_audio([sounds[0]]) @ encoder.embed_text(["rain", "wind", "dog"]).T)[0]
    assert {s.name: s.score for s in multi.names} == pytest.approx(
        dict(zip(("rain", "wind", "dog"), cosines.tolist(), strict=True)), abs=1e-5
    )
    assert [scored.name for scored in single.names] == [scored.name for scored in multi.names]
    logits = encoder.scales()["audio_text"] * cosines
    assert single.names[0].score == pytest.approx(torch.softmax(logits, 0).max().item(), abs=1e-4)


def test_top_and_the_least_score_bound_the_names(encoder: Encoder, sounds: list[Path]) -> None:
    assert [len(answer.names) for answer in answers(encoder, sounds, top=2)] == [2, 2, 2]
    assert [answer.names for answer in answers(encoder, sounds, min_score=1.1)] == [(), (), ()]


def test_a_file_that_cannot_be_read_takes_its_place_among_the_answers(
    encoder: Encoder, sounds: list[Path]
) -> None:
    sounds[1].write_bytes(b"nothing")
    made = list(classify(encoder, sounds, ["rain"]))
    assert [type(item) for item in made] == [Answer, Skipped, Answer]


def test_a_prompt_stands_around_every_name() -> None:
    assert prompted(["rain", "{}"], "the sound of {}") == ["the sound of rain", "the sound of {}"]
    with pytest.raises(ValueError, match="no place for the name"):
        prompted(["rain"], "the sound")


# -- a head whose outputs are classes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier of three classes."""
    torch.manual_seed(0)
    config = ClassifierConfig(classes=3, size="toy", class_names=("rain", "wind", "dog"))
    classifier = Classifier(config)
    folder = tmp_path_factory.mktemp("trained")
    save_model(classifier, classifier.config, folder)
    return folder


def test_a_trained_classifier_answers_with_its_own_names(trained: Path, sounds: list[Path]) -> None:
    classifier = load_classifier(trained / WEIGHTS, device="cpu")
    Path(sounds[0].parent / "seen.png").write_bytes(b"")
    [*heard, seen] = classify_by_logits(classifier, [*sounds, sounds[0].parent / "seen.png"], top=3)
    assert isinstance(seen, Skipped)
    for path, answer in zip(sounds, heard, strict=True):
        assert isinstance(answer, Answer)
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None, None]
        shares = classifier.score_audio(wave, RATE).softmax(dim=-1)[0].tolist()
        expected = dict(zip(("rain", "wind", "dog"), shares, strict=True))
        assert {scored.name: scored.score for scored in answer.names} == pytest.approx(expected, abs=1e-6)
        assert (answer.path, answer.start, answer.end) == (str(path), 0.0, 0.5)


def test_some_of_a_classifiers_names_are_chosen_among_alone_and_with_multi_each_has_its_own_probability(
    trained: Path, sounds: list[Path]
) -> None:
    classifier = load_classifier(trained, device="cpu")
    [chosen] = classify_by_logits(classifier, sounds[:1], ["dog", "rain"], top=3)
    [all_own] = classify_by_logits(classifier, sounds[:1], top=3, multi=True)
    assert isinstance(chosen, Answer)
    assert isinstance(all_own, Answer)
    assert {scored.name for scored in chosen.names} == {"dog", "rain"}
    assert sum(scored.score for scored in chosen.names) == pytest.approx(1, abs=1e-6)
    odds = {s.name: s.score / (1 - s.score) for s in all_own.names}
    shares = {s.name: s.score for s in chosen.names}
    assert shares["dog"] / shares["rain"] == pytest.approx(odds["dog"] / odds["rain"], rel=1e-3)


def test_other_names_for_a_classifier_are_as_many_as_its_classes(trained: Path) -> None:
    classifier = load_classifier(trained, device="cpu")
    assert named_places(classifier, ["a", "b", "dog"]) == ((0, "a"), (1, "b"), (2, "dog"))
    with pytest.raises(ClassNamesError, match=r"3 classes and is given 2 names, of which 'cat' are not its"):
        named_places(classifier, ["cat", "dog"])
    classifier.config.pop("class_names")
    with pytest.raises(
        ClassNamesError, match="3 classes and has no names for them; expected --labels with 3"
    ):
        named_places(classifier, None)
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        classifier.name_classes(["a", "b"])


def test_a_classifier_is_no_encoder_and_the_error_says_what_it_is(trained: Path, tmp_path: Path) -> None:
    assert is_classifier(trained)
    assert is_classifier(trained / WEIGHTS)
    assert not is_classifier("audioclip-full")
    with pytest.raises(WeightsError, match=r"holds a classifier, which embeds nothing.*trichord classify"):
        load_model(trained)


# -- names


def test_names_come_from_a_list_a_file_or_a_table(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("rain\n\n sea waves \nrain\n")
    table = 'index,mid,display_name\n0,/m/09x0r,"Speech, male"\n1,/m/05zppz,Dog\n'
    (tmp_path / "class_labels_indices.csv").write_text(table)
    classes = [(1, "a", "Dog"), (None, "b", "Animal"), (0, "c", "Speech")]
    labels = Labels.of(ClassLabel(index=index, mid=mid, name=name) for index, mid, name in classes)
    assert class_names("rain, sea waves ,rain") == ("rain", "sea waves")
    assert class_names(str(tmp_path / "names.txt")) == ("rain", "sea waves")
    assert class_names("audioset", table=tmp_path / "class_labels_indices.csv") == ("Speech, male", "Dog")
    assert class_names(str(tmp_path)) == ("Speech, male", "Dog")
    write_labels(tmp_path / "labels.parquet", labels)
    assert class_names(str(tmp_path)) == ("Speech", "Dog")
    assert class_names("audioset", table=tmp_path) == ("Speech", "Dog")


def test_esc50_has_its_fifty_classes_in_five_groups_of_ten() -> None:
    assert class_names("esc50") == ESC50
    assert len(set(ESC50)) == 50
    assert [ESC50[target] for target in (0, 10, 20, 30, 40)] == [
        "dog",
        "rain",
        "crying baby",
        "door wood knock",
        "helicopter",
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (" , ", "holds no names"),
        ("", "holds no names"),
        ("missing.csv", "no file missing.csv"),
        ("audioset", "class_labels_indices.csv"),
    ],
)
def test_names_that_cannot_be_had_are_explained(
    labels: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClassNamesError, match=message):
        class_names(labels)


def test_a_table_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ClassNamesError, match=r"a\.csv: no column index, mid, display_name; expected"):
        class_names(str(tmp_path / "a.csv"))
    with pytest.raises(ClassNamesError, match=r"b\.parquet: cannot be read"):
        class_names(str(tmp_path / "b.parquet"))
    with pytest.raises(ClassNamesError, match=r"c\.txt cannot be read as names, one a line"):
        class_names(str(tmp_path / "c.txt"))
    with pytest.raises(ClassNamesError, match=r"holds no class table; expected labels\.parquet or class_"):
        class_names(str(tmp_path))


# -- rows


def test_rows_come_in_the_order_of_files_and_texts_whatever_they_are(
    encoder: Encoder, tmp_path: Path
) -> None:
    names = ["a.wav", "b.png", "c.png", "d.wav", "e.wav", "f.png", "g.wav"]
    for index, name in enumerate(names):
        if name.endswith(".png"):
            PIL.Image.new("RGB", (70 + index, 66), (9 * index, 99, 0)).save(tmp_path / name)
        else:
            noise = 0.1 * np.random.default_rng(index).standard_normal(RATE // (1 + index % 2))
            soundfile.write(tmp_path / name, noise, RATE)
    (tmp_path / "e.wav").write_bytes(b"nothing")
    together = list(embed_files(encoder, [tmp_path / name for name in names]))
    alone = [row for name in names for row in embed_files(encoder, [tmp_path / name])]
    for row, single, name in zip(together, alone, names, strict=True):
        if name == "e.wav":
            assert row == single
            continue
        assert isinstance(row, Embedded)
        assert isinstance(single, Embedded)
        assert (row.path, row.modality) == (str(tmp_path / name), single.modality)
        assert (row.vector - single.vector).abs().max() < 1e-5

    texts = [f"text {index} " * (index % 5) for index in range(300)]
    texts[70] = "dog " * 99
    rows = list(embed_texts(encoder, texts))
    assert [row.text if isinstance(row, Embedded) else row.what for row in rows] == texts
    assert isinstance(rows[70], Skipped)
    assert isinstance(rows[299], Embedded)
    assert (rows[299].vector - encoder.embed_text([texts[299]])[0]).abs().max() < 1e-5


def test_what_a_model_has_no_tower_for_is_skipped(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (70, 66)).save(tmp_path / "a.png")
    deaf = Encoder({"audio": TinyAudio()}, size=SIZE).eval()
    [seen], [read] = embed_files(deaf, [tmp_path / "a.png"]), embed_texts(deaf, ["a dog"])
    assert seen == Skipped(what=str(tmp_path / "a.png"), reason="this model has no image tower; it has audio")
    assert read == Skipped(what="a dog", reason="this model has no text tower; it has audio")


def test_many_rows_are_written_in_groups(encoder: Encoder, sounds: list[Path], tmp_path: Path) -> None:
    rows = [row for _ in range(400) for row in embed_files(encoder, sounds[:1])] * 3
    written, skipped = write_embeddings(rows, tmp_path / "out.parquet", fingerprint="f", size=encoder.size)
    assert (written, skipped) == (1200, [])
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert file.metadata.num_row_groups == 2
    assert file.schema_arrow.field("vector").type == pa.list_(pa.float32(), encoder.size)


def test_a_writer_that_fails_leaves_no_file_under_the_name(encoder: Encoder, tmp_path: Path) -> None:
    def rows() -> object:
        yield Skipped(what="a", reason="b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_embeddings(rows(), tmp_path / "out.parquet", fingerprint="f", size=encoder.size)  # type: ignore[arg-type]
    assert not (tmp_path / "out.parquet").exists()
