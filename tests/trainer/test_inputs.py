"""What becomes of odd inputs: the table in docs/inputs.md, which this file, run as a program, writes anew."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from tiny_models import RATE, tiny_encoder

from shards.decode import find_ffmpeg
from trainer.embed import Skipped, embed_files, embed_texts
from trainer.models.encoder import Encoder

TABLE = Path(__file__).parents[2] / "docs" / "inputs.md"
HEAD = """# What becomes of odd inputs

Each is given to `embed_files` or `embed_texts`, which stand behind `trichord embed` and `trichord classify`.
`embed_audio`, `embed_image` and `embed_text` raise the errors that these report. A test makes every row and
compares; `PYTHONPATH=tests:. python tests/trainer/test_inputs.py` writes the table anew.

| input | becomes |
|---|---|
"""


def sound(samples: np.ndarray, *, rate: int = RATE, name: str = "sound.wav") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        soundfile.write(
            folder / name, samples, rate, **({"subtype": "FLOAT"} if name.endswith(".wav") else {})
        )
        return folder / name

    return write


def cut(write: Callable[[Path], Path], share: float) -> Callable[[Path], Path]:
    def write_part(folder: Path) -> Path:
        path = write(folder)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return write_part


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def made_by_ffmpeg(name: str, *options: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        program = find_ffmpeg()
        assert program is not None
        subprocess.run([program, "-loglevel", "error", *options, folder / name], check=True)
        return folder / name

    return write


NOISE = 0.1 * np.random.default_rng(0).standard_normal(RATE)
FILES: dict[str, Callable[[Path], Path]] = {
    "silence, 1 s": sound(np.zeros(RATE)),
    "one sample": sound(np.full(1, 0.5)),
    "no samples": sound(np.zeros(0)),
    "one hour": sound(np.tile(NOISE, 3600)),
    "12.5 s": sound(np.tile(NOISE, 13)[: int(12.5 * RATE)]),
    "8 channels": sound(np.tile(NOISE[:, None], (1, 8))),
    "a rate of 44,099 Hz": sound(NOISE, rate=44_099),
    "a rate of 192 kHz": sound(NOISE, rate=192_000),
    "NaN among the samples": sound(np.where(np.arange(RATE) == 99, np.nan, NOISE)),
    "float samples up to 1.5": sound(np.clip(20 * NOISE, -1.5, 1.5)),
    "float samples at int16 amplitude": sound(32_768 * NOISE),
    "WAV cut in half": cut(sound(NOISE), 0.5),
    "FLAC cut in half": cut(sound(np.tile(NOISE, 4), name="sound.flac"), 0.5),
    "M4A cut in half": cut(made_by_ffmpeg("sound.m4a", "-f", "lavfi", "-i", "sine=duration=2"), 0.5),
    "a video with sound": made_by_ffmpeg(
        "video.mp4",
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=64x64:duration=1",
        "-f",
        "lavfi",
        "-i",
        "sine=duration=1",
    ),
    "a video without sound": made_by_ffmpeg("mute.mp4", "-f", "lavfi", "-i", "testsrc=size=64x64:duration=1"),
    "an empty file": content("empty.wav", b""),
    "a text file called .mp3": content("words.mp3", b"words, not sound\n" * 99),
    "a file that is not there": lambda folder: folder / "missing.wav",
    "a folder": lambda folder: folder,
    "a text file called .jpg": content("words.jpg", b"words, not a picture\n" * 99),
    "a picture of 1 × 1 pixels, GIF": made_by_ffmpeg(
        "dot.gif",
        "-f",
        "lavfi",
        "-i",
        "color=red:size=16x16:duration=0.1",
        "-vf",
        "scale=1:1",
        "-frames:v",
        "1",
    ),
}
TEXTS = {
    "an empty text": "",
    "10,000 characters without a space": "x" * 10_000,
    "2,500 words": "dog " * 2_500,
    "emoji": "🎸🔥🎸",
    "control characters": "\x00\x07dog\x1b",
    "half a surrogate pair": "dog \ud83d",
    "Chinese": "狗叫",
    "right-to-left Arabic": "نباح الكلب",
}


def rows(encoder: Encoder) -> Iterator[str]:
    for name, write in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            found = list(embed_files(encoder, [write(Path(folder))]))
            yield f"| {name} | {described(found).replace(folder, '…')} |"
    for name, text in TEXTS.items():
        yield f"| {name} | {described(list(embed_texts(encoder, [text])))} |"


def described(found: list[object]) -> str:
    if failures := [item for item in found if isinstance(item, Skipped)]:
        return f"skipped: {_ours(failures[0].reason)}"
    assert all(bool(torch.isfinite(row.vector).all()) for row in found)  # type: ignore[attr-defined]
    last = found[-1]
    if last.end is None:  # type: ignore[attr-defined]
        return "a vector"
    vectors = "a vector" if len(found) == 1 else f"{len(found)} vectors"
    return f"{vectors}, the last of {last.start:g}–{last.end:.4g} s"  # type: ignore[attr-defined]


def _ours(reason: str) -> str:
    """Without what ffmpeg or libsndfile add, which changes with their versions."""
    return re.sub(r"(that ffmpeg reads|breaks off after \S+ s): .*", r"\1: …", reason)


def table() -> str:
    return HEAD + "\n".join(rows(tiny_encoder())) + "\n"


def test_the_table_of_odd_inputs_is_what_happens() -> None:
    assert table() == TABLE.read_text(encoding="utf-8")


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
