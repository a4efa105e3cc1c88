"""Which rows a network may be given together, and how they lie: tried on made-up rows, not looked up.

A row must have the same loss alone and in any batch. So each kind of batch is tried before it is used: made-up rows, as
long as its longest and as many as fill it, must have the same states as each of them alone, token by token. A network
that fails as one sequence gets padded rows; one that fails with those too gets its rows one at a time.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.models.cache import recalled, remember
from learnable.models.lengths import LengthSwitches
from learnable.models.losses import hidden_states
from learnable.models.network import in_float32
from learnable.models.packing import Layout, packed, padded
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.types import Rendered

MOST_APART = 1e-3
"""Largest difference between the states of a token, in float32, as a share of their length, that is rounding."""

SAME = 1e-5
"""Largest such difference of a row's states where only other rows changed: nothing is rounded in another way."""

MORE_TOKENS = (24, 21, 17, 17)
"""Tokens of the shorter rows of a trial, beyond the last length at which the network switches."""

COMPARED = 1 + len(MORE_TOKENS)
"""Rows of a trial whose states are looked at; more fill the batch."""

ROUTED_ELSEWHERE = 0.02
"""Share of a row's tokens that rounding may send to another expert, where a network has experts."""

TRIES = 3
"""With other rows each time: where rounding sends a token to another expert, it is another token."""

SHORTEST, FEWEST_TOKENS = 64, 256
"""Least length of the longest row of a trial, and least number of its tokens."""

VERSION = 1
"""Of the trial: those of another version are not taken from the cache."""

How = Literal["packed", "padded", "alone"]


class Trial(NamedTuple):
    """Why rows cannot lie so: those of this kind of lengths, as many or more, as long or longer; empty where up to these can.

    ``tokens`` is 0 where their number does not matter.
    """

    how: How
    kind: tuple[int, int]
    longest: int
    tokens: int
    why_not: str

    def tells(self, how: How, kind: tuple[int, int], *, longest: int, tokens: int) -> bool:
        """Tell whether it says anything of batches of a size."""
        if (self.how, self.kind) != (how, kind):
            return False
        if self.why_not:
            return self.longest <= longest and self.tokens <= tokens
        return self.longest >= longest and self.tokens >= tokens


