"""Translation quality against a reference, sentence by sentence."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from learnable.evaluating.exact_match import question_of
from learnable.evaluating.kinds import Kind
from learnable.evaluating.reading import PROMPTS, REFERENCES, Item, Row, answered, asked, read_items, text
from learnable.packages import needed
from learnable.types import Example, Grade, Message


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Similarity of a completion to the reference translation, 0 to 100, by sacrebleu.

    Args:
        metric: ``chrf`` (character n-grams), ``chrf++`` (with word 1- and 2-grams) or ``bleu`` (smoothed, effective
            order). Each is of the single item: their mean is not the corpus score of papers.
        to: Language that a bare source text is to be translated into; the question then is ``Translate the following
            text into <to>.`` before the text. Without it the column is the whole question.
        prompt_column: Column of the question or source text.
        answer: Column of the reference translation.
        max_new_tokens: Most tokens of a completion.
        source_column: Column that names the source of a row.
        n: How many examples to draw; all when not given.
        seed: Seeds the draw.

    Source: chrF, Popović 2015; chrF++, Popović 2017; sacrebleu, Post 2018 (arXiv:1804.08771).
    """

    kind: ClassVar[Kind] = "generation"
    unit: ClassVar[str] = "points of 100"
    higher_is_better: ClassVar[bool] = True
    metric: Literal["chrf", "chrf++", "bleu"] = "chrf"
    to: str | None = None
    prompt_column: str | None = None
    answer: str | None = None
    max_new_tokens: int = 256
    source_column: str | None = None
    n: int | None = None
    seed: int = 0

    def read(self, path: str | None) -> list[Example]:
        """Return rows with a question (or a ``source`` text) and a reference."""
        return read_items(
            path,
            self._item,
            evaluator="translation",
            n=self.n,
            seed=self.seed,
            source_column=self.source_column,
        )

    def _item(self, row: Row) -> Item:
        if self.to is not None:
            source = text(row, self.prompt_column, ("source", *PROMPTS))
            content = f"Translate the following text into {self.to}.\n\n{source}"
            question: tuple[Message, ...] = (Message(role="user", content=content),)
        else:
            question = asked(row, self.prompt_column)
        reference = answered(row, self.answer, REFERENCES)
        closing = (Message(role="assistant", content=reference),) if reference else ()
        return Item(messages=(*question, *closing), grading={"reference": reference})

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns without the reference."""
        return question_of(example)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return the score of 100; 0 for an empty answer; NaN without a reference."""
        reference = str(example.meta.get("reference", "")).strip()
        if not reference:
            return Grade(value=float("nan"), why="no reference translation")
        answer = completion.strip()
        if not answer:
            return Grade(value=0.0, why="empty")
        metrics = needed("sacrebleu.metrics", by="translation")
        if self.metric == "bleu":
            score = metrics.BLEU(effective_order=True).sentence_score(answer, [reference])
        else:
            order = 2 if self.metric == "chrf++" else 0
            score = metrics.CHRF(word_order=order).sentence_score(answer, [reference])
        return Grade(value=min(float(score.score), 100.0), answer=answer)
