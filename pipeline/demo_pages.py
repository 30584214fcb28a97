"""What the demo's video site says about a video: a watch page for people, an info for players."""

from typing import Any

from pipeline.demo_behaviour import Behaviour
from pipeline.demo_renditions import USUAL_FORMATS, Rendition, Renditions, even
from pipeline.media import Carries, Delivery
from shards.page import escape


def watch_page(ytid: str, reason: str, media: str = "", content_type: str = "") -> str:
    """A page that yt-dlp's generic extractor understands; without media it only gives the reason."""
    player = (
        f'<video controls width="640"><source src="{escape(media)}" type="{escape(content_type)}"></video>'
        if media
        else f"<p>{escape(reason)}</p>"
    )
    card = (
        f'<meta property="og:video" content="{escape(media)}">'
        f'<meta property="og:video:type" content="{escape(content_type)}">'
        if media
        else ""
    )
    title = f"Video {escape(ytid)}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{card}</head>'
        f"<body><h1>{title}</h1>{player}</body></html>"
    )


def video_info(renditions: Renditions, site: str, ytid: str, behaviour: Behaviour) -> dict[str, Any]:
    """What the site's player is told: why not, or the formats under yt-dlp's names for their fields."""
    source = renditions.source(ytid)
    offered = renditions.offered(ytid, behaviour.formats or USUAL_FORMATS)
    playable = not behaviour.reason
    return {
        "id": ytid,
        "title": f"Video {ytid}",
        "duration": renditions.probe(source).duration if source else None,
        "live_status": behaviour.live_status or "not_live",
        "reason": behaviour.reason,
        "subreason": behaviour.subreason,
        "formats": [_format(renditions, site, ytid, one) for one in offered] if playable else [],
    }


def _format(renditions: Renditions, site: str, ytid: str, rendition: Rendition) -> dict[str, Any]:
    source = renditions.source(ytid)
    assert source is not None
    facts = renditions.probe(source)
    suffix = source.suffix[1:] if rendition.options is None else rendition.suffix
    url = f"{site}/media/{ytid}.{suffix}"
    made = renditions.made(ytid, suffix)
    size = made.stat().st_size if made is not None and rendition.delivery is Delivery.FILE else None
    picture = rendition.carries is not Carries.AUDIO and facts.video_codec is not None
    sound = rendition.carries is not Carries.VIDEO and facts.audio_codec is not None
    height = even(facts.height * rendition.scale) if picture and facts.height else None
    width = even(facts.width * rendition.scale) if picture and facts.width else None
    video_kbps = 0.0025 * (width or 0) * (height or 0) ** 0.9 if picture else 0.0
    audio_kbps = (rendition.audio_kbps or 0.0) if sound else 0.0
    description: dict[str, Any] = {
        "format_id": rendition.format_id,
        "url": url,
        "ext": source.suffix[1:] if rendition.options is None else rendition.extension,
        "vcodec": (rendition.video_codec or _codec(facts.video_codec)) if picture else "none",
        "acodec": (rendition.audio_codec or _codec(facts.audio_codec)) if sound else "none",
        "width": width,
        "height": height,
        "fps": facts.fps if picture else None,
        "abr": audio_kbps or None,
        "tbr": round(video_kbps + audio_kbps, 1),
        "filesize": size,
        "protocol": _PROTOCOLS[rendition.delivery],
    }
    if rendition.delivery is Delivery.FRAGMENTS:
        folder = url.rpartition("/")[0]
        description["fragments"] = [
            {"url": f"{folder}/{name}"} | ({} if duration is None else {"duration": duration})
            for name, duration in renditions.fragments(ytid, rendition)
        ]
        description["container"] = "mp4_dash" if picture else "m4a_dash"
    return description


_CODECS = {"h264": "avc1.42c00c", "hevc": "hev1.1.6.L93", "aac": "mp4a.40.2"}


def _codec(ours: str | None) -> str:
    """ffmpeg's word for a codec as a site writes it."""
    return _CODECS.get(ours or "", ours or "none")


_PROTOCOLS = {Delivery.FILE: "http", Delivery.HLS: "m3u8_native", Delivery.FRAGMENTS: "http_dash_segments"}
