"""A release site on loopback: serves one file with ranges, and breaks off where a test says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ReleaseSite:
    """What is served, what goes wrong, and what was asked for."""

    content: bytes
    url: str = ""
    ranges: bool = True
    break_after: list[int] = field(
        default_factory=list
    )  # bytes sent before a connection ends, one per request
    statuses: list[int] = field(default_factory=list)  # answers to the first requests, instead of the file
    asked: list[str | None] = field(default_factory=list)  # each request's Range header


@contextmanager
def release_site(content: bytes) -> Iterator[ReleaseSite]:
    site = ReleaseSite(content=content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/weights.pt"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(site: ReleaseSite) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges else 0
            if first >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.end_headers()
                return
            body = site.content[first:]
            self.send_response(206 if wanted and site.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a client may have read enough
                self.wfile.write(body[: site.break_after.pop(0)] if site.break_after else body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
