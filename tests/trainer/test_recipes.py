"""Recipes are whole, sourced, and what their sources say."""

import re
from pathlib import Path

import pytest
from ingestions import ROOT

from trainer.objectives import Sigmoid
from trainer.overrides import apply_overrides
from trainer.recipes import RECIPES, RecipeError, resolve
from trainer.stage import Stage, derive
from trainer.stage_checks import complaints
from trainer.stage_view import differences, leaves, source_of, stage_to_json
from trainer.user_code import UserCodeError

NAMES = ("standalone", "standalone_5_epochs", "cooperative", "full", "modern")
FINE_TUNING = ("finetune_esc50", "finetune_us8k", "finetune_esc50_standalone", "finetune_us8k_standalone")
SOURCE = re.compile(
    r"AudioCLIP §[34](\.\d)?\b.*|released (model|utils|protocols|ignite_trainer)/.+|ESResNeXt-fbsp \w+/.+"
    r"|trainer/models/profile\.py, .+|ours: .+"
)


@pytest.fixture(params=RECIPES.values(), ids=RECIPES)
def stage(request: pytest.FixtureRequest) -> Stage:
    found: Stage = request.param
    return found


def test_every_stage_of_the_paper_is_there_at_full_and_at_toy_size() -> None:
    for name in (*NAMES, *FINE_TUNING):
        assert RECIPES[f"audioclip.{name}"].model.size == "full"
        assert RECIPES[f"debug.{name}"].model.size == "toy"
    for name in ("standalone", "cooperative", "full", *FINE_TUNING):
        assert RECIPES[f"audioclip.{name}@released"].model.profile == "released"


def test_every_value_names_its_source(stage: Stage) -> None:
    for leaf in leaves(stage):
        whole = leaf.path.partition(".")[0]
        assert leaf.path in stage.sources or (whole == "objective" and whole in stage.sources), leaf.path
        assert SOURCE.fullmatch(source_of(stage, leaf.path)), leaf.path


def test_no_source_speaks_of_a_value_that_is_not_there(stage: Stage) -> None:
    assert set(stage.sources) <= {leaf.path for leaf in leaves(stage)}


def test_files_of_ours_that_sources_name_are_there(stage: Stage) -> None:
    for source in stage.sources.values():
        for name in re.findall(r"(?<!_)\btrainer/[\w/]+\.py", source):
            assert (ROOT / name).is_file()
        for number in re.findall(r"decision (\d{4})", source):
            assert list((ROOT / "docs" / "decisions").glob(f"{number}-*.md"))


def test_every_recipe_could_run_given_what_it_starts_from(stage: Stage) -> None:
    assert list(complaints(derive(stage, "a test", start__run="runs/before"))) == []


