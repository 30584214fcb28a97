"""`trichord report` on a model and shards whose class names are hostile, and its page in a real browser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from evaluating import toy_model
from reported_run import reported_run
from shard_folders import shard_folder
from toy_training import FULL
from typer.testing import CliRunner, Result

from flows.report_command import report
from shards.labels import ClassLabel

pytestmark = pytest.mark.usefixtures("one_thread")
EVIL = "evil.example"
HOSTILE = (
    f"\"><script>fetch('http://{EVIL}/a')</script>",
    f"'><img src=http://{EVIL}/b onerror=alert(1)>",
    f"</style></title><audio src=http://{EVIL}/c autoplay>",
)
CLASSES = tuple(
    ClassLabel(index=place, mid=f"/m/{place}", name=f"Dog {place} {hostile}")
    for place, hostile in enumerate(HOSTILE)
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

cli = typer.Typer()
cli.command()(report)


def reported(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy_model(folder)
    return reported_run(folder, replace(FULL, name=HOSTILE[0], about=HOSTILE[1]), device=HOSTILE[2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for fold in ("fold1", "fold2"):
        shard_folder(folder, (6,), split=fold, seconds=0.5, classes=CLASSES)
    return folder


@pytest.fixture(scope="module")
def page(run: Path, data: Path) -> Path:
    made = reported(run, "--data", data, "--device", "cpu", "--batch-size", 4)
    assert made.exit_code == 0, made.output
    assert made.output.startswith(f"{run}/report.html: ")
    return run / "report.html"


class Elements(HTMLParser):
    """Elements with their attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def check_elements(page: Elements) -> None:
    """Players and pictures are there; nothing runs, nothing is fetched."""
    assert len(page.of("audio")) > 8
    assert all((each["src"] or "").startswith("data:audio/flac;base64,ZkxhQ") for each in page.of("audio"))
    assert len(page.of("svg")) > 10
    pictures = [each["src"] or "" for each in page.of("img")]
    assert {source.partition(",")[0] for source in pictures} == {
        "data:image/jpeg;base64",
        "data:image/png;base64",
    }
    assert not page.of("script")
    names = {name for _, attributes in page.found for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    links = [each["href"] or "" for each in page.of("a")]
    assert all(link.startswith("#") for link in links)
    for hostile in HOSTILE:
        assert hostile in page.text


def test_the_page_holds_players_and_pictures_and_escapes_the_rest(page: Path) -> None:
    check_elements(Elements(page.read_text(encoding="utf-8")))


def test_the_page_shows_what_the_data_say(page: Path) -> None:
    text = Elements(page.read_text(encoding="utf-8")).text
    assert "12 items of audioset (fold1, fold2), 2 missing" in text
    assert "text → sound" in text
    assert "sound → picture" in text
    assert "By average precision" in text  # every fourth sample has two classes


def test_one_fold_and_a_condition_choose_the_samples(run: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "fold.html"
    made = reported(
        *(run, "--data", data, "--split", "fold1", "--where", "list_contains(mids, '/m/0')"),
        *("--device", "cpu", "--out", target),
    )
    assert made.exit_code == 0, made.output
    text = Elements(target.read_text(encoding="utf-8")).text
    found = re.search(r"(\d) items of audioset \(fold1\)", text)
    assert found is not None
    assert int(found.group(1)) < 6


def test_a_page_made_again_reads_the_embeddings_and_is_the_same(
    run: Path, data: Path, page: Path, tmp_path: Path
) -> None:
    target = tmp_path / "again.html"
    made = reported(run, "--data", data, "--device", "cpu", "--out", target)
    assert made.exit_code == 0, made.output
    assert "embeddings of 12 samples read from" in made.output
    assert target.read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere holds no run.json; expected a folder"),
        (["{run}", "--split", "fold1"], "expected --data SHARDS with them"),
        (["{run}", "--data", "nowhere"], "nowhere"),
        (["{run}", "--data", "{data}", "--split", "fold9"], "fold9"),
        (["{run}", "--data", "{data}", "--where", "loud"], "no column loud"),
    ],
)
def test_what_was_typed_wrongly_is_one_line(run: Path, data: Path, words: Sequence[str], said: str) -> None:
    made = reported(*(word.format(run=run, data=data) for word in words))
    assert made.exit_code == 2
    assert said in made.output
    assert len(made.output.splitlines()) == 1


def test_help_needs_no_torch() -> None:
    program = "import sys, flows.report_command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# -- in a browser


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page."""

    dom: str
    complaints: list[str]  # on its console
    requests: list[str]  # URLs that it asked a network for


def visit(page: Path, scratch: Path) -> Visit:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    netlog = scratch / "netlog.json"
    done = subprocess.run(
        [
            *(
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={scratch / 'profile'}",
            ),
            *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--log-net-log={netlog}"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    events = netlog.read_text(encoding="utf-8", errors="replace")
    return Visit(
        dom=done.stdout,
        complaints=re.findall(r"CONSOLE.*", done.stderr),
        requests=re.findall(r'"url":"(https?://[^"]+)"', events),
    )


@pytest.mark.browser
def test_a_browser_shows_the_page_without_complaints_or_requests(page: Path, tmp_path: Path) -> None:
    seen = visit(page, tmp_path)
    assert seen.complaints == []
    assert [url for url in seen.requests if EVIL in url] == []
    check_elements(Elements(seen.dom))


@pytest.mark.browser
def test_the_browser_would_tell(tmp_path: Path) -> None:
    """The test before this one can fail: a page that fetches, runs and complains is found out."""
    page = tmp_path / "bad.html"
    page.write_text(f"<img src=http://{EVIL}/b><script>console.error('ran')</script>")
    seen = visit(page, tmp_path)
    assert any("ran" in line for line in seen.complaints)
    assert any(EVIL in url for url in seen.requests)
