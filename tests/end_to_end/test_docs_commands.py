"""The documentation is true: its commands run, options exist, its tables are the code's, links lead on."""

import contextlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
from ingestions import ROOT

from flows import cli
from flows.ingest_command import ingest
from pipeline.breaker import COOLDOWN_S
from pipeline.demo_behaviour import Behaviour
from pipeline.demo_site import DemoSite
from pipeline.demo_videos import DemoDataset, write_demo_dataset
from shards.outcome import Outcome

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUN = [ROOT / "README.md", ROOT / "docs" / "tour.md", ROOT / "docs" / "operations.md"]
RUN_ELSEWHERE = [ROOT / "docs" / "models.md"]  # by tests/flows/test_docs_models.py
RUNNABLE = ("sh", "python", "sql")
BIN = Path(sys.executable).parent

_FENCE = re.compile(r"```(?P<language>\S*)\s*")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`(?P<code>[^`\n]+)`")
_PATH = re.compile(r"(?:shards|pipeline|trainer|flows|tests|docs)/[\w./]+\.(?:py|sql|md)")

# As installed, but videos come from this test's site: the only difference to what a reader types.
SHIM = """#!/usr/bin/env bash
if [[ $1 == ingest && " $* " != *" --media "* ]]; then
    set -- "$@" --url-template "$SITE"
fi
exec "{python}" -m flows.cli "$@"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None  # the reason, where a comment before the block gives one

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block, with the reason that stands on the last line with text before it."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    before = ""
    for number, line in lines:
        if fence := _FENCE.fullmatch(line):
            inside = []
            for _, content in lines:
                if content == "```":
                    break
                inside.append(content)
            reason = _NOT_RUN.fullmatch(before)
            yield Block(page, number, fence["language"], "\n".join(inside), reason and reason["reason"])
            before = ""
        elif line:
            before = line


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command of a shell block, comments and pipes taken away."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL_BLOCKS if block.language == "sh"]
TRICHORD = [
    pytest.param(words[1:], id=f"{block.where} {' '.join(words)}"[:100])
    for block in SHELL
    for words in commands(block)
    if words[0] == "trichord"
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    """Twelve videos; the tour draws the same ones."""
    return write_demo_dataset(tmp_path_factory.mktemp("docs") / "tour", count=12)


@pytest.fixture
def site(demo: DemoDataset) -> Iterator[DemoSite]:
    with DemoSite(demo.media) as site:
        site.behave(demo.videos[0].segment.ytid, Behaviour(reason="Private video", page_status=403))
        yield site


@pytest.fixture
def folder(demo: DemoDataset, tmp_path: Path) -> Path:
    """What the pages take for granted: AudioSet's files here, media in `videos`, the tour's in `tour`."""
    for file in demo.folder.rglob("*.*"):
        name = file.relative_to(demo.folder)
        for target in (tmp_path / name, tmp_path / "tour" / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
    return tmp_path


@pytest.fixture
def environment(folder: Path, site: DemoSite) -> dict[str, str]:
    shim = folder / "bin" / "trichord"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    path = os.pathsep.join([str(shim.parent), str(BIN), os.environ["PATH"]])
    # one thread, on which small models are faster than on several that wait for one another
    return {**os.environ, "PATH": path, "SITE": site.url_template, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Step:
    """Something of a page to be done: a shell block, a query, or all its prompts as one session."""

    where: str
    command: tuple[str, ...]


def steps(page: Path, folder: Path) -> Iterator[Step]:
    """In the page's order; prompts are one session, at the place of the first."""
    prompts = [block for block in blocks(page) if block.language == "python" and not block.not_run]
    for block in blocks(page):
        if block.not_run or block.language not in RUNNABLE:
            continue
        if block.language == "sh":
            yield Step(block.where, ("bash", "-euo", "pipefail", "-c", block.text))
        elif block.language == "sql":
            yield Step(block.where, ("trichord", "manifest", "data/audioset", block.text))
        elif block == prompts[0]:
            session = folder / "session.txt"
            session.write_text("\n\n".join(each.text for each in prompts))
            yield Step(block.where, (sys.executable, "-m", "doctest", "-f", str(session)))


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_a_page_shows_runs_in_its_order_and_answers_so(
    page: Path, folder: Path, environment: dict[str, str]
) -> None:
    done_before = 0
    for step in steps(page, folder):
        done = subprocess.run(
            step.command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{step.where}\n{done.stdout}{done.stderr}"
        done_before += 1
    assert done_before, f"{page} shows nothing that could be run"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.where)
def test_every_shell_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.page in [*RUN, *RUN_ELSEWHERE] or block.not_run, (
        f"{block.where}: put <!-- not run: the reason --> before it"
    )
    assert len(block.not_run or "long enough") > 10, f"{block.where}: {block.not_run!r} is no reason"
    subprocess.run(["bash", "-n", "-c", block.text], check=True)


def test_every_reason_stands_before_a_block() -> None:
    for page in PAGES:
        reasons = sum(_NOT_RUN.fullmatch(line) is not None for line in prose(page).splitlines())
        assert reasons == sum(block.not_run is not None for block in blocks(page)), page


@pytest.fixture(scope="module")
def group() -> typer.core.TyperGroup:
    """The command as `flows.cli.main` puts it together."""
    cli.app.command("ingest")(ingest)
    cli._mount()
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


@pytest.mark.parametrize("words", TRICHORD)
def test_every_trichord_command_shown_exists_with_its_options(
    words: list[str], group: typer.core.TyperGroup
) -> None:
    if words == ["--help"]:
        return
    command: Any = group
    while isinstance(command, typer.core.TyperGroup):
        name, *words = words
        assert name in command.commands, f"there is no {name}"
        command = command.commands[name]
    with contextlib.suppress(typer.Exit):  # --help
        command.make_context(name, words)  # raises for an option or a value that is none


def options(command: Any) -> set[str]:
    """All names of options of a command, or of a group's commands."""
    if isinstance(command, typer.core.TyperGroup):
        return set().union(*map(options, command.commands.values()))
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


def test_every_option_named_in_the_text_exists(group: typer.core.TyperGroup) -> None:
    known = options(group)
    for page in PAGES:
        named = {code.split()[0] for code in _CODE.findall(prose(page)) if code.startswith("--")}
        assert named <= known, f"{page.name} names {sorted(named - known)}"


def test_every_python_program_shown_exists() -> None:
    shown = {tuple(words[:3]) for block in SHELL for words in commands(block) if words[0] == "python"}
    files = {words[1] if words[1] != "-m" else words[2].replace(".", "/") + ".py" for words in shown}
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    shown = {words[1] for block in SHELL for words in commands(block) if words[0] == "make"}
    assert {"demo", "test", "install"} <= shown
    assert shown <= targets


def test_every_link_leads_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in _LINK.findall(prose(page))]
    astray = [f"{page.name}: {target}" for page, target in links if not leads_somewhere(page, target)]
    assert links
    assert not astray


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link's file is there, and its heading in it; addresses of the web are taken for granted."""
    if urlsplit(target).scheme:
        return True
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_named_in_the_text_exists() -> None:
    for page in PAGES:
        for code in _CODE.findall(prose(page)):
            if _PATH.fullmatch(code):
                assert (ROOT / code).is_file(), f"{page.name} names {code}"


def rows(page: Path, *head: str) -> list[list[str]]:
    """The cells of the table with these columns, without its head."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = lines.index(f"| {' | '.join(head)} |")
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[at + 2 :])
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_outcomes_is_the_code_s() -> None:
    table = rows(ROOT / "docs/operations.md", "outcome", "disposition", "meaning", "what to do")
    assert [(cells[0], cells[1]) for cells in table] == [(str(o), str(o.disposition)) for o in Outcome]


def test_the_table_of_rests_is_the_code_s() -> None:
    table = rows(ROOT / "docs/operations.md", "outcome", "opens after", "first rest")
    rests = {str(outcome): f"{seconds / 60:.0f} min" for outcome, seconds in COOLDOWN_S.items()}
    assert {cells[0]: cells[2] for cells in table} == rests


def test_the_table_of_exit_codes_is_the_code_s() -> None:
    table = rows(ROOT / "README.md", "code", "meaning", "next")
    assert [int(cells[0]) for cells in table] == [int(code) for code in cli.Exit]
