"""What a refusal means: words of yt-dlp's and of servers', HTTP statuses, broken connections, as outcomes."""

import email.utils
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.media import Failure, MediaError
from shards.outcome import Outcome

SERVER: Final = "server"  # YouTube's own words, passed through: seen in issue threads, found in no source
HOUR: Final = 3600.0

_VIDEO: Final = "extractor/youtube/_video.py"
_COMMON: Final = "extractor/common.py"
_CORE: Final = "YoutubeDL.py"


class Wording(NamedTuple):
    """Words that tell an outcome, lower case; `source` is the file of yt-dlp that says them, or SERVER."""

    words: str
    outcome: Outcome
    source: str = SERVER


# The first that occurs decides. What is about us comes before what is about the video, since the former is
# often dressed as the latter ("Sign in …", "Video unavailable. This content isn't available").
ABOUT_US: Final = (
    Wording("not a bot", Outcome.BOT_CHECK),
    Wording("captcha challenge", Outcome.BOT_CHECK, _VIDEO),
    Wording("unusual traffic", Outcome.BOT_CHECK),
    Wording("rate-limited by youtube", Outcome.SESSION_LIMIT, _VIDEO),
    Wording("this content isn't available", Outcome.SESSION_LIMIT, _VIDEO),
    Wording("ip is likely being blocked", Outcome.BOT_CHECK, _VIDEO),
    Wording("failed to extract any player response", Outcome.BOT_CHECK, _VIDEO),
    Wording("access to this webpage has been blocked", Outcome.FORBIDDEN, _COMMON),
    Wording("check the google workspace administrator", Outcome.FORBIDDEN),
)
ABOUT_THE_VIDEO: Final = (
    Wording("private video", Outcome.PRIVATE),
    Wording("video is private", Outcome.PRIVATE),
    Wording("blocked it in your country", Outcome.GEO_BLOCKED),  # "… on copyright grounds" may follow
    Wording("has been terminated", Outcome.TERMINATED),
    Wording("closed their youtube account", Outcome.TERMINATED),
    Wording("copyright claim", Outcome.COPYRIGHT),
    Wording("copyright grounds", Outcome.COPYRIGHT),
    Wording("copyright infringement", Outcome.COPYRIGHT),
    Wording("removed by the u", Outcome.REMOVED),  # uploader, user
    Wording("has been removed", Outcome.REMOVED),
    Wording("for violating youtube's", Outcome.REMOVED),
    Wording("no longer available", Outcome.REMOVED),
    Wording("made this video available in your country", Outcome.GEO_BLOCKED, _VIDEO),
    Wording("from your location due to geo restriction", Outcome.GEO_BLOCKED, _COMMON),
    Wording("you might want to use a vpn", Outcome.GEO_BLOCKED, _CORE),  # follows every GeoRestrictedError
    Wording("available in your country", Outcome.GEO_BLOCKED),
    Wording("confirm your age", Outcome.AGE_GATED, _VIDEO),
    Wording("age-restricted", Outcome.AGE_GATED, _VIDEO),
    Wording("inappropriate", Outcome.AGE_GATED, _VIDEO),
    Wording("members-only", Outcome.MEMBERS_ONLY),
    Wording("join this channel", Outcome.MEMBERS_ONLY),
    Wording("this channel's members", Outcome.MEMBERS_ONLY),
    Wording("music premium members", Outcome.MEMBERS_ONLY),
    Wording("requires payment", Outcome.MEMBERS_ONLY),
    Wording("only available for registered users", Outcome.LOGIN_REQUIRED, _COMMON),
    Wording("login details are needed", Outcome.LOGIN_REQUIRED, "extractor/youtube/_base.py"),
    Wording("sign in", Outcome.BOT_CHECK, _VIDEO),  # no reason given: an address under suspicion gets this
    Wording("is not currently live", Outcome.LIVE, "utils/_utils.py"),
    Wording("will begin in", Outcome.LIVE),
    Wording("premieres in", Outcome.LIVE),
    Wording("premiere will begin", Outcome.LIVE),
    Wording("live event has ended", Outcome.LIVE),  # its recording may follow
    Wording("processing this video", Outcome.LIVE),  # check back later
)
# An HTTP status and a broken connection are asked after in between.
ABOUT_THE_TOOL: Final = (
    Wording("the page needs to be reloaded", Outcome.EXTRACTOR),  # yt-dlp's client is out of date
    Wording("video is drm protected", Outcome.DRM, _COMMON),
    Wording("requested format is not available", Outcome.NO_FORMAT, _CORE),
    Wording("no video formats found", Outcome.NO_FORMAT, _CORE),
    Wording("unsupported url", Outcome.NO_FORMAT, "utils/_utils.py"),  # a page without media
)
VAGUE: Final = (
    Wording("video unavailable", Outcome.UNAVAILABLE),
    Wording("video is unavailable", Outcome.UNAVAILABLE),
    Wording("video is not available", Outcome.UNAVAILABLE),
    Wording("video isn't available", Outcome.UNAVAILABLE),
    Wording("video does not exist", Outcome.UNAVAILABLE),
)
# Warnings that explain why formats are missing; a following failure carries them.
TOOL_WARNINGS: Final = (
    Wording("no supported javascript runtime could be found", Outcome.NO_FORMAT, _VIDEO),
    Wording("n challenge solving failed", Outcome.NO_FORMAT, _VIDEO),
    Wording("signature solving failed", Outcome.NO_FORMAT, _VIDEO),
    Wording("formats require a gvs po token", Outcome.NO_FORMAT, _VIDEO),
    Wording("skipped as they are missing a url", Outcome.NO_FORMAT, _VIDEO),
    Wording("skipped as they are drm protected", Outcome.NO_FORMAT, _VIDEO),
)
_NO_ANSWER: Final = "failed to extract any player response"  # says nothing of why: its warnings do

