"""A page that one file holds: its layout, its colours, and the escaping of everything put into it."""

import base64
import html


def escape(text: object) -> str:
    """Text as HTML, also inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes themselves as a URL, for `src`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
