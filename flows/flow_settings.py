"""A flow's parameters as the settings they stand for, or one clear error."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.settings import IngestSettings, SettingsError, checked_split, split_of
from shards.profile import Profile

_PATHS = ("segments", "out", "media", "work", "class_labels", "ontology")
_PROFILE = {field.name for field in fields(Profile)}
_SETTINGS = {field.name for field in fields(IngestSettings)} - {"profile"}


def settings_of(
    segments: str, out: str, split: str | None, given: Mapping[str, Any], options: Mapping[str, Any]
) -> IngestSettings:
    """The settings; a relative path is answered with its absolute form, a misspelling with a hint."""
    _check_options(options)
    merged = {
        "segments": segments,
        "out": out,
        **{k: v for k, v in given.items() if v is not None},
        **options,
    }
    for name in _PATHS:
        if name in merged:
            _check_absolute(name, merged[name])
    profile = {name: merged.pop(name) for name in _PROFILE & set(merged)}
    tuples = {name: tuple(value) for name, value in merged.items() if isinstance(value, list)}
    try:
        return IngestSettings(
            **{**merged, **tuples},
            split=checked_split(split or split_of(segments)),
            profile=Profile(**profile),
        )
    except TypeError as error:
        raise SettingsError(f"options: {error}; expected the types of `trichord ingest --help`") from None


def _check_options(options: Mapping[str, Any]) -> None:
    known = sorted(_SETTINGS | _PROFILE)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"expected some of {', '.join(known)}"
            raise SettingsError(f"options: there is no {name!r}; {hint}")


def _check_absolute(name: str, path: str) -> None:
    if "://" not in path and not Path(path).is_absolute():
        raise SettingsError(
            f"{name} is {path!r}: a worker runs in a folder of its own; expected an absolute path, "
            f"such as {Path(path).absolute()}"
        )
