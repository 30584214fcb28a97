"""Where everything of a dataset lies: names relative to its folder."""

import re

DATASET = "dataset.json"
MANIFEST = "manifest.duckdb"
SIZES = "sizes.json"
LABELS = "labels.parquet"
PLAN_FOLDER = "_plan"
ANNOTATION_FOLDER = "annotations"
WORK_FOLDER = "_work"
STATE_FOLDER = "_state"
CLAIMS = f"{STATE_FOLDER}/claims"
WORKERS = f"{STATE_FOLDER}/workers"
IDENTITIES = f"{STATE_FOLDER}/identities"
PAUSE = f"{STATE_FOLDER}/pause.json"

SHARD = re.compile(r"(?P<dataset>[a-z0-9]+)-(?P<split>[A-Za-z0-9_]+)-(?P<index>[0-9]{6,})")


def shard_name(split: str, index: int, dataset: str = "audioset") -> str:
    """`audioset-eval-000007`: the stem that a tar and its ledger share."""
    return f"{dataset}-{split}-{index:06d}"


def tar_name(shard: str) -> str:
    return f"{shard}.tar"


def ledger_name(shard: str) -> str:
    """The ledger is published last: a shard whose ledger exists is finished."""
    return f"{shard}.parquet"


def shard_index(shard: str) -> int:
    """The number that ends a shard's name."""
    return int(shard.rpartition("-")[2])


def is_shard_name(text: str) -> bool:
    return SHARD.fullmatch(text) is not None
