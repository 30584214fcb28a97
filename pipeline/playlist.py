"""HLS playlists whose addresses are replaced: where they stand, and what each is of."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin

# RFC 8216 §4.3: tags, and attributes of tags
_URI = re.compile(r'URI="([^"]*)"')
_MAP_RANGE = re.compile(r',?BYTERANGE="(\d+)(?:@(\d+))?"')
_RANGE = re.compile(r"#EXT-X-BYTERANGE:(\d+)(?:@(\d+))?")
_VARIANT = "#EXT-X-STREAM-INF"
_PLAYLIST_TAGS = ("#EXT-X-MEDIA:", "#EXT-X-I-FRAME-STREAM-INF:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Linked:
    """What a playlist names: another playlist, or a resource or a part of one."""

    url: str
    playlist: bool = False
    start: int = 0
    end: int | None = None  # exclusive; None: the whole resource


Address = Callable[[Linked], str]


def rewrite(text: str, base: str, address: Address) -> str:
    """The playlist with every address replaced, that of a byte range by one for those bytes alone.

    Args:
        base: the playlist's own URL, which relative addresses start from.
    """
    return "\n".join(_Rewriting(base, _VARIANT in text, address).lines(text))


class _Rewriting:
    def __init__(self, base: str, master: bool, address: Address) -> None:
        self._base = base
        self._master = master
        self._address = address
        self._span: re.Match[str] | None = None  # announced for the next segment
        self._ended = 0  # where the last byte range did, and one without an offset begins

    def lines(self, text: str) -> list[str]:
        return [new for line in text.splitlines() if (new := self._line(line.strip())) is not None]

    def _line(self, line: str) -> str | None:
        if span := _RANGE.match(line):
            self._span = span
            return None
        if line.startswith("#"):
            return self._tag(line)
        span, self._span = self._span, None
        return self._replaced(line, span, playlist=self._master) if line else None

    def _tag(self, line: str) -> str:
        if not (uri := _URI.search(line)):
            return line
        span = _MAP_RANGE.search(line)
        new = self._replaced(uri[1], span, playlist=line.startswith(_PLAYLIST_TAGS))
        return _MAP_RANGE.sub("", line.replace(uri[0], f'URI="{new}"'))

    def _replaced(self, uri: str, span: re.Match[str] | None, *, playlist: bool) -> str:
        if uri.startswith("data:"):  # leads nowhere
            return uri
        url = urljoin(self._base, uri)
        if span is None:
            return self._address(Linked(url=url, playlist=playlist))
        start = self._ended if span[2] is None else int(span[2])
        self._ended = start + int(span[1])
        return self._address(Linked(url=url, start=start, end=self._ended))
