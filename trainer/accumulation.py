"""One step's forward and backward pass, whole or in parts that together have the whole batch as negatives.

A contrastive loss is not a sum over examples: adding up the losses of parts would be another loss, with
fewer negatives. In parts, features are cached instead (Gao et al., arXiv 2101.06983): a first pass without
gradients embeds everything, the loss of the whole gives the gradient of each embedding, and a second pass
computes each part again and sends these gradients down. It costs one more forward pass and the memory of
one part. Towers that stand still take no gradient and are left out of the second pass. Both passes draw the
same random numbers.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.batch import Batch, Embeddings
from trainer.gather import gather, present, without_inputs
from trainer.models.fbsp import FbspSpectrogram
from trainer.running_statistics import RunningStatistics
from trainer.stage import Objective

Negatives = Literal["global", "local"]
FILTER_NORM = "filter_norm"
Rows = dict[str, Tensor]  # by field of Embeddings
_INPUTS = {"audio": "audio", "image": "image", "text": "text_rows"}  # the field of Batch that starts a tower
Flows = list[tuple[Tensor, Tensor | None]]  # what gradients start from, and those that they start with


def forward_backward(
    learner: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    parts: int = 1,
    negatives: Negatives = "global",
    filter_norm: float = 1.0,
) -> dict[str, Tensor]:
    """Adds the loss's gradients to the parameters' and gives its terms, detached; their sum is the loss.

    `learner` has `forward(Batch) -> Embeddings` and `scales()`, and may be wrapped in DDP, which then reduces
    once, in the last part. If it says `standing`, modalities whose embeddings take no gradient, it gives the
    others without these. `parts` divides the batch. `global` negatives are those of all processes, whose
    terms are then the same; with `local` each has its own. `filter_norm` is the weight of the term of that
    name, which is there if the batch has sound and the learner wavelets to hear it with. What is done to
    gradients (`trainer.gradients`) comes after.
    """
    step = _Step(learner=learner, objective=objective, batch=batch, negatives=negatives)
    norm = wavelet_norm_term(step.model, batch, filter_norm)
    terms = step.whole(norm) if parts == 1 else step.in_parts(parts, norm)
    return {name: term.detach() for name, term in (terms | norm).items()}


def unwrapped(learner: nn.Module) -> Any:
    """The learner without DDP around it."""
    return learner.module if isinstance(learner, DistributedDataParallel) else learner


def wavelet_norm_term(model: nn.Module, batch: Batch, weight: float) -> dict[str, Tensor]:
    """What AudioCLIP adds to every loss that sound takes part in: how far its wavelets' norms are from 1."""
    if weight == 0 or batch.audio is None:
        return {}
    losses = [ear.norm_loss() for ear in model.modules() if isinstance(ear, FbspSpectrogram)]
    return {FILTER_NORM: weight * torch.stack(losses).sum()} if losses else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What both ways to make a step share."""

    learner: nn.Module
    objective: Objective
    batch: Batch
    negatives: Negatives

    @property
    def model(self) -> Any:
        return unwrapped(self.learner)

    def whole(self, norm: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = self._terms(self.learner(self.batch), self.model.scales())
        _backward([(term, None) for term in (terms | norm).values()])
        return terms

    def in_parts(self, parts: int, norm: dict[str, Tensor]) -> dict[str, Tensor]:
        chunks = self.batch.chunks(parts)
        standing = tuple(getattr(self.model, "standing", ()))
        statistics = RunningStatistics(self.model)
        cached, states = _embedded(self.model, chunks)
        statistics.restore()  # they move in the second pass
        scales = self.model.scales()
        terms, of_rows, of_scales = self._gradients(cached, scales, standing)
        once: Flows = [(scales[name], gradient) for name, gradient in of_scales.items()]
        once += [(term, None) for term in norm.values()]
        for part, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            last = part == parts - 1
            with nullcontext() if last else _unsynchronised(self.learner), state.replayed():
                rows = present(self.learner(_without(standing, chunk)))
                _backward(
                    [(rows[name], gradient.chunk(parts)[part]) for name, gradient in of_rows.items()]
                    + (once if last else [])
                )
            statistics.collect()
        statistics.settle()
        return terms

    def _gradients(
        self, cached: Rows, scales: Mapping[str, Tensor], standing: Sequence[str]
    ) -> tuple[dict[str, Tensor], Rows, dict[str, Tensor]]:
        """The loss's terms, and its gradients of every scale and of embeddings but the `standing`."""
        rows = {name: rows.requires_grad_() for name, rows in cached.items() if name not in standing}
        factors = {name: scale.detach().requires_grad_() for name, scale in scales.items()}
        terms = self._terms(Embeddings(**{**cached, **rows}), factors)
        gradients = torch.autograd.grad(_total(terms), [*rows.values(), *factors.values()], allow_unused=True)
        of_rows, of_factors = gradients[: len(rows)], gradients[len(rows) :]
        return terms, _known(rows, of_rows), _known(factors, of_factors)

    def _terms(self, embeddings: Embeddings, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.negatives == "global":
            embeddings, facts = gather(embeddings, self.batch)
        else:
            facts = without_inputs(self.batch)
        return _checked(self.objective(embeddings, facts, scales))


@dataclass(frozen=True, kw_only=True, slots=True)
class _RandomState:
    """Where the generators stand that layers draw from."""

    cpu: Tensor
    cuda: Mapping[int, Tensor]

    @classmethod
    def now(cls, device: torch.device) -> "_RandomState":
        index = torch.cuda.current_device() if device.type == "cuda" else None
        cuda = {} if index is None else {index: torch.cuda.get_rng_state(index)}
        return cls(cpu=torch.get_rng_state(), cuda=cuda)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draws again what was drawn from here on; afterwards generators stand where they stood."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for index, state in self.cuda.items():
                torch.cuda.set_rng_state(state, index)
            yield


@torch.no_grad()
def _embedded(model: nn.Module, chunks: Sequence[Batch]) -> tuple[Rows, list[_RandomState]]:
    """The embeddings of all chunks, and the random state before each."""
    device = next(model.parameters()).device
    states, made = [], []
    for chunk in chunks:
        states.append(_RandomState.now(device))
        made.append(present(model(chunk)))
    return {name: torch.cat([rows[name] for rows in made]) for name in made[0]}, states


def _without(modalities: Sequence[str], batch: Batch) -> Batch:
    """The batch as if these had not been asked for."""
    dropped: dict[str, Any] = dict.fromkeys((_INPUTS[modality] for modality in modalities), None)
    return dataclasses.replace(batch, **dropped)


def _backward(flows: Flows) -> None:
    """From all at once, since DDP takes each parameter's gradient once; what stands still takes none."""
    learnt = [(tensor, gradient) for tensor, gradient in flows if tensor.requires_grad]
    if learnt:
        torch.autograd.backward([tensor for tensor, _ in learnt], [gradient for _, gradient in learnt])


def _unsynchronised(learner: nn.Module) -> AbstractContextManager[None]:
    """Gradients add up here and are not reduced yet."""
    return learner.no_sync() if isinstance(learner, DistributedDataParallel) else nullcontext()


def _known(named: Mapping[str, Tensor], gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    pairs = zip(named, gradients, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None}


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _checked(terms: Any) -> dict[str, Tensor]:
    """Raises TypeError for what an objective should not give."""
    if not isinstance(terms, dict) or not terms:
        raise TypeError(
            f"the objective gave {terms!r}; expected a dict of named scalars, whose sum is the loss"
        )
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            found = tuple(term.shape) if isinstance(term, Tensor) else repr(term)
            raise TypeError(
                f"the objective's term {name!r} is {found}; expected a tensor of shape (): average it"
            )
    return terms
