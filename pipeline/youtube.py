"""How yt-dlp is asked: one information request per video, then the bytes of its media.

The only file that imports yt_dlp, and only once something is asked of it: the import costs half a second.
"""

import contextlib
import functools
import io
import logging
import re
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pipeline.errors import classify, classify_status, is_connection_error, is_tool_warning, short
from pipeline.formats import Wish, as_stream, choose
from pipeline.media import Failure, MediaError, OpenUrl, RangeResponse, Recording
from pipeline.settings import SettingsError
from shards.outcome import Outcome

LOG: Final = logging.getLogger("trichord.youtube")

_PROXY: Final = re.compile(r"(?:https?|socks4a?|socks5h?)://\S+")
_HTTP_ONLY: Final = "#HttpOnly_"  # before a domain, in a cookie file
_COOKIE_FIELDS: Final = 7  # of a Netscape cookie file: domain, subdomains, path, secure, expires, name, value
# Caches inside yt-dlp grow with every video (solved challenges, messages already said).
_VIDEOS_PER_SESSION: Final = 1000
_LONGEST_WAIT: Final = 120.0  # seconds before media that the site makes one wait for
_UNFINISHED: Final = {
    "is_live": "live",
    "is_upcoming": "upcoming",
    "post_live": "just ended, not yet processed",
}

_building = threading.Lock()  # yt-dlp's first object loads plugins into module globals


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadSettings:
    """How requests are made. Secrets stay out of `repr`."""

    cookies: Path | None = None  # Netscape format; read, never written
    proxy: str | None = field(default=None, repr=False)  # http://, https://, socks4://, socks5://, socks5h://
    player_clients: tuple[str, ...] = ()  # of YouTube, in yt-dlp's names; empty: yt-dlp's choice
    # {"youtube": {"po_token": ["web.gvs+…"]}}, as yt-dlp's --extractor-args
    extractor_args: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict, repr=False)
    js_runtimes: tuple[str, ...] = ("deno",)  # NAME or NAME:PATH
    user_agent: str | None = None
    impersonate: str | None = None  # "chrome", "chrome:windows-10"; needs curl_cffi
    socket_timeout: float = 20.0  # seconds without a byte
    sleep_requests: float = 0.0  # seconds between two requests of one information request
    source_address: str | None = None  # "0.0.0.0" forces IPv4, "::" IPv6
    cache: Path | None = None  # for solved player code; None: in memory only

    def __post_init__(self) -> None:
        if self.proxy and not _is_proxy(self.proxy):
            raise SettingsError(
                "the proxy is no URL: expected http://, https://, socks4:// or socks5://host:port"
            )


def _is_proxy(text: str) -> bool:
    try:
        return _PROXY.fullmatch(text) is not None and bool(urlsplit(text))
    except ValueError:  # brackets that do not match
        return False


@functools.cache
def downloader_version() -> str:
    """`yt-dlp 2026.08.19`, from its installed metadata."""
    import importlib.metadata  # 15 ms that a command's start-up need not pay

    version = importlib.metadata.version("yt-dlp")
    return "yt-dlp " + ".".join(part.zfill(2) for part in version.split("."))


class Resolver:
    """Where a video's media are. Any number of threads may ask at once; each borrows a session of its own."""

    def __init__(self, settings: DownloadSettings, *, extractors: Sequence[type] = ()) -> None:
        """`extractors`: yt-dlp InfoExtractor classes to ask before its own.

        Raises SettingsError for cookies or an impersonation target that cannot be used.
        """
        self._settings = settings
        self._extractors = tuple(extractors)
        self._cookies = _read_cookies(settings.cookies) if settings.cookies else None
        # what can be impersonated, only a session knows
        self._idle = [self._new_session()] if settings.impersonate else []

    def resolve(
        self, url: str, *, short_side: int | None, need_video: bool, need_audio: bool
    ) -> Recording | Failure:
        """Where to read a video's picture and sound, by one information request; or why there are none.

        Args:
            url: the video's address, not a bare id (ids may start with a dash).
            short_side: pixels that suffice for the picture's shorter side; None: the largest there is.

        Raises:
            ValueError: no address.
            OSError: something on this machine failed (a full disk), not the video.
        """
        if "://" not in url:
            raise ValueError(f"{url!r} is no address: expected https://…; put an id into a URL template")
        wish = Wish(short_side=short_side, video=need_video, audio=need_audio)
        with self._session() as session:
            info = session.information(url)
            result = info if isinstance(info, Failure) else session.recording(info, wish)
            return session.explained(result) if isinstance(result, Failure) else result

    def close(self) -> None:
        """Close idle connections; recordings in use keep theirs."""
        self._idle.clear()

    @contextlib.contextmanager
    def _session(self) -> Iterator["_Session"]:
        # list.pop and list.append are atomic
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._new_session()
        yield session
        if session.videos < _VIDEOS_PER_SESSION:
            self._idle.append(session)

    def _new_session(self) -> "_Session":
        return _Session(self._settings, self._cookies, self._extractors)


