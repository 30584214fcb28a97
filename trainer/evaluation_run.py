"""An evaluation carried out: a model and a data set by name in, rows of results out."""

import datetime
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from shards.annotations import AnnotationError
from shards.labels import Labels, LabelsError, read_labels
from shards.layout import LABELS
from shards.ledger import ShardRecord, read_record
from shards.manifest import is_ledger
from shards.profile import Dataset, ProfileError, describe_partial, read_dataset
from shards.sample_reader import SampleReader
from shards.selection import Selection, SelectionError, select_samples
from shards.store import Store, StoreError, open_store
from trainer.caption_retrieval import CaptionRetrieval
from trainer.classifier import Classifier, is_classifier, load_classifier
from trainer.distributed import Ranks, process_group
from trainer.embedded import Embedded, Rows
from trainer.evaluate import BATCH, TOGETHER, embedded_of, embedded_rows
from trainer.evaluations import (
    SOUND_PROMPT,
    Classification,
    Evaluation,
    LinearProbe,
    Retrieval,
    ZeroShot,
    evaluate_embeddings,
    modalities_of,
)
from trainer.fetch import FetchError
from trainer.imagenet_names import imagenet_prompts
from trainer.kept_embeddings import Basis, EmbeddingCache, Tell, basis_of, kept_or_made
from trainer.label_table import LABEL_TEXT, LabelTable, label_table
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.measure import Draws, Measure
from trainer.models import Encoder, load_model
from trainer.prepare import Inputs, Preparer
from trainer.provenance import git_sha, versions
from trainer.results import Provenance, append_results
from trainer.run_folder import RunFolder
from trainer.run_request import RunError, RunFailed
from trainer.sample_decoder import BadSamplesError, Wanted
from trainer.stage import Augment, Data, Model, Stage
from trainer.weights import CONFIG, WeightsError, state_hash

