"""What a run was made with: code, versions, machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "numpy", "open_clip_torch", "safetensors", "pyarrow", "trichord")


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_sha() -> str:
    """The commit this code was run from, with `+changes` when files differ from it; "" without git."""
    here = Path(__file__).resolve().parent
    try:
        sha = _git("rev-parse", "HEAD", at=here)
        return f"{sha}+changes" if _git("status", "--porcelain", "--", ".", at=here) else sha
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str, at: Path) -> str:
    done = subprocess.run(["git", *words], cwd=at, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
