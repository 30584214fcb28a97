"""A step in parts against the same at once, in float64; what parts do to statistics and random numbers."""

import copy

import pytest
import torch
from tiny_learner import TinyLearner, furthest, gradients, plainly, random_batch
from torch import Tensor, nn
from toy_training import COOPERATIVE, one_thread, toy_batch, toy_training  # noqa: F401  # a fixture

from trainer.accumulation import forward_backward
from trainer.batch import Batch, Embeddings
from trainer.learner import Learner
from trainer.objectives import Classification, Pairwise, Sigmoid
from trainer.stage import Objective

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
OBJECTIVES: list[Objective] = [
    Pairwise(),
    Pairwise(pairs=("audio_text",), targets="jaccard"),
    Sigmoid(masked="overlapping"),
    Classification(),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
def test_four_parts_give_the_gradients_and_terms_of_the_whole(objective: Objective) -> None:
    learner, batch = TinyLearner().eval(), random_batch(12, weighted=True)
    expected = plainly(learner, objective, batch)
    learner.zero_grad()
    at_once = forward_backward(learner, objective, batch)
    assert furthest(gradients(learner), expected) < 1e-12
    learner.zero_grad()
    in_parts = forward_backward(learner, objective, batch, parts=4)
    assert furthest(gradients(learner), expected) < 1e-12
    for name, term in at_once.items():
        assert in_parts[name].item() == pytest.approx(term.item(), rel=1e-12)
        assert not in_parts[name].requires_grad


def test_wavelets_and_their_norm_term_take_part_exactly_once() -> None:
    learner, batch = TinyLearner(hears=True).eval(), random_batch(4, seconds=0.04)
    assert learner.ear is not None
    expected = plainly(learner, Pairwise(), batch, norm=0.5 * learner.ear.norm_loss())
    for parts in (1, 2):
        learner.zero_grad()
        terms = forward_backward(learner, Pairwise(), batch, parts=parts, filter_norm=0.5)
        assert terms["filter_norm"].item() == pytest.approx(0.5 * learner.ear.norm_loss().item(), rel=1e-12)
        assert furthest(gradients(learner), expected) < 1e-9


def test_the_norm_term_is_absent_without_weight_sound_or_wavelets() -> None:
    hears, deaf = TinyLearner(hears=True).eval(), TinyLearner().eval()
    batch = random_batch(4, seconds=0.04)
    assert "filter_norm" not in forward_backward(hears, Pairwise(), batch, filter_norm=0.0)
    assert "filter_norm" not in forward_backward(deaf, Pairwise(), random_batch(4))


def chunk_by_chunk(learner: TinyLearner, batch: Batch, parts: int) -> Embeddings:
    """One graph, in which batch normalisation sees each part by itself."""
    made = [learner(chunk) for chunk in batch.chunks(parts)]
    return Embeddings(
        audio=torch.cat([each.audio for each in made]),
        image=torch.cat([each.image for each in made]),
        text=torch.cat([each.text for each in made]),
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])])
def test_in_training_parts_are_normalised_and_dropped_out_as_by_layers_that_see_one_part_each(
    device: str,
) -> None:
    learner = TinyLearner(dropout=0.3).to(device)
    twin, batch = copy.deepcopy(learner), random_batch(12).to(torch.device(device))
    torch.manual_seed(5)
    terms = Pairwise()(chunk_by_chunk(twin, batch, 3), batch, twin.scales())
    torch.stack(list(terms.values())).sum().backward()
    drawn_next = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(5)
    made = forward_backward(learner, Pairwise(), batch, parts=3)
    for draw, expected in zip((torch.rand(3), torch.rand(3, device=device)), drawn_next, strict=True):
        assert torch.equal(draw, expected)
    assert furthest(gradients(learner), gradients(twin)) < 1e-12
    assert {name: term.item() for name, term in made.items()} == pytest.approx(
        {name: term.item() for name, term in terms.items()}, rel=1e-12
    )


def normalisation(learner: TinyLearner) -> nn.BatchNorm1d:
    found = learner.audio[1]
    assert isinstance(found, nn.BatchNorm1d)
    return found


