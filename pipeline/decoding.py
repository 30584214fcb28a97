"""Runs of ffmpeg over one window, and what came of them: usually one, rarely a second."""

import dataclasses
import errno
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from pipeline.decoded import SourceFacts, Span, frames_span, read_frame_times, read_log, read_sound_span
from pipeline.ffmpeg import Ended, Program, one_pass, run
from pipeline.window import Window
from shards.profile import Profile

MISSED_S = 0.02  # seconds missing at the window's start that make a seek suspect
# At the end of a run, or while an input is being opened; the exit code may well be 0. What files say of
# themselves never starts a line so.
_TOLD_TO_STOP = re.compile(
    r"^Exiting normally, received signal \d+\.|^(?:\[|Error)[^\n]*Immediate exit requested", re.MULTILINE
)
_STOPPING = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM}  # before ffmpeg listens to them itself


class Interrupted(Exception):
    """The decoder was told to stop, as we are: no outcome, the segment is simply not done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Which program makes what, and how long it may take."""

    program: Program
    profile: Profile
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
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


def decode(window: Window, coder: Decoder, folder: Path) -> Pass:
    """One pass; rarely a second: from further ahead when a seek seems to have missed, or tone-mapped."""
    done = _run_pass(window, coder, folder, hdr=False)
    if not window.long_preroll and window.start > 0 and _missed(done):
        window = dataclasses.replace(window, long_preroll=True)
        done = _run_pass(window, coder, folder, hdr=False)
    if done.source.hdr and done.times:
        done = _run_pass(window, coder, folder, hdr=True)
    return done


def _missed(done: Pass) -> bool:
    """Whether the seek seems to have landed inside the window, or so late that no key frame came after it."""
    source = done.source
    if done.share == 0:
        return source.audio_codec is not None and source.video_codec is not None and not done.past_end
    return done.span.begin > MISSED_S


def _run_pass(window: Window, coder: Decoder, folder: Path, *, hdr: bool) -> Pass:
    profile = coder.profile
    for leftover in folder.iterdir():
        leftover.unlink()
    ended = run(one_pass(coder.program, window, profile, folder, hdr=hdr), coder.timeout_s)
    if ended.returncode in _STOPPING or _TOLD_TO_STOP.search(ended.log):
        raise Interrupted(f"ffmpeg was told to stop at {window.start} s")
    if ended.returncode and "No space left on device" in ended.log:
        raise OSError(errno.ENOSPC, "ffmpeg found no room", str(folder))
    source = read_log(ended.log)
    times = read_frame_times(folder, window, source.fps)
    pictured = profile.frames > 0
    return Pass(
        window=window,
        ended=ended,
        source=source,
        times=times,
        sound=read_sound_span(folder, window, profile.sample_rate),
        picture=frames_span(times, profile.frames, window.duration, source.fps) if pictured else None,
    )


def decode_rest(done: Pass, coder: Decoder, folder: Path) -> Pass:
    """The part of a short window that both sound and picture cover, as a window of its own."""
    span = done.span
    part = dataclasses.replace(
        done.window, start=done.window.start + span.begin, duration=max(0.1, span.end - span.begin)
    )
    return decode(part, coder, folder)
