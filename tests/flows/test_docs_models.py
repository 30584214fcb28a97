"""The examples of docs/models.md run as they stand, on drawn weights in the place of the published ones."""

import re
import shlex
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from published_weights import published_state
from typer.testing import CliRunner

from flows.cli_models import models_app
from trainer.classifier import Classifier, ClassifierConfig
from trainer.fetch import fetch
from trainer.published import PublishedFile, published_file
from trainer.weights import save_model

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
torch.set_num_threads(2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the drawn file stands under the published one's name."""
    folder = tmp_path_factory.mktemp("cache")
    torch.save(published_state(), folder / "drawn.pt")
    true = published_file("audioclip-full")
    stand_in = PublishedFile(
        name=true.name, url=true.url, content=true.content, licence=true.licence, size=None, sha256=None
    )
    fetch(stand_in, folder / "weights", source=folder / "drawn.pt")
    (folder / "drawn.pt").unlink()
    return folder


@pytest.fixture(autouse=True)
def _reader(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone with a few files in the working folder."""
    monkeypatch.setenv("TRICHORD_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    for name, rate in (("dog.wav", 16_000), ("meow.ogg", 44_100), ("rain.ogg", 22_050)):
        soundfile.write(name, 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
    PIL.Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("photo.jpg")
    classifier = Classifier(ClassifierConfig(classes=3, size="toy", class_names=("rain", "wind", "dog")))
    save_model(classifier, classifier.config, Path("runs/esc50"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/models.md", "exec"), names)
    said = capsys.readouterr().out
    assert "0.0–1.0 s torch.Size([1024])" in said
    assert "torch.Size([3, 1024])" in said


def test_the_shell_examples_run() -> None:
    for line in "".join(blocks("sh")).splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "trichord"
        result = CliRunner().invoke(models_app, words)
        assert result.exit_code == 0, (line, result.output, result.exception)
    assert Path("embeddings.parquet").exists()
