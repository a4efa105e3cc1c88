"""Generation that is kept in the store: what was drawn once is never drawn again, and a killed run goes on."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from learnable.diversifiers.gates import UNANSWERED, Avoided
from learnable.errors import UsageError
from learnable.evaluators.running import room
from learnable.measures import Found, fill, known
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.types import Answer, Generator, Measure, Message

Answered = Iterator[tuple[list[int], list[Answer]]]


def seed_of(seed: int, *what: str | int) -> int:
    """Return the seed of one draw, in [0, 2^31): by what is drawn, never by its place among others.

    So a draw stays the same however many there are. Some servers take no longer seeds.
    """
    return int(fingerprint([seed, *what])[:8], 16) >> 1


@dataclass(kw_only=True)
class Tally:
    """What was drawn in this run: ``draws``, and ``tokens`` that went through a model that is loaded here.

    ``unanswered``: what was asked for, and a server failed to give.
    """

    draws: int = 0
    tokens: int = 0
    unanswered: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Asks a generator (a loaded model, or a server; none where a method goes by rules alone), and keeps what it says.

    An answer is stored by conversation and seed, so that asking for more draws only what is new; ``tally`` counts that.
    ``avoided`` is what a method that draws again for what it refuses must keep away from.
    """

    generator: Generator | None
    sampling: Sampling
    store: Store
    avoided: Avoided = field(default_factory=Avoided, compare=False)
    tally: Tally = field(default_factory=Tally, compare=False)

    def answers(
        self, conversations: Sequence[Sequence[Message]], *, seeds: Sequence[int], label: str
    ) -> list[Answer]:
        """Return the next answer to each of n conversations, which end before it; see ``refusal`` for too long ones.

        It is ``UNANSWERED`` where a server failed to give one, which is asked for again in the next run.

        Raises:
            ModelError: If the generator cannot be reached, or the chat template refuses a conversation.
            UsageError: If there is no generator.
        """
        if self.generator is None:
            raise UsageError("this method has no generator to ask", hint="give --model or --generator")
        pairs = zip(conversations, seeds, strict=True)
        ids = [fingerprint([example_id(turns), seed]) for turns, seed in pairs]
        ask = partial(self.generator.answers, conversations, sampling=self.sampling, seeds=seeds)
        return self._kept(
            "answer", ids, ask, label, lambda place: len(self._renderer.prompt_ids(conversations[place]))
        )

    def questions(self, *, seeds: Sequence[int], label: str) -> list[Answer]:
        """Return user turns that the generator writes itself, one for each seed.

        Raises:
            UsageError: If the generator is a server, which cannot begin a user's turn, or a question does not fit.
        """
        asked: Any = getattr(self.generator, "questions", None)
        if asked is None:
            raise UsageError(
                "a server answers, but cannot invent the questions: it takes no open user turn",
                hint="give a model that runs here (--model, or --generator vllm:MODEL), or the questions (self_answer)",
            )
        limit, new = getattr(self.generator, "position_limit", None), self.sampling.max_new_tokens
        if limit is not None and new >= limit:
            raise UsageError(
                f"max_new_tokens is {new:,}, and the model takes {limit:,} tokens",
                hint="lower --max-new-tokens, so that question and answer fit together",
            )
        ask = partial(asked, len(seeds), sampling=self.sampling, seeds=seeds)
        opening = len(self._renderer.user_turn[0]) if self._renderer else 0
        ids = [fingerprint(["question", seed]) for seed in seeds]
        return self._kept("question", ids, ask, label, lambda _: opening)

    def refusal(self, conversation: Sequence[Message]) -> str | None:
        """Return why the generator cannot answer a conversation; None where it can, or a server must tell itself."""
        if self._renderer is None:
            return None
        return room(self.generator, conversation, self.sampling.max_new_tokens)[1] or None

    @property
    def _renderer(self) -> Any:
        """What turns conversations into tokens; None for a server."""
        return getattr(self.generator, "renderer", None)

    def _kept(
        self,
        of: str,
        ids: Sequence[str],
        ask: Callable[..., Answered],
        label: str,
        prompt_tokens: Callable[[int], int],
    ) -> list[Answer]:
        """Return what is stored under ``ids``, after drawing what is missing."""
        assert self.generator is not None
        renderer, tally, room = self._renderer, self.tally, self.sampling.max_new_tokens
        parameters = {
            "temperature": float(self.sampling.temperature),
            "top_p": float(self.sampling.top_p),
            "max_new_tokens": room,
            "of": of,
            # The same weights say other things to other tokens.
            "rendering": renderer.key if renderer is not None else None,
        }
        measure, before = Measure(kind="draw", model=self.generator.key, parameters=parameters), tally.draws

        def drawn(missing: Collection[int]) -> Iterator[Found]:
            for positions, answers in ask(only=missing):
                tokens = 0
                if renderer is not None:
                    texts = renderer.tokenizer([one.text for one in answers], add_special_tokens=False)
                    tokens = sum(map(len, texts["input_ids"])) + sum(map(prompt_tokens, positions))
                tally.draws += len(positions)
                tally.tokens += tokens
                yield Found(positions, [{"draw": tuple(answer)} for answer in answers], tokens)

        # How long an answer will be is not known before: each counts with the most it may have.
        fill([measure], ids, drawn, store=self.store, label=f"{label}, at most", size=lambda _: room)
        stored = known(measure, list(dict.fromkeys(ids)), store=self.store)
        found = {identity: Answer(text, finished) for identity, text, finished in stored.iter_rows()}
        if lacking := len(set(ids)) - len(found):
            tally.unanswered += lacking
            say(f"{label}: {lacking:,} of {tally.draws - before + lacking:,} were not answered")
        return [found.get(identity, UNANSWERED) for identity in ids]
