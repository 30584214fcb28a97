"""The choice of formats, on lists shaped like YouTube's."""

from typing import Any

import pytest

from pipeline.formats import Wish, as_stream, choose
from pipeline.media import Carries, Delivery, Failure, Fragment
from shards.outcome import Outcome


def picture(height: int, codec: str = "avc1.4d401e", **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format_id": f"{height}-{codec[:4]}",
        "url": f"https://media.example/{height}",
        "protocol": "https",
        "ext": "webm" if codec.startswith("vp9") else "mp4",
        "vcodec": codec,
        "acodec": "none",
        "width": height * 16 // 9,
        "height": height,
        "fps": 30,
        "tbr": height * 1.0,
        "dynamic_range": "SDR",
    }
    return facts | more


def sound(abr: float, format_id: str = "140", **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format_id": format_id,
        "url": f"https://media.example/{format_id}",
        "protocol": "https",
        "ext": "m4a",
        "vcodec": "none",
        "acodec": "mp4a.40.2",
        "abr": abr,
        "tbr": abr,
        "audio_channels": 2,
        "language_preference": -1,
    }
    return facts | more


def combined(height: int, tbr: float, **more: Any) -> dict[str, Any]:
    return picture(height, format_id="18", acodec="mp4a.40.2", tbr=tbr, abr=96, **more)


STORYBOARD = {
    "format_id": "sb0", "url": "https://i.example/sb", "protocol": "mhtml", "ext": "mhtml",
    "vcodec": "none", "acodec": "none", "width": 320, "height": 180,
}  # fmt: skip
LADDER = [STORYBOARD, sound(129), sound(51, "139"), *map(picture, (144, 240, 360, 480, 720, 1080))]


def ids(chosen: Any) -> list[str]:
    assert not isinstance(chosen, Failure), chosen
    return [each["format_id"] for each in chosen]


@pytest.mark.parametrize(
    ("wanted", "height"), [(100, 144), (144, 144), (256, 360), (720, 720), (2160, 1080), (None, 1080)]
)
def test_the_lowest_picture_that_suffices_is_taken_else_the_largest(wanted: int | None, height: int) -> None:
    assert ids(choose(LADDER, Wish(short_side=wanted))) == [f"{height}-avc1", "140"]


def test_the_shorter_side_counts_for_portrait_too() -> None:
    upright = [
        picture(640, width=360, format_id="p360"),
        picture(426, width=240, format_id="p240"),
        sound(129),
    ]
    assert ids(choose(upright, Wish(short_side=256))) == ["p360", "140"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"dynamic_range": "HDR10", "tbr": 10}),
        ({}, {"fps": 60, "tbr": 10}),
        ({}, {"protocol": "m3u8_native", "tbr": 10}),
        ({}, {"protocol": "http_dash_segments", "fragments": [{"url": "u"}], "tbr": 10}),
        ({"protocol": "http_dash_segments", "fragments": [{"url": "u"}]}, {"protocol": "m3u8", "tbr": 10}),
        ({}, {"vcodec": "vp9", "tbr": 10}),
        ({"vcodec": "vp9"}, {"vcodec": "av01.0.04M.08", "tbr": 10}),
        ({"tbr": 200}, {"tbr": 300}),
        ({}, {"tbr": None}),
        ({}, {"preference": -10, "tbr": 10}),  # YouTube's damaged files
        ({}, {"format_id": "worse-sr", "tbr": 10}),  # made up by an upscaler
        ({}, {"has_drm": "maybe", "tbr": 10}),
        ({"vcodec": "av01", "fps": 30}, {"fps": 50}),
    ],
)
def test_of_two_pictures_of_one_size_the_cheaper_is_taken(
    better: dict[str, Any], worse: dict[str, Any]
) -> None:
    formats = [
        picture(360, **{"format_id": "worse", **worse}),
        picture(360, **{"format_id": "better", **better}),
    ]
    for order in (formats, formats[::-1]):
        assert ids(choose([*order, sound(129)], Wish(short_side=256))) == ["better", "140"]


def test_a_smaller_sufficient_picture_beats_a_cheaper_codec() -> None:
    formats = [picture(360, "vp9", format_id="small"), picture(720, format_id="large"), sound(129)]
    assert ids(choose(formats, Wish(short_side=256))) == ["small", "140"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"abr": 129}, {"abr": 51}),
        ({"language_preference": 10, "abr": 51}, {"language_preference": -1}),  # the original, not a dub
        ({"language_preference": 5, "abr": 51}, {"language_preference": -10}),  # nor a description
        ({"abr": 51}, {"format_id": "worse-drc"}),
        ({"abr": 51}, {"format_note": "medium, DRC"}),
        ({"abr": 51}, {"audio_channels": 6, "abr": 384}),
        ({}, {"protocol": "m3u8_native"}),
    ],
)
def test_the_best_sound_is_the_original_as_mixed(better: dict[str, Any], worse: dict[str, Any]) -> None:
    tracks = [
        sound(128) | {"format_id": "worse"} | worse,
        sound(128) | {"format_id": "better"} | better,
    ]
    for order in (tracks, tracks[::-1]):
        assert ids(choose([picture(360), *order], Wish(short_side=256))) == ["360-avc1", "better"]
        assert ids(choose([picture(360), *order], Wish(video=False))) == ["better"]


