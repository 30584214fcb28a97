"""The pairs of modalities, and the logits between them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor

from trainer.batch import MODALITIES, Embeddings
from trainer.devices import float32_arithmetic

PAIRS = tuple("_".join(pair) for pair in combinations(MODALITIES, 2))


def check_pairs(pairs: Sequence[str], by_label: Sequence[str]) -> None:
    """Raises ValueError for no pair, for what is none, and for one given twice."""
    _check(pairs, "pairs")
    _check(by_label, "by_label")
    if not pairs:
        raise ValueError(f"pairs is empty; expected some of {', '.join(PAIRS)}")


def _check(pairs: Sequence[str], field: str) -> None:
    if unknown := [pair for pair in pairs if pair not in PAIRS]:
        raise ValueError(f"{field} has {', '.join(unknown)}; expected some of {', '.join(PAIRS)}")
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"{field} has {', '.join(pairs)}; expected each of them once")


def modalities_of(pairs: Sequence[str]) -> tuple[str, ...]:
    """The modalities that occur in `pairs`."""
    return tuple(modality for modality in MODALITIES if any(modality in pair.split("_") for pair in pairs))


def pair_logits(embeddings: Embeddings, pair: str, scales: Mapping[str, Tensor]) -> Tensor:
    """(N, N) scaled cosines of `audio_text`: a row per audio, a column per text. For use within `precise`."""
    first, second = (_embedded(embeddings, modality, pair) for modality in pair.split("_"))
    return scalar(scales, pair).to(first.dtype) * (first @ second.T)


def scalar(scales: Mapping[str, Tensor], name: str) -> Tensor:
    """What the learner gives under that name. Raises ValueError where it does not."""
    if name not in scales:
        had = ", ".join(scales) or "nothing"
        raise ValueError(f"the learner gives no scale {name!r}; expected it among what it has: {had}")
    return scales[name]


@contextmanager
def precise(embeddings: Embeddings) -> Iterator[None]:
    """Float32 whatever towers run in: at a scale of 100, bfloat16 and TF32 would move logits by tenths."""
    given = [rows for _, rows in embeddings.present()] + [embeddings.class_logits]
    device = next((rows.device.type for rows in given if rows is not None), "cpu")
    with torch.autocast(device, enabled=False), float32_arithmetic():
        yield


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precisions become float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _embedded(embeddings: Embeddings, modality: str, pair: str) -> Tensor:
    rows: Tensor | None = getattr(embeddings, modality)
    if rows is None:
        present = ", ".join(name for name, _ in embeddings.present()) or "none"
        raise ValueError(f"the pair {pair} has no {modality} embeddings; the model gave: {present}")
    return at_least_float32(rows)
