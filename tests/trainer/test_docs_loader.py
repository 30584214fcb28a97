"""The examples of docs/loader.md run as they stand, one after the other."""

import re
from pathlib import Path

import pytest
from shard_folders import shard_folder

PAGE = (Path(__file__).parents[2] / "docs" / "loader.md").read_text(encoding="utf-8")


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shard_folder(tmp_path / "data" / "audioset", (7, 5), seconds=0.1, codec="flac")
    names: dict[str, object] = {}
    said = []
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/loader.md", "exec"), names)
        said.append(capsys.readouterr().out.splitlines())
    first, resumed, peer = said
    assert [line.split(" ")[:2] for line in first] == [["0", "0"], ["0", "1"], ["0", "2"], ["1", "0"]]
    assert "torch.Size([4, 1, 441000]) torch.Size([4, 64, 64, 3])" in first[0]
    assert resumed[0].startswith("3 1 (")
    assert len(peer) == 12
    assert (tmp_path / "cache" / "trichord" / "members").is_dir()
