"""`trichord index` and `trichord search`, on real files and shards under a real but small model."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from shard_folders import shard_folder
from typer.testing import CliRunner

from flows.search_command import search_app
from shards.decode import find_ffmpeg
from shards.vectors import VectorIndex
from trainer.models import EncoderConfig, build_encoder, save_encoder

RATE = 44_100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_encoder(EncoderConfig(size="toy")), folder)
    return folder


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


def write_media(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, seconds in (("a.wav", 0.5), ("b.ogg", 2.5)):
        soundfile.write(folder / name, 0.1 * random.standard_normal(int(seconds * RATE)), RATE)
    PIL.Image.fromarray(random.integers(0, 255, (80, 90, 3), np.uint8)).save(folder / "c.png")
    return folder


def trichord(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(search_app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def found(*words: object) -> list[dict[str, object]]:
    code, out, err = trichord("search", "--json", *words)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_folder_is_found_by_sound_window_picture_and_text(media: Path, model: Path, tmp_path: Path) -> None:
    index, page = tmp_path / "index", tmp_path / "found.html"
    code, out, _ = trichord("index", media, "--model", model, "--index", index, "--window", 1)
    assert (code, "5 vectors" in out, "3 new, 0 as they were" in out) == (
        0,
        True,
        True,
    )  # b.ogg: three windows

    best = found("--audio", media / "a.wav", "--index", index)[0]
    assert (best["path"], best["start_s"], best["end_s"]) == ("a.wav", 0, 0.5)
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert found("--image", media / "c.png", "--index", index, "--top", 1)[0]["path"] == "c.png"
    only = found("--text", "rain", "--index", index, "--modality", "audio", "--where", "end_s > 1.5")
    assert {(row["path"], row["end_s"]) for row in only} == {("b.ogg", 2.0), ("b.ogg", 2.5)}

    assert trichord("search", "--text", "<b>rain</b>", "--index", index, "--html", page)[0] == 0
    text = page.read_text()
    assert text.count("<audio") == 4
    assert "data:image/jpeg" in text
    assert "<b>rain" not in text


def film(target: Path, *sound: str) -> Path:
    """Two seconds each of red, green and blue, with or without a sound."""
    program = find_ffmpeg()
    assert program is not None
    colours = [f"color={name}:s=64x64:r=5:d=2[{name}]" for name in ("red", "lime", "blue")]
    graph = f"{';'.join(colours)};[red][lime][blue]concat=n=3[v]"
    command = [program, "-loglevel", "error", *sound, "-filter_complex", graph, "-map", "[v]"]
    command += ["-map", "0:a"] if sound else []
    subprocess.run([*command, "-pix_fmt", "yuv420p", target], check=True)
    return target


def test_a_moment_of_a_silent_or_sounding_video_is_found_by_its_picture(model: Path, tmp_path: Path) -> None:
    folder, index, page = tmp_path / "films", tmp_path / "index", tmp_path / "found.html"
    folder.mkdir()
    film(folder / "mute.mp4")
    film(folder / "loud.mp4", "-f", "lavfi", "-i", "sine=duration=6")
    PIL.Image.new("RGB", (64, 64), (0, 255, 0)).save(tmp_path / "green.png")
    indexed = ("index", folder, "--model", model, "--index", index, "--window", 2)
    code, out, err = trichord(*indexed)
    assert (code, "9 vectors" in out) == (0, True), err

    asked = ("--image", tmp_path / "green.png", "--index", index, "--modality", "image")
    best = found(*asked, "--top", 2)
    assert {row["path"] for row in best} == {"mute.mp4", "loud.mp4"}
    assert [(row["start_s"], row["end_s"], row["at_s"]) for row in best] == [(2, 4, 3)] * 2
    heard = found("--text", "a", "--index", index, "--modality", "audio")
    assert sorted((row["path"], row["start_s"]) for row in heard) == [("loud.mp4", at) for at in (0, 2, 4)]

    _, lines, _ = trichord("search", *asked, "--top", 2, "--html", page)
    assert {line.split("\t")[1] for line in lines.splitlines()} == {"image"}
    assert page.read_text().count("data:image/jpeg") == 2
    assert page.read_text().count("<audio") == 1

    os.utime(folder / "mute.mp4", (1, 1))
    (folder / "loud.mp4").unlink()
    assert "0 new, 1 as they were, 1 gone" in trichord(*indexed)[1]
    code, _, err = trichord(*indexed, "--frames", 4)
    assert (code, "do not mix" in err) == (2, True)


def test_so_many_pictures_a_window_as_asked_for(model: Path, tmp_path: Path) -> None:
    folder, index, heard = tmp_path / "films", tmp_path / "index", tmp_path / "heard"
    folder.mkdir()
    film(folder / "loud.mp4", "-f", "lavfi", "-i", "sine=duration=0.3")

    trichord("index", folder, "--model", model, "--index", index, "--window", 0, "--frames", 3)
    seen = found("--text", "a", "--index", index, "--modality", "image")
    assert sorted(row["at_s"] for row in seen) == pytest.approx([1, 3, 5], abs=0.1)
    assert [row["end_s"] for row in seen] == pytest.approx([6] * 3, abs=0.2)  # not where the sound ends

    code, out, _ = trichord("index", folder, "--model", model, "--index", heard, "--frames", 0)
    assert (code, "1 vectors" in out) == (0, True)


def test_an_index_follows_its_folder(media: Path, model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    again = ("index", media, "--model", model, "--index", index, "--window", 0)
    trichord(*again)
    before = (index / "index.json").read_bytes()
    os.utime(media / "a.wav", (1, 1))  # another time, the same bytes
    assert "0 new, 3 as they were" in trichord(*again)[1]
    assert (index / "index.json").read_bytes() == before

    (media / "c.png").unlink()
    (media / "a.wav").rename(media / "d.wav")
    soundfile.write(media / "b.ogg", np.sin(np.arange(RATE) / 9), RATE)
    assert "2 new, 0 as they were, 2 gone" in trichord(*again)[1]
    assert {row["path"] for row in found("--text", "rain", "--index", index)} == {"b.ogg", "d.wav"}


def test_a_file_that_breaks_is_named_and_tried_again(media: Path, model: Path, tmp_path: Path) -> None:
    broken = media / "broken.wav"
    broken.write_bytes(b"RIFF0000WAVE nothing more")
    again = ("index", media, "--model", model, "--index", tmp_path / "index", "--window", 0)
    code, out, err = trichord(*again)
    assert (code, "3 vectors" in out) == (3, True)
    assert re.search(r"skipped .*broken\.wav: ", err)

    soundfile.write(broken, np.sin(np.arange(RATE) / 7), RATE)
    code, out, _ = trichord(*again)
    assert (code, "1 new, 3 as they were" in out) == (0, True)


def test_a_dataset_is_filtered_by_label_split_and_what_its_ledgers_say(model: Path, tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (3, 2), seconds=0.3)
    index, page = tmp_path / "index", tmp_path / "found.html"
    code, out, _ = trichord("index", store.url, "--model", model, "--index", index)
    assert (code, "10 vectors" in out) == (0, True)  # a sound and a frame per sample

    rows = found("--text", "dog", "--index", index, "--split", "balanced_train", "--modality", "audio")
    label = rows[0]["labels"][0]  # type: ignore[index]
    some = found("--text", "dog", "--index", index, "--label", label, "--modality", "audio", "--html", page)
    assert [row["key"] for row in some] == [row["key"] for row in rows if label in row["labels"]]  # type: ignore[operator]
    assert page.read_text().count("<audio") == len(some)
    assert found("--text", "dog", "--index", index, "--where", "rms_dbfs > 0") == []
    misspelt = trichord("search", "--text", "dog", "--index", index, "--label", str(label).swapcase())
    assert (misspelt[0], f"there is {label}\n" in misspelt[2]) == (2, True)
    code, _, err = trichord("search", "--text", "dog", "--index", index, "--fold", "fold9")
    assert (code, "there is balanced_train" in err) == (2, True)


@pytest.fixture(scope="module")
def asked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with media and an index of them."""
    folder = tmp_path_factory.mktemp("asked")
    write_media(folder / "media")
    trichord("index", folder / "media", "--model", model, "--index", folder / "trichord-index")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--text", "a", "--audio", "b.wav"), "expected one of --text, --audio, --image"),
        (("--text", "a", "--index", "nowhere"), "holds no index.json"),
        (("--audio", "missing.wav"), "missing.wav is no file"),
        (("--audio", "media/c.png"), "c.png holds no sound"),
        (("--image", "media/a.wav"), "a.wav"),
        (("--image", "missing.png"), "missing.png is no file"),
        (("--text", " "), "--text is empty"),
        (("--text", "a", "--where", "loudness > 3"), "columns: path, modality"),
        (("--text", "a", "--label", "dog"), "files of a folder, which have no labels"),
        (("--text", "a", "--html", "media"), "media is a folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words: tuple[str, ...],
    message: str,
    asked: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(asked)

    code, out, err = trichord("search", *words)

    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_of_nothing_is_refused_and_one_of_which_nothing_is_left_is_empty(
    media: Path, model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    (tmp_path / "empty").mkdir()
    code, _, err = trichord("index", tmp_path / "empty", "--model", model, "--index", index)
    assert (code, "holds nothing to index" in err, index.exists()) == (2, True, False)

    trichord("index", media, "--model", model, "--index", index)
    for file in media.iterdir():
        file.unlink()
    assert "0 vectors" in trichord("index", media, "--model", model, "--index", index)[1]
    code, out, err = trichord("search", "--text", "a", "--index", index)
    assert (code, out, err) == (0, "", f"{index} is empty\n")


def test_what_went_since_is_named_and_not_in_the_page(media: Path, model: Path, tmp_path: Path) -> None:
    index, page = tmp_path / "index", tmp_path / "found.html"
    trichord("index", media, "--model", model, "--index", index)
    (media / "a.wav").unlink()

    code, _, err = trichord("search", "--text", "a", "--index", index, "--html", page)

    assert (code, "not in the page: " in err, "a.wav is no file" in err) == (0, True, True)
    assert page.read_text().count("<audio") == 1


def test_another_model_is_refused(media: Path, model: Path, tmp_path: Path) -> None:
    other, index = tmp_path / "other", tmp_path / "index"
    save_encoder(build_encoder(EncoderConfig(size="toy")), other)
    trichord("index", media, "--model", model, "--index", index, "--window", 0)

    code, _, err = trichord("index", media, "--model", other, "--index", index, "--window", 0)
    assert (code, "do not mix" in err) == (2, True)
    code, _, err = trichord("search", "--text", "a", "--model", other, "--index", index)
    assert (code, "do not compare" in err) == (2, True)


def test_the_python_example_of_the_page_runs(
    media: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    trichord("index", media, "--model", model)
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    exec(compile(example, "docs/search.md", "exec"), {})

    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == {"a.wav", "b.ogg"}


def test_every_column_of_an_index_stands_in_the_page(model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    trichord(
        "index", shard_folder(tmp_path / "data", (2,), seconds=0.3).url, "--model", model, "--index", index
    )
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| column | |\n")
    named = {
        name
        for line in table.partition("\n\n")[0].splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == set(VectorIndex.open(index).rows.columns())
