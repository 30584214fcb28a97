"""AudioCLIP's stages (arXiv 2106.13043): as the paper has them, and as the authors' code has them.

Each is derived from the one that it differs least from. What the paper and the released files disagree on,
and what neither says, is told in docs/decisions/0008-paper-and-released.md.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from trainer.objectives import Classification, Pairwise
from trainer.stage import OURS, Stage, derive

_PAPER = "AudioCLIP §"
_MACHINE = "ours: a machine setting"
_CODE = "released model/audioclip.py"
_TRANSFORMS = "released utils/transforms.py"
_TRAINER = "released ignite_trainer/_trainer.py"
_ENDS = "ours: AudioCLIP §4.4 gives only the ends of a range"
_FILTERS = ("audio.fbsp.*",)
_TEMPERATURES = ("log_scales.audio_*",)


def _pair(one_pair: Literal["mean", "sum"]) -> Pairwise:
    return Pairwise(pairs=("audio_text",), one_pair=one_pair)


def _named(stage: Stage, name: str, about: str) -> Stage:
    return dataclasses.replace(stage, name=f"audioclip.{name}", about=about)


# ------------------------------------------------------------------------------- what all stages share


def _audioset() -> Stage:
    """Training on AudioSet: §4.4's rule, §4.2's augmentations, and what nobody states."""
    stage = Stage(name="audioclip", about="", objective=Pairwise())
    stage = _with_our_choices(stage)
    stage = derive(
        stage,
        _PAPER + "4.4",
        optim__name="sgd",
        optim__lr=1e-4,
        optim__momentum=0.9,
        optim__nesterov=True,
        optim__weight_decay=5e-4,
        schedule__law="exponential",
        schedule__gamma=0.95,
        epochs=30,
        batch_size=64,
    )
    stage = derive(
        stage,
        _PAPER + "4.1",
        data__train=("balanced_train", "unbalanced_train"),
        data__test=("eval",),
        data__text="labels",
        data__seconds=10.0,
        augment__frame="random",
    )
    stage = derive(
        stage,
        _PAPER + "4.2",
        augment__inversion=0.5,
        augment__inversion_axis="time",
        augment__noise=0.25,
        augment__noise_snr_db=(10.0, 120.0),
        augment__random_crop=True,
    )
    return derive(
        stage,
        f"{_TRANSFORMS}: 1.5 ** U(-1, 1); {_PAPER}4.2's [-1.5, 1.5] cannot be meant (decision 0007)",
        augment__time_scaling=1.5,
        augment__time_scaling_law="log_uniform",
    )


def _with_our_choices(stage: Stage) -> Stage:
    """Every value that no source gives, or that no source changes."""
    stage = derive(stage, "ours: decision 0005", model__profile="paper")
    stage = derive(stage, _PAPER + "3", model__size="full", model__classes=0)
    stage = derive(stage, _PAPER + "3.1", model__clip="RN50-quickgelu")
    stage = derive(
        stage,
        "ours: where it starts is for each stage to say",
        start__audio="random",
        start__clip="random",
        start__run="",
        start__replaced=(),
        start__wants="",
    )
    stage = derive(
        stage,
        "ours: the authors chose epochs by the test data; dev is cut out of the training data instead",
        data__dev_from="balanced_train",
        data__dev_share=0.01,
        data__train_on_test=False,
        evaluations=("classification",),
        evaluate_every=1.0,
        best="classification/audio/mAP",
    )
    stage = derive(
        stage,
        OURS,
        data__where="",
        data__annotations=(),
        data__channels=1,
        data__sampling="uniform",
        data__max_bad_share=0.01,
        augment__stretch_amplitude=False,
        optim__betas=(0.9, 0.999),
        seed=0,
    )
    stage = derive(
        stage,
        f"ours: {_PAPER}4 names none",
        augment__mixup=0.0,
        optim__no_decay=(),
        optim__clip_norm=0.0,
        schedule__warmup_epochs=0.0,
        schedule__warmup_start=0.1,
        ema=0.0,
    )
    stage = derive(stage, f"ours: {_PAPER}4.4 names one rate", optim__lr_times_devices=False)
    stage = derive(stage, "ours: one batch of 64, however many devices compute it", negatives="global")
    stage = derive(stage, f"{_CODE}: loss_ttf", filter_norm=1.0)
    stage = derive(
        stage,
        "released model/esresnet/fbsp.py: hooks on m, fb, fc",
        optim__normalise=("*fbsp.m", "*fbsp.fb", "*fbsp.fc"),
    )
    return derive(
        stage,
        _MACHINE,
        **{f"machine__{field.name}": field.default for field in dataclasses.fields(stage.machine)},
    )


# -------------------------------------------------------------------------------------- on AudioSet

_AUDIOSET = _audioset()


def _standalone() -> Stage:
    stage = derive(
        _AUDIOSET,
        _PAPER + "4.3, Standalone",
        model__towers=("audio",),
        start__audio="resnext50-imagenet",
        trainable=("*",),
    )
    stage = derive(stage, _PAPER + "4.1: 527 classes", model__classes=527)
    stage = derive(stage, "ESResNeXt-fbsp model/esresnet_base.py: sum over classes, mean over the batch",
                   objective=Classification(labels="several"))  # fmt: skip
    return _named(stage, "standalone", "the audio head alone, to name AudioSet's 527 classes")


STANDALONE = _standalone()

STANDALONE_5_EPOCHS = _named(
    derive(STANDALONE, _PAPER + "4.4, Table 1: ESResNeXt's own training", epochs=5),
    "standalone_5_epochs",
    "standalone as ESResNeXt was first trained; the left column of Table 1",
)


def _cooperative() -> Stage:
    stage = derive(
        _AUDIOSET,
        _PAPER + "4.3, Cooperative",
        model__towers=("audio", "image", "text"),
        start__clip="clip-rn50",
        start__replaced=("audio.fc.*",),
        start__wants="a run of audioclip.standalone",
    )
    stage = derive(
        stage,
        _PAPER + "4.3: text and image heads are frozen; ours: with the scale between them",
        trainable=("audio.*", *_TEMPERATURES),
    )
    stage = derive(stage, f"{_PAPER}3.3; {_CODE}: the mean of six", objective=Pairwise())
    stage = derive(stage, f"{_ENDS}; as standalone", optim__lr=1e-4, schedule__gamma=0.95)
    stage = derive(
        stage, f"{_PAPER}4.5: both tasks; ours: on dev", evaluations=("classification", "retrieval")
    )
    return _named(stage, "cooperative", "the audio head, taught by CLIP's frozen image and text heads")


COOPERATIVE = _cooperative()


def _full() -> Stage:
    stage = derive(
        COOPERATIVE,
        _PAPER + "4.3, AudioCLIP Training",
        start__clip="random",
        start__replaced=(),
        start__wants="a run of audioclip.cooperative",
        trainable=("*",),
    )
    stage = derive(stage, f"{_ENDS}; as gently as fine-tuning", optim__lr=5e-5, schedule__gamma=0.98)
    return _named(stage, "full", "all three heads together")


FULL = _full()


def _modern() -> Stage:
    stage = derive(
        COOPERATIVE,
        "ours: 57 % of a batch of 64 share their text with another, which is no mistake of theirs",
        objective=Pairwise(targets="jaccard"),
    )
    stage = derive(
        stage, "ours: rare classes are seen as often as common ones", data__sampling="class_balanced"
    )
    stage = derive(stage, "ours: arXiv 1710.09412 §3.2 takes 0.1 to 0.4", augment__mixup=0.2)
    stage = derive(
        stage,
        "ours: as contrastive models are trained today",
        optim__name="adamw",
        optim__lr=3e-4,
        optim__betas=(0.9, 0.98),
        optim__weight_decay=0.05,
        optim__no_decay=("*.bias", "*.bn*", *_FILTERS, "log_scales.*"),
        optim__clip_norm=1.0,
        schedule__law="cosine",
        schedule__warmup_epochs=1.0,
        ema=0.9998,
    )
    stage = derive(stage, "ours: more to be told from", batch_size=512)
    stage = derive(stage, "ours: 128 examples at once", machine__accumulate=4)
    return _named(stage, "modern", "cooperative with what was learned since: soft targets, balance, EMA")


MODERN = _modern()

# --------------------------------------------------------------------------------- ESC-50, UrbanSound8K


@dataclass(frozen=True, kw_only=True, slots=True)
class _DataSet:
    """What differs between the two."""

    name: str
    title: str
    classes: int
    folds: int
    seconds: float
    channels: int


_ESC50 = _DataSet(name="esc50", title="ESC-50", classes=50, folds=5, seconds=5.0, channels=1)
_US8K = _DataSet(name="us8k", title="UrbanSound8K", classes=10, folds=10, seconds=4.0, channels=2)


def _downstream(stage: Stage, data: _DataSet) -> Stage:
    """Fine-tuning on all official folds but the first."""
    stage = derive(stage, _PAPER + "4.4", optim__lr=5e-5, schedule__gamma=0.98, epochs=50)
    stage = derive(
        stage,
        f"{_PAPER}4.1: the data set's own folds; ours: the first is the test, unless another is asked for",
        data__train=tuple(f"fold{fold}" for fold in range(2, data.folds + 1)),
        data__test=("fold1",),
        data__dev_from="",
        data__dev_share=0.0,
    )
    stage = derive(
        stage,
        "ours: no dev, since folds are small; the test fold chooses nothing, and the last epoch counts",
        evaluations=(),
        best="",
    )
    return derive(
        stage,
        f"{_PAPER}4.1; released protocols/audioclip-{data.name}.json",
        data__seconds=data.seconds,
        data__channels=data.channels,
    )


def _finetune(data: _DataSet) -> Stage:
    """Audio against the names of the classes; only the audio head learns."""
    stage = derive(
        _downstream(COOPERATIVE, data),
        _PAPER + "4.3, Fine-Tuning, Cooperative",
        start__clip="random",
        start__replaced=(),
        start__wants="a run of audioclip.cooperative or audioclip.full",
        trainable=("audio.*",),
    )
    stage = derive(
        stage,
        f"{_PAPER}4.3: audio and text; the mean of two, as CLIP's figure 3",
        objective=_pair("mean"),
    )
    return _named(stage, f"finetune_{data.name}", f"the audio head on {data.title}, against class names")


def _finetune_standalone(data: _DataSet) -> Stage:
    """The audio head with a class layer of its own."""
    stage = derive(
        _downstream(STANDALONE, data),
        _PAPER + "4.3, Fine-Tuning, Standalone",
        model__classes=data.classes,
        start__audio="random",
        start__replaced=("audio.fc.*",),
        start__wants="a run of audioclip.standalone",
        objective=Classification(labels="one"),
    )
    about = f"the audio head alone on {data.title}, with {data.classes} logits; Table 1"
    return _named(stage, f"finetune_{data.name}_standalone", about)


# ------------------------------------------------------------------------- as the authors' code has them


def _released(stage: Stage) -> Stage:
    """What the authors' trainer does with any stage. Its AudioSet configurations were never released."""
    about = f"{stage.about}; as the authors' code has it"
    stage = dataclasses.replace(stage, name=f"{stage.name}@released", about=about)
    stage = derive(stage, "trainer/models/profile.py, RELEASED", model__profile="released")
    stage = derive(
        stage,
        f"{_TRANSFORMS}: RandomFlip reverses axis 0 of (C, T)",
        augment__inversion_axis="channels",
    )
    stage = derive(
        stage,
        f"{_TRANSFORMS}: RandomNoise adds 1 to the upper bound",
        augment__noise_snr_db=(10.0, 121.0),
    )
    return derive(stage, f"{_TRAINER}: DataParallel compares each device's own examples", negatives="local")


