"""Intervals against resampling written out, and what they are for."""

import numpy as np
import pytest

from trainer.bootstrap import Resampling, interval, mean_over_classes
from trainer.measure import Measure
from trainer.metrics import class_average_precisions


def drawn_items(resampling: Resampling, resample: int) -> np.ndarray:
    return np.repeat(np.arange(resampling.items), resampling.counts[:, resample])


@pytest.mark.parametrize("items", [1, 2, 7, 30])
def test_replicates_are_the_metric_on_the_items_drawn(items: int) -> None:
    random = np.random.default_rng(items)
    resampling = Resampling(items=items, resamples=20)
    values = random.standard_normal(items)
    scores, targets = random.standard_normal((items, 4)).round(), random.random((items, 4)) < 0.3
    means, medians = resampling.means(values), resampling.medians(values)
    precisions = resampling.average_precisions(scores, targets)
    for resample in range(20):
        rows = drawn_items(resampling, resample)
        assert len(rows) == items
        assert means[resample] == pytest.approx(values[rows].mean())
        assert medians[resample] == pytest.approx(np.median(values[rows]))
        np.testing.assert_allclose(
            precisions[:, resample], class_average_precisions(scores[rows], targets[rows]), rtol=1e-12
        )


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide_on_each_side() -> None:
    values = np.random.default_rng(0).standard_normal(2000)
    found = interval(Resampling(items=2000).means(values), values.mean())
    error = values.std() / np.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_the_interval_of_an_average_precision_over_few_positives_holds_it() -> None:
    random = np.random.default_rng(3)
    scores, targets = random.standard_normal((400, 1)), np.arange(400)[:, None] < 8
    value = float(class_average_precisions(scores, targets)[0])
    replicates = Resampling(items=400).average_precisions(scores, targets)[0]
    assert np.nanmean(replicates) > 1.05 * value  # what the move is for
    found = interval(replicates, value)
    assert found.low < value < found.high


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    values = np.arange(50.0)
    first, again, other = (Resampling(items=50, seed=seed).means(values) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_difference_of_two_models_on_the_same_items_is_surer_than_either() -> None:
    random = np.random.default_rng(0)
    difficulty = random.standard_normal(400)
    weak, strong = difficulty, difficulty + 0.05
    resampling = Resampling(items=400)
    one = interval(resampling.means(weak), weak.mean())
    difference = interval(resampling.means(strong) - resampling.means(weak), 0.05)
    assert one.high - one.low > 0.1
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)


def test_a_class_that_a_resample_lacks_is_left_out_of_that_resamples_mean() -> None:
    replicates = np.array([[0.5, np.nan, np.nan], [0.1, 0.3, np.nan]])
    np.testing.assert_allclose(mean_over_classes(replicates), [0.3, 0.3, np.nan])


def test_without_resamples_there_is_no_interval() -> None:
    found = interval(Resampling(items=5, resamples=0).means(np.ones(5)), 1.0)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("name", "values", "least", "most"),
    [
        ("retrieval/text_to_audio/hit@5", [0, 0, 1, 1, 1], 0, 1),
        ("x/y/median_rank_fold_mean", [1, 1, 1, 9], 1, 9),
    ],
)
def test_an_interval_stays_within_what_the_metric_can_be(
    name: str, values: list[float], least: float, most: float
) -> None:
    items = np.array(values, dtype=np.float64)
    for seed in range(5):  # the resamples' mean lies above the number for some, below it for others
        replicates = Resampling(items=len(items), resamples=50, seed=seed).means(items)
        found = Measure(name=name, value=items.mean(), n=len(items), replicates=replicates).interval
        assert least <= found.low < items.mean() < found.high <= most
