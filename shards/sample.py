"""A sample: encoded sound, frames or both, and their facts, as members of a WebDataset tar."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Encoded media of a segment. `facts` is everything else that is known and goes into the json member."""

    key: str
    audio: bytes | None  # None: a picture without sound
    audio_codec: str  # "flac" or "wav", also the member's name
    frames: tuple[bytes, ...]  # JPEGs at the centres of equal parts of the window
    text: str
    facts: Mapping[str, Any]

    def members(self) -> Iterator[tuple[str, bytes]]:
        """(name after the key's dot, content), in the order they have in every tar.

        `jpg` repeats the central frame, so that image–text loaders find one picture per sample.
        """
        media = dict(self._media())
        yield from media.items()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in media.items()}
        hashes["txt"] = hashlib.sha256(self.text.encode()).hexdigest()
        yield "json", _json({**self.facts, "sha256": hashes})
        yield "txt", self.text.encode()

    def _media(self) -> Iterator[tuple[str, bytes]]:
        for index, frame in enumerate(self.frames):
            yield f"{index}.jpg", frame
        if self.audio is not None:
            yield self.audio_codec, self.audio
        if self.frames:
            yield "jpg", self.frames[len(self.frames) // 2]


def _json(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(", ", ": ")).encode()
