"""A loopback door to remote media: ffmpeg asks here for byte ranges, the downloader's requests fetch them.

So proxies, cookies and headers stay out of ffmpeg's command line, an upstream's answer is known by its
status and not by a log line, a body cut off in the middle is resumed, and every byte is counted.
"""

import contextlib
import re
import secrets
import socket
import threading
from collections.abc import Iterator

from pipeline.media import Delivery, MediaError, MediaStream, Recording
from pipeline.playlist import Linked, rewrite
from pipeline.upstream import (
    Body,
    Fragments,
    InMemory,
    Part,
    RangedFile,
    Remembered,
    Source,
    Traffic,
    Upstream,
    bodies,
)

_REQUEST = re.compile(
    rb"GET /(?P<token>[0-9a-f]{32})/(?P<index>\d+)[.a-z0-9]*"
    rb"(?:\?from=(?P<begin>[\d.]+)&until=(?P<until>[\d.]+))? HTTP/1\.[01]\r\n"
)
_RANGE = re.compile(rb"\r\nRange: bytes=(\d+)-(\d*)", re.IGNORECASE)
_LONGEST_REQUEST = 65536  # bytes
_EXTENSION = re.compile(r"[a-z0-9]{1,5}")


def between(url: str, begin: float, until: float) -> str:
    """A relay's address, narrowed to some seconds: of a stream in fragments, others need not be fetched."""
    return f"{url}?from={begin:.6f}&until={until:.6f}"


class _Served:
    """One recording's sources by number, under a token that nobody can guess, and its traffic."""

    def __init__(self, port: int, traffic: Traffic) -> None:
        self.token = secrets.token_hex(16)
        self.traffic = traffic
        self.sources: list[Source] = []
        self._port = port
        self._lock = threading.Lock()

    def add_stream(self, recording: Recording, stream: MediaStream) -> str:
        assert recording.open_url is not None
        upstream = Upstream(recording.open_url, stream.headers, self.traffic)
        if stream.delivery is Delivery.FRAGMENTS:
            return self.add(Fragments(stream.fragments, upstream), stream.container)
        if stream.delivery is Delivery.HLS:
            return self.add(_Playlist(stream.url, upstream, self), "m3u8")
        return self.add(Remembered(RangedFile(stream.url, upstream)), stream.container)

    def add_linked(self, linked: Linked, upstream: Upstream) -> str:
        """What a playlist names."""
        if linked.playlist:
            return self.add(_Playlist(linked.url, upstream, self), "m3u8")
        file: Source = Remembered(RangedFile(linked.url, upstream))
        source = file if linked.end is None else Part(file, linked.start, linked.end)
        return self.add(source, linked.url.split("?", 1)[0].rpartition(".")[2])

    def add(self, source: Source, extension: str) -> str:
        with self._lock:  # two playlists may be read at once
            self.sources.append(source)
            number = len(self.sources) - 1
        suffix = f".{extension}" if _EXTENSION.fullmatch(extension) else ""
        return f"http://127.0.0.1:{self._port}/{self.token}/{number}{suffix}"


class _Playlist:
    """An HLS playlist, fetched when first read, whose every address leads through the relay as well."""

    def __init__(self, url: str, upstream: Upstream, served: _Served) -> None:
        self._url = url
        self._upstream = upstream
        self._served = served
        self._lock = threading.Lock()
        self._rewritten: InMemory | None = None

    def read(self, start: int, end: int | None) -> Body:
        with self._lock:
            if self._rewritten is None:
                text = self._upstream.whole(self._url).decode("utf-8", "replace")
                self._rewritten = InMemory(rewrite(text, self._url, self._address).encode())
        return self._rewritten.read(start, end)

    def _address(self, linked: Linked) -> str:
        return self._served.add_linked(linked, self._upstream)


class Relay:
    """The server: `serve` a recording, hand its URLs to ffmpeg, read the traffic afterwards."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._port = self._socket.getsockname()[1]
        self._served: dict[str, _Served] = {}
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their clients."""
        with contextlib.suppress(OSError):  # closed before
            self._socket.shutdown(socket.SHUT_RDWR)  # or the waiting thread would hold the port open
        self._socket.close()

    @contextlib.contextmanager
    def serve(self, recording: Recording, traffic: Traffic) -> Iterator[list[str]]:
        """URLs on loopback, one per stream of the recording, while the context lasts."""
        if recording.open_url is None:
            raise ValueError("a recording without open_url is local media; read its paths instead")
        served = _Served(self._port, traffic)
        self._served[served.token] = served
        try:
            yield [served.add_stream(recording, stream) for stream in recording.streams]
        finally:
            del self._served[served.token]

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
        """Answer one client's requests until it hangs up, or until a body that has begun cannot go on."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError, TimeoutError, MediaError):
            while request := _receive(connection):
                for piece in self._answer(request):
                    connection.sendall(piece)

    def _answer(self, request: bytes) -> Iterator[bytes]:
        match = _REQUEST.match(request)
        served = self._served.get(match["token"].decode()) if match else None
        if match is None or served is None or int(match["index"]) >= len(served.sources):
            yield _head("404 Not Found", 0)
        else:
            source = _narrowed(served.sources[int(match["index"])], match)
            yield from _watched(_partial(source, request), served.traffic)


def _watched(answer: Iterator[bytes], traffic: Traffic) -> Iterator[bytes]:
    """An answer whose failures are noted; 502 stands for one that had not begun."""
    begun = False
    try:
        for piece in answer:
            begun = True
            yield piece
    except MediaError as error:
        traffic.fail(error.failure)
        if begun:
            raise
        yield _head("502 Bad Gateway", 0)
    except Exception as error:  # not this thread's matter but that of who waits for the media
        traffic.surprise = error
        raise ConnectionError("this answer cannot go on") from error


def _receive(connection: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        if not piece or len(request) > _LONGEST_REQUEST:
            return b""
        request += piece
    return request


def _narrowed(source: Source, request: re.Match[bytes]) -> Source:
    if isinstance(source, Fragments) and request["begin"]:
        return source.between(float(request["begin"]), float(request["until"]))
    return source


def _partial(source: Source, request: bytes) -> Iterator[bytes]:
    """An answer to a request for a range, to its end: that of the file when the client names none."""
    wanted = _RANGE.search(request)
    start = int(wanted[1]) if wanted else 0
    end = int(wanted[2]) + 1 if wanted and wanted[2] else None
    pieces = bodies(source, start, end)
    first = next(pieces)
    yield _partial_head(first, end) if first.content else _unsatisfiable(first.total)
    yield first.content
    for body in pieces:
        yield body.content


def _partial_head(first: Body, end: int | None) -> bytes:
    stop = first.total if end is None else min(end, first.total)
    span = f"Content-Range: bytes {first.start}-{stop - 1}/{first.total}\r\nAccept-Ranges: bytes\r\n"
    return _head("206 Partial Content", stop - first.start, span)


def _unsatisfiable(total: int) -> bytes:
    return _head("416 Range Not Satisfiable", 0, f"Content-Range: bytes */{total}\r\n")


def _head(status: str, length: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n{more}\r\n".encode()
