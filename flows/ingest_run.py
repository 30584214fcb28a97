"""Running `trichord ingest`: options to settings, signals, the live line, and how it ends."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import typer

from flows.cli import Exit, fail
from flows.live import Tally, duration, left_to_retry, watching
from flows.notify import Notifier, NotifyError
from pipeline.audioset import SegmentsError
from pipeline.build import Stop
from pipeline.ffmpeg import FfmpegError
from pipeline.forecast import Forecast, forecast
from pipeline.identity import AllBlocked
from pipeline.ingest import Summary, ingest
from pipeline.local_media import MediaFolderError
from pipeline.ontology import OntologyError
from pipeline.remote_media import Paused
from pipeline.settings import YOUTUBE, IngestSettings, SettingsError, checked_split, known_lists, split_of
from pipeline.spool import DiskFull
from shards.attempted import WantedError
from shards.labels import LabelsError
from shards.ledger import LedgerError
from shards.plan import PlanError
from shards.profile import Profile, ProfileError
from shards.store import StoreError, open_store

# What users can cause, each with a message of one line that says what to do.
GIVEN_WRONG = (
    *(SegmentsError, OntologyError, LabelsError, ProfileError, SettingsError, MediaFolderError),
    *(FfmpegError, StoreError, PlanError, LedgerError, WantedError, NotifyError),
)


def run_ingest(given: Mapping[str, Any]) -> None:
    """The whole command. Raises typer.Exit with the command's code."""
    try:
        settings, notifier = settings_from(given), Notifier(given["notify"])
        if given["dry_run"]:
            _print_forecast(forecast(open_store(settings.out), settings), settings)
            return
        code = _ingest(settings, notifier, quiet=given["quiet"])
    except GIVEN_WRONG as error:
        raise fail(error) from None
    notifier.flush()
    raise typer.Exit(code)


def _ingest(settings: IngestSettings, notifier: Notifier, *, quiet: bool) -> Exit:
    stop = Stop()
    with signals_set(stop):
        summary = ingest(
            settings,
            stop=stop,
            watch=lambda worker, todo: watching(worker, Tally(todo.left), notifier, quiet=quiet),
        )
    code = _exit_of(summary)
    _print_summary(summary, settings, code)
    notifier.post("finished" if summary.stopped is None else "stopped", **_facts(summary, code))
    return code


@contextlib.contextmanager
def signals_set(stop: Stop) -> Iterator[None]:
    """The first signal lets what runs come to its end; the second one does not wait."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.reason is not None:
            os._exit(Exit.INTERRUPTED)
        stop.set(KeyboardInterrupt())
        print("stopping; once more to stop at once", file=sys.stderr, flush=True)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _exit_of(summary: Summary) -> Exit:
    """The command's code; a surprise travels as the exception that it is."""
    stopped = summary.stopped
    if isinstance(stopped, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(stopped, DiskFull):
        return Exit.NO_ROOM
    if isinstance(stopped, AllBlocked | Paused):
        return Exit.BLOCKED
    if stopped is not None:
        raise stopped
    left = left_to_retry(summary.left)
    if "blocked" in left:
        return Exit.BLOCKED
    return Exit.FAILED if left else Exit.OK


def _facts(summary: Summary, code: Exit) -> dict[str, object]:
    return {
        "dataset": summary.out,
        "split": summary.split,
        "ok": summary.ok,
        "outcomes": dict(summary.outcomes),
        "reason": str(summary.stopped or ""),
        "exit_code": int(code),
    }


def _print_summary(summary: Summary, settings: IngestSettings, code: Exit) -> None:
    """What came of it, and the next useful command."""
    tried = sum(summary.outcomes.values())
    failed = ", ".join(f"{name} {count}" for name, count in sorted(summary.outcomes.items()) if name != "ok")
    if tried:
        print(
            f"{tried} segments tried in {duration(summary.seconds)}: ok {summary.ok}"
            + f", {failed}" * bool(failed)
        )
    elif summary.stopped is None:
        print(f"nothing to do: all {summary.planned} segments planned have been tried")
    if summary.stopped is not None:
        print(f"stopped: {str(summary.stopped) or 'interrupted'}")
    for line in _next_commands(summary, code):
        print(line)


def _next_commands(summary: Summary, code: Exit) -> Iterator[str]:
    if code in (Exit.INTERRUPTED, Exit.NO_ROOM) or summary.stopped is not None:
        yield "  next: the same command goes on from here"
    for name, count in left_to_retry(summary.left).items():
        yield f"  {count} {name}: the same command with --retry {name} tries them again"
    yield f'  look: trichord status {summary.out} · trichord manifest {summary.out} "from coverage"'


def _print_forecast(plan: Forecast, settings: IngestSettings) -> None:
    failed = ", ".join(f"{count} {name}" for name, count in plan.failed.items() if count)
    free = "" if plan.free_bytes is None else f" of {plan.free_bytes / 1e9:.1f} GB free"
    lines = {
        "segments": f"{plan.selected}"
        + (f", {plan.bad_rows} malformed rows skipped" if plan.bad_rows else ""),
        "already done": f"{plan.done}",
        "permanent": f"{plan.permanent} failures that stay",
        "to retry": f"{failed or 0} (--retry)",
        "to do": f"{plan.todo} segments in {plan.shards} shards of {settings.segments_per_shard}",
        "time": f"{duration(plan.hours * 3600)} at {plan.per_hour:,.0f} segments an hour ({plan.pace})",
        "disk": f"{plan.bytes / 1e9:.2f} GB{free}, if every segment gives a sample",
    }
    for name, text in lines.items():
        print(f"{name:>14}  {text}")


def settings_from(given: Mapping[str, Any]) -> IngestSettings:
    """The command line's options as settings; option names differ from the settings' in a few places."""
    profile = Profile(
        frames=given["frames"],
        short_side=given["short_side"],
        jpeg_quality=given["jpeg_quality"],
        sample_rate=given["audio_rate"],
        channels=given["channels"],
        audio_codec=given["audio_codec"],
        keep_short=given["keep_short"],
    )
    same = (
        *("labels", "exclude_labels", "exact", "sample", "seed", "limit", "retry", "skip_bad_rows"),
        *("class_labels", "ontology", "segments_per_shard", "media", "media_pattern", "media_kind"),
        *("rate", "on_blocked", "share_guard", "impersonate", "source_address", "jobs", "retries"),
        *("work", "ffmpeg"),
    )
    return IngestSettings(
        segments=given["segments"],
        out=given["out"],
        split=checked_split(given["split"] or split_of(given["segments"])),
        profile=profile,
        **{name: given[name] for name in same},
        url_template=given["url_template"] or YOUTUBE,
        proxies=tuple(given["proxy"] or ()),
        cookies=tuple(given["cookies"] or ()),
        cooldown_s=given["cooldown"],
        canaries=None if given["canary"] is None else known_lists(given["canary"]),
        player_clients=known_lists(given["player_client"] or ()),
        extractor_args=tuple(given["extractor_args"] or ()),
        js_runtimes=tuple(given["js_runtime"] or ("deno",)),
        socket_timeout_s=given["socket_timeout"],
        retry_base_s=given["retry_base"],
        segment_timeout_s=given["segment_timeout"],
        min_free=given["min_free"] << 20,
    )
