"""A process that trains a toy stage on made-up batches: python toy_run.py OUT STAGE PAUSE_S [PATH=VALUE]"""

import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import ToyFeed, toy_batch

from trainer.distributed import Ranks
from trainer.feed import Fed
from trainer.learner import Learner
from trainer.run import run
from trainer.run_request import RunError, RunRequest, RunResult
from trainer.stage import Stage

PASSED_BY = 2.62  # a loss that toy stages reach and leave behind
RECIPES = Path(__file__).parent / "toy_training.py"


class SlowFeed(ToyFeed):
    """Gives a test's signal time to come between steps."""

    pause_s = 0.0

    def batches(self, step: int) -> Generator[Fed]:
        for fed in super().batches(step):
            time.sleep(self.pause_s)
            yield fed


def toy_data(pause_s: float = 0.0) -> Any:
    """What stands in for shards: batches, and an evaluation that counts nothing but the loss."""

    @contextmanager
    def opened(request: RunRequest, stage: Stage, learner: Learner, ranks: Ranks) -> Iterator[Any]:
        feed = SlowFeed(stage, rank=ranks.rank, world=ranks.world)
        feed.pause_s = pause_s
        facts = {"samples": 4 * stage.batch_size, "query": "none", "key_list_sha256": request.data}
        evaluate = (lambda model: _measured(model, stage)) if stage.best else None
        yield SimpleNamespace(feed=feed, facts=facts, evaluate=evaluate)

    return opened


@torch.no_grad()
def _measured(model: Any, stage: Stage) -> Mapping[str, float]:
    batch = toy_batch(stage, 1_000)
    terms = stage.objective(model(batch), batch, model.scales())
    loss = float(sum(terms.values()))
    return {"dev/loss/sum": loss, "dev/loss/near": -abs(loss - PASSED_BY)}


def toy_run(out: Path, stage: str, *overrides: str, pause_s: float = 0.0, **options: Any) -> RunResult:
    request = RunRequest(
        recipe=f"{RECIPES}:{stage}",
        data=options.pop("data", "toy"),
        out=out,
        overrides=overrides,
        device="cpu",
        **options,
    )
    return run(request, open_data=toy_data(pause_s))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        result = toy_run(Path(sys.argv[1]), sys.argv[2], *sys.argv[4:], pause_s=float(sys.argv[3]))
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.code))
    sys.exit(int(result.exit_code))
