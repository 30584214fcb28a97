"""Each objective against its plain formula, in float64; its options, and what it refuses."""

import dataclasses

import pytest
import torch
from tiny_learner import CLASSES, PAIRS
from torch import Tensor
from torch.nn import functional as F

from trainer.batch import Batch, Embeddings
from trainer.objectives import (
    Classification,
    Pairwise,
    Sigmoid,
    labels_needed,
    modalities_needed,
    parameters_of,
)
from trainer.stage import Objective

LABELS = torch.tensor(
    [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
)
SETS = torch.tensor([7, 7, 8, 9, 10, 10])
N = len(SETS)
SCALES = {pair: torch.tensor(9.0 + index).double() for index, pair in enumerate(PAIRS)}
BIASES = {f"{pair}_bias": torch.tensor(-3.0).double() for pair in PAIRS}
ALL: list[Objective] = [Pairwise(), Sigmoid(), Classification(), Classification(labels="one")]


def batch(**changes: object) -> Batch:
    facts = Batch(keys=tuple("abcdef"), targets=LABELS.float(), label_sets=SETS)
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


@pytest.fixture
def embeddings() -> Embeddings:
    draw = torch.Generator().manual_seed(3)
    rows = [F.normalize(torch.randn(N, 4, generator=draw).double(), dim=1) for _ in range(3)]
    logits = torch.randn(N, CLASSES, generator=draw).double()
    return Embeddings(audio=rows[0], image=rows[1], text=rows[2], class_logits=logits)


def logits(embeddings: Embeddings, pair: str) -> Tensor:
    rows = {name: first @ second.T for name, first, second in embeddings.pairs()}
    return SCALES[pair] * rows[pair]


def both_ways(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """CLIP's pseudocode, with probabilities or indices as targets."""
    if weights is not None:
        return F.cross_entropy(logits, targets, weight=weights) + F.cross_entropy(logits.T, targets, weights)
    return F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)


def value(objective: Objective, embeddings: Embeddings, batch: Batch) -> dict[str, float]:
    terms = objective(embeddings, batch, SCALES | BIASES)
    return {name: term.item() for name, term in terms.items()}


# ------------------------------------------------------------------------------------------ pairwise


def test_three_pairs_give_the_mean_of_six_cross_entropies(embeddings: Embeddings) -> None:
    made = value(Pairwise(), embeddings, batch())
    assert list(made) == list(PAIRS)
    for pair in PAIRS:
        expected = both_ways(logits(embeddings, pair), torch.arange(N)).item() / 6
        assert made[pair] == pytest.approx(expected, rel=1e-12)


def test_one_pair_gives_the_sum_of_two_or_their_mean(embeddings: Embeddings) -> None:
    expected = both_ways(logits(embeddings, "audio_text"), torch.arange(N)).item()
    published = Pairwise(pairs=("audio_text",))
    assert value(published, embeddings, batch()) == pytest.approx({"audio_text": expected})
    halved = Pairwise(pairs=("audio_text",), one_pair="mean")
    assert value(halved, embeddings, batch()) == pytest.approx({"audio_text": expected / 2})


def test_weights_are_those_of_the_published_cross_entropies(embeddings: Embeddings) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.25])
    made = value(Pairwise(pairs=("image_text",)), embeddings, batch(weights=weights))
    expected = both_ways(logits(embeddings, "image_text"), torch.arange(N), weights.double())
    assert made["image_text"] == pytest.approx(expected.item(), rel=1e-12)


def test_all_of_ones_label_set_match_alike(embeddings: Embeddings) -> None:
    alike = (SETS[:, None] == SETS[None]).double()
    targets = alike / alike.sum(dim=1, keepdim=True)
    made = value(Pairwise(pairs=("audio_text",), targets="identical"), embeddings, batch())
    expected = both_ways(logits(embeddings, "audio_text"), targets).item()
    assert made["audio_text"] == pytest.approx(expected, rel=1e-6)


