"""Refusals as outcomes: wordings, statuses, broken connections."""

import email.utils
import importlib.util
import io
import socket
import ssl
import time
from http.client import IncompleteRead
from pathlib import Path

import pytest
import yt_dlp
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ContentTooShortError, GeoRestrictedError, UnsupportedError, UserNotLive

from pipeline import errors
from pipeline.errors import (
    ABOUT_THE_TOOL,
    ABOUT_THE_VIDEO,
    ABOUT_US,
    SERVER,
    TOOL_WARNINGS,
    VAGUE,
    Wording,
    classify,
    classify_status,
    is_tool_warning,
    plain,
    retry_after,
    short,
)
from pipeline.media import Failure, MediaError
from shards.outcome import Outcome

WORDINGS = (*ABOUT_US, *ABOUT_THE_VIDEO, *ABOUT_THE_TOOL, *VAGUE, *TOOL_WARNINGS)
FROM_SOURCE = [wording for wording in WORDINGS if wording.source != SERVER]

# Whole texts as users reported them, most of them YouTube's with what yt-dlp adds.
REPORTED = [
    ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", Outcome.BOT_CHECK),
    ("Video unavailable. YouTube is requiring a captcha challenge before playback", Outcome.BOT_CHECK),
    (
        "Video unavailable. This content isn’t available, try again later. The current session has been "
        "rate-limited by YouTube for up to an hour.",
        Outcome.SESSION_LIMIT,
    ),
    ("Video unavailable. This content isn’t available.", Outcome.SESSION_LIMIT),
    ("All player responses are invalid. Your IP is likely being blocked by Youtube", Outcome.BOT_CHECK),
    ("Please sign in. Use --cookies-from-browser or --cookies for the authentication", Outcome.BOT_CHECK),
    ("Private video. Sign in if you've been granted access to this video", Outcome.PRIVATE),
    ("Video unavailable. This video is private", Outcome.PRIVATE),
    (
        "Video unavailable. This video is no longer available because the YouTube account associated with "
        "this video has been terminated.",
        Outcome.TERMINATED,
    ),
    (
        "Video unavailable. This video is no longer available because the uploader has closed their "
        "YouTube account.",
        Outcome.TERMINATED,
    ),
    ("This video is no longer available due to a copyright claim by SME", Outcome.COPYRIGHT),
    ("This video contains content from SME, who has blocked it on copyright grounds", Outcome.COPYRIGHT),
    ("Video unavailable. This video has been removed by the uploader", Outcome.REMOVED),
    ("This video has been removed for violating YouTube's Terms of Service", Outcome.REMOVED),
    (
        "This video contains content from UMG, who has blocked it in your country on copyright grounds.",
        Outcome.GEO_BLOCKED,
    ),
    ("The uploader has not made this video available in your country", Outcome.GEO_BLOCKED),
    ("Video unavailable. This video is not available in your country", Outcome.GEO_BLOCKED),
    ("Sign in to confirm your age. This video may be inappropriate for some users.", Outcome.AGE_GATED),
    ("Join this channel to get access to members-only content like this video", Outcome.MEMBERS_ONLY),
    ("This video is available to this channel's members on level: Fan", Outcome.MEMBERS_ONLY),
    ("This live event will begin in 3 hours.", Outcome.LIVE),
    ("Premieres in 4 hours", Outcome.LIVE),
    ("The page needs to be reloaded.", Outcome.EXTRACTOR),
    ("This video is DRM protected", Outcome.DRM),
    ("Requested format is not available. Use --list-formats for a list", Outcome.NO_FORMAT),
    ("Video unavailable", Outcome.UNAVAILABLE),
    ("Video unavailable. This video is not available", Outcome.UNAVAILABLE),
    ("Unable to extract the frobnicator; please report this issue on https://example.org", Outcome.EXTRACTOR),
]


