"""`trichord index` and `trichord search`: vectors of files or shards, and what lies near a question."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress

from flows.cli import Exit, fail
from flows.cli_models import file_bar

if TYPE_CHECKING:
    from shards.vectors import Hit, VectorIndex
    from trainer.index import Source
    from trainer.models.encoder import Encoder
    from trainer.search_media import Media

# torch takes seconds to import: a command imports the trainer when it runs, so that --help answers at once

search_app = typer.Typer(no_args_is_help=True, help="Search: an index of vectors, and questions to it.")
_PANEL = "Models"

Index = Annotated[Path, typer.Option("--index", help="The folder that holds the index.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Modality = Literal["audio", "image"]
DEFAULT_INDEX = Path("trichord-index")


@search_app.command("index", rich_help_panel=_PANEL)
def index(
    source: Annotated[str, typer.Argument(help="A folder of files, or a dataset's folder or s3:// address.")],
    model: Annotated[str, typer.Option("--model", help="Published name, weights file or run folder.")],
    index: Index = DEFAULT_INDEX,
    window: Annotated[
        float,
        typer.Option("--window", min=0.0, help="Seconds per vector of a long sound or video; 0: all of it."),
    ] = 10.0,
    frames: Annotated[
        int | None,
        typer.Option(min=0, help="Pictures of a video in each window; 0: only its sound. Default: 1."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Vectors of every sound, video and picture, kept on disk. Called again, it embeds only what changed.

    **Examples**

    `trichord index ~/recordings --model audioclip-full`

    `trichord index data/esc50 --model runs/a3 --index indexes/esc50`
    """
    from shards.store import StoreError
    from shards.vector_rows import VectorIndexError

    try:
        found, options = _source(source, window or None, frames, index)
        encoder = _loaded(model, device)
        from trainer.index import update_index
        from trainer.index_sources import FolderSource

        with file_bar() as bar:
            done = update_index(encoder, found, index, model=model, options=options, track=_tracking(bar))
    except (VectorIndexError, StoreError) as error:
        raise fail(error) from None
    for failure in done.skipped:
        typer.echo(f"skipped {failure.what[:200]}: {failure.reason}", err=True)
    gone = f", {done.gone} gone" if done.gone else ""
    kind = "files" if isinstance(found, FolderSource) else "shards"
    units = f"{kind}: {done.new} new, {done.kept} as they were{gone}"
    typer.echo(
        f"{done.facts.rows:,} vectors in {index} ({units}); ask: trichord search --text … --index {index}"
    )
    raise typer.Exit(Exit.FAILED if done.skipped else Exit.OK)


