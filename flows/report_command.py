"""`trichord report`: a run as one HTML file to look at."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import Exit, fail
from flows.evaluate_command import NoCache

if TYPE_CHECKING:
    from shards.selection import Selection
    from trainer.evaluation_run import EvaluationRequest
    from trainer.report import RunRecord
    from trainer.report_examples import Shown

# torch takes seconds to import: the trainer is imported when the command runs, so that --help answers at once


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    data: Annotated[
        str,
        typer.Option("--data", help="Folder or address of shards to show examples of.", metavar="SHARDS"),
    ] = "",
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="A split or fold; may be repeated. All without any.", metavar="NAME"),
    ] = None,
    where: Annotated[
        str, typer.Option("--where", help="A condition on samples, in SQL.", metavar="SQL")
    ] = "",
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results",
            help="A folder with results of what came from this run; repeatable.",
            metavar="FOLDER",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items decoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    no_cache: NoCache = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page [default: report.html in the run's folder].", metavar="FILE.html"
        ),
    ] = None,
) -> None:
    """A run as one HTML file: curves, numbers beside the papers', confusions, examples to hear and see.

    Examples:

        trichord report runs/a3

        trichord report runs/a3 --data data/esc50 --split fold1

        trichord report runs/a3 --results runs/a3-on-esc50

    Numbers come from the run's log and from what `trichord evaluate` left in its folder; only examples need
    --data. Also while the run goes.
    """
    from trainer.report import PAGE, read_record, write_report
    from trainer.run_request import RunError

    if (split or where) and not data:
        raise fail("--split and --where choose among samples; expected --data SHARDS with them")
    target = out or run / PAGE
    try:
        record = read_record(run, results or ())
        asked = {"data": data, "splits": tuple(split or ()), "where": where, "batch_size": batch_size}
        shown = _shown(record, no_cache=no_cache, device=device, **asked) if data else None
        write_report(target, record, shown)
    except RunError as error:
        raise fail(error, Exit(error.code)) from None
    except (ValueError, OSError) as error:
        raise fail(error) from None
    typer.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def _shown(record: "RunRecord", *, no_cache: bool, **asked: Any) -> "Shown":
    """`asked`: what of an evaluation's request a person chooses."""
    from trainer.evaluation_run import EvaluationRequest, embed_request
    from trainer.kept_embeddings import EmbeddingCache, cache_folder
    from trainer.report_examples import Shown
    from trainer.report_findings import find

    request = EvaluationRequest(
        model=str(record.view.path),
        tasks=("classification",) if record.classifies else ("zero-shot", "query"),
        cache=None if no_cache else EmbeddingCache(folder=cache_folder()),
        **record.hears(),
        **asked,
    )
    embedded, selection = embed_request(request, partial(typer.echo, err=True))
    findings = find(embedded, dataset=_name(request))
    labels = {
        key: [embedded.items.class_names[place] for place in row.nonzero()[0]]
        for key, row in zip(embedded.items.keys, embedded.items.targets, strict=True)
    }
    return Shown(
        findings=findings,
        media=_media(findings, request, selection),
        labels=labels,
        spectrogram=_spectrogram,
    )


def _name(request: "EvaluationRequest") -> str:
    from shards.profile import read_dataset
    from shards.store import open_store

    return read_dataset(open_store(request.data)).name


def _media(findings: Any, request: "EvaluationRequest", selection: "Selection") -> Mapping[str, Any]:
    from shards.sample_reader import SampleReader
    from shards.store import open_store
    from trainer.report_media import media_of

    names = [selection.shards[place] for place in selection.shard_of]
    with SampleReader(store=open_store(request.data)) as reader:
        return media_of(findings, reader, dict(zip(selection.keys, names, strict=True)))


def _spectrogram(sound: bytes) -> bytes | None:
    import numpy as np

    from pipeline.spectrogram import spectrogram_png
    from shards.sound import SoundError, decode_pcm

    try:
        pcm, rate = decode_pcm(sound)
    except SoundError:
        return None
    return spectrogram_png(pcm.mean(axis=1).astype(np.float32) / 32_768, rate, width=320, height=80)
