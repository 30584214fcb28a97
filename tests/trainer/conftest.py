from pathlib import Path

import pytest
from published_weights import published_file

from trainer.models import Encoder, load_model


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published layout."""
    return published_file(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def audioclip(published: Path) -> Encoder:
    """What `load_model` makes of it: read, never changed."""
    return load_model(published, device="cpu")