def test_labels_in_common_match_by_their_share(embeddings: Embeddings) -> None:
    shares = torch.eye(N).double()
    shares[0, 1] = shares[1, 0] = 1.0
    shares[:2, 2] = shares[2, :2] = 1 / 3  # one label in common of three
    targets = shares / shares.sum(dim=1, keepdim=True)
    made = value(Pairwise(pairs=("audio_text",), targets="jaccard"), embeddings, batch())
    expected = both_ways(logits(embeddings, "audio_text"), targets).item()
    assert made["audio_text"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("masked", "left_out"),
    [("identical", [(0, 1), (4, 5)]), ("overlapping", [(0, 1), (0, 2), (1, 2)])],
)
def test_masked_examples_are_in_no_denominator(
    embeddings: Embeddings, masked: str, left_out: list[tuple[int, int]]
) -> None:
    whole = logits(embeddings, "audio_text")
    for i, j in left_out:
        whole[i, j] = whole[j, i] = -torch.inf
    made = value(Pairwise(pairs=("audio_text",), masked=masked), embeddings, batch())  # type: ignore[arg-type]
    assert made["audio_text"] == pytest.approx(both_ways(whole, torch.arange(N)).item(), rel=1e-12)


def test_what_matches_is_not_masked(embeddings: Embeddings) -> None:
    multi = Pairwise(targets="identical")
    assert value(dataclasses.replace(multi, masked="identical"), embeddings, batch()) == value(
        multi, embeddings, batch()
    )


@pytest.mark.parametrize("options", [{"targets": "identical"}, {"masked": "identical"}])
def test_labels_say_nothing_of_audio_and_image_unless_asked(
    embeddings: Embeddings, options: dict[str, str]
) -> None:
    plain = value(Pairwise(), embeddings, batch())
    by_text = value(Pairwise(**options), embeddings, batch())  # type: ignore[arg-type]
    everywhere = value(Pairwise(**options, by_label=PAIRS), embeddings, batch())  # type: ignore[arg-type]
    assert by_text["audio_image"] == plain["audio_image"] != everywhere["audio_image"]
    assert by_text["audio_text"] == everywhere["audio_text"] != plain["audio_text"]


# ------------------------------------------------------------------------------------------ sigmoid


def siglip(logits: Tensor) -> Tensor:
    """Algorithm 1 of arXiv 2303.15343."""
    signs = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def test_sigmoid_is_that_of_siglip(embeddings: Embeddings) -> None:
    made = value(Sigmoid(pairs=("audio_text",)), embeddings, batch())
    expected = siglip(logits(embeddings, "audio_text") - 3).item()
    assert made["audio_text"] == pytest.approx(expected, rel=1e-12)
    assert value(Sigmoid(), embeddings, batch())["audio_text"] == pytest.approx(expected / 3, rel=1e-12)


def test_sigmoid_takes_a_label_set_for_matches_and_does_not_ask_about_overlaps(
    embeddings: Embeddings,
) -> None:
    objective = Sigmoid(pairs=("audio_text",), targets="identical", masked="overlapping")
    whole = logits(embeddings, "audio_text") - 3
    signs = torch.where(SETS[:, None] == SETS[None], 1.0, -1.0)
    losses = -F.logsigmoid(signs * whole)
    losses[[0, 1, 2, 2], [2, 2, 0, 1]] = 0
    made = value(objective, embeddings, batch())
    assert made["audio_text"] == pytest.approx(losses.sum().item() / N, rel=1e-12)


def test_sigmoid_with_equal_weights_is_that_without(embeddings: Embeddings) -> None:
    weighted = value(Sigmoid(), embeddings, batch(weights=torch.full((N,), 0.3)))
    assert weighted == pytest.approx(value(Sigmoid(), embeddings, batch()), rel=1e-6)


def test_a_weight_of_nothing_takes_half_of_a_decision_away(embeddings: Embeddings) -> None:
    two = Embeddings(audio=rows(embeddings.audio, 2), text=rows(embeddings.text, 2))
    facts = Batch(keys=("a", "b"), weights=torch.tensor([1.0, 0.0]))
    whole = SCALES["audio_text"] * rows(two.audio, 2) @ rows(two.text, 2).T - 3
    expected = F.softplus(-whole[0, 0]) + (F.softplus(whole[0, 1]) + F.softplus(whole[1, 0])) / 2
    made = value(Sigmoid(pairs=("audio_text",)), two, facts)
    assert made["audio_text"] == pytest.approx(expected.item(), rel=1e-12)


def test_the_learner_is_told_which_scalars_to_train() -> None:
    assert parameters_of(Sigmoid(pairs=("audio_text",), bias=-4.0)) == {"audio_text_bias": -4.0}
    assert parameters_of(Pairwise()) == {}


# ------------------------------------------------------------------------------------------ classification


def test_several_labels_are_summed_over_classes_and_averaged_over_examples(embeddings: Embeddings) -> None:
    made = value(Classification(), embeddings, batch())
    given = embeddings.class_logits
    assert given is not None
    expected = F.binary_cross_entropy_with_logits(given, LABELS.double(), reduction="sum") / N
    assert made == pytest.approx({"classes": expected.item()}, rel=1e-12)


