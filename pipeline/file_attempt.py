"""One file of a dataset becomes a sample, or the reason why not: decoded here, no site and no video."""

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import simplejpeg

from pipeline.attempt import Tried
from pipeline.extract import TRICHORD, Extraction
from pipeline.ffmpeg import Program
from pipeline.listing import Item
from pipeline.measure import measure_levels, measure_stillness
from pipeline.media import Failure
from pipeline.resample import resample
from pipeline.sound_file import SoundFile, encode, encoder_label, read_sound_file, to_pcm
from shards.ledger import FORMAT_VERSION, Attempt
from shards.outcome import Outcome
from shards.profile import Profile
from shards.sample import Sample
from shards.segment import Segment
from shards.sound import SoundError

_PICTURES = (".jpg", ".jpeg")
_OTHER_PICTURES = (".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileAttempts:
    """What turning files into samples takes: the rows by key, their folder, and the collaborators."""

    items: Mapping[str, Item]
    root: Path
    profile: Profile
    program: Program
    names: Callable[[Sequence[str]], Sequence[str]]
    run: str

    def try_segment(self, segment: Segment, tries: int, scratch: Path) -> Tried:
        """The row's only try: a file is as it is."""
        started_at, started, cpu = datetime.now(UTC), time.monotonic(), time.thread_time()
        item = self.items[segment.key]
        made = self._made(item, scratch)
        failure = made.failure
        outcome = failure.outcome if failure else Outcome.OK
        facts: dict[str, Any] = {"message": failure.message if failure else None, "end": segment.end}
        facts |= {"cpu_s": time.thread_time() - cpu, **made.facts}
        attempt = Attempt(
            key=segment.key,
            ytid=segment.ytid,
            start=segment.start,
            split=segment.split,
            mids=segment.mids,
            outcome=outcome,
            disposition=outcome.disposition,
            attempts=tries,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            total_s=time.monotonic() - started,
            ffmpeg_version=self.program.version,
            trichord_version=TRICHORD.removeprefix("trichord "),
            host=socket.gethostname(),
            run=self.run,
            **facts,
        )
        return Tried(attempt=attempt, sample=made.sample, again_in=None)

    def _made(self, item: Item, scratch: Path) -> Extraction:
        path = self.root / item.file
        if not path.is_file():
            return _failed(Outcome.MISSING, f"{item.file} is not there", {})
        facts = {"media_bytes": path.stat().st_size}
        try:
            path.open("rb").close()
        except OSError as error:
            return _failed(Outcome.CORRUPT, f"{item.file}: cannot be read: {error.strerror}", facts)
        suffix = path.suffix.lower()
        if suffix in _OTHER_PICTURES:
            return _failed(Outcome.UNSUPPORTED, f"{item.file}: expected pictures as JPEG", facts)
        made = self._picture(item, path) if suffix in _PICTURES else self._sound(item, path, scratch)
        return Extraction(sample=made.sample, failure=made.failure, facts={**facts, **made.facts})

    def _sound(self, item: Item, path: Path, scratch: Path) -> Extraction:
        try:
            sound = read_sound_file(path)
        except SoundError as error:
            why = str(error).replace(str(path), "it")
            return _failed(Outcome.CORRUPT, f"{item.file}: {why}", {})
        rate = self.profile.sample_rate
        samples = sound.samples
        if sound.sample_rate != rate:
            with _folder(scratch) as folder:
                samples = resample(samples, sound.sample_rate, rate, self.program, folder)
        pcm, clipped = to_pcm(samples)
        levels = measure_levels(pcm, rate)
        facts = {
            "audio_s": round(sound.seconds, 6),
            "short": False,
            "sample_rate": rate,
            "channels": sound.channels,
            "rms_dbfs": round(levels.rms_dbfs, 2),
            "peak_dbfs": round(levels.peak_dbfs, 2),
            "silent_share": round(levels.silent_share, 4),
            "pcm_sha256": levels.pcm_sha256,
            "source_sample_rate": sound.sample_rate,
            "source_channels": sound.channels,
            "audio_codec": sound.codec,
            "end": item.end or round(sound.seconds, 6),
            "message": f"{clipped} of {pcm.size} samples clipped to 16 bits" if clipped else None,
        }
        more = {
            "source": _source(item, sound),
            "window": [0.0, round(sound.seconds, 6)],
            "clipped": clipped,
            "tools": self._tools(resampled=sound.sample_rate != rate),
        }
        return self._sample(item, facts, more, audio=encode(pcm, rate, self.profile.audio_codec))

    def _tools(self, *, resampled: bool) -> list[str]:
        return [TRICHORD, encoder_label(), *([self.program.label] if resampled else [])]

    def _picture(self, item: Item, path: Path) -> Extraction:
        """A JPEG as it is; decoding it shows whether it is whole."""
        jpeg = path.read_bytes()
        try:
            measure_stillness([jpeg])
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        except ValueError as error:
            return _failed(Outcome.CORRUPT, f"{item.file}: not readable as a JPEG: {error}", {})
        facts = {"width": width, "height": height, "video_codec": "mjpeg", "short": False, "end": item.end}
        source = {"file": item.file, "width": width, "height": height}
        return self._sample(item, facts, {"source": source, "tools": [TRICHORD]}, frames=(jpeg,))

    def _sample(
        self,
        item: Item,
        facts: dict[str, Any],
        more: Mapping[str, Any],
        *,
        audio: bytes | None = None,
        frames: tuple[bytes, ...] = (),
    ) -> Extraction:
        names = list(self.names(item.mids))
        text = ", ".join(names)
        sample = Sample(
            key=item.key,
            audio=audio,
            audio_codec=self.profile.audio_codec,
            frames=frames,
            text=text,
            facts={**_json_facts(item, facts), "tag": names, "text": text, **more},
        )
        return Extraction(sample=sample, failure=None, facts=facts)


def _failed(outcome: Outcome, message: str, facts: Mapping[str, Any]) -> Extraction:
    return Extraction(sample=None, failure=Failure(outcome, message), facts=facts)


def _source(item: Item, sound: SoundFile) -> dict[str, Any]:
    return {
        "file": item.file,
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "bits": sound.bits,
        "audio_codec": sound.codec,
        "container": sound.container,
    }


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="file-", suffix=".partial", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_IN_SAMPLE = (
    *("sample_rate", "channels", "audio_s", "video_s", "short", "frame_times"),
    *("rms_dbfs", "peak_dbfs", "silent_share", "stillness", "still", "pcm_sha256"),
)


def _json_facts(item: Item, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The members that every dataset's samples have, and the table's row."""
    return {
        "id": item.recording,
        "key": item.key,
        "start": item.start,
        "end": facts["end"],
        "split": item.split,
        "mids": list(item.mids),
        **{name: facts.get(name) for name in _IN_SAMPLE},
        "row": dict(item.row),
        "format_version": FORMAT_VERSION,
    }
