"""A run's folder as training leaves it, made in no time: its facts, its log, its results."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from trainer.measure import Draws, Measure
from trainer.results import Provenance, append_results
from trainer.run_folder import RunFolder
from trainer.run_log import JsonLines, StepFacts
from trainer.stage import Stage
from trainer.stage_view import stage_to_json

STEPS, EPOCHS = 40, 4


def reported_run(folder: Path, stage: Stage, **facts: Any) -> Path:
    """Forty steps of `stage` over four epochs; `facts` into its run.json."""
    stage = dataclasses.replace(stage, epochs=EPOCHS)
    run = RunFolder(folder)
    told = {
        "stage": stage_to_json(stage),
        "recipe": stage.name,
        "overrides": ["epochs=4"],
        "data": {"address": "data/toys", "samples": 60, "query": "SELECT key", "key_list_sha256": "ab" * 32},
        "git_sha": "0123abc",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "device": "a toaster",
        "start": [],
        "started": "2026-11-21T08:00:00Z",
        "command": "trichord train toy --out here",
    }
    run.write(run.facts, told | facts)
    run.write(
        run.status,
        {"outcome": "finished", "step": STEPS, "steps": STEPS, "at": "2026-11-21T09:00:00Z", "metrics": {}},
    )
    log_steps(run)
    return folder


def log_steps(run: RunFolder) -> None:
    log = JsonLines(run.log, after=0)
    for step in range(1, STEPS + 1):
        log.log(step, step // 10, step_facts(step).numbers())
        if step % 10 == 0:
            log.log(step, step // 10, {"retrieval/text_to_audio/R@1": step / 100, "dev/odd/thing": 0.5})
    log.close()


def step_facts(step: int) -> StepFacts:
    return StepFacts(
        step=step,
        epoch=step // 10,
        loss=3 / step + 0.25,
        terms={"audio_text": 3 / step + 0.25, "audio_image": 2 / step},
        floor={"audio_text": 0.25, "audio_image": 0.0},
        lr=0.1,
        gradient_norm=1.0,
        scales={"audio_text": 10.0 + step, "audio_image": 20.0},
        samples=8,
        step_s=0.5,
    )


def measured(
    folder: Path,
    name: str,
    value: float,
    *,
    dataset: str = "esc50",
    recipe: str = "",
    checkpoint: str = "0123456789abcdef",
    **facts: Any,
) -> None:
    """A row of results whose interval is `value` ± 0.02."""
    replicates = np.linspace(value - 0.02, value + 0.02, 101)
    append_results(
        folder,
        [Measure(name=name, value=value, n=400, replicates=replicates, **facts)],
        Provenance(
            dataset=dataset,
            address="data/toys",
            dataset_sha256="cd" * 32,
            key_list_sha256="ef" * 32,
            query="SELECT key",
            split="fold1",
            checkpoint=checkpoint,
            model=str(folder),
            recipe=recipe,
            date="2026-11-21T09:30:00+00:00",
            command="trichord evaluate here",
        ),
        Draws(resamples=101),
    )
