"""CPU of an ingestion against bare ffmpeg, and its pace when every answer is late.

    python tests/benchmarks/bench_ingest.py [--segments 60] [--rounds 3]

Both sides read the same windows of the same files from the same server on loopback, with the same ffmpeg, in
turns. The bare side runs one ffmpeg process per window (one decode, FLAC and ten JPEGs, no measurements, no
tar, no Python counted); the other side is `trichord ingest` as a whole process tree, without its start-up,
which a run over a single segment measures.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.ffmpeg import find_program

ENDS = "048AEIMQUYcgkosw"
WINDOW_S = 10
LENGTH_S = 60
SITE = [sys.executable, "-m", "pipeline.demo_site", "--folder"]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.segments)
        print(f"{options.segments} windows of 640x360 H.264 and AAC, {os.cpu_count()} cores")
        _cpu(bench, options.rounds)
        _late(bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


class Bench:
    """A folder of media with its segments file, and the two ways through it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.media = folder / "media"
        self.media.mkdir()
        self.ytids = [f"bench{index:05d}{ENDS[index % 16]}" for index in range(count)]
        self.starts = [(7.3 * index) % (LENGTH_S - WINDOW_S - 1) for index in range(count)]
        self._make_media()
        self.runs = 0

    def _make_media(self) -> None:
        one = self.folder / "one.mp4"
        picture = f"mandelbrot=s=640x360:r=25:end_pts={LENGTH_S * 25},noise=alls=8:allf=t"
        sound = "anoisesrc=c=pink:r=44100:a=0.3,aformat=channel_layouts=stereo"
        command = [
            find_program().path,
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            picture,
            "-f",
            "lavfi",
            "-i",
            sound,
        ]
        command += [
            "-t",
            str(LENGTH_S),
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-b:v",
            "600k",
            "-g",
            "125",
        ]
        command += ["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", str(one)]
        subprocess.run(command, check=True)
        for ytid in self.ytids:
            (self.media / f"{ytid}.mp4").hardlink_to(one)
        (self.folder / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/0bt9lr,"Dog"\n')

    def segments_file(self, count: int) -> Path:
        path = self.folder / f"bench{count}_segments.csv"
        rows = zip(self.ytids[:count], self.starts, strict=False)
        path.write_text("".join(f'{y}, {s:.3f}, {s + WINDOW_S:.3f}, "/m/0bt9lr"\n' for y, s in rows))
        return path

    def bare(self, url: str, jobs: int) -> None:
        """One ffmpeg process per window, straight from the server."""
        program = find_program()

        def cut(index: int) -> None:
            target = Path(tempfile.mkdtemp(dir=self.folder))
            command = [program.path, "-v", "error", "-nostdin", "-y", "-threads", "1", "-filter_threads", "1"]
            command += ["-ss", f"{self.starts[index]:.3f}", "-t", str(WINDOW_S)]
            command += [
                "-i",
                f"{url}/media/{self.ytids[index]}.mp4",
                "-map",
                "0:a:0",
                "-ac",
                "1",
                "-ar",
                "44100",
            ]
            command += ["-sample_fmt", "s16", str(target / "sound.flac"), "-map", "0:v:0", "-threads", "1"]
            command += ["-vf", "fps=1,scale=-2:256", "-frames:v", "10", "-q:v", "3", str(target / "%d.jpg")]
            subprocess.run(command, check=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(cut, range(len(self.ytids))))

    def ingest(self, url: str, count: int, jobs: int) -> None:
        """The command as a user types it."""
        self.runs += 1
        out = self.folder / f"out{self.runs}"
        command = [sys.executable, "-m", "flows.cli", "ingest", "--segments", str(self.segments_file(count))]
        command += ["--out", str(out), "--url-template", url + "/watch?v={ytid}", "--rate", "none"]
        command += ["--jobs", str(jobs), "--quiet", "--split", "bench"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Served:
    """The site in a process of its own, so that its CPU counts on neither side."""

    def __init__(self, media: Path, delay_s: float = 0.0) -> None:
        self._command = [*SITE, str(media), "--delay", str(delay_s)]

    def __enter__(self) -> str:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _cpu(bench: Bench, rounds: int) -> None:
    count, jobs = len(bench.ytids), os.cpu_count() or 2
    ratios = []
    with Served(bench.media) as url:
        for number in range(rounds):
            bare = _children_cpu(lambda: bench.bare(url, jobs)) / count
            whole = _children_cpu(lambda: bench.ingest(url, count, jobs))
            start_up = _children_cpu(lambda: bench.ingest(url, 1, jobs))
            ours = (whole - start_up) / (count - 1)
            ratios.append(ours / bare)
            print(f"round {number + 1}: bare {bare * 1e3:.0f} ms, ingest {ours * 1e3:.0f} ms CPU a segment "
                  f"(start-up {start_up:.2f} s): {ratios[-1]:.2f}x")  # fmt: skip
    print(f"CPU per segment against bare ffmpeg: {statistics.median(ratios):.2f}x (bar: 1.25x)")


def _children_cpu(work: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _late(bench: Bench) -> None:
    """Segments per second with answers 300 ms late and many jobs, against the pace without delay."""
    paces = [_pace(bench, delay, jobs) for delay, jobs in ((0.0, 2 * (os.cpu_count() or 2)), (0.3, 32))]
    print(
        f"pace: {paces[0]:.1f}/s undelayed, {paces[1]:.1f}/s with 300 ms: "
        f"{paces[1] / paces[0]:.0%} (bar: 90 %)"
    )


def _pace(bench: Bench, delay_s: float, jobs: int) -> float:
    with Served(bench.media, delay_s) as url:
        seconds: Sequence[float] = [
            _wall(lambda n=n: bench.ingest(url, n, jobs)) for n in (len(bench.ytids), 1)
        ]
    return (len(bench.ytids) - 1) / (seconds[0] - seconds[1])


def _wall(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
