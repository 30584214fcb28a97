"""A stage as rows of path, value and source; as JSON; and what differs between two."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trainer.stage import OURS, Stage

FORMAT = 1
_HEAD = {"name", "about", "sources"}  # what a stage is called and where it is from, not what it does


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """One value of a stage."""

    path: str  # "optim.lr"
    value: Any
    hint: Any  # its type, as annotated


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of `trichord recipe show`."""

    path: str
    value: str
    source: str


def leaves(stage: Stage) -> Iterator[Leaf]:
    """Every value, in the order of the fields; an objective is its name, then its own fields."""
    for field in dataclasses.fields(stage):
        if field.name not in _HEAD:
            yield from _leaves(field.name, getattr(stage, field.name), _hints(type(stage))[field.name])


def _leaves(path: str, value: Any, hint: Any) -> Iterator[Leaf]:
    if path == "objective":
        yield Leaf(path=path, value=objective_name(value), hint=Callable)
    if is_value(value):
        hints = _hints(type(value))
        for field in dataclasses.fields(value):
            yield from _leaves(f"{path}.{field.name}", getattr(value, field.name), hints[field.name])
    elif path != "objective":
        yield Leaf(path=path, value=value, hint=hint)


def is_value(value: Any) -> bool:
    """Whether it is a dataclass's instance, so that its fields can be named and replaced."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def objective_name(objective: Any) -> str:
    """How an objective is called: its function's or its class's name."""
    named = objective if inspect.isroutine(objective) or isinstance(objective, type) else type(objective)
    return str(named.__name__)


def source_of(stage: Stage, path: str) -> str:
    """Where a value is from: its own source, or that of what it is part of."""
    while path:
        if path in stage.sources:
            return stage.sources[path]
        path = path.rpartition(".")[0]
    return OURS


def describe(stage: Stage) -> list[Row]:
    """Every value with its source, as text."""
    return [
        Row(path=leaf.path, value=shown(leaf.value), source=source_of(stage, leaf.path))
        for leaf in leaves(stage)
    ]


def shown(value: Any) -> str:
    """A value as `--set` takes it: `0.0001`, `true`, `a,b`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def stage_to_json(stage: Stage) -> dict[str, Any]:
    """All of it, for a file beside a run: JSON's own types, keys in the order of the fields."""
    told = {leaf.path: _plain(leaf.value) for leaf in leaves(stage)}
    sources = {leaf.path: source_of(stage, leaf.path) for leaf in leaves(stage)}
    return {
        "format": FORMAT,
        "name": stage.name,
        "about": stage.about,
        "values": told,
        "sources": sources,
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return repr(value)


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, left value, right value) where two stages' JSON differ; None where one has no such value."""
    ours, theirs = left["values"], right["values"]
    paths = list(dict.fromkeys([*ours, *theirs]))
    return [(path, ours.get(path), theirs.get(path)) for path in paths if ours.get(path) != theirs.get(path)]
