"""Commands of a person with a sound and a model: published weights, embeddings, names for sounds."""

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from flows.cli import Exit

# torch takes seconds to import: a command imports the trainer when it runs, so that --help answers at once

models_app = typer.Typer(no_args_is_help=True, help="Models: weights, embeddings, classification.")
weights_app = typer.Typer(no_args_is_help=True, help="Published weights by name: list, fetch, verify.")
models_app.add_typer(weights_app, name="weights", rich_help_panel="Models")

Model = Annotated[str, typer.Option("--model", help="Published name, weights file or run folder.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="paper or released [default: the model's own, else paper].")
]
Precision = Annotated[
    str, typer.Option(help="float32, or bf16: faster where the device multiplies bfloat16, and less exact.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the towers first: a minute, then faster. For many files.")
]
Mono = Annotated[bool, typer.Option("--mono/--channels", help="Average the channels, or sum their features.")]
WindowLength = Annotated[
    float, typer.Option("--window", min=0.0, help="Seconds per vector of a long sound; 0: whole files.")
]
Files = Annotated[list[Path] | None, typer.Argument(help="Sounds, videos, pictures, or folders of them.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names of published files [default: all].")]


@weights_app.command("list")
def list_weights() -> None:
    """What is published: names, sizes, licences, and what is in the cache."""
    from trainer.fetch import cache_folder, cached, read_record
    from trainer.published import FILES

    table = Table("name", "content", "bytes", "sha256", "licence", "cached")
    for file in FILES:
        record = read_record(file, cache_folder())
        size = file.size or (record.size if record else None)
        sha256 = file.sha256 or (record.sha256 if record else f"{file.sha256_begins}… not known")
        here = "yes" if cached(file, cache_folder()) else "no"
        table.add_row(
            file.name, file.content, f"{size:,}" if size else "not known", sha256[:12], file.licence, here
        )
    Console().print(table)


@weights_app.command("fetch")
def fetch_weights(
    names: Annotated[list[str], typer.Argument(help="Names of published files.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A copy at hand, instead of the network; for one name.")
    ] = None,
) -> None:
    """Bring published files into the cache, checked; a broken download is resumed."""
    from trainer.fetch import FetchError, cache_folder, fetch
    from trainer.published import UnknownName, published_file

    if source is not None and len(names) != 1:
        _fail(f"--from {source} is one file, for {len(names)} names; expected one name")
    try:
        for file in [published_file(name) for name in names]:
            with _download_bar() as bar:
                task = bar.add_task(file.name, total=file.size)

                def report(done: int, total: int | None, task: Any = task, bar: Progress = bar) -> None:
                    bar.update(task, completed=done, total=total)

                path = fetch(file, cache_folder(), source=source, report=report)
            typer.echo(path)
            if file.sha256 is None:
                typer.echo(
                    f"{file.name}: its full sha256 was not known; what came is recorded beside it", err=True
                )
    except (FetchError, UnknownName) as error:
        _fail(str(error))


@weights_app.command("verify")
def verify_weights(names: Names = None) -> None:
    """Read the cached files again and compare every byte's hash."""
    from trainer.fetch import FetchError, cache_folder, cached, verify
    from trainer.published import FILES, UnknownName, published_file

    failures = 0
    try:
        files = [published_file(name) for name in names or ()]
    except UnknownName as error:
        _fail(str(error))
    files = files or [file for file in FILES if cached(file, cache_folder())]
    if not files:
        typer.echo(f"nothing is in {cache_folder()}; `trichord weights fetch NAME` brings a file there")
    for file in files:
        try:
            record = verify(file, cache_folder())
            typer.echo(f"{file.name}: whole, {record.size:,} bytes, sha256 {record.sha256[:12]}…")
        except FetchError as error:
            failures += 1
            typer.echo(f"{file.name}: {error}", err=True)
    raise typer.Exit(Exit.BROKEN if failures else Exit.OK)


@models_app.command(rich_help_panel="Models")
def embed(
    files: Files = None,
    model: Model = "audioclip-full",
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text to embed; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")] = Path(
        "embeddings.parquet"
    ),
    mono: Mono = True,
    window: WindowLength = 10.0,
    device: Device = "auto",
    profile: ProfileName = None,
    precision: Precision = "float32",
    compile: Compile = False,
) -> None:
    """Vectors of sounds, pictures and texts, as rows of a Parquet file. Exit code 3: some were skipped."""
    if not files and not text:
        _fail("nothing to embed; expected files, folders, or --text")
    from trainer.embed import embed_files, embed_texts, found_files, write_embeddings

    paths = list(found_files(files or []))
    if not paths and not text:
        _fail(f"no sounds, videos or pictures in {', '.join(map(str, files or []))}")
    encoder = _loaded(model, device=device, profile=profile, precision=precision, compile=compile)
    with file_bar() as bar:
        rows = chain(
            embed_texts(encoder, text or []),
            _counted(embed_files(encoder, paths, mono=mono, window_s=window or None), bar, len(paths)),
        )
        try:
            written, skipped = write_embeddings(
                rows, out, fingerprint=encoder.fingerprint(), size=encoder.size
            )
        except OSError as error:
            _fail(f"--out {out} cannot be written: {error}")
    for failure in skipped:
        typer.echo(_skipped(failure), err=True)
    typer.echo(f"{written} rows in {out}" + (f", {len(skipped)} skipped" if skipped else ""))
    raise typer.Exit(Exit.FAILED if skipped else Exit.OK)


@models_app.command(rich_help_panel="Models")
def classify(
    files: Files,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, a file of them, esc50, audioset, or a data set's folder. "
            "A trained classifier has its own; then these are some of them, or new ones for all."
        ),
    ] = None,
    model: Model = "audioclip-full",
    prompt: Annotated[
        str | None,
        typer.Option(help="The text that stands for a name, which goes where {} is [default: {}]."),
    ] = None,
    multi: Annotated[bool, typer.Option("--multi", help="Judge each name alone, by its cosine.")] = False,
    top: Annotated[int, typer.Option(min=1, help="At most so many names.")] = 1,
    min_score: Annotated[float | None, typer.Option(help="Leave out names below this score.")] = None,
    class_table: Annotated[
        Path | None, typer.Option(help="AudioSet's class_labels_indices.csv, for --labels audioset.")
    ] = None,
    mono: Mono = True,
    window: WindowLength = 10.0,
    device: Device = "auto",
    profile: ProfileName = None,
    precision: Precision = "float32",
    compile: Compile = False,
) -> None:
    """The names that fit best, a line per sound, picture, or window of a long sound."""
    names = None if labels is None else _class_names(labels, class_table)
    from trainer.classifier import is_classifier
    from trainer.embed import Skipped, found_files

    failures = 0
    try:
        answers = _answers_by_logits if is_classifier(model) else _answers_by_text
        for answer in answers(
            model,
            found_files(files or []),
            names,
            loading={"device": device, "precision": precision, "compile": compile},
            texts={"profile": profile, "prompt": prompt},
            multi=multi,
            top=top,
            min_score=min_score,
            mono=mono,
            window_s=window or None,
        ):
            if isinstance(answer, Skipped):
                failures += 1
                typer.echo(_skipped(answer), err=True)
            else:
                typer.echo(_line(answer))
    except ValueError as error:
        _fail(str(error))
    raise typer.Exit(Exit.FAILED if failures else Exit.OK)


