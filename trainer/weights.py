"""Weights in files: the published layouts, our own, and every key of one accounted for in the other."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from shards.whole_file import appearing

State = Mapping[str, Tensor]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

# (ours, published): the first prefix that fits renames; text has none in CLIP, so it comes last
_PREFIXES = (
    ("audio.fbsp.window", "audio.window"),
    ("log_scales.audio_image", "logit_scale_ai"),
    ("log_scales.audio_text", "logit_scale_at"),
    ("log_scales.image_text", "logit_scale"),
    ("image.trunk.", "visual."),
    ("audio.", "audio."),
    ("text.", ""),
)
EMPTY = frozenset({"audio.fbsp.bias"})  # published with shape (0,): there is nothing to keep of it
_ARCHIVE_FACTS = frozenset(
    {"input_resolution", "context_length", "vocab_size"}
)  # sizes, not weights: OpenAI's files


class WeightsError(ValueError):
    """A weights file that cannot be read, or does not fit the model."""


class Layout(StrEnum):
    """Whose names the tensors of a file have."""

    OURS = "a Trichord encoder"
    AUDIOCLIP = "AudioCLIP as published"
    CLIP = "CLIP as published by OpenAI"
    AUDIO_CLASSIFIER = "an ESResNeXt-fbsp classifier as published"
    RESNEXT = "a torchvision ResNeXt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What became of every key: those loaded, those of the file left out on purpose, those the model kept."""

    loaded: tuple[str, ...]  # our names
    left_out: tuple[str, ...] = ()  # the file's names
    kept: tuple[str, ...] = ()  # our names, still as they were initialised


# -- files


def read_state(path: Path) -> dict[str, Tensor]:
    """Name → float tensor on the CPU, of a .safetensors file, a PyTorch file or OpenAI's TorchScript archive.

    Nothing in the file is executed except a TorchScript archive's own, restricted language. Raises
    WeightsError.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} is no weights file (.safetensors, .pt or .pth), and no folder of a run or model"
        )
    try:
        state = _read(path)
    except Exception as error:  # PyTorch's unpickler raises whatever it stumbles over in what is no pickle
        raise WeightsError(
            f"{path} is no readable weights file{_looks_like(path)}: {_first_line(error)}"
        ) from None
    return {name: _floated(tensor) for name, tensor in _unwrapped(state, path).items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if _is_torchscript(path):
        return torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(64)
    if begin.startswith(b"version https://git-lfs"):
        return " but a git-lfs pointer to one (fetch the file itself: trichord weights fetch)"
    return " but a web page" if begin.lstrip()[:1] == b"<" else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor]:
    """The tensors themselves, out of a training checkpoint's dict and of DataParallel's `module.`."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path} holds {type(state).__name__}; expected a mapping of names to tensors")
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{path} holds no tensor under {few(map(str, odd))}; expected tensors only")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _floated(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def save_model(encoder: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Our own form: `model.safetensors`, with `config.json` beside it; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with appearing(folder / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with appearing(folder / WEIGHTS) as partial:  # the weights come last: a folder that has them is whole
        safetensors.torch.save_file(state, partial)


def read_config(folder: Path) -> dict[str, Any]:
    """The config beside a weights file. Raises WeightsError."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        return config
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} holds no {CONFIG}; expected the folder of a run or of `save_model`"
        ) from None
    except json.JSONDecodeError as error:
        raise WeightsError(f"{folder / CONFIG} is not readable: {error}; restore it from a copy") from None


def save_published(encoder: nn.Module, path: Path) -> None:
    """A file in the layout that the authors' own code loads."""
    with appearing(path) as partial:
        torch.save(to_published(encoder.state_dict()), partial)


def state_hash(state: State, config: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name these weights under this configuration."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # nothing is copied
    return digest.hexdigest()[:16]


# -- names


def layout_of(state: State) -> Layout:
    """Whose names these are. Raises WeightsError, with the first names, for nobody's."""
    marks = (
        (Layout.AUDIOCLIP, ("visual.", "audio.")),
        (Layout.AUDIO_CLASSIFIER, ("fbsp.", "att1.")),
        (Layout.CLIP, ("visual.", "transformer.")),
        (Layout.RESNEXT, ("conv1.", "layer1.", "layer4.")),
    )
    if any(name.startswith(("log_scales.", "image.trunk.", "text.")) for name in state):
        return Layout.OURS
    for layout, prefixes in marks:
        if all(any(name.startswith(prefix) for name in state) for prefix in prefixes):
            return layout
    known = "; ".join(Layout)
    raise WeightsError(f"the names {few(state)} are of no known layout; expected one of: {known}")


def our_name(published: str) -> str:
    """What a tensor of a published AudioCLIP or CLIP file is called here."""
    for ours, theirs in _PREFIXES:
        if published == theirs or (theirs.endswith(".") and published.startswith(theirs)):
            return ours + published[len(theirs) :]
    return f"text.{published}"


def published_name(ours: str) -> str:
    """What one of our tensors is called in a published file. Raises WeightsError for a name that has none."""
    for prefix, theirs in _PREFIXES:
        if ours == prefix or (prefix.endswith(".") and ours.startswith(prefix)):
            return theirs + ours[len(prefix) :]
    raise WeightsError(
        f"{ours} has no name in the published layout; expected audio, image, text or log_scales"
    )


def from_published(state: State) -> dict[str, Tensor]:
    """A published AudioCLIP or CLIP state under our names."""
    return {our_name(name): tensor for name, tensor in state.items() if name not in EMPTY | _ARCHIVE_FACTS}


def to_published(state: State) -> dict[str, Tensor]:
    """Our state under the published names, with the empty tensors that belong to the layout."""
    published = {published_name(name): tensor.detach().cpu() for name, tensor in state.items()}
    heard = any(name.startswith("audio.") for name in published)
    return {**published, **({name: torch.zeros(0) for name in EMPTY} if heard else {})}


# -- into models


def load_ours(encoder: nn.Module, state: State, *, source: str) -> Account:
    """Every tensor from a state under our names and none left over; WeightsError names the first at fault."""
    expected = encoder.state_dict()
    check_names(expected, state, source=source)
    encoder.load_state_dict(dict(state), strict=True)
    return Account(loaded=tuple(sorted(expected)))


def load_published(encoder: nn.Module, state: State, *, source: str) -> Account:
    """As `load_ours`, from a published AudioCLIP or CLIP state; the error has the file's own names."""
    left_out = tuple(name for name in state if name in _ARCHIVE_FACTS)
    given = {name: tensor for name, tensor in state.items() if name not in left_out}
    check_names(to_published(encoder.state_dict()), given, source=source)
    ours = from_published(given)
    encoder.load_state_dict(ours, strict=True)
    return Account(loaded=tuple(sorted(ours)), left_out=(*left_out, *(EMPTY & set(given))))


def check_names(expected: State, given: State, *, source: str) -> None:
    """WeightsError unless both have the same names and shapes."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} has {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} of {total} tensors {what} ({few(names)})"
        for names, total, what in (
            (missing, len(expected), "are missing"),
            (unexpected, len(given), "are unknown"),
            (shapes, len(expected), "have another shape"),
        )
        if names
    ]
    if faults:
        raise WeightsError(f"{source} does not fit: {'; '.join(faults)}")


def few(names: Iterable[str], most: int = 3) -> str:
    """The first of them, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
