"""A run as one page to look at: how it learned, where it stands, what it confuses, what it finds."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.page import Content, Markup, facts, table, tag, write_page
from trainer.batch import MODALITIES
from trainer.measure import definition
from trainer.published_results import PublishedResult, published_results
from trainer.report_charts import STYLE as CHARTS
from trainer.report_charts import brief
from trainer.report_examples import STYLE as EXAMPLES
from trainer.report_examples import Shown, best_and_worst, confusions, gallery, right_and_wrong
from trainer.report_learning import learning_section
from trainer.report_papers import Measured, Row, comparisons, papers_section, told, with_interval
from trainer.results import latest, read_results
from trainer.run_folder import RunFolder
from trainer.run_view import RunView, find_runs, read_run

PAGE = "report.html"

_STYLE = (
    CHARTS
    + EXAMPLES
    + """
h2 { border-top: 1px solid var(--line); padding-top: 1.4rem; margin-top: 2.6rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .6rem; }
h2 + p, h3 + p { margin-top: 0; }
p { max-width: 80ch; }
.toy { background: var(--chip); border-radius: 8px; padding: .6rem 1rem; max-width: none; }
.columns { display: grid; gap: 0 3rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.columns > * { min-width: 0; }
.wide { overflow-x: auto; }
td code { overflow-wrap: anywhere; }
td { max-width: 34rem; }
td b { white-space: nowrap; }
.columns dl.facts { align-content: start; margin-bottom: 1.4rem; }
.bar { display: inline-block; vertical-align: middle; }
details { margin: 0 0 .6rem; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
details > .wide { margin: .5rem 0 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 0 0 1.2rem; }
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """All that a run's folder tells."""

    view: RunView
    facts: Mapping[str, Any]  # run.json
    status: Mapping[str, Any]
    rows: tuple[Row, ...]  # results, the newest of each; `beside` is what else is to be said of one

    @property
    def values(self) -> Mapping[str, Any]:
        """The stage's, by path."""
        return dict(self.facts["stage"]["values"])

    @property
    def toy(self) -> bool:
        return self.values.get("model.size") == "toy"

    @property
    def classifies(self) -> bool:
        """Whether the model names classes and embeds nothing."""
        return bool(self.values.get("model.classes"))

    def hears(self) -> dict[str, Any]:
        """How the stage prepares sound, by the names of an evaluation's options."""
        values = self.values
        return {
            "channels": int(values.get("data.channels", 1)),
            "stretch_amplitude": bool(values.get("augment.stretch_amplitude", False)),
        }

    @property
    def steps_per_epoch(self) -> float:
        """0 where nobody knows yet."""
        return self.view.steps / max(float(self.values.get("epochs") or 1), 1e-9)


def read_record(path: Path, others: Sequence[Path] = ()) -> RunRecord:
    """A run's folder; `others` hold results of models that came from it, such as a cross-validation's.

    Raises ValueError for a folder that is no run's, ResultsError for results that cannot be read.
    """
    folder = RunFolder(path)
    if not folder.facts.is_file():
        raise ValueError(_no_run(path))
    view = read_run(path)
    status = json.loads(folder.status.read_text()) if folder.status.is_file() else {}
    return RunRecord(
        view=view,
        facts=json.loads(folder.facts.read_text()),
        status=status,
        rows=(*_own_rows(path), *(row for other in others for row in _other_rows(other))),
    )


def _no_run(path: Path) -> str:
    below = find_runs(path) if path.is_dir() else []
    hint = f"; there is one in {below[0]}" if below else ""
    return f"{path} holds no run.json; expected a folder that `trichord train --out` made{hint}"


def _own_rows(path: Path) -> Iterator[Row]:
    """Of each number the newest, whichever weights the run had; older weights than the last are named."""
    rows = read_results(path)
    newest = {tuple(row[name] for name in _SAME): row for row in rows}
    for row in newest.values():
        old = row["checkpoint"] != rows[-1]["checkpoint"]
        yield {**row, "beside": f"of earlier weights, {row['checkpoint'][:8]}" if old else ""}


_SAME = ("metric", "fold", "class_name", "setting", "dataset_sha256", "key_list_sha256", "seconds")


def _other_rows(path: Path) -> Iterator[Row]:
    rows = latest(read_results(path))
    if not rows:
        raise ValueError(f"{path} holds no results.jsonl; expected what `evaluate` or `crossval` left there")
    for row in rows:
        yield {**row, "beside": " ".join(filter(None, (row["recipe"], f"in {path}")))}


def write_report(
    target: Path,
    record: RunRecord,
    shown: Shown | None = None,
    *,
    published: Iterable[PublishedResult] | None = None,
) -> None:
    """One HTML file that needs no other. Without `shown` the sections that need data say so."""
    printed = published_results() if published is None else published
    run = str(record.view.path)
    sections = {
        "Learning curves": learning_section(record.view.curves, record.steps_per_epoch),
        "Against the papers": _papers(record, printed, run),
        "All results": _results(record),
        "Confusions": confusions(shown, run),
        "Best and worst classes": best_and_worst(shown, record.rows, run),
        "Right and wrong": right_and_wrong(shown, run),
        "What finds what": gallery(shown, run),
        "Recipe": _recipe(record),
    }
    write_page(
        target,
        *_header(record),
        tag("nav", *(tag("a", name, href=f"#{_anchor(name)}") for name in sections)),
        *(tag("section", tag("h2", name), *content, id=_anchor(name)) for name, content in sections.items()),
        title=f"{record.view.path.resolve().name}: {record.view.recipe}",
        lead=str(record.facts["stage"].get("about", "")),
        style=_STYLE,
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


# -------------------------------------------------------------------------------------------- header


def _header(record: RunRecord) -> Iterator[Content]:
    if record.toy:
        yield tag(
            "p",
            tag("b", "A toy run."),
            " Its towers are tiny, made to try things with: no number here says anything about the method.",
            class_="toy",
        )
    yield tag("div", facts(_what(record)), facts(_made_with(record)), class_="columns")


def _what(record: RunRecord) -> dict[str, object]:
    view, status, data = record.view, record.status, record.facts.get("data", {})
    ended = status.get("at") if view.state not in ("running", "silent") else None
    best = None if view.best is None else f"{view.best[0]} {brief(view.best[1])}"
    step = status.get("best_step")
    return {
        "recipe": record.facts.get("recipe") or view.recipe,
        "changed": " ".join(view.changes) or None,
        "state": f"{view.state}, {view.step:,} of {view.steps:,} steps",
        "started": record.facts.get("started", "not recorded"),
        "ended": ended,
        "last heard of": None if ended else status.get("at"),
        "best": best if step is None else f"{best} after step {step:,}",
        "starts from": _starts(record) or "random weights",
        "data": data.get("address"),
        "samples": f"{data['samples']:,}" if isinstance(data.get("samples"), int) else None,
        "splits": data.get("splits"),
        "data hash": data.get("key_list_sha256"),
        "query": data.get("query") or None,
    }


def _starts(record: RunRecord) -> str:
    origins = record.facts.get("start", ())
    return ", ".join(f"{each['source']} ({each['tensors']:,} tensors)" for each in origins)


def _made_with(record: RunRecord) -> dict[str, object]:
    made = record.facts
    ranks = made.get("ranks", 1)
    return {
        "command": made.get("command", "not recorded"),
        "device": made.get("device"),
        "processes": ranks if ranks != 1 else None,
        "precision": made.get("precision"),
        "git": made.get("git_sha") or "not recorded",
        **dict(made.get("versions", {})),
        **{f"sha256 of own {role}": digest for role, digest in made.get("code", {}).items()},
    }


# -------------------------------------------------------------------------------------------- results


def _papers(record: RunRecord, published: Iterable[PublishedResult], run: str) -> Iterator[Content]:
    yield tag(
        "p",
        "In percent, ours with 95 % bootstrap intervals. Printed numbers were measured by other code, on "
        "other copies of the data; P@1 and R@1 as AudioCLIP's Table 4 prints them follow no standard "
        "definition and are left out.",
        class_="soft",
    )
    towers = ("audio",) if record.classifies else record.values.get("model.towers", MODALITIES)
    by = Measured(run=run, toy=record.toy, towers=frozenset(towers), classifies=record.classifies)
    yield from papers_section(comparisons(record.rows, published), by)


def _results(record: RunRecord) -> Iterator[Content]:
    whole = [row for row in record.rows if not row["class_name"] and row["value"] is not None]
    if not whole:
        command = tag("code", f"trichord evaluate {record.view.path} --task zero-shot --data DATA")
        yield tag("p", "Nothing was evaluated: ", command, class_="soft")
        return
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in whole:
        groups.setdefault((row["metric"].split("/")[0], row["dataset"], row["split"]), []).append(row)
    for (group, dataset, split), rows in groups.items():
        head = ("metric", "fold", "value [95 % interval]", "")
        lines = (
            (
                tag("span", row["metric"], title=_definition(row["metric"])),
                row["fold"],
                with_interval(row),
                told(row, record.toy),
            )
            for row in rows
        )
        summary = tag(
            "summary", f"{group.replace('_', '-')} on {dataset} ({split}) ", _soft(len(rows), "numbers")
        )
        made = facts(
            {"command": rows[-1]["command"], "checkpoint": rows[-1]["checkpoint"], "at": rows[-1]["date"]}
        )
        yield tag("details", summary, tag("div", table(head, lines), class_="wide"), made)


def _definition(metric: str) -> str | None:
    try:
        return definition(metric)
    except KeyError:
        return None


def _soft(count: int, what: str) -> Markup:
    return tag("span", f"{count:,} {what}", class_="soft")


# --------------------------------------------------------------------------------------------- recipe


def _recipe(record: RunRecord) -> Iterator[Content]:
    sources = record.facts["stage"].get("sources", {})
    lines = (
        (tag("code", path), _plain(value), tag("span", sources.get(path, ""), class_="soft"))
        for path, value in record.values.items()
    )
    summary = tag("summary", "Every value and where it is from")
    yield tag("details", summary, tag("div", table(("value", "", "source"), lines), class_="wide"))


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
