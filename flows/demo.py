"""The whole job on one machine, with no network: videos are made, served, ingested and learned from.

    python -m flows.demo [--folder demo] [--count 96] [--verbose]

Run again it goes on where it was, and does nothing twice.
"""

import argparse
import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

from flows.cli import Exit
from flows.demo_story import Stopwatch, Story
from flows.demo_training import LEAST_TO_LEARN, Lab, TrainingError, learn, to_look_at
from flows.ingest_run import GIVEN_WRONG
from flows.looking import write_sheet
from pipeline.build import Stopped
from pipeline.demo_behaviour import Behaviour, RateLimit
from pipeline.demo_media import EncodingError
from pipeline.demo_site import DemoSite
from pipeline.demo_videos import SPLITS, DemoDataset, some_troubles, write_demo_dataset
from pipeline.settings import SettingsError
from pipeline.spool import DiskFull
from shards.manifest import Connection, ManifestError
from shards.query import QueryError, open_manifest, run_query
from shards.query_formats import answer_table
from shards.status import Status, read_status
from shards.status_view import size
from shards.store import open_store
from shards.verify import verify

COUNT = 96
SHEET = 12  # samples
LEAST = 12  # one video for each class
BAD_HOUR = Behaviour(media_status=503)  # of one video, until everything else has been tried
QUERIES = {
    "How far has each split come?": (
        "select split, planned, ok, yield, permanent, retryable, blocked from coverage"
    ),
    "What failed, and why?": (
        "select outcome, segments, split_part(message, 'webpage: ', -1)[:48] as why from failures"
    ),
    "What is there of each class?": (
        "select name, sum(planned) as planned, sum(ok) as ok, round(60 * sum(hours), 1) as minutes "
        "from class_coverage group by name order by name"
    ),
}
ONE_OF_EACH_CLASS = "key in (select min(key) from segments group by classes[1], outcome)"


class DemoError(Exception):
    """Something did not come out as it should have; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the demo leaves what."""

    folder: Path

    @property
    def audioset(self) -> Path:
        """What AudioSet gives: segments, class tables, and here the videos too."""
        return self.folder / "audioset"

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def prefect(self) -> Path:
        return self.folder / "prefect"

    @property
    def sheet(self) -> Path:
        return self.folder / "sheet.html"


def main(arguments: list[str] | None = None) -> None:
    """The command; what can go wrong is one line."""
    given = _parser().parse_args(arguments)
    code, message = _told(Places(folder=given.folder), given.count, verbose=given.verbose)
    if message:
        print(f"demo: {message}", file=sys.stderr)
    _leave(code)


def _leave(code: Exit) -> NoReturn:
    """End as Python does, but for its last step: Prefect's threads outlive it, and DuckDB reports a leak."""
    atexit._run_exitfuncs()  # Prefect's server ends here
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _told(places: Places, count: int, *, verbose: bool) -> tuple[Exit, str]:
    """The demo's exit code, and what is to be said about it."""
    try:
        demo(places, count, Story(), verbose=verbose)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED, "interrupted; the same command goes on from here"
    except DiskFull as error:
        return Exit.NO_ROOM, str(error)
    except (*GIVEN_WRONG, PermissionError, FileExistsError, NotADirectoryError) as error:
        return Exit.USAGE, str(error)
    except (DemoError, EncodingError, ManifestError, QueryError, Stopped) as error:
        return Exit.BROKEN, str(error)
    except TrainingError as error:
        return Exit.FAILED, str(error)
    return Exit.OK, ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description="The whole job on one machine.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes")
    parser.add_argument("--count", type=int, default=COUNT, help=f"videos to make, {COUNT} if not given")
    parser.add_argument("--verbose", action="store_true", help="show what Prefect logs")
    return parser


def demo(places: Places, count: int, story: Story, *, verbose: bool = False) -> None:
    """Tell the whole story. Raises DemoError when it does not end well."""
    story.title("Trichord, from made-up videos to a model that was trained on them, on this machine alone")
    watch = Stopwatch()
    dataset = _render(places, count, story)
    troubles = some_troubles(dataset)
    with _site(dataset, troubles, story) as (site, recover):
        ingestion = Ingestion(places=places, dataset=dataset, url_template=site.url_template, story=story)
        _ingest(ingestion, site, recover, verbose=verbose)
    _verify(places, story)
    with contextlib.closing(open_manifest(open_store(places.dataset))) as manifest:
        _ask(manifest, places, story)
        _check(manifest, dataset, troubles)
    _look(places, story)
    lab = Lab(dataset=places.dataset, folder=places.folder, story=story)
    learned = _learn(lab, count)
    _farewell(places, dict(to_look_at(lab)) if learned else {}, story, watch)


# ------------------------------------------------------------------------------------------ before


