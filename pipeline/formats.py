"""Which of the formats on offer are fetched: the cheapest picture that suffices, with the best sound."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

from pipeline.media import Carries, Delivery, Failure, Fragment, MediaStream
from shards.outcome import Outcome

Format = Mapping[str, Any]  # as yt-dlp's extractor/common.py documents the items of `formats`

_DELIVERY: Final = {
    "http": Delivery.FILE,
    "https": Delivery.FILE,
    "http_dash_segments": Delivery.FRAGMENTS,
    "m3u8": Delivery.HLS,
    "m3u8_native": Delivery.HLS,
}
_DELIVERY_COST: Final = {Delivery.FILE: 0, Delivery.FRAGMENTS: 1, Delivery.HLS: 2}
# Decoding costs rise in this order; a codec that is not named comes last.
_CODECS_BY_COST: Final = (("avc1", "h264"), ("vp8", "vp9", "vp09"), ("hev1", "hvc1", "h265"), ("av01", "av1"))
_CONTAINERS: Final = {"m4a": "mp4", "m4v": "mp4", "mov": "mp4", "weba": "webm"}
_NO_BITRATE: Final = 1e9  # kbit/s: what says nothing of its size is the last choice
_SMOOTH: Final = 30.5  # frames per second; ten pictures of ten seconds need no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a profile needs of a video's media."""

    # pixels that the picture's shorter side should have; None: the more the better
    short_side: int | None = None
    video: bool = True
    audio: bool = True


def choose(formats: Sequence[Format], wish: Wish) -> tuple[Format, ...] | Failure:
    """The one or two formats to fetch for a wish, or why there are none."""
    usable = [each for each in formats if _usable(each)]
    if wish.video:
        return _cheapest_plan(usable, wish) or _nothing(usable, formats)
    audio = _best_audio(usable)
    return (audio,) if audio else _nothing(usable, formats)


def as_stream(each: Format) -> MediaStream:
    """A chosen format as the media stream that the rest of the pipeline knows."""
    delivery = _DELIVERY[each["protocol"]] if not _single_file(each) else Delivery.FILE
    ext = str(each.get("ext") or "")
    return MediaStream(
        url=each["url"],
        carries=_carries(each),
        delivery=delivery,
        container="" if delivery is Delivery.HLS else _CONTAINERS.get(ext, ext),
        headers=dict(each.get("http_headers") or {}),
        fragments=tuple(_fragments(each)) if delivery is Delivery.FRAGMENTS else (),
        format_id=str(each.get("format_id") or ""),
        width=each.get("width"),
        height=each.get("height"),
        fps=each.get("fps"),
        video_codec=_codec(each, "vcodec"),
        audio_codec=_codec(each, "acodec"),
        bitrate=each.get("tbr"),
    )


def _cheapest_plan(formats: Sequence[Format], wish: Wish) -> tuple[Format, ...] | None:
    combined = [each for each in formats if _has(each, "vcodec") and _has(each, "acodec")]
    pictures = [each for each in formats if _carries(each) is Carries.VIDEO]
    if not wish.audio:
        plans: list[tuple[Format, ...]] = [(each,) for each in (*pictures, *combined)]
    else:
        sound = _best(formats, Carries.AUDIO)
        plans = [(each,) for each in combined] + ([(each, sound) for each in pictures] if sound else [])
    return min(plans, key=_cost(wish, _language(formats) if wish.audio else None), default=None)


def _cost(wish: Wish, language: float | None) -> Callable[[tuple[Format, ...]], tuple[float, ...]]:
    """Costs of plans, compared item by item: what is wrong first, then what is dear."""

    def cost(plan: tuple[Format, ...]) -> tuple[float, ...]:
        picture, sound = plan[0], plan[-1]
        side = _short_side(picture)
        suffices = wish.short_side is not None and side >= wish.short_side
        return (
            language is not None and _language([sound]) < language,  # dubbed
            max(map(_flaws, plan)),
            not suffices,
            side if suffices else -side,
            _is_hdr(picture),
            (picture.get("fps") or 0) > _SMOOTH,
            max(_DELIVERY_COST[_delivery(each)] for each in plan),
            _codec_cost(picture),
            sum(map(_bitrate, plan)),
            len(plan),
        )

    return cost


