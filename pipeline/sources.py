"""Which source of recordings the settings ask for: a folder, or a site under one or more identities."""

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.attempt import FreeMedia, MediaSource
from pipeline.build import Stop
from pipeline.canary import Canaries, ShareGuard
from pipeline.ffmpeg import Program, find_program
from pipeline.local_media import LocalMedia, MediaFolder, MediaKind, tell_kind
from pipeline.planning import Todo
from pipeline.settings import IngestSettings
from shards.ledger import Attempt
from shards.plan import read_planned
from shards.profile import read_dataset
from shards.progress import WorkerProgress
from shards.segment import Segment
from shards.store import Store

Settle = Callable[[Attempt], Attempt]


def open_source(
    settings: IngestSettings, store: Store, todo: Todo, program: Program, progress: WorkerProgress, stop: Stop
) -> tuple[MediaSource, Settle]:
    """The source, and what decides of its doubtful failures at a shard's end."""
    if settings.media:
        return FreeMedia(_folder(settings, store, todo, program).resolve), lambda attempt: attempt
    return _site(settings, store, program, progress, stop)


def check_source(settings: IngestSettings) -> None:
    """Raise for whatever is wrong with the source's settings, before anything is written."""
    find_program(settings.ffmpeg)
    if settings.media:
        MediaFolder(Path(settings.media), settings.media_pattern)
        return
    from pipeline.pace import named_pace
    from pipeline.remote_media import identities_of, rate_of, resolver_of

    for identity in identities_of(settings):
        resolver_of(settings, identity)
        named_pace(rate_of(settings), account=identity.cookies is not None)


def _folder(settings: IngestSettings, store: Store, todo: Todo, program: Program) -> LocalMedia:
    assert settings.media is not None
    folder = MediaFolder(Path(settings.media), settings.media_pattern)
    if settings.media_kind != "auto":
        return LocalMedia(folder=folder, kind=MediaKind(settings.media_kind))
    return LocalMedia(folder=folder, kind=tell_kind(folder, _planned(store, todo), program))


def _planned(store: Store, todo: Todo) -> Iterator[Segment]:
    for plan in todo.plans:
        for shard in plan.shards:
            yield from read_planned(store, plan, shard)


def _site(
    settings: IngestSettings, store: Store, program: Program, progress: WorkerProgress, stop: Stop
) -> tuple[MediaSource, Settle]:
    # yt-dlp's boundary costs what a folder need not pay
    from pipeline.identity import Identities
    from pipeline.remote_media import (
        Pause,
        RemoteMedia,
        Site,
        canary_urls,
        identities_of,
        rate_of,
        resolver_of,
        settle_with,
    )
    from pipeline.youtube import downloader_version

    profile = read_dataset(store).profile
    site = Site(
        url_template=settings.url_template, short_side=profile.short_side, pictures=profile.frames > 0
    )
    identities = identities_of(settings)
    resolvers = {identity.id: resolver_of(settings, identity) for identity in identities}
    first = resolvers[identities[0].id]
    canaries = Canaries(canary_urls(settings), lambda url: site.ask_url(first, url))
    guard = ShareGuard([downloader_version(), program.label]) if settings.share_guard else None
    pause = Pause(
        store,
        guard,
        canaries,
        wait=settings.on_blocked == "wait",
        tell=progress.waiting,
        check=stop.check,
    )
    turns = Identities(
        store,
        identities,
        rate_of(settings),
        settings.on_blocked,
        cooldown_s=settings.cooldown_s,
        check=stop.check,
        tell=progress.waiting,
    )
    return RemoteMedia(site, turns, resolvers, pause), settle_with(canaries)
