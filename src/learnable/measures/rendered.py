"""What rendering alone tells of examples, and their answers without what they answer."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.types import AnswerHeader, Rendered


def lengths(rendered: Sequence[Rendered]) -> pl.DataFrame:
    """Return ``id``, ``tokens`` (prompt and response), ``response_tokens`` and ``truncated``, as rendering tells.

    ``undefined`` says why an example has no loss, null where it has one.
    """
    columns = {"id": pl.String, "tokens": pl.Int64, "response_tokens": pl.Int64, "truncated": pl.Boolean}
    rows = [
        (each.id, len(each.ids), int(each.mask.sum()), each.truncated, _why_empty(each)) for each in rendered
    ]
    return pl.DataFrame(rows, schema={**columns, "undefined": pl.String}, orient="row")


def _why_empty(example: Rendered) -> str | None:
    if example.mask.any():
        return None
    if example.refused:
        return example.refused
    if example.truncated:
        return f"the prompt fills the length limit of {len(example.ids)} tokens, no response token is left"
    return "the chat template leaves no response token"


def answers_alone(rendered: Sequence[Rendered], *, header: AnswerHeader) -> list[Rendered]:
    """Return the same response tokens without what they answer: each answer behind the header of an answer.

    Other marks before an answer than in ``Renderer.answer_header`` are its header. Without one the first token would
    have nothing to be predicted from, and the two losses of IFD would not be over the same tokens.
    """
    return [_alone(example, header) for example in rendered]


def _alone(example: Rendered, header: AnswerHeader) -> Rendered:
    counted = np.flatnonzero(example.mask)
    answers = np.split(counted, np.flatnonzero(np.diff(counted) > 1) + 1)  # of each turn
    parts = [(header.opening, False)]
    for answer in answers:
        parts += [(_marks_before(answer, example.ids, header.marks), False), (example.ids[answer], True)]
    return Rendered(
        id=example.id,
        ids=np.concatenate([ids for ids, _ in parts]).astype(np.int32),
        mask=np.concatenate([np.full(len(ids), fill_value=counts) for ids, counts in parts]),
        truncated=example.truncated,
        refused=example.refused,
    )


def _marks_before(
    answer: NDArray[np.intp], ids: NDArray[np.int32], marks: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return what stands before an answer from the last place on that begins as the marks do; else the marks."""
    if len(marks) < 2 or not len(answer):
        return marks
    before = ids[: answer[0]]
    begins = np.flatnonzero((before[:-1] == marks[0]) & (before[1:] == marks[1]))
    return before[begins[-1] :] if len(begins) else marks
