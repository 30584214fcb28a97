"""Evaluations as values: what is measured of a model on a data set, and under which names.

All of them read the same arrays (`trainer.embedded.Embedded`), so that any number of them costs one pass of
the data through the model. `EVALUATIONS` are those that a recipe can name.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, Protocol

import numpy as np

from trainer.batch import MODALITIES
from trainer.class_scores import SUBJECTS, ClassReport, prompt_ensemble, scores_by_text, subjects_of
from trainer.classify import prompted
from trainer.embedded import Embedded, Items
from trainer.imagenet_names import imagenet_names
from trainer.linear_probe import GRID, held_out_scores
from trainer.measure import Draws, Measure, fold_mean, query_numbers
from trainer.ranking import KS, Ids, Ranking, Vectors, rank
from trainer.run_request import RunError

BARE = "{}"
SOUND_PROMPT = "the sound of {}"  # vip-AnT §4.3; AudioCLIP used none


class EvaluationError(RunError):
    """An evaluation that cannot be made of this model or these data; one line that says what to do."""


class Evaluation(Protocol):
    """Numbers about a model on a data set."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of audio, image and text: what it can use."""
        ...

    def sentences(self, items: Items) -> Iterable[str]:
        """The texts that it needs embedded."""
        ...

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        """Raises EvaluationError for what the model or the data lack."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Which classes a model names that was trained on such labels, of sound, of pictures, of both.

    A classifier's scores are its logits; an encoder's are cosines with the text of each class. With both
    modalities they are fused by `fusion` (trainer.class_scores.FUSIONS).
    """

    subjects: tuple[str, ...] = SUBJECTS
    fusion: str = "cosine_mean"
    per_fold: bool = True
    per_class: bool = False
    group: str = "classification"

    @property
    def modalities(self) -> tuple[str, ...]:
        return _modalities(self.subjects)

    def sentences(self, items: Items) -> Iterable[str]:
        return items.class_names

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        subjects = list(subjects_of(embedded, self.subjects))
        if not subjects:
            raise EvaluationError(f"{self.group} of {', '.join(self.subjects)}: {_lacks(embedded)}")
        for subject in subjects:
            yield from self._report(subject).measures(self._scores(embedded, subject), embedded.items, draws)

    def _scores(self, embedded: Embedded, subject: str) -> Vectors:
        if embedded.class_logits is not None:
            check_classes(embedded.class_logits, embedded.items)
            return embedded.class_logits
        classes = prompt_ensemble(embedded, embedded.items.class_names, [BARE])
        return scores_by_text(embedded, subject, classes, self.fusion)

    def _report(self, subject: str) -> ClassReport:
        return ClassReport(
            name=f"{self.group}/{subject}",
            setting=f"fusion={self.fusion}" if subject == "both" else "",
            per_fold=self.per_fold,
            per_class=self.per_class,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroShot:
    """Which class's text is nearest, for a model that was not trained on such labels.

    Scores are cosines with the text of each class, in each of `prompts`: several are averaged. `names` says
    what classes are called: as the data set calls them, or, for ImageNet, as open_clip does.
    """

    subjects: tuple[str, ...] = ("audio",)
    prompts: tuple[str, ...] = (BARE,)
    names: Literal["data", "imagenet"] = "data"
    fusion: str = "cosine_mean"
    per_fold: bool = True
    per_class: bool = False
    group: str = "zero_shot"

    @property
    def modalities(self) -> tuple[str, ...]:
        return _modalities(self.subjects)

    def sentences(self, items: Items) -> Iterable[str]:
        for prompt in self.prompts:
            yield from prompted(self._names(items), prompt)

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        subjects = list(subjects_of(embedded, self.subjects))
        if not subjects or "text" not in embedded.modalities:
            raise EvaluationError(f"{self.group} of {', '.join(self.subjects)}: {_lacks(embedded)}")
        classes = prompt_ensemble(embedded, self._names(embedded.items), self.prompts)
        for subject in subjects:
            scores = scores_by_text(embedded, subject, classes, self.fusion)
            yield from self._report(subject).measures(scores, embedded.items, draws)

    def _names(self, items: Items) -> tuple[str, ...]:
        if self.names == "data":
            return items.class_names
        if len(items.class_names) != len(imagenet_names()):
            raise EvaluationError(
                f"ImageNet's names for {len(items.class_names):,} classes; expected its 1,000, in their order"
            )
        return imagenet_names()

    def _report(self, subject: str) -> ClassReport:
        prompt = "" if self.prompts == (BARE,) else "_prompted"
        shown = self.prompts[0] if len(self.prompts) == 1 else f"mean of {len(self.prompts)}"
        setting = [f"prompt={shown}"] if prompt else []
        setting += [f"names={self.names}"] if self.names != "data" else []
        setting += [f"fusion={self.fusion}"] if subject == "both" else []
        return ClassReport(
            name=f"{self.group}/{subject}{prompt}",
            setting="; ".join(setting),
            per_fold=self.per_fold,
            per_class=self.per_class,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """What is found by what, in every direction between the modalities that there are.

    A query by text is one of the distinct texts, one by sound or picture is a sample. Relevant is what has
    the query's set of labels, or with `relevance="text"` (captions) its text; a sample's own other modality
    is among it. Queries are what the bootstrap draws again; what they search stays.
    """

    directions: tuple[tuple[str, str], ...] = tuple(permutations(MODALITIES, 2))
    relevance: Literal["label_set", "text"] = "label_set"
    ks: tuple[int, ...] = KS
    per_fold: bool = True
    group: str = "retrieval"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in MODALITIES if any(name in pair for pair in self.directions))

    def sentences(self, items: Items) -> Iterable[str]:
        return items.texts if "text" in self.modalities else ()

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        directions = [pair for pair in self.directions if set(pair) <= embedded.modalities]
        if not directions:
            raise EvaluationError(f"{self.group}: {_lacks(embedded)}; expected two modalities to compare")
        yield from self._of(embedded, directions, draws, "")
        folds = embedded.items.fold_names
        if self.per_fold and len(folds) > 1:
            yield from self._by_fold(embedded, directions, draws, folds)

    def _by_fold(
        self,
        embedded: Embedded,
        directions: Sequence[tuple[str, str]],
        draws: Draws,
        folds: Sequence[str],
    ) -> Iterator[Measure]:
        """Each fold by itself, both as queries and as what they search."""
        each = [
            list(self._of(embedded.only(embedded.items.rows_of(fold)), directions, draws, fold))
            for fold in folds
        ]
        for same in zip(*each, strict=True):
            yield from (*same, fold_mean(list(same)))

    def _of(
        self, embedded: Embedded, directions: Sequence[tuple[str, str]], draws: Draws, fold: str
    ) -> Iterator[Measure]:
        sides = {name: self._side(embedded, name) for pair in directions for name in pair}
        for query, found in directions:
            (queries, query_ids), (items, item_ids) = sides[query], sides[found]
            ranking = rank(queries, items, query_ids, item_ids, ks=self.ks)
            yield from self._measures(f"{query}_to_{found}", ranking, embedded.items, draws, fold)

    def _side(self, embedded: Embedded, modality: str) -> tuple[Vectors, Ids]:
        """Vectors of a modality, and the number that relevance goes by."""
        items = embedded.items
        ids = items.label_sets if self.relevance == "label_set" else items.text_of
        if modality != "text":
            return embedded.rows(modality), ids
        _, first = np.unique(items.text_of, return_index=True)
        return embedded.sentences.of(items.texts), ids[first]

    def _measures(
        self, direction: str, ranking: Ranking, items: Items, draws: Draws, fold: str
    ) -> Iterator[Measure]:
        asked = ranking.answerable()
        if not len(asked):
            raise EvaluationError(f"{self.group}/{direction}: no query has anything relevant to it")
        resampling = draws.of(len(asked), fold=fold)
        per_query = {
            **{f"P@{k}": asked.precision(k) for k in self.ks},
            **{f"R@{k}": asked.recall(k) for k in self.ks},
            **{f"hit@{k}": asked.hit(k) for k in self.ks},
            "mAP": asked.average_precision,
            "MRR": asked.reciprocal_rank(),
        }
        numbers = query_numbers(per_query, asked.first.astype(np.float64), resampling)
        for name, value, replicates in numbers:
            yield Measure(
                name=f"{self.group}/{direction}/{name}",
                value=value,
                n=len(asked),
                missing=items.missing,
                left_out=len(ranking) - len(asked),
                fold=fold,
                setting="" if self.relevance == "label_set" else f"relevance={self.relevance}",
                replicates=replicates,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProbe:
    """How well classes can be told apart by a linear classifier on frozen embeddings.

    Each fold is judged by a classifier of the others, whose regularisation was chosen among `grid` on one of
    those others: the judged fold has no part in any choice.
    """

    subjects: tuple[str, ...] = ("audio", "image")
    grid: tuple[float, ...] = GRID
    per_class: bool = False
    group: str = "linear_probe"

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.subjects

    def sentences(self, items: Items) -> Iterable[str]:
        return ()

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        subjects = [subject for subject in self.subjects if subject in embedded.modalities]
        if not subjects:
            raise EvaluationError(f"{self.group} of {', '.join(self.subjects)}: {_lacks(embedded)}")
        folds = embedded.items.fold_names
        if len(folds) < 2:
            raise EvaluationError(
                f"{self.group}: the data have one fold, {', '.join(folds)}; expected two or more: "
                "one is judged, the others are learned from"
            )
        for subject in subjects:
            scores = held_out_scores(embedded.rows(subject), embedded.items, self.grid)
            report = ClassReport(name=f"{self.group}/{subject}", per_class=self.per_class)
            yield from report.measures(scores, embedded.items, draws)


EVALUATIONS: Mapping[str, tuple[Evaluation, ...]] = {
    "classification": (Classification(),),
    "zero_shot": (ZeroShot(), ZeroShot(prompts=(SOUND_PROMPT,))),
    "retrieval": (Retrieval(),),
    "linear_probe": (LinearProbe(),),
}


def named_evaluations(names: Iterable[str]) -> tuple[Evaluation, ...]:
    """Those of these names. Raises EvaluationError for a name that is none."""
    return tuple(each for name in names for each in _named(name))


def _named(name: str) -> tuple[Evaluation, ...]:
    if name in EVALUATIONS:
        return EVALUATIONS[name]
    close = difflib.get_close_matches(name, EVALUATIONS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise EvaluationError(f"no evaluation {name!r}; {hint}expected some of {', '.join(EVALUATIONS)}")


def evaluate_embeddings(
    embedded: Embedded, evaluations: Iterable[Evaluation], draws: Draws | None = None
) -> list[Measure]:
    """All their numbers. Raises EvaluationError, also without items."""
    if not len(embedded.items):
        raise EvaluationError("nothing to evaluate: none of the items is there; expected at least one")
    chosen = Draws() if draws is None else draws
    return [measure for each in evaluations for measure in each.measures(embedded, chosen)]


def sentences_of(evaluations: Iterable[Evaluation], items: Items) -> tuple[str, ...]:
    """Every text that they need, once."""
    return tuple(dict.fromkeys(text for each in evaluations for text in each.sentences(items)))


def modalities_of(evaluations: Iterable[Evaluation]) -> frozenset[str]:
    """Of audio and image: what must be decoded for them."""
    return frozenset(name for each in evaluations for name in each.modalities) - {"text"}


def _modalities(subjects: Sequence[str]) -> tuple[str, ...]:
    wanted = {"both": ("audio", "image")}
    names = {name for subject in subjects for name in wanted.get(subject, (subject,))}
    return tuple(name for name in MODALITIES if name in names | {"text"})


def _lacks(embedded: Embedded) -> str:
    there = ", ".join(name for name in MODALITIES if name in embedded.modalities)
    return f"the model and the data have {there or 'class logits alone'}"


def check_classes(logits: Vectors, items: Items) -> None:
    """Raises EvaluationError for a classifier of other classes than the data's."""
    if logits.shape[1] != len(items.class_names):
        raise EvaluationError(
            f"the model tells {logits.shape[1]:,} classes apart, the data set has "
            f"{len(items.class_names):,}; expected the classes that it was trained on"
        )
