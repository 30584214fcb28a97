"""docs/results.md is what its rows say."""

import pytest

from trainer.measure import definition
from trainer.recipes import RECIPES
from trainer.results_page import PAGE, read_measured, read_published, render

MEASURED = {
    "dataset": "esc50",
    "metric": "zero_shot/audio/accuracy_fold_mean",
    "recipe": "audioclip.full",
    "fold": "",
    "class_name": "",
    "value": 0.7012,
    "low": 0.68,
    "high": 0.72,
    "partial": "",
}


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(read_published(), read_measured()), (
        "docs/results.md is stale: python -m trainer.results_page"
    )


def test_what_we_would_measure_has_a_definition_and_a_recipe() -> None:
    ours = [row for row in read_published() if row["our_metric"]]
    assert len(ours) > 30
    for row in ours:
        assert definition(row["our_metric"])
        assert all(name in RECIPES for name in row["our_recipe"].split(" from "))


def test_a_measured_number_takes_the_place_of_what_it_waited_for() -> None:
    empty, filled = (render(read_published(), measured) for measured in ([], [MEASURED]))
    assert "70.12 (68.00 to 72.00)" in filled
    assert "70.12" not in empty
    assert (
        empty.count("waits for audioclip.full on esc50")
        == filled.count("waits for audioclip.full on esc50") + 1
    )


def test_a_toy_runs_numbers_are_kept_out_of_the_page() -> None:
    with pytest.raises(ValueError, match="toy recipe"):
        render(read_published(), [{**MEASURED, "recipe": "debug.full"}])


def test_a_mean_over_folds_has_its_spread_beside_it() -> None:
    folds = [
        {**MEASURED, "metric": "zero_shot/audio/accuracy", "fold": f"fold{place}", "value": value}
        for place, value in enumerate((0.69, 0.71, 0.73))
    ]
    assert "70.12 ± 2.00 (68.00 to 72.00)" in render(read_published(), [*folds, MEASURED])
