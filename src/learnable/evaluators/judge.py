"""A judge: any OpenAI-compatible server, which is shown two answers in both orders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from learnable.errors import UsageError
from learnable.evaluators import reading
from learnable.evaluators.kinds import Kind, ungraded
from learnable.servers import Reply, ServerGenerator
from learnable.settings import Sampling
from learnable.types import Example, Grade, Message

_VERDICT = re.compile(r"\[\[([ABC])\]\]")

SYSTEM = (
    "You compare two answers to the same request. Judge how well each one does what was asked: correct, helpful, "
    "complete, to the point. Do not let the order of the answers, their length or their style of formatting decide. "
    "Explain in two or three sentences, then end with your verdict on a line of its own: [[A]] if answer A is better, "
    "[[B]] if answer B is better, [[C]] if neither is."
)


@dataclass(frozen=True, kw_only=True)
class Judge(reading.RowSettings):
    """Which of two models answers better, by a third one.

    Each pair is judged twice, with the answers swapped. A win is one in both orders, 1; a loss is 0; a tie, or two
    verdicts that contradict each other, is 0.5. A verdict that cannot be read makes the pair ungradable.

    Args:
        server: Base URL of a server with OpenAI's interface, such as ``http://127.0.0.1:8000/v1``. Its key, if it
            wants one, is read from the environment variable ``OPENAI_API_KEY``.
        model: Name of the judging model on that server.
        max_new_tokens: Most tokens of an answer that is judged.
        verdict_tokens: Most tokens of a verdict.
        timeout_s: Seconds to wait for a verdict.
        retries: How often to ask again after a time-out, a full queue or an error of the server.
        concurrency: Requests at the same time.
        answer: Column of a reference answer to show to the judge; none when not given.

    Source: pairwise judging with swapped positions, Zheng et al. 2023 (MT-Bench, arXiv:2306.05685); the wording is
    ours.
    """

    kind: ClassVar[Kind] = "judge"
    unit: ClassVar[str] = "share won"
    packages: ClassVar[tuple[str, ...]] = ("openai",)
    name: ClassVar[str] = "judge"
    server: str = ""
    model: str = ""
    max_new_tokens: int = 512
    verdict_tokens: int = 512
    timeout_s: float = 120.0
    retries: int = 4
    concurrency: int = 8

    def __post_init__(self) -> None:
        if not self.server or not self.model:
            raise UsageError(
                "a judge needs a server and a model",
                hint="judge:prompts.jsonl@server=http://127.0.0.1:8000/v1,model=NAME",
            )
        # Refuses what makes no sense as a server.
        _ = self._judging

    def item(self, row: reading.Row) -> reading.Item:
        """Return the prompt of a row."""
        reference = reading.answered(row, self.answer) if self.answer is not None else ""
        return reading.with_reference(reading.asked(row, self.prompt_column), reference)

    def judge_pairs(
        self, examples: Sequence[Example], ones: Sequence[str], others: Sequence[str]
    ) -> list[Grade]:
        """Return one grade for each of n examples: 1 where ``ones`` win, 0 where ``others`` win, 0.5 for a tie.

        Raises:
            ModelError: If the server cannot be reached, or refuses the key or the model.
        """
        asking = [
            (Message(role="system", content=SYSTEM), Message(role="user", content=_shown(example, *pair)))
            for example, one, other in zip(examples, ones, others, strict=True)
            for pair in ((one, other), (other, one))
        ]
        greedy = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=self.verdict_tokens)
        replies = self._judging.replies(
            asking, sampling=greedy, seeds=[0] * len(asking), who="judge", what="verdict"
        )
        read = {place: _verdict(reply) for batch in replies for place, reply in batch}
        return [_combined(read[place], read[place + 1]) for place in range(0, len(asking), 2)]

    @property
    def _judging(self) -> ServerGenerator:
        return ServerGenerator(
            url=self.server,
            name=self.model,
            timeout_s=self.timeout_s,
            retries=self.retries,
            concurrency=self.concurrency,
        )


def _verdict(reply: Reply) -> tuple[str, str]:
    """Return the verdict of a reply, A, B or C; or an empty one, and why there is none."""
    if reply.text is None:
        return "", reply.why
    found = _VERDICT.findall(reply.text)
    return (found[-1], "") if found else ("", f"no verdict in the reply {reply.text[-80:]!r}")


_RESULTS = {("A", "B"): (1.0, "win"), ("B", "A"): (0.0, "loss")}


def _combined(in_order: tuple[str, str], swapped: tuple[str, str]) -> Grade:
    """Return the grade of the one that was A in order and B when swapped."""
    verdicts = in_order[0], swapped[0]
    if not all(verdicts):
        return ungraded(in_order[1] or swapped[1])
    value, answer = _RESULTS.get(verdicts, (0.5, "tie"))
    by_order = ": the order decided" if answer == "tie" and verdicts != ("C", "C") else ""
    return Grade(value=value, answer=answer, why=" then ".join(verdicts) + by_order)


def _shown(example: Example, first: str, second: str) -> str:
    """Return what the judge reads."""
    question = reading.question_of(example)
    named = len(question) > 1
    turns = "\n\n".join(f"{turn.role}: {turn.content}" if named else turn.content for turn in question)
    reference = str(example.meta.get("reference") or "")
    parts = [("Request", turns), ("Reference answer", reference), ("Answer A", first), ("Answer B", second)]
    return "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts if text or "Answer " in name)