def test_one_label_is_the_softmax_s_cross_entropy(embeddings: Embeddings) -> None:
    index = torch.tensor([0, 4, 2, 3, 1, 1])
    targets = F.one_hot(index, CLASSES).float()
    made = value(Classification(labels="one"), embeddings, batch(targets=targets))
    given = embeddings.class_logits
    assert given is not None
    assert made == pytest.approx({"classes": F.cross_entropy(given, index).item()}, rel=1e-12)


@pytest.mark.parametrize("labels", ["several", "one"])
def test_mixed_targets_cost_the_mixture_of_what_each_costs(embeddings: Embeddings, labels: str) -> None:
    objective = Classification(labels=labels)  # type: ignore[arg-type]
    first, second = F.one_hot(torch.arange(N) % 3, CLASSES), F.one_hot(torch.arange(N) % 5, CLASSES)
    mixed, *apart = (
        value(objective, embeddings, batch(targets=targets.float()))["classes"]
        for targets in (0.75 * first + 0.25 * second, first, second)
    )
    assert mixed == pytest.approx(0.75 * apart[0] + 0.25 * apart[1], rel=1e-12)


# ------------------------------------------------------------------------------------------------ mixup

SHARES = torch.tensor([0.75, 0.75, 0.5, 0.5, 1.0, 1.0])


def heard(matches: Tensor) -> Tensor:
    """Row by row, what a sound and its neighbour match."""
    mixed = [SHARES[i] * matches[i] + (1 - SHARES[i]) * matches[i ^ 1] for i in range(N)]
    return torch.stack(mixed).double()


@pytest.mark.parametrize("targets", ["instance", "identical"])
def test_a_mixed_sound_matches_what_its_halves_match_and_nothing_else_changes(
    embeddings: Embeddings, targets: str
) -> None:
    objective = Pairwise(targets=targets)  # type: ignore[arg-type]
    made = value(objective, embeddings, batch(shares=SHARES))
    plain = value(objective, embeddings, batch())
    alike = {"instance": torch.eye(N), "identical": (SETS[:, None] == SETS[None, :]).float()}
    for pair, matches in (("audio_text", alike[targets]), ("audio_image", torch.eye(N))):
        wanted, given = heard(matches), logits(embeddings, pair)
        rows = F.cross_entropy(given, wanted / wanted.sum(dim=1, keepdim=True))
        columns = F.cross_entropy(given.T, (wanted / wanted.sum(dim=0)).T)
        assert made[pair] == pytest.approx((rows + columns).item() / 6, rel=1e-6)
    assert made["image_text"] == plain["image_text"]
    least = objective.floor(batch(shares=SHARES))
    assert all(0 < least[pair] < made[pair] for pair in ("audio_text", "audio_image"))


def test_what_is_no_negative_of_one_half_is_none_of_a_mixed_sound(embeddings: Embeddings) -> None:
    objective = Pairwise(pairs=("audio_text",), masked="identical")
    made = value(objective, embeddings, batch(shares=SHARES))
    given, wanted = logits(embeddings, "audio_text"), heard(torch.eye(N))
    out = (SETS[:, None] == SETS[None, :]) | (SETS[[1, 0, 3, 2, 5, 4]][:, None] == SETS[None, :])
    given = given.masked_fill(out & (wanted == 0), -1e30)
    columns = F.cross_entropy(given.T, (wanted / wanted.sum(dim=0)).T)
    assert made["audio_text"] == pytest.approx((F.cross_entropy(given, wanted) + columns).item(), rel=1e-6)


@pytest.mark.parametrize("labels", ["several", "one"])
def test_a_classifier_s_targets_are_mixed_as_sounds_are(embeddings: Embeddings, labels: str) -> None:
    objective = Classification(labels=labels)  # type: ignore[arg-type]
    given = value(objective, embeddings, batch(shares=SHARES))
    assert given == pytest.approx(value(objective, embeddings, batch(targets=heard(LABELS).float())))


# ------------------------------------------------------------------------------------------ all of them


def rows(tensor: Tensor | None, count: int) -> Tensor:
    assert tensor is not None
    return tensor[:count]


