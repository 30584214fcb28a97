"""Media on a site: an identity's turn, one information request, and the watch for a stale downloader."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.attempt import Turn
from pipeline.canary import Canaries, ShareGuard, default_canaries
from pipeline.identity import Identities, Identity
from pipeline.identity import Turn as IdentityTurn
from pipeline.media import Failure, Recording
from pipeline.settings import IngestSettings, SettingsError
from pipeline.youtube import DownloadSettings, Resolver
from shards.layout import PAUSE
from shards.ledger import Attempt
from shards.outcome import Outcome
from shards.segment import Segment
from shards.store import Store

RECHECK_S = 300.0  # between two looks at the canaries while a run is paused


class Paused(Exception):
    """The share of dead videos jumped and nothing shows that they are dead: the tools may be stale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """How a segment's video is asked for."""

    url_template: str
    short_side: int | None  # pixels that the picture needs
    pictures: bool

    def ask(self, resolver: Resolver, segment: Segment) -> Recording | Failure:
        return self.ask_url(resolver, self.url_template.format(ytid=segment.ytid))

    def ask_url(self, resolver: Resolver, url: str) -> Recording | Failure:
        return resolver.resolve(
            url,
            short_side=self.short_side if self.pictures else None,
            need_video=self.pictures,
            need_audio=True,
        )


@dataclass(frozen=True, slots=True)
class RemoteTurn:
    """An identity's permission for one video."""

    site: Site
    resolver: Resolver
    turn: IdentityTurn
    watch: Callable[[Failure | None], None]

    @property
    def identity(self) -> str:
        return self.turn.identity.label

    def resolve(self, segment: Segment) -> Recording | Failure:
        return self.site.ask(self.resolver, segment)

    def report(self, failure: Failure | None) -> None:
        if failure is None:
            self.turn.report(Outcome.OK)
        else:
            self.turn.report(failure.outcome, failure.message, failure.retry_after)
        self.watch(failure)


class Pause:
    """A jump in the share of dead videos: everybody waits until a known-alive video resolves."""

    def __init__(
        self,
        store: Store,
        guard: ShareGuard | None,
        canaries: Canaries,
        *,
        wait: bool,
        tell: Callable[[str | None], None],
        check: Callable[[], None],
        recheck_s: float = RECHECK_S,
    ) -> None:
        """`tell` hears why nothing happens (None: it goes on); `check` raises when the run should end."""
        self._store = store
        self._guard = guard
        self._canaries = canaries
        self._wait = wait
        self._tell = tell
        self._check = check
        self._recheck_s = recheck_s
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._since = 0.0
        self._leftover = True  # a run that ended while it was paused has left its word

    def watch(self, failure: Failure | None) -> None:
        outcome = failure.outcome if failure else Outcome.OK
        if self._guard and (reason := self._guard.watch(outcome, outcome.disposition)):
            self._reason, self._since = reason, time.time()
        if failure is None and self._leftover and self._reason is None:
            self._leftover = False
            self._store.delete(PAUSE)  # a sample proves it outdated

    def wait(self) -> None:
        """Return at once, or when the run may go on. Raises Paused when it is not to wait."""
        if self._reason is None:
            return
        with self._lock:  # one thread looks, the others wait for what it sees
            while self._reason is not None and not self._canaries.alive(self._since):
                self._publish(self._reason)
                if not self._canaries.given:
                    raise Paused(
                        f"{self._reason} Say --canary ID of a video that is alive, or --no-share-guard"
                    )
                if not self._wait:
                    raise Paused(self._reason)
                self._sleep()
            if self._reason is not None and self._guard is not None:
                self._guard.go_on()
                self._reason = None
                self._publish(None)

    def _publish(self, reason: str | None) -> None:
        self._tell(reason)
        if reason is None:
            self._store.delete(PAUSE)
        else:
            self._store.update(PAUSE, lambda _: _pause_json(reason))

    def _sleep(self) -> None:
        until = time.monotonic() + self._recheck_s
        while time.monotonic() < until:
            time.sleep(min(0.5, self._recheck_s))
            self._check()


