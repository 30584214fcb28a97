"""Steps on two processes that talk by gloo: what tests of gathering start, and what happens there."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_learner import TinyLearner, gradients, random_batch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trainer.accumulation import Negatives, forward_backward
from trainer.batch import Batch
from trainer.collisions import loss_floor
from trainer.gather import gather, present
from trainer.objectives import Classification, Pairwise, Sigmoid
from trainer.stage import Objective

WORLD = 2
SIZE = 12
OBJECTIVES: dict[str, Objective] = {
    "three pairs": Pairwise(),
    "multi-positive": Pairwise(pairs=("audio_text",), targets="identical", masked="overlapping"),
    "sigmoid": Sigmoid(targets="identical"),
    "classification": Classification(),
}
PARTS = (1, 2)


def whole_batch() -> Batch:
    """Weighted, so that no process's mean is the mean."""
    return random_batch(SIZE, weighted=True)


def run(folder: Path) -> list[dict[str, Any]]:
    """What each process found, in the order of their ranks."""
    mp.spawn(_rank, args=(folder,), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    batch = whole_batch().chunks(WORLD)[rank]
    found: dict[str, Any] = {"gathered": _gathered(batch), "floor": loss_floor(Pairwise(), batch)}
    for name, objective in OBJECTIVES.items():
        for parts in PARTS:
            found[f"{name} in {parts}"] = _step(objective, batch, parts, "global")
    found["local"] = _step(Pairwise(), batch, 1, "local")
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _gathered(batch: Batch) -> dict[str, Any]:
    embeddings, facts = gather(TinyLearner().eval()(batch), batch)
    rows = {name: tensor.detach() for name, tensor in present(embeddings).items()}
    return {"embeddings": rows, "facts": facts}


def _step(objective: Objective, batch: Batch, parts: int, negatives: Negatives) -> dict[str, Any]:
    """Gradients and terms of one step under DDP, and how many bucketfuls were reduced for it."""
    learner = TinyLearner().eval()
    _freeze_unused(learner, objective, batch)
    replicated = DistributedDataParallel(learner, broadcast_buffers=False)
    reduced: list[int] = []

    def counting(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        reduced.append(bucket.index())
        work = dist.all_reduce(bucket.buffer().div_(WORLD), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    replicated.register_comm_hook(None, counting)
    terms = forward_backward(replicated, objective, batch, parts=parts, negatives=negatives)
    return {"gradients": gradients(learner), "terms": terms, "reduced": len(reduced)}


def _freeze_unused(learner: TinyLearner, objective: Objective, batch: Batch) -> None:
    """DDP waits for every parameter that could learn."""
    forward_backward(learner, objective, batch, negatives="local")
    for parameter in learner.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    learner.zero_grad()
