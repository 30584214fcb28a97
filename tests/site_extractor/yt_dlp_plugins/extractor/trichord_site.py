"""A yt-dlp extractor for the demo's site that offers what YouTube's does: many formats, and reasons for none.

yt-dlp finds it when the folder above `yt_dlp_plugins` is on `sys.path` or PYTHONPATH.
"""

from yt_dlp.extractor.common import InfoExtractor


class TrichordSiteIE(InfoExtractor):
    IE_NAME = "trichord:site"
    _VALID_URL = r"(?P<site>https?://127\.0\.0\.1:\d+)/watch\?(?:[^#]*&)?v=(?P<id>[0-9A-Za-z_-]+)"

    def _real_extract(self, url):
        site, video_id = self._match_valid_url(url).group("site", "id")
        info = self._download_json(f"{site}/info/{video_id}.json", video_id)
        if info["reason"]:
            self._raise_unplayable(info["reason"], info["subreason"], video_id)
        for one in info["formats"]:
            one["http_headers"] = {"Referer": url}
        return {key: info[key] for key in ("id", "title", "duration", "live_status", "formats")}

    def _raise_unplayable(self, reason, subreason, video_id):
        """As yt_dlp/extractor/youtube/_video.py does with a playability status."""
        if subreason.startswith("The uploader has not made this video available in your country"):
            self.raise_geo_restricted(subreason, ["DE"], metadata_available=True)
        if subreason:
            reason += f". {subreason}"
        if "sign in" in reason.lower():
            reason = f"{reason.removesuffix('.')}. {self._login_hint()}"
        elif "This content isn't available, try again later" in reason:
            reason = (
                f"{reason.removesuffix('.')}. "
                "The current session has been rate-limited by YouTube for up to an hour. "
                "It is recommended to use `-t sleep` to add a delay between video requests"
            )
        self.raise_no_formats(reason, expected=True, video_id=video_id)
