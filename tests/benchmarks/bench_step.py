"""A whole step of training, from a batch on the device to moved weights, beside its bars.

    python tests/benchmarks/bench_step.py [--device D] [--batch 64] [--seconds 10] [--threads 1] [--parts 4]

On a GPU: samples per second of `audioclip.full` and `audioclip.cooperative`, eager and compiled. On a CPU:
the CPU's time against a plain loop in the published style: wavelets built anew, images channels first, a text
of 77 tokens for each sample in each step, 50 queries in the attention pool, gradients normalised in hooks, an
optimiser that goes from parameter to parameter. With --parts, `audioclip.cooperative` in so many parts of a
batch, beside the same with frozen towers run in both passes.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from side_by_side import Step, header, least_times, print_bar, print_steps, wait_asleep
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.batch import Batch
from trainer.devices import choose_device
from trainer.distributed import Ranks
from trainer.learner import Learner, build_learner, build_model
from trainer.models.clip import RN50
from trainer.models.esresnext import ESResNeXt
from trainer.optim import build_optimiser
from trainer.precision import backends_set, memory_gb
from trainer.recipes import RECIPES
from trainer.stage import Stage, derive
from trainer.step import Training, take_step
from trainer.text import tokenize

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `golden`, wherever this is run

from golden.plain_audio_head import plain_forward

STAGES = ("audioclip.full", "audioclip.cooperative")
BARS = {  # samples per second on an H200, 64 x 10 s: (eager, compiled)
    "audioclip.full": (600, 800),
    "audioclip.cooperative": (800, 1000),
}
RATIOS = {"audioclip.full": 0.75, "audioclip.cooperative": 0.75}  # of the plain loop's CPU time
TEXTS = ("Speech", "Music", "Dog, Bark", "Rain on surface", "Speech, Inside, small room", "Siren", "Engine")
PLAIN, OURS, COMPILED = "plain", "ours", "ours, compiled"
ONCE, TWICE = "frozen towers once", "frozen towers twice"


def main() -> None:
    chosen = _options()
    wait_asleep()
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    device = choose_device(chosen.device)
    print(header(device))
    if chosen.parts > 1:
        return _in_parts("audioclip.cooperative", chosen, device)
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    for name in STAGES:
        measure(name, chosen, device)


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--batch", type=int, help="samples in a step; 64 on a GPU, 4 on a CPU")
    options.add_argument("--seconds", type=float, help="of sound; 10 on a GPU, 2 on a CPU")
    options.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as many as PyTorch takes")
    options.add_argument("--repeats", type=int, help="20 on a GPU, 3 on a CPU")
    options.add_argument("--checkpoint-activations", action="store_true")
    options.add_argument("--parts", type=int, default=1, help="that a batch is computed in")
    return options.parse_args()


def _on_gpu(name: str, chosen: argparse.Namespace, device: torch.device) -> None:
    size, seconds = chosen.batch or 64, chosen.seconds or 10.0
    for compiled, bar in zip((False, True), BARS[name], strict=True):
        torch.cuda.reset_peak_memory_stats(device)
        stage = _stage(
            name, size, precision="bf16", compiled=compiled, recompute=chosen.checkpoint_activations
        )
        with backends_set(device, "bf16"):
            step = our_step(stage, made_up(stage, size, seconds, device), device)
            for _ in range(3):
                step()
            times = least_times({OURS: step}, chosen.repeats or 20, device=device)
        rate = size / times[OURS]
        verdict = "met" if rate >= bar else "MISSED"
        how = "compiled" if compiled else "eager"
        print(
            f"{name}, {size} x {seconds:g} s, {how}: {1e3 * times[OURS]:.1f} ms, {rate:.0f} samples/s "
            f"(bar {bar}: {verdict}), {memory_gb(device):.1f} GB",
            flush=True,
        )


def _on_cpu(name: str, chosen: argparse.Namespace, device: torch.device) -> None:
    size, seconds = chosen.batch or 4, chosen.seconds or 2.0
    stage = _stage(name, size, precision="float32")
    batch = made_up(stage, size, seconds, device)
    with backends_set(device, "float32"):
        steps = {PLAIN: plain_step(stage, batch), OURS: our_step(stage, batch, device)}
        times = least_times(steps, chosen.repeats or 3, device=device)
    print_steps(f"{name}: a step of {size} x {seconds:g} s", times)
    print_bar("ours / plain", times[OURS] / times[PLAIN], RATIOS[name])


def _in_parts(name: str, chosen: argparse.Namespace, device: torch.device) -> None:
    """What it saves that towers which stand still are left out of the second pass."""
    fast = device.type == "cuda"
    size, seconds = chosen.batch or (64 if fast else 4), chosen.seconds or (10.0 if fast else 2.0)
    stage = _stage(name, size, precision="bf16" if fast else "float32")
    stage = derive(stage, "benchmark", machine__accumulate=chosen.parts)
    batch, remembered = made_up(stage, size, seconds, device), Learner.standing

    def twice() -> None:
        Learner.standing = property(lambda _: ())  # type: ignore[assignment]  # as before it was known
        forgetful()
        Learner.standing = remembered  # type: ignore[method-assign]

    with backends_set(device, stage.machine.precision):
        steps = {ONCE: our_step(stage, batch, device)}
        forgetful = our_step(stage, batch, device)
        times = least_times({**steps, TWICE: twice}, chosen.repeats or 3, device=device)
    print_steps(f"{name}: a step of {size} x {seconds:g} s in {chosen.parts} parts", times)
    print(f"once / twice: {times[ONCE] / times[TWICE]:.2f}")


def _stage(name: str, size: int, *, precision: str, compiled: bool = False, recompute: bool = False) -> Stage:
    return derive(
        RECIPES[name],
        "benchmark",
        batch_size=size,
        machine__precision=precision,
        machine__compile=compiled,
        machine__checkpoint_activations=recompute,
    )


def made_up(stage: Stage, size: int, seconds: float, device: torch.device) -> Batch:
    """Half of the texts occur twice, as in AudioSet's batches of 64."""
    drawn = torch.Generator().manual_seed(0)
    texts = torch.randint(len(TEXTS), (size,), generator=drawn)
    return Batch(
        keys=tuple(map(str, range(size))),
        audio=torch.rand(size, 1, round(44_100 * seconds), generator=drawn) - 0.5,
        image=torch.randn(size, 3, 224, 224, generator=drawn),
        tokens=tokenize(TEXTS),
        text_rows=texts,
        label_sets=texts,
    ).to(device)


