"""The weights that a stage starts from: published ones, files, another run; every key accounted for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trainer.classifier import Classifier
from trainer.fetch import FetchError, cache_folder, fetch
from trainer.freeze import matches
from trainer.initialise import initialise_audio, initialise_clip, initialise_from_imagenet
from trainer.models.encoder import Encoder
from trainer.published import FILES, published_file
from trainer.run_request import RunError
from trainer.stage import Stage
from trainer.weights import (
    EMPTY,
    WEIGHTS,
    Account,
    Layout,
    State,
    WeightsError,
    check_names,
    few,
    from_published,
    layout_of,
    read_state,
)

RANDOM = "random"
_AUDIO, _CLIP = ("audio.", "log_scales.audio_"), ("image.", "text.", "log_scales.image_text")
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where some of a model's weights came from."""

    source: str
    account: Account


class StartError(RunError):
    """Weights to start from that cannot be had or do not fit."""


def start_from(stage: Stage, model: Encoder | Classifier) -> tuple[Origin, ...]:
    """Loads what `stage.start` names, `run` last. Raises StartError."""
    return tuple(_origins(stage, model))


def _origins(stage: Stage, model: Encoder | Classifier) -> Iterator[Origin]:
    start = stage.start
    if start.clip != RANDOM and isinstance(model, Encoder) and "image" in model.modalities:
        yield _loaded(model, start.clip, "start.clip", stage)
    if start.audio != RANDOM and "audio" in model.modalities:
        yield _loaded(model, start.audio, "start.audio", stage)
    if start.run:
        yield _loaded(model, start.run, "start.run", stage)


def _loaded(model: Encoder | Classifier, source: str, path: str, stage: Stage) -> Origin:
    load = {"start.clip": _load_clip, "start.audio": _load_audio, "start.run": _load_run}[path]
    try:
        state = _state(source, path)
        return Origin(source=source, account=load(model, state, stage, source))
    except WeightsError as error:
        raise StartError(f"{_asked(path, source)}: {error}") from None


def _state(source: str, path: str) -> State:
    if source in {file.name for file in FILES}:
        return read_state(_fetched(source, path))
    file = Path(source).expanduser()
    if file.is_dir():
        file = file / WEIGHTS
        if not file.is_file():
            raise WeightsError(f"no {WEIGHTS} in that folder; expected a run that has reached a checkpoint")
    return read_state(file)


def _fetched(name: str, path: str) -> Path:
    try:
        return fetch(published_file(name), cache_folder(), attempts=_ATTEMPTS)
    except FetchError as error:
        instead = f"; or start without it: --set {path}={RANDOM}" if path != "start.run" else ""
        by_hand = f"trichord weights fetch {name} --from FILE"
        told = "" if by_hand in str(error) else f"; or fetch it elsewhere and run: {by_hand}"
        raise StartError(f"{_asked(path, name)}: {error}{told}{instead}") from None


def _asked(path: str, source: str) -> str:
    """As one types it."""
    return f"--from {source}" if path == "start.run" else f"--set {path}={source}"


def _load_clip(model: Encoder | Classifier, state: State, stage: Stage, source: str) -> Account:
    """Image and text towers and the scale between them, of a CLIP or of a whole model."""
    assert isinstance(model, Encoder)
    layout = layout_of(state)
    if layout is Layout.CLIP:
        return initialise_clip(model, state, source=source)
    return _load_parts(model, _ours(state, layout, source), _CLIP, source=source)


def _load_audio(model: Encoder | Classifier, state: State, stage: Stage, source: str) -> Account:
    """The audio head, of a classifier, of a ResNeXt or of a whole model."""
    layout = layout_of(state)
    if layout is Layout.AUDIO_CLASSIFIER:
        return initialise_audio(model.get_submodule("audio"), state, source=source)  # type: ignore[arg-type]  # it is one
    if layout is Layout.RESNEXT:
        return initialise_from_imagenet(model.get_submodule("audio"), state, source=source)  # type: ignore[arg-type]
    return _load_parts(model, _ours(state, layout, source), _AUDIO, source=source)


