"""The contact sheet holds each sample whole, frames, spectrogram, sound and labels, and escapes them."""

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import soundfile

from pipeline.contact_sheet import Card, write_contact_sheet
from pipeline.demo_media import ffmpeg_command
from pipeline.spectrogram import height_of, spectrogram_png

RATE = 16_000
FRAMES = tuple(simplejpeg.encode_jpeg(np.full((24, 32, 3), shade, np.uint8)) for shade in range(0, 250, 25))


def flac(sound: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, sound, RATE, format="FLAC", subtype="PCM_16")
    return content.getvalue()


def tone(frequency: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(2 * RATE) / RATE)).astype(np.float32)


def card(key: str = "abcdefghij0_1000", **changes: object) -> Card:
    values: dict[str, object] = {
        "key": key,
        "class_names": ("Dog", "Bell"),
        "frames": FRAMES,
        "sound": flac(tone(440)),
        "facts": {"window": "1.0–11.0 s", "unknown": None},
    }
    return Card(**{**values, **changes})  # type: ignore[arg-type]  # values of the fields above


def embedded(page: str, media_type: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(rf'src="data:{media_type};base64,([^"]+)"', page)]


def sheet(folder: Path, *cards: Card) -> str:
    write_contact_sheet(cards, folder / "sheet.html", title="Samples")
    return (folder / "sheet.html").read_text(encoding="utf-8")


def pixels(png: bytes) -> np.ndarray:
    """Decoded by ffmpeg: a picture that only its writer can read is none."""
    command = [
        ffmpeg_command(),
        "-loglevel",
        "error",
        "-i",
        "pipe:0",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "pipe:1",
    ]
    raw = subprocess.run(command, input=png, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(120, 480)


def test_the_sheet_embeds_every_frame_and_the_sound(tmp_path: Path) -> None:
    page = sheet(tmp_path, card())
    assert embedded(page, "image/jpeg")[-10:] == list(FRAMES)
    assert embedded(page, "audio/flac") == [flac(tone(440))]
    assert "<audio " in page
    assert " controls" in page


def test_labels_key_and_known_facts_are_shown(tmp_path: Path) -> None:
    page = sheet(tmp_path, card())
    for words in ("Dog", "Bell", "abcdefghij0_1000", "1.0–11.0 s"):
        assert f">{words}<" in page
    assert "unknown" not in page


def test_a_sheet_refers_to_nothing_outside(tmp_path: Path) -> None:
    page = sheet(tmp_path, card(), card("bbbbbbbbbb0_0"))
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    assert "http:" not in page
    assert "https:" not in page


def test_names_from_the_internet_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    page = sheet(tmp_path, card('"><script>', class_names=(hostile,), facts={hostile: hostile}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3


def test_a_sample_without_frames_has_its_sound(tmp_path: Path) -> None:
    page = sheet(tmp_path, card(frames=()))
    assert embedded(page, "image/jpeg") == []
    assert len(embedded(page, "audio/flac")) == 1


def test_a_sound_that_does_not_decode_is_named_as_such(tmp_path: Path) -> None:
    assert "sound does not decode" in sheet(tmp_path, card(sound=b"fLaC and nothing more"))


@pytest.mark.parametrize("frequency", [200, 1000, 4000])
def test_a_tone_is_a_bright_line_at_its_pitch(frequency: float) -> None:
    picture = pixels(spectrogram_png(tone(frequency), RATE)).astype(float)
    brightest = picture.mean(1).argmax()
    assert 1 - brightest / 119 == pytest.approx(height_of(frequency), abs=0.03)


def test_a_click_is_a_bright_column_at_its_time() -> None:
    sound = np.zeros(2 * RATE, np.float32)
    sound[RATE // 2 : RATE // 2 + 20] = 0.9
    picture = pixels(spectrogram_png(sound, RATE)).astype(float)
    assert picture.mean(0).argmax() / 480 == pytest.approx(0.25, abs=0.04)


def test_silence_and_a_blink_of_sound_are_pictures_too() -> None:
    assert pixels(spectrogram_png(np.zeros(RATE, np.float32), RATE)).shape == (120, 480)
    assert pixels(spectrogram_png(np.ones(10, np.float32), RATE)).shape == (120, 480)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_shows_the_sheet(tmp_path: Path) -> None:
    sheet(tmp_path, card())
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet = "--disable-background-networking --disable-component-update --virtual-time-budget=3000 --dump-dom"
    command = ["chromium", *options.split(), *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, (tmp_path / "sheet.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count('<img src="data:image/jpeg') == 11
    assert "abcdefghij0_1000" in done.stdout
