"""What a model makes of a data set, as sections of a page: confusions, classes, guesses, answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shards.page import Content, Markup, data_uri, table, tag
from trainer.report_charts import bar, confusion_figure
from trainer.report_findings import ClassScore, Findings, Guess, Question, confused, most_confused
from trainer.report_papers import Row
from trainer.search_media import Media

SHOWN_CLASSES = 40  # in a matrix; of more, those that are most often confused
SHOWN_BEST = 10  # classes, and as many of the worst
SHOWN_CONFUSIONS = 12

STYLE = """
.gallery { display: grid; gap: 1.2rem; }
.question { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr) minmax(0, 3fr); }
.answers { display: grid; gap: 1rem; grid-template-columns: repeat(3, minmax(0, 1fr)); }
@media (max-width: 760px) { .question, .answers { grid-template-columns: minmax(0, 1fr); } }
.examples { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.item { display: flex; flex-direction: column; gap: .45rem; min-width: 0; font-size: .86rem; }
.item img { width: 100%; border-radius: 8px; display: block; }
.item img.picture { aspect-ratio: 4 / 3; object-fit: cover; }
.item img.sound { height: 56px; }
.item audio { width: 100%; height: 34px; }
.item .mono { overflow-wrap: anywhere; }
.item .words { font-weight: 600; overflow-wrap: anywhere; }
.asked { border-right: 1px solid var(--line); padding-right: 1rem; }
.verdict { font-weight: 600; font-variant-numeric: tabular-nums; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.item ol { margin: 0; padding-left: 1.3rem; }
"""

# a sound file -> a PNG, or nothing for one that does not decode
Spectrogram = Callable[[bytes], bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What a model was found to do with a data set, and the media to show it with."""

    findings: Findings
    media: Mapping[str, Media]  # by key
    labels: Mapping[str, Sequence[str]]  # class names by key
    spectrogram: Spectrogram | None = None


# -- classes


def _without_data(run: str) -> Markup:
    command = tag("code", f"trichord report {run} --data DATA")
    return tag("p", "This needs a data set to look at: ", command, class_="soft")


def _of(findings: Findings) -> str:
    lost = f", {findings.missing:,} missing" if findings.missing else ""
    name = f"{findings.dataset} ({', '.join(findings.splits)})" if findings.dataset else "the data"
    return f"{findings.items:,} items of {name}{lost}"


def _by(findings: Findings) -> str:
    if findings.score == "logit":
        return f"classes by the classifier's {findings.score}s of the {_SENSE[findings.subject]}"
    return f"classes by the {findings.score} of the {_SENSE[findings.subject]} with their bare names"


_SENSE = {"audio": "sound", "image": "picture"}


def confusions(shown: Shown | None, run: str) -> Iterator[Content]:
    if shown is None:
        yield _without_data(run)
        return
    findings = shown.findings
    counts = findings.confusion
    if counts is None:
        why = "some of them have several classes" if findings.subject else "this model names no classes"
        yield tag("p", f"No matrix of {_of(findings)}: {why}.", class_="soft")
        return
    hits = counts.trace() / counts.sum()
    yield tag("p", f"{_of(findings)}; {_by(findings)}; accuracy {hits:.1%}.", class_="soft")
    names = findings.class_names
    chosen = confused(counts, SHOWN_CLASSES)
    if len(chosen) == SHOWN_CLASSES < len(names):
        yield tag(
            "p", f"The {len(chosen)} classes of {len(names):,} that are most often confused.", class_="soft"
        )
    part = counts[chosen][:, chosen]
    matrix = confusion_figure(part, [names[place] for place in chosen])
    often = [
        (names[a], names[b], f"{counts[a, b]:,} of {counts[a].sum():,}")
        for a, b in most_confused(counts, SHOWN_CONFUSIONS)
    ]
    listed = tag("div", tag("h3", "Most often"), table(("is", "was taken for", "items"), often))
    yield tag("div", tag("div", matrix, class_="wide"), listed if often else None, class_="columns")


def best_and_worst(shown: Shown | None, rows: Sequence[Row], run: str) -> Iterator[Content]:
    if shown is None or not shown.findings.classes:
        of_classes = [row for row in rows if row["class_name"] and row["value"] is not None]
        yield from _class_rows(of_classes, run)
        return
    findings = shown.findings
    measure = "accuracy" if findings.single_label else "average precision"
    yield tag("p", f"By {measure}, of {_of(findings)}; {_by(findings)}.", class_="soft")
    ordered = sorted(findings.classes, key=lambda each: -_value(each))
    yield _both_ends([(each.name, _value(each), None, None, each.items) for each in ordered])


_Line = tuple[str, float, float | None, float | None, int]


def _value(score: ClassScore) -> float:
    return score.average_precision if score.accuracy is None else score.accuracy


def _class_rows(rows: Sequence[Row], run: str) -> Iterator[Content]:
    """What was evaluated by class, for a page that was made without data."""
    if not rows:
        yield _without_data(run)
        return
    metric, dataset = rows[-1]["metric"], rows[-1]["dataset"]
    of = [row for row in rows if (row["metric"], row["dataset"]) == (metric, dataset)]
    ordered = sorted(of, key=lambda row: -row["value"])
    yield tag("p", f"{metric} on {dataset}.", class_="soft")
    yield _both_ends(
        [(row["class_name"], row["value"], row["low"], row["high"], row["n"]) for row in ordered]
    )


def _both_ends(ordered: Sequence[_Line]) -> Markup:
    if len(ordered) <= 2 * SHOWN_BEST:
        return _class_table(ordered)
    best, worst = ordered[:SHOWN_BEST], ordered[-SHOWN_BEST:]
    return tag(
        "div",
        tag("div", tag("h3", "Best"), _class_table(best)),
        tag("div", tag("h3", "Worst"), _class_table(worst)),
        class_="columns",
    )


def _class_table(lines: Iterable[_Line]) -> Markup:
    return table(
        ("class", "", "", "items"),
        (
            (name, bar(value, low, high), f"{value:.3f}", f"{items:,}")
            for name, value, low, high, items in lines
        ),
    )


# -- examples


def right_and_wrong(shown: Shown | None, run: str) -> Iterator[Content]:
    if shown is None:
        yield _without_data(run)
        return
    findings = shown.findings
    if not findings.examples:
        yield tag("p", "This model names no classes.", class_="soft")
        return
    yield tag("p", f"Drawn by a hash of their keys; {_by(findings)}.", class_="soft")
    for right, title in ((True, "Right"), (False, "Wrong")):
        guesses = [guess for guess in findings.examples if guess.right is right]
        yield tag("h3", title)
        none = None if guesses else tag("p", "None.", class_="soft")
        yield tag("div", none, *(_guess(guess, shown) for guess in guesses), class_="examples")


def _guess(guess: Guess, shown: Shown) -> Markup:
    guesses = (
        tag("li", name, " ", tag("span", f"{score:.3f}", class_="soft")) for name, score in guess.guesses
    )
    return tag(
        "article",
        *_media(guess.key, shown, heard=True, seen=True),
        tag("span", ", ".join(guess.classes), class_="words"),
        tag("span", "taken for", class_=f"verdict {'right' if guess.right else 'wrong'}"),
        tag("ol", *guesses),
        tag("span", guess.key, class_="mono soft"),
        class_="card item",
    )


def _media(key: str, shown: Shown, *, heard: bool, seen: bool) -> Iterator[Markup]:
    media = shown.media.get(key)
    if media is None:
        yield tag("span", "cannot be shown", class_="soft")
        return
    if seen:
        yield from (_image(frame, "image/jpeg", "its middle frame", "picture") for frame in media.frames)
    if heard and media.sound is not None:
        picture = None if shown.spectrogram is None else shown.spectrogram(media.sound)
        if picture is not None:
            yield _image(picture, "image/png", "its spectrogram", "sound")
        yield tag("audio", src=data_uri(media.sound, "audio/flac"), controls=True, preload="metadata")


def _image(content: bytes, media_type: str, words: str, class_: str) -> Markup:
    return tag("img", src=data_uri(content, media_type), alt=words, class_=class_)


def gallery(shown: Shown | None, run: str) -> Iterator[Content]:
    if shown is None:
        yield _without_data(run)
        return
    questions = shown.findings.questions
    if not questions:
        yield tag("p", "This model has not two modalities to compare.", class_="soft")
        return
    yield tag(
        "p",
        f"Queries drawn by a hash, not by how well they do, and what they find first among "
        f"{_of(shown.findings)}. Relevant is what has the same set of labels.",
        class_="soft",
    )
    yield tag("div", *(_question(question, shown) for question in questions), class_="gallery")


def _question(question: Question, shown: Shown) -> Markup:
    asked = tag(
        "div",
        tag("span", f"{_WORDS[question.asked]} → {_WORDS[question.found]}", class_="soft"),
        *_side(question.asked, question.name, shown),
        tag("span", _first_rank(question), class_="soft"),
        class_="item asked",
    )
    answers = (
        tag(
            "div",
            tag("span", *_verdict(answer.score, answer.relevant, answer.itself), class_="chips"),
            *_side(question.found, answer.name, shown),
            class_="item",
        )
        for answer in question.answers
    )
    return tag("article", asked, tag("div", *answers, class_="answers"), class_="card question")


_WORDS = {"text": "text", "audio": "sound", "image": "picture"}


def _first_rank(question: Question) -> str:
    if not question.rank:
        return "nothing is relevant to it"
    return f"first relevant answer: {question.rank:,}"


def _verdict(score: float, relevant: bool, itself: bool) -> Iterator[Markup]:
    mark = "✓ relevant" if relevant else "✗ not relevant"
    yield tag("span", mark, class_=f"verdict {'right' if relevant else 'wrong'}")
    yield tag("span", f"{score:.3f}" + (", the same sample" if itself else ""), class_="soft")


def _side(modality: str, name: str, shown: Shown) -> Iterator[Markup]:
    if modality == "text":
        yield tag("span", name, class_="words")
        return
    yield from _media(name, shown, heard=modality == "audio", seen=True)
    yield tag("span", ", ".join(shown.labels.get(name, ())), class_="words")
    yield tag("span", name, class_="mono soft")
