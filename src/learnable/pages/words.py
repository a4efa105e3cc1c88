"""Numbers and texts as people read them."""

import math
from typing import Any

from learnable.visible import visible

_SNIPPET_CHARACTERS = 160
_SNIPPET_BYTES = 180
NOTHING = "\N{EN DASH}"


def count(value: float | None) -> str:
    """``12,345``."""
    return NOTHING if value is None else f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """``6.0%`` of the whole; a dash when there is no whole."""
    if not whole:
        return NOTHING
    percent = 100 * part / whole
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.1f}%"


def decimal(value: Any, digits: int = 3) -> str:
    """``0.125``; a dash where it is missing, NaN or infinite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", "\N{MINUS SIGN}")


def probability(p: float | None) -> str:
    """``= 0.029`` or ``< 0.001``."""
    if p is None:
        return "not known"
    return "< 0.001" if p < 0.001 else f"= {decimal(p)}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    if seconds <= 0:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def memory(size_bytes: int) -> str:
    """``3.2 GiB``."""
    if size_bytes <= 0:
        return NOTHING
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """``1 example``, ``2 examples``."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def capital(words: str) -> str:
    """Begin with a capital, and leave the rest as it is."""
    return words[:1].upper() + words[1:]


def first_of_all(shown: int, whole: int) -> str:
    """``, the first 3 of them``, where not all are shown."""
    return f", the first {shown} of them" if whole > shown else ""


def listing(names: list[str], limit: int = 5) -> str:
    """``a, b, c and 4 more``."""
    shown = names[:limit]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def enumeration(names: list[str]) -> str:
    """``a``, ``a and b`` or ``a, b and c``: all of them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def snippet(text: str) -> str:
    """The start of a text on one line, at most 160 characters and 180 bytes, for a tooltip."""
    line = " ".join(visible(text[: 4 * _SNIPPET_CHARACTERS]).split())
    start = line.encode()[:_SNIPPET_BYTES].decode(errors="ignore")[:_SNIPPET_CHARACTERS]
    return start if start == line and len(text) <= 4 * _SNIPPET_CHARACTERS else start.rstrip() + "…"


def setting(value: Any) -> str:
    """A setting of the reference in words."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def finite(value: Any) -> float | None:
    """Return a number, None where it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None
