"""Word of what happens, sent to an address of the user's."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.notify import Notifier


class Inbox(HTTPServer):
    """Keeps what is posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[dict[str, object]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Inbox)
        self.server.posts.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    server = Inbox()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_event_arrives_as_a_line_of_json(inbox: Inbox) -> None:
    notifier = Notifier(inbox.address)
    notifier.post("blocked", dataset="data/audioset", reason="bot_check")
    notifier.flush()
    (post,) = inbox.posts
    assert post["event"] == "blocked"
    assert post["reason"] == "bot_check"
    assert "data/audioset" in str(post["text"])


def test_an_address_that_does_not_answer_holds_nothing_up() -> None:
    notifier = Notifier("http://127.0.0.1:9/hook")
    notifier.post("finished", ok=3)
    notifier.flush()


def test_no_address_is_no_word() -> None:
    Notifier(None).post("finished")


@pytest.mark.parametrize("address", ["nowhere", "file:///etc/passwd", "ftp://example.org/x"])
def test_only_web_addresses_are_taken(address: str) -> None:
    with pytest.raises(ValueError, match="--notify"):
        Notifier(address)