def _multimodal_released(stage: Stage) -> Stage:
    """The groups and the rate of AudioCLIP's trainer."""
    stage = derive(_released(stage), f"{_TRAINER}: lr * num_gpus", optim__lr_times_devices=True)
    return derive(
        stage,
        f"{_TRAINER}: fbsp and the audio temperatures in a group without decay",
        optim__no_decay=(*_FILTERS, *_TEMPERATURES),
    )


def _finetune_released(data: _DataSet, lr: float) -> Stage:
    file = f"released protocols/audioclip-{data.name}.json"
    stage = _multimodal_released(_finetune(data))
    stage = derive(
        stage,
        file,
        optim__name="sgd",
        optim__lr=lr,
        optim__momentum=0.9,
        optim__nesterov=True,
        optim__weight_decay=5e-4,
        schedule__law="exponential",
        schedule__gamma=0.96,
        epochs=50,
        batch_size=64,
        augment__inversion=0.5,
        augment__noise=0.25,
        data__seconds=data.seconds,
    )
    stage = derive(
        stage,
        f"{_TRAINER}: audio parameters and the audio temperatures",
        trainable=("audio.*", *_TEMPERATURES),
    )
    return derive(stage, f"{_CODE}: the sum of two for one pair", objective=_pair("sum"))


