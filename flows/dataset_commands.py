"""`trichord status`, `verify`, `manifest` and `sheet`: looking at a dataset, from any machine."""

from typing import Annotated

import typer

Folder = Annotated[
    str, typer.Argument(metavar="DATASET", help="The dataset: a folder, or s3://bucket/prefix.")
]


def status(
    dataset: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How far an ingestion is: done, yield, failures, rate, time left, who works, disk.

    Examples:

        trichord status data/audioset

        trichord status data/audioset --watch

        trichord status s3://bucket/audioset --json
    """
    from flows.looking import run_status

    run_status(dataset, watch=watch, as_json=as_json)


def verify(
    dataset: Folder,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, decode all sound.")] = False,
) -> None:
    """Check that every shard is there, whole, and holds what its ledger says.

    Examples:

        trichord verify data/audioset

        trichord verify data/audioset --deep

    Exit code 0: all is well; 6: something is not, and is listed.
    """
    from flows.looking import run_verify

    run_verify(dataset, deep=deep)


def manifest(
    dataset: Folder,
    query: Annotated[
        str | None, typer.Argument(metavar="[SQL]", help="A query; without it, what there is to ask.")
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, json or parquet.")] = "table",
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Write here.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read the ledgers anew instead of the snapshot.")
    ] = False,
    rows: Annotated[int, typer.Option("--rows", help="Show at most so many rows of a table.")] = 50,
) -> None:
    """Ask the manifest in SQL (DuckDB's), also while an ingestion runs.

    Examples:

        trichord manifest data/audioset

        trichord manifest data/audioset "from coverage"

        trichord manifest data/audioset "select outcome, count(*) from segments group by all" --format csv

        trichord manifest data/audioset "from segments where still" --format parquet --out still.parquet
    """
    from flows.looking import run_manifest

    run_manifest(dataset, query, format=format, out=out, fresh=fresh, rows=rows)


def sheet(
    dataset: Folder,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="HTML", help="The file to write.")
    ] = "sheet.html",
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Condition on `segments`.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Samples to show.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Of the lot that chooses them.")] = 0,
) -> None:
    """One HTML file to look at and listen to: frames, spectrogram, labels and a player for each sample.

    Examples:

        trichord sheet data/audioset

        trichord sheet data/audioset --where "rms_dbfs < -50 or still" --out quiet.html --limit 50
    """
    from flows.looking import run_sheet

    run_sheet(dataset, out, where=where, limit=limit, seed=seed)