def _best_audio(formats: Sequence[Format]) -> Format | None:
    return _best(formats, Carries.AUDIO) or _best(formats, Carries.BOTH)


def _best(formats: Iterable[Format], carries: Carries) -> Format | None:
    """The best sound: the original language, as mixed, in stereo, then the most bits."""
    return max(
        (each for each in formats if _carries(each) is carries),
        key=lambda each: (
            _language([each]),
            -_flaws(each),
            not _is_compressed(each),
            (each.get("audio_channels") or 2) <= 2,
            each.get("abr") or (each.get("tbr") if carries is Carries.AUDIO else 0) or 0,
            -_DELIVERY_COST[_delivery(each)],
            -_bitrate(each),
        ),
        default=None,
    )


def _nothing(usable: Sequence[Format], formats: Sequence[Format]) -> Failure:
    if any(map(_has_sound, usable)):
        return Failure(Outcome.NO_VIDEO, "yt-dlp lists sound but no picture")
    if usable:
        return Failure(Outcome.NO_AUDIO, "yt-dlp lists pictures but no sound")
    if any(each.get("has_drm") for each in formats):
        return Failure(Outcome.DRM, "all formats are DRM protected")
    listed = ", ".join(sorted({str(each.get("protocol")) for each in formats})) or "none"
    return Failure(
        Outcome.NO_FORMAT, f"no format that can be fetched among {len(formats)} (protocols: {listed})"
    )


def _usable(each: Format) -> bool:
    drm = each.get("has_drm")
    return bool(
        each.get("url")
        and each.get("protocol") in _DELIVERY
        and each.get("ext") != "mhtml"  # a storyboard
        and (not drm or drm == "maybe")
        and not each.get("request_data")
        and (_has(each, "vcodec") or _has(each, "acodec"))
    )


def _has(each: Format, codec: str) -> bool:
    """Whether a format carries this; one that does not say may carry it."""
    return each.get(codec) != "none"


def _has_sound(each: Format) -> bool:
    return _has(each, "acodec")


def _carries(each: Format) -> Carries:
    if not _has(each, "acodec"):
        return Carries.VIDEO
    return Carries.BOTH if _has(each, "vcodec") else Carries.AUDIO


def _codec(each: Format, name: str) -> str | None:
    codec = each.get(name)
    return None if codec in (None, "none") else str(codec)


def _single_file(each: Format) -> bool:
    return each["protocol"] == "http_dash_segments" and not each.get("fragments")


def _delivery(each: Format) -> Delivery:
    return Delivery.FILE if _single_file(each) else _DELIVERY[each["protocol"]]


def _short_side(each: Format) -> float:
    sides = [side for side in (each.get("width"), each.get("height")) if side]
    return min(sides, default=0)


def _language(formats: Iterable[Format]) -> float:
    """10 the original, 5 the default, -1 unknown or dubbed, -10 descriptive (extractor/youtube/_video.py)."""
    known = (each.get("language_preference") for each in formats if _has_sound(each))
    return max((-1 if preference is None else preference for preference in known), default=-1)


def _flaws(each: Format) -> int:
    """Damaged files, pictures made up by an upscaler, and what may turn out to be encrypted."""
    damaged = (each.get("preference") or 0) <= -10
    made_up = str(each.get("format_id")).endswith("-sr")
    return 2 * damaged + made_up + (each.get("has_drm") == "maybe")


def _is_compressed(each: Format) -> bool:
    """Whether YouTube levelled the sound (dynamic range compression): another sound than was uploaded."""
    return "-drc" in str(each.get("format_id")) or "DRC" in str(each.get("format_note"))


def _is_hdr(each: Format) -> bool:
    return (each.get("dynamic_range") or "SDR") != "SDR"


def _codec_cost(each: Format) -> int:
    codec = str(each.get("vcodec") or "")
    costs = (cost for cost, names in enumerate(_CODECS_BY_COST) if codec.startswith(names))
    return next(costs, len(_CODECS_BY_COST))


def _bitrate(each: Format) -> float:
    return float(each.get("tbr") or each.get("vbr") or each.get("abr") or _NO_BITRATE)


def _fragments(each: Format) -> Iterable[Fragment]:
    for fragment in each["fragments"]:
        url = fragment.get("url") or urljoin(each["fragment_base_url"], fragment["path"])
        yield Fragment(url=url, duration=fragment.get("duration"))