class Batching:
    """Which rows of a network are computed together, none longer than a limit; trials are cached under the model's key."""

    def __init__(self, network: Any, *, key: str | None = None, position_limit: int | None = None) -> None:
        self._network, self._limit = network, position_limit
        self._switches = LengthSwitches.of(network)
        self._named = _named_lengths(network.config.get_text_config())
        self._is_known = type(network).__module__.startswith("transformers.")
        self._key, self._trials, self._said = None, list[Trial](), set[str]()
        if key is not None:  # trials hold for these versions of what computes
            versions = {"torch": torch.__version__, "transformers": transformers.__version__}
            how = {"model": key, "device": network.device.type, "trial": VERSION}
            self._key = fingerprint(how | versions)
            known = (recalled("batching", self._key) or {"trials": []})["trials"]
            self._trials = [Trial(**trial | {"kind": tuple(trial["kind"])}) for trial in known]

    def groups(self, rendered: Sequence[Rendered]) -> Iterator[list[int]]:
        """Yield the positions of rows that are computed together; a ``ModelError`` if tokens see later ones."""
        for group in self._switches.groups([len(row.ids) for row in rendered]):
            how, _ = self.verdict([rendered[position] for position in group])
            yield from ([position] for position in group) if how == "alone" else (group,)

    def layout(self, rendered: Sequence[Rendered]) -> Layout:
        """Return how rows of one group lie; raises as ``groups``."""
        return packed(rendered) if self.verdict(rendered)[0] == "packed" else padded(rendered)

    def verdict(self, rendered: Sequence[Rendered]) -> tuple[How, str]:
        """Return how rows of one group lie, and why not better; tried where it is not known; raises as ``groups``."""
        lengths = [len(row.ids) for row in rendered]
        kind, longest = self._switches.kind(max(lengths)), self._rounded(max(lengths))
        tokens = self._enough(sum(lengths), longest, kind)
        if not (not_packed := self._why_not("packed", kind, longest=longest, tokens=tokens)):
            return "packed", ""
        if not (not_padded := self._why_not("padded", kind, longest=longest, tokens=0)):
            self._say(f"batches are padded: {not_packed}")
            return "padded", not_packed
        self._why_not("alone", kind, longest=longest, tokens=0)
        self._say(f"rows are computed one at a time: {not_padded}")
        return "alone", not_padded

    def _why_not(self, how: How, kind: tuple[int, int], *, longest: int, tokens: int) -> str:
        for trial in self._trials:
            if trial.tells(how, kind, longest=longest, tokens=tokens):
                return trial.why_not
        found = ""
        if how == "alone":
            refuse_lookahead(self._network, "the model", tokens=longest)
        else:
            found = _differs(self._network, how, lowest=max(kind), longest=longest, tokens=tokens)
        self._trials.append(Trial(how=how, kind=kind, longest=longest, tokens=tokens, why_not=found))
        if self._key is not None:
            remember("batching", self._key, {"trials": [trial._asdict() for trial in self._trials]})
        if found:  # where the smallest batch fails too, no other is tried any more
            smallest = {"longest": self._rounded(max(kind) + 1), "tokens": min(tokens, FEWEST_TOKENS)}
            self._why_not(how, kind, **smallest)
        return found

    def _rounded(self, longest: int) -> int:
        """Return the length that rows of this length are tried with: the next power of two, or length that is named."""
        kind = self._switches.kind(longest)
        beyond = [border for border in (*self._named, *self._switches.borders) if border >= longest]
        rounded = min([_power_of_two(longest, SHORTEST), *beyond])
        fits = self._limit is None or rounded <= self._limit
        return rounded if fits and self._switches.kind(rounded) == kind else longest

    def _enough(self, tokens: int, longest: int, kind: tuple[int, int]) -> int:
        """Return how many tokens a trial of batches of so many needs: all, where the network is not transformers' own.

        Else those of the rows that are compared, and more than any length that the configuration names, since positions
        may be counted over the batch.
        """
        whole = _power_of_two(tokens, FEWEST_TOKENS)
        if not self._is_known:
            return whole
        compared = longest + COMPARED * (max(kind) + MORE_TOKENS[0])
        beyond = max((_power_of_two(length + 1, 1) for length in self._named if length < whole), default=0)
        return min(whole, max(FEWEST_TOKENS, compared, beyond))

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            say(sentence)


def refuse_lookahead(network: Any, name: str, *, tokens: int = 16) -> None:
    """Raise a ``ModelError`` if a token's state depends on later tokens.

    The second half of a made-up row of so many tokens is changed, and the states of the first must stay the same: bit
    for bit, or up to rounding in float32, as experts take their tokens together.
    """
    vocabulary, half = network.config.get_text_config().vocab_size, tokens // 2

    def moved(seed: int) -> float:
        ids = np.random.default_rng(seed).integers(0, vocabulary, size=(2, tokens), dtype=np.int32)
        ids[1, :half] = ids[0, :half]
        first, second = (hidden_states(network, padded([_row(each)]))[:half] for each in ids)
        if torch.equal(first, second) or not first.isfinite().all():  # the loss will tell the latter
            return 0.0
        return float(_apart(second, first).max())

    if not moved(0):
        return
    with in_float32(network):
        if all(moved(seed) > MOST_APART for seed in range(TRIES)):
            raise ModelError(
                f"{name} is no causal language model: a token sees those after it, which it would have to predict",
                hint="give a decoder; an encoder such as BERT sees the whole text at once",
            )


