"""A loopback door to remote media: ffmpeg asks here for byte ranges, the downloader's requests fetch them.

So proxies, cookies and headers stay out of ffmpeg's command line, an upstream's answer is known by its
status and not by a log line, a body cut off in the middle is resumed, and every byte is counted.
"""

import contextlib
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple, Protocol
from urllib.parse import urljoin

from pipeline.media import Delivery, Failure, MediaError, MediaStream, OpenUrl, RangeResponse, Recording
from shards.outcome import Outcome

_RANGE = re.compile(rb"\r\nRange: bytes=(\d+)-(\d*)", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_URI = re.compile(r'URI="([^"]+)"')
_REQUEST = re.compile(rb"GET /([0-9a-f]{32})/(\d+)\S* HTTP/1\.[01]")
_RESUMES = 3  # times that one range is asked for again after its body broke off
_IN_MEMORY = 32 << 20  # bytes of a body without ranges that stay in memory
_OPEN_END = 1 << 20  # bytes to serve where the client names no end


@dataclass(slots=True)
class Traffic:
    """What a recording's media cost, and the first failure met on the way."""

    bytes: int = 0
    requests: int = 0
    failure: Failure | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, received: int, *, requests: int = 0) -> None:
        with self._lock:
            self.bytes += received
            self.requests += requests

    def fail(self, failure: Failure) -> None:
        with self._lock:
            self.failure = self.failure or failure


class Body(NamedTuple):
    """Bytes of a resource from `start`, and the resource's whole size."""

    start: int
    content: bytes
    total: int


class Source(Protocol):
    """Something the relay can serve byte ranges of; `end` is exclusive, None: as much as is handy."""

    def read(self, start: int, end: int | None) -> Body: ...


class Upstream:
    """The client side: ranges and whole bodies through the downloader, counted, resumed when cut off."""

    def __init__(self, open_url: OpenUrl, headers: Mapping[str, str], traffic: Traffic) -> None:
        self._open_url = open_url
        self._headers = headers
        self._traffic = traffic

    def count(self, received: int) -> None:
        self._traffic.count(received)

    def open(self, url: str, start: int, end: int | None) -> RangeResponse:
        self._traffic.count(0, requests=1)
        wanted = f"bytes={start}-{'' if end is None else end - 1}"
        return self._open_url(url, {**self._headers, "Range": wanted})

    def whole(self, url: str) -> bytes:
        """A whole resource; for playlists and fragments."""
        self._traffic.count(0, requests=1)
        with contextlib.closing(self._open_url(url, self._headers)) as response:
            return self.drain(response)

    def drain(self, response: RangeResponse, into: IO[bytes] | None = None) -> bytes:
        """The rest of a body (or b"" when written to `into`); MediaError when it breaks off."""
        expected = response.headers.get("Content-Length")
        received, pieces = 0, []
        while piece := _read(response):
            received += len(piece)
            self._traffic.count(len(piece))
            pieces.append(piece) if into is None else into.write(piece)
        if expected is not None and received < int(expected):
            raise MediaError(_broken_off(received, int(expected)))
        return b"".join(pieces)


def _read(response: RangeResponse) -> bytes:
    try:
        return response.read(1 << 18)
    except TimeoutError as error:
        raise MediaError(Failure(Outcome.TIMEOUT, f"the media server stopped sending: {error}")) from error
    except OSError as error:
        raise MediaError(Failure(Outcome.NETWORK, f"the media connection broke: {error}")) from error


def _broken_off(received: int, expected: int) -> Failure:
    return Failure(Outcome.NETWORK, f"the media server closed after {received} of {expected} bytes")


