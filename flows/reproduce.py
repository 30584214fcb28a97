"""The Prefect flow of a reproduction: its plan and steps are those of `trichord reproduce`, a task each."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from flows.reproduce_command import request_of
from flows.reproduce_plan import Plan, Step, command_line, cost_of, make_plan
from flows.reproduce_run import StepStopped, check_data, run_step


@flow(name="reproduce")
def reproduce(
    out: str,
    tables: str = "1,2,3,4",
    scale: str = "toy",
    data: dict[str, str] | None = None,
    device: str = "auto",
) -> Any:
    """Reproduce AudioCLIP's tables: what is missing is done, one task for each step.

    Args:
        out: absolute folder of everything.
        tables: which of the paper's.
        scale: toy or full.
        data: addresses of shards that are there, by name: audioset, esc50, us8k, imagenet.
        device: auto, cuda, mps or cpu.
    """
    if not Path(out).is_absolute():
        raise ValueError(f"out is {out!r}: a worker runs in a folder of its own; expected an absolute path")
    named = [f"{name}={address}" for name, address in (data or {}).items()]
    plan = make_plan(request_of(Path(out), tables, scale, named, device))
    _publish_plan(plan)
    check_data(plan)
    try:
        for step in plan.steps:
            if not plan.done(step):
                _step.with_options(name=step.name)(plan, step)
    except StepStopped as stopped:
        return Cancelled(name="Preempted", message=str(stopped))
    page = Path(plan.steps[-1].output)
    create_markdown_artifact(page.read_text(encoding="utf-8"), key="reproduce-tables")
    return {"out": out, "tables": str(page)}


@task(cache_policy=NO_CACHE)
def _step(plan: Plan, step: Step) -> None:
    run_step(plan, step, say=get_run_logger().info)


def _publish_plan(plan: Plan) -> None:
    """What is there and what is missing, where a person looks."""
    rows = [
        {
            "step": step.name,
            "state": "done" if plan.done(step) else "missing",
            "disk GB": cost_of(step, plan).disk_gb,
            "hours": round(cost_of(step, plan).hours, 2),
            "command": command_line(step),
        }
        for step in plan.steps
    ]
    create_table_artifact(rows, key="reproduce-plan")
