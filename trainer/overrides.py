"""What a person may change of a stage when they launch it: `optim.lr=3e-4`, by the type of the field."""

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from trainer.run_request import RunError
from trainer.stage import Stage, derive
from trainer.stage_view import Leaf, leaves, shown

SOURCE = "--set"
_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class OverrideError(RunError):
    """An override names no value of the stage, or gives one that cannot be; the message is one line."""


def apply_overrides(stage: Stage, overrides: Sequence[str]) -> Stage:
    """`stage` with the values of `path=value` texts, in their order; their source is `--set`.

    Tuples are separated by commas, and an empty text is an empty tuple. Raises OverrideError.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise OverrideError(f"--set {override}: no '='; expected PATH=VALUE, such as optim.lr=3e-4")
        leaf = _named(stage, path.strip())
        stage = _set(stage, leaf, text.strip())
    return stage


def _set(stage: Stage, leaf: Leaf, text: str) -> Stage:
    value = _value(leaf, text)
    try:
        return derive(stage, SOURCE, **{leaf.path.replace(".", "__"): value})
    except ValueError as error:  # an objective checks its own fields
        raise OverrideError(f"--set {leaf.path}={text}: {error}") from None


def _named(stage: Stage, path: str) -> Leaf:
    known = {leaf.path: leaf for leaf in leaves(stage)}
    if path == "objective":
        raise OverrideError("--set objective: an objective is code; expected --objective FILE.py:NAME")
    if path not in known:
        raise OverrideError(f"--set {path}: {stage.name} has no such value; {_hint(path, list(known))}")
    return known[path]


def _hint(path: str, known: Sequence[str]) -> str:
    """The nearest names: those beneath it, those that end in the same word, those spelt alike."""
    words = {name: name.rpartition(".")[2] for name in known}
    last = path.rpartition(".")[2]
    beneath = [name for name in known if name.startswith(f"{path}.")]
    same = [name for name, word in words.items() if word == last]
    alike = difflib.get_close_matches(path, known, n=2, cutoff=0.8)
    nearly = difflib.get_close_matches(last, words.values(), n=2, cutoff=0.7)
    found = beneath or same or alike or [name for name, word in words.items() if word in nearly]
    if found:
        return f"did you mean {' or '.join(found[:4])}?"
    return "expected one of those that `trichord recipe show` lists"


def _value(leaf: Leaf, text: str) -> Any:
    try:
        return parsed(text, leaf.hint)
    except ValueError as error:
        raise OverrideError(
            f"--set {leaf.path}={text}: {error} (now {shown(leaf.value) or 'empty'})"
        ) from None


def parsed(text: str, hint: Any) -> Any:
    """The text as a value of this type. Raises ValueError, which says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _choice(text, arguments)
    if origin is tuple:
        return _many(text, arguments)
    if origin in (typing.Union, types.UnionType):
        return _either(text, arguments)
    if hint not in _SCALARS:
        raise ValueError(
            f"a {getattr(hint, '__name__', hint)} cannot be written here; expected a recipe in a file"
        )
    return _SCALARS[hint](text)


def _either(text: str, kinds: tuple[Any, ...]) -> Any:
    """By the first of these types that the text is of; None where that is one of them."""
    if type(None) in kinds and text.lower() == "none":
        return None
    expected: list[str] = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return parsed(text, kind)
            except ValueError as error:
                expected.append(str(error).replace("expected ", "") if expected else str(error))
    raise ValueError(", or ".join(expected))


def _choice(text: str, choices: tuple[Any, ...]) -> Any:
    named = {str(choice): choice for choice in choices}
    if text not in named:
        near = difflib.get_close_matches(text, named, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{hint}expected {' or '.join(named)}")
    return named[text]


def _many(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    texts = [part.strip() for part in text.split(",")] if text else []
    if texts and not texts[-1]:
        texts.pop()  # a comma at the end, as in Python's tuple of one
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(texts)
    if len(texts) != len(kinds):
        raise ValueError(f"{len(texts)} values; expected {len(kinds)}, with commas between")
    return tuple(parsed(part, kind) for part, kind in zip(texts, kinds, strict=True))


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError("expected true or false")
    return _TRUTH[text.lower()]


def _whole(text: str) -> int:
    try:
        value = float(text.replace("_", "")) if "e" in text.lower() else int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None
    if value != int(value):
        raise ValueError("expected a whole number")
    return int(value)


def _real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("expected a finite number")
    return value


_SCALARS: dict[Any, Any] = {bool: _truth, int: _whole, float: _real, str: str}
