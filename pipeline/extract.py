"""A recording becomes a sample, or the reason why not: one ffmpeg process, one decode, then judgement."""

import contextlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.decoding import Decoder, Pass, decode, decode_rest
from pipeline.ffmpeg import Program
from pipeline.judgement import ENOUGH, judge
from pipeline.measure import STILL, measure_levels, measure_stillness
from pipeline.media import Failure, Recording
from pipeline.relay import Relay
from pipeline.upstream import Traffic
from pipeline.window import Window, window_over
from shards.ledger import FORMAT_VERSION
from shards.outcome import Outcome
from shards.profile import Profile
from shards.sample import Sample
from shards.segment import Segment
from shards.sound import SoundError, decode_pcm

TRICHORD = f"trichord {importlib.metadata.version('trichord')}"

Names = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """The collaborators of an extraction. `names` turns mids into class names."""

    program: Program
    profile: Profile
    names: Names
    relay: Relay
    timeout_s: float = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """A sample or a failure, and the facts learnt on the way (fields of a ledger's Attempt)."""

    sample: Sample | None
    failure: Failure | None
    facts: Mapping[str, Any]


def extract(segment: Segment, recording: Recording, extractor: Extractor, scratch: Path) -> Extraction:
    """Cut the segment's window out of its recording: sound, frames, measurements.

    Files live in a folder of their own below `scratch`, and go when it is done.

    Raises Interrupted when the process is being stopped; every other way of failing is a value.
    """
    with _scratch(scratch) as folder, _sources(segment, recording, extractor) as (window, traffic):
        if isinstance(window, Failure):
            return Extraction(sample=None, failure=window, facts=_traffic_facts(traffic))
        done, failure = _decoded(window, traffic, extractor, folder)
        facts = {**_pass_facts(done), **_traffic_facts(traffic)}
        if failure:
            return Extraction(sample=None, failure=failure, facts=facts)
        return _sample(segment, recording, done, facts, extractor, folder)


def _decoded(
    window: Window, traffic: Traffic, extractor: Extractor, folder: Path
) -> tuple[Pass, Failure | None]:
    """The pass that counts: over the window, or over the part of a short one that is to be kept."""
    profile = extractor.profile
    coder = Decoder(program=extractor.program, profile=profile, timeout_s=extractor.timeout_s)
    done = decode(window, coder, folder)
    failure = judge(done, profile, traffic)
    if not failure or failure.outcome is not Outcome.SHORT or done.share < (profile.keep_short or 1.0):
        return done, failure
    rest = decode_rest(done, coder, folder)
    return (done, failure) if judge(rest, profile, traffic) else (rest, None)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="segment-", suffix=".partial", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _sources(
    segment: Segment, recording: Recording, extractor: Extractor
) -> Iterator[tuple[Window | Failure, Traffic]]:
    """The window over paths or relayed URLs."""
    traffic = Traffic()
    with _urls(recording, extractor.relay, traffic) as urls:
        start = segment.start - recording.offset
        window = window_over(recording.streams, urls, start, segment.duration, extractor.profile.frames)
        yield window, traffic
    if traffic.surprise is not None:
        raise traffic.surprise


def _urls(recording: Recording, relay: Relay, traffic: Traffic) -> AbstractContextManager[list[str]]:
    if recording.open_url is None:
        return contextlib.nullcontext([stream.url for stream in recording.streams])
    return relay.serve(recording, traffic)


def _pass_facts(done: Pass) -> dict[str, Any]:
    source = done.source
    return {
        "audio_s": round(done.sound.covered, 4),
        "video_s": round(done.picture.covered, 4) if done.picture is not None else None,
        "width": source.width,
        "height": source.height,
        "fps": source.fps,
        "rotation": source.rotation,
        "hdr": source.hdr if source.video_codec else None,
        "source_sample_rate": source.sample_rate,
        "source_channels": source.channels,
        "video_codec": source.video_codec,
        "audio_codec": source.audio_codec,
        "extract_s": done.ended.wall_s,
        "cpu_s": done.ended.cpu_s,
    }


def _traffic_facts(traffic: Traffic) -> dict[str, Any]:
    return {"media_bytes": traffic.bytes, "requests": traffic.requests}


def _sample(
    segment: Segment,
    recording: Recording,
    done: Pass,
    facts: dict[str, Any],
    extractor: Extractor,
    folder: Path,
) -> Extraction:
    profile = extractor.profile
    audio = (folder / f"sound.{profile.audio_codec}").read_bytes()
    frames = tuple((folder / f"{index}.jpg").read_bytes() for index in range(len(done.times)))
    try:
        measured = {**_measure(audio, frames), "short": done.share < ENOUGH or _narrowed(segment, done)}
    except SoundError as error:
        return Extraction(sample=None, failure=Failure(Outcome.CORRUPT, str(error)), facts=facts)
    facts |= {**measured, "frame_times": tuple(round(time, 6) for time in done.times) or None}
    facts |= {"sample_rate": profile.sample_rate, "channels": profile.channels}
    names = list(extractor.names(segment.mids))
    sample = Sample(
        key=segment.key,
        audio=audio,
        audio_codec=profile.audio_codec,
        frames=frames,
        text=", ".join(names),
        facts=_json_facts(segment, recording, done, facts, names, extractor),
    )
    return Extraction(sample=sample, failure=None, facts=facts)


def _narrowed(segment: Segment, done: Pass) -> bool:
    return done.window.duration < ENOUGH * segment.duration


def _measure(audio: bytes, frames: Sequence[bytes]) -> dict[str, Any]:
    pcm, rate = decode_pcm(audio)
    levels = measure_levels(pcm, rate)
    stillness = round(measure_stillness(frames), 4) if frames else None
    return {
        "rms_dbfs": round(levels.rms_dbfs, 2),
        "peak_dbfs": round(levels.peak_dbfs, 2),
        "silent_share": round(levels.silent_share, 4),
        "pcm_sha256": levels.pcm_sha256,
        "stillness": stillness,
        "still": None if stillness is None else stillness >= STILL,
    }


_IN_SAMPLE: tuple[str, ...] = (
    *("sample_rate", "channels", "audio_s", "video_s", "short", "frame_times"),
    *("rms_dbfs", "peak_dbfs", "silent_share", "stillness", "still", "pcm_sha256"),
)
_OF_SOURCE: tuple[str, ...] = (
    *("width", "height", "fps", "rotation", "hdr", "video_codec", "audio_codec"),
    *("source_sample_rate", "source_channels"),
)


def _json_facts(
    segment: Segment,
    recording: Recording,
    done: Pass,
    facts: Mapping[str, Any],
    names: list[str],
    extractor: Extractor,
) -> dict[str, Any]:
    """The json member: nothing in it depends on when, where or in how many tries the sample was made."""
    begin = done.window.start + recording.offset
    return {
        "id": segment.ytid,
        "key": segment.key,
        "start": segment.start,
        "end": segment.end,
        "window": [round(begin, 6), round(begin + done.window.duration, 6)],
        "split": segment.split,
        "mids": list(segment.mids),
        "tag": names,
        "text": ", ".join(names),
        **{name: facts[name] for name in _IN_SAMPLE},
        "source": {
            **{name.removeprefix("source_"): facts[name] for name in _OF_SOURCE},
            "container": done.source.container,
            "formats": [stream.format_id for stream in recording.streams if stream.format_id],
        },
        "tools": [tool for tool in (TRICHORD, extractor.program.label, recording.downloader_version) if tool],
        "format_version": FORMAT_VERSION,
    }
