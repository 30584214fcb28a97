"""What importing the packages brings along, and that they are this repository's."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from ingestions import ROOT

PACKAGES = ("pipeline", "shards", "trainer", "flows")
HEAVY = {"torch", "prefect", "dask", "distributed", "yt_dlp", "duckdb", "webdataset", "pyarrow", "numpy"}
LOADED = """
import sys
from flows.cli import main
sys.argv[0] = "trichord"
try:
    main()
except SystemExit:
    print(*sys.modules, sep="\\n")
"""


@pytest.mark.parametrize("arguments", [("--help",), ("ingest", "--help"), ("status", "--help")])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.splitlines())
    assert "flows.cli" in loaded
    assert "Usage: trichord" in done.stdout
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_with_names_that_others_have_too_are_ours(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin == str(ROOT / name / "__init__.py")


def test_no_folder_of_tests_is_a_package_that_would_hide_one_of_ours() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