@pytest.fixture(scope="session")
def source() -> Path:
    """The folder of the installed yt-dlp."""
    spec = importlib.util.find_spec("yt_dlp")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def http_error(status: int, headers: dict[str, str] | None = None) -> HTTPError:
    return HTTPError(Response(io.BytesIO(b""), "http://127.0.0.1/watch", headers or {}, status))


@pytest.mark.parametrize("wording", FROM_SOURCE, ids=lambda wording: wording.words)
def test_words_of_yt_dlp_are_still_said_by_its_source(wording: Wording, source: Path) -> None:
    assert wording.words in plain((source / wording.source).read_text(encoding="utf-8"))


@pytest.mark.parametrize("wording", WORDINGS, ids=lambda wording: wording.words)
def test_a_wording_is_written_as_texts_are_compared(wording: Wording) -> None:
    assert wording.words == plain(wording.words)


@pytest.mark.parametrize("index", range(len(WORDINGS) - len(TOOL_WARNINGS)))
def test_no_wording_is_hidden_by_one_before_it_with_another_outcome(index: int) -> None:
    hiding = [before for before in WORDINGS[:index] if before.words in WORDINGS[index].words]
    assert {before.outcome for before in hiding} <= {WORDINGS[index].outcome}


@pytest.mark.parametrize(("text", "outcome"), REPORTED, ids=[text[:50] for text, _ in REPORTED])
def test_a_reported_text_has_its_outcome(text: str, outcome: Outcome) -> None:
    assert classify(yt_dlp.utils.DownloadError(f"ERROR: [youtube] jNQXAC9IVRw: {text}")).outcome is outcome


def test_no_text_about_us_ends_as_permanent() -> None:
    assert all(wording.outcome.blocked for wording in ABOUT_US)


def test_words_in_an_address_decide_nothing() -> None:
    error = UnsupportedError("http://127.0.0.1/has-been-removed/members-only?v=age-restricted")
    assert classify(error).outcome is Outcome.NO_FORMAT


def test_an_hours_session_limit_says_so() -> None:
    text = (
        "This content isn't available, try again later. The current session has been rate-limited by YouTube"
    )
    assert classify(yt_dlp.utils.DownloadError(text)).retry_after == 3600


@pytest.mark.parametrize(
    ("status", "of_page", "of_media"),
    [
        (401, Outcome.LOGIN_REQUIRED, Outcome.LOGIN_REQUIRED),
        (403, Outcome.FORBIDDEN, Outcome.FORBIDDEN),
        (404, Outcome.NOT_FOUND, Outcome.NO_FORMAT),
        (410, Outcome.NOT_FOUND, Outcome.NO_FORMAT),
        (416, Outcome.CORRUPT, Outcome.CORRUPT),
        (418, Outcome.EXTRACTOR, Outcome.EXTRACTOR),
        (429, Outcome.RATE_LIMITED, Outcome.RATE_LIMITED),
        (451, Outcome.GEO_BLOCKED, Outcome.GEO_BLOCKED),
        (500, Outcome.SERVER_ERROR, Outcome.SERVER_ERROR),
        (599, Outcome.SERVER_ERROR, Outcome.SERVER_ERROR),
    ],
)
def test_a_status_has_its_outcome(status: int, of_page: Outcome, of_media: Outcome) -> None:
    assert classify_status(status, {}, page=True).outcome is of_page
    assert classify_status(status, {}).outcome is of_media
    assert classify(http_error(status)).outcome is of_page


def test_a_status_is_found_inside_a_download_error() -> None:
    try:
        raise http_error(429, {"Retry-After": "17"})
    except HTTPError as cause:
        inner = yt_dlp.utils.ExtractorError("Unable to download webpage", cause=cause)
    error = yt_dlp.utils.DownloadError("ERROR: unable", (type(inner), inner, None))
    assert classify(error) == Failure(Outcome.RATE_LIMITED, "unable", 17.0)


