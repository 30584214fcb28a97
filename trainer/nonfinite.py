"""Numbers that are no numbers: which of data, wavelets, weights or overflow made them, and which samples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.models.fbsp import FbspSpectrogram
from trainer.run_folder import RunFolder
from trainer.run_request import RunFailed

ABSURD = 1e4  # what no waveform in [-1, 1] and no normalised pixel comes near


class NonFinite(RunFailed):
    """A loss, a gradient or a weight that is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is known of a step whose numbers are not finite."""

    cause: str  # data | wavelets | weights | overflow
    what: str
    keys: tuple[str, ...] = ()  # samples at fault


def diagnosed(model: nn.Module, batch: Batch, terms: Mapping[str, float]) -> Verdict:
    """The first cause that can be shown, from the inputs on."""
    if found := bad_samples(batch):
        named = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        return Verdict(cause="data", what=f"inputs that are not finite or absurd in {named}", keys=found)
    if faults := list(unsound_weights(model)):
        cause = "wavelets" if "fbsp" in faults[0] else "weights"
        return Verdict(cause=cause, what="; ".join(faults[:3]))
    bad = [name for name, value in terms.items() if not abs(value) < float("inf")]
    where = f"of {', '.join(bad)}" if bad else "of gradients"
    return Verdict(cause="overflow", what=f"overflow {where}: inputs and weights are finite{_first(model)}")


def bad_samples(batch: Batch) -> tuple[str, ...]:
    """Keys of the examples whose sound or picture holds what no sound or picture does."""
    suspicious = torch.zeros(len(batch), dtype=torch.bool)
    for inputs in (batch.audio, batch.image, batch.targets):
        if inputs is not None:
            largest = inputs.detach().flatten(1).abs().amax(dim=1).float().cpu()
            suspicious |= ~(largest <= ABSURD)  # a NaN is not smaller than anything
    return tuple(key for key, bad in zip(batch.keys, suspicious.tolist(), strict=True) if bad)


def unsound_weights(model: nn.Module) -> Iterable[str]:
    """What is wrong with the weights, in words: wavelets first, since one negative fb spoils all."""
    for name, module in model.named_modules():
        if isinstance(module, FbspSpectrogram):
            yield from _unsound_wavelets(name, module)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            yield f"{name} has {int((~tensor.isfinite()).sum())} entries that are not finite"


def _unsound_wavelets(name: str, ear: FbspSpectrogram) -> Iterable[str]:
    for parameter, values in (("m", ear.m.detach()), ("fb", ear.fb.detach()), ("fc", ear.fc.detach())):
        if bad := _indices(~values.isfinite()):
            yield f"{name}.{parameter}[{bad[0]}] is {float(values[bad[0]])} ({len(bad)} such filters)"
    if bad := _indices(ear.fb < 0):
        value = float(ear.fb.detach()[bad[0]])
        yield f"{name}.fb[{bad[0]}] is {value:.3g}: a negative bandwidth has no root ({len(bad)} filters)"


def _indices(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero().flatten().tolist()
    return found


def _first(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"; first in the gradient of {name}"
    return ""


def stop(verdict: Verdict, batch: Batch, folder: RunFolder | None, *, step: int, epoch: int) -> NonFinite:
    """The error to raise, after what is known has been written beside the run's log."""
    told = ""
    if folder is not None:
        path = _report(verdict, batch, folder, step=step, epoch=epoch)
        told = f"; the batch's keys are in {path}"
    return NonFinite(
        f"step {step}: not finite by {verdict.cause}: {verdict.what}{told}. Nothing was saved since the last "
        f"checkpoint; {_NEXT[verdict.cause]}"
    )


_NEXT = {
    "data": "leave these samples out with --where, or repair them",
    "wavelets": "lower optim.lr, or freeze the wavelets with trainable patterns",
    "weights": "lower optim.lr, or set optim.clip_norm",
    "overflow": "lower optim.lr, set optim.clip_norm, or try machine.precision=float32",
}


def _report(verdict: Verdict, batch: Batch, folder: RunFolder, *, step: int, epoch: int) -> Path:
    path = folder.path / f"nonfinite-step-{step}.json"
    facts = {
        "step": step,
        "epoch": epoch,
        "cause": verdict.cause,
        "what": verdict.what,
        "samples_at_fault": list(verdict.keys),
        "batch": list(batch.keys),
    }
    folder.write(path, facts)
    return path