TASKS = ("zero-shot", "classification", "query", "linear-probe")
LONGEST_S = 10.0  # AudioSet's windows


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """One evaluation, as a person asks for it."""

    model: str  # run folder, weights file or published name
    data: str  # folder or address of shards
    tasks: tuple[str, ...]  # of TASKS; all of them cost one pass over the data
    # where results go; None: into the run's folder, or evaluations/NAME of a named one
    out: Path | None = None
    splits: tuple[str, ...] = ()  # all without any
    where: str = ""  # SQL over samples
    only: Path | None = None  # a file with a key a line
    annotations: tuple[str, ...] = ()
    text: str = LABEL_TEXT  # or an annotation's column of captions
    prompts: tuple[str, ...] = ()  # none: bare names, and one prompt; {} stands for the name
    per_class: bool = False
    seconds: float = 0.0  # of sound that the model hears; 0: the longest item's, at most 10
    channels: int = 1
    stretch_amplitude: bool = False
    selected_on_test: bool = False  # the model was chosen on these very items: every name says so
    batch_size: int = BATCH  # that a process decodes at once; no number depends on it
    max_bad_share: float = 0.01
    draws: Draws = field(default_factory=Draws)
    device: str = "auto"
    cache: EmbeddingCache | None = None  # of embeddings; None: what is evaluated is embedded anew


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What an evaluation left."""

    measures: tuple[Measure, ...]
    rows: tuple[dict[str, Any], ...]
    out: Path


def _silent(line: str) -> None:
    """Tells nobody."""


def run_evaluation(request: EvaluationRequest, tell: Tell = _silent) -> EvaluationResult | None:
    """All numbers of the tasks, appended to the results; None on processes but the first.

    `tell` is given lines for a person. Raises RunError, one line, for what was asked wrongly, and RunFailed
    for data that do not decode.
    """
    evaluations = evaluations_of(request)
    with _one_line(), process_group(request.device) as ranks, _opened(request, evaluations, ranks) as opened:
        embedded = _embedded(opened, tell)
        return _recorded(opened, embedded) if ranks.first else None


def embed_request(request: EvaluationRequest, tell: Tell = _silent) -> tuple[Embedded, Selection]:
    """What the tasks would be measured on, and the samples that it is of: to be looked at.

    Raises what `run_evaluation` raises.
    """
    evaluations = evaluations_of(request)
    with _one_line(), process_group(request.device) as ranks, _opened(request, evaluations, ranks) as opened:
        return _embedded(opened, tell), opened.selection


@contextmanager
def _one_line() -> Iterator[None]:
    """What a person can cause, as RunError and RunFailed."""
    try:
        yield
    except RunError:
        raise
    except (BadSamplesError, StoreError) as error:
        raise RunFailed(str(error)) from error
    except _USERS_ERRORS as error:
        raise RunError(str(error)) from error


_USERS_ERRORS = (
    SelectionError, AnnotationError, ProfileError, LabelsError, WeightsError, FetchError, ValueError, OSError,
)  # fmt: skip


def evaluations_of(request: EvaluationRequest) -> tuple[Evaluation, ...]:
    """What the tasks measure. Raises RunError for one that is none, and for none at all."""
    if not request.tasks:
        raise RunError(f"no task; expected some of {', '.join(TASKS)}")
    return tuple(each for task in request.tasks for each in _evaluations_of(task, request))


def _evaluations_of(task: str, request: EvaluationRequest) -> tuple[Evaluation, ...]:
    per_class = request.per_class
    match task:
        case "zero-shot":
            return tuple(_zero_shots(request))
        case "classification":
            return (Classification(per_class=per_class),)
        case "query":
            if request.text == LABEL_TEXT:
                return (Retrieval(),)
            return (CaptionRetrieval(), Retrieval(relevance="text"))
        case "linear-probe":
            return (LinearProbe(per_class=per_class),)
    raise RunError(f"no task {task!r}; expected one of {', '.join(TASKS)}")


def _zero_shots(request: EvaluationRequest) -> Iterator[ZeroShot]:
    subjects = ("audio", "image", "both")
    bare = ZeroShot(subjects=subjects, per_class=request.per_class)
    if request.prompts:
        yield replace(bare, prompts=request.prompts)
    elif _is_imagenet(request):
        yield replace(bare, names="imagenet")
        yield replace(bare, names="imagenet", prompts=imagenet_prompts())
    else:
        yield bare
        yield replace(bare, prompts=(SOUND_PROMPT,))


def _is_imagenet(request: EvaluationRequest) -> bool:
    try:
        return read_dataset(open_store(request.data)).name.startswith("imagenet")
    except (ProfileError, StoreError, ValueError):
        return False  # said later, in full


# -- opening


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """Model and data, put together."""

    request: EvaluationRequest
    evaluations: tuple[Evaluation, ...]
    ranks: Ranks
    learner: Learner
    checkpoint: str  # sixteen hex digits of weights and configuration
    store: Store
    reader: SampleReader
    dataset: Dataset
    records: tuple[ShardRecord, ...]  # of the shards of the splits that are evaluated, by name
    selection: Selection
    labels: LabelTable
    wanted: frozenset[str]  # modalities that are there and asked for
    seconds: float

    def stage(self) -> Stage:
        """What the preparer needs to know, as a stage that never trains."""
        classes = len(self.labels.class_names) if self.learner.classifies else 0
        return Stage(
            name="evaluation",
            about="what is evaluated is prepared as in training, without chance",
            objective=_Wants(modalities=tuple(sorted(self.wanted))),
            model=Model(classes=classes),
            data=Data(seconds=self.seconds, channels=self.request.channels, text=self.request.text),
            augment=Augment(stretch_amplitude=self.request.stretch_amplitude),
        )

    def loader(self) -> Loader:
        """Of whole parts that go through the model together: they are the same on any number of processes."""
        parts = -(-self.request.batch_size // TOGETHER)
        return Loader(
            self.selection,
            self.reader,
            batch_size=parts * TOGETHER * self.ranks.world,
            rank=self.ranks.rank,
            world=self.ranks.world,
            training=False,
            wanted=Wanted(audio="audio" in self.wanted, frame="central" if "image" in self.wanted else None),
            channels=self.request.channels,
            max_seconds=max(LONGEST_S, self.seconds),
            max_bad_share=self.request.max_bad_share,
        )

    def preparer(self) -> Preparer:
        return Preparer(
            self.stage(),
            self.labels,
            Inputs.of(self.learner),
            device=self.ranks.device,
            recorded_rate=self.dataset.profile.sample_rate,
        )

    def basis(self) -> Basis:
        """What the embeddings depend on."""
        stage = self.stage()
        return basis_of(
            checkpoint=self.checkpoint,
            store=self.store,
            profile=self.dataset.profile,
            selection=self.selection,
            records=self.records,
            prepared={
                "modalities": sorted(self.wanted),
                "seconds": stage.data.seconds,
                "channels": stage.data.channels,
                **asdict(stage.augment),
            },
            device=self.ranks.device,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wants:
    """Names what to prepare; computes nothing."""

    modalities: tuple[str, ...]
    needs_labels: bool = False

    def __call__(self, *_: object) -> dict[str, Any]:
        return {}


@contextmanager
def _opened(
    request: EvaluationRequest, evaluations: tuple[Evaluation, ...], ranks: Ranks
) -> Iterator[_Opened]:
    with ExitStack() as stack:
        store = open_store(request.data)
        dataset = read_dataset(store)
        selection = _selection(request, store)
        model = _model(request.model, ranks)
        reader = stack.enter_context(SampleReader(store=store))
        yield _Opened(
            request=request,
            evaluations=evaluations,
            ranks=ranks,
            learner=Learner(model, trainable=()).to(ranks.device).eval(),
            checkpoint=state_hash(model.state_dict(), model.config),
            store=store,
            reader=reader,
            dataset=dataset,
            records=_records(store, set(request.splits) or set(selection.splits)),
            selection=selection,
            labels=label_table(selection, _labels(store), text=request.text),
            wanted=_wanted(evaluations, model, selection, dataset),
            seconds=request.seconds or _longest(selection),
        )


def _records(store: Store, splits: Set[str]) -> tuple[ShardRecord, ...]:
    records = [_record(store, name) for name in sorted(store.names()) if is_ledger(name)]
    return tuple(record for record in records if record.split in splits)


def _record(store: Store, ledger: str) -> ShardRecord:
    with store.open(ledger) as file:
        return read_record(file)


def _model(source: str, ranks: Ranks) -> Encoder | Classifier:
    folder = Path(source).expanduser()
    if (folder / CONFIG).is_file() and is_classifier(folder):
        return load_classifier(folder, device=ranks.device)
    return load_model(source, device=ranks.device)


def _selection(request: EvaluationRequest, store: Store) -> Selection:
    columns = ("audio_s", "ytid", "pcm_sha256", *(() if request.text == LABEL_TEXT else (request.text,)))
    selection = select_samples(
        store,
        splits=request.splits,
        where=request.where,
        annotations=request.annotations,
        columns=columns,
    )
    return selection if request.only is None else _only(selection, request.only)


def _only(selection: Selection, path: Path) -> Selection:
    """The items whose keys a file lists. Raises RunError when it lists one that is not there."""
    wanted = read_keys(path)
    chosen = np.isin(np.array(selection.keys, dtype=object), np.array(sorted(wanted), dtype=object))
    if not chosen.any():
        raise RunError(f"{path} lists {len(wanted):,} keys, and none is among {len(selection):,} items")
    return selection.only(chosen, f"{selection.sql} -- only the {len(wanted):,} keys of {path.name}")


def read_keys(path: Path) -> set[str]:
    """A key a line; empty lines and those that begin with # are none. Raises RunError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read as a list of keys: {error}") from None
    keys = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    if not keys:
        raise RunError(f"{path} lists no keys; expected one a line, as `trichord split freeze` writes them")
    return keys


