import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from published_weights import published_file
from release_site import release_site
from typer.testing import CliRunner

from flows.cli_models import models_app
from trainer import published as publications
from trainer.classifier import Classifier, ClassifierConfig
from trainer.models import EncoderConfig, build_encoder, load_model, save_encoder
from trainer.published import PublishedFile
from trainer.weights import save_model

torch.set_num_threads(2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, for what does not depend on the weights."""
    folder = tmp_path_factory.mktemp("toy")
    save_encoder(build_encoder(EncoderConfig(size="toy")), folder)
    return folder


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Two sounds, the second longer than a window of half a second, and a picture."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((14_000, 2))
    soundfile.write(tmp_path / "a.wav", noise[:5000], 22_050)
    soundfile.write(tmp_path / "b.ogg", noise, 22_050)
    PIL.Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(tmp_path / "c.png")
    return tmp_path


def trichord(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(models_app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_needs_no_torch() -> None:
    program = (
        "import sys, flows.cli_models, typer.testing\n"
        "typer.testing.CliRunner().invoke(flows.cli_models.models_app, ['embed', '--help'])\n"
        "sys.exit(sorted({'torch', 'open_clip', 'trainer'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.strip() == "[]"
    )


def test_sound_alone_waits_neither_for_open_clip_nor_for_a_compiler(tmp_path: Path) -> None:
    program = (
        "import sys, torch, trainer.run, trainer.evaluate, trainer.classify\n"
        "from trainer.models import EncoderConfig, build_encoder\n"
        "model = build_encoder(EncoderConfig(size='toy', towers=('audio',)))\n"
        "model.eval().encode_audio(torch.zeros(1, 1, 99))\n"
        "sys.exit(str(sorted({'torch._dynamo', 'torchvision', 'open_clip'} & set(sys.modules))))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stderr.strip() == "[]"


# -- embed


def test_embed_writes_a_row_per_text_picture_and_window(weights: Path, media: Path) -> None:
    out = media / "out" / "embeddings.parquet"
    code, said, _ = trichord(
        "embed",
        "--model",
        weights,
        media,
        "--text",
        "dog barking",
        "--out",
        out,
        "--window",
        "0.5",
        "--device",
        "cpu",
    )
    assert (code, said.strip()) == (0, f"5 rows in {out}")
    rows = pq.read_table(out).to_pylist()
    assert [(row["modality"], row["path"] and Path(row["path"]).name, row["text"]) for row in rows] == [
        ("text", None, "dog barking"),
        ("audio", "a.wav", None),
        ("audio", "b.ogg", None),
        ("audio", "b.ogg", None),
        ("image", "c.png", None),
    ]
    assert [row["start_s"] for row in rows][1:4] == [0, 0, pytest.approx(14_000 / 22_050 - 0.5, abs=1e-4)]
    assert all(np.linalg.norm(row["vector"]) == pytest.approx(1, abs=1e-5) for row in rows)

    model = load_model(weights, device="cpu")
    assert {row["model"] for row in rows} == {model.fingerprint()}
    alone = model.embed_audio([media / "a.wav"])[0].numpy()
    assert np.abs(alone - np.array(rows[1]["vector"])).max() < 1e-5
    assert not list(out.parent.glob("*.partial"))


def test_embed_skips_what_it_cannot_read_says_why_and_fails(toy: Path, media: Path) -> None:
    (media / "broken.wav").write_bytes(b"not a sound")
    (media / "broken.jpg").write_bytes(b"not a picture")
    out = media / "embeddings.parquet"
    code, said, errors = trichord(
        "embed", "--model", toy,
        *(media / name for name in ("broken.wav", "a.wav", "broken.jpg", "missing.ogg")),
        "--text", "dog " * 99, "--out", out, "--device", "cpu",
    )  # fmt: skip
    assert code == 3
    assert "1 rows" in said
    assert [Path(row["path"]).name for row in pq.read_table(out).to_pylist()] == ["a.wav"]
    for reason in (
        "broken.wav is neither sound",
        "picture does not decode",
        "missing.ogg is no file",
        "has 101 tokens",
    ):
        assert reason in errors


def test_embed_without_anything_says_what_it_wants() -> None:
    code, _, errors = trichord("embed")
    assert code == 2
    assert "expected files, folders, or --text" in errors


def test_a_place_that_cannot_be_written_is_one_line_before_any_work(toy: Path, media: Path) -> None:
    for out in (media, media / "a.wav" / "out.parquet"):
        code, _, errors = trichord("embed", "--model", toy, media / "a.wav", "--out", out, "--device", "cpu")
        assert code == 2
        assert f"--out {out} cannot be written: " in errors


def test_a_folder_with_nothing_to_embed_says_so(toy: Path, tmp_path: Path) -> None:
    code, _, errors = trichord("embed", "--model", toy, tmp_path)
    assert (code, errors.strip()) == (2, f"no sounds, videos or pictures in {tmp_path}")


def test_a_file_that_holds_no_weights_is_one_line(media: Path) -> None:
    (media / "words.txt").write_text("root:x:0:0:root:/root:/bin/bash\n")
    code, _, errors = trichord("embed", "--model", media / "words.txt", media / "a.wav")
    assert code == 2
    assert "words.txt is no readable weights file" in errors


def test_a_model_that_is_not_there_is_one_line(media: Path) -> None:
    code, _, errors = trichord("embed", "--model", media / "none.pt", media / "a.wav")
    assert code == 2
    assert "no model" in errors
    assert "Traceback" not in errors


def test_precision_and_compiling_are_for_the_asking(toy: Path, media: Path) -> None:
    vectors = []
    for precision in ("float32", "bf16"):
        out = media / f"{precision}.parquet"
        words = ("--text", "dog", "--out", out, "--device", "cpu", "--precision", precision)
        assert trichord("embed", "--model", toy, media / "a.wav", *words)[0] == 0
        vectors.append(np.array([row["vector"] for row in pq.read_table(out).to_pylist()]))
    assert np.abs(vectors[0] - vectors[1]).max() > 0
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.9
    code, _, errors = trichord("classify", media / "a.wav", "--labels", "rain", "--precision", "fp8")
    assert (code, errors.strip()) == (2, "no precision 'fp8'; expected one of float32, bf16")


# -- classify


def test_classify_by_a_trained_classifier_needs_no_names(media: Path, tmp_path: Path) -> None:
    classifier = Classifier(ClassifierConfig(classes=2, size="toy", class_names=("rain", "dog")))
    run = tmp_path / "run"
    save_model(classifier, classifier.config, run)
    words = ["classify", media / "a.wav", "--model", run, "--device", "cpu", "--top", "2"]
    code, said, told = trichord(*words)
    assert code == 0
    assert told == f"names: the 2 that {run} was trained on\n"
    assert all(name in said for name in ("rain", "dog"))
    code, said, told = trichord(*words, "--labels", "one,other")
    assert (code, told) == (0, f"names: those of --labels, in the order of the 2 classes of {run}\n")
    assert "other" in said
    code, _, told = trichord(*words, "--labels", "one,two,three")
    assert (code, told.count("\n")) == (2, 1)
    assert "2 classes and is given 3 names" in told
    code, _, told = trichord(*words, "--prompt", "a {}")
    assert code == 2
    assert "is a classifier; leave out" in told


def test_classify_by_texts_needs_names(toy: Path, media: Path) -> None:
    code, _, told = trichord("classify", media / "a.wav", "--model", toy)
    assert code == 2
    assert (
        told
        == f"{toy} compares with any names, and none are given; expected --labels, or a classifier's run\n"
    )


def test_classify_names_each_window_with_its_span(toy: Path, media: Path) -> None:
    code, said, _ = trichord(
        "classify", media / "b.ogg", media / "c.png", "--labels", "rain,sea waves", "--model", toy,
        "--window", "0.5", "--top", "2", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    lines = [line.split("\t") for line in said.splitlines()]
    assert [(Path(path).name, span) for path, span, _ in lines] == [
        ("b.ogg", "0.0–0.5 s"),
        ("b.ogg", "0.1–0.6 s"),
        ("c.png", ""),
    ]
    for _, _, names in lines:
        scores = [float(name.rsplit(" ", 1)[1]) for name in names.split(", ")]
        assert len(scores) == 2
        assert sum(scores) == pytest.approx(1, abs=2e-3)
        assert scores[0] >= scores[1]


def test_nothing_above_the_least_score_is_none_of_these(toy: Path, media: Path) -> None:
    words = ["classify", media / "a.wav", "--labels", "rain,wind", "--model", toy, "--device", "cpu"]
    assert trichord(*words, "--multi", "--min-score", "1.0")[1].rstrip().endswith("none of these")
    assert "none of these" not in trichord(*words, "--multi", "--min-score", "-1.0")[1]


def test_esc50_has_its_fifty_names_and_a_prompt_needs_a_place_for_them(toy: Path, media: Path) -> None:
    words = ["classify", media / "a.wav", "--labels", "esc50", "--model", toy, "--device", "cpu"]
    assert trichord(*words, "--top", "50")[1].count(", ") == 49
    code, _, errors = trichord(*words, "--prompt", "the sound of")
    assert code == 2
    assert "no place for the name" in errors


def test_audioset_without_its_table_says_where_it_is(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    code, _, errors = trichord("classify", "a.wav", "--labels", "audioset")
    assert code == 2
    assert "class_labels_indices.csv" in errors
    assert "--class-table" in errors


# -- weights


def test_weights_are_listed_fetched_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICHORD_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")
    content = b"weights" * 1000
    with release_site(content) as site:
        file = PublishedFile(
            name="stand-in",
            url=site.url,
            content="bytes",
            licence="MIT",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setattr(publications, "FILES", (file,))
        assert "no" in trichord("weights", "list")[1]
        code, said, _ = trichord("weights", "fetch", "stand-in")
        assert (code, Path(said.strip()).read_bytes()) == (0, content)
        assert "stand-in: whole, 7,000 bytes" in trichord("weights", "verify")[1]
        Path(said.strip()).write_bytes(content[::-1])
        code, _, errors = trichord("weights", "verify", "stand-in")
        assert code == 6
        assert "fetch it again" in errors
        assert len(site.asked) == 1


def test_an_unknown_name_of_weights_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICHORD_CACHE", str(tmp_path))
    code, _, errors = trichord("weights", "fetch", "audioclip-ful")
    assert code == 2
    assert "did you mean audioclip-full" in errors
