"""URLs: what of them may be shown, and whose they are."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

HIDDEN = "***"
"""Stands for a secret in what is shown."""


def without_secrets(text: str) -> str:
    """Return a URL, or a text with one in it, without user, password and query."""
    return re.sub(r"\?[^\s#]*", f"?{HIDDEN}", re.sub(r"//[^\s/?#]*@", f"//{HIDDEN}@", text))


def is_this_machine(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name, or no URL
        return False