def _labels(store: Store) -> Labels:
    try:
        with store.open(LABELS) as file:
            return read_labels(file)
    except FileNotFoundError:
        raise RunError(
            f"{store.url} has no {LABELS}; expected what `trichord ingest` or `rebuild` made"
        ) from None


def _wanted(
    evaluations: Sequence[Evaluation], model: Encoder | Classifier, selection: Selection, dataset: Dataset
) -> frozenset[str]:
    """What evaluations can use, the model has towers for, and the data hold."""
    longest = pc.max(selection.table.column("audio_s")).as_py()
    held = {"audio": bool(longest), "image": dataset.profile.frames > 0 or not longest}
    there = {name for name in model.modalities if held.get(name)}
    wanted = modalities_of(evaluations) & there
    if not wanted:
        asked = ", ".join(sorted(modalities_of(evaluations)))
        held_names = ", ".join(name for name, is_held in held.items() if is_held)
        raise RunError(
            f"nothing to embed: what is asked is about {asked}, the model has {', '.join(model.modalities)}, "
            f"the data hold {held_names}; expected one that all three have"
        )
    return wanted


def _longest(selection: Selection) -> float:
    """Seconds of the longest item, to a tenth, at most ten."""
    longest = pc.max(selection.table.column("audio_s")).as_py() or LONGEST_S
    return min(round(float(longest), 1), LONGEST_S)


