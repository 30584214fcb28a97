"""Which of the names given fit a sound or a picture, and how well."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.embed import Skipped, embed_files
from trainer.models.encoder import WINDOW_S, Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A name and its score."""

    name: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The best names of a picture or of a span of a sound; none when no score was enough."""

    path: str
    names: tuple[Scored, ...]  # best first
    start: float | None = None  # seconds
    end: float | None = None


def classify(
    model: Encoder,
    files: Iterable[Path],
    names: Sequence[str],
    *,
    prompt: str = "{}",
    multi: bool = False,
    top: int = 1,
    min_score: float | None = None,
    mono: bool = True,
    window_s: float | None = WINDOW_S,
) -> Iterator[Answer | Skipped]:
    """An Answer per picture and window of sound, a Skipped per file that cannot be read.

    One name is assumed true, and scores are the model's probabilities over `names`; with `multi` each name
    is judged alone, by its cosine. (The published multi-label score, sigmoid(cosine - 0.5), orders names in
    the same way.) Names below `min_score` are left out. `prompt` holds the name at `{}`. Raises ValueError
    for a prompt without it.
    """
    texts = model.embed_text(prompted(names, prompt))
    for row in embed_files(model, files, mono=mono, window_s=window_s):
        if isinstance(row, Skipped):
            yield row
            continue
        scores = _scores(model, row.modality, row.vector.to(texts.device) @ texts.T, multi=multi)
        best = _best(names, scores, top=top, min_score=min_score)
        yield Answer(path=str(row.path), names=best, start=row.start, end=row.end)


def prompted(names: Sequence[str], prompt: str) -> list[str]:
    """The texts that stand for the names."""
    if "{}" not in prompt:
        raise ValueError(f"the prompt {prompt!r} has no place for the name; expected {{}} in it")
    return [prompt.replace("{}", name) for name in names]


def _scores(model: Encoder, modality: str, cosines: Tensor, *, multi: bool) -> Tensor:
    return cosines if multi else torch.softmax(model.scales()[f"{modality}_text"].detach() * cosines, dim=-1)


def _best(names: Sequence[str], scores: Tensor, *, top: int, min_score: float | None) -> tuple[Scored, ...]:
    values, order = scores.cpu().sort(descending=True, stable=True)
    return tuple(
        Scored(name=names[index], score=value)
        for value, index in zip(values[:top].tolist(), order[:top].tolist(), strict=True)
        if min_score is None or value >= min_score
    )
