"""Any media files offered as a video's formats, through the demo's site and yt-dlp, as YouTube offers its."""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from yt_dlp.extractor.common import InfoExtractor

from pipeline.media import Recording
from pipeline.youtube import DownloadSettings, Resolver

_OFFERS = "offers"  # stands for a video whose media are the offers of the others


class OfferIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp is untyped
    """Videos whose formats lie on the site as JSON; their addresses are relative to its media."""

    _VALID_URL = r"(?P<site>http://[^/]+)/watch\?v=(?P<id>\w+)"

    def _real_extract(self, url: str) -> dict[str, Any]:
        site, ytid = self._match_valid_url(url).group("site", "id")
        formats = self._download_json(f"{site}/media/{_OFFERS}.{ytid}.json", ytid)
        for each in formats:
            each["url"] = f"{site}/media/{each['url']}"
            each["http_headers"] = {"Referer": url}
            for fragment in each.get("fragments", ()):
                fragment["url"] = f"{site}/media/{fragment['url']}"
        return {"id": ytid, "title": "A video", "formats": formats}


def offer(folder: Path, ytid: str, formats: Sequence[dict[str, Any]]) -> None:
    """Make the site over `folder` offer these formats as the video `ytid`."""
    (folder / f"{_OFFERS}.{ytid}.json").write_text(json.dumps(list(formats)))


def combined(name: str, **more: Any) -> dict[str, Any]:
    """A format with sound and picture, in YouTube's terms."""
    return {
        **{"format_id": "18", "url": name, "ext": Path(name).suffix[1:], "protocol": "https"},
        **{"vcodec": "avc1.42001E", "acodec": "mp4a.40.2", "width": 640, "height": 360, "tbr": 400.0},
        **more,
    }


def picture(name: str, **more: Any) -> dict[str, Any]:
    return combined(name, format_id="134", acodec="none", **more)


def sound(name: str, **more: Any) -> dict[str, Any]:
    unpictured = {"vcodec": "none", "width": None, "height": None, "tbr": 130.0, "abr": 130.0}
    return {**combined(name, format_id="140"), **unpictured, **more}


def dash(manifest: Path) -> dict[str, Any]:
    """What a format in DASH fragments adds, from the manifest that ffmpeg wrote beside them."""
    text, folder = manifest.read_text(), manifest.parent.name
    scale = re.search(r'timescale="(\d+)"', text)
    assert scale is not None
    pieces: list[dict[str, Any]] = [{"url": f"{folder}/init-stream0.m4s"}]
    for _, length, repeats in re.findall(r'<S (t="\d+" )?d="(\d+)"(?: r="(\d+)")?', text):
        for _ in range(int(repeats or 0) + 1):
            name = f"{folder}/chunk-stream0-{len(pieces):05d}.m4s"
            pieces.append({"url": name, "duration": int(length) / int(scale[1])})
    return {"protocol": "http_dash_segments", "fragments": pieces}


def split(file: Path, seconds: float) -> dict[str, Any]:
    """What a format in fragments adds, from a fragmented MP4: written beside it, so many seconds each."""
    content, folder = file.read_bytes(), file.with_suffix(".d")
    folder.mkdir(exist_ok=True)
    cuts = [match.start() - 4 for match in re.finditer(b"moof", content)]
    pieces = [content[begin:end] for begin, end in pairwise([0, *cuts, len(content)])]
    for number, piece in enumerate(pieces):
        (folder / f"{number}.m4s").write_bytes(piece)
    urls = [{"url": f"{folder.name}/{number}.m4s", "duration": seconds} for number in range(len(pieces))]
    return {"protocol": "http_dash_segments", "fragments": [{"url": urls[0]["url"]}, *urls[1:]]}


def resolver(**settings: Any) -> Resolver:
    return Resolver(DownloadSettings(**settings), extractors=[OfferIE])


def resolve(resolver: Resolver, site: str, ytid: str) -> Recording:
    found = resolver.resolve(f"{site}/watch?v={ytid}", short_side=256, need_video=True, need_audio=True)
    assert isinstance(found, Recording), found
    return found
