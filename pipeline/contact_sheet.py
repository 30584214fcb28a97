"""Samples for the eye and the ear: one HTML file with their frames, spectrograms, labels and sounds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.spectrogram import height_of, spectrogram_png
from shards.page import Content, Markup, data_uri, facts, tag, write_page
from shards.sound import SoundError, decode_pcm

_PITCHES = ((200, "200"), (1000, "1k"), (4000, "4k"))  # hertz, as written beside the spectrogram

_STYLE = """
.sample { display: flex; flex-direction: column; gap: .8rem; }
.sample header { display: grid; grid-template-columns: minmax(0, 40%) minmax(0, 1fr); gap: 1rem; }
.sample .large { width: 100%; border-radius: 8px; display: block; }
.sample .key { display: block; margin-top: .45rem; overflow-wrap: anywhere; }
.time { position: relative; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 1px; }
.strip img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; display: block; }
.strip img:first-child { border-top-left-radius: 8px; }
.strip img:last-child { border-top-right-radius: 8px; }
.sound { position: relative; margin-top: 1px; }
.sound img { width: 100%; height: 108px; display: block; border-radius: 0 0 8px 8px; }
.pitch { position: absolute; right: 4px; transform: translateY(50%); color: #fff; opacity: .75;
  font-size: 10px; line-height: 1; text-shadow: 0 0 3px #000; }
.sample audio { width: 100%; height: 34px; }
@media (max-width: 420px) { .sample header { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One sample as the sheet shows it. Names and facts may come from the internet: they are escaped."""

    key: str
    class_names: Sequence[str]
    frames: Sequence[bytes]  # JPEGs in the order of time
    sound: bytes | None  # FLAC or WAV
    facts: Mapping[str, object] = field(default_factory=dict)  # name → value, in the order to show


def write_contact_sheet(
    cards: Iterable[Card], target: Path, *, title: str, lead: str = "", above: Sequence[Content] = ()
) -> None:
    """Write the sheet to `target`. `above` stands between the lead and the samples: tables, totals.

    A ten-second sample takes about 0.8 MB of the file, most of it sound.
    """
    grid = tag("section", *(_card(card) for card in cards), class_="grid")
    write_page(target, *above, grid, title=title, lead=lead, style=_STYLE)


def _card(card: Card) -> Markup:
    player = _player(card.sound) if card.sound is not None else None
    return tag("article", _header(card), _time(card), player, class_="card sample", id=card.key)


def _header(card: Card) -> Markup:
    chips = tag("div", *(tag("span", name, class_="chip") for name in card.class_names), class_="chips")
    key = tag("span", card.key, class_="mono soft key")
    words = tag("div", chips, key, facts(card.facts))
    middle = card.frames[len(card.frames) // 2] if card.frames else None
    return tag("header", _image(middle, "the middle frame", class_="large") if middle else None, words)


def _time(card: Card) -> Markup:
    """The frames in a row above the spectrogram: each stands over its own part of the sound.

    A single one makes no row: the header shows it.
    """
    several = card.frames if len(card.frames) > 1 else ()
    frames = (_image(frame, f"frame {index}") for index, frame in enumerate(several))
    spectrogram = _spectrogram(card.sound) if card.sound is not None else None
    return tag("div", tag("div", *frames, class_="strip"), spectrogram, class_="time")


def _spectrogram(sound: bytes) -> Markup:
    try:
        pcm, rate = decode_pcm(sound)
    except SoundError as error:
        return tag("p", str(error), class_="soft")
    picture = spectrogram_png(pcm.mean(axis=1).astype(np.float32) / 32768, rate)
    pitches = (
        tag("span", name, class_="pitch", style=f"bottom:{100 * height_of(pitch):.1f}%")
        for pitch, name in _PITCHES
    )
    image = tag("img", src=data_uri(picture, "image/png"), alt="spectrogram")
    return tag("div", image, *pitches, class_="sound")


def _image(jpeg: bytes, words: str, class_: str | None = None) -> Markup:
    return tag("img", src=data_uri(jpeg, "image/jpeg"), alt=words, class_=class_)


def _player(sound: bytes) -> Markup:
    media_type = "audio/flac" if sound.startswith(b"fLaC") else "audio/wav"
    return tag("audio", src=data_uri(sound, media_type), controls=True, preload="metadata")
