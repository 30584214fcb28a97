"""Our numbers beside those of the papers: which compare, what is missing, which command measures it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.page import Content, Markup, join, table, tag
from trainer.batch import MODALITIES
from trainer.measure import FOLD_MEAN, ON_TEST
from trainer.published_results import PublishedResult
from trainer.report_charts import bar

MAIN_DATASETS = {
    "audioset": "AudioSet",
    "esc50": "ESC-50",
    "us8k": "UrbanSound8K",
    "imagenet": "ImageNet",
}
_TASKS = {
    "zero_shot": "zero-shot",
    "classification": "classification",
    "retrieval": "query",
    "captions": "query",
    "linear_probe": "linear-probe",
}
_FINETUNED = {"esc50": "audioclip.finetune_esc50", "us8k": "audioclip.finetune_us8k"}
_GROUPS = {
    "zero_shot": "zero-shot",
    "classification": "trained on its labels",
    "retrieval": "retrieval",
    "captions": "captions",
    "linear_probe": "linear probe",
}
AUTHORS = "AudioCLIP"  # whose tables come first

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One metric on one data set: what is printed, and what we have."""

    dataset: str
    metric: str
    published: tuple[PublishedResult, ...]  # best first
    ours: tuple[Row, ...]  # result rows: as it is, with a prompt, as a mean over folds

    @property
    def title(self) -> str:
        group, subject, measure = self.metric.split("/")
        told = subject.replace("_to_", " → ").replace("both", "audio + image")
        return f"{MAIN_DATASETS.get(self.dataset, self.dataset)}, {_GROUPS[group]}: {told}, {measure}"

    @property
    def needs(self) -> frozenset[str]:
        """The modalities that it is about."""
        subject = self.metric.split("/")[1]
        named = frozenset({"both": ("audio", "image")}.get(subject, subject.split("_to_")))
        return named | {"text"} if self.metric.startswith("zero_shot") else named


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The run whose numbers stand there."""

    run: str  # as a person types it
    toy: bool = False
    towers: frozenset[str] = frozenset(MODALITIES)
    classifies: bool = False  # names classes and embeds nothing

    def lacks(self, each: Comparison) -> str:
        """Why its model cannot have this number; empty where it can."""
        if self.classifies and each.needs != {"audio"}:
            return "this model only names the classes of sounds"
        missing = sorted(each.needs - self.towers)
        return f"this model has no {' and no '.join(missing)} head" if missing else ""

    def command(self, each: Comparison) -> str:
        """What would fill an empty cell."""
        group, dataset = each.metric.split("/")[0], each.dataset
        if group == "classification" and dataset in _FINETUNED:
            recipe = _FINETUNED[dataset] + ("_standalone" if self.classifies else "")
            return f"trichord crossval {recipe} --from {self.run} --data data/{dataset}"
        split = " --split eval" if dataset == "audioset" else ""
        return f"trichord evaluate {self.run} --task {_TASKS[group]} --data data/{dataset}{split}"


def comparisons(rows: Sequence[Row], published: Iterable[PublishedResult]) -> list[Comparison]:
    """Of the data sets that the papers are about, and of all that we have rows of."""
    printed: dict[tuple[str, str], list[PublishedResult]] = {}
    for result in published:
        if result.metric:
            printed.setdefault((result.dataset, result.metric), []).append(result)
    whole = [row for row in rows if not row["fold"] and not row["class_name"] and row["value"] is not None]
    found = [
        Comparison(
            dataset=dataset,
            metric=metric,
            published=tuple(sorted(results, key=lambda each: -each.percent)),
            ours=tuple(row for row in whole if row["dataset"] == dataset and compared_metric(row) == metric),
        )
        for (dataset, metric), results in printed.items()
    ]
    return sorted((each for each in found if each.ours or _main(each)), key=_order)


def _main(comparison: Comparison) -> bool:
    """Whether the authors report it."""
    return any(result.system == AUTHORS for result in comparison.published)


def _order(comparison: Comparison) -> tuple[int, str]:
    names = list(MAIN_DATASETS)
    place = names.index(comparison.dataset) if comparison.dataset in names else len(names)
    return place, comparison.metric


def compared_metric(row: Row) -> str:
    """Which printed metric a row is beside: without how folds were averaged and whether a prompt was used.

    What a model fine-tuned on a data set scores there by texts is no zero-shot number.
    """
    group, subject, measure = row["metric"].split("/")
    tuned = group == "zero_shot" and f"finetune_{row['dataset']}" in row["recipe"]
    whole = measure.removesuffix(ON_TEST).removesuffix(FOLD_MEAN)
    return f"{'classification' if tuned else group}/{subject.removesuffix('_prompted')}/{whole}"


# -- the section


def papers_section(found: Sequence[Comparison], by: Measured) -> Iterator[Content]:
    """One table of all comparisons, then each by itself, with all that is printed."""
    head = ("", "published, best", f"{AUTHORS}, full", f"{AUTHORS}, partial", "this run")
    yield tag("div", table(head, (_overview(each, by) for each in found)), class_="wide")
    yield from (_details(each, by.toy) for each in found)


def _overview(each: Comparison, by: Measured) -> tuple[Content, ...]:
    best = each.published[0]
    authors = [result for result in each.published if result.system == AUTHORS]
    full, partial = (_of(authors, name) for name in ("full model", "partial (audio head)"))
    return (
        each.title,
        join([f"{best.percent:g} ", tag("span", _name(best), class_="soft")]),
        "" if full is None else f"{full.percent:g}",
        "" if partial is None else f"{partial.percent:g}",
        _ours(each, by),
    )


def _of(results: Iterable[PublishedResult], variant: str) -> PublishedResult | None:
    return next((result for result in results if result.variant == variant), None)


def _name(result: PublishedResult) -> str:
    return f"{result.system}, {result.variant}" if result.variant else result.system


def _ours(each: Comparison, by: Measured) -> Markup:
    if not each.ours and (why := by.lacks(each)):
        return tag("span", why, class_="soft")
    if not each.ours:
        return tag("span", "not measured: ", tag("code", by.command(each)), class_="soft")
    return join(
        tag("div", tag("b", with_interval(row, 100)), tag("span", f" {told(row, by.toy)}", class_="soft"))
        for row in each.ours
    )


def with_interval(row: Row, times: float = 1.0) -> str:
    """`28.4 [27.9, 28.8]`."""
    digits = 1 if times == 100 else 4
    value = f"{times * row['value']:.{digits}f}"
    if row["low"] is None or row["high"] is None:
        return value
    return f"{value} [{times * row['low']:.{digits}f}, {times * row['high']:.{digits}f}]"


def told(row: Row, toy: bool) -> str:
    """What a reader has to know beside the number."""
    name = row["metric"]
    parts = [
        "toy model" if toy else "",
        row["beside"],
        row["setting"],
        "mean of folds" if name.removesuffix(ON_TEST).endswith(FOLD_MEAN) else "",
        "chosen on the test data" if name.endswith(ON_TEST) else "",
        f"n = {row['n']:,}",
        f"{row['missing']:,} missing" if row["missing"] else "",
        f"incomplete data: {row['partial']}" if row["partial"] else "",
        f"{row['shared_with_training']:,} also in training" if row["shared_with_training"] else "",
    ]
    return "; ".join(filter(None, parts))


def _details(each: Comparison, toy: bool) -> Markup:
    """All systems by their number, each with its protocol: not all of them compare fairly."""
    lines: list[tuple[float, tuple[Content, ...]]] = [
        (
            result.percent,
            (
                _name(result),
                f"{result.percent:g}" + (f" ± {result.spread}" if result.spread else ""),
                bar(result.percent / 100),
                result.protocol,
                result.source,
            ),
        )
        for result in each.published
    ]
    lines += [
        (
            100 * row["value"],
            (
                tag("b", "this run"),
                tag("b", with_interval(row, 100)),
                bar(row["value"], row["low"], row["high"], ours=True),
                told(row, toy),
                "",
            ),
        )
        for row in each.ours
    ]
    ordered = [line for _, line in sorted(lines, key=lambda line: -line[0])]
    head = ("system", "%", "", "protocol", "source")
    count = f"{len(each.published)} published" + (f", {len(each.ours)} of ours" if each.ours else "")
    summary = tag("summary", f"{each.title} ", tag("span", count, class_="soft"))
    return tag("details", summary, tag("div", table(head, ordered), class_="wide"))
