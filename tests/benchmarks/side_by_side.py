"""Steps measured in turns, so that a busy machine is as hard on each, and printed beside their bars."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Step = Callable[[], object]


def wait_asleep() -> None:
    """Starts this program anew if its threads would spin while they wait: the CPU's time would count that."""
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])


def header(device: torch.device) -> str:
    """What the figures were measured on, and what they are."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}: time on the clock"
    return (
        f"torch {torch.__version__}, {_cpu()}, {torch.get_num_threads()} thread(s), {bf16_units()}; "
        "CPU time of all threads, which sleep while they wait (OMP_WAIT_POLICY=PASSIVE)"
    )


def least_times(steps: Mapping[str, Step], repeats: int, *, device: torch.device) -> dict[str, float]:
    """Seconds of each step: the least of interleaved repeats, after one that does not count."""
    times = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            times[name] = min(times[name], _timed(step, device))
    return times


def print_steps(title: str, times: Mapping[str, float]) -> None:
    """Each step's time, and its share of the first one's."""
    first = next(iter(times.values()))
    print(f"\n{title}")
    for name, seconds in times.items():
        print(f"  {1e3 * seconds:9.1f} ms  {seconds / first:5.2f}  {name}")


def print_bar(what: str, ratio: float, bar: float, *, applies: bool = True, why_not: str = "") -> None:
    """A ratio beside the bar that it is held to."""
    verdict = ("met" if ratio <= bar else "MISSED") if applies else f"not applied: {why_not}"
    print(f"  = {what}: {ratio:.2f} (bar {bar}: {verdict})", flush=True)


def bf16_units() -> str:
    """What of the CPU multiplies bfloat16, as Linux names it; only amx_bf16 multiplies matrices."""
    return ", ".join(sorted(_flags() & {"amx_bf16", "avx512_bf16"})) or "no bfloat16 units known"


def has_matrix_units(device: torch.device) -> bool:
    return device.type == "cuda" or "amx_bf16" in _flags()


def _timed(step: Step, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.process_time()
        step()
        return time.process_time() - begin
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _flags() -> set[str]:
    return set(_cpuinfo().split())


def _cpu() -> str:
    names = [line.split(": ", 1)[1] for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else "CPU"
