"""The command itself: its version, and its commands in the order in which one comes to need them."""

import subprocess
import sys
import tomllib

from ingestions import ROOT


def trichord(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert trichord("--version") == f"trichord {project['version']}\n"


def test_help_lists_data_first_and_what_judges_last() -> None:
    help = trichord("--help")
    panels = [line.split()[1] for line in help.splitlines() if line.startswith("╭")]
    assert panels == ["Options", "Data", "Models", "Training", "Evaluation"]
    assert help.index("ingest") < help.index("embed") < help.index("train ") < help.index("evaluate")
