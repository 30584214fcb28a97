"""Which of the names given fit a sound or a picture, and how well."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from shards.sound import SoundError
from trainer.class_names import ClassNamesError
from trainer.classifier import Classifier
from trainer.embed import PICTURES, READERS, Skipped, embed_files
from trainer.models.encoder import BATCH, WINDOW_S, Encoder
from trainer.read_ahead import read_ahead
from trainer.waveform import Window, runs, windows_of
from trainer.weights import few


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


def classify_by_logits(
    model: Classifier,
    files: Iterable[Path],
    names: Sequence[str] | None = None,
    *,
    multi: bool = False,
    top: int = 1,
    min_score: float | None = None,
    mono: bool = True,
    window_s: float | None = WINDOW_S,
) -> Iterator[Answer | Skipped]:
    """As `classify`, by a head whose outputs are classes: probabilities, with `multi` each class's own.

    `names` are as for `named_places`, which raises ClassNamesError. A picture is skipped.
    """
    places = named_places(model, names)
    order, shown = [place for place, _ in places], [name for _, name in places]
    for row in _heard(model, files, mono=mono, window_s=window_s):
        if isinstance(row, Skipped):
            yield row
            continue
        path, window, logits = row
        scores = logits[order].sigmoid() if multi else logits[order].softmax(dim=-1)
        best = _best(shown, scores, top=top, min_score=min_score)
        yield Answer(path=path, names=best, start=window.start, end=window.end)


def named_places(model: Classifier, names: Sequence[str] | None) -> tuple[tuple[int, str], ...]:
    """(place among the logits, name) of the classes to choose from, in the order of the logits.

    `names` are some of the model's own, or a new one for each of its classes in their order; None is all of
    its own. Raises ClassNamesError.
    """
    own, count = model.class_names, model.classes
    if names is None and own:
        return tuple(enumerate(own))
    if names is not None and set(names) <= set(own):
        return tuple((place, name) for place, name in enumerate(own) if name in names)
    if names is not None and len(names) == count:
        return tuple(enumerate(names))
    given = "has no names for them" if names is None else f"is given {len(names)} names"
    if names is not None and own:
        given += f", of which {few([repr(name) for name in names if name not in own])} are not its own"
    some = f"some of its own ({few(own)}) or " if own else ""
    raise ClassNamesError(
        f"the model has {count} classes and {given}; expected {some}--labels with {count} names in the order "
        "of its classes, such as the folder of the data set that it was trained on"
    )


def _heard(
    model: Classifier, files: Iterable[Path], *, mono: bool, window_s: float | None
) -> Iterator[tuple[str, Window, Tensor] | Skipped]:
    """(path, window, logits) of every window of sound, in order; the next files are read meanwhile."""
    read = partial(_windows, model.sample_rate, mono=mono, window_s=window_s)
    with closing(read_ahead(files, read, readers=READERS, held=BATCH)) as items:
        for kind, group in groupby(items, key=type):
            if kind is Skipped:
                yield from (item for item in group if isinstance(item, Skipped))
                continue
            for run in runs((item for item in group if not isinstance(item, Skipped)), BATCH):
                rows = model.score_audio(
                    torch.stack([window.waveform for _, window in run]), model.sample_rate
                )
                yield from ((path, window, row) for (path, window), row in zip(run, rows.cpu(), strict=True))


def _windows(
    sample_rate: int, file: Path, *, mono: bool, window_s: float | None
) -> Iterator[tuple[str, Window] | Skipped]:
    if file.suffix.lower() in PICTURES:
        yield Skipped(what=str(file), reason="a classifier of sounds sees no pictures")
        return
    try:
        for window in windows_of(file, sample_rate, mono=mono, window_s=window_s):
            yield str(file), window
    except (SoundError, OSError) as error:
        yield Skipped(what=str(file), reason=str(error))


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
