"""Recipes and objectives from files outside the repository: loaded by `FILE.py:NAME`, kept with their run."""

import difflib
import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from shards.whole_file import appearing
from trainer.run_request import RunError

Role = Literal["recipe", "objective"]
FOLDER = "code"  # of a run
_OURS = ("trainer", "shards", "pipeline", "flows")  # named by the run's git hash


class UserCodeError(RunError):
    """A user's file does not give what was asked of it; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserCode:
    """What a file gave, and the file, with those beside it that it imported."""

    role: Role
    reference: str  # as it was typed
    name: str
    value: Any
    files: Mapping[str, bytes]  # by path relative to the first one's folder; the first was asked for

    @property
    def sha256(self) -> str:
        """Of all files with their names."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


def names_file(reference: str) -> bool:
    """Whether the text is a FILE.py:NAME, or a file without one, rather than a name of ours."""
    return ".py" in reference or "/" in reference


def load_user_code(reference: str, role: Role) -> UserCode:
    """What `FILE.py:NAME` names, after running the file. Raises UserCodeError."""
    file, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserCodeError(
            f"no file {str(path)!r}; expected FILE.py:NAME, the file of {_an(role)} and its name"
        )
    return _loaded(path.resolve(), name, role, reference)


def keep(code: UserCode, run: Path) -> None:
    """Copies its files into the run's `code/{role}/`, and last what they are; each whole or not at all."""
    folder = run / FOLDER / code.role
    for name, content in code.files.items():
        _write(folder / name, content)
    facts = {
        "reference": code.reference,
        "file": next(iter(code.files)),
        "name": code.name,
        "files": list(code.files),
        "sha256": code.sha256,
    }
    _write(run / FOLDER / f"{code.role}.json", (json.dumps(facts, indent=2) + "\n").encode())


def kept(run: Path, role: Role) -> UserCode | None:
    """The code that a run was begun with, from its own folder; None where it used none.

    Raises UserCodeError when the copy is not what it was.
    """
    record = run / FOLDER / f"{role}.json"
    if not record.is_file():
        return None
    facts = json.loads(record.read_text())
    folder = run.resolve() / FOLDER / role
    code = _loaded(folder / facts["file"], facts["name"], role, facts["reference"], files=facts["files"])
    if code.sha256 != facts["sha256"]:
        raise UserCodeError(
            f"{folder} was changed since the run began: sha256 {code.sha256[:12]}, "
            f"not {facts['sha256'][:12]}; restore it, or begin another --out"
        )
    return code


def _loaded(path: Path, name: str, role: Role, reference: str, *, files: list[str] | None = None) -> UserCode:
    content = path.read_bytes()
    before = set(sys.modules)
    module = _run(path, content, role)
    beside = files[1:] if files else _imported_from(path.parent, set(sys.modules) - before, but=path)
    others = {each: (path.parent / each).read_bytes() for each in beside}
    return UserCode(
        role=role,
        reference=reference,
        name=name,
        value=_named(module, name, path, role),
        files={path.name: content, **others},
    )


def _run(path: Path, content: bytes, role: Role) -> ModuleType:
    """The file as a module that pickle and dataclasses can find; its neighbours can be imported."""
    spec = importlib.util.spec_from_loader(f"_trichord_{role}_{path.stem}", loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        with _importing_from(path.parent):
            exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise UserCodeError(f"{path.name} does not run: {_where(error, path)}") from error
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _where(error: Exception, path: Path) -> str:
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if frame.filename == str(path) else line
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {said}" + (f" (line {line})" if line else "")


def _imported_from(folder: Path, names: set[str], *, but: Path) -> list[str]:
    """Files under the folder that these modules are, relative to it."""
    theirs = (name for name in names if name.partition(".")[0] not in _OURS)
    found = (getattr(sys.modules.get(name), "__file__", None) for name in theirs)
    paths = (Path(file).resolve() for file in found if file and file.endswith(".py"))
    inside = (path.relative_to(folder) for path in paths if path.is_relative_to(folder) and path != but)
    return sorted(path.as_posix() for path in inside if "site-packages" not in path.parts)


def _named(module: ModuleType, name: str, path: Path, role: Role) -> Any:
    own = [each for each, value in vars(module).items() if _is_own(each, value, module)]
    if not name:
        raise UserCodeError(
            f"{path.name}: no name; expected {path.name}:NAME, one of {', '.join(own) or 'none'}"
        )
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, own, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no names'}"
        raise UserCodeError(f"{path.name} has no {name!r} for {_an(role)}; {hint}")
    return getattr(module, name)


def _is_own(name: str, value: Any, module: ModuleType) -> bool:
    foreign = (
        isinstance(value, ModuleType) or getattr(value, "__module__", module.__name__) != module.__name__
    )
    return not name.startswith("_") and not foreign


def _an(role: Role) -> str:
    return "an objective" if role == "objective" else "a recipe"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        partial.write_bytes(content)
