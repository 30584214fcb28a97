"""A page that one file holds: its elements, its look, and the escaping of everything put into it."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shards.whole_file import appearing

_VOID = {"br", "hr", "img", "input", "meta"}

# Nothing is fetched and nothing runs, whatever a title from the internet tries: escaping is the first guard,
# this is the second.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f2; --card: #fff; --ink: #1d1f24; --soft: #667;
  --line: #dddbd5; --tone: #2b6cb0; --chip: #e3edf7; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1d2026; --ink: #e8e6e1; --soft: #99a;
    --line: #31353d; --tone: #86b7ea; --chip: #26384d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 2.2rem clamp(1rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
p.lead { color: var(--soft); max-width: 75ch; margin: 0 0 1.6rem; }
a { color: var(--tone); }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .86em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1.6rem; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .8rem; }
.grid { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem; min-width: 0; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; }
.chip { background: var(--chip); border-radius: 99px; padding: .1rem .65rem;
  font-weight: 600; font-size: .86rem; }
.soft { color: var(--soft); }
dl.facts { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: .5rem 0 0;
  font-size: .84rem; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that may stand as it is, because `tag` made it."""

    text: str


Content = Markup | str | int | float | None


def escape(text: object) -> str:
    """Text as HTML, also inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes themselves as a URL, for `src`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def tag(element: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """An element. Content is escaped unless it is Markup; None leaves nothing.

    An attribute's trailing underscore is dropped (`class_`), others become dashes; True is a bare attribute,
    False and None are left out.
    """
    opened = f"<{element}{''.join(map(_attribute, attributes.items()))}>"
    return Markup(opened if element in _VOID else f"{opened}{join(content).text}</{element}>")


def _attribute(pair: tuple[str, str | int | float | bool | None]) -> str:
    name, value = pair[0].rstrip("_").replace("_", "-"), pair[1]
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'


def join(content: Iterable[Content]) -> Markup:
    """Pieces one after another, escaped unless they are Markup."""
    pieces = (
        piece.text if isinstance(piece, Markup) else escape(piece) for piece in content if piece is not None
    )
    return Markup("".join(pieces))


def link(text: str, url: str) -> Markup:
    """A link to a web address; anything else, such as `javascript:`, stays text."""
    if urlsplit(url).scheme not in ("http", "https"):
        return tag("span", text)
    return tag("a", text, href=url, rel="noreferrer noopener")


def table(header: Sequence[str], rows: Iterable[Sequence[Content]]) -> Markup:
    head = tag("tr", *(tag("th", name, scope="col") for name in header))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("table", tag("thead", head), tag("tbody", *body))


def facts(values: Mapping[str, object]) -> Markup:
    """Names and values below each other; values that are None are left out."""
    pairs = (
        (tag("dt", name), tag("dd", _cell(value))) for name, value in values.items() if value is not None
    )
    return tag("dl", *(part for pair in pairs for part in pair), class_="facts")


def _cell(value: object) -> Content:
    return value if isinstance(value, Markup) else str(value)


def write_page(target: Path, *content: Content, title: str, lead: str = "", style: str = "") -> None:
    """One HTML file that needs no other. `style` is CSS of the page's own, after STYLE."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        Markup(f"<style>{STYLE}{style}</style>"),
    )
    body = tag(
        "body", tag("main", tag("h1", title), tag("p", lead, class_="lead") if lead else None, *content)
    )
    text = f"<!doctype html>\n{tag('html', head, body, lang='en').text}\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with appearing(target) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))  # a lone surrogate in a title is no failure
