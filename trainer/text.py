"""Texts as CLIP reads them: token ids between a start and an end."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # open_clip takes seconds to import: only what reads a text does
    from open_clip.tokenizer import SimpleTokenizer


class TextError(ValueError):
    """A text that a model cannot read."""


def tokenize(texts: Sequence[str], context_length: int = 77, *, truncate: bool = False) -> Tensor:
    """(B, context_length) int64: start, byte-pair codes of the cleaned lower-case text, end, zeros.

    Raises TextError, which names the text, when one has more tokens than fit and `truncate` is off.
    """
    rows = [_codes(text, context_length, truncate=truncate) for text in texts]
    tokens = torch.zeros(len(rows), context_length, dtype=torch.long)
    for row, codes in zip(tokens, rows, strict=True):
        row[: len(codes)] = torch.tensor(codes)
    return tokens


def _codes(text: str, context_length: int, *, truncate: bool) -> list[int]:
    codes = [_tokenizer().sot_token_id, *_encoded(text), _tokenizer().eot_token_id]
    if len(codes) <= context_length:
        return codes
    if not truncate:
        raise TextError(
            f"the text {_shown(text)} has {len(codes)} tokens; expected at most {context_length}, "
            "start and end included: shorten it, or allow it to be truncated"
        )
    return [*codes[: context_length - 1], codes[-1]]


def _encoded(text: str) -> list[int]:
    if not isinstance(text, str):
        raise TextError(f"{text!r} is {type(text).__name__}; expected a string")
    try:
        return list(_tokenizer().encode(text))
    except UnicodeEncodeError:
        raise TextError(f"the text {_shown(text)} holds half a character; expected valid Unicode") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


@cache
def _tokenizer() -> "SimpleTokenizer":
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()  # reads open_clip's vocabulary file, the one OpenAI published