@pytest.mark.parametrize("objective", ALL, ids=lambda each: type(each).__name__)
def test_padding_is_no_example_and_nobody_s_negative(embeddings: Embeddings, objective: Objective) -> None:
    weights = torch.rand(N) + 0.5
    four = Embeddings(**{name: rows(getattr(embeddings, name), 4) for name in embeddings.__slots__})
    facts = batch(weights=weights)
    short = dataclasses.replace(facts, valid=None).chunks(3)[:2]
    joined = Batch(
        keys=short[0].keys + short[1].keys,
        targets=LABELS[:4].float(),
        label_sets=SETS[:4],
        weights=weights[:4],
    )
    padded = dataclasses.replace(facts, valid=torch.tensor([True] * 4 + [False] * 2))
    assert value(objective, embeddings, padded) == pytest.approx(value(objective, four, joined), rel=1e-12)


@pytest.mark.parametrize("objective", ALL, ids=lambda each: type(each).__name__)
def test_autocast_and_half_precision_do_not_reach_the_loss(
    embeddings: Embeddings, objective: Objective
) -> None:
    single = Embeddings(**{name: getattr(embeddings, name).float() for name in embeddings.__slots__})
    scales = {name: scale.float() for name, scale in (SCALES | BIASES).items()}
    plain = objective(single, batch(), scales)
    with torch.autocast("cpu", torch.bfloat16):
        for name, term in objective(single, batch(), scales).items():
            assert term.dtype == torch.float32
            assert torch.equal(term, plain[name])


@pytest.mark.parametrize("objective", ALL, ids=lambda each: type(each).__name__)
def test_gradients_are_those_of_finite_differences(embeddings: Embeddings, objective: Objective) -> None:
    names = embeddings.__slots__
    facts = batch(weights=torch.rand(N).double() + 0.5, targets=LABELS.double())

    def loss(*tensors: Tensor) -> Tensor:
        given = dict(zip(names, tensors[: len(names)], strict=True))
        scales = dict(zip(SCALES | BIASES, tensors[len(names) :], strict=True))
        return torch.stack(list(objective(Embeddings(**given), facts, scales).values())).sum()

    leaves = [getattr(embeddings, name) for name in names] + list((SCALES | BIASES).values())
    assert torch.autograd.gradcheck(loss, [leaf.clone().requires_grad_() for leaf in leaves], fast_mode=True)


def test_only_what_is_compared_is_asked_for() -> None:
    towers = ("audio", "image", "text")
    assert modalities_needed(Pairwise(pairs=("audio_text",)), towers) == ("audio", "text")
    assert modalities_needed(Pairwise(), towers) == towers
    assert modalities_needed(Classification(), ("audio",)) == ("audio",)
    assert modalities_needed(lambda *_: {}, towers) == towers
    with pytest.raises(ValueError, match=r"Pairwise wants image, text; expected some of .* audio"):
        modalities_needed(Pairwise(), ("audio",))


def test_labels_are_asked_for_where_they_are_read() -> None:
    assert not labels_needed(Pairwise())
    assert labels_needed(Pairwise(targets="jaccard"))
    assert not labels_needed(Pairwise(pairs=("audio_image",), targets="jaccard"))
    assert labels_needed(Sigmoid(masked="identical"))
    assert labels_needed(Classification())
    assert labels_needed(lambda *_: {})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Pairwise(pairs=("text_audio",)), "pairs has text_audio; expected some of audio_image, "),
        (lambda: Pairwise(pairs=()), "pairs is empty; expected some of"),
        (lambda: Sigmoid(pairs=("audio_text", "audio_text")), "expected each of them once"),
        (lambda: Pairwise(by_label=("audio",)), "by_label has audio; expected"),
    ],
)
def test_pairs_that_there_are_not_are_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=said):
        make()


def test_missing_embeddings_scales_labels_and_classes_are_said(embeddings: Embeddings) -> None:
    silent = dataclasses.replace(embeddings, text=None, class_logits=None)
    with pytest.raises(ValueError, match="audio_text has no text embeddings; the model gave: audio, image"):
        value(Pairwise(), silent, batch())
    with pytest.raises(ValueError, match="no scale 'audio_image_bias'"):
        Sigmoid()(embeddings, batch(), SCALES)
    with pytest.raises(ValueError, match=r"'identical' needs Batch\.label_sets"):
        value(Pairwise(targets="identical"), embeddings, batch(label_sets=None))
    with pytest.raises(ValueError, match=r"'overlapping' needs Batch\.targets"):
        value(Sigmoid(masked="overlapping"), embeddings, batch(targets=None))
    with pytest.raises(ValueError, match="no class logits; expected a model with classes"):
        value(Classification(), silent, batch())
    with pytest.raises(ValueError, match=r"targets of \(6, 3\); expected \(6, 5\)"):
        value(Classification(), embeddings, batch(targets=LABELS[:, :3].float()))
