"""What each step gains on the audio head: `PYTHONPATH=tests:. python tests/benchmarks/bench_audio_head.py`.

Times are the CPU's, of one thread unless told otherwise, the least of interleaved repeats: where others work,
they say more than the clock. With more threads, set OMP_WAIT_POLICY=passive: else waiting counts as work.
With CUDA the clock counts, around the work on the device.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from golden.plain_audio_head import plain_decibels, plain_filters, plain_forward, plain_frames
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models import attention_gate, bottleneck, convolution, esresnext
from trainer.models.esresnext import ESResNeXt
from trainer.models.fbsp import FbspSpectrogram

SECONDS = 10
CLIPS = 4
Step = Callable[[], object]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--compile", action="store_true", help="also torch.compile (a minute of compiling)")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device}, {chosen.threads} thread(s), bf16 units: {bf16_units()}")
    head = ESResNeXt(1024, generator=torch.Generator().manual_seed(0)).to(device)
    sound = (torch.rand(CLIPS, 1, 44_100 * SECONDS, generator=torch.Generator().manual_seed(0)) - 0.5).to(
        device
    )
    repeats = chosen.repeats
    report(
        f"waveform -> decibels, {CLIPS} x {SECONDS} s",
        decibel_steps(head.eval().fbsp, sound),
        repeats,
        bar=0.45,
    )
    steps = forward_steps(head, sound, compiling=chosen.compile)
    report(f"audio forward in evaluation, {CLIPS} x {SECONDS} s", steps, repeats, bar=0.85)
    half = sound[..., : sound.shape[-1] // 2]
    report(
        f"training step, {CLIPS} x {SECONDS // 2} s", training_steps(head, half), (repeats + 1) // 2, bar=0.6
    )


def report(title: str, steps: dict[str, Step], repeats: int, *, bar: float) -> None:
    """Prints the least time of each step, and its ratio to the first."""
    times = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            times[name] = min(times[name], timed(step))
    first = next(iter(times.values()))
    print(f"\n{title} (bar: {bar})")
    for name, seconds in times.items():
        print(f"  {1e3 * seconds:9.1f} ms  {seconds / first:5.2f}  {name}")


def timed(step: Step) -> float:
    if not torch.cuda.is_available():
        begin = time.process_time()
        step()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def bf16_units() -> str:
    """Which of the CPU's instructions multiply bfloat16, as Linux names them."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return ", ".join(sorted(flags & {"amx_bf16", "avx512_bf16", "avx_ne_convert"})) or "none known"


# -- the front-end


def decibel_steps(ear: FbspSpectrogram, sound: Tensor) -> dict[str, Step]:
    with torch.device(sound.device):
        filters = torch.stack([part.detach() for part in plain_filters(ear.m, ear.fb, ear.fc)])
        kept = filters[:, :1023, 197:1851].reshape(2046, 1654).contiguous()

    def of_frames(frames: Tensor, weights: Tensor) -> Tensor:
        real, imaginary = F.linear(frames, weights).chunk(2, dim=-1)
        power = (real.square() + imaginary.square())[..., :1023]
        return (10 * torch.log10(torch.where(power == 0, 1e-18, power))).transpose(1, 2)

    def frames() -> Tensor:
        return plain_frames(sound.flatten(0, 1)) * ear.window

    def plain() -> Tensor:
        with torch.device(sound.device):
            return plain_decibels(ear, sound)

    return {
        "plain: filters built anew, 2048 taps, 1025 bins": quiet(plain),
        "filters kept": quiet(lambda: of_frames(F.pad(frames(), (197, 197)), filters.flatten(0, 1))),
        "1654 taps, 1023 bins": quiet(lambda: of_frames(frames(), kept)),
        "ours: by oneDNN, clip by clip, summed as published": quiet(lambda: ear(sound)),
    }


# -- the whole head


def forward_steps(head: ESResNeXt, sound: Tensor, compiling: bool) -> dict[str, Step]:
    head = copy.deepcopy(head).eval()
    first = copy.deepcopy(head).to(memory_format=torch.contiguous_format)

    def plain() -> Tensor:
        with torch.device(sound.device):
            return plain_forward(first, sound)

    def module_by_module() -> Tensor:
        with modules_apart():
            output: Tensor = head(sound)
            return output

    def normalised_apart() -> Tensor:
        with mock.patch.object(convolution, "_overwritable", return_value=False):
            output: Tensor = head(sound)
            return output

    def autocast() -> Tensor:
        with torch.autocast(sound.device.type, torch.bfloat16):
            output: Tensor = head(sound)
            return output

    steps = {
        "plain: channels first, module by module": plain,
        "our front-end, channels last": module_by_module,
        "every convolution by oneDNN": normalised_apart,
        "ours: normalisation in place": lambda: head(sound),
        "ours, bfloat16 autocast": autocast,
    }
    if compiling:
        compiled = copy.deepcopy(head)
        compiled.compile(dynamic=False)
        steps["ours, compiled"] = lambda: compiled(sound)
    return {name: quiet(step) for name, step in steps.items()}


@contextmanager
def modules_apart() -> Iterator[None]:
    """PyTorch's own modules, one after the other."""

    def apart(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
        normalised: Tensor = norm(convolution(x))
        return normalised

    with (
        mock.patch.object(bottleneck, "convolve_and_normalise", apart),
        mock.patch.object(attention_gate, "convolve_and_normalise", apart),
        mock.patch.object(esresnext, "convolve_and_normalise", apart),
    ):
        yield


def training_steps(head: ESResNeXt, sound: Tensor) -> dict[str, Step]:
    head = copy.deepcopy(head).train()
    first = copy.deepcopy(head).to(memory_format=torch.contiguous_format)

    def step(model: ESResNeXt, forward: Callable[[], Tensor], *, autocast: bool = False) -> Step:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            with (
                torch.autocast(sound.device.type, torch.bfloat16, enabled=autocast),
                torch.device(sound.device),
            ):
                outputs = forward()
            (outputs.square().mean() + model.fbsp.norm_loss()).backward()

        return run

    return {
        "ours, float32": step(head, lambda: head(sound)),
        "ours, bfloat16 autocast": step(head, lambda: head(sound), autocast=True),
        "plain, float32": step(first, lambda: plain_forward(first, sound)),
    }


def quiet(step: Callable[[], Tensor]) -> Step:
    """Without gradients."""

    def run() -> Tensor:
        with torch.inference_mode():
            return step()

    return run


if __name__ == "__main__":
    main()