def test_running_statistics_move_as_by_one_pass() -> None:
    learner, batch = TinyLearner(), random_batch(12)
    whole = copy.deepcopy(learner)
    each = [copy.deepcopy(learner) for _ in range(3)]
    forward_backward(learner, Pairwise(), batch, parts=3)
    whole(batch)
    for alone, chunk in zip(each, batch.chunks(3), strict=True):
        alone(chunk)
    made = normalisation(learner)
    torch.testing.assert_close(made.running_mean, normalisation(whole).running_mean)
    variances = [normalisation(alone).running_var for alone in each]
    mean = torch.stack([variance for variance in variances if variance is not None]).mean(dim=0)
    torch.testing.assert_close(made.running_var, mean)
    assert made.num_batches_tracked == normalisation(whole).num_batches_tracked == 1


def test_statistics_of_what_is_in_evaluation_mode_stay() -> None:
    learner = TinyLearner()
    normalisation(learner).eval()
    before = copy.deepcopy(normalisation(learner).state_dict())
    forward_backward(learner, Pairwise(), random_batch(8), parts=2)
    for name, value in normalisation(learner).state_dict().items():
        if name not in ("weight", "bias"):
            assert torch.equal(value, before[name]), name


def test_a_tower_that_stands_still_takes_no_gradient_in_parts() -> None:
    learner, batch = TinyLearner().eval(), random_batch(8)
    for parameter in (*learner.image.parameters(), *learner.text.parameters()):
        parameter.requires_grad_(False)
    expected = plainly(learner, Pairwise(), batch)
    learner.zero_grad()
    forward_backward(learner, Pairwise(), batch, parts=2)
    assert "image.weight" not in gradients(learner)
    assert furthest(gradients(learner), expected) < 1e-12


def test_a_tower_that_stands_still_runs_once_a_part_and_leaves_the_bits_of_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch, runs = toy_batch(COOPERATIVE, 0), dict.fromkeys(("audio", "image", "text"), 0)
    found: list[dict[str, Tensor]] = []
    for standing in (Learner.standing, property(lambda _: ())):
        monkeypatch.setattr(Learner, "standing", standing)
        training = toy_training(COOPERATIVE)
        learner = training.learner.train()
        for name in runs:
            learner.get_submodule(name).register_forward_hook(lambda *_, name=name: _counted(runs, name))
        terms = forward_backward(learner, COOPERATIVE.objective, batch, parts=3)
        found.append({**gradients(learner), **terms, **learner.state_dict()})
        if len(found) == 1:
            assert runs == {"audio": 6, "image": 3, "text": 3}
    assert runs == {"audio": 12, "image": 9, "text": 9}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0] | found[1])


def _counted(runs: dict[str, int], name: str) -> None:
    runs[name] += 1


def test_gradients_add_up_to_those_that_are_there() -> None:
    learner, batch = TinyLearner().eval(), random_batch(8)
    once = plainly(learner, Pairwise(), batch)
    forward_backward(learner, Pairwise(), batch, parts=2)
    assert furthest(gradients(learner), {name: 2 * grad for name, grad in once.items()}) < 1e-12


@pytest.mark.parametrize("parts", [1, 2])
def test_an_objective_sees_the_whole_batch_without_its_inputs(parts: int) -> None:
    seen: list[tuple[int, Batch]] = []

    def looking(embeddings: Embeddings, batch: Batch, scales: object) -> dict[str, Tensor]:
        assert embeddings.audio is not None
        seen.append((len(embeddings.audio), batch))
        return {"mean": embeddings.audio.mean()}

    batch = random_batch(8)
    forward_backward(TinyLearner().eval(), looking, batch, parts=parts)
    ((rows, facts),) = seen
    assert rows == len(facts) == 8
    assert facts.keys == batch.keys
    assert facts.audio is facts.image is facts.tokens is facts.text_rows is None
    assert facts.targets is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.ones(()), r"expected a dict of named scalars"),
        ({}, r"expected a dict of named scalars"),
        ({"mine": torch.ones(3)}, r"'mine' is \(3,\); expected a tensor of shape \(\)"),
        ({"mine": 0.5}, r"'mine' is 0.5; expected a tensor"),
    ],
)
def test_what_an_objective_should_not_give_is_said(given: object, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        forward_backward(TinyLearner(), lambda *_: given, random_batch(8))  # type: ignore[arg-type, return-value]
