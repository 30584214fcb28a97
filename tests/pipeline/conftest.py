"""Fixtures of the pipeline's tests."""

import pytest
from timed_media import TimedMedia, make_timed_media

from pipeline.ffmpeg import Program, find_program


@pytest.fixture(scope="session")
def program() -> Program:
    return find_program()


@pytest.fixture(scope="session")
def timed(tmp_path_factory: pytest.TempPathFactory, program: Program) -> TimedMedia:
    return make_timed_media(tmp_path_factory.mktemp("timed"), program)
