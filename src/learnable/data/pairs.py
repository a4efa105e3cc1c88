"""Preference pairs: two answers to one prompt, which of them is better, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from learnable.data.names import OPTION, plain
from learnable.data.values import UnusableRowError, is_empty, shortened
from learnable.pools import Pool, message_of, slices
from learnable.runs.identity import example_id, fingerprint
from learnable.types import Conversation, Example, Message, Pair

LENGTH_SHORTCUT = 0.6
"""Share of pairs whose chosen answer is the longer one above which length alone tells much."""
_TIES = ("tie", "draw", "0", "1.5", "none", "neither", "both", "same", "equal")


def identity_of(conversation: Conversation) -> str:
    """Return the identity of what a row means; of a pair a hash of the conversations that end in its two answers."""
    messages, rejected = conversation.messages, conversation.rejected
    if rejected is None:
        return example_id(messages, tools=conversation.tools)
    sides = (messages, (*messages[:-1], rejected))
    return fingerprint([example_id(each, tools=conversation.tools) for each in sides])


def context(prompt: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns before an answer, none of which is learned."""
    return tuple([replace(turn, trained=turn.role != "assistant") for turn in prompt])


def pairs_of(pool: Pool) -> Iterator[Pair]:
    """Yield the distinct pairs of a pool in the order first seen; a ``DataError`` where it holds conversations."""
    pool.check_kind(pairs=True)
    for part in slices(pool.conversations):
        for row in part.iter_rows(named=True):
            *prompt, chosen, rejected = map(message_of, row.pop("messages"))
            yield Pair(prompt=tuple(prompt), chosen=chosen, rejected=rejected, **row)


def about_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return figures of pairs: how many, of how many prompts, and in what share of them the chosen answer is longer."""
    return {
        "pairs": len(pairs),
        "prompts": len({pair.prompt for pair in pairs}),
        "chosen longer": _longer(pairs, 1),
    }


def doubts(pairs: Sequence[Pair], *, test: Sequence[Pair] = ()) -> list[str]:
    """Return sentences about what makes a result on pairs doubtful: length, and prompts on both sides.

    Args:
        pairs: What is learned from; may be empty.
        test: What is judged on; none where nothing is judged. Where something is, `learnable prefer` says itself that chosen
            answers are the longer ones, with what came of it.
    """
    said = []
    for share, word in ((_longer(pairs, 1), "longer"), (_longer(pairs, -1), "shorter")):
        if share > LENGTH_SHORTCUT and not (test and word == "longer"):
            said.append(
                f"the chosen answer is {word} in {share:.0%} of the pairs: a model may learn length instead of preference"
            )
    if shared := {pair.prompt for pair in pairs} & {pair.prompt for pair in test}:
        said.append(
            f"{len(shared):,} prompts are in training and test: hold out by prompt (load --holdout does)"
        )
    return said


def _longer(pairs: Sequence[Pair], sign: int) -> float:
    """Return the share of pairs whose chosen answer has more characters; with a negative sign, fewer."""
    lengths = [len(pair.chosen.content) - len(pair.rejected.content) for pair in pairs]
    return sum(sign * length > 0 for length in lengths) / len(pairs) if pairs else 0.0


def answers_of(pair: Pair) -> tuple[Example, Example]:
    """Return the chosen and the rejected conversation, whose ids are those of the same conversations elsewhere."""

    def conversation(answer: Message) -> Example:
        messages = (*pair.prompt, answer)
        identity = example_id(messages, tools=pair.tools)
        return Example(id=identity, messages=messages, source=pair.source, tools=pair.tools, meta=pair.meta)

    return conversation(pair.chosen), conversation(pair.rejected)


def paired(
    chosen: Sequence[Message], rejected: Sequence[Message], *, tools: str, strength: float | None
) -> Conversation:
    """Return a pair of two conversations that differ in the last answer alone; a ``ValueError`` where they do not."""
    if list(chosen) == list(rejected):
        raise ValueError("the chosen and the rejected answer are the same")
    prompts = context(chosen[:-1]), context(rejected[:-1])
    if prompts[0] != prompts[1]:
        turns = enumerate(zip(*prompts, strict=False), 1)
        differing = next((number for number, (one, other) in turns if one != other), None)
        number = differing or min(map(len, prompts)) + 1
        raise ValueError(f"the two sides have different prompts: turn {number} differs")
    return Conversation(
        messages=(*prompts[0], chosen[-1]), tools=tools, rejected=rejected[-1], strength=strength
    )


def better(row: Mapping[str, Any], columns: Sequence[str], options: Sequence[str]) -> float:
    """Return what columns say of two answers: above 0 where the first is better, below where the second is.

    It is the number of columns for the first one minus that for the second; a tie is a ``ValueError``.

    Args:
        row: Its columns and values.
        columns: Those that say which answer is better: a number or letter as in the names of the options, or a name.
        options: The two columns of answers.
    """
    votes = [_vote(row[column], column, options) for column in columns if not is_empty(row.get(column))]
    if not sum(votes):
        seen = ", ".join(f"{column!r} is {shortened(row.get(column))}" for column in columns)
        raise UnusableRowError(f"neither answer is preferred: {seen}")
    return float(sum(votes))


def _vote(value: object, column: str, options: Sequence[str]) -> int:
    said = int(value) if isinstance(value, float) and value.is_integer() else value
    word = plain(str(said).strip())
    for side, (option, number, name) in enumerate(zip(options, "12", ("first", "second"), strict=True)):
        told = OPTION.fullmatch(plain(option))
        mark = told[2] if told else number
        if word in (mark, f"model_{mark}", f"response_{mark}", plain(option), name):
            return 1 if side == 0 else -1
    if word.startswith(_TIES):
        return 0
    raise UnusableRowError(
        f"{column!r} is {shortened(value)}, and names neither {options[0]!r} nor {options[1]!r}",
        hint=f"if {column!r} means something else: --columns ignore={column}",
    )


def strength_of(row: Mapping[str, Any], columns: Sequence[str]) -> float | None:
    """Return the number in a column, or the first minus the second of two; None where one is missing."""
    found = []
    for column in columns:
        value = row.get(column)
        if is_empty(value):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnusableRowError(
                f"{column!r} is {shortened(value)}, not a number",
                hint=f"--columns ignore={column} leaves it out",
            )
        found.append(float(value))
    return found[0] - sum(found[1:]) if found else None