def _differs(network: Any, how: How, *, lowest: int, longest: int, tokens: int) -> str:
    """Return why rows cannot lie together; empty where they can.

    Each row must have the states that it has alone, up to rounding; and where others of the same lengths take the place of
    some rows, those of the rest must stay, far below rounding: a leak is told from it however small.
    """
    lay_out = {"packed": packed, "padded": padded}[how]
    experts = any("expert" in name for name in network.config.get_text_config().to_dict())
    share, why = 0.0, ""
    for seed in range(TRIES if experts else 1):
        one, other = _made_up(network, seed, lowest=lowest, longest=longest, tokens=tokens)
        try:
            with in_float32(network):
                found, after = (_states(network, lay_out(rows)) for rows in (one, other))
                alone = [_states(network, padded([row]))[0] for row in one[:COMPARED]]
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
            return str(error).strip().split("\n", maxsplit=1)[0]
        stays = [
            _moved(states, before, SAME)
            for states, before, row, twin in zip(after, found, one, other, strict=True)
            if row is twin
        ]
        own = [_moved(states, by_itself, MOST_APART) for states, by_itself in zip(found, alone, strict=False)]
        leak, wrong = max(stays, default=0.0), max(own)
        share = max(leak, wrong)
        if share <= (ROUTED_ELSEWHERE if experts else 0.0):
            return ""
        why = "depends on other rows" if leak >= wrong else "is not what it is alone"
    return f"in one batch, the hidden state of {share:.0%} of the tokens of a row {why}"


def _states(network: Any, layout: Layout) -> list[torch.Tensor]:
    """Return the states of each row of a layout, (T, d) each."""
    found = hidden_states(network, layout)
    return [found[torch.from_numpy(places).to(found.device)] for places in layout.places]


def _moved(found: torch.Tensor, expected: torch.Tensor, bound: float) -> float:
    return float((_apart(found, expected) > bound).float().mean())


def _made_up(
    network: Any, seed: int, *, lowest: int, longest: int, tokens: int
) -> tuple[list[Rendered], list[Rendered]]:
    """Return the rows of a batch, all longer than ``lowest``, and another batch whose third, fourth and fifth are the same.

    The first is the longest, the second and third begin alike, the fourth and fifth have one length; the others fill it.
    """
    vocabulary, rng = network.config.get_text_config().vocab_size, np.random.default_rng(seed)
    lengths = [longest, *(min(longest, lowest + more) for more in MORE_TOKENS)]
    if tokens:
        lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), tokens, side="right")))]
        lengths += [longest] * ((tokens - sum(lengths)) // longest)
    one, other = ([rng.integers(0, vocabulary, size=n, dtype=np.int32) for n in lengths] for _ in range(2))
    alike = max(0, min(lengths[1:3], default=0) - 9)
    for ids in (one[2:3], other[1:2]):
        for each in ids:
            each[:alike] = one[1][:alike]
    rows = [_row(ids) for ids in one]
    return rows, [row if 2 <= place < COMPARED else _row(other[place]) for place, row in enumerate(rows)]


def _row(ids: NDArray[np.int32]) -> Rendered:
    return Rendered(id="", ids=ids, mask=np.ones(len(ids), dtype=np.bool_), truncated=False)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return how far states (T, d) are apart, as shares of their lengths, (T,)."""
    apart, length = (torch.linalg.vector_norm(x.float(), dim=-1) for x in (found - expected, expected))
    return torch.div(apart, length)


def _named_lengths(config: Any) -> tuple[int, ...]:
    """Return the lengths at which layers of a configuration do something else: windows, chunks, steps of a scale."""
    given = config.to_dict().items()
    named = (value for name, value in given if re.search("window|chunk|floor_scale", name))
    return tuple(value for value in named if type(value) is int and value > 1)


def _power_of_two(number: int, least: int) -> int:
    """Return the first power of two that is not below."""
    return max(least, 1 << (number - 1).bit_length())