# AudioCLIP §4.4, and its Table 1 for five epochs; None: the paper gives only the ends of a range
PAPER = {
    "standalone": (1e-4, 0.95, 30),
    "standalone_5_epochs": (1e-4, 0.95, 5),
    "cooperative": (None, None, 30),
    "full": (None, None, 30),
    **dict.fromkeys(FINE_TUNING, (5e-5, 0.98, 50)),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_recipes_have_its_hyper_parameters(name: str) -> None:
    stage, (lr, gamma, epochs) = RECIPES[f"audioclip.{name}"], PAPER[name]
    rule = (stage.optim.name, stage.optim.momentum, stage.optim.nesterov, stage.optim.weight_decay)
    assert rule == ("sgd", 0.9, True, 5e-4)
    assert (stage.batch_size, stage.epochs, stage.schedule.law) == (64, epochs, "exponential")
    for path, value, stated in (
        ("optim.lr", stage.optim.lr, lr),
        ("schedule.gamma", stage.schedule.gamma, gamma),
    ):
        if stated is None:
            assert source_of(stage, path).startswith("ours: AudioCLIP §4.4 gives only the ends of a range")
        else:
            assert (value, source_of(stage, path)[:14]) == (stated, "AudioCLIP §4.4")


# protocols/*.json of AudioCLIP and of ESResNeXt-fbsp: rule, rate, gamma, epochs, batch, noise
RELEASED = {
    "finetune_esc50": ("sgd", 5e-5, 0.96, 50, 64, 0.25),
    "finetune_us8k": ("sgd", 1e-5, 0.96, 50, 64, 0.25),
    "finetune_esc50_standalone": ("adam", 1e-5, 0.99, 300, 16, 0.0),
    "finetune_us8k_standalone": ("adam", 1e-5, 0.99, 300, 16, 0.0),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_recipes_have_the_published_configurations(name: str) -> None:
    stage = RECIPES[f"audioclip.{name}@released"]
    found = (stage.optim.name, stage.optim.lr, stage.schedule.gamma, stage.epochs, stage.batch_size)
    assert (*found, stage.augment.noise) == RELEASED[name]
    assert (stage.negatives, stage.augment.inversion_axis) == ("local", "channels")
    assert (stage.data.seconds, stage.data.channels) == ((5.0, 1) if "esc50" in name else (4.0, 2))
    assert stage.augment.stretch_amplitude is ("us8k" in name)
    assert "fbsp" in str(stage.optim.no_decay) or name.endswith("standalone")


@pytest.mark.parametrize(
    ("suffix", "one_pair", "axis", "loudest_noise_db"),
    [("", "mean", "time", 120.0), ("@released", "sum", "channels", 121.0)],
)
def test_the_paper_and_the_released_code_differ_as_decision_8_says(
    suffix: str, one_pair: str, axis: str, loudest_noise_db: float
) -> None:
    stage = RECIPES[f"audioclip.finetune_us8k{suffix}"]
    values = {leaf.path: leaf.value for leaf in leaves(stage)}
    assert values["objective.one_pair"] == one_pair
    assert values["augment.inversion_axis"] == axis
    assert values["augment.noise_snr_db"] == (10.0, loudest_noise_db)
    assert values["augment.stretch_amplitude"] is bool(suffix)
    assert stage.model.profile == ("released" if suffix else "paper")


def test_only_what_a_stage_is_about_learns() -> None:
    assert RECIPES["audioclip.cooperative"].trainable == ("audio.*", "log_scales.audio_*")
    assert RECIPES["audioclip.finetune_esc50"].trainable == ("audio.*",)
    assert RECIPES["audioclip.full"].trainable == ("*",)


def test_toy_stages_differ_from_the_real_ones_only_in_size() -> None:
    for name in (*NAMES, *FINE_TUNING):
        real, toy = RECIPES[f"audioclip.{name}"], RECIPES[f"debug.{name}"]
        changed = {path for path, _, _ in differences(stage_to_json(real), stage_to_json(toy))}
        assert bool(real.model.classes) is ("model.classes" in changed) is (toy.model.classes == "data")
        changed -= {"model.classes"}
        assert changed <= {path for path, source in toy.sources.items() if source == "ours: toy size"}
        assert not changed & {"trainable", "model.towers", "negatives", "objective"}
        assert not {path for path in changed if path.startswith("objective.")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audioclip.ful", r"did you mean audioclip\.full"),
        ("full", r"did you mean audioclip\.full or debug\.full\?"),
        ("finetune_ecs50", "did you mean .*finetune_esc50"),
        ("clap", "trichord recipe list"),
    ],
)
def test_a_misspelt_recipe_gets_a_hint(name: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        resolve(name)


def test_a_recipe_of_one_s_own_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from trainer.recipes import RECIPES\nfrom trainer.stage import derive\n"
        "recipe = derive(RECIPES['audioclip.full'], 'mine', epochs=3)\nother = 3\n"
        "def made():\n    return recipe\n"
    )
    assert resolve(f"{tmp_path}/mine.py:recipe").epochs == 3
    assert resolve(f"{tmp_path}/mine.py:made").epochs == 3
    with pytest.raises(UserCodeError, match=r"other is int; expected a trainer\.stage\.Stage"):
        resolve(f"{tmp_path}/mine.py:other")


def test_mixup_is_refused_for_an_objective_that_would_take_a_mixed_sound_for_a_whole_one() -> None:
    stage = derive(RECIPES["debug.full"], "a test", objective=Sigmoid(), augment__mixup=0.2)
    assert "augment.mixup is 0.2, and Sigmoid would take a mixed sound" in next(complaints(stage))
    assert list(complaints(derive(stage, "a test", augment__mixup=0.0))) == []


@pytest.mark.parametrize(
    ("name", "overrides", "ranks", "expected"),
    [
        ("cooperative", [], 1, "goes on from a run of audioclip.standalone; expected --from RUN"),
        ("cooperative", ["start.audio=esrnxfbsq"], 1, "did you mean esrnxfbsp"),
        ("standalone", ["epochs=0"], 1, "epochs is 0; expected at least 1"),
        ("standalone", [], 3, "batch_size 64 cannot be divided among 3 processes x 1 parts.*batch_size=63"),
        ("standalone", ["machine.accumulate=3"], 2, "expected a multiple of 6"),
        ("standalone", ["machine.accumulate=32"], 2, "64 in 2 processes x 32 parts; expected at least 2 ex"),
        ("standalone", ["batch_size=1"], 1, "batch_size is 1; expected at least 2 examples"),
        ("standalone", ["data.train=balanced_train,eval"], 1, "data.train holds eval.*train_on_test=true"),
        ("standalone", ["model.towers=audio,text"], 1, "expected the audio tower alone"),
        ("standalone", ["model.towers=audio,smell"], 1, "expected some of audio,image,text"),
        ("standalone", ["augment.noise=25"], 1, "augment.noise is 25; expected a share"),
        ("standalone", ["data.dev_from="], 1, "data.dev_share is 0.01 of no split"),
        ("standalone", ["evaluations="], 1, "best is classification/audio/mAP, and evaluations is empty"),
        ("standalone", ["evaluations=classificaton"], 1, "did you mean classification"),
        (
            "full",
            ["augment.mixup=0.2", "start.run=x", "batch_size=6"],
            2,
            "each of 2 processes has 3 examples",
        ),
        (
            "full",
            ["model.towers=audio,text", "start.run=x"],
            1,
            "compares audio,image,text, and model.towers has no",
        ),
    ],
)
def test_values_that_do_not_go_together_are_one_line(
    name: str, overrides: list[str], ranks: int, expected: str
) -> None:
    stage = apply_overrides(RECIPES[f"audioclip.{name}"], overrides)
    found = next(complaints(stage, ranks))
    assert re.search(expected, found), found
    assert "\n" not in found
