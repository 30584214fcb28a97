"""What papers report, read as numbers: which of our data sets and metrics each compares to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer.results_page import read_published

_DATASETS = {"audioset": "audioset", "esc50": "esc50", "us8k": "us8k", "urbansound8k": "us8k"} | {
    name: name for name in ("imagenet", "audiocaps", "clotho", "fsd50k", "vggsound")
}
_MODALITIES = {"T": "text", "A": "audio", "text": "text", "audio": "audio", "image": "image"}
_DIRECTION = re.compile(r"\b(T|A|text|audio|image)->(T|A|text|audio|image)\b")
_APART = re.compile(r"as printed|inconsistent|mean of 15|fold 1|score")  # comparable to nothing of ours
_CAPTIONED = ("AudioCaps", "Clotho")  # where papers count every caption of a sample
_SAID_ELSEWHERE = ("on target", "zero-shot", "-", "reference")  # by the metric that a number compares to


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedResult:
    """One printed number."""

    system: str
    variant: str  # which of the system's models; may be empty
    dataset: str  # as our data sets call themselves; the printed name for one that we have no rebuilding of
    metric: str  # group/subject/measure; empty where none of ours compares
    percent: float
    spread: str  # ± over folds, in percent; empty where none is printed
    protocol: str  # prompt, items, what the model had seen
    source: str


def published_results(rows: Iterable[Mapping[str, str]] | None = None) -> tuple[PublishedResult, ...]:
    """All of them, in the order of the table that this package holds."""
    return tuple(map(_read, read_published() if rows is None else rows))


def _read(row: Mapping[str, str]) -> PublishedResult:
    value, _, spread = row["value"].partition("+-")
    printed = row["dataset"]
    setting = row["setting"].replace("sound of '", "sound of [label]'")
    protocol = ("" if setting in _SAID_ELSEWHERE else setting, printed if "(" in printed else "")
    return PublishedResult(
        system=row["system"],
        variant=row["variant"],
        dataset=_DATASETS.get(re.split(r"[\s,(]", printed)[0].replace("-", "").lower(), printed),
        metric="" if _APART.search(f"{printed} {row['metric']}") else _metric(row),
        percent=float(value) * (1 if "%" in row["metric"] else 100),
        spread=spread,
        protocol="; ".join(filter(None, protocol)),
        source=re.sub(r"\bT(\d)\b", r"Table \1", row["source"]),
    )


def _metric(row: Mapping[str, str]) -> str:
    task, measure = row["task"], _measure(row)
    if found := _DIRECTION.search(f"{task} {row['dataset']}"):
        asked, answer = (_MODALITIES[name] for name in found.groups())
        group = "captions" if row["dataset"].startswith(_CAPTIONED) else "retrieval"
        return f"{group}/{asked}_to_{answer}/{measure}"
    subject = "both" if "audio+image" in task else "image" if "by image" in task else "audio"
    return f"{_group(task, row['setting'])}/{subject}/{measure}"


def _measure(row: Mapping[str, str]) -> str:
    printed = row["metric"].split()[0]
    if printed == "task":  # CLAP's Table 6 prints each data set's own
        return "mAP" if row["dataset"].startswith("FSD50K") else "accuracy"
    return {"acc": "accuracy"}.get(printed, printed)


def _group(task: str, setting: str) -> str:
    if task.startswith("zero-shot") or setting == "zero-shot":
        return "zero_shot"
    return "linear_probe" if "feature extraction" in task or "linear" in task else "classification"
