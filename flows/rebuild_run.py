"""Running `trichord rebuild`: options to settings, the live line, the summary, and how it ends."""

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from flows.cli import Exit, fail
from flows.ingest_run import GIVEN_WRONG, signals_set
from flows.live import Tally, duration, watching
from flows.notify import Notifier
from pipeline.archive import ArchiveError
from pipeline.build import Stop, Stopped
from pipeline.decoding import Interrupted
from pipeline.listing import SHOWN, ListingError
from pipeline.rebuild import RebuildSettings, Rebuilt, rebuild
from pipeline.spool import DiskFull
from shards.profile import describe_partial

_RENAMED = {"audio_rate": "sample_rate"}


def run_rebuild(dataset: str, given: Mapping[str, Any]) -> None:
    """The whole command. Raises typer.Exit with the command's code."""
    try:
        settings = settings_from(dataset, given)
        stop = Stop()
        with signals_set(stop):
            rebuilt = rebuild(
                settings,
                stop=stop,
                watch=lambda worker, todo: watching(
                    worker, Tally(todo.left), Notifier(None), quiet=given["quiet"]
                ),
            )
    except (ListingError, ArchiveError, *GIVEN_WRONG) as error:
        raise fail(error) from None
    except DiskFull as full:
        raise fail(full, Exit.NO_ROOM) from None
    except Stopped as stopped:  # before there was anything to build
        raise fail(str(stopped) or "interrupted", Exit.INTERRUPTED) from None
    code = exit_of(rebuilt, settings)
    for line in summary(rebuilt, accepted=settings.allow_partial):
        print(line)
    raise typer.Exit(code)


def settings_from(dataset: str, given: Mapping[str, Any]) -> RebuildSettings:
    """The command line's options as settings."""
    options = {_RENAMED.get(name, name): value for name, value in given.items() if name != "quiet"}
    options["min_free"] = options["min_free"] << 20
    return RebuildSettings(dataset=dataset, **options)


def exit_of(rebuilt: Rebuilt, settings: RebuildSettings) -> Exit:
    """The command's code; a surprise travels as the exception that it is."""
    stopped = rebuilt.stopped
    if isinstance(stopped, KeyboardInterrupt | Interrupted):
        return Exit.INTERRUPTED
    if isinstance(stopped, DiskFull):
        return Exit.NO_ROOM
    if stopped is not None:
        raise stopped
    return Exit.FAILED if rebuilt.failed and not settings.allow_partial else Exit.OK


def summary(rebuilt: Rebuilt, *, accepted: bool = True) -> Iterator[str]:
    """What came of it, what is not as published, and the next useful command.

    `accepted` says that files without a sample are no reason to fail.
    """
    tried = sum(rebuilt.outcomes.values())
    if tried:
        yield (
            f"{tried} files in {duration(rebuilt.seconds)}: ok {rebuilt.outcomes.get('ok', 0)}, "
            f"{rebuilt.shards} shards"
        )
    elif rebuilt.stopped is None:
        yield f"nothing to do: all {rebuilt.planned} files have been tried"
    if rebuilt.stopped is not None:
        yield f"stopped: {str(rebuilt.stopped) or 'interrupted'}"
    if rebuilt.partial is not None:
        yield f"partial: {describe_partial(rebuilt.partial)}"
    yield from (f"  {line}" for line in rebuilt.amiss)
    yield from _failures(rebuilt)
    if rebuilt.clipped:
        yield (
            f"  {rebuilt.clipped} samples are louder than 16 bits can be and were clipped: "
            "their message in the manifest says by how much"
        )
    yield from _next_commands(rebuilt, accepted=accepted)


def _failures(rebuilt: Rebuilt) -> Iterator[str]:
    for key, message in sorted(rebuilt.failed.items())[:SHOWN]:
        yield f"  no sample of {key}: {message}"
    if len(rebuilt.failed) > SHOWN:
        yield f'  and {len(rebuilt.failed) - SHOWN} more: trichord manifest {rebuilt.out} "from failures"'


def _next_commands(rebuilt: Rebuilt, *, accepted: bool) -> Iterator[str]:
    if rebuilt.stopped is not None:
        yield "  next: the same command goes on from here"
    elif rebuilt.failed and not accepted:
        yield "  next: mend or replace these files and give the same command, or add --allow-partial"
    yield f"  look: trichord verify {rebuilt.out} --deep · trichord sheet {rebuilt.out}"
