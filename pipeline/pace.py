"""How many videos an identity may ask for in an hour, whoever asks."""

import math
from dataclasses import dataclass

from pipeline.settings import SettingsError

# yt-dlp wiki, "Extractors" (2026-04): about 300 videos an hour for a guest session, 2000 for an account
PRESETS = {"guest": 300.0, "account": 2000.0, "none": None}

GRACE_S = 2.0  # how late a slot may still be used
JITTER_S = 5.0  # at most, so that requests do not come like clockwork
BURST_S = 5.0  # seconds of the rate that may come at once, BURST videos at least
BURST = 5
LEASE_S = 1.0  # seconds of the rate that a process reserves at a time, one slot at least


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Slots at even distances; those of an idle identity are saved up, a few of them.

    In no hour are more than `videos_per_hour + burst` slots used, by all processes of all machines together.
    """

    videos_per_hour: float | None  # None: as fast as it goes

    @property
    def limited(self) -> bool:
        return self.videos_per_hour is not None

    @property
    def interval_s(self) -> float:
        return 3600.0 / self.videos_per_hour if self.videos_per_hour else 0.0

    @property
    def burst(self) -> int:
        return max(BURST, math.ceil(BURST_S / self.interval_s))

    @property
    def jitter_s(self) -> float:
        return min(JITTER_S, self.interval_s / 2)

    @property
    def lease(self) -> int:
        return max(1, int(LEASE_S / self.interval_s))

    @property
    def saved_s(self) -> float:
        """How old an unused slot may be: late and delayed use count against the burst too."""
        late = math.ceil((GRACE_S + self.jitter_s) / self.interval_s)
        return (self.burst - late - 1) * self.interval_s

    def slots(self, next_at: float, now: float) -> list[float]:
        """The next slots in order, of which the first may be `saved_s` in the past.

        `next_at` is when the first slot is that nobody has, both in seconds since the epoch.
        """
        first = max(next_at, now - self.saved_s)
        return [first + number * self.interval_s for number in range(self.lease)]


def named_pace(choice: str, *, account: bool) -> Pace:
    """`guest`, `account`, `none`, videos per hour, or `auto`: account for who has one, else guest.

    Raises SettingsError for anything else.
    """
    if choice == "auto":
        choice = "account" if account else "guest"
    if choice in PRESETS:
        return Pace(videos_per_hour=PRESETS[choice])
    try:
        rate = float(choice)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise SettingsError(
            f"rate {choice!r}: expected {', '.join(PRESETS)}, auto, or videos per hour such as 500"
        )
    return Pace(videos_per_hour=rate)
