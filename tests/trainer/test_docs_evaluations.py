"""docs/evaluations.md says what the code means."""

import dataclasses
from pathlib import Path

from trainer.evaluation_run import TASKS
from trainer.evaluations import EVALUATIONS
from trainer.measure import DEFINITIONS, Draws, Measure
from trainer.results import Provenance, row_of

PAGE = (Path(__file__).parents[2] / "docs" / "evaluations.md").read_text(encoding="utf-8")


def test_every_definition_stands_there_word_by_word() -> None:
    for measure, words in DEFINITIONS.items():
        assert f"| `{measure}` | {words} |" in PAGE


def test_every_task_and_every_evaluation_of_a_recipe_is_named() -> None:
    for name in (*TASKS, *EVALUATIONS):
        assert f"`{name}`" in PAGE


def test_every_field_of_a_row_is_explained() -> None:
    blank = {field.name: "" for field in dataclasses.fields(Provenance) if field.name != "versions"}
    row = row_of(Measure(name="a/b/MRR", value=1.0, n=1), Provenance(**blank), Draws())  # type: ignore[arg-type]
    for name in row:
        assert f"`{name}`" in PAGE
