"""Translation quality against a reference, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from learnable.errors import UsageError
from learnable.evaluators import reading
from learnable.evaluators.kinds import ungraded
from learnable.evaluators.learned_metrics import LEARNED, Translated, learned_metric
from learnable.packages import needed
from learnable.types import Example, Grade, Message


@dataclass(frozen=True, kw_only=True)
class Translation(reading.RowSettings):
    """Similarity of a completion to the reference translation, in points of 100.

    Args:
        metric: ``chrf`` (character n-grams), ``chrf++`` (with word 1- and 2-grams) or ``bleu`` (smoothed, effective
            order), by sacrebleu. Each is of the single item: their mean is not the corpus score of papers. Or
            ``comet`` or ``bleurt``, models with weights; 100 times what these say, which is made to lie between 0 and
            1 by ``wmt22-comet-da`` and ``BLEURT-20`` and may lie beyond, and has no bounds with older weights.
        weights: Weights of ``comet`` (the file ``checkpoints/model.ckpt``) or ``bleurt`` (the folder). They count by
            their path: other weights need another.
        python: Python of an environment in which the metric's package is installed; this one when not given.
        to: Language that a bare source text is to be translated into; the question then is ``Translate the following
            text into <to>.`` before the text. Without it the column is the whole question.
        prompt_column: Column of the question or source text.
        answer: Column of the reference translation.
        max_new_tokens: Most tokens of a completion.

    Source: chrF, Popović 2015; chrF++, Popović 2017; sacrebleu, Post 2018 (arXiv:1804.08771); COMET, Rei et al. 2020
        (arXiv:2009.09025), unbabel-comet 2.2; BLEURT, Sellam et al. 2020 (arXiv:2004.04696).
    """

    unit: ClassVar[str] = "points of 100"
    packages: ClassVar[tuple[str, ...]] = ("sacrebleu",)
    name: ClassVar[str] = "translation"
    metric: Literal["chrf", "chrf++", "bleu", "comet", "bleurt"] = "chrf"
    weights: str | None = None
    python: str | None = None
    to: str | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        learned = LEARNED.get(self.metric)
        if learned is not None and not self.weights:
            raise UsageError(f"{self.metric} needs its weights", hint=f"give weights=PATH: {learned.weights}")
        if learned is None and (self.weights or self.python):
            raise UsageError(
                f"{self.metric} has no weights and no environment of its own",
                hint="weights= and python= go with metric=comet or metric=bleurt",
            )

    def read(self, path: str | None) -> list[Example]:
        """Return rows with a question (or a ``source`` text) and a reference, once the metric is known to be there."""
        if self.weights is not None:
            learned_metric(self.metric, self.weights, self.python)
        return super().read(path)

    def item(self, row: reading.Row) -> reading.Item:
        """Return the source text as a question, with the reference translation."""
        if self.to is not None:
            source = reading.text(row, self.prompt_column, ("source", *reading.PROMPTS))
            content = f"Translate the following text into {self.to}.\n\n{source}"
            question: tuple[Message, ...] = (Message(role="user", content=content),)
        else:
            question = reading.asked(row, self.prompt_column)
            source = question[-1].content
        beside = {"translated": source} if self.metric == "comet" else {}
        return reading.with_reference(question, reading.answered(row, self.answer), **beside)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return the score of 100; 0 for an empty answer; NaN without a reference."""
        return self.grade_all([example], [completion])[0]

    def grade_all(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Grade]:
        """Return the grade of each completion; a metric that is a model is asked once for all of them."""
        grades: dict[int, Grade] = {}
        left: dict[int, Translated] = {}
        for place, (example, completion) in enumerate(zip(examples, completions, strict=True)):
            reference, answer = str(example.meta.get("reference", "")).strip(), completion.strip()
            if not reference:
                grades[place] = ungraded("no reference translation")
            elif not answer:
                grades[place] = Grade(value=0.0, why="empty")
            else:
                source = str(example.meta.get("translated", ""))
                left[place] = {"source": source, "answer": answer, "reference": reference}
        scores = self._scores(list(left.values())) if left else []
        for (place, translated), score in zip(left.items(), scores, strict=True):
            grades[place] = Grade(value=score, answer=translated["answer"])
        return [grades[place] for place in range(len(examples))]

    def _scores(self, translations: Sequence[Translated]) -> list[float]:
        if self.weights is not None:
            learned = learned_metric(self.metric, self.weights, self.python)
            return [100 * score for score in learned.scores(translations)]
        metrics = needed("sacrebleu.metrics", by="translation", extra="evaluate")
        if self.metric == "bleu":
            metric = metrics.BLEU(effective_order=True)
        else:
            metric = metrics.CHRF(word_order=2 if self.metric == "chrf++" else 0)
        scores = [metric.sentence_score(one["answer"], [one["reference"]]).score for one in translations]
        return [min(float(score), 100.0) for score in scores]  # rounding may lead just above
