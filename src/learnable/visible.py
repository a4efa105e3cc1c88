"""Text of rows for people to see: what a terminal or a page would obey is shown instead."""

import re

_OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # control characters, but tabs and ends of lines
    "|\r(?!\n)"  # goes back to the beginning of the line
    "|[\u202a-\u202e\u2066-\u2069]"  # turn the reading direction
)
_DELETE = 0x7F
_PICTURES = 0x2400
"""Where Unicode has pictures of the first control characters, such as ␛ for escape."""


def visible(text: str) -> str:
    """Return a text in which control characters, such as terminal escapes, and marks of direction are visible.

    Escape becomes ``␛``, others a picture of their name too, or their hexadecimal code. Tabs, ends of lines and all
    that is ordinary text stay.
    """
    return _OBEYED.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < ord(" "):
        return chr(_PICTURES + code)
    return "␡" if code == _DELETE else f"\\u{code:04x}"
