"""A recording becomes a sample, or the reason why not: one ffmpeg process, one decode, then judgement."""

import contextlib
import dataclasses
import errno
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.decoded import (
    NOTHING,
    SourceFacts,
    Span,
    frames_span,
    read_frame_times,
    read_log,
    read_sound_span,
)
from pipeline.ffmpeg import Ended, Program, Window, one_pass, run
from pipeline.measure import STILL, measure_levels, measure_stillness
from pipeline.media import Carries, Delivery, Failure, MediaStream, Recording
from pipeline.relay import Relay
from pipeline.upstream import Traffic
from shards.ledger import FORMAT_VERSION
from shards.outcome import Outcome
from shards.profile import Profile
from shards.sample import Sample
from shards.segment import Segment
from shards.sound import SoundError, decode_pcm

MISSED_S = 0.02  # seconds missing at the window's start that make a seek suspect
ENOUGH = 0.95  # share of the window that has to decode
TRICHORD = f"trichord {importlib.metadata.version('trichord')}"
_TRANSPORT = ("ts", "m2ts", "mts", "mpegts", "mpg", "mpeg", "vob")  # containers whose clock begins anywhere
_LAST_LINES = 3

Names = Callable[[Sequence[str]], Sequence[str]]


class Interrupted(Exception):
    """The decoder was told to stop, as we are: no outcome, the segment is simply not done."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """One ffmpeg run over one window."""

    window: Window
    ended: Ended
    source: SourceFacts
    times: tuple[float, ...]
    sound: Span
    picture: Span | None  # None: no frames wanted

    @property
    def span(self) -> Span:
        return self.sound if self.picture is None else self.sound.shared(self.picture)

    @property
    def past_end(self) -> bool:
        return self.source.duration is not None and self.window.start >= self.source.duration - 0.1

    @property
    def share(self) -> float:
        """Of the window, as far as both sound and picture decoded."""
        spans = [self.sound] + ([self.picture] if self.picture is not None else [])
        return min(span.covered for span in spans) / self.window.duration


def extract(segment: Segment, recording: Recording, extractor: Extractor, scratch: Path) -> Extraction:
    """Cut the segment's window out of its recording: sound, frames, measurements.

    Files live in a folder of their own below `scratch`, and go when it is done.

    Raises Interrupted when the process is being stopped; every other way of failing is a value.
    """
    with _scratch(scratch) as folder, _sources(segment, recording, extractor) as (window, traffic):
        if isinstance(window, Failure):
            return Extraction(sample=None, failure=window, facts=_traffic_facts(traffic))
        done = _decode(window, extractor, folder)
        failure = _judge(done, extractor.profile, traffic)
        if failure and failure.outcome is Outcome.SHORT and done.share >= (extractor.profile.keep_short or 2):
            done, failure = _decode_rest(done, extractor, folder), None
        facts = {**_pass_facts(done), **_traffic_facts(traffic)}
        if failure:
            return Extraction(sample=None, failure=failure, facts=facts)
        return _sample(segment, recording, done, facts, extractor, folder)


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
        yield _window(recording.streams, urls, start, segment.duration, extractor.profile), traffic
    if traffic.surprise is not None:
        raise traffic.surprise


def _urls(recording: Recording, relay: Relay, traffic: Traffic) -> AbstractContextManager[list[str]]:
    if recording.open_url is None:
        return contextlib.nullcontext([stream.url for stream in recording.streams])
    return relay.serve(recording, traffic)


def _window(
    streams: Sequence[MediaStream], sources: Sequence[str], start: float, duration: float, profile: Profile
) -> Window | Failure:
    having = {stream.carries: source for stream, source in zip(streams, sources, strict=True)}
    sound = having.get(Carries.AUDIO) or having.get(Carries.BOTH)
    picture = having.get(Carries.VIDEO) or having.get(Carries.BOTH)
    if sound is None:
        return Failure(Outcome.NO_AUDIO, "the media has no sound")
    if profile.frames and picture is None:
        return Failure(Outcome.NO_VIDEO, "the media has no picture")
    counted = [each.delivery is Delivery.HLS or each.container in _TRANSPORT for each in streams]
    return Window(
        sound=sound,
        picture=picture if profile.frames else None,
        start=start,
        duration=duration,
        frames=profile.frames,
        from_first=any(counted),
        one_clock=all(counted),
        long_preroll=any(each.container in _TRANSPORT for each in streams),  # there is no index to seek by
    )


def _decode(window: Window, extractor: Extractor, folder: Path) -> _Pass:
    """One pass; rarely a second: from further ahead when a seek seems to have missed, or tone-mapped."""
    done = _run_pass(window, extractor, folder, hdr=False)
    if not window.long_preroll and window.start > 0 and _missed(done):
        window = dataclasses.replace(window, long_preroll=True)
        done = _run_pass(window, extractor, folder, hdr=False)
    if done.source.hdr and done.times:
        done = _run_pass(window, extractor, folder, hdr=True)
    return done


def _missed(done: _Pass) -> bool:
    """Whether the seek seems to have landed inside the window, or so late that no key frame came after it."""
    source = done.source
    if done.share == 0:
        return source.audio_codec is not None and source.video_codec is not None and not done.past_end
    return done.span.begin > MISSED_S


def _run_pass(window: Window, extractor: Extractor, folder: Path, *, hdr: bool) -> _Pass:
    profile = extractor.profile
    for leftover in folder.iterdir():
        leftover.unlink()
    ended = run(one_pass(extractor.program, window, profile, folder, hdr=hdr), extractor.timeout_s)
    if ended.returncode == 255 or "received signal" in ended.log[-2000:]:
        raise Interrupted(f"ffmpeg was told to stop at {window.start} s")
    if ended.returncode and "No space left on device" in ended.log:
        raise OSError(errno.ENOSPC, "ffmpeg found no room", str(folder))
    source = read_log(ended.log)
    times = read_frame_times(folder, window, source.fps)
    pictured = profile.frames > 0
    return _Pass(
        window=window,
        ended=ended,
        source=source,
        times=times,
        sound=read_sound_span(folder, window, profile.sample_rate),
        picture=frames_span(times, profile.frames, window.duration, source.fps) if pictured else None,
    )


def _decode_rest(done: _Pass, extractor: Extractor, folder: Path) -> _Pass:
    """The part of a short window that both sound and picture cover, as a window of its own."""
    span = done.span
    part = dataclasses.replace(
        done.window, start=done.window.start + span.begin, duration=max(0.1, span.end - span.begin)
    )
    return _decode(part, extractor, folder)


def _judge(done: _Pass, profile: Profile, traffic: Traffic) -> Failure | None:
    """Why a pass gives no sample; None when it gives one. What the network did explains first."""
    whole = done.share >= ENOUGH and (not profile.frames or len(done.times) == profile.frames)
    if whole and done.ended.returncode == 0:
        return None
    if traffic.failure:
        return traffic.failure
    if done.ended.returncode is None:
        return Failure(Outcome.TIMEOUT, f"not decoded after {done.ended.wall_s:.0f} s")
    if done.ended.returncode < 0:
        return Failure(Outcome.CRASHED, f"ffmpeg died of signal {-done.ended.returncode}")
    return _judge_media(done, profile)


def _judge_media(done: _Pass, profile: Profile) -> Failure:
    source, window = done.source, done.window
    if not source.opened:
        return Failure(Outcome.CORRUPT, f"not media: {_complaint(done)}")
    if source.audio_codec is None:
        return Failure(Outcome.NO_AUDIO, "the media has no sound")
    if profile.frames and source.video_codec is None:
        return Failure(Outcome.NO_VIDEO, "the media has no picture")
    if done.share == 0 and done.past_end:
        return Failure(Outcome.PAST_END, f"begins at {window.start:.1f} s of {source.duration:.1f} s")
    if source.broken:
        return Failure(Outcome.CORRUPT, f"{done.share:.0%} of the window decodes: {_complaint(done)}")
    if done.sound is not NOTHING or done.times:
        return Failure(Outcome.SHORT, _shares(done))
    return Failure(Outcome.UNSUPPORTED, f"nothing decodes: {_complaint(done)}")


def _shares(done: _Pass) -> str:
    duration = done.window.duration
    parts = [f"sound {done.sound.covered:.2f} s"]
    if done.picture is not None:
        parts.append(f"picture {done.picture.covered:.2f} s")
    return f"{' and '.join(parts)} of {duration:.2f} s decode"


def _complaint(done: _Pass) -> str:
    """The last lines of ffmpeg's log that complain, without addresses."""
    lines = [line for line in done.ended.log.splitlines() if line.startswith("[") or line.startswith("Error")]
    lines = [line for line in lines if not line.startswith("[out#")]
    short = [line.split("] ", 1)[-1].split("http://", 1)[0].split("file:", 1)[0].strip() for line in lines]
    return "; ".join(list(dict.fromkeys(short))[-_LAST_LINES:])[:300] or f"exit code {done.ended.returncode}"


def _pass_facts(done: _Pass) -> dict[str, Any]:
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
    done: _Pass,
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


def _narrowed(segment: Segment, done: _Pass) -> bool:
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
    done: _Pass,
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
