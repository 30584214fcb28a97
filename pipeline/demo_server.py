"""The server behind the demo's video site: how each request is answered, or is not."""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.demo_behaviour import Behaviour, Behaviours, RateMeter
from pipeline.demo_media import EncodingError
from pipeline.demo_pages import video_info, watch_page
from pipeline.demo_renditions import Renditions
from pipeline.demo_traffic import Served, Traffic

CHUNK = 256 * 1024  # bytes handed to the kernel at once; counts are exact at this grain and finer
SEND_BUFFER = 128 * 1024  # bytes: keeps what counts as sent near what the other side has read

_MEDIA = re.compile(r"/media/(?P<ytid>[A-Za-z0-9_-]+)\.(?P<suffix>[A-Za-z0-9_./-]+)")
_INFO = re.compile(r"/info/(?P<ytid>[A-Za-z0-9_-]+)\.json")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "m4s": "video/iso.segment",
    "m4a": "audio/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "ts": "video/mp2t",
    "m3u8": "application/vnd.apple.mpegurl",
    "mpd": "application/dash+xml",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the answers depend on, shared by all requests."""

    renditions: Renditions
    behaviours: Behaviours
    traffic: Traffic
    meter: RateMeter | None
    delay_s: float
    closing: threading.Event  # set: whoever waits, waits no longer


class DemoServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, site: Site, port: int) -> None:
        super().__init__(("127.0.0.1", port), partial(_Handler, site))
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # a client that goes away in the middle is daily business; anything else is a bug
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or headers and body in two writes cost 40 ms
    server_version = "demo-site"

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        self._served: Served | None = None
        super().__init__(*args)

    @property
    def _url(self) -> str:
        assert isinstance(self.server, DemoServer)
        return self.server.url

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""

    def do_GET(self) -> None:
        self._served = None  # a connection outlives its requests
        url = urlsplit(self.path)
        if url.path == "/stats":
            self._send_json(self.site.traffic.stats())
        elif match := _MEDIA.fullmatch(url.path):
            self._count("media", match["ytid"], partial(self._media, suffix=match["suffix"]))
        elif match := _INFO.fullmatch(url.path):
            self._count("page", match["ytid"], self._info)
        elif url.path == "/watch":
            self._count("page", parse_qs(url.query).get("v", [""])[0], self._watch)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """`/behaviour`: an object of ids and behaviours. `/forget`: start the counts anew."""
        self._served = None
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.path == "/behaviour":
                for ytid, values in json.loads(body).items():
                    self.site.behaviours.change(ytid, Behaviour.from_json(values))
            elif self.path == "/forget":
                self.site.traffic.forget()
            else:
                return self._refuse(HTTPStatus.NOT_FOUND)
        except (ValueError, TypeError, AttributeError) as error:
            return self._send_text(str(error), HTTPStatus.BAD_REQUEST)
        self._send_json({})

    def _count(self, kind: str, ytid: str, respond: Any) -> None:
        """Answer under the video's behaviour and count what is sent."""
        self._served = self.site.traffic.begin(
            Served(
                at=time.time(),
                kind=kind,
                path=urlsplit(self.path).path,
                ytid=ytid,
                range=self.headers.get("Range", ""),
                cookie=self.headers.get("Cookie", ""),
            )
        )
        behaviour = self.site.behaviours.next(ytid, kind)
        self._pause(self.site.delay_s + behaviour.delay_s)
        if behaviour.page_hangs if kind == "page" else behaviour.media_hangs:
            return self._hang()
        respond(ytid, self._limited(behaviour) if kind == "page" else behaviour)

    def _limited(self, behaviour: Behaviour) -> Behaviour:
        meter = self.site.meter
        refused = meter is not None and meter.refuses(self.headers.get("Cookie", ""))
        return meter.limit.refusal if meter is not None and refused else behaviour

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self.site.closing.wait(seconds)

    def _hang(self) -> None:
        self.site.closing.wait()
        self.close_connection = True

    # pages

    def _watch(self, ytid: str, behaviour: Behaviour) -> None:
        if behaviour.page_status != HTTPStatus.OK:
            return self._refuse(behaviour.page_status, behaviour)
        source = self.site.renditions.source(ytid)
        if behaviour.reason:
            return self._send_text(watch_page(ytid, behaviour.reason), content_type="text/html")
        if source is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        media = f"{self._url}/media/{source.name}"
        self._send_text(watch_page(ytid, "", media, _type(source.name)), content_type="text/html")

    def _info(self, ytid: str, behaviour: Behaviour) -> None:
        if behaviour.page_status != HTTPStatus.OK:
            return self._refuse(behaviour.page_status, behaviour)
        if self.site.renditions.source(ytid) is None and not behaviour.reason:
            return self._refuse(HTTPStatus.NOT_FOUND)
        self._send_json(video_info(self.site.renditions, self._url, ytid, behaviour))

    # media

    def _media(self, ytid: str, behaviour: Behaviour, *, suffix: str) -> None:
        if behaviour.media_status != HTTPStatus.OK:
            return self._refuse(behaviour.media_status, behaviour)
        if behaviour.html_as_media:
            return self._send_text(watch_page(ytid, "Not here"), content_type=_type(suffix))
        try:
            path = None if ".." in suffix else self.site.renditions.path(ytid, suffix)
        except EncodingError as error:
            return self._send_text(str(error), HTTPStatus.INTERNAL_SERVER_ERROR)
        if path is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        self._send_media(path, behaviour)

    def _send_media(self, path: Path, behaviour: Behaviour) -> None:
        with path.open("rb") as file:
            size = int(os.fstat(file.fileno()).st_size * behaviour.kept_share)
            span = self._span(size) if behaviour.ranges else None
            if span == (0, 0):
                return self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, size=size)
            start, end = span or (0, size)
            self._start_media(
                path, start, end, size, partial_content=span is not None, ranges=behaviour.ranges
            )
            self._pause(behaviour.slow_start_s)
            if self.command != "HEAD":
                self._send_body(file.fileno(), start, end, behaviour)

    def _start_media(
        self, path: Path, start: int, end: int, size: int, *, partial_content: bool, ranges: bool
    ) -> None:
        self._start(HTTPStatus.PARTIAL_CONTENT if partial_content else HTTPStatus.OK)
        self.send_header("Content-Type", _type(path.name))
        self.send_header("Content-Length", str(end - start))
        if ranges:
            self.send_header("Accept-Ranges", "bytes")
        if partial_content:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()

    def _span(self, size: int) -> tuple[int, int] | None:
        """The wanted bytes as (start, end): None for the whole, (0, 0) for a range beyond the file."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or match.groups() == ("", "") or size == 0:
            return None  # several ranges at once, too: a server may send the whole
        if not match[1]:
            return max(0, size - int(match[2])), size
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        return (start, end) if start < end else (0, 0)

    def _send_body(self, file: int, start: int, end: int, behaviour: Behaviour) -> None:
        limit = _least(behaviour.stall_after, behaviour.disconnect_after)
        stop = end if limit is None else min(end, start + limit)
        while start < stop:
            wanted = min(CHUNK, stop - start)
            self._sent(wanted)  # before it leaves: see Served
            sent = 0
            try:
                sent = os.sendfile(self.connection.fileno(), file, start, wanted)
            finally:
                self._sent(sent - wanted)
            start += sent
        if start < end:
            self._fall_silent(behaviour)

    def _sent(self, count: int) -> None:
        if self._served is not None:
            self._served.bytes += count

    def _fall_silent(self, behaviour: Behaviour) -> None:
        if behaviour.disconnect_after is None:
            self._hang()
        self.close_connection = True

    # answers

    def _start(self, status: int, reason: str | None = None) -> None:
        if self._served is not None:
            self._served.status = status
        self.send_response(status, reason)

    def _refuse(self, status: int, behaviour: Behaviour | None = None, size: int | None = None) -> None:
        told = behaviour or Behaviour()
        headers = {}
        if told.retry_after_s is not None:
            headers["Retry-After"] = f"{told.retry_after_s:g}"
        if size is not None:
            headers["Content-Range"] = f"bytes */{size}"
        phrase = told.reason.encode("latin-1", "replace").decode("latin-1") or None
        self._send_text(told.reason or HTTPStatus(status).phrase, status, reason=phrase, headers=headers)

    def _send_json(self, value: Any) -> None:
        self._send_text(json.dumps(value), content_type="application/json")

    def _send_text(
        self,
        text: str,
        status: int = HTTPStatus.OK,
        *,
        content_type: str = "text/plain",
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = text.encode()
        charset = "; charset=utf-8" if content_type.startswith("text/") else ""
        self._start(status, reason)
        self.send_header("Content-Type", content_type + charset)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._sent(len(body))
            self.wfile.write(body)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _type(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