def our_step(stage: Stage, batch: Batch, device: torch.device) -> Step:
    """As `trainer.loop` takes it, wherever the text stands still with its table."""
    learner = build_learner(stage, build_model(stage.model, seed=0)).to(
        device, memory_format=torch.channels_last
    )
    learner.accelerate(stage.machine)
    learner.train()
    if learner.text_stands_still:
        learner.remember_texts(TEXTS)
        batch = dataclasses.replace(batch, tokens=None)
    training = Training(
        stage=stage,
        learner=learner,
        replica=learner,
        optimiser=build_optimiser(stage.optim, learner),
        steps_per_epoch=1_000,
        ranks=Ranks(device=device),
    )
    count = iter(range(1_000_000))
    return lambda: take_step(training, batch, step=next(count))


# -- the published way


def plain_step(stage: Stage, batch: Batch) -> Step:
    """What the authors' trainer computes in a step of these shapes, on random weights."""
    head = ESResNeXt(1024).to(memory_format=torch.contiguous_format).train()
    facts: Any = open_clip.get_model_config(RN50)
    clip = CLIP(**facts).train()
    scales = nn.ParameterList([nn.Parameter(torch.tensor(value)) for value in (4.6052, 4.6052, 2.6593)])
    everything = nn.ModuleList([head, clip, scales])
    if stage.name.endswith("cooperative"):
        clip.requires_grad_(False)
    for parameter in (head.fbsp.m, head.fbsp.fb, head.fbsp.fc):
        parameter.register_hook(lambda gradient: gradient / (gradient.abs().max() + 1e-8))
    learning = [parameter for parameter in everything.parameters() if parameter.requires_grad]
    rule = torch.optim.SGD(
        learning, lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False, fused=False
    )
    assert batch.audio is not None
    assert batch.image is not None
    assert batch.tokens is not None
    assert batch.text_rows is not None
    sound, pixels, tokens = batch.audio, batch.image, batch.tokens[batch.text_rows]

    def step() -> None:
        rule.zero_grad()
        rows = [plain_forward(head, sound), clip.encode_image(pixels), all_tokens(clip, tokens)]
        loss = plain_loss([F.normalize(each, dim=-1) for each in rows], list(scales))
        (loss + head.fbsp.norm_loss()).backward()
        rule.step()

    return step


def all_tokens(clip: CLIP, tokens: Tensor) -> Tensor:
    """All 77, of every sample."""
    embedded: Tensor = clip.encode_text(tokens)
    return embedded


def plain_loss(rows: list[Tensor], scales: list[Tensor]) -> Tensor:
    """The mean of six cross-entropies."""
    pairs = ((0, 1), (0, 2), (1, 2))
    target = torch.arange(len(rows[0]), device=rows[0].device)
    total = torch.zeros((), device=rows[0].device)
    for (one, other), scale in zip(pairs, scales, strict=True):
        logits = scale.exp().clamp(1, 100) * rows[one] @ rows[other].T
        total = total + F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
    return total / 6


if __name__ == "__main__":
    main()
