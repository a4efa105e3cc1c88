"""Code in the text of a row: what stands in fences, or looks like code, is shown in a fixed width, and all of it as it is."""

import json
import re

from markupsafe import Markup, escape

_FENCED = re.compile(r"^ {0,3}(```+|~~~+)[^\n]*\n.*?(?:^ {0,3}\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`[^`\n]+`")
_LINE = re.compile(
    r"""[;{}]\s*$                                   # a statement, a block
    | ^\s*(?:def|class|if|elif|else|for|while|try|except|with|switch|case)\b.*[:{]\s*$
    | ^\s*(?:import|from|return|include|using|package|const|let|var|print|public|private|static|func|fn)\b.*[\w)\]"';]$
    | ^\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|GROUP\ BY|ORDER\ BY|JOIN)\b
    | ^\s*(?:\#include|\#!|//|/\*|\*/|@\w+$|\$\s|>>>\s|</?\w+[^<>]*>)
    | ^\s*[\w.\[\]"']+\s*(?:[-+*/|&]?=|:=)\s*\S         # an assignment
    | ^(?:\s{2,}|\t)\S.*[()\[\]=.:]                  # an indented line with signs
    """,
    re.VERBOSE,
)
MOST_LINES = 0.6
"""Share of the lines that must look like code."""


def coded(text: str) -> Markup:
    """Return a text as it is, its code in a fixed width: blocks in fences, words in backticks, or all of it."""
    if looks_like_code(text):
        return _block(text)
    parts, end = [], 0
    for block in _FENCED.finditer(text):
        parts += [_line(text[end : block.start()].removesuffix("\n")), _block(block[0].rstrip("\n"))]
        end = block.end() + text.startswith("\n", block.end())
    return Markup("").join([*parts, _line(text[end:])])


def looks_like_code(text: str) -> bool:
    """Tell whether a text without fences is code, or a value in JSON: most of its lines have the signs of it."""
    bare = text.strip()
    if bare[:1] in ("{", "[") and bare[-1:] in ("}", "]"):
        try:
            json.loads(bare)
        except ValueError:
            pass  # code may begin and end so too
        else:
            return len(bare) > len("[1, 2, 3]")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or _FENCED.search(text):
        return False
    return sum(bool(_LINE.search(line)) for line in lines) >= MOST_LINES * len(lines)


def _block(code: str) -> Markup:
    return Markup('<code class="block">{}</code>').format(code)


def _line(text: str) -> Markup:
    parts, end = [], 0
    for quoted in _QUOTED.finditer(text):
        parts += [escape(text[end : quoted.start()]), Markup("<code>{}</code>").format(quoted[0])]
        end = quoted.end()
    return Markup("").join([*parts, escape(text[end:])])
