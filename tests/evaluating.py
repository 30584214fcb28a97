"""A toy model and two folds of small shards to evaluate it on, and two processes that do it together."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from shard_folders import shard_folder

from trainer.evaluation_run import EvaluationRequest, EvaluationResult, run_evaluation
from trainer.kept_embeddings import EmbeddingCache
from trainer.measure import Draws
from trainer.models import EncoderConfig, build_encoder, save_encoder

FEW = Draws(resamples=20)


def toy_model(folder: Path, *, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_encoder(build_encoder(EncoderConfig(size="toy")), folder)
    return folder


def two_folds(folder: Path, **options: Any) -> Path:
    for fold, shards in (("fold1", (7, 4)), ("fold2", (6,))):
        shard_folder(folder, shards, split=fold, seconds=0.5, **options)
    return folder


def requested(model: Path, data: Path, **options: Any) -> EvaluationRequest:
    given: dict[str, Any] = {"tasks": ("zero-shot", "query"), "draws": FEW, "batch_size": 4, "device": "cpu"}
    return EvaluationRequest(model=str(model), data=str(data), **given | options)


def evaluated(model: Path, data: Path, tasks: Sequence[str], out: Path, **options: Any) -> EvaluationResult:
    found = run_evaluation(requested(model, data, tasks=tuple(tasks), out=out, **options))
    assert found is not None
    return found


def evaluated_by_two(
    model: Path, data: Path, tasks: Sequence[str], out: Path, *, ports: tuple[int, int]
) -> None:
    """The results lie in `out`; those from the embeddings that were kept then, in `out / "kept"`."""
    mp.spawn(_rank, args=(model, data, tasks, out, ports), nprocs=2)  # type: ignore[no-untyped-call]


def _rank(
    rank: int, model: Path, data: Path, tasks: Sequence[str], out: Path, ports: tuple[int, int]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    cache = EmbeddingCache(folder=out / "cache")
    for port, folder in zip(ports, (out, out / "kept"), strict=True):
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        run_evaluation(requested(model, data, tasks=tuple(tasks), out=folder, cache=cache))
