"""Remote media as sources of byte ranges: read by the downloader's requests, resumed if cut off, counted."""

import contextlib
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple, Protocol

from pipeline.media import Failure, Fragment, MediaError, OpenUrl, RangeResponse
from shards.outcome import Outcome

PIECE = 1 << 20  # bytes asked for at once where the reader names no end: most HLS segments in one request
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SIZE = re.compile(r"bytes \*/(\d+)")
_RESUMES = 3  # times that one range is asked for again after its body broke off
_IN_MEMORY = 32 << 20  # bytes of a body without ranges that stay in memory
_REMEMBERED = 4 << 20  # bytes of one resource that are kept for a second reading
_AT_ONCE = 1 << 16  # bytes per read from a connection; a read that the other side breaks off is lost whole


@dataclass(slots=True)
class Traffic:
    """What a recording's media cost, and the first failure met on the way."""

    bytes: int = 0
    requests: int = 0
    failure: Failure | None = None
    surprise: Exception | None = None  # a bug, a full disk: to be raised where the recording is used
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
    """Something that can be read by byte ranges; `end` is exclusive, None: as much as is handy.

    Less than was asked for may come, but nothing only where the resource ends. Raises MediaError.
    """

    def read(self, start: int, end: int | None) -> Body: ...


def bodies(source: Source, start: int, end: int | None) -> Iterator[Body]:
    """The whole range piece by piece; one body without content where nothing lies there."""
    body = source.read(start, end)
    yield body
    stop = body.total if end is None else min(end, body.total)
    while body.content and (at := body.start + len(body.content)) < stop:
        body = source.read(at, end)
        if not body.content:
            raise MediaError(_broken_off(at - start, stop - start))
        yield body


class Upstream:
    """Requests for one stream's resources, with its headers, counted."""

    def __init__(self, open_url: OpenUrl, headers: Mapping[str, str], traffic: Traffic) -> None:
        self._open_url = open_url
        self._headers = headers
        self._traffic = traffic

    def count(self, received: int) -> None:
        self._traffic.count(received)

    def open(self, url: str, start: int, end: int) -> RangeResponse:
        self._traffic.count(0, requests=1)
        return self._open_url(url, {**self._headers, "Range": f"bytes={start}-{end - 1}"})

    def whole(self, url: str) -> bytes:
        """A whole resource, from whatever server; for playlists."""
        self._traffic.count(0, requests=1)
        with contextlib.closing(self._open_url(url, self._headers)) as response:
            return b"".join(self.rest(response))

    def rest(self, response: RangeResponse) -> Iterator[bytes]:
        """The rest of a body; MediaError when it breaks off."""
        length = response.headers.get("Content-Length")
        received = 0
        while piece := _read(response):
            received += len(piece)
            self.count(len(piece))
            yield piece
        if length is not None and received < int(length):
            raise MediaError(_broken_off(received, int(length)))


def _read(response: RangeResponse) -> bytes:
    try:
        return response.read(_AT_ONCE)
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
        end = start + PIECE if end is None else end
        if self._whole is not None:
            return self._from_whole(start, end)
        if self._total is not None and start >= self._total:
            return Body(start, b"", self._total)
        received = b""
        for _ in range(_RESUMES + 1):
            try:
                body = self._ask(start + len(received), end)
                return Body(start, received + body.content, body.total)
            except _BrokenOff as broken:
                received += broken.received
        raise MediaError(_broken_off(len(received), end - start))

    def _ask(self, start: int, end: int) -> Body:
        with contextlib.closing(self._upstream.open(self._url, start, end)) as response:
            if response.status == 416:  # nothing lies there: an empty file, or a read past its end
                return Body(start, b"", _size(response))
            if response.status != 206:
                return self._keep_whole(response, start, end)
            last, self._total = _last_and_total(response, start)
            return Body(start, self._body(response, last + 1 - start), self._total)

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
                whole.writelines(self._upstream.rest(response))
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


def _last_and_total(response: RangeResponse, start: int) -> tuple[int, int]:
    text = response.headers.get("Content-Range") or ""
    match = _CONTENT_RANGE.match(text)
    if match is None or int(match[1]) != start:
        message = f"asked for bytes from {start}, the media server answers {text[:60]!r}"
        raise MediaError(Failure(Outcome.NETWORK, message))
    return int(match[2]), int(match[3])


def _size(response: RangeResponse) -> int:
    """What an answer 416 says of the resource's size."""
    match = _SIZE.match(response.headers.get("Content-Range") or "")
    return int(match[1]) if match else 0


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes in hand: an assembled run of fragments, or a rewritten playlist."""

    content: bytes

    def read(self, start: int, end: int | None) -> Body:
        return Body(start, self.content[start:end], len(self.content))


class Remembered:
    """A source that is not asked the same twice: ffmpeg reads a beginning again after a look at it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._bodies: dict[tuple[int, int | None], Body] = {}
        self._room = _REMEMBERED

    def read(self, start: int, end: int | None) -> Body:
        if (known := self._bodies.get((start, end))) is not None:
            return known
        body = self._source.read(start, end)
        if len(body.content) <= self._room:
            self._room -= len(body.content)
            self._bodies[start, end] = body
        return body


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a source as a resource of their own."""

    source: Source
    begin: int
    stop: int  # exclusive

    def read(self, start: int, end: int | None) -> Body:
        size = self.stop - self.begin
        if start >= size:
            return Body(start, b"", size)
        body = self.source.read(self.begin + start, self.begin + (size if end is None else min(end, size)))
        return Body(start, body.content, size)


class Fragments:
    """A DASH stream, of which only the fragments in use are fetched, each once."""

    def __init__(self, fragments: tuple[Fragment, ...], upstream: Upstream) -> None:
        self._fragments = fragments
        self._upstream = upstream
        self._fetched: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def read(self, start: int, end: int | None) -> Body:
        return self.between(0.0, float("inf")).read(start, end)

    def between(self, begin: float, until: float) -> InMemory:
        """The initialisation and the fragments that touch these seconds of the stream, as one file."""
        with self._lock:
            return InMemory(b"".join(map(self._content, self._urls(begin, until))))

    def _urls(self, begin: float, until: float) -> Iterator[str]:
        at = 0.0
        for fragment in self._fragments:
            ends = at + (fragment.duration or 0.0)
            if fragment.duration is None or (ends > begin and at < until):
                yield fragment.url
            at = ends

    def _content(self, url: str) -> bytes:
        if url not in self._fetched:
            pieces = bodies(RangedFile(url, self._upstream), 0, None)
            self._fetched[url] = b"".join(body.content for body in pieces)
        return self._fetched[url]