@search_app.command("search", rich_help_panel=_PANEL)
def search(
    text: Annotated[str | None, typer.Option(help="What is looked for, in words.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound that is alike.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture that goes with it.")] = None,
    index: Index = DEFAULT_INDEX,
    top: Annotated[int, typer.Option(min=1, help="So many answers.")] = 10,
    modality: Annotated[Modality | None, typer.Option(help="Only sounds, or only pictures.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only of this class; may be repeated.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", "--fold", help="Only of this split or fold.")
    ] = None,
    where: Annotated[str, typer.Option(help="SQL over the index's columns, such as rms_dbfs > -40.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write a page that plays and shows the answers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per answer.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="Where the model is now, if it moved.")] = None,
    device: Device = "auto",
) -> None:
    """What is nearest to a text, a sound or a picture: file, span and cosine, best first.

    **Examples**

    `trichord search --text "glass breaking"`

    `trichord search --audio bark.wav --fold fold3 --top 5 --html found.html`

    `trichord search --image storm.jpg --modality audio --where "rms_dbfs > -40"`
    """
    from shards.vector_rows import VectorIndexError
    from shards.vectors import VectorIndex

    questions = [given for given in (text, audio, image) if given is not None]
    if len(questions) != 1:
        raise fail(f"{len(questions)} questions; expected one of --text, --audio, --image")
    if text is not None and not text.strip():
        raise fail("--text is empty; expected what is looked for, in words")
    if html is not None and html.is_dir():
        raise fail(f"--html {html} is a folder; expected the name of an HTML file")
    try:
        opened = VectorIndex.open(index)
        _check_columns(opened, {"--label": label, "--split": split})
        encoder = _loaded(model or opened.facts.model, device)
        _check_same(encoder, opened)
        hits = opened.search(
            _vector(encoder, text=text, audio=audio, image=image),
            top,
            where=_filters(modality, label or (), split, where),
        )
    except VectorIndexError as error:
        raise fail(error) from None
    for hit in hits:
        typer.echo(json.dumps({"score": hit.score, **hit.facts}, default=str) if as_json else _line(hit))
    if not hits:
        _say_why(opened, labels=label or (), splits=[split] if split else ())
    if html is not None:
        try:
            _write_page(opened, hits, html, question=str(questions[0]))
        except OSError as error:
            raise fail(f"--html {html} cannot be written: {error}") from None
        typer.echo(f"page: {html}", err=True)


def _line(hit: "Hit") -> str:
    row = hit.facts
    span = "" if row.get("start_s") is None else f"{row['start_s']:.1f}–{row['end_s']:.1f} s"
    name = row["path"] if not row.get("key") else f"{row['path']}: {row['key']}"
    labels = ", ".join(row.get("labels") or ())
    return "\t".join((f"{hit.score:.3f}", row["modality"], name, span, labels)).rstrip()


def _check_columns(opened: "VectorIndex", given: Mapping[str, object]) -> None:
    """A folder's files have no labels and no splits."""
    columns = opened.rows.columns() if opened.facts.rows else []
    for option, column in (("--label", "labels"), ("--split", "split")):
        if given[option] and columns and column not in columns:
            raise fail(
                f"{option}: {opened.folder} is of the files of a folder, which have no {column}; "
                "expected an index of a dataset"
            )


def _filters(modality: str | None, labels: Sequence[str], split: str | None, where: str) -> list[str]:
    """SQL expressions of all that was asked for."""
    parts = [f"modality = {_quoted(modality)}"] if modality else []
    parts += [f"list_contains(labels, {_quoted(label)})" for label in labels]
    parts += [f"split = {_quoted(split)}"] if split else []
    return [*parts, where]


def _say_why(opened: "VectorIndex", *, labels: Sequence[str], splits: Sequence[str]) -> None:
    """Nothing passed: a misspelt name is answered with the nearest. Exits, as for what is typed wrongly."""
    for option, column, given in (("--label", "labels", labels), ("--split", "split", splits)):
        there = opened.rows.values(column) if given and opened.facts.rows else []
        for name in given if there else ():
            if name not in there:
                folded = {value.casefold(): value for value in there}
                close = difflib.get_close_matches(name.casefold(), folded, n=1)
                near = [folded[value] for value in close] or there[:5]
                raise fail(
                    f"{option} {name!r}: nothing in {opened.folder} has it; there is {', '.join(near)}"
                )
    why = "nothing in the index passes these filters" if opened.facts.rows else f"{opened.folder} is empty"
    typer.echo(why, err=True)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _vector(encoder: "Encoder", *, text: str | None, audio: Path | None, image: Path | None) -> Any:
    from shards.sound import SoundError
    from trainer.image import ImageError

    if image is not None and not image.is_file():
        raise fail(f"{image} is no file; expected a picture")
    try:
        if text is not None:
            rows = encoder.embed_text(text)
        elif audio is not None:
            rows = encoder.embed_audio([audio])
        else:
            rows = encoder.embed_image([str(image)])
    except (SoundError, ImageError, ValueError, OSError) as error:
        raise fail(error) from None
    return rows[0].cpu().numpy()


def _check_same(encoder: "Encoder", opened: "VectorIndex") -> None:
    from shards.vector_rows import VectorIndexError

    if (found := encoder.fingerprint()) != opened.facts.fingerprint:
        raise VectorIndexError(
            f"{opened.folder} is of model {opened.facts.fingerprint}, this one is {found}: their vectors "
            "do not compare. Give the model that made it as --model, or index again"
        )


def _source(
    source: str, window_s: float | None, frames: int | None, index: Path
) -> tuple["Source", dict[str, Any]]:
    """What is indexed, and what changes its vectors."""
    from shards.layout import DATASET
    from shards.store import open_store
    from trainer.index_sources import FolderSource, ShardSource

    folder = Path(source).expanduser()
    if "://" in source or (folder / DATASET).is_file():
        if frames is not None:
            raise fail(f"--frames is for the videos of a folder; of {source}, central frames are indexed")
        return ShardSource(open_store(source), window_s), {"window_s": window_s}
    if not folder.is_dir():
        raise fail(f"{source} is no folder; expected a folder of sounds and pictures, or a dataset")
    frames = 1 if frames is None else frames
    return FolderSource(folder, window_s, frames, index), {"window_s": window_s, "frames": frames}


def _loaded(model: str, device: str) -> "Encoder":
    from trainer.fetch import FetchError
    from trainer.models import load_model

    try:
        return load_model(model, device=device)
    except (FetchError, ValueError) as error:
        raise fail(error) from None


def _tracking(bar: Progress) -> Any:
    def track(units: Sequence[Any]) -> Iterable[Any]:
        return bar.track(units, description="embedding")

    return track


def _write_page(opened: "VectorIndex", hits: Sequence["Hit"], target: Path, *, question: str) -> None:
    from pipeline.contact_sheet import Card, write_contact_sheet

    def card(hit: "Hit") -> Card:
        row, media = hit.facts, _media(opened.facts.source, hit.facts)
        span = {} if row.get("start_s") is None else {"seconds": f"{row['start_s']:.1f}–{row['end_s']:.1f}"}
        facts = {"score": f"{hit.score:.3f}", "by its": row["modality"], "split": row.get("split"), **span}
        name = row.get("key") or row["path"]
        return Card(
            key=name, class_names=row.get("labels") or (), frames=media.frames, sound=media.sound, facts=facts
        )

    lead = f"{len(hits)} nearest of {opened.facts.rows:,} vectors of {opened.facts.source}"
    write_contact_sheet(map(card, hits), target, title=f"Search: {question}", lead=lead)


def _media(source: str, row: Mapping[str, Any]) -> "Media":
    """What is to be seen and heard of an answer; of what is gone or broken by now, nothing."""
    from shards.store import StoreError, open_store
    from trainer.search_media import Media, file_media, sample_media

    try:
        return sample_media(open_store(source), row) if row.get("key") else file_media(Path(source), row)
    except (ValueError, StoreError, OSError) as error:
        typer.echo(f"not in the page: {error}", err=True)
        return Media()
