"""A data set as a model sees it: labels and embeddings in rows, made once and read by every evaluation."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainer.ranking import Ids, Vectors

Rows = dict[str, NDArray[Any]]  # embeddings by modality, and "row": each item's place in its selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """What is evaluated on: N samples with their labels, in the order of their selection."""

    keys: tuple[str, ...]
    targets: NDArray[np.bool_]  # (N, K) which classes apply
    class_names: tuple[str, ...]  # K
    label_sets: Ids  # (N,) equal exactly where the sets of labels are
    texts: tuple[str, ...]  # each string once
    text_of: Ids  # (N,) each sample's place in `texts`
    folds: tuple[str, ...]  # N names of splits
    captions: tuple[str, ...] = ()  # C, every text of every sample, in the order of samples
    caption_of: Ids = field(default_factory=lambda: np.zeros(0, np.int64))  # (C,) the sample that it is of
    missing: int = 0  # that the data set lists, and that are not there or did not decode

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def single_label(self) -> bool:
        """Whether each sample has one class: only then is there an accuracy."""
        return bool(len(self)) and bool((self.targets.sum(axis=1) == 1).all())

    @property
    def classes(self) -> Ids:
        """(N,) the class of each sample, where each has one."""
        classes: Ids = self.targets.argmax(axis=1).astype(np.int64)
        return classes

    @property
    def fold_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.folds)))

    @property
    def key_list_sha256(self) -> str:
        """Of the keys in order, a line feed after each, as a selection has it."""
        return hashlib.sha256("".join(f"{key}\n" for key in self.keys).encode()).hexdigest()

    def only(self, rows: Ids) -> Self:
        """These rows; `texts` keeps those that they have, in the order in which they come."""
        places, first, text_of = np.unique(self.text_of[rows], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.argsort(order)
        captions, caption_of = self._captions_of(rows)
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            targets=self.targets[rows],
            label_sets=self.label_sets[rows],
            texts=tuple(self.texts[place] for place in places[order]),
            text_of=rank[text_of].astype(np.int64),
            folds=tuple(self.folds[row] for row in rows),
            captions=captions,
            caption_of=caption_of,
        )

    def _captions_of(self, rows: Ids) -> tuple[tuple[str, ...], Ids]:
        first, last = (np.searchsorted(self.caption_of, rows, side) for side in ("left", "right"))
        spans = zip(first, last, strict=True)
        captions = tuple(self.captions[place] for span in spans for place in range(*span))
        return captions, np.repeat(np.arange(len(rows)), last - first)

    def rows_of(self, fold: str) -> Ids:
        return np.flatnonzero(np.array(self.folds) == fold)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Strings and their embeddings of unit length."""

    strings: tuple[str, ...] = ()
    rows: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))  # (S, D)
    _place: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {string: at for at, string in enumerate(self.strings)})

    def of(self, strings: Sequence[str]) -> Vectors:
        """(len(strings), D); KeyError for one that was not embedded."""
        return self.rows[[self._place[string] for string in strings]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Items with what a model makes of them; None for what it lacks or nobody asked for."""

    items: Items
    audio: Vectors | None = None  # (N, D) of unit length
    image: Vectors | None = None  # (N, D) of unit length
    class_logits: Vectors | None = None  # (N, K) of a classifier
    sentences: Sentences = field(default_factory=Sentences)
    scales: Mapping[str, float] = field(default_factory=dict)  # factor on the cosines, by pair

    @property
    def modalities(self) -> frozenset[str]:
        """Which of audio, image and text can be compared."""
        rows = {"audio": self.audio, "image": self.image, "text": self.sentences.strings or None}
        return frozenset(name for name, there in rows.items() if there is not None)

    def rows(self, modality: str) -> Vectors:
        """(N, D). Raises ValueError for what is not there."""
        found = {"audio": self.audio, "image": self.image}.get(modality)
        if found is None:
            there = ", ".join(sorted(self.modalities)) or "class logits alone"
            raise ValueError(f"no embeddings of {modality}; there are {there}")
        return found

    def only(self, rows: Iterable[int] | Ids) -> Self:
        """These items."""
        chosen = np.fromiter(rows, dtype=np.int64)
        return replace(
            self,
            items=self.items.only(chosen),
            audio=None if self.audio is None else self.audio[chosen],
            image=None if self.image is None else self.image[chosen],
            class_logits=None if self.class_logits is None else self.class_logits[chosen],
        )
