"""A training stage as a value: everything that tells one run of training from another.

One loop runs them all. Stages are derived from one another with `derive`, which keeps beside every value
where it comes from, so that `trichord recipe show` can say it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from trainer.batch import Batch, Embeddings

# The terms of a loss, by name; the loss is their sum. `scales` are the factors on each pair's cosines.
Objective = Callable[[Embeddings, Batch, Mapping[str, Tensor]], dict[str, Tensor]]

OURS = "ours: not stated"
CLASSES_OF_DATA: Literal["data"] = "data"  # `trainer.data_classes` puts the number in its place


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is trained."""

    towers: tuple[str, ...] = ("audio", "image", "text")
    # more than 0: the audio head alone, with so many class logits, or as many as the data have; no embeddings
    classes: Literal["data"] | int = 0
    size: Literal["full", "toy"] = "full"
    clip: str = "RN50-quickgelu"  # open_clip's name for the image and text towers
    profile: Literal["paper", "released"] = "paper"  # what the towers compute (trainer.models.profile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where the weights come from before `--from`: published names, files, or "random"."""

    audio: str = "random"
    clip: str = "random"  # image and text towers and the scale between them
    run: str = ""  # a run folder or weights file, taken last (`--from`)
    replaced: tuple[str, ...] = ()  # patterns of parameters that `run` does not give, since they change shape
    wants: str = ""  # what `run` has to be, in words; "" where the stage starts without one


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Which samples, and what of them."""

    train: tuple[str, ...] = ("balanced_train", "unbalanced_train")  # splits
    dev_from: str = "balanced_train"  # the split that `dev` is cut out of, by a hash of the id; "" for none
    dev_share: float = 0.01
    test: tuple[str, ...] = ("eval",)  # never trained on, unless train_on_test
    train_on_test: bool = False
    where: str = ""  # SQL over the manifest's samples
    annotations: tuple[str, ...] = ()  # Parquet files keyed by sample, joined to the manifest
    text: str = "labels"  # class names joined by ", ", or the name of an annotation's column
    seconds: float = 10.0  # of sound that the model hears, by crop or padding
    channels: int = 1
    sampling: Literal["uniform", "class_balanced"] = "uniform"
    max_bad_share: float = 0.01  # of samples that do not decode; more ends the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What happens to sound and pictures in training; evaluation crops, pads and picks at the centre."""

    time_scaling: float = 1.0  # largest factor on duration and pitch, smallest is its inverse; 1 is off
    time_scaling_law: Literal["log_uniform", "uniform"] = "log_uniform"
    inversion: float = 0.0  # probability
    inversion_axis: Literal["time", "channels"] = "time"
    noise: float = 0.0  # probability
    noise_snr_db: tuple[float, float] = (10.0, 120.0)
    stretch_amplitude: bool = False  # each sound to the whole of [-1, 1] (the released UrbanSound8K loader)
    random_crop: bool = True
    frame: Literal["random", "central"] = "random"  # of the ten, in training
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """How parameters move."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 1e-4
    lr_times_devices: bool = False  # as the released trainer does
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 5e-4
    no_decay: tuple[str, ...] = ()  # patterns of parameter names
    normalise: tuple[str, ...] = (
        "*fbsp.m",
        "*fbsp.fb",
        "*fbsp.fc",
    )  # gradients divided by their largest entry
    clip_norm: float = 0.0  # 0 is off


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning rate of epoch e (from 0): warm-up, then lr * gamma ** e or a cosine to 0, by step."""

    law: Literal["exponential", "cosine", "constant"] = "exponential"
    gamma: float = 0.95  # per epoch
    warmup_epochs: float = 0.0
    warmup_start: float = 0.1  # share of lr at step 0 of a warm-up


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the hardware needs; by intent none of it changes what is learned."""

    precision: Literal["bf16", "float32"] = "bf16"
    compile: bool = False  # towers, by torch.compile
    accumulate: int = 1  # parts that a batch is computed in, all of it as negatives
    checkpoint_activations: bool = False
    threads: int = 0  # that decode; 0: one per core
    cache_gb: float = 20.0  # of disk, for shards on an object store
    sync_batch_norm: bool = False
    save_minutes: float = 10.0  # of work that a kill may cost; 0: a checkpoint whenever the last is written


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A recipe, resolved: a name, and every value that a run depends on."""

    name: str
    about: str
    objective: Objective
    model: Model = field(default_factory=Model)
    start: Start = field(default_factory=Start)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    machine: Machine = field(default_factory=Machine)
    trainable: tuple[str, ...] = ("*",)  # patterns of parameter names
    negatives: Literal["global", "local"] = "global"  # examples of all processes, or of one's own
    filter_norm: float = 1.0  # weight of the term that holds the wavelets' norms at 1
    ema: float = 0.0  # decay of the averaged weights; 0 is off
    epochs: int = 30
    batch_size: int = 64  # of all processes together
    seed: int = 0
    evaluations: tuple[str, ...] = ()  # names of trainer.evaluations
    evaluate_every: float = 1.0  # epochs
    best: str = ""  # the metric on `dev` that the best checkpoint is kept by
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)  # "optim.lr" -> where it is from


def derive(stage: Stage, source: str, **changes: Any) -> Stage:
    """`stage` with other values, all of them from `source`; two underscores reach inside: `optim__lr=1e-4`.

    A later call wins, for a whole part also over its values; what was never derived is `OURS`. Raises
    TypeError for a name that is no field.
    """
    paths = [name.replace("__", ".") for name in changes]
    for name, value in changes.items():
        stage = _replaced(stage, name.split("__"), value)
    parts = tuple(f"{path}." for path in paths)
    kept = {path: was for path, was in stage.sources.items() if not path.startswith(parts)}
    return dataclasses.replace(stage, sources={**kept, **dict.fromkeys(paths, source)})


def _replaced(value: Any, path: list[str], new: Any) -> Any:
    if len(path) > 1:
        new = _replaced(getattr(value, path[0]), path[1:], new)
    return dataclasses.replace(value, **{path[0]: new})
