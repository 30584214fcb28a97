"""Whether a pass over a window gives a sample, or the outcome that it stands for."""

import re

from pipeline.decoded import NOTHING
from pipeline.decoding import Pass
from pipeline.media import Failure
from pipeline.upstream import Traffic
from shards.outcome import Outcome
from shards.profile import Profile

ENOUGH = 0.95  # share of the window that has to decode
_LAST_LINES = 3
_POINTER = re.compile(r" @ 0x[0-9a-f]+\]")  # which differs each time, so that equal failures would not group


def judge(done: Pass, profile: Profile, traffic: Traffic) -> Failure | None:
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


def _judge_media(done: Pass, profile: Profile) -> Failure:
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


def _shares(done: Pass) -> str:
    duration = done.window.duration
    parts = [f"sound {done.sound.covered:.2f} s"]
    if done.picture is not None:
        parts.append(f"picture {done.picture.covered:.2f} s")
    return f"{' and '.join(parts)} of {duration:.2f} s decode"


def _complaint(done: Pass) -> str:
    """The last lines of ffmpeg's log that complain, without addresses."""
    lines = [line for line in done.ended.log.splitlines() if line.startswith("[") or line.startswith("Error")]
    lines = [line for line in lines if not line.startswith("[out#")]
    short = [_POINTER.sub("]", line).split("http://", 1)[0].split("file:", 1)[0] for line in lines]
    short = [re.sub(r"^(\[[^\]]*\] ?)+", "", line).strip() for line in short]
    return "; ".join(list(dict.fromkeys(short))[-_LAST_LINES:])[:300] or f"exit code {done.ended.returncode}"
