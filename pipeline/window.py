"""What to cut out of which inputs, and on which clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.media import Carries, Delivery, Failure, MediaStream
from shards.outcome import Outcome

PREROLL_S = 0.15  # so that the first block of sound has its predecessor: 1024 samples at 8 kHz
HLS_PREROLL_S = 1.0  # after a seek in a playlist some packets come without times, taken for its target's
LONG_PREROLL_S = 20.0  # twice the longest distance of key frames usual on the web
_TRANSPORT = ("ts", "m2ts", "mts", "mpegts", "mpg", "mpeg", "vob")  # containers whose clock begins anywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What to cut out of which inputs: one with sound and picture, or one for each."""

    sound: str  # path or URL
    picture: str | None  # None: sound alone; equal to `sound`: one input, read once
    start: float  # seconds on the inputs' clock
    duration: float  # seconds
    frames: int = 10  # pictures, at the centres of as many equal parts
    from_first: bool = False  # transport streams count from an arbitrary time: from their first packet
    one_clock: bool = False  # ... both from the same, so that the sound's first packet is zero for both
    long_preroll: bool = False  # for media whose seeks miss: no index, or a quirk of their edit lists

    @property
    def preroll(self) -> float:
        """Seconds decoded ahead of the window, and dropped."""
        usual = HLS_PREROLL_S if self.from_first else PREROLL_S
        return min(self.start, LONG_PREROLL_S if self.long_preroll else usual)

    @property
    def origin(self) -> float:
        """When the window starts on the clock of the decoded: seconds after the seek, or after the first."""
        return self.start if self.from_first else self.preroll


def window_over(
    streams: Sequence[MediaStream], sources: Sequence[str], start: float, duration: float, frames: int
) -> Window | Failure:
    """The window over paths or URLs, one for each stream; or what the streams lack."""
    having = {stream.carries: source for stream, source in zip(streams, sources, strict=True)}
    sound = having.get(Carries.AUDIO) or having.get(Carries.BOTH)
    picture = having.get(Carries.VIDEO) or having.get(Carries.BOTH)
    if sound is None:
        return Failure(Outcome.NO_AUDIO, "the media has no sound")
    if frames and picture is None:
        return Failure(Outcome.NO_VIDEO, "the media has no picture")
    counted = [each.delivery is Delivery.HLS or each.container in _TRANSPORT for each in streams]
    return Window(
        sound=sound,
        picture=picture if frames else None,
        start=start,
        duration=duration,
        frames=frames,
        from_first=any(counted),
        one_clock=all(counted),
        long_preroll=any(each.container in _TRANSPORT for each in streams),  # there is no index to seek by
    )