def _load_run(model: Encoder | Classifier, state: State, stage: Stage, source: str) -> Account:
    """All of it, but for what is `replaced` and for heads that only one of both has."""
    layout = _run_layout(state)
    if layout is Layout.AUDIO_CLASSIFIER:
        state, layout = _as_audio_head(state), Layout.OURS
    return _load_all(model, _ours(state, layout, source), stage.start.replaced, source=source)


def _run_layout(state: State) -> Layout:
    """A run's classifier has our names, though only `audio.`, which no layout's marks tell apart."""
    ours = all(name.startswith("audio.") for name in state)
    return Layout.OURS if ours else layout_of(state)


def _as_audio_head(state: State) -> dict[str, Tensor]:
    return {
        f"audio.{name.removeprefix('audio.')}".replace("audio.window", "audio.fbsp.window"): tensor
        for name, tensor in state.items()
        if name not in EMPTY and f"audio.{name}" not in EMPTY
    }


def _ours(state: State, layout: Layout, source: str) -> State:
    if layout is Layout.OURS:
        return state
    if layout in (Layout.AUDIOCLIP, Layout.CLIP):
        return from_published(state)
    raise WeightsError(f"{source} is {layout}; expected a whole model")


def _load_parts(
    model: Encoder | Classifier, given: State, prefixes: tuple[str, ...], *, source: str
) -> Account:
    """Everything of the model under these prefixes; the last layer may have another shape."""
    own = model.state_dict()
    wanted = {name: tensor for name, tensor in own.items() if name.startswith(prefixes)}
    offered = {name: tensor for name, tensor in given.items() if name.startswith(prefixes)}
    last = [name for name in wanted if name.startswith("audio.fc.") and _reshaped(name, offered, own)]
    fitting = {name: tensor for name, tensor in offered.items() if name in wanted and name not in last}
    check_names({name: wanted[name] for name in wanted if name not in last}, fitting, source=source)
    model.load_state_dict({**own, **fitting}, strict=True)
    return _account(own, given, fitting)


def _load_all(
    model: Encoder | Classifier, given: State, replaced: tuple[str, ...], *, source: str
) -> Account:
    own = model.state_dict()
    if idle := [pattern for pattern in replaced if not any(matches(name, (pattern,)) for name in own)]:
        raise WeightsError(f"start.replaced pattern {idle[0]!r} names nothing; expected such as audio.fc.*")
    shared = _heads(own) & _heads(given)
    if not shared:
        raise WeightsError(
            f"it has {few(sorted(_heads(given)))}, the stage {few(sorted(_heads(own)))}: nothing in common"
        )
    wanted = {name: own[name] for name in own if _heads([name]) <= shared and not matches(name, replaced)}
    fitting = {
        name: given[name] for name in given if _heads([name]) <= shared and not matches(name, replaced)
    }
    _check_shapes(wanted, fitting, source=source)
    model.load_state_dict({**own, **fitting}, strict=True)
    return _account(own, given, fitting)


def _check_shapes(wanted: State, fitting: State, *, source: str) -> None:
    try:
        check_names(wanted, fitting, source=source)
    except WeightsError as error:
        if any(_reshaped(name, fitting, wanted) for name in wanted):
            raise WeightsError(f"{error}; --set start.replaced=PATTERN draws such weights anew") from None
        raise


def _heads(names: State | list[str]) -> set[str]:
    """First parts of names; each scale counts as a head of its own."""
    return {name if name.startswith("log_scales.") else name.split(".")[0] for name in names}


def _reshaped(name: str, given: State, own: State) -> bool:
    return name in given and given[name].shape != own[name].shape


def _account(own: State, given: State, fitting: State) -> Account:
    return Account(
        loaded=tuple(sorted(fitting)),
        left_out=tuple(sorted(set(given) - set(fitting))),
        kept=tuple(sorted(set(own) - set(fitting))),
    )
