"""A video site on this machine: watch pages, media by byte ranges, and the ways a site has of failing."""

import argparse
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from pipeline.demo_behaviour import Behaviour, RateLimit, RateMeter
from pipeline.demo_media import EncodingError, Renditions
from pipeline.demo_pages import video_info, watch_page
from pipeline.demo_traffic import Served, Traffic

CHUNK = 256 * 1024  # bytes handed to the kernel at once; counts are exact at this grain and finer
SEND_BUFFER = 128 * 1024  # bytes: keeps what counts as sent near what the other side has read
ANY = "*"  # the behaviour of videos that have none of their own

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


class DemoSite:
    """The site, running in threads of this process from construction until `close`.

    `folder` holds the videos as `{ytid}.mp4` (see `Renditions`). `traffic` counts what was asked and sent.
    The server also answers absolute URLs: a second site over the same folder can stand in for a proxy, with
    a budget and counts of its own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        behaviours: Mapping[str, Behaviour] | None = None,
        delay_s: float = 0.0,
        rate_limit: RateLimit | None = None,
        port: int = 0,
    ) -> None:
        self.renditions = Renditions(folder)
        self.delay_s = delay_s
        self.closing = threading.Event()
        self.meter = RateMeter(rate_limit) if rate_limit else None
        self.traffic = Traffic()
        self._behaviours = dict(behaviours or {})
        self._asked: dict[tuple[str, str], int] = defaultdict(int)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), partial(_Handler, self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="demo-site", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url_template(self) -> str:
        return self.url + "/watch?v={ytid}"

    def behave(self, ytid: str, behaviour: Behaviour) -> None:
        """From now on; the counts behind `first` start anew. `*` stands for all that have no behaviour."""
        with self._lock:
            self._behaviours[ytid] = behaviour
            for kind in ("page", "media"):
                self._asked.pop((ytid, kind), None)

    def next_behaviour(self, ytid: str, kind: str) -> Behaviour:
        """What this request meets; counts it."""
        with self._lock:
            request = self._asked[ytid, kind]
            self._asked[ytid, kind] += 1
            chosen = self._behaviours.get(ytid) or self._behaviours.get(ANY) or Behaviour()
            return chosen.during(request)

    def asked(self, ytid: str, kind: str) -> int:
        """Requests of that kind that have come in under the present behaviour, answered or not."""
        with self._lock:
            return self._asked.get((ytid, kind), 0)

    def close(self) -> None:
        """Stop answering; hanging and stalled connections end too."""
        self.closing.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(
            sys.exception(), OSError
        ):  # a client that goes away in the middle is daily business
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


@dataclass(slots=True)
class _Answer:
    """The request being answered, as far as it has come."""

    at: float
    kind: str
    ytid: str
    status: int = 0
    bytes: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or headers and body in two writes cost 40 ms
    server_version = "demo-site"

    def __init__(self, site: DemoSite, *args: Any) -> None:
        self.site = site
        self._answer: _Answer | None = None
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""

    def do_GET(self) -> None:
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
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.path == "/behaviour":
                for ytid, values in json.loads(body).items():
                    self.site.behave(ytid, Behaviour.from_json(values))
            elif self.path == "/forget":
                self.site.traffic.forget()
            else:
                return self._refuse(HTTPStatus.NOT_FOUND)
        except (ValueError, TypeError, AttributeError) as error:
            return self._send_text(str(error), HTTPStatus.BAD_REQUEST)
        self._send_json({})

    def _count(self, kind: str, ytid: str, respond: Any) -> None:
        """Answer under the video's behaviour; write down what was sent, also when the client left early."""
        answer = self._answer = _Answer(at=time.time(), kind=kind, ytid=ytid)
        behaviour = self.site.next_behaviour(ytid, kind)
        try:
            self._pause(self.site.delay_s + behaviour.delay_s)
            if behaviour.page_hangs if kind == "page" else behaviour.media_hangs:
                return self._hang()
            respond(ytid, self._limited(behaviour) if kind == "page" else behaviour)
        finally:
            self._record(answer)
            self._answer = None

    def _limited(self, behaviour: Behaviour) -> Behaviour:
        meter = self.site.meter
        refused = meter is not None and meter.refuses(self.headers.get("Cookie", ""))
        return meter.limit.refusal if meter is not None and refused else behaviour

    def _record(self, answer: _Answer) -> None:
        self.site.traffic.record(
            Served(
                at=answer.at,
                kind=answer.kind,
                path=urlsplit(self.path).path,
                ytid=answer.ytid,
                status=answer.status,
                bytes=answer.bytes,
                range=self.headers.get("Range", ""),
                cookie=self.headers.get("Cookie", ""),
            )
        )

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
        media = f"{self.site.url}/media/{source.name}"
        self._send_text(watch_page(ytid, "", media, _type(source.name)), content_type="text/html")

    def _info(self, ytid: str, behaviour: Behaviour) -> None:
        if behaviour.page_status != HTTPStatus.OK:
            return self._refuse(behaviour.page_status, behaviour)
        if self.site.renditions.source(ytid) is None and not behaviour.reason:
            return self._refuse(HTTPStatus.NOT_FOUND)
        self._send_json(video_info(self.site.renditions, self.site.url, ytid, behaviour))

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
            sent = os.sendfile(self.connection.fileno(), file, start, min(CHUNK, stop - start))
            start += sent
            self._sent(sent)
        if start < end:
            self._fall_silent(behaviour)

    def _sent(self, count: int) -> None:
        if self._answer is not None:
            self._answer.bytes += count

    def _fall_silent(self, behaviour: Behaviour) -> None:
        if behaviour.disconnect_after is None:
            self._hang()
        self.close_connection = True

    # answers

    def _start(self, status: int, reason: str | None = None) -> None:
        if self._answer is not None:
            self._answer.status = status
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
            self.wfile.write(body)
            self._sent(len(body))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _type(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2], "application/octet-stream")


def main(arguments: list[str] | None = None) -> None:
    """Serve a folder until interrupted; the first line printed is the site's URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="holds the videos as {ytid}.mp4")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--behaviour",
        action="append",
        default=[],
        metavar="ID=NAME=VALUE,…",
        help="with = before an ID that starts with -; ID * stands for the rest",
    )
    parser.add_argument("--rate-limit", metavar="REQUESTS/SECONDS", help="pages, for everybody together")
    chosen = parser.parse_args(arguments)
    behaviours = dict(_parse_behaviour(text) for text in chosen.behaviour)
    limit = _parse_limit(chosen.rate_limit) if chosen.rate_limit else None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with DemoSite(
        chosen.folder, behaviours=behaviours, delay_s=chosen.delay, rate_limit=limit, port=chosen.port
    ) as site:
        print(site.url, flush=True)
        stop.wait()


def _parse_behaviour(text: str) -> tuple[str, Behaviour]:
    ytid, _, rest = text.partition("=")
    return ytid, Behaviour.parse(rest)


def _parse_limit(text: str) -> RateLimit:
    requests, _, seconds = text.partition("/")
    return RateLimit(requests=int(requests), seconds=float(seconds), retry_after_s=float(seconds))


if __name__ == "__main__":
    main()