class RangedFile:
    """A remote file read by ranges; fetched whole, once, from a server that knows no ranges."""

    def __init__(self, url: str, upstream: Upstream) -> None:
        self._url = url
        self._upstream = upstream
        self._whole: IO[bytes] | None = None
        self._total: int | None = None
        self._lock = threading.Lock()

    def read(self, start: int, end: int | None) -> Body:
        end = start + _OPEN_END if end is None else end
        if self._whole is not None:
            return self._from_whole(start, end)
        if self._total is not None and start >= self._total:
            return Body(start, b"", self._total)
        received = b""
        for attempt in range(_RESUMES + 1):
            try:
                body = self._ask(start + len(received), end)
                return Body(start, received + body.content, body.total)
            except _BrokenOff as broken:
                received += broken.received
                if attempt == _RESUMES:
                    raise MediaError(_broken_off(len(received), end - start)) from broken
        raise AssertionError("the loop above returns or raises")

    def _ask(self, start: int, end: int) -> Body:
        response = self._upstream.open(self._url, start, end)
        with contextlib.closing(response):
            if response.status == 416:  # nothing lies there: an empty file, or a read past its end
                return Body(start, b"", 0)
            if response.status != 206:
                return self._keep_whole(response, start, end)
            first, last, self._total = _content_range(response)
            return Body(first, self._body(response, last + 1 - first), self._total)

    def _body(self, response: RangeResponse, expected: int) -> bytes:
        pieces: list[bytes] = []
        received = 0
        try:
            while received < expected and (piece := _read(response)):
                pieces.append(piece)
                received += len(piece)
        except MediaError as error:
            if error.failure.outcome is not Outcome.NETWORK:
                raise
        finally:
            self._upstream.count(received)
        if received < expected:
            raise _BrokenOff(b"".join(pieces))
        return b"".join(pieces)

    def _keep_whole(self, response: RangeResponse, start: int, end: int) -> Body:
        with self._lock:
            if self._whole is None:
                whole: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives on
                self._upstream.drain(response, whole)
                self._whole = whole
        return self._from_whole(start, end)

    def _from_whole(self, start: int, end: int) -> Body:
        assert self._whole is not None
        with self._lock:
            total = self._whole.seek(0, 2)
            self._whole.seek(min(start, total))
            return Body(start, self._whole.read(max(0, end - start)), total)


class _BrokenOff(Exception):
    def __init__(self, received: bytes) -> None:
        super().__init__(f"{len(received)} bytes")
        self.received = received


