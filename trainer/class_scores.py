"""How well each class fits each item, and the metrics of such scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.bootstrap import Resampling, mean_over_classes
from trainer.classify import prompted
from trainer.embedded import Embedded, Items
from trainer.measure import Draws, Measure, fold_mean
from trainer.metrics import class_average_precisions, mean_of_present, top1_hits
from trainer.ranking import Vectors

SUBJECTS = ("audio", "image", "both")
Fusion = Callable[[Embedded, Vectors, Vectors], Vectors]


def _cosine_mean(embedded: Embedded, audio: Vectors, image: Vectors) -> Vectors:
    return (audio + image) / np.float32(2)


def _logit_mean(embedded: Embedded, audio: Vectors, image: Vectors) -> Vectors:
    scales = {pair: np.float32(scale) for pair, scale in embedded.scales.items()}
    fused = scales["audio_text"] * audio + scales["image_text"] * image
    return (fused / 2).astype(np.float32)


def _probability_mean(embedded: Embedded, audio: Vectors, image: Vectors) -> Vectors:
    if embedded.items.single_label:
        audio = _softmax(embedded.scales["audio_text"] * audio)
        image = _softmax(embedded.scales["image_text"] * image)
    else:  # AudioCLIP, protocols: sigmoid(cosine - 0.5) is a class's probability
        audio, image = (1 / (1 + np.exp(0.5 - cosines)) for cosines in (audio, image))
    return (audio + image) / np.float32(2)


def _softmax(logits: Vectors) -> Vectors:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Vectors = powers / powers.sum(axis=1, keepdims=True)
    return shares


# how the scores of sound and picture become one; AudioCLIP does not say how its "both" was made
FUSIONS: dict[str, Fusion] = {
    "cosine_mean": _cosine_mean,
    "logit_mean": _logit_mean,
    "probability_mean": _probability_mean,
}


def subjects_of(embedded: Embedded, wanted: Sequence[str]) -> Iterator[str]:
    """Those of `wanted` that the model can score."""
    there = embedded.modalities | ({"audio"} if embedded.class_logits is not None else set())
    for subject in wanted:
        if {subject} <= there or (subject == "both" and {"audio", "image"} <= there):
            yield subject


def prompt_ensemble(embedded: Embedded, names: Sequence[str], prompts: Sequence[str]) -> Vectors:
    """(K, D) of unit length: each name's direction, the mean over the prompts of its texts' (CLIP §3.1.4)."""
    rows = np.mean([embedded.sentences.of(prompted(names, prompt)) for prompt in prompts], axis=0)
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def scores_by_text(embedded: Embedded, subject: str, classes: Vectors, fusion: str) -> Vectors:
    """(N, K) cosines with the classes' texts, of sound, of pictures, or fused."""
    if subject != "both":
        return embedded.rows(subject) @ classes.T
    audio, image = embedded.audio, embedded.image
    assert audio is not None
    assert image is not None
    return FUSIONS[fusion](embedded, audio @ classes.T, image @ classes.T)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassReport:
    """Which numbers are made of scores of classes."""

    name: str  # group/subject
    setting: str = ""
    per_fold: bool = True
    per_class: bool = False

    def measures(self, scores: Vectors, items: Items, draws: Draws) -> Iterator[Measure]:
        """Accuracy where each item has one class, macro mAP always; pooled, by fold, by class."""
        yield from self._pooled(scores, items, draws.of(len(items)))
        if self.per_fold and len(items.fold_names) > 1:
            folds = [list(self._of_fold(scores, items, draws, fold)) for fold in items.fold_names]
            for same in zip(*folds, strict=True):
                yield from (*same, fold_mean(list(same)))

    def _of_fold(self, scores: Vectors, items: Items, draws: Draws, fold: str) -> Iterator[Measure]:
        rows = items.rows_of(fold)
        resampling = draws.of(len(rows), fold=fold)
        yield from self._whole(scores[rows], items.targets[rows], items, resampling, fold)

    def _pooled(self, scores: Vectors, items: Items, resampling: Resampling) -> Iterator[Measure]:
        yield from self._whole(scores, items.targets, items, resampling, "")
        if self.per_class:
            yield from self._by_class(scores, items, resampling)

    def _whole(
        self,
        scores: Vectors,
        targets: NDArray[np.bool_],
        items: Items,
        resampling: Resampling,
        fold: str,
    ) -> Iterator[Measure]:
        if items.single_label:
            hits = top1_hits(scores, targets.argmax(axis=1)).astype(np.float64)
            yield self._measure(
                "accuracy", hits.mean(), items, fold=fold, n=len(hits), replicates=resampling.means(hits)
            )
        precisions = class_average_precisions(scores, targets)
        yield self._measure(
            "mAP",
            mean_of_present(precisions),
            items,
            fold=fold,
            n=len(scores),
            left_out=int(np.isnan(precisions).sum()),
            replicates=mean_over_classes(resampling.average_precisions(scores, targets)),
        )

    def _by_class(self, scores: Vectors, items: Items, resampling: Resampling) -> Iterator[Measure]:
        precisions = class_average_precisions(scores, items.targets)
        drawn = resampling.average_precisions(scores, items.targets)
        for place, name in enumerate(items.class_names):
            positives = int(items.targets[:, place].sum())
            if positives:
                yield self._measure(
                    "AP", precisions[place], items, class_name=name, n=positives, replicates=drawn[place]
                )
        if items.single_label:
            yield from self._class_accuracies(scores, items, resampling)

    def _class_accuracies(self, scores: Vectors, items: Items, resampling: Resampling) -> Iterator[Measure]:
        """Of each class's own items; each is resampled among them."""
        hits = top1_hits(scores, items.classes).astype(np.float64)
        for place, name in enumerate(items.class_names):
            own = hits[items.classes == place]
            if len(own):
                drawn = Resampling(items=len(own), resamples=resampling.resamples, seed=resampling.seed)
                yield self._measure(
                    "accuracy", own.mean(), items, class_name=name, n=len(own), replicates=drawn.means(own)
                )

    def _measure(self, measure: str, value: float, items: Items, **facts: object) -> Measure:
        return Measure(
            name=f"{self.name}/{measure}",
            value=float(value),
            missing=items.missing,
            setting=self.setting,
            **facts,  # type: ignore[arg-type]  # n, replicates and which fold or class
        )
