"""What is worth showing of a model's embeddings of a data set: confusions, classes, guesses, answers."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.class_scores import prompt_ensemble, scores_by_text, subjects_of
from trainer.embedded import Embedded, Items
from trainer.evaluations import BARE, check_classes
from trainer.metrics import class_average_precisions
from trainer.ranking import Ids, Vectors

DIRECTIONS = (
    ("text", "audio"),
    ("audio", "image"),
    ("image", "audio"),
    ("text", "image"),
    ("audio", "text"),
    ("image", "text"),
)
QUESTIONS = 8
ANSWERS = 3
EXAMPLES = 4  # right ones, and as many wrong ones
GUESSES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How well one class is told from the others."""

    name: str
    items: int  # that have the class
    average_precision: float
    accuracy: float | None  # share of its items that are taken for it; None where items have several classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One item, what it is, and what the model takes it for."""

    key: str
    classes: tuple[str, ...]
    guesses: tuple[tuple[str, float], ...]  # best first: class, score
    right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was found: an item, or a text."""

    name: str  # a key, or the text itself
    score: float  # cosine
    relevant: bool
    itself: bool = False  # the very item that was asked with


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A query with its first answers."""

    asked: str  # text, audio or image
    found: str
    name: str  # a key, or the text itself
    answers: tuple[Answer, ...]
    rank: int  # of the best relevant one, from 1; 0 where there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All of it, of one model on one data set."""

    dataset: str
    splits: tuple[str, ...]
    items: int
    missing: int
    subject: str  # audio, image: what classes were told by; empty where they were not
    score: str  # what the scores are: "cosine with the class's name", "logit"
    single_label: bool
    class_names: tuple[str, ...] = ()
    confusion: NDArray[np.int64] | None = None  # (K, K) items: their class, what they were taken for
    classes: tuple[ClassScore, ...] = ()
    examples: tuple[Guess, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def players(self) -> int:
        """How many sounds a page holds, the same one again wherever it stands."""
        asked = sum(question.asked == "audio" for question in self.questions)
        found = sum(len(question.answers) for question in self.questions if question.found == "audio")
        return len(self.examples) + asked + found

    def heard_and_seen(self) -> tuple[set[str], set[str]]:
        """The keys whose sound, and those whose pictures, a page shows."""
        told = {guess.key for guess in self.examples}
        heard, seen = set(told), set(told)
        shown = {"audio": heard, "image": seen, "text": set[str]()}
        for question in self.questions:
            shown[question.asked].add(question.name)
            shown[question.found].update(answer.name for answer in question.answers)
        return heard, seen | heard


def find(
    embedded: Embedded, *, dataset: str = "", relevance: str = "label_set", questions: int = QUESTIONS
) -> Findings:
    """What to show. Examples are drawn by a hash of their keys, never picked by how good they look.

    Raises EvaluationError for a classifier of other classes than the data's.
    """
    items = embedded.items
    subject = next(subjects_of(embedded, ("audio", "image")), "")
    scores = _scores(embedded, subject)
    told: dict[str, object] = {} if scores is None else _told(scores, items)
    return Findings(
        dataset=dataset,
        splits=items.fold_names,
        items=len(items),
        missing=items.missing,
        subject=subject if scores is not None else "",
        score="logit" if embedded.class_logits is not None else "cosine",
        single_label=items.single_label,
        class_names=items.class_names,
        questions=tuple(_questions(embedded, relevance, questions)),
        **told,  # type: ignore[arg-type]  # confusion, classes, examples
    )


# -- classes


def _scores(embedded: Embedded, subject: str) -> Vectors | None:
    """(N, K) of a classifier, or cosines with the classes' bare names; None for a model without either."""
    if embedded.class_logits is not None:
        check_classes(embedded.class_logits, embedded.items)
        return embedded.class_logits
    if not subject or "text" not in embedded.modalities:
        return None
    names = embedded.items.class_names
    if not set(names) <= set(embedded.sentences.strings):
        return None
    return scores_by_text(embedded, subject, prompt_ensemble(embedded, names, [BARE]), "cosine_mean")


def _told(scores: Vectors, items: Items) -> dict[str, object]:
    guessed = scores.argmax(axis=1)
    confusion = _confusion(guessed, items) if items.single_label else None
    return {
        "confusion": confusion,
        "classes": tuple(_class_scores(scores, items, confusion)),
        "examples": tuple(_examples(scores, guessed, items)),
    }


def _confusion(guessed: Ids, items: Items) -> NDArray[np.int64]:
    counts = np.zeros((len(items.class_names),) * 2, dtype=np.int64)
    np.add.at(counts, (items.classes, guessed), 1)
    return counts


def _class_scores(scores: Vectors, items: Items, confusion: NDArray[np.int64] | None) -> Iterator[ClassScore]:
    precisions = class_average_precisions(scores, items.targets)
    for place, name in enumerate(items.class_names):
        if count := int(items.targets[:, place].sum()):
            yield ClassScore(
                name=name,
                items=count,
                average_precision=float(precisions[place]),
                accuracy=None if confusion is None else float(confusion[place, place] / count),
            )


def confused(counts: NDArray[np.int64], most: int) -> Ids:
    """(≤ most,) the classes that are most often taken for others or others for them, in their own order.

    Those that no item has, and none is taken for, are left out.
    """
    touched = counts.sum(axis=0) + counts.sum(axis=1)
    order = np.argsort(-(touched - 2 * counts.diagonal()), kind="stable")
    return np.sort(order[touched[order] > 0][:most])


def most_confused(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """(class, what it was taken for) that happened most often, without what never did."""
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        (int(a), int(b)) for a, b in zip(*np.unravel_index(order, counts.shape), strict=True) if wrong[a, b]
    ]


def _examples(scores: Vectors, guessed: Ids, items: Items) -> Iterator[Guess]:
    right = items.targets[np.arange(len(items)), guessed]
    for wanted in (True, False):
        for row in _varied(np.flatnonzero(right == wanted), items, EXAMPLES):
            best = np.argsort(-scores[row], kind="stable")[:GUESSES]
            yield Guess(
                key=items.keys[row],
                classes=tuple(items.class_names[place] for place in np.flatnonzero(items.targets[row])),
                guesses=tuple((items.class_names[place], float(scores[row, place])) for place in best),
                right=wanted,
            )


def _varied(rows: Iterable[int] | Ids, items: Items, most: int) -> list[int]:
    """Some of these rows, of different label sets as far as there are, by a hash of their keys."""
    drawn = sorted(map(int, rows), key=lambda row: _hash(items.keys[row]))
    first = {int(items.label_sets[row]): row for row in reversed(drawn)}
    new = {row: first[int(items.label_sets[row])] == row for row in drawn}
    return sorted(drawn, key=lambda row: not new[row])[:most]  # a stable sort: the hash's order stays


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


# -- retrieval


@dataclass(frozen=True, slots=True)
class _Side:
    """What can be asked with, or found, in one modality."""

    names: Sequence[str]
    vectors: Vectors
    ids: Ids  # relevance goes by them


def _questions(embedded: Embedded, relevance: str, most: int) -> Iterator[Question]:
    pairs = [pair for pair in DIRECTIONS if set(pair) <= embedded.modalities]
    if not pairs or not _has_texts(embedded):
        pairs = [pair for pair in pairs if "text" not in pair]
    for place, (asked, found) in enumerate(pairs):
        queries, items = (_side(embedded, name, relevance) for name in (asked, found))
        share = most // len(pairs) + (place < most % len(pairs))
        for row in _asked(embedded.items, queries, asked, share):
            yield _answered(row, asked, found, queries, items)


def _has_texts(embedded: Embedded) -> bool:
    return set(embedded.items.texts) <= set(embedded.sentences.strings)


def _side(embedded: Embedded, modality: str, relevance: str) -> _Side:
    items = embedded.items
    ids = items.label_sets if relevance == "label_set" else items.text_of
    if modality != "text":
        return _Side(items.keys, embedded.rows(modality), ids)
    _, first = np.unique(items.text_of, return_index=True)
    return _Side(items.texts, embedded.sentences.of(items.texts), ids[first])


def _asked(items: Items, queries: _Side, modality: str, most: int) -> list[int]:
    if modality != "text":
        return _varied(range(len(items)), items, most)
    return sorted(range(len(queries.names)), key=lambda row: _hash(queries.names[row]))[:most]


def _answered(row: int, asked: str, found: str, queries: _Side, items: _Side) -> Question:
    scores = items.vectors @ queries.vectors[row]
    order = np.argsort(-scores, kind="stable")
    relevant = items.ids == queries.ids[row]
    hits = np.flatnonzero(relevant[order])
    return Question(
        asked=asked,
        found=found,
        name=queries.names[row],
        answers=tuple(
            Answer(
                name=items.names[place],
                score=float(scores[place]),
                relevant=bool(relevant[place]),
                itself="text" not in (asked, found) and place == row,
            )
            for place in order[:ANSWERS]
        ),
        rank=int(hits[0]) + 1 if len(hits) else 0,
    )
