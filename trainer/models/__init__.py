"""The door to every model: a name, a path, a run folder or a state dict in, a ready encoder out."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainer.batch import MODALITIES
from trainer.devices import checked_precision, choose_device
from trainer.fetch import cache_folder, fetch
from trainer.models.audioclip import EncoderConfig, build_encoder
from trainer.models.clip import RN50
from trainer.models.encoder import Encoder
from trainer.published import FILES, PublishedFile, published_file
from trainer.weights import (
    CONFIG,
    WEIGHTS,
    Layout,
    WeightsError,
    layout_of,
    load_ours,
    load_published,
    read_config,
    read_state,
    save_model,
)

__all__ = ["Encoder", "EncoderConfig", "build_encoder", "load_model", "save_encoder"]


def load_model(
    source: str | Path | Mapping[str, Tensor],
    *,
    device: str | torch.device = "auto",
    profile: str | None = None,
    precision: str = "float32",
    compile: bool = False,
) -> Encoder:
    """An encoder in evaluation mode on `device` (auto: cuda, mps or cpu).

    `source` is the name of published weights (fetched on first use), a weights file in a published layout
    or ours, a folder with `model.safetensors` and `config.json`, or a state dict. `profile` is `paper` or
    `released`; left out, it is the one that a folder was saved with, or `paper`.

    `precision` bf16 lets towers multiply in bfloat16; the wavelet front-end, what the towers pool and the
    logits stay in float32. `compile` makes faster code of each tower, at the cost of a minute when it first
    runs. Raises WeightsError, FetchError or ValueError.
    """
    checked_precision(precision)
    found = _read(source)
    config = found.config if profile is None else dataclasses.replace(found.config, profile=profile)
    chosen = choose_device(device)
    with _WithoutDrawing():  # every weight comes from the file
        encoder = build_encoder(config)
    load = load_published if found.published else load_ours
    load(encoder, found.state, source=found.name)
    encoder.precision = precision
    if compile:
        encoder.compile_towers()
    return encoder.to(chosen).eval()


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Writes what `load_model(folder)` reads."""
    save_model(encoder, encoder.config, folder)


class _WithoutDrawing(TorchFunctionMode):
    """Leaves tensors as they are where modules would draw initial weights, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What `load_model` was given, read."""

    state: Mapping[str, Tensor]
    config: EncoderConfig
    name: str  # for messages
    published: bool = False  # whether the state has the published names


def _read(source: str | Path | Mapping[str, Tensor]) -> _Source:
    if isinstance(source, Mapping):
        return _named(source, "the state dict")
    path = _found(source)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == WEIGHTS and (folder / CONFIG).is_file()):
        return _Source(config=_config(folder), state=read_state(folder / WEIGHTS), name=str(folder))
    return _named(read_state(path), str(path))


def _found(source: str | Path) -> Path:
    if str(source) in {file.name for file in FILES}:
        return fetch(_encoder_file(str(source)), cache_folder())
    path = Path(source).expanduser()
    if not path.exists():
        names = ", ".join(file.name for file in FILES if file.encoder)
        raise WeightsError(f"no model {str(source)!r}; expected a file, a folder, or one of {names}")
    return path


def _encoder_file(name: str) -> PublishedFile:
    file = published_file(name)
    if not file.encoder:
        raise WeightsError(f"{name} is {file.content}: a start for training, not an encoder")
    return file


def _config(folder: Path) -> EncoderConfig:
    facts = read_config(folder)
    if "kind" in facts:
        raise WeightsError(
            f"{folder} holds a {facts['kind']}, which embeds nothing; name sounds with it: "
            f"`trichord classify --model {folder}`, or trainer.classifier.load_classifier"
        )
    try:
        return EncoderConfig.from_json(facts)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{folder / CONFIG}: {error}") from None


def _named(state: Mapping[str, Tensor], name: str) -> _Source:
    """A state without a configuration beside it: its names tell what it is."""
    layout = layout_of(state)
    if layout is Layout.AUDIO_CLASSIFIER or layout is Layout.RESNEXT:
        raise WeightsError(f"{name} is {layout}: a start for training, not an encoder")
    if layout is Layout.OURS:
        parts = dict.fromkeys(key.split(".")[0] for key in state)
        towers = tuple(part for part in MODALITIES if part in parts)
        return _Source(state=state, config=EncoderConfig(towers=towers), name=name)
    config = EncoderConfig()
    if layout is Layout.CLIP:
        config = EncoderConfig(towers=("image", "text"), clip=_clip_name(state))
    return _Source(state=state, config=config, name=name, published=True)


def _clip_name(state: Mapping[str, Tensor]) -> str:
    """The open_clip configuration of OpenAI's two files that are in use here."""
    return RN50 if "visual.attnpool.k_proj.weight" in state else "ViT-B-32-quickgelu"