def test_a_combined_file_is_taken_when_it_is_cheaper_at_the_same_size() -> None:
    assert ids(choose([*LADDER, combined(360, tbr=400)], Wish(short_side=256))) == ["18"]
    assert ids(choose([*LADDER, combined(360, tbr=500)], Wish(short_side=256))) == ["360-avc1", "140"]


def test_a_combined_file_of_another_size_must_be_the_lowest_that_suffices() -> None:
    assert ids(choose([*LADDER, combined(480, tbr=10)], Wish(short_side=256))) == ["360-avc1", "140"]
    assert ids(choose([*LADDER, combined(240, tbr=10)], Wish(short_side=256))) == ["360-avc1", "140"]


def test_a_dubbed_combined_file_is_no_bargain() -> None:
    formats = [
        picture(360),
        sound(129, language_preference=10),
        combined(360, tbr=10, language_preference=-1),
    ]
    assert ids(choose(formats, Wish(short_side=256))) == ["360-avc1", "140"]


def test_a_combined_file_serves_where_nothing_is_separate() -> None:
    assert ids(choose([combined(360, tbr=400)], Wish(short_side=256))) == ["18"]
    assert ids(choose([combined(360, tbr=400)], Wish(video=False))) == ["18"]
    assert ids(choose([picture(720), combined(360, tbr=400)], Wish(short_side=720))) == ["18"]


def test_a_file_that_names_no_codecs_may_hold_both() -> None:
    bare = {"format_id": "0", "url": "http://127.0.0.1/a.mp4", "protocol": "http", "ext": "mp4"}
    chosen = choose([bare], Wish(short_side=256))
    assert ids(chosen) == ["0"]
    assert as_stream(bare).carries is Carries.BOTH


def test_sound_alone_is_fetched_without_a_picture() -> None:
    assert ids(choose([*LADDER, combined(360, tbr=10)], Wish(video=False))) == ["140"]


def test_a_picture_alone_is_fetched_without_sound() -> None:
    assert ids(choose(LADDER, Wish(short_side=256, audio=False))) == ["360-avc1"]


@pytest.mark.parametrize(
    ("formats", "outcome"),
    [
        ([], Outcome.NO_FORMAT),
        ([STORYBOARD], Outcome.NO_FORMAT),
        ([picture(360, protocol="rtmp"), sound(129, protocol="websocket_frag")], Outcome.NO_FORMAT),
        ([picture(360, url=None)], Outcome.NO_FORMAT),
        ([picture(360, has_drm=True), sound(129, has_drm=True)], Outcome.DRM),
        ([picture(360), STORYBOARD], Outcome.NO_AUDIO),
        ([sound(129), STORYBOARD], Outcome.NO_VIDEO),
    ],
)
def test_nothing_to_fetch_is_a_named_failure(formats: list[dict[str, Any]], outcome: Outcome) -> None:
    chosen = choose(formats, Wish(short_side=256))
    assert isinstance(chosen, Failure)
    assert chosen.outcome is outcome


def test_protected_formats_are_passed_over() -> None:
    formats = [picture(360, has_drm=True, tbr=1), picture(480), sound(129)]
    assert ids(choose(formats, Wish(short_side=256))) == ["480-avc1", "140"]


def test_a_format_becomes_a_stream_with_what_is_known_of_it() -> None:
    stream = as_stream(picture(360, http_headers={"Referer": "https://site.example"}))
    assert (stream.carries, stream.delivery, stream.container) == (Carries.VIDEO, Delivery.FILE, "mp4")
    assert (stream.width, stream.height, stream.fps, stream.bitrate) == (640, 360, 30, 360)
    assert (stream.video_codec, stream.audio_codec) == ("avc1.4d401e", None)
    assert stream.headers == {"Referer": "https://site.example"}
    assert as_stream(sound(129)).container == "mp4"
    assert as_stream(picture(360, "vp9")).container == "webm"


def test_fragments_are_joined_to_their_base_address() -> None:
    fragments = [
        {"path": "init.mp4"},
        {"path": "1.m4s", "duration": 5.0},
        {"url": "https://b/2", "duration": 4.5},
    ]
    stream = as_stream(
        picture(
            360, protocol="http_dash_segments", fragments=fragments, fragment_base_url="https://a/v/x.mpd"
        )
    )
    assert stream.delivery is Delivery.FRAGMENTS
    assert stream.fragments == (
        Fragment(url="https://a/v/init.mp4", duration=None),
        Fragment(url="https://a/v/1.m4s", duration=5.0),
        Fragment(url="https://b/2", duration=4.5),
    )


def test_a_dash_format_without_fragments_is_a_file() -> None:
    assert as_stream(picture(360, protocol="http_dash_segments")).delivery is Delivery.FILE


def test_a_playlist_says_nothing_of_its_container() -> None:
    stream = as_stream(picture(360, protocol="m3u8_native"))
    assert (stream.delivery, stream.container) == (Delivery.HLS, "")


def test_what_a_request_carries_is_not_shown() -> None:
    assert "SECRET" not in repr(as_stream(picture(360, http_headers={"Authorization": "Bearer SECRET"})))
