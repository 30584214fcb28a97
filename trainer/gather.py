"""What every process computed, on every process, with gradients that go back to where they belong.

Every process then has the whole loss. Its gradient with respect to one process's embeddings arrives there
from all W of them, as a sum; DDP's mean over processes divides by W again, which leaves the gradient of one
loss over the whole batch. What every process computes alike (scales, the filter norm) goes through that mean
unchanged.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.batch import Batch, Embeddings

# what an objective may know of an example
FACTS = ("targets", "label_sets", "text_ids", "shares", "weights", "valid")


def gather(embeddings: Embeddings, batch: Batch) -> tuple[Embeddings, Batch]:
    """The embeddings, with gradient and in one collective, and the facts of all processes' examples.

    Processes come in the order of their ranks, all with as many examples. Without other processes it is what
    was given, without inputs.
    """
    return gather_embeddings(embeddings), gather_facts(batch)


def gather_embeddings(embeddings: Embeddings) -> Embeddings:
    """Of all processes, (W B, D); in float32 at least."""
    given = present(embeddings)
    if _world() == 1 or not given:
        return embeddings
    dtype = torch.float32
    for rows in given.values():
        dtype = torch.promote_types(dtype, rows.dtype)
    side_by_side = torch.cat([rows.to(dtype) for rows in given.values()], dim=1)
    gathered: Tensor = _AllGather.apply(side_by_side)
    parts = torch.split(gathered, [rows.shape[1] for rows in given.values()], dim=1)
    return Embeddings(**dict(zip(given, parts, strict=True)))


def gather_facts(batch: Batch) -> Batch:
    """Targets, label sets and the like of all processes' examples, as bytes in one collective.

    Inputs are left out even without other processes, so that no objective comes to depend on them. Of the
    keys only this process's own are known: others are "".
    """
    if _world() == 1:
        return without_inputs(batch)
    facts = _facts(batch)
    before, after = dist.get_rank() * len(batch), (_world() - 1 - dist.get_rank()) * len(batch)
    keys = ("",) * before + batch.keys + ("",) * after
    return Batch(keys=keys, **_gather_bytes(facts)) if facts else Batch(keys=keys)


def without_inputs(batch: Batch) -> Batch:
    """What an objective may know of these examples: their facts and keys."""
    return Batch(keys=batch.keys, **_facts(batch))


def present(embeddings: Embeddings) -> dict[str, Tensor]:
    """By field, those that were given."""
    every = {field.name: getattr(embeddings, field.name) for field in dataclasses.fields(embeddings)}
    return {name: rows for name, rows in every.items() if rows is not None}


def _facts(batch: Batch) -> dict[str, Tensor]:
    return {name: fact for name in FACTS if (fact := getattr(batch, name)) is not None}


def _gather_bytes(facts: dict[str, Tensor]) -> dict[str, Tensor]:
    """(B, …) tensors of any types -> (W B, …)."""
    packed = [fact.reshape(len(fact), -1).contiguous().view(torch.uint8) for fact in facts.values()]
    widths = [rows.shape[1] for rows in packed]
    columns = torch.split(_all_gather(torch.cat(packed, dim=1)), widths, dim=1)
    return {
        name: part.contiguous().view(fact.dtype).reshape(-1, *fact.shape[1:])
        for (name, fact), part in zip(facts.items(), columns, strict=True)
    }


class _AllGather(torch.autograd.Function):
    """Rows of all processes; backwards, each process gets the sum of what all made of its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        if gradient.is_cuda:
            own = gradient.new_empty(len(gradient) // _world(), *gradient.shape[1:])
            _named("reduce_scatter_single", "reduce_scatter_tensor")(own, gradient)
            return own
        gradient = gradient.clone()  # gloo sums all in place
        dist.all_reduce(gradient)
        return gradient.chunk(_world())[dist.get_rank()]


def _all_gather(rows: Tensor) -> Tensor:
    gathered = rows.new_empty(_world() * len(rows), *rows.shape[1:])
    _named("all_gather_single", "all_gather_into_tensor")(gathered, rows.contiguous())
    return gathered


def _named(present: str, before: str) -> Callable[..., Any]:
    """A collective by its present name, or by the one it had before torch 2.14."""
    collective: Callable[..., Any] = getattr(dist, present, None) or getattr(dist, before)
    return collective


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