class _Session:
    """One YoutubeDL object, what it warned of, and its connections; closed when nobody holds it any more."""

    def __init__(self, settings: DownloadSettings, cookies: str | None, extractors: Sequence[type]) -> None:
        from yt_dlp.cookies import YoutubeDLCookieJar

        self.videos = 0
        self.no_cookies = YoutubeDLCookieJar()
        self._log = _Log()
        with _building:
            self.ydl = _youtube_dl(settings, cookies, self._log)
            for extractor in extractors:
                self.ydl.add_info_extractor(extractor())
            self.ydl.add_default_info_extractors()
        weakref.finalize(self, self.ydl.close)

    def information(self, url: str) -> dict[str, Any] | Failure:
        self.videos += 1
        self._log.forget_video()
        try:
            # a live stream's formats may all be filtered out: its state is known before, and lost after
            info = self.ydl.extract_info(url, download=False, process=False)
            if info and not _refusal(info):
                info = self.ydl.process_ie_result(info, download=False)
        except Exception as error:
            if _is_ours(error):
                raise
            return classify(error, self._log.warnings)
        return info or Failure(Outcome.EXTRACTOR, "yt-dlp returned nothing")

    def recording(self, info: dict[str, Any], wish: Wish) -> Recording | Failure:
        if refusal := _refusal(info):
            return refusal
        chosen = choose(info.get("formats") or [info], wish)
        if isinstance(chosen, Failure):
            return chosen
        return Recording(
            streams=tuple(map(as_stream, chosen)),
            duration=info.get("duration"),
            open_url=_opener(self, chosen),
            downloader_version=downloader_version(),
        )

    def explained(self, failure: Failure) -> Failure:
        """The failure with what yt-dlp warned of, where it could not see formats that are there."""
        hints = [short(warning, 120) for warning in self._log.warnings if is_tool_warning(warning)]
        if not hints or failure.outcome not in (Outcome.NO_FORMAT, Outcome.NO_AUDIO, Outcome.NO_VIDEO):
            return failure
        message = f"{failure.message}; yt-dlp warned: {'; '.join(hints)}"
        return Failure(Outcome.NO_FORMAT, short(message), failure.retry_after)


def _refusal(info: Mapping[str, Any]) -> Failure | None:
    """Why this is no video to fetch; None when it is, or when it points at another address."""
    if (kind := info.get("_type", "video")) not in ("video", "url", "url_transparent"):
        return Failure(Outcome.UNSUPPORTED, f"the address names a {kind}, not one video")
    state = _UNFINISHED.get(info.get("live_status") or ("is_live" if info.get("is_live") else ""))
    return Failure(Outcome.LIVE, f"the video is {state}") if state else None


def _is_ours(error: Exception) -> bool:
    """Whether this machine failed rather than the video: such an error travels."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and not is_connection_error(error))


def _opener(session: _Session, formats: Sequence[Mapping[str, Any]]) -> OpenUrl:
    """Open addresses as yt-dlp would: its proxies, cookies, TLS and addresses, kept-alive connections."""
    from yt_dlp.networking.common import Request
    from yt_dlp.networking.exceptions import HTTPError, RequestError

    # Requests copies the whole cookie jar for every request: half a millisecond for sixty cookies
    extensions = {} if any(each.get("cookies") for each in formats) else {"cookiejar": session.no_cookies}
    not_before = max(float(each.get("available_at") or 0) for each in formats)

    def open_url(url: str, headers: Mapping[str, str]) -> RangeResponse:
        _wait_until(not_before)
        request = Request(
            url, headers={"Accept-Encoding": "identity", **headers}, extensions=dict(extensions)
        )
        try:
            return _Answer(session.ydl.urlopen(request))
        except HTTPError as error:
            if error.status == 416:  # an answer about the resource's size, not a refusal
                return _Answer(error.response)
            error.close()
            raise MediaError(classify_status(error.status, error.response.headers)) from error
        except RequestError as error:
            raise MediaError(classify(error)) from error

    return open_url


def _wait_until(moment: float) -> None:
    """Wait as long as the site's player would (an advertisement's length): before that it answers 403."""
    if (rest := moment - time.time()) > 0:
        time.sleep(min(rest, _LONGEST_WAIT))


class _Answer:
    """yt-dlp's response, with its failures as ours."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status
        self.headers = cast(Mapping[str, str], response.headers)  # names in any case

    def read(self, size: int = -1) -> bytes:
        from yt_dlp.networking.exceptions import RequestError

        try:
            return cast(bytes, self._response.read(None if size < 0 else size))
        except RequestError as error:
            raise MediaError(classify(error)) from error

    def close(self) -> None:
        self._response.close()


