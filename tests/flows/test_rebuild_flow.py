"""A flow's parameters for a rebuild: what is given wrong is answered before anything runs."""

import pytest

from flows.rebuild_downstream import settings_of
from pipeline.listing import ListingError


def test_parameters_become_settings() -> None:
    settings = settings_of({"dataset": "esc50", "out": "s3://bucket/esc50", "root": "/data/esc", "jobs": 3})
    assert (settings.root, settings.jobs, settings.profile.channels) == ("/data/esc", 3, 0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"root": "esc"}, "expected an absolute path, such as /"),
        ({"root": "/esc", "job": 3}, "there is no 'job'; expected jobs"),
        ({"root": "/esc", "dataset": "esc"}, "expected esc50, urbansound8k"),
    ],
)
def test_wrong_parameters_say_what_is_expected(more: dict[str, object], said: str) -> None:
    with pytest.raises(ListingError, match=said):
        settings_of({"dataset": "esc50", "out": "/out", **more})