def _standalone_released(data: _DataSet) -> Stage:
    """ESResNeXt's configuration for a head that knows AudioSet; its trainer has no groups."""
    file = f"ESResNeXt-fbsp protocols/{data.name}/esresnextfbsp-{data.name}-ptinas-cv1.json"
    return derive(
        _released(_finetune_standalone(data)),
        file,
        optim__name="adam",
        optim__lr=1e-5,
        optim__betas=(0.9, 0.999),
        optim__weight_decay=5e-4,
        schedule__law="exponential",
        schedule__gamma=0.99,
        epochs=300,
        batch_size=16,
        augment__inversion=0.5,
        augment__noise=0.0,
        data__seconds=data.seconds,
    )


def _stretched(stage: Stage) -> Stage:
    """UrbanSound8K as the released loader has it."""
    return derive(
        stage, "released utils/datasets/us8k.py: min-max to int16's range", augment__stretch_amplitude=True
    )


FINETUNE_ESC50 = _finetune(_ESC50)
FINETUNE_US8K = _finetune(_US8K)
FINETUNE_ESC50_STANDALONE = _finetune_standalone(_ESC50)
FINETUNE_US8K_STANDALONE = _finetune_standalone(_US8K)

STAGES = (
    STANDALONE,
    STANDALONE_5_EPOCHS,
    COOPERATIVE,
    FULL,
    FINETUNE_ESC50,
    FINETUNE_US8K,
    FINETUNE_ESC50_STANDALONE,
    FINETUNE_US8K_STANDALONE,
    MODERN,
)
RELEASED_STAGES = (
    _released(STANDALONE),
    _multimodal_released(COOPERATIVE),
    _multimodal_released(FULL),
    _finetune_released(_ESC50, lr=5e-5),
    _stretched(_finetune_released(_US8K, lr=1e-5)),
    _standalone_released(_ESC50),
    _stretched(_standalone_released(_US8K)),
)
