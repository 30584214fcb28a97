"""What each step gains on the audio head, and its ratios beside their bars.

    python tests/benchmarks/bench_audio_head.py [--device cuda] [--threads 1] [--compile]

`plain` is the head written down from its description (tests/golden/plain_audio_head.py). On a CPU it is the
CPU's time that counts, on a GPU the clock around the work there.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from side_by_side import (
    Step,
    bf16_units,
    has_matrix_units,
    header,
    least_times,
    print_bar,
    print_steps,
    wait_asleep,
)
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.devices import choose_device
from trainer.models import attention_gate, bottleneck, convolution, esresnext
from trainer.models.esresnext import ESResNeXt
from trainer.models.fbsp import FbspSpectrogram

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `golden`, wherever this is run

from golden.plain_audio_head import (
    plain_decibels,
    plain_features,
    plain_filters,
    plain_forward,
    plain_frames,
)

SECONDS = 10
CLIPS = 4
OURS = "ours"
OURS_BF16 = "ours, bfloat16 autocast"
PLAIN = "plain"


def main() -> None:
    chosen = _options()
    wait_asleep()
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    device = choose_device(chosen.device)
    print(header(device))
    drawn = torch.Generator().manual_seed(0)
    head = ESResNeXt(1024, generator=drawn).to(device)
    sound = (torch.rand(CLIPS, 1, 44_100 * SECONDS, generator=drawn) - 0.5).to(device)

    times = least_times(decibel_steps(head.eval().fbsp, sound), chosen.repeats, device=device)
    print_steps(f"waveform -> decibels, {CLIPS} x {SECONDS} s", times)
    print_bar("ours / plain", times[OURS] / times[PLAIN], 0.45)

    steps = forward_steps(head, sound, compiling=chosen.compile)
    times = least_times(steps, chosen.repeats, device=device)
    print_steps(f"audio forward in evaluation, {CLIPS} x {SECONDS} s", times)
    print_bar("ours / plain", times[OURS] / times[PLAIN], 0.85)

    half = sound[..., : sound.shape[-1] // 2]
    times = least_times(training_steps(head, half), (chosen.repeats + 1) // 2, device=device)
    print_steps(f"training step, {CLIPS} x {SECONDS // 2} s", times)
    units, why_not = has_matrix_units(device), f"no matrix units for bfloat16 here ({bf16_units()})"
    print_bar("bfloat16 / float32", times[OURS_BF16] / times[OURS], 0.6, applies=units, why_not=why_not)


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as many as PyTorch takes")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--compile", action="store_true", help="also torch.compile: minutes of compiling")
    return options.parse_args()


# -- the front-end


def decibel_steps(ear: FbspSpectrogram, sound: Tensor) -> dict[str, Step]:
    with torch.device(sound.device):
        filters = torch.stack([part.detach() for part in plain_filters(ear.m, ear.fb, ear.fc)])
    short = filters[:, :, 197:1851].contiguous()

    def of_frames(frames: Tensor, weights: Tensor) -> Tensor:
        real, imaginary = F.linear(frames, weights.flatten(0, 1)).chunk(2, dim=-1)
        power = (real.square() + imaginary.square())[..., :1023]
        return (10 * torch.log10(torch.where(power == 0, 1e-18, power))).transpose(1, 2)

    def frames() -> Tensor:
        return plain_frames(sound.flatten(0, 1)) * ear.window

    def plain() -> Tensor:
        with torch.device(sound.device):
            return plain_decibels(ear, sound)

    return {
        PLAIN: quiet(plain),  # filters built anew, 2048 taps, 1025 bins, as two products
        "filters kept, one product": quiet(lambda: of_frames(F.pad(frames(), (197, 197)), filters)),
        "1654 taps": quiet(lambda: of_frames(frames(), short)),
        "1023 bins": quiet(lambda: of_frames(frames(), short[:, :1023])),
        OURS: quiet(lambda: ear(sound)),  # by oneDNN, clip by clip, summed as published
    }


# -- the whole head


def forward_steps(head: ESResNeXt, sound: Tensor, compiling: bool) -> dict[str, Step]:
    head = copy.deepcopy(head).eval()
    first = copy.deepcopy(head).to(memory_format=torch.contiguous_format)

    def plain() -> Tensor:
        with torch.device(sound.device):
            return plain_forward(first, sound)

    def our_decibels() -> Tensor:
        return first.fc(plain_features(first, first.fbsp(sound)[:, 0].contiguous()))

    def channels_last() -> Tensor:
        with modules_apart():
            output: Tensor = head(sound)
            return output

    def by_onednn() -> Tensor:
        with mock.patch.object(convolution, "_overwritable", return_value=False):
            output: Tensor = head(sound)
            return output

    def autocast() -> Tensor:
        with torch.autocast(sound.device.type, torch.bfloat16):
            output: Tensor = head(sound)
            return output

    steps = {
        PLAIN: plain,
        "our decibels": our_decibels,
        "channels last": channels_last,
        "every convolution by oneDNN": by_onednn,
        OURS: lambda: head(sound),  # normalisation in place
        OURS_BF16: autocast,
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
        OURS: step(head, lambda: head(sound)),
        OURS_BF16: step(head, lambda: head(sound), autocast=True),
        PLAIN: step(first, lambda: plain_forward(first, sound)),
    }


def quiet(step: Callable[[], Tensor]) -> Step:
    """Without gradients."""

    def run() -> Tensor:
        with torch.inference_mode():
            return step()

    return run


if __name__ == "__main__":
    main()
