"""A few conversations to try a model on: many kinds, few tokens."""

from learnable.runs.identity import example_id
from learnable.types import Example, Message


def _conversation(*contents: str, system: str | None = None) -> Example:
    turns = [Message(role="system", content=system)] if system else []
    turns += [
        Message(role=("user", "assistant")[number % 2], content=text) for number, text in enumerate(contents)
    ]
    return Example(id=example_id(turns), messages=tuple(turns), source="built-in")


_MANNERS = "You are a patient teacher. Answer in plain words, and say so when you are not sure."
CONVERSATIONS = (
    _conversation(
        "What is the capital of France?", "The capital of France is Paris, which lies on the Seine."
    ),
    _conversation(
        "Why is the sky blue?",
        "Sunlight holds all colours. On its way through the air it meets molecules that are much smaller than its "
        "waves, and these send short waves to all sides far more than long ones. Blue light therefore reaches the eye "
        "from everywhere in the sky, while red light goes mostly straight on. Near the horizon in the evening the way "
        "through the air is so long that most of the blue is gone, and what is left is orange and red.",
    ),
    _conversation(
        "Write a function that counts words.",
        "```python\nfrom collections import Counter\n\n\ndef count_words(text: str) -> Counter:\n"
        "    words = text.lower().split()\n    return Counter(words)\n```\nIt splits at white space only.",
    ),
    _conversation(
        "How do plants eat?",
        "They make sugar from light, water and carbon dioxide, in their leaves.",
        system=_MANNERS,
    ),
    _conversation(
        "What is a prime number?",
        "A whole number above 1 that only 1 and itself divide, such as 2, 3, 5 and 7.",
        "Is 51 one?",
        "No. 51 is 3 times 17, so 3 divides it.",
        system=_MANNERS,
    ),
    _conversation(
        "Say good morning in German, French and Japanese.",
        "Guten Morgen, bonjour, おはようございます.",
        "And in Czech?",
        "Dobré ráno! ☀️",
        "Thank you.",
        "You are welcome. Shall we go on with numbers from one to ten?",
    ),
)
"""Short and long, with and without a system turn, of one to three turns, with code and with other scripts."""
