"""A video site on this machine: watch pages, media by byte ranges, and the ways a site has of failing."""

import argparse
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pipeline.demo_behaviour import Behaviour, Behaviours, RateLimit, RateMeter
from pipeline.demo_renditions import Renditions
from pipeline.demo_server import DemoServer, Site
from pipeline.demo_traffic import Traffic


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
        self.traffic = Traffic()
        self.behaviours = Behaviours(behaviours or {})
        self._closing = threading.Event()
        site = Site(
            renditions=self.renditions,
            behaviours=self.behaviours,
            traffic=self.traffic,
            meter=RateMeter(rate_limit) if rate_limit else None,
            delay_s=delay_s,
            closing=self._closing,
        )
        self._server = DemoServer(site, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="demo-site", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def url_template(self) -> str:
        return self.url + "/watch?v={ytid}"

    def behave(self, ytid: str, behaviour: Behaviour) -> None:
        """From now on; the counts behind `first` start anew. `*` stands for all that have no behaviour."""
        self.behaviours.change(ytid, behaviour)

    def close(self) -> None:
        """Stop answering; hanging and stalled connections end too."""
        self._closing.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