def test_the_reason_of_a_video_comes_before_the_status_it_was_sent_with() -> None:
    error = yt_dlp.utils.ExtractorError("Private video", cause=http_error(403))
    assert classify(error).outcome is Outcome.PRIVATE


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert retry_after({"Retry-After": "120"}) == 120
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert retry_after({"Retry-After": in_an_hour}) == pytest.approx(3600, abs=60)
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TransportError("HTTPSConnectionPool(host='x', port=443): Read timed out."), Outcome.TIMEOUT),
        (TransportError(cause=TimeoutError("no byte")), Outcome.TIMEOUT),
        (TransportError("Failed to resolve 'www.youtube.com'"), Outcome.NETWORK),
        (ContentTooShortError(10, 20), Outcome.NETWORK),
        (IncompleteRead(b"half"), Outcome.NETWORK),
        (ConnectionResetError("reset by peer"), Outcome.NETWORK),
        (socket.gaierror(-2, "Name or service not known"), Outcome.NETWORK),
        (ssl.SSLError("handshake"), Outcome.NETWORK),
        (TimeoutError("late"), Outcome.TIMEOUT),
        (GeoRestrictedError("Not here", countries=["DE"]), Outcome.GEO_BLOCKED),
        (UserNotLive(), Outcome.LIVE),
        (UnsupportedError("http://127.0.0.1/"), Outcome.NO_FORMAT),
        (KeyError("streamingData"), Outcome.EXTRACTOR),
        (MediaError(Failure(Outcome.PAST_END, "the video ends before")), Outcome.PAST_END),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_exception_has_its_outcome(error: Exception, outcome: Outcome) -> None:
    assert classify(error).outcome is outcome


def test_the_names_of_yt_dlps_exceptions_are_still_in_use() -> None:
    names = {*errors._CONNECTION_ERROR_NAMES, *errors._OUTCOMES_BY_NAME}
    known = vars(yt_dlp.utils).keys() | vars(yt_dlp.networking.exceptions).keys()
    assert names <= known


@pytest.mark.parametrize(
    ("warning", "outcome"),
    [
        ("[youtube] Unable to download API page: HTTP Error 429: Too Many Requests", Outcome.RATE_LIMITED),
        ("[youtube] Unable to download webpage: HTTP Error 403: Forbidden", Outcome.FORBIDDEN),
        ("[youtube] Unable to download webpage: <x>: Failed to resolve 'www.youtube.com'", Outcome.NETWORK),
        ("[youtube] Unable to download API page: Read timed out.", Outcome.TIMEOUT),
        ("[youtube] something else", Outcome.BOT_CHECK),
    ],
)
def test_no_player_response_is_explained_by_what_was_warned_of(warning: str, outcome: Outcome) -> None:
    error = yt_dlp.utils.DownloadError("[youtube] jNQXAC9IVRw: Failed to extract any player response")
    assert classify(error, ["[youtube] hello", warning]).outcome is outcome


def test_a_message_is_one_short_line_without_secrets() -> None:
    text = (
        "\x1b[0;31mERROR:\x1b[0m [youtube] jNQXAC9IVRw: Unable to open "
        "https://me:pass@rr1.example.org/videoplayback?expire=1&sig=SECRET&pot=TOKEN,\n"
        "url: /api/manifest/expire/1700000000/ei/xyz/ip/127.0.0.1/sig/SECRETSECRETSECRETSECRETSECRETSECRET/a"
        " (caused by TransportError('https://example.org/?key=SECRET'))"
    )
    assert short(text) == (
        "[youtube] jNQXAC9IVRw: Unable to open https://rr1.example.org/videoplayback, url: /…"
    )
    assert len(short("word " * 200)) == 300
    assert "\n" not in short("a\nb")


def test_advice_for_command_lines_is_left_out() -> None:
    assert (
        short("ERROR: Private video. Use --cookies-from-browser or --cookies. See https://x")
        == "Private video"
    )
    assert short("Broken; please report this issue on https://example.org , filling out") == "Broken"


def test_a_missing_runtime_is_a_tool_warning() -> None:
    assert is_tool_warning("[youtube] No supported JavaScript runtime could be found. Only deno is enabled")
    assert not is_tool_warning("[youtube] Falling back to the other title")
