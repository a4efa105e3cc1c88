"""Code in the texts of a page is set in a fixed width, words are not, and every character stays."""

import html
import re

import pytest

from learnable.pages.code import coded, looks_like_code
from learnable.pages.html import turns_of

FUNCTION = "def largest(numbers):\n    best = numbers[0]\n    for each in numbers:\n        best = max(best, each)\n    return best"
FENCED = "Here it is:\n```python\nx = 1 < 2\n```\nThat sets `x`."
CODE = [
    FUNCTION,
    "#include <stdio.h>\nint main() {\n  return 0;\n}",
    "SELECT name\nFROM users\nWHERE age > 30",
    '{"name": "search", "arguments": {"query": "sky"}}',
    "import numpy as np\nx = np.zeros(3)\nprint(x)",
]
WORDS = [
    "The sky is blue.",
    "From the hill we saw the sea.\nIf it rains, we stay.\nWhere were you?",
    "1. Wash the rice.\n2. Boil the water: two cups.\n3. Wait.",
    "- apples\n- pears (ripe)\n- plums",
    "Dear Ann,\n\nthank you for your letter.\n\nYours, Bob",
    "[1]",
    "",
]


def plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


@pytest.mark.parametrize("text", CODE)
def test_code_without_fences_is_known(text: str) -> None:
    assert looks_like_code(text)
    assert plain(coded(text)) == text


@pytest.mark.parametrize("text", WORDS)
def test_words_are_no_code(text: str) -> None:
    assert not looks_like_code(text)
    assert coded(text) == html.escape(text)


def test_fences_make_a_block_and_backticks_code_in_a_line() -> None:
    assert re.findall(r"<code[^>]*>(.*?)</code>", coded(FENCED), re.DOTALL) == [
        "```python\nx = 1 &lt; 2\n```",
        "`x`",
    ]
    assert plain(coded(FENCED)).replace("\n", "") == FENCED.replace("\n", "")


def test_a_fence_that_is_not_closed_reaches_to_the_end() -> None:
    assert coded("So:\n```\na\nb") == 'So:<code class="block">```\na\nb</code>'


def test_markup_in_code_stays_text() -> None:
    assert "<b>" not in coded("```\n<b>bold</b>\n```")


def test_a_row_on_a_page_has_its_code_in_a_block() -> None:
    (turn,) = turns_of([{"role": "assistant", "content": FUNCTION}])
    assert '<code class="block">def largest' in turn
