import dataclasses

import pytest
from torch import Tensor

from trainer.overrides import OverrideError, apply_overrides
from trainer.stage import Stage, derive
from trainer.stage_view import describe, differences, leaves, source_of, stage_to_json


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Margin:
    """An objective with settings."""

    margin: float = 0.2
    pairs: tuple[str, ...] = ("audio_text",)

    def __call__(self, embeddings: object, batch: object, scales: object) -> dict[str, Tensor]:
        raise NotImplementedError


STAGE = Stage(name="test", about="for this test", objective=Margin())


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optim.lr=3e-4", "optim.lr", 3e-4),
        ("epochs=5", "epochs", 5),
        ("batch_size=1e3", "batch_size", 1000),
        ("data.train=balanced_train,eval", "data.train", ("balanced_train", "eval")),
        ("data.test=", "data.test", ()),
        ("trainable=audio.*,", "trainable", ("audio.*",)),
        ("augment.noise_snr_db=5,60.5", "augment.noise_snr_db", (5.0, 60.5)),
        ("machine.compile=yes", "machine.compile", True),
        ("augment.inversion=1", "augment.inversion", 1.0),
        ("negatives=local", "negatives", "local"),
        ("data.where=rms_dbfs > -60 and name = 'a=b'", "data.where", "rms_dbfs > -60 and name = 'a=b'"),
        ("objective.margin=0.5", "objective.margin", 0.5),
        ("model.classes=12", "model.classes", 12),
        ("model.classes=data", "model.classes", "data"),
        ("objective.pairs=audio_text,audio_image", "objective.pairs", ("audio_text", "audio_image")),
    ],
)
def test_an_override_has_the_field_s_type_and_its_own_source(override: str, path: str, value: object) -> None:
    stage = apply_overrides(STAGE, [override])
    found = {leaf.path: leaf.value for leaf in leaves(stage)}[path]
    assert (found, type(found)) == (value, type(value))
    assert source_of(stage, path) == "--set"
    assert [name for name, _, _ in differences(stage_to_json(STAGE), stage_to_json(stage))] == [path]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr", "no '='; expected PATH=VALUE"),
        ("optim.lr_times_device=yes", r"did you mean optim\.lr_times_devices"),
        ("optim.momentun=1", "did you mean optim.momentum"),
        ("lr=1", r"did you mean optim\.lr\?"),
        ("optim=sgd", "did you mean optim.name or optim.lr"),
        ("objective.margn=1", r"did you mean objective\.margin or"),
        ("objective=mine", "expected --objective FILE.py:NAME"),
        ("epochs=2.5", "expected a whole number .now 30."),
        ("epochs=many", "expected a whole number"),
        ("optim.lr=fast", "expected a number .now 0.0001."),
        ("optim.lr=nan", "expected a finite number"),
        ("machine.compile=maybe", "expected true or false"),
        ("model.classes=many", "expected data, or a whole number .now 0."),
        ("optim.name=adamv", "did you mean adam.* expected sgd or adam or adamw"),
        ("augment.noise_snr_db=5", "1 values; expected 2"),
        ("name=other", "has no such value"),
    ],
)
def test_what_cannot_be_set_is_one_line_with_a_hint(override: str, expected: str) -> None:
    with pytest.raises(OverrideError, match=expected) as caught:
        apply_overrides(STAGE, [override])
    assert "\n" not in str(caught.value)


def test_later_overrides_win_and_the_stage_given_stays_as_it_was() -> None:
    stage = apply_overrides(STAGE, ["optim.lr=1", "optim.lr=2"])
    assert (stage.optim.lr, STAGE.optim.lr) == (2.0, 1e-4)


def test_a_plain_function_is_an_objective_without_settings() -> None:
    def plain(embeddings: object, batch: object, scales: object) -> dict[str, Tensor]:
        raise NotImplementedError

    stage = derive(STAGE, "mine", objective=plain)
    assert {row.path: (row.value, row.source) for row in describe(stage)}["objective"] == ("plain", "mine")
    with pytest.raises(OverrideError, match="has no such value"):
        apply_overrides(stage, ["objective.margin=1"])


def test_what_is_replaced_as_a_whole_loses_the_sources_of_its_parts() -> None:
    stage = derive(derive(STAGE, "first", objective__margin=0.9), "second", objective=Margin())
    assert source_of(stage, "objective.margin") == "second"
