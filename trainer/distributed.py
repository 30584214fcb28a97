"""The processes that train together: who they are, and what they must agree on."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.devices import choose_device
from trainer.run_request import RunError

BUCKET_MB = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """Of all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """What the first process has, a small picklable value; to be called by all."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@contextmanager
def process_group(wanted_device: str) -> Iterator[Ranks]:
    """The group that `torchrun` has started this process in, or a group of one.

    Raises RunError for a device that is not here.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    try:
        device = choose_device(wanted_device)
    except (ValueError, RuntimeError) as error:
        raise RunError(str(error)) from None
    if device.type == "cuda":
        device = torch.device("cuda", local if world > 1 else device.index or 0)
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        yield Ranks(rank=dist.get_rank(), world=world, device=device)
    finally:
        dist.destroy_process_group()


def replicated(learner: nn.Module, ranks: Ranks, *, sync_batch_norm: bool = False) -> nn.Module:
    """The learner as all processes hold it: equal weights, and gradients that are their mean.

    Batch statistics are each process's own, unless `sync_batch_norm`. The scales' gradients come from the
    objective, outside any forward pass, so that `reduce_scales` has to reduce them.
    """
    if ranks.world == 1:
        return learner
    if sync_batch_norm:
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
    own = [name for name, _ in learner.named_parameters() if is_scale(name)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(learner, own)  # type: ignore[no-untyped-call]
    _same_everywhere(learner)
    return DistributedDataParallel(
        learner,
        init_sync=False,  # done above, for what it is told to ignore, too
        gradient_as_bucket_view=True,
        bucket_cap_mb=BUCKET_MB,
        **_own_buffers(),
    )


def _own_buffers() -> dict[str, Any]:
    """The option that leaves each process its own batch statistics; PyTorch 2.13 has renamed it."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {name: False}


def is_scale(name: str) -> bool:
    """Whether a parameter is used by the objective alone."""
    return name.startswith(("log_scales.", "objective."))


def _same_everywhere(model: nn.Module) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)


def reduce_scales(model: nn.Module, ranks: Ranks) -> None:
    """Makes the scales' gradients the mean over the processes, as all others are."""
    for name, parameter in model.named_parameters():
        if ranks.world > 1 and is_scale(name) and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(ranks.world)


def share_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Gives every process the first one's buffers, which are those that checkpoints hold."""
    if ranks.world > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