_BROKEN_CONNECTIONS: Final = (
    "failed to resolve",
    "name resolution",
    "name or service not known",
    "connection refused",
    "connection reset",
    "connection aborted",
    "unreachable",
    "no route to host",
    "max retries exceeded",
    "certificate_verify_failed",
    "unable to connect to proxy",
)
_CONNECTION_ERRORS: Final = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
    http.client.HTTPException,
)
# yt-dlp's own, by name: this file knows its words without importing it.
_CONNECTION_ERROR_NAMES: Final = frozenset({"TransportError", "ContentTooShortError"})
_OUTCOMES_BY_NAME: Final = {
    "GeoRestrictedError": Outcome.GEO_BLOCKED,
    "UserNotLive": Outcome.LIVE,
    "UnsupportedError": Outcome.NO_FORMAT,
}


def classify(error: BaseException, warnings: Sequence[str] = ()) -> Failure:
    """The failure that an exception of yt-dlp's, of a connection or of ours amounts to.

    Args:
        error: what was raised; a DownloadError's original and every `cause` are looked at too.
        warnings: what yt-dlp warned of before, for failures that do not say why.
    """
    errors = tuple(_causes(error))
    if ours := next((each for each in errors if isinstance(each, MediaError)), None):
        return ours.failure
    text = plain(str(error))
    message = short(str(error) if "YoutubeDLError" in _names(error) else _with_name(error))
    if _NO_ANSWER in text and (reason := _reason_among(warnings)):
        return reason
    return (
        _by_words(text, (*ABOUT_US, *ABOUT_THE_VIDEO), message)
        or _by_status(errors, text, message)
        or _by_connection(errors, text, message)
        or _by_words(text, (*ABOUT_THE_TOOL, *VAGUE), message)
        or _by_type(errors, message)
        or Failure(Outcome.EXTRACTOR, message)
    )


def classify_status(status: int, headers: Mapping[str, str], *, page: bool = False) -> Failure:
    """The failure that an HTTP status amounts to: of media unless `page`.

    A page that is not there is a video that is not; media that are not there are an address gone stale.
    """
    outcome = _STATUS.get(status)
    if outcome is None:
        outcome = Outcome.SERVER_ERROR if status >= 500 else Outcome.EXTRACTOR
    if outcome is Outcome.NOT_FOUND and not page:
        outcome = Outcome.NO_FORMAT
    phrase = http.client.responses.get(status, "")
    message = f"HTTP {status} {phrase} for {'the page' if page else 'its media'}".replace("  ", " ")
    return Failure(outcome, message, retry_after(headers))


_STATUS: Final = {
    401: Outcome.LOGIN_REQUIRED,
    403: Outcome.FORBIDDEN,
    404: Outcome.NOT_FOUND,
    407: Outcome.NETWORK,  # the proxy wants a password
    408: Outcome.TIMEOUT,
    410: Outcome.NOT_FOUND,
    416: Outcome.CORRUPT,  # shorter than its own index says
    425: Outcome.RATE_LIMITED,
    429: Outcome.RATE_LIMITED,
    451: Outcome.GEO_BLOCKED,
}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or the time until an HTTP date."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def is_tool_warning(text: str) -> bool:
    """Whether a warning of yt-dlp's tells that it cannot see formats that are there."""
    return any(wording.words in plain(text) for wording in TOOL_WARNINGS)