class _Log:
    """yt-dlp's logger: everything goes to ours at debug level, warnings are remembered as well."""

    def __init__(self) -> None:
        self._said_once: dict[str, None] = {}  # yt-dlp warns of a missing runtime with the first video only
        self._of_video: list[str] = []

    @property
    def warnings(self) -> list[str]:
        return [*self._said_once, *self._of_video]

    def forget_video(self) -> None:
        lasting = (text for text in self._of_video if "JavaScript runtime could be found" in text)
        self._said_once.update(dict.fromkeys(lasting))
        self._of_video.clear()

    def debug(self, message: str) -> None:
        if LOG.isEnabledFor(logging.DEBUG):
            LOG.debug("%s", short(message))

    def warning(self, message: object) -> None:  # yt-dlp passes exceptions too
        self._of_video.append(str(message))
        self.debug(str(message))

    info = error = debug


def _youtube_dl(settings: DownloadSettings, cookies: str | None, log: _Log) -> Any:
    from yt_dlp import YoutubeDL
    from yt_dlp.utils import YoutubeDLError

    try:
        return YoutubeDL(_options(settings, cookies, log), auto_init=False)
    except YoutubeDLError:  # the one fault that it looks for here
        raise SettingsError(
            f"--impersonate {settings.impersonate} is not available here; expected one of `yt-dlp "
            "--list-impersonate-targets`: install curl_cffi for them, or leave the option out"
        ) from None


def _options(settings: DownloadSettings, cookies: str | None, log: _Log) -> dict[str, Any]:
    """YoutubeDL's parameters, as documented in YoutubeDL.py."""
    options = {
        "logger": log,
        "quiet": True,
        "noprogress": True,
        "color": "no_color",
        "format": _last,
        "noplaylist": True,
        "playlist_items": "0",  # a playlist is refused: ask for none of its videos
        "geo_bypass": False,  # would ask again with a made-up address
        "cachedir": str(settings.cache) if settings.cache else False,
        "socket_timeout": settings.socket_timeout,
        "sleep_interval_requests": settings.sleep_requests,
        "extractor_args": _extractor_args(settings),
        "js_runtimes": dict(map(_runtime, settings.js_runtimes)),
        # a copy in memory: yt-dlp writes its cookies back to where it read them
        "cookiefile": None if cookies is None else io.StringIO(cookies),
        "proxy": settings.proxy,
        "source_address": settings.source_address,
        "http_headers": {"User-Agent": settings.user_agent} if settings.user_agent else {},
        "impersonate": _target(settings.impersonate) if settings.impersonate else None,
    }
    return options


def _last(context: Mapping[str, Any]) -> list[Any]:
    """Any selection that is not empty: the choice is made by `formats.choose`, from all of them."""
    return list(context["formats"])[-1:]


def _extractor_args(settings: DownloadSettings) -> dict[str, dict[str, list[str]]]:
    args = {
        site: {name: list(values) for name, values in each.items()}
        for site, each in settings.extractor_args.items()
    }
    if settings.player_clients:
        args.setdefault("youtube", {})["player_client"] = list(settings.player_clients)
    return args


def _runtime(text: str) -> tuple[str, dict[str, str]]:
    name, _, path = text.partition(":")
    return name, {"path": path} if path else {}


def _target(text: str) -> Any:
    from yt_dlp.networking.impersonate import ImpersonateTarget

    try:
        return ImpersonateTarget.from_str(text.lower())
    except ValueError:
        raise SettingsError(
            f"--impersonate is {text!r}; expected CLIENT[-VERSION][:OS[-VERSION]], such as chrome:windows-10"
        ) from None


def _read_cookies(path: Path) -> str:
    """A cookie file's text without lines that yt-dlp cannot read: it would print them, secrets and all.

    Raises:
        OSError: the file cannot be read.
        SettingsError: it holds no cookies in Netscape format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    cookies = [cookie for line in lines if (cookie := _cookie(line))]
    if not cookies:
        raise SettingsError(
            f"{path}: no cookies in Netscape format (seven fields, tabs between); export it again"
        )
    return "\n".join(["# Netscape HTTP Cookie File", *cookies, ""])


def _cookie(line: str) -> str | None:
    """A line of a cookie file as yt-dlp reads it; None for comments and for what is no cookie."""
    if line.startswith("#") and not line.startswith(_HTTP_ONLY):
        return None
    fields = line.split("\t")
    if len(fields) != _COOKIE_FIELDS or not re.fullmatch(r"(\d+(\.\d+)?)?", fields[4]):
        return None
    # whether subdomains see it: http.cookiejar refuses the whole file where this and the dot disagree
    fields[1] = str(fields[0].removeprefix(_HTTP_ONLY).startswith(".")).upper()
    return "\t".join(fields)