# -- evaluating


def _embedded(opened: _Opened, tell: Tell) -> Embedded:
    return embedded_of(
        _rows(opened, tell),
        opened.learner,
        opened.selection,
        opened.labels,
        opened.evaluations,
        lost=_lost(opened),
    )


def _rows(opened: _Opened, tell: Tell) -> Rows:
    ranks, cache, items = opened.ranks, opened.request.cache, len(opened.selection)
    made = partial(
        embedded_rows, opened.learner, loader=opened.loader(), preparer=opened.preparer(), ranks=ranks
    )
    if cache is None:
        return made()
    return kept_or_made(cache, opened.basis(), made, items=items, ranks=ranks, tell=tell)


def _lost(opened: _Opened) -> int:
    """Items of whole splits that gave no sample; of a choice among them nobody knows."""
    if opened.request.where or opened.request.only:
        return 0
    return sum(record.rows for record in opened.records) - len(opened.selection)


def _recorded(opened: _Opened, embedded: Embedded) -> EvaluationResult:
    request = opened.request
    measures = evaluate_embeddings(embedded, opened.evaluations, request.draws)
    if request.selected_on_test:
        measures = [measure.selected_on_test() for measure in measures]
    folder = request.out or _results_folder(request.model)
    rows = append_results(folder, measures, _provenance(opened, embedded), request.draws)
    return EvaluationResult(measures=tuple(measures), rows=tuple(rows), out=folder)


def _results_folder(model: str) -> Path:
    path = Path(model).expanduser()
    return path if path.is_dir() else Path("evaluations", path.name)


def _provenance(opened: _Opened, embedded: Embedded) -> Provenance:
    request, lacks = opened.request, opened.dataset.partial
    return Provenance(
        dataset=opened.dataset.name,
        address=request.data,
        dataset_sha256=_dataset_sha256(opened.records),
        key_list_sha256=embedded.items.key_list_sha256,
        query=opened.selection.sql,
        split=",".join(sorted(opened.selection.splits)),
        checkpoint=opened.checkpoint,
        model=request.model,
        recipe=_trained_by(request.model, "recipe"),
        seconds=opened.seconds,
        partial=describe_partial(lacks) if lacks else "",
        shared_with_training=_shared(opened),
        command=shlex.join(sys.argv),
        code=git_sha(),
        versions=versions(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _dataset_sha256(records: Sequence[ShardRecord]) -> str:
    lines = "".join(f"{record.shard} {record.tar_sha256}\n" for record in records)
    return hashlib.sha256(lines.encode()).hexdigest()


def _run_facts(model: str) -> dict[str, Any]:
    """What a run's folder says of itself; nothing for another source of weights."""
    path = RunFolder(Path(model).expanduser()).facts
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def _trained_by(model: str, name: str) -> str:
    return str(_run_facts(model).get(name, ""))


def _shared(opened: _Opened) -> int | None:
    """How many items come from videos, or hold sounds, that the model's training data hold, too.

    None where the training data are not known or not at hand.
    """
    facts = _run_facts(opened.request.model)
    address = facts.get("data", {}).get("address")
    splits = tuple(facts.get("stage", {}).get("values", {}).get("data.train", ()))
    if not address or not splits:
        return None
    try:
        learned = select_samples(open_store(address), splits=splits, columns=("ytid", "pcm_sha256"))
    except (SelectionError, StoreError, ProfileError, OSError, ValueError):
        return None
    shared = np.zeros(len(opened.selection), dtype=bool)
    for column in ("ytid", "pcm_sha256"):
        ours, theirs = (each.table.column(column) for each in (opened.selection, learned))
        known = pc.is_in(ours, value_set=theirs.combine_chunks().drop_null())
        shared |= known.to_numpy(zero_copy_only=False).astype(bool)
    return int(shared.sum())
