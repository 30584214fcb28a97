"""Pages escape what they are given, need nothing else, and weigh nothing to import."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shards.page import Markup, data_uri, escape, facts, join, link, table, tag, write_page

HOSTILE = "\"><script>alert('ä')</script><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """The elements and the text that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "markup",
    [
        tag("p", HOSTILE),
        tag("p", "", title=HOSTILE),
        join([HOSTILE]),
        table([HOSTILE], [[HOSTILE]]),
        facts({HOSTILE: HOSTILE}),
        link(HOSTILE, "https://example.org/?q=" + HOSTILE),
    ],
)
def test_text_never_becomes_an_element(markup: Markup) -> None:
    seen = Elements(markup.text)
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert HOSTILE in seen.text or any(HOSTILE in (value or "") for _, value in seen.attributes)


def test_markup_is_put_in_as_it_stands() -> None:
    assert tag("p", tag("b", "a<b"), "c&d").text == "<p><b>a&lt;b</b>c&amp;d</p>"


def test_attributes_take_their_names_from_keywords() -> None:
    made = tag("input", class_="one two", http_equiv="x", name="n", disabled=True, hidden=False, id=None)
    assert made.text == '<input class="one two" http-equiv="x" name="n" disabled>'


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "JAVASCRIPT:alert(1)", "/etc"])
def test_only_web_addresses_become_links(url: str) -> None:
    assert "href" not in link("name", url).text


def test_facts_without_a_value_are_left_out() -> None:
    assert facts({"a": 0, "b": None}).text == '<dl class="facts"><dt>a</dt><dd>0</dd></dl>'


def test_a_data_uri_holds_the_bytes() -> None:
    assert data_uri(b"\x00\xff", "image/png") == "data:image/png;base64,AP8="


def test_escape_covers_both_quotes() -> None:
    assert escape("<'\"&>") == "&lt;&#x27;&quot;&amp;&gt;"


def test_a_page_is_written_whole_and_forbids_everything_foreign(tmp_path: Path) -> None:
    target = tmp_path / "new" / "page.html"
    write_page(target, tag("p", "body"), title=HOSTILE, lead="a lead", style="p { color: red; }")
    seen = Elements(target.read_text(encoding="utf-8"))
    assert seen.tags[:2] == ["html", "head"]
    assert HOSTILE in seen.text
    assert any((value or "").startswith("default-src 'none'") for _, value in seen.attributes)
    assert not any(name in ("src", "href") for name, _ in seen.attributes)
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_a_title_that_is_no_unicode_does_not_stop_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", title="broken \ud83d pair")
    assert "broken ? pair" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_pages_need_only_the_standard_library() -> None:
    program = "import sys, shards.page; print('numpy' in sys.modules, 'duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
