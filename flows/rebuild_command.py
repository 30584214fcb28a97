"""`trichord rebuild`: a published dataset, or anyone's folder, as the same shards that ingestion makes."""

from typing import Annotated

import typer

rebuild_app = typer.Typer(
    name="rebuild",
    help="Rebuild ESC-50, UrbanSound8K, ImageNet's validation set or a folder as shards.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Out = Annotated[
    str, typer.Option("--out", metavar="DATASET", help="The dataset: a folder, or s3://bucket/prefix.")
]
Root = Annotated[
    str | None, typer.Option("--root", metavar="FOLDER", help="The dataset's own folder, unpacked.")
]
Archive = Annotated[
    str | None, typer.Option("--archive", metavar="FILE", help="Its published archive, instead of --root.")
]
Checksum = Annotated[
    str | None,
    typer.Option(
        "--checksum",
        metavar="KIND:HEX",
        help="md5:… or sha256:… of the archive, instead of the published one.",
    ),
]
AllowPartial = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Go on although files are missing, unreadable or too many; every later result shows it.",
    ),
]
Rate = Annotated[int, typer.Option("--audio-rate", help="Hz; sound at other rates is resampled.")]
Codec = Annotated[str, typer.Option("--audio-codec", help="flac or wav, 16 bits.")]
PerShard = Annotated[int, typer.Option("--samples-per-shard", help="Files in a shard.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", help="Files at once [default: one a core].")]
Work = Annotated[
    str | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Folder for unfinished shards [default: in the dataset, or the cache for s3://].",
    ),
]
Ffmpeg = Annotated[
    str | None,
    typer.Option("--ffmpeg", metavar="PATH", help="Program to use instead of the bundled one."),
]
MinFree = Annotated[int, typer.Option("--min-free", help="Stop when less disk is left, in MiB.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="The summary alone.")]


@rebuild_app.command()
def esc50(
    out: Out,
    root: Root = None,
    archive: Archive = None,
    checksum: Checksum = None,
    allow_partial: AllowPartial = False,
    audio_rate: Rate = 44_100,
    audio_codec: Codec = "flac",
    samples_per_shard: PerShard = 512,
    jobs: Jobs = None,
    work: Work = None,
    ffmpeg: Ffmpeg = None,
    min_free: MinFree = 1024,
    quiet: Quiet = False,
) -> None:
    """ESC-50: 2,000 clips of five seconds, 50 classes, a split for each of its five folds.

    Examples:

        trichord rebuild esc50 --root ESC-50-master --out data/esc50

        trichord rebuild esc50 --archive ESC-50-master.zip --out data/esc50

        trichord rebuild esc50 --root esc10 --out data/esc10 --allow-partial

    Killed or stopped, the same command goes on; a finished shard is not built again.

    Exit code 0: all is built; 2: something given is wrong, or files are missing or too many; 3: files cannot
    be read; 5: no room; 130: interrupted.
    """
    _run("esc50", locals())


@rebuild_app.command()
def urbansound8k(
    out: Out,
    root: Root = None,
    archive: Archive = None,
    checksum: Checksum = None,
    allow_partial: AllowPartial = False,
    audio_rate: Rate = 44_100,
    audio_codec: Codec = "flac",
    samples_per_shard: PerShard = 512,
    jobs: Jobs = None,
    work: Work = None,
    ffmpeg: Ffmpeg = None,
    min_free: MinFree = 1024,
    quiet: Quiet = False,
) -> None:
    """UrbanSound8K: 8,732 slices of up to four seconds, 10 classes, a split for each of its ten folds.

    Channels and levels stay as they are in the files; every rate becomes --audio-rate.

    Examples:

        trichord rebuild urbansound8k --archive UrbanSound8K.tar.gz --out data/us8k

        trichord rebuild urbansound8k --root UrbanSound8K --out s3://bucket/us8k

    Killed or stopped, the same command goes on; a finished shard is not built again.

    Exit code 0: all is built; 2: something given is wrong, or files are missing or too many; 3: files cannot
    be read; 5: no room; 130: interrupted.
    """
    _run("urbansound8k", locals())


@rebuild_app.command()
def imagenet_val(
    out: Out,
    root: Root = None,
    archive: Archive = None,
    checksum: Checksum = None,
    ground_truth: Annotated[
        str | None,
        typer.Option(
            "--ground-truth",
            metavar="FILE",
            help="Classes of pictures in one folder: LOC_val_solution.csv, or lines FILE WNID.",
        ),
    ] = None,
    allow_partial: AllowPartial = False,
    samples_per_shard: PerShard = 2000,
    jobs: Jobs = None,
    work: Work = None,
    min_free: MinFree = 1024,
    quiet: Quiet = False,
) -> None:
    """ImageNet's validation set: 50,000 pictures of 1,000 classes, kept as they are, one split.

    Examples:

        trichord rebuild imagenet-val --root imagenet/val --out data/imagenet

        trichord rebuild imagenet-val --archive ILSVRC2012_img_val.tar --ground-truth LOC_val_solution.csv \
--out data/imagenet

    Killed or stopped, the same command goes on; a finished shard is not built again.

    Exit code 0: all is built; 2: something given is wrong, or files are missing or too many; 3: files cannot
    be read; 5: no room; 130: interrupted.
    """
    _run("imagenet-val", locals())


@rebuild_app.command()
def folder(
    out: Out,
    table: Annotated[
        str,
        typer.Option("--table", metavar="CSV", help="Columns file,label; fold and others if you like."),
    ],
    root: Root = None,
    archive: Archive = None,
    checksum: Checksum = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What its shards are called, a-z 0-9 [default: folder].")
    ] = None,
    allow_partial: AllowPartial = False,
    audio_rate: Rate = 44_100,
    audio_codec: Codec = "flac",
    samples_per_shard: PerShard = 512,
    jobs: Jobs = None,
    work: Work = None,
    ffmpeg: Ffmpeg = None,
    min_free: MinFree = 1024,
    quiet: Quiet = False,
) -> None:
    """Your own sounds or JPEGs, with a CSV: file (within the folder), label (several with | between), fold.

    Without fold everything is one split, `all`; a number n becomes `fold`n, a name stays. Other columns, such
    as caption, are kept with each sample.

    Examples:

        trichord rebuild folder --root sounds --table sounds/labels.csv --out data/mine

        trichord rebuild folder --root sounds --table labels.csv --name birds --out data/birds --allow-partial

    Killed or stopped, the same command goes on; a finished shard is not built again.

    Exit code 0: all is built; 2: something given is wrong, or files are missing or too many; 3: files cannot
    be read; 5: no room; 130: interrupted.
    """
    _run("folder", locals())


def _run(dataset: str, given: dict[str, object]) -> None:
    from flows.rebuild_run import run_rebuild

    run_rebuild(dataset, given)