def _render(places: Places, count: int, story: Story) -> DemoDataset:
    """The videos and the files about them, made now unless they are there."""
    _check_count(places, count)
    media, watch = DemoDataset(folder=places.audioset, videos=()).media, Stopwatch()
    there = _videos(media)
    story.chapter(f"Videos: {count} of them, with sound and picture of a dozen of AudioSet's classes")
    with story.progress(count, lambda: (_videos(media), "rendered")):
        dataset = write_demo_dataset(places.audioset, count=count, jobs=os.cpu_count() or 2)
    made = f"{count - there} rendered in {watch}" if there < count else "all there already"
    story.say(f"{made}: {media}, and AudioSet's own kinds of files beside it")
    return dataset


def _videos(media: Path) -> int:
    return sum(1 for _ in media.glob("*.mp4"))


def _check_count(places: Places, count: int) -> None:
    """Another count is another data set: it cannot go on in the same folder."""
    if count < LEAST:
        raise SettingsError(f"--count is {count}; expected at least {LEAST}, one video for each class")
    files = [DemoDataset(folder=places.audioset, videos=()).segments(split) for split in SPLITS]
    if all(file.exists() for file in files):
        lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
        there = sum(not line.startswith("#") for line in lines)
        if there != count:
            raise SettingsError(
                f"{places.folder} holds a demo of {there} videos, not {count}; "
                f"expected --count {there}, or another --folder"
            )


@contextlib.contextmanager
def _site(
    dataset: DemoDataset, troubles: Mapping[str, Behaviour], story: Story
) -> Iterator[tuple[DemoSite, Callable[[], None]]]:
    """The site with its troubles, and a way to end those that pass."""
    limit = RateLimit(requests=max(8, len(dataset.videos) // 4), seconds=6, retry_after_s=3)
    ill = next(video.segment.ytid for video in reversed(dataset.videos) if video.segment.ytid not in troubles)
    with DemoSite(dataset.media, behaviours={**troubles, ill: BAD_HOUR}, rate_limit=limit) as site:
        story.chapter(f"A video site at {site.url}, as unreliable as the real one")
        lost = sum(trouble.first is None for trouble in troubles.values())
        story.say(
            f"{lost} videos are gone or broken, {len(troubles) - lost} fail at first, one has a bad hour;"
        )
        story.say(f"whoever asks for more than {limit.requests} pages in {limit.seconds:.0f} s is refused")
        yield site, lambda: site.behave(ill, Behaviour())


# --------------------------------------------------------------------------------------- ingestion


def _ingest(ingestion: "Ingestion", site: DemoSite, recover: Callable[[], None], *, verbose: bool) -> None:
    """Every split that is not finished, by the flow; then once more what may come right."""
    story = ingestion.story
    story.chapter("Ingestion through yt-dlp by the Prefect flow ingest-audioset, a task for each shard")
    before = {split.split: split for split in ingestion.status().splits}
    first = [split for split in SPLITS if split not in before or before[split].untried]
    again = [split.split for split in before.values() if split.retryable or split.blocked]
    if not first and not again:
        return story.say("nothing to do: every segment has its outcome already")
    _start_prefect(ingestion.places.prefect, story, verbose=verbose)
    for split in first:
        ingestion.run(split)
    recover()
    for left in ingestion.status().splits:
        if left.retryable or left.blocked:
            ingestion.run(left.split, retry="retryable,blocked")
    refused = sum(served.status == HTTPStatus.TOO_MANY_REQUESTS for served in site.traffic.log())
    sent = f"{site.traffic.requests()} answers, {size(site.traffic.media_bytes())} of media"
    story.say(f"the site gave {sent}, and {refused} refusals for haste, which were waited out")


def _prepare_prefect(home: Path, *, verbose: bool) -> None:
    """A server of our own that lives as long as this process; to be done before Prefect is imported."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]  # somebody's own server has nothing to do with a demo
    os.environ |= {
        "PREFECT_HOME": str(home.absolute()),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "INFO" if verbose else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING" if verbose else "CRITICAL",
    }


def _start_prefect(home: Path, story: Story, *, verbose: bool) -> None:
    watch = Stopwatch()
    _prepare_prefect(home, verbose=verbose)
    try:
        from prefect.client.orchestration import get_client
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{error}; expected the flows' extras: pip install -e '.[ingest,flows]'"
        ) from None
    with story.progress(None, lambda: (0, "Prefect starts a server for this process")):
        get_client(sync_client=True).hello()
    story.say(f"Prefect's own server: up in {watch}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingestion:
    """Runs of the flow over the demo's site, followed by `status` as anybody can."""

    places: Places
    dataset: DemoDataset
    url_template: str
    story: Story

    def run(self, split: str, retry: str | None = None) -> None:
        """One run, told about."""
        watch = Stopwatch()
        planned = sum(video.segment.split == split for video in self.dataset.videos)
        with self.story.progress(planned, lambda: self._seen(split)):
            outcomes = self._flow(split, retry)
        words = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items(), key=_ok_first))
        again = ", what had failed for a while" if retry else ""
        self.story.say(f"{split}{again}: {_counted(sum(outcomes.values()))} in {watch}: {words}")

    def _flow(self, split: str, retry: str | None) -> dict[str, int]:
        from flows.ingest_audioset import ingest_audioset  # now that Prefect knows its home

        ended: dict[str, Any] = ingest_audioset(
            segments=str(self.dataset.segments(split).absolute()),
            out=str(self.places.dataset.absolute()),
            split=split,
            url_template=self.url_template,
            segments_per_shard=16,
            retry=retry,
            options={"cooldown_s": 2.0, "retry_base_s": 0.5, "min_free": 200 << 20},
        )
        return dict(ended["outcomes"])

    def status(self) -> Status:
        return read_status(open_store(self.places.dataset))

    def _seen(self, split: str) -> tuple[int, str]:
        """How many segments of a split are done, and what is waited for."""
        status = self.status()
        done = sum(each.attempted + each.in_work for each in status.splits if each.split == split)
        blocked = next((each.reason for each in status.identities if each.state != "closed"), None)
        waiting = f" · {blocked}: waiting" if blocked else ""
        return done, f"{split} · {status.rate.segments:.1f}/s{waiting}"


