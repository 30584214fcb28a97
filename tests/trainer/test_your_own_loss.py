"""The file that docs/your-own-loss.md shows is what it says: thirty lines that train as they stand."""

import re
from pathlib import Path

import pytest
import torch
from tiny_learner import TinyLearner, furthest, gradients, plainly, random_batch

from trainer.accumulation import forward_backward
from trainer.objectives import labels_needed, modalities_needed
from trainer.overrides import apply_overrides
from trainer.recipes import resolve
from trainer.requested import with_objective
from trainer.stage import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-loss.md").read_text(encoding="utf-8")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown.splitlines()) <= 30
    (tmp_path / "my_loss.py").write_text(shown)
    return with_objective(resolve("debug.full"), f"{tmp_path / 'my_loss.py'}:MyLoss")


def test_it_asks_for_sound_text_and_labels(stage: Stage) -> None:
    assert modalities_needed(stage.objective, stage.model.towers) == ("audio", "text")
    assert labels_needed(stage.objective)


def test_its_margin_is_set_as_any_value(stage: Stage) -> None:
    learner, batch = TinyLearner().eval(), random_batch(8)
    wider = apply_overrides(stage, ["objective.margin=0.6"])
    given = learner(batch), batch, learner.scales()
    before, after = (each.objective(*given)["audio_text"].item() for each in (stage, wider))
    assert before < after


def test_it_lowers_its_loss_in_parts_as_at_once(stage: Stage) -> None:
    learner, batch = TinyLearner().eval(), random_batch(8)
    expected = plainly(learner, stage.objective, batch)
    learner.zero_grad()
    forward_backward(learner, stage.objective, batch, parts=4)
    assert furthest(gradients(learner), expected) < 1e-12
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.3)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(forward_backward(learner, stage.objective, batch, parts=2)["audio_text"].item())
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