def is_connection_error(error: BaseException) -> bool:
    """Whether something between us and a server broke, as opposed to something on this machine."""
    return isinstance(error, _CONNECTION_ERRORS) or not _CONNECTION_ERROR_NAMES.isdisjoint(_names(error))


def plain(text: str) -> str:
    """Text for matching: lower case, ASCII apostrophes, single spaces, no colours, no addresses."""
    text = _ADDRESS.sub("", _COLOUR.sub("", text)).translate(_APOSTROPHES)
    return " ".join(text.lower().split())


_APOSTROPHES: Final = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "\xa0": " "})
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ADDRESS: Final = re.compile(r"\bhttps?://\S+")

_PADDING: Final = re.compile(
    r"^(?:error:\s*)+"
    r"|[;.]? *please report this issue on .*"
    r"|[.]? *Use --(?:cookies|list-formats|username).*"
    r"|[.]? *You might want to use a VPN.*"
    r"|[.]? *It is recommended to use `-t sleep`.*"
    r"| *\(caused by <?(?:HTTPError|TransportError|IncompleteRead|[A-Za-z]*(?:Proxy|SSL|Verify)Error).*",
    re.IGNORECASE | re.DOTALL,
)
_QUERY: Final = re.compile(r"[?#][^\s'\")>]*=[^\s'\")>]*(?<![:,.;])")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s/@]+@")
_PATH: Final = re.compile(r"(?<=/)[^\s'\")>]{60,}")  # manifests carry their signatures in the path


def short(text: str, limit: int = 300) -> str:
    """One line for the ledger: no colours, no advice for command lines, no secrets that addresses carry."""
    text = _COLOUR.sub("", text)
    text = _CREDENTIALS.sub("", _QUERY.sub("", text))
    text = " ".join(_PATH.sub("…", _PADDING.sub("", text)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it wraps. Not `__context__`: that may be the caller's own business."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or each in seen:
            continue
        seen.append(each)
        yield each
        exc_info = getattr(each, "exc_info", None) or (None, None, None)
        waiting += [exc_info[1], getattr(each, "cause", None), each.__cause__]


def _with_name(error: BaseException) -> str:
    """Python's own errors say little without their name."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _by_words(text: str, wordings: Sequence[Wording], message: str) -> Failure | None:
    found = next((wording for wording in wordings if wording.words in text), None)
    if found is None:
        return None
    # "… rate-limited by YouTube for up to an hour" (_video.py)
    return Failure(found.outcome, message, HOUR if found.outcome is Outcome.SESSION_LIMIT else None)


def _by_status(errors: Sequence[BaseException], text: str, message: str) -> Failure | None:
    for error in errors:
        if "HTTPError" in _names(error) and isinstance(status := getattr(error, "status", None), int):
            headers = getattr(getattr(error, "response", None), "headers", None) or {}
            failure = classify_status(status, headers, page=True)
            return Failure(failure.outcome, message, failure.retry_after)
    if found := re.search(r"\bhttp error (\d{3})\b", text):
        return Failure(classify_status(int(found[1]), {}, page=True).outcome, message)
    return None


def _by_connection(errors: Sequence[BaseException], text: str, message: str) -> Failure | None:
    broken = any(map(is_connection_error, errors)) or any(words in text for words in _BROKEN_CONNECTIONS)
    late = "timed out" in text or any(isinstance(error, TimeoutError) for error in errors)
    if not broken and not late:
        return None
    return Failure(Outcome.TIMEOUT if late else Outcome.NETWORK, message)


def _by_type(errors: Sequence[BaseException], message: str) -> Failure | None:
    names = set().union(*map(_names, errors))
    outcome = next((outcome for name, outcome in _OUTCOMES_BY_NAME.items() if name in names), None)
    return None if outcome is None else Failure(outcome, message)


def _reason_among(warnings: Sequence[str]) -> Failure | None:
    for warning in warnings:
        text, message = plain(warning), short(warning)
        if found := _by_words(text, ABOUT_US, message) or _by_status((), text, message):
            return found
        if found := _by_connection((), text, message):
            return found
    return None