def _counted(segments: int) -> str:
    return f"{segments} segment{'' if segments == 1 else 's'}"


def _ok_first(item: tuple[str, int]) -> tuple[bool, int, str]:
    name, count = item
    return name != "ok", -count, name


# -------------------------------------------------------------------------------------------- after


def _verify(places: Places, story: Story) -> None:
    story.chapter("Verification: every byte read, every sound decoded")
    story.command(f"trichord verify {places.dataset} --deep")
    verified = verify(open_store(places.dataset), deep=True)
    if verified.findings:
        first = verified.findings[0]
        raise DemoError(f"verify found {len(verified.findings)} things; {first.where}: {first.what}")
    story.say(f"{verified.shards} shards, {verified.samples} samples, {size(verified.bytes)}: all is well")


def _ask(manifest: Connection, places: Places, story: Story) -> None:
    story.chapter("The manifest, in SQL")
    for question, sql in QUERIES.items():
        story.ask(question, f'trichord manifest {places.dataset} "{sql}"')
        story.show(answer_table(run_query(manifest, sql), width=story.width))


def _check(manifest: Connection, dataset: DemoDataset, troubles: Mapping[str, Behaviour]) -> None:
    """Every video gave a sample, apart from those whose trouble lasts."""
    rows = run_query(manifest, "select ytid, outcome from segments").rows()
    found = {str(ytid): str(outcome) for ytid, outcome in rows}
    lost = {ytid for ytid, trouble in troubles.items() if trouble.first is None}
    for video in dataset.videos:
        ytid = video.segment.ytid
        outcome = found.get(ytid, "not tried")
        if (outcome == "ok") is (ytid in lost):
            expected = "a failure" if ytid in lost else "ok"
            raise DemoError(f"{ytid} came to {outcome}; expected {expected}, as the site serves it")


def _look(places: Places, story: Story) -> None:
    story.chapter("A contact sheet: a sample of each class, to see and to hear")
    story.command(
        f'trichord sheet {places.dataset} --out {places.sheet} --limit {SHEET} --where "{ONE_OF_EACH_CLASS}"'
    )
    store, name = open_store(places.dataset), str(places.dataset)
    shown = write_sheet(store, places.sheet, name=name, where=ONE_OF_EACH_CLASS, limit=SHEET, seed=0)
    story.say(f"{places.sheet}: {shown} samples, {size(places.sheet.stat().st_size)}")


def _learn(lab: Lab, count: int) -> bool:
    """Whether there was enough to learn from."""
    if count < LEAST_TO_LEARN:
        lab.story.chapter("No training")
        lab.story.say(f"{count} videos are too few; with --count {LEAST_TO_LEARN} or more it follows here")
        return False
    learn(lab)
    return True


def _farewell(places: Places, learned: Mapping[str, str], story: Story, watch: Stopwatch) -> None:
    story.chapter(f"All is well, after {watch}. What to look at now")
    tar = min(places.dataset.glob("*.tar"))
    home = f"PREFECT_HOME={places.prefect.absolute()}"
    for command, meaning in {
        str(places.sheet): "frames, spectrograms, labels and players: open it in any browser",
        **learned,
        f"tar tf {tar} | head -15": "a shard is a plain tar: frames, sound, text and facts of each sample",
        f"trichord status {places.dataset}": "how far it is, what failed, who works; also while it runs",
        f"trichord manifest {places.dataset}": "what there is to ask",
        f"duckdb -readonly {places.dataset}/manifest.duckdb": "the same with anyone's tools",
        f"{home} prefect server start": "the flow's runs and artifacts, at http://127.0.0.1:4200",
        "trichord ingest --help": "the same road for AudioSet itself",
    }.items():
        story.suggest(command, meaning)


if __name__ == "__main__":
    main()