def _class_names(labels: str, table: Path | None) -> tuple[str, ...]:
    from trainer.class_names import ClassNamesError, class_names

    try:
        return class_names(labels, table=table)
    except ClassNamesError as error:
        _fail(str(error))


def _answers_by_text(
    model: str,
    files: Iterable[Path],
    names: tuple[str, ...] | None,
    *,
    loading: dict[str, Any],
    texts: dict[str, str | None],
    **options: Any,
) -> Iterator[Any]:
    """Of a model that compares with any texts."""
    if names is None:
        _fail(
            f"{model} compares with any names, and none are given; expected --labels, or a classifier's run"
        )
    encoder = _loaded(model, profile=texts["profile"], **loading)
    from trainer.classify import classify as classified

    prompt = "{}" if texts["prompt"] is None else texts["prompt"]
    return classified(encoder, files, names, prompt=prompt, **options)


def _answers_by_logits(
    model: str,
    files: Iterable[Path],
    names: tuple[str, ...] | None,
    *,
    loading: dict[str, Any],
    texts: dict[str, str | None],
    **options: Any,
) -> Iterator[Any]:
    """Of a model that was trained to tell classes apart, with its own names where none are given."""
    if idle := [f"--{option} {value}" for option, value in texts.items() if value is not None]:
        _fail(
            f"{', '.join(idle)}: for models that compare with texts, and {model} is a classifier; leave out"
        )
    from trainer.classifier import load_classifier
    from trainer.classify import classify_by_logits, named_places

    classifier = load_classifier(model, **loading)
    places = named_places(classifier, names)
    typer.echo(_whose(classifier, places, names, model), err=True)
    return classify_by_logits(classifier, files, names, **options)


def _whose(classifier: Any, places: Any, names: tuple[str, ...] | None, model: str) -> str:
    if {name for _, name in places} <= set(classifier.class_names):
        part = "the" if names is None else f"{len(places)} of the"
        return f"names: {part} {classifier.classes} that {model} was trained on"
    return f"names: those of --labels, in the order of the {classifier.classes} classes of {model}"


def _counted(rows: Iterable[Any], bar: Progress, total: int) -> Iterator[Any]:
    """The rows of files; the bar shows how many files are behind, since the next are always begun already."""
    task = bar.add_task("embedding", total=total)
    for _, group in groupby(rows, key=lambda row: getattr(row, "path", None) or row.what):
        yield from group
        bar.advance(task)


def _skipped(failure: Any) -> str:
    what = failure.what[:200]
    return (
        f"skipped {failure.reason}"
        if failure.reason.startswith(what)
        else f"skipped {what}: {failure.reason}"
    )


def _line(answer: Any) -> str:
    span = "" if answer.start is None else f"{answer.start:.1f}–{answer.end:.1f} s"
    names = ", ".join(f"{scored.name} {scored.score:.3f}" for scored in answer.names) or "none of these"
    return "\t".join((answer.path, span, names))


def _loaded(model: str, **options: Any) -> Any:
    from trainer.fetch import FetchError
    from trainer.models import load_model

    try:
        return load_model(model, **options)
    except (FetchError, ValueError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(Exit.USAGE)


def file_bar() -> Progress:
    """How many of so many files; nothing where nobody looks."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()
    )


def _download_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()
    )
