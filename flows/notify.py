"""A line of JSON to an address of the user's when something happens that a person wants to know."""

import json
import threading
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 10.0


class NotifyError(ValueError):
    """An address that no word can be sent to."""


class Notifier:
    """Posts events; an address that does not answer never holds up or ends the work."""

    def __init__(self, url: str | None) -> None:
        if url is not None and not _is_address(url):
            raise NotifyError(f"--notify is {url!r}; expected an http:// or https:// address")
        self._url = url
        self._posting: list[threading.Thread] = []

    def post(self, event: str, **facts: object) -> None:
        """Send `{"event": …, "text": …, …}` in the background; `text` is what chat services show."""
        if self._url is None:
            return
        text = f"trichord {event}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
        body = json.dumps({"event": event, "text": text, **facts}, default=str).encode()
        thread = threading.Thread(target=self._send, args=(body,), daemon=True, name="notify")
        thread.start()
        self._posting.append(thread)

    def _send(self, body: bytes) -> None:
        assert self._url is not None
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
        except OSError:
            return  # the work matters more than the word of it

    def flush(self) -> None:
        """Wait for what is under way, as long as one post may take."""
        for thread in self._posting:
            thread.join(TIMEOUT_S)


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:  # such as http://[
        return False
