"""Two real processes against one over the whole batch, in float64; and one that has nobody to ask."""

from typing import Any

import pytest
import torch
from gloo_ranks import OBJECTIVES, PARTS, SIZE, WORLD, run, whole_batch
from tiny_learner import TinyLearner, furthest, plainly, random_batch

from trainer.collisions import loss_floor
from trainer.gather import gather, present
from trainer.objectives import Pairwise


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_make_the_step_of_one(ranks: list[dict[str, Any]], name: str, parts: int) -> None:
    learner, batch = TinyLearner().eval(), whole_batch()
    expected = plainly(learner, OBJECTIVES[name], batch)
    terms = OBJECTIVES[name](learner(batch), batch, learner.scales())
    for found in ranks:
        step = found[f"{name} in {parts}"]
        assert furthest(step["gradients"], expected) < 1e-6
        assert {term: value.item() for term, value in step["terms"].items()} == pytest.approx(
            {term: value.item() for term, value in terms.items()}, rel=1e-9
        )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_are_reduced_once(ranks: list[dict[str, Any]], name: str) -> None:
    for found in ranks:
        assert found[f"{name} in 2"]["reduced"] == found[f"{name} in 1"]["reduced"] > 0


def test_local_negatives_are_the_mean_of_processes_that_do_not_meet(ranks: list[dict[str, Any]]) -> None:
    each = [plainly(TinyLearner().eval(), Pairwise(), part) for part in whole_batch().chunks(WORLD)]
    mean = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
    for found in ranks:
        assert furthest(found["local"]["gradients"], mean) < 1e-12
    first, second = (found["local"]["terms"]["audio_text"] for found in ranks)
    assert first != second


def test_every_process_has_all_embeddings_and_facts_in_order(ranks: list[dict[str, Any]]) -> None:
    batch = whole_batch()
    expected = present(TinyLearner().eval()(batch))
    for rank, found in enumerate(ranks):
        made, facts = found["gathered"]["embeddings"], found["gathered"]["facts"]
        assert set(made) == set(expected)
        for name, rows in expected.items():
            torch.testing.assert_close(made[name], rows.detach(), rtol=1e-12, atol=1e-12)
        for name in ("targets", "label_sets", "text_ids", "weights"):
            assert torch.equal(getattr(facts, name), getattr(batch, name)), name
        assert facts.valid is None
        own = slice(rank * SIZE // WORLD, (rank + 1) * SIZE // WORLD)
        assert len(facts) == SIZE
        assert facts.keys[own] == batch.keys[own]
        assert set(facts.keys) == {*batch.keys[own], ""}


def test_the_floor_is_that_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    expected = loss_floor(Pairwise(), whole_batch())
    for found in ranks:
        assert found["floor"]["audio_text"].item() == pytest.approx(expected["audio_text"].item(), rel=1e-6)


def test_a_process_alone_keeps_its_embeddings_and_loses_its_inputs() -> None:
    batch = random_batch(4)
    given = TinyLearner().eval()(batch)
    embeddings, facts = gather(given, batch)
    assert embeddings is given
    assert facts.keys == batch.keys
    assert facts.label_sets is batch.label_sets
    assert facts.audio is None