def _pause_json(reason: str) -> bytes:
    return json.dumps({"reason": reason, "since": time.time()}).encode()


class RemoteMedia:
    """A site as a source of recordings, asked under any number of identities."""

    def __init__(
        self, site: Site, identities: Identities, resolvers: Mapping[str, Resolver], pause: Pause
    ) -> None:
        """`resolvers` by the identities' ids."""
        self._site = site
        self._identities = identities
        self._resolvers = resolvers
        self._pause = pause

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        self._pause.wait()
        with self._identities.turn() as turn:
            yield RemoteTurn(self._site, self._resolvers[turn.identity.id], turn, self._pause.watch)


def settle_with(canaries: Canaries) -> Callable[[Attempt], Attempt]:
    """Decide of a shard's doubtful failures, at its end: one look at the canaries does for all of them."""

    def settle(attempt: Attempt) -> Attempt:
        outcome = Outcome(attempt.outcome)
        if not outcome.doubtful or attempt.finished_at is None:
            return attempt
        failure = Failure(outcome, attempt.message or "")
        outcome, disposition, message = canaries.settle(failure, attempt.finished_at.timestamp())
        return dataclasses.replace(attempt, outcome=outcome, disposition=disposition, message=message)

    return settle


def identities_of(settings: IngestSettings) -> tuple[Identity, ...]:
    """Every proxy with every cookie file; one of each with its counterpart where there are as many."""
    proxies: Sequence[str | None] = settings.proxies or (None,)
    cookies: Sequence[Path | None] = tuple(map(_cookie_file, settings.cookies)) or (None,)
    if len(proxies) == len(cookies):
        return tuple(Identity(proxy=p, cookies=c) for p, c in zip(proxies, cookies, strict=True))
    if 1 in (len(proxies), len(cookies)):
        return tuple(Identity(proxy=p, cookies=c) for p in proxies for c in cookies)
    raise SettingsError(
        f"{len(proxies)} --proxy and {len(cookies)} --cookies; "
        "expected as many of each, in pairs, or one of either"
    )


def _cookie_file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise SettingsError(f"--cookies {name}: no such file; expected cookies exported in Netscape format")
    return path


def rate_of(settings: IngestSettings) -> str:
    """The pace to keep: `auto` spares YouTube, and hurries elsewhere."""
    if settings.rate == "auto" and not default_canaries(settings.url_template):
        return "none"
    return settings.rate


def resolver_of(settings: IngestSettings, identity: Identity) -> Resolver:
    return Resolver(
        DownloadSettings(
            cookies=identity.cookies,
            proxy=identity.proxy,
            player_clients=settings.player_clients,
            extractor_args=parse_extractor_args(settings.extractor_args),
            js_runtimes=settings.js_runtimes,
            impersonate=settings.impersonate,
            source_address=settings.source_address,
            socket_timeout=settings.socket_timeout_s,
        )
    )


def parse_extractor_args(texts: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """`youtube:po_token=web.gvs+X;player_client=web` as yt-dlp's option of that name takes it."""
    parsed: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        site, colon, pairs = text.partition(":")
        if not colon or "=" not in pairs:
            raise SettingsError(
                f"--extractor-args begins {site!r}; expected SITE:NAME=VALUE[,VALUE][;NAME=VALUE]"
            )
        for pair in pairs.split(";"):
            name, _, values = pair.partition("=")
            parsed.setdefault(site.strip(), {})[name.strip()] = values.split(",")
    return parsed


def canary_urls(settings: IngestSettings) -> tuple[str, ...]:
    """The known-alive videos to ask for: those given, as ids or addresses, else the site's usual ones."""
    if settings.canaries is None:
        return default_canaries(settings.url_template)
    return tuple(c if "://" in c else settings.url_template.format(ytid=c) for c in settings.canaries)
