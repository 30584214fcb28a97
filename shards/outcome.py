"""What became of a segment: a closed list of outcomes, and whether trying again can change each."""

from enum import StrEnum


class Disposition(StrEnum):
    """What to do about a segment that gave no sample."""

    DONE = "done"
    PERMANENT = "permanent"  # asking again gives the same answer
    RETRYABLE = "retryable"  # asking again may help
    BLOCKED = "blocked"  # the answer was about us, not about the video: cool down, then ask again


class Outcome(StrEnum):
    OK = "ok"
    PRIVATE = "private"
    REMOVED = "removed"
    TERMINATED = "terminated"
    COPYRIGHT = "copyright"
    UNAVAILABLE = "unavailable"  # a bare "Video unavailable": permanent only once canaries resolve
    NOT_FOUND = "not_found"  # 404 or 410 of the video's page
    GEO_BLOCKED = "geo_blocked"
    AGE_GATED = "age_gated"
    MEMBERS_ONLY = "members_only"
    LOGIN_REQUIRED = "login_required"
    LIVE = "live"
    DRM = "drm"
    BOT_CHECK = "bot_check"
    SESSION_LIMIT = "session_limit"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    NETWORK = "network"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    NO_FORMAT = "no_format"  # a stale yt-dlp looks like this: permanent only once canaries resolve
    NO_AUDIO = "no_audio"
    NO_VIDEO = "no_video"
    PAST_END = "past_end"
    SHORT = "short"
    CORRUPT = "corrupt"
    CRASHED = "crashed"  # the decoder died of a signal: memory, or a bug of its own
    UNSUPPORTED = "unsupported"  # media that this ffmpeg cannot turn into the profile
    MISSING = "missing"  # no file in the media folder matches
    EXTRACTOR = "extractor"  # yt-dlp failed in a way that no rule of ours knows

    @property
    def disposition(self) -> Disposition:
        """The default; a canary that resolves can make `unavailable` and `no_format` permanent."""
        return _DISPOSITION.get(self, Disposition.PERMANENT)

    @property
    def ok(self) -> bool:
        return self is Outcome.OK

    @property
    def retryable(self) -> bool:
        return self.disposition is Disposition.RETRYABLE

    @property
    def blocked(self) -> bool:
        return self.disposition is Disposition.BLOCKED

    @property
    def doubtful(self) -> bool:
        """Whether a stale downloader produces this too, so that only canaries can make it permanent."""
        return self in (Outcome.UNAVAILABLE, Outcome.NO_FORMAT)


_DISPOSITION = {
    Outcome.OK: Disposition.DONE,
    **dict.fromkeys(
        (Outcome.BOT_CHECK, Outcome.SESSION_LIMIT, Outcome.FORBIDDEN, Outcome.RATE_LIMITED),
        Disposition.BLOCKED,
    ),
    **dict.fromkeys(
        (
            Outcome.UNAVAILABLE,
            Outcome.LIVE,
            Outcome.NETWORK,
            Outcome.TIMEOUT,
            Outcome.SERVER_ERROR,
            Outcome.NO_FORMAT,
            Outcome.MISSING,
            Outcome.CRASHED,
            Outcome.EXTRACTOR,
        ),
        Disposition.RETRYABLE,
    ),
}
