"""Conversations to ``(ids, mask)``: the model's own chat template, and exactly the tokens that its answers own."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from learnable.errors import ModelError
from learnable.models.answers import Span
from learnable.models.chat_template import ChatTemplate
from learnable.models.loading import load_tokenizer
from learnable.models.source import embedding_rows
from learnable.models.templates import template_hint
from learnable.models.turns import ANSWER, ASKED, REFUSALS, SENTINEL
from learnable.runs.identity import fingerprint
from learnable.types import AnswerHeader, Example, Message, ModelRef, Rendered

VERSION = 1
"""Raised when a rule of this file changes which tokens are scored, so that what is stored is measured again."""
TOKENIZE_AT_ONCE = 1_000

RESIZE = "give the tokenizer that the model was trained with, or save the model after resize_token_embeddings"


class UserTurn(NamedTuple):
    """What stands around a user's text: the tokens before it, int32 (T,), and what ends it.

    ``stop_ids`` are tokens that end the turn. Where the template writes none before the answer, they are empty, and
    ``closing`` is the plain text that it puts there.
    """

    opening: NDArray[np.int32]
    stop_ids: tuple[int, ...]
    closing: str


class Renderer:
    """Turns conversations into tokens and response masks for one tokenizer.

    Its ``end_ids`` are the tokens that end a turn where they stand behind an answer: the end of sequence, and special
    tokens but BOS.

    Args:
        tokenizer: A fast tokenizer of transformers (character offsets are needed).
        name: The model's name, for error messages.
        rows: For how many tokens the model has embeddings; None where that is not known.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, name: str, rows: int | None = None) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of {name} gives no character offsets, so its answers cannot be located",
                hint="use a model with a tokenizer.json (a 'fast' tokenizer)",
            )
        if tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer of {name} has no end-of-sequence token",
                hint="set eos_token in tokenizer_config.json",
            )
        self.tokenizer, self._name, self._rows = tokenizer, name, rows
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        others = (special | set(tokenizer.all_special_ids)) - {tokenizer.bos_token_id}
        self.end_ids = frozenset({*others, tokenizer.eos_token_id})
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer("a", add_special_tokens=True)["input_ids"][0] == bos
        ends = {str(tokenizer.convert_ids_to_tokens(token)) for token in self.end_ids}
        self.chat = ChatTemplate(tokenizer, name=name, ends=ends, adds_bos=self._adds_bos)

    @classmethod
    def of(cls, ref: ModelRef) -> Self:
        """Return the renderer of a model, without loading its weights."""
        return cls(load_tokenizer(ref), name=ref.name, rows=embedding_rows(ref))

    @property
    def uses_default_template(self) -> bool:
        """True when the model brings no chat template of its own."""
        return self.tokenizer.chat_template is None

    @property
    def vocabulary(self) -> str:
        """Identity of the tokenizer: which text becomes which tokens."""
        marks = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return fingerprint({"tokenizer": self.tokenizer.backend_tokenizer.to_str(), "marks": marks})

    def check_same_tokens(self, vocabulary: str, *, name: str) -> None:
        """Raise a ``ModelError`` if the tokens of this reference, of that name, are not those of a base model."""
        if self.vocabulary != vocabulary:
            raise ModelError(
                f"the reference {name} has another tokenizer than the base model, so their losses cannot be compared",
                hint="give a reference that was fine-tuned from this base model",
            )

    @property
    def key(self) -> str:
        """Identity of all that decides the tokens and the mask of a conversation, but its length limit."""
        return fingerprint({"vocabulary": self.vocabulary, "version": VERSION, **self.chat.identity})

    @property
    def separator(self) -> int:
        """Token that stands where a text begins: BOS where the tokenizer adds one, else EOS, which ends the text before."""
        return int(self.tokenizer.bos_token_id if self._adds_bos else self.tokenizer.eos_token_id)

    def decode(self, ids: "np.ndarray[Any, np.dtype[np.int32]]") -> str:
        """Return the text of token ids (T,), special tokens included."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def text(self, messages: Sequence[Message], *, tools: str = "") -> str:
        """Return the whole conversation as the template writes it, and what closes the last answer where it does not.

        Raises what jinja2 does where the template refuses it; ``tools`` is JSON text.
        """
        return self.chat.text(messages, tools)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the end of sequence, and what the template puts after an answer."""
        answers = self.chat.answers([ASKED, ANSWER])
        text, spans = answers.text + self.chat.closing([ASKED, ANSWER]), answers.spans(1)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = np.asarray(encoded["input_ids"]), np.asarray(encoded["offset_mapping"]).reshape(-1, 2)
        after = ids[self._mask(text, spans, ids, offsets) & (offsets[:, 0] >= spans[-1][1])]
        return tuple(sorted({self.tokenizer.eos_token_id, *self.end_ids.intersection(after.tolist())}))

    def prompt_ids(self, messages: Sequence[Message], *, tools: str = "") -> NDArray[np.int32]:
        """Return the tokens that stand before the next answer, int32 (T,): what a model is given to answer.

        They are the text that the loss sees before an answer, so that a model is asked the way it was trained. This
        is what ``add_generation_prompt`` writes, also for templates that do not know it, and with the empty thinking
        block that some templates put before answers without thoughts. A space before the answer is left to the answer.
        """
        ids = self._ids(self.asked(messages, tools=tools)[1])
        if unknown := self._unknown(ids):
            raise ModelError(f"a prompt {unknown}", hint=RESIZE)
        return np.asarray(ids, dtype=np.int32)

    def asked(
        self, messages: Sequence[Message], *, tools: str = "", called: str = "prompt"
    ) -> tuple[str, str]:
        """Return the text of a conversation with an answer behind it, and what stands before that answer."""
        answered = (*messages, Message(role="assistant", content="answer"))
        example = Example(id=called, messages=answered, source="prompts", tools=tools)
        text, spans, _ = self._located(example, whole=False)
        return text, text[: spans[-1][0]].rstrip(" ")

    @property
    def user_turn(self) -> UserTurn:
        """What stands around what a user says in the first turn.

        A model given the opening writes the question itself (Magpie, arXiv 2406.08464). A template that puts nothing
        before it leaves the token where a text begins; one that puts nothing behind it is refused.
        """
        _, before = self.asked((Message(role="user", content=SENTINEL),), called="user turn")
        start, found, between = before.partition(SENTINEL)
        if not found or not between.strip():
            raise ModelError(
                f"the chat template of {self._name} puts nothing between a question and its answer, so a question "
                "that the model writes has no end",
                hint=f"take a model whose template marks turns, or {template_hint()}",
            )
        # What ends an answer does not end a question: a model would go on with the answer, as part of the question.
        stop_ids = tuple(token for token in self._ids(between) if token in self.end_ids)[:1]
        opening = np.asarray(self._ids(start.rstrip(" ")) or [self.separator], dtype=np.int32)
        return UserTurn(opening, stop_ids, "" if stop_ids else between.strip())

    @property
    def answer_header(self) -> AnswerHeader:
        """Tokens that say that an answer follows, without a question.

        They are what the template adds between a user's turn and the answer, such as ``<|im_start|>assistant`` and a
        line break, with BOS in front where a conversation begins with it. A template that writes no header puts the
        end of the user's turn there (``[/INST]``); one that writes nothing at all leaves ``separator``.
        """
        user = Message(role="user", content=SENTINEL)
        text, before = self.asked((user,), called="header")
        try:
            question = self.text((user,))
        except REFUSALS:  # it takes none without an answer
            question = ""
        header = self._ids(before.removeprefix(question)) if question and before.startswith(question) else []
        if not str(self.tokenizer.decode(header)).strip():
            header = self._ids(before.rpartition(SENTINEL)[2].lstrip())
            if header and header[0] in self.end_ids:  # it ends the turn before
                header = self._ids(str(self.tokenizer.decode(header[1:])).lstrip()) or header
        header = header or [self.separator]
        bos = self.tokenizer.bos_token_id
        opening = [bos] if bos is not None and self._ids(text)[0] == bos != header[0] else []
        return AnswerHeader(opening=np.array(opening, dtype=np.int32), marks=np.array(header, dtype=np.int32))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def render(
        self, examples: Sequence[Example], *, max_length: int, skip_refused: bool = False
    ) -> list[Rendered]:
        """Tokenize conversations and mark the tokens that the loss counts.

        A token counts when it carries a character of an answer, or ends the turn after it. The first token of a
        text never counts: nothing stands before it to predict it from. What exceeds ``max_length`` is cut off at
        the end. Reasoning and calls are part of an answer; results of tools and answers that are context only are not.

        Raises:
            ModelError: If the chat template refuses an example, or the model has no embedding for one of its tokens;
                with ``skip_refused`` such a one gets no tokens and the reason instead.
        """
        rendered: list[Rendered] = []
        for start in range(0, len(examples), TOKENIZE_AT_ONCE):
            part, located = examples[start : start + TOKENIZE_AT_ONCE], list[_Located]()
            for example in part:
                try:
                    located.append(self._located(example))
                except ModelError as error:
                    if not skip_refused:
                        raise
                    located.append(("", [], {"refused": error.message}))
            encoded = self.tokenizer(
                [text for text, _, _ in located],
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            for example, (text, spans, facts), (ids, offsets) in zip(part, located, tokens, strict=True):
                if unknown := self._unknown(ids):
                    unknown = f"example {example.id[:8]} of {example.source} {unknown}"
                    if not skip_refused:
                        raise ModelError(unknown, hint=RESIZE)
                    spans, facts, ids, offsets = [], {"refused": unknown}, [], []
                mask = self._mask(text, spans, np.asarray(ids), np.asarray(offsets).reshape(-1, 2))
                rendered.append(
                    Rendered(
                        id=example.id,
                        ids=np.asarray(ids[:max_length], dtype=np.int32),
                        mask=mask[:max_length],
                        truncated=len(ids) > max_length,
                        **facts,
                    )
                )
        return rendered

    def render_texts(
        self, texts: Sequence[tuple[str, str, int]], *, max_length: int, as_user: bool = False
    ) -> list[Rendered]:
        """Tokenize texts that are no conversations; each is its id, the text, and the character from which on it counts.

        A token counts that carries a character from there on. BOS stands in front where the tokenizer adds one; the first
        token of all never counts. With ``as_user`` a text is what a user says, in the model's chat template.
        """
        bos = [int(self.tokenizer.bos_token_id)] if self._adds_bos and not as_user else []
        rendered: list[Rendered] = []
        for first in range(0, len(texts), TOKENIZE_AT_ONCE):
            part = texts[first : first + TOKENIZE_AT_ONCE]
            wholes = [self._said(text) if as_user else text for _, text, _ in part]
            encoded = self.tokenizer(
                wholes, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            for (identity, text, start), whole, (ids, offsets) in zip(part, wholes, tokens, strict=True):
                at = whole.find(text)
                refused = "the chat template changes the text" if at < 0 else self._unknown(ids) or None
                ids = [*bos, *ids] if refused is None else []
                mask = np.zeros(len(ids), dtype=np.bool_)
                if refused is None:
                    borders = np.asarray(offsets).reshape(-1, 2)
                    mask[len(bos) :] = (borders[:, 1] > at + start) & (borders[:, 0] < at + len(text))
                    mask[:1] = False
                kept = np.asarray(ids[:max_length], dtype=np.int32)
                long = len(ids) > max_length
                rendered.append(
                    Rendered(id=identity, ids=kept, mask=mask[:max_length], truncated=long, refused=refused)
                )
        return rendered

    def _said(self, text: str) -> str:
        return self.text((Message(role="user", content=text),))

    def text_ids(self, text: str) -> NDArray[np.int32]:
        """Return the tokens of a text that is no conversation, int32 (T,), behind BOS where the tokenizer adds one."""
        bos = [int(self.tokenizer.bos_token_id)] if self._adds_bos else []
        return np.asarray([*bos, *self._ids(text)], dtype=np.int32)

    def _unknown(self, ids: Sequence[int]) -> str:
        """Return what is wrong with tokens that the model has no embedding for; empty where it has all."""
        if self._rows is None or max(ids, default=0) < self._rows:
            return ""
        token = max(ids)
        text = self.tokenizer.convert_ids_to_tokens(token)
        return f"has the token {text!r} (number {token:,}), and {self._name} has embeddings for {self._rows:,} tokens"

    def _located(self, example: Example, *, whole: bool = True) -> "_Located":
        """Return the text of an example, the spans of its answers, and if it is whole, what is left out."""
        facts: dict[str, Any] = {}
        try:
            answers = self.chat.answers(example.messages, example.tools)
            spans = [answers.spans(place) for place in answers.to_learn]
            if whole:
                hides = answers.hides_context() or bool(example.tools and not self.chat.knows_tools)
                said, left_out = answers.left_out(spans)
                facts = {"said": said, "left_out": left_out, "hides_context": hides}
            text = answers.text + self.chat.closing(example.messages)
        except REFUSALS as error:
            roles = ", ".join(message.role for message in example.messages)
            raise ModelError(
                f"the chat template of {self._name} fails on example {example.id[:8]} of {example.source} "
                f"(turns: {roles}): {error}",
                hint=f"drop or merge turns that this template does not know, or {template_hint()}",
            ) from error
        return text, [span for parts in spans for span in parts], facts

    def _mask(
        self, text: str, spans: Sequence[Span], ids: NDArray[Any], offsets: NDArray[Any]
    ) -> NDArray[np.bool_]:
        mask = np.zeros(len(ids), dtype=np.bool_)
        for start, end in spans:
            mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
            position = int(np.searchsorted(offsets[:, 0], end))
            for after in range(position, len(ids)):
                if ids[after] in self.end_ids:
                    mask[position : after + 1] = True
                    break
                if text[offsets[after, 0] : offsets[after, 1]].strip():
                    break
        mask[:1] = False
        return mask


_Located = tuple[str, list[Span], dict[str, Any]]
"""A conversation as the template writes it, the characters of each answer to learn, and fields of ``Rendered``."""
