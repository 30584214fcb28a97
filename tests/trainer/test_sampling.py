import numpy as np
import pytest

from trainer.sampling import class_balanced_weights, inverse_frequencies, sample_weights

LABELS = [["dog"], ["dog", "speech"], ["speech"], ["speech"], ["speech", "rare"], []]


def test_a_sample_weighs_the_sum_of_its_labels_inverse_frequencies() -> None:
    weights = class_balanced_weights(LABELS)
    expected = np.array([1 / 2, 1 / 2 + 1 / 4, 1 / 4, 1 / 4, 1 / 4 + 1, 0])
    np.testing.assert_allclose(weights, expected / expected.mean())
    assert weights.mean() == pytest.approx(1)


def test_the_samples_of_each_class_weigh_together_what_one_class_is_worth() -> None:
    of_one_class = [["a"]] * 90 + [["b"]] * 9 + [["c"]]
    weights = class_balanced_weights(of_one_class)
    for first, last in ((0, 90), (90, 99), (99, 100)):
        assert weights[first:last].sum() == pytest.approx(100 / 3)


def test_drawing_by_weight_evens_classes_out() -> None:
    of_one_class = [["a"]] * 900 + [["b"]] * 100
    weights = class_balanced_weights(of_one_class)
    drawn = np.random.default_rng(0).choice(1000, size=4000, p=weights / weights.sum())
    assert (drawn >= 900).mean() == pytest.approx(0.5, abs=0.03)


def test_a_label_that_is_given_twice_counts_as_one_sample_of_its_class() -> None:
    assert inverse_frequencies([["a", "a"], ["a"]]) == {"a": 0.5}


def test_published_weights_are_the_sum_of_a_samples_classes_own() -> None:
    weights = sample_weights(LABELS, {"dog": 2.0, "speech": 0.5, "rare": 8.0})
    np.testing.assert_allclose(weights, [2.0, 2.5, 0.5, 0.5, 8.5, 0.0])
    with pytest.raises(KeyError, match="rare"):
        sample_weights(LABELS, {"dog": 2.0, "speech": 0.5})


def test_samples_without_any_label_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match="none of 2 samples has a label"):
        class_balanced_weights([[], []])
