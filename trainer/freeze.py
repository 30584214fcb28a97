"""Which parameters learn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from trainer.run_request import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadCount:
    """Numbers in the parameters of one head."""

    head: str
    trainable: int
    total: int


def freeze_others(model: nn.Module, trainable: Sequence[str]) -> tuple[str, ...]:
    """Leaves gradients on for the parameters that `trainable` patterns name, off for all others.

    Gives the names of those that learn. Raises RunError for a pattern that names none.
    """
    names = [name for name, _ in model.named_parameters()]
    if idle := [pattern for pattern in trainable if not any(fnmatchcase(name, pattern) for name in names)]:
        heads = ", ".join(f"{head}.*" for head in dict.fromkeys(name.split(".")[0] for name in names))
        raise RunError(f"trainable pattern {idle[0]!r} names no parameter; expected patterns such as {heads}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(matches(name, trainable))
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the shell patterns fits the whole name; `*` crosses dots."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def settle(model: nn.Module) -> None:
    """Puts what is frozen into evaluation mode: without it, frozen batch statistics would drift."""
    for module in frozen_modules(model):
        module.eval()


def frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules with parameters, none of which learns."""
    if not learns(module) and any(True for _ in module.parameters()):
        yield module
        return
    for child in module.children():
        yield from frozen_modules(child)


def learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def head_counts(model: nn.Module) -> list[HeadCount]:
    """One count per first part of the parameters' names, in their order."""
    sizes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = sizes.setdefault(name.split(".")[0], [0, 0])
        count[0] += parameter.numel() * parameter.requires_grad
        count[1] += parameter.numel()
    return [HeadCount(head=head, trainable=moved, total=total) for head, (moved, total) in sizes.items()]