def _content_range(response: RangeResponse) -> tuple[int, int, int]:
    text = response.headers.get("Content-Range") or ""
    if not (match := _CONTENT_RANGE.match(text)):
        raise MediaError(Failure(Outcome.NETWORK, f"a partial answer without its range: {text[:60]!r}"))
    first, last, total = match.groups()
    return int(first), int(last), int(last) + 1 if total == "*" else int(total)


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes in hand: an assembled run of fragments, or a rewritten playlist."""

    content: bytes

    def read(self, start: int, end: int | None) -> Body:
        return Body(start, self.content[start:end], len(self.content))


class Fragments:
    """The initialisation and those fragments of a DASH stream that touch the window, as one file."""

    def __init__(self, stream: MediaStream, upstream: Upstream, window: tuple[float, float]) -> None:
        self._stream = stream
        self._upstream = upstream
        self._window = window
        self._lock = threading.Lock()
        self._joined: InMemory | None = None

    def read(self, start: int, end: int | None) -> Body:
        with self._lock:
            if self._joined is None:
                self._joined = InMemory(b"".join(self._upstream.whole(url) for url in self._urls()))
        return self._joined.read(start, end)

    def _urls(self) -> Iterator[str]:
        begin, finish = self._window
        at = 0.0
        for fragment in self._stream.fragments:
            until = at + (fragment.duration or 0.0)
            if fragment.duration is None or (until > begin and at < finish):
                yield fragment.url
            at = until


class Relay:
    """The server: `serve` a recording, hand its URLs to ffmpeg, read the traffic afterwards."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._sources: dict[str, list[Source]] = {}
        self._upstreams: dict[str, Traffic] = {}
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    @contextlib.contextmanager
    def serve(self, recording: Recording, window: tuple[float, float]) -> Iterator[tuple[list[str], Traffic]]:
        """URLs on loopback, one per stream of the recording, while the context lasts."""
        if recording.open_url is None:
            raise ValueError("a recording without open_url is local media; read its paths instead")
        token, traffic = secrets.token_hex(16), Traffic()
        sources: list[Source] = []
        self._sources[token], self._upstreams[token] = sources, traffic
        try:
            yield (
                [
                    self._add(token, stream, recording.open_url, traffic, window)
                    for stream in recording.streams
                ],
                traffic,
            )
        finally:
            del self._sources[token], self._upstreams[token]

    def _add(
        self,
        token: str,
        stream: MediaStream,
        open_url: OpenUrl,
        traffic: Traffic,
        window: tuple[float, float],
    ) -> str:
        upstream = Upstream(open_url, stream.headers, traffic)
        if stream.delivery is Delivery.HLS:
            return self._add_playlist(token, stream.url, upstream)
        if stream.delivery is Delivery.FRAGMENTS:
            return self._register(token, Fragments(stream, upstream, window), stream.container)
        return self._register(token, RangedFile(stream.url, upstream), stream.container)

    def _add_playlist(self, token: str, url: str, upstream: Upstream) -> str:
        """A playlist whose every address leads through the relay as well."""
        text = upstream.whole(url).decode("utf-8", "replace")
        lines = [self._relayed(token, url, line, upstream) for line in text.splitlines()]
        return self._register(token, InMemory("\n".join(lines).encode()), "m3u8")

    def _relayed(self, token: str, base: str, line: str, upstream: Upstream) -> str:
        if line.startswith("#"):
            return _URI.sub(lambda m: f'URI="{self._address(token, urljoin(base, m[1]), upstream)}"', line)
        return self._address(token, urljoin(base, line.strip()), upstream) if line.strip() else line

    def _address(self, token: str, url: str, upstream: Upstream) -> str:
        path = url.split("?", 1)[0]
        if path.endswith(".m3u8"):
            return self._add_playlist(token, url, upstream)
        extension = path.rpartition(".")[2]
        known = extension if extension in ("ts", "mp4", "m4s", "m4a", "aac", "m4v", "vtt", "webm") else "ts"
        return self._register(token, RangedFile(url, upstream), known)

    def _register(self, token: str, source: Source, extension: str) -> str:
        sources = self._sources[token]
        sources.append(source)
        suffix = f".{extension}" if re.fullmatch(r"[a-z0-9]{1,5}", extension) else ""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/{token}/{len(sources) - 1}{suffix}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._converse, args=(connection,), name="relay-peer", daemon=True
            ).start()

    def _converse(self, connection: socket.socket) -> None:
        """Answer one client's requests until it hangs up."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError, TimeoutError):
            while request := _receive(connection):
                for piece in self._answer(request):
                    connection.sendall(piece)

    def _answer(self, request: bytes) -> Sequence[bytes]:
        match = _REQUEST.match(request)
        token, index = (match[1].decode(), int(match[2])) if match else ("", 0)
        sources: Sequence[Source] = self._sources.get(token, ())
        if index >= len(sources):
            return [_head("404 Not Found", 0)]
        wanted = _RANGE.search(request)
        start = int(wanted[1]) if wanted else 0
        end = int(wanted[2]) + 1 if wanted and wanted[2] else None
        try:
            return _partial(sources[index].read(start, end))
        except MediaError as error:
            if traffic := self._upstreams.get(token):
                traffic.fail(error.failure)
            return [_head("502 Bad Gateway", 0)]


def _receive(connection: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        if not piece or len(request) > 65536:
            return b""
        request += piece
    return request


def _partial(body: Body) -> list[bytes]:
    if not body.content:
        return [_head("416 Range Not Satisfiable", 0, f"Content-Range: bytes */{body.total}\r\n")]
    last = body.start + len(body.content) - 1
    span = f"Content-Range: bytes {body.start}-{last}/{body.total}\r\nAccept-Ranges: bytes\r\n"
    return [_head("206 Partial Content", len(body.content), span), body.content]


def _head(status: str, length: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n{more}\r\n".encode()
