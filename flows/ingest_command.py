"""`trichord ingest`: its options, its live line, its summary."""

from typing import Annotated

import typer

_ROWS = "Which rows"
_SAMPLES = "What becomes of them"
_MEDIA = "Where the media are"
_ASKING = "How a site is asked"
_RUNNING = "Running"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> object:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def ingest(
    segments: Annotated[
        str,
        _option(
            "--segments", help="AudioSet's CSV, or a variant of it; .gz too.", panel=_ROWS, metavar="CSV"
        ),
    ],
    out: Annotated[
        str,
        _option(
            "--out", help="The dataset: a folder, or s3://bucket/prefix.", panel=_ROWS, metavar="DATASET"
        ),
    ],
    split: Annotated[
        str | None, _option("--split", help="Name of the split [default: by the file's name].", panel=_ROWS)
    ] = None,
    labels: Annotated[
        str | None,
        _option(
            "--labels", help='Classes by name or mid with their descendants: "Dog,/m/03kmc9".', panel=_ROWS
        ),
    ] = None,
    exclude_labels: Annotated[
        str | None, _option("--exclude-labels", help="Leave these classes out.", panel=_ROWS)
    ] = None,
    exact: Annotated[
        bool, _option("--exact", help="The classes named alone, without descendants.", panel=_ROWS)
    ] = False,
    sample: Annotated[int | None, _option("--sample", help="So many rows by lot.", panel=_ROWS)] = None,
    seed: Annotated[int, _option("--seed", help="Of the lot.", panel=_ROWS)] = 0,
    limit: Annotated[int | None, _option("--limit", help="The first so many rows.", panel=_ROWS)] = None,
    retry: Annotated[
        str | None,
        _option(
            "--retry",
            help="Only what failed so: retryable, blocked, or outcomes such as short,geo_blocked.",
            panel=_ROWS,
        ),
    ] = None,
    skip_bad_rows: Annotated[
        bool, _option("--skip-bad-rows", help="Record malformed rows and go on.", panel=_ROWS)
    ] = False,
    class_labels: Annotated[
        str | None,
        _option(
            "--class-labels",
            help="class_labels_indices.csv [default: beside the CSV].",
            panel=_ROWS,
            metavar="CSV",
        ),
    ] = None,
    ontology: Annotated[
        str | None,
        _option("--ontology", help="ontology.json [default: beside the CSV].", panel=_ROWS, metavar="JSON"),
    ] = None,
    frames: Annotated[
        int, _option("--frames", help="JPEGs per segment; 0: sound alone.", panel=_SAMPLES)
    ] = 10,
    short_side: Annotated[
        int, _option("--short-side", help="Pixels of a frame's shorter side.", panel=_SAMPLES)
    ] = 256,
    jpeg_quality: Annotated[int, _option("--jpeg-quality", help="2 (best) to 31.", panel=_SAMPLES)] = 3,
    audio_rate: Annotated[
        int, _option("--audio-rate", help="Hz; LAION-CLAP wants 48000.", panel=_SAMPLES)
    ] = 44_100,
    channels: Annotated[int, _option("--channels", help="1 or 2.", panel=_SAMPLES)] = 1,
    audio_codec: Annotated[
        str, _option("--audio-codec", help="flac or wav, 16 bits.", panel=_SAMPLES)
    ] = "flac",
    keep_short: Annotated[
        float,
        _option(
            "--keep-short",
            help="Keep and flag samples with at least this share of the window.",
            panel=_SAMPLES,
        ),
    ] = 0.0,
    segments_per_shard: Annotated[
        int, _option("--segments-per-shard", help="Rows in a shard.", panel=_SAMPLES)
    ] = 512,
    media: Annotated[
        str | None,
        _option(
            "--media", help="Take media from this folder instead of a site.", panel=_MEDIA, metavar="FOLDER"
        ),
    ] = None,
    media_pattern: Annotated[
        str,
        _option(
            "--media-pattern",
            help="Their names: fields {ytid}, {key}, {start_ms}, …; .* for any extension.",
            panel=_MEDIA,
        ),
    ] = "Y{ytid}.*",
    media_kind: Annotated[
        str,
        _option(
            "--media-kind",
            help="windows (cut already), videos (whole), or auto: by their durations.",
            panel=_MEDIA,
        ),
    ] = "auto",
    url_template: Annotated[
        str | None,
        _option("--url-template", help="Address of a video, {ytid} in it [default: YouTube].", panel=_MEDIA),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        _option(
            "--proxy",
            help="http://, https:// or socks5:// address; several make several identities.",
            panel=_ASKING,
            metavar="URL",
        ),
    ] = None,
    cookies: Annotated[
        list[str] | None,
        _option(
            "--cookies",
            help="Netscape cookie file; several make several identities.",
            panel=_ASKING,
            metavar="FILE",
        ),
    ] = None,
    rate: Annotated[
        str,
        _option(
            "--rate",
            help="Videos per hour and identity: guest (300), account (2000), none, a number, or auto.",
            panel=_ASKING,
        ),
    ] = "auto",
    on_blocked: Annotated[
        str,
        _option("--on-blocked", help="wait: cool down, probe, go on; stop: end with code 4.", panel=_ASKING),
    ] = "wait",
    cooldown: Annotated[
        float | None,
        _option(
            "--cooldown", help="Seconds of a first cool-down [default: by the kind of block].", panel=_ASKING
        ),
    ] = None,
    canary: Annotated[
        list[str] | None,
        _option("--canary", help="Id or address of a video known to be alive.", panel=_ASKING, metavar="ID"),
    ] = None,
    share_guard: Annotated[
        bool,
        _option(
            "--share-guard/--no-share-guard", help="Pause when suddenly most videos seem dead.", panel=_ASKING
        ),
    ] = True,
    player_client: Annotated[
        list[str] | None, _option("--player-client", help="YouTube client, in yt-dlp's names.", panel=_ASKING)
    ] = None,
    extractor_args: Annotated[
        list[str] | None,
        _option("--extractor-args", help="As yt-dlp's: youtube:po_token=web.gvs+…", panel=_ASKING),
    ] = None,
    js_runtime: Annotated[
        list[str] | None,
        _option("--js-runtime", help="NAME or NAME:PATH of a JavaScript runtime.", panel=_ASKING),
    ] = None,
    impersonate: Annotated[
        str | None, _option("--impersonate", help="Browser to look like; needs curl_cffi.", panel=_ASKING)
    ] = None,
    source_address: Annotated[
        str | None,
        _option("--source-address", help="Local address to bind to; 0.0.0.0 forces IPv4.", panel=_ASKING),
    ] = None,
    socket_timeout: Annotated[
        float, _option("--socket-timeout", help="Seconds without a byte.", panel=_ASKING)
    ] = 20.0,
    jobs: Annotated[
        int | None,
        _option(
            "--jobs", "-j", help="Segments at once [default: 4 a core, 1 a core for --media].", panel=_RUNNING
        ),
    ] = None,
    retries: Annotated[
        int, _option("--retries", help="Tries of a segment within a run.", panel=_RUNNING)
    ] = 3,
    retry_base: Annotated[
        float,
        _option("--retry-base", help="Seconds before the second try; doubled after each.", panel=_RUNNING),
    ] = 2.0,
    segment_timeout: Annotated[
        float, _option("--segment-timeout", help="Seconds that cutting one segment may take.", panel=_RUNNING)
    ] = 180.0,
    work: Annotated[
        str | None,
        _option(
            "--work",
            help="Folder for unfinished shards [default: in the dataset, or the cache for s3://].",
            panel=_RUNNING,
            metavar="FOLDER",
        ),
    ] = None,
    min_free: Annotated[
        int, _option("--min-free", help="Stop when less disk is left, in MiB.", panel=_RUNNING)
    ] = 1024,
    ffmpeg: Annotated[
        str | None,
        _option(
            "--ffmpeg", help="Program to use instead of the bundled one.", panel=_RUNNING, metavar="PATH"
        ),
    ] = None,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Say what would be done, and do nothing.", panel=_RUNNING)
    ] = False,
    notify: Annotated[
        str | None,
        _option(
            "--notify",
            help="POST a line of JSON here when blocked, stalled, finished.",
            panel=_RUNNING,
            metavar="URL",
        ),
    ] = None,
    quiet: Annotated[bool, _option("--quiet", "-q", help="The summary alone.", panel=_RUNNING)] = False,
) -> None:
    """Download, cut and pack segments into shards; killed or stopped, the same command goes on.

    Examples:

        trichord ingest --segments eval_segments.csv --out data/audioset --split eval --limit 100

        trichord ingest --segments eval_segments.csv --out data/audioset --labels "Dog,/m/03kmc9" --dry-run

        trichord ingest --segments eval_segments.csv --out data/audioset --media videos

        trichord ingest --segments eval_segments.csv --out data/audioset --retry retryable

    Exit code 0: nothing is left to retry; 2: something given is wrong; 3: some segments failed and may be
    retried; 4: blocked; 5: no room; 130: interrupted.
    """
    given = dict(locals())
    from flows.ingest_run import run_ingest

    run_ingest(given)
