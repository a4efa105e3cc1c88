"""How rows are read, models loaded, trained and asked: what the words of a command set, with what they take when not given."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from learnable.errors import UsageError

WARMUP_STEPS = 8
"""Fewest steps of an epoch that is kept: what Adam remembers of fewer is noise."""

ROWS = ("all", "trimmed", "trusted")
"""Which rows a reference is trained on; any other word is a file of trusted rows."""

LATER: Mapping[str, bool] = {"later": True}
"""Marks a field that came after results were kept: where it has its default, no identity knows of it."""


def told(settings: Any) -> dict[str, Any]:
    """Return the fields of settings, without those that came later and have their default."""
    values = {each: getattr(settings, each.name) for each in fields(settings)}
    return {
        each.name: value
        for each, value in values.items()
        if not (each.metadata.get("later") and value == each.default)
    }


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How to load a model.

    Args:
        revision: Commit or branch of a hub id.
        dtype: ``auto`` is bfloat16 where the device computes in it, else float32.
        device: ``auto`` is CUDA, else MPS, else the CPU; never part of an identity.
        trust_remote_code: Run code that comes with the model.
        batch_tokens: Most tokens of a batch, padding included, when losses are measured; by the kind of device when not
            given (see `learnable doctor`); never part of an identity.
        chat_template: Name of one of the model's chat templates, or a file with another; the model's default one when
            not given.
    """

    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    batch_tokens: int | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise UsageError(f"batch_tokens must be at least 1, got {self.batch_tokens}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read rows.

    Args:
        format: ``alpaca``, ``sharegpt``, ``messages`` or ``prompt_completion``; detected row by row when not given.
        on_error: What to do about bad rows. A share such as ``1%`` leaves them out, counted and listed with their
            reasons, and stops where there are more in an input; ``raise`` stops at the first one; ``skip`` never stops.
        source_column: Column that names the source of a row; the name of the file when not given.
        columns: Which column is which part of a conversation: ``prompt=query_nl,response=shell_command``. Parts are
            prompt, response, messages, system, context, history, reasoning, tools, label, and ignore for a column that is
            none; columns with usual names need no naming. Of several files, one without them is read by the usual names.
        max_row_mb: Largest row in megabytes of text; a larger one is a bad row.
        avoid: Evaluation files. A row that stands in one, in full or in part, is left out: the same prompt, 13 words in a
            row, or nearly the same prompt.
    """

    format: str | None = None
    on_error: str = "1%"
    source_column: str | None = None
    columns: str | Mapping[str, Any] | None = None
    max_row_mb: float = 8.0
    avoid: tuple[str, ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.avoid is not None:
            given = (self.avoid,) if isinstance(self.avoid, str) else tuple(self.avoid)
            object.__setattr__(self, "avoid", given or None)
        if isinstance(self.columns, Mapping):
            object.__setattr__(self, "columns", _as_text(self.columns))
        _ = self.most_bad
        if self.max_row_mb <= 0:
            raise UsageError(f"max_row_mb must be above 0, got {self.max_row_mb}")

    @property
    def most_bad(self) -> float:
        """The share of the rows of an input that may be bad, from 0 to 1."""
        if self.on_error in ("raise", "skip"):
            return float(self.on_error == "skip")
        percent = re.fullmatch(r"(\d+|\d*\.\d+)%", self.on_error)
        if percent is None or float(percent[1]) > 100:
            raise UsageError(
                f"on_error is raise, skip or a share, got {self.on_error!r}",
                hint="1% is one row of a hundred",
            )
        return float(percent[1]) / 100


def _as_text(columns: Mapping[str, Any]) -> str:
    """Return named columns as they are written on the command line: one form, however they were given."""
    listed = {part: names if isinstance(names, list | tuple) else [names] for part, names in columns.items()}
    pairs = [(part, name) for part, names in listed.items() for name in names]
    if any(not isinstance(name, str) or "," in name or name != name.strip() for _, name in pairs):
        return json.dumps(dict(columns), ensure_ascii=False)
    return ",".join(f"{part}={name}" for part, name in pairs)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model's answers are drawn; the defaults are those of DELIA's authors (arXiv 2408.10841, their code).

    Args:
        temperature: 0 is greedy; else logits are divided by it and a token is drawn.
        top_p: Draw from the likeliest tokens that together have this probability.
        max_new_tokens: Most tokens of an answer.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature must be at least 0 and top_p in (0, 1], got {self.temperature} and {self.top_p}"
            )
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """A token that a model does not know yet: its ``text``, and its ``meaning`` in words that the model knows."""

    text: str
    meaning: str = ""

    def __post_init__(self) -> None:
        if not self.text or self.text != self.text.strip():
            raise UsageError(
                f"{self.text!r} cannot be a token: it is empty, or begins or ends with a space",
                hint='write --tokens "<sep>=answer in JSON"',
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<sep>=what it means``, or ``<sep>`` alone."""
        token, _, meaning = text.partition("=")
        return cls(text=token.strip(), meaning=meaning.strip())


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Tokens that a model gets, and how their rows of the embedding begin.

    Args:
        added: The tokens.
        init: ``random``, ``mean`` (of all rows) or ``description`` (mean of the rows of the meaning's tokens).
        init_seed: Seeds ``random``.
    """

    added: tuple[NewToken, ...]
    init: Literal["random", "mean", "description"] = "description"
    init_seed: int = 0

    def __post_init__(self) -> None:
        texts = [token.text for token in self.added]
        if len(set(texts)) != len(texts):
            raise UsageError(f"a token is given twice: {', '.join(texts)}")

    def __str__(self) -> str:
        return ", ".join(token.text for token in self.added)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to fine-tune; the defaults are those of common LoRA tuning, not of any paper (none states its own).

    Args:
        method: ``lora`` (adapters on the linear layers) or ``full``.
        epochs: Passes over the data.
        learning_rate: Highest learning rate; by default 2e-4 for LoRA and 2e-5 for full fine-tuning.
        batch_size: Examples per optimizer step.
        rank: LoRA rank; its alpha is twice the rank.
        warmup: Share of the steps in which the learning rate rises; what follows is the ``schedule``.
        seed: Seeds the adapters and the order of the data.
        steps: Optimizer steps per epoch, with batches as even as can be instead of ``batch_size``: selections of
            differing numbers of examples then train for equally many steps.
        order_seed: Seeds the order of the data in place of ``seed``: adapters then begin alike in another order.
        schedule: How the learning rate goes on after it rose: it falls by a ``cosine``, or stays (``constant``).
    """

    method: Literal["lora", "full"] = "lora"
    epochs: float = 1.0
    learning_rate: float | None = None
    batch_size: int = 8
    rank: int = 16
    warmup: float = 0.03
    seed: int = 0
    steps: int | None = None
    order_seed: int | None = field(default=None, metadata=LATER)
    schedule: Literal["cosine", "constant"] = field(default="cosine", metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "rank", "steps"):
            if (count := getattr(self, name)) is not None and count <= 0:
                raise UsageError(f"{name} must be above 0, got {count}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup must be at least 0 and below 1, got {self.warmup}", hint="0.03 is 3%")

    @property
    def seed_of_order(self) -> int:
        """What seeds the order of the data."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate that is used."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-4 if self.method == "lora" else 2e-5


@dataclass(frozen=True, kw_only=True)
class Reference(Tuning):
    """How to get a reference model; see ``Tuning`` for the other fields.

    Args:
        folds: 0: one model trained on all examples, which then scores the very examples it has trained on (the
            paper); K >= 2: K models, each trained on the examples outside one fold and scoring that fold, so that no
            example is scored by a model that has seen it, or another answer to its prompt. Two folds cost what one
            in-sample epoch costs.
        fraction: Train on this share of the examples only, drawn at random.
        model: A model or LoRA adapter that is trained already (folder or hub id); nothing is trained then.
        last_epoch_loss: Keep the loss of each example as the last epoch met it, which `score` then takes for the loss
            after, instead of a pass. In-sample only, and not the paper's score: the weights move while it is measured.
        prompt: ``none`` trains on the answers alone, behind the header of an answer: the null reference of
            V-information (`pvi`).
        rows: Rows that are trained on: ``all`` (the paper), ``trimmed`` (a share of them, those with the lowest base
            loss), or a file of rows that you trust, in place of the pool. All rows of the pool are scored.
        share: Share of the examples that a trimmed reference trains on.
        rounds: Trainings of a trimmed reference. Each after the first takes the share with the highest learnability
            under the one before.
    """

    folds: int = 0
    fraction: float = 1.0
    model: str | None = None
    last_epoch_loss: bool = False
    prompt: Literal["given", "none"] = "given"
    rows: str = field(default="all", metadata=LATER)
    share: float = field(default=0.5, metadata=LATER)
    rounds: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rows()
        if self.folds < 0 or self.folds == 1:
            raise UsageError(
                f"reference.folds must be 0 or at least 2, got {self.folds}",
                hint="0 is in-sample, 2 is cross-fitted",
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(f"reference.fraction must be above 0 and at most 1, got {self.fraction}")
        is_one = (self.folds, self.fraction, self.model, self.rows) == (0, 1.0, None, "all")
        if self.last_epoch_loss and not (is_one and self.epochs == int(self.epochs)):
            raise UsageError(
                "the losses of the last epoch are those of one model that met every example: "
                f"folds is {self.folds}, fraction {self.fraction}, epochs {self.epochs}, model {self.model}, rows {self.rows}",
                hint="with reference.last_epoch_loss take folds 0, fraction 1, whole epochs, all rows, and no model of your own",
            )

    def _check_rows(self) -> None:
        if not 0 < self.share <= 1 or self.rounds < 1:
            raise UsageError(
                f"reference.share is above 0 and at most 1, rounds at least 1, got {self.share} and {self.rounds}"
            )
        if self.rows != "trimmed" and (self.share, self.rounds) != (0.5, 1):
            raise UsageError(
                f"reference.share and reference.rounds are of trimmed rows, and the rows are {self.rows}",
                hint="give --reference.rows trimmed, or leave them out",
            )
        if self.rows != "all" and (self.fraction != 1 or self.model is not None):
            raise UsageError(
                f"a reference of {self.rows} rows takes no share drawn at random and is no model of your own",
                hint="leave --reference.fraction and --reference.model out, or --reference.rows",
            )

    @property
    def trusted(self) -> str | None:
        """The file of trusted rows, None where there is none."""
        return None if self.rows in ROWS else self.rows

    @property
    def passes(self) -> float:
        """Training cost in passes over the whole pool, or over the trusted rows where they are trained on."""
        if self.model is not None:
            return 0.0
        share = self.share if self.rows == "trimmed" else self.fraction
        return self.epochs * share * max(self.folds - 1, 1) * self.rounds

    @property
    def choosing_passes(self) -> tuple[int, int]:
        """Passes over the pool of the base and of references that choose the rows of a trimmed one."""
        return (1, self.rounds - 1) if self.rows == "trimmed" else (0, 0)

    def drawn(self, rows: int) -> int:
        """Return how many of so many rows are drawn for a warm-up, whose epochs have at least ``WARMUP_STEPS`` steps."""
        return max(1, round(self.fraction * rows), min(rows, WARMUP_STEPS * self.batch_size))

    def passes_over(self, rows: int, *, keep_epochs: bool) -> float:
        """Return the training cost in passes over so many rows; that of a warm-up where its epochs are kept."""
        return self.epochs * self.drawn(rows) / rows if keep_epochs and rows else self.passes


@dataclass(frozen=True, kw_only=True)
class WarmUp(Reference):
    """How to train on a part of a pool, at whose epochs LESS takes gradients; see ``Reference`` for the fields."""

    epochs: float = 4.0
    fraction: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Aim:
    """How a pool is measured against a target.

    Args:
        epochs: Passes over the target's rows of the model that `target_learnability` compares with the base.
        learning_rate: Of that training; 2e-4 when not given.
        rank: LoRA rank of all trainings here.
        seed: Seeds them.
        check: Train on either half of the target too, and say the loss of the other: whether its rows teach each other.
        steps: Of the short training that `pds` runs backwards.
        rate: Learning rate of that training, which is plain gradient descent; by ``space`` when not given.
        batch: Rows of one of its steps.
        visit: Every so many of its steps the pool is valued.
        proxy: Rows of the pool, drawn at random, that are valued so; those of the others are told by the model's vectors
            (`embedding`). All are valued when not given.
        curvature: Whether steps bend what is carried back; without, `pds` sums the target's gradients.
        space: What that training moves: LoRA adapters, or all weights (full), as in the paper.
    """

    epochs: float = 4.0
    learning_rate: float | None = None
    rank: int = 16
    seed: int = 0
    check: bool = True
    steps: int = 25
    rate: float | None = None
    batch: int = 16
    visit: int = 5
    proxy: int | None = field(default=None, metadata=LATER)
    curvature: bool = True
    space: Literal["lora", "full"] = "lora"

    def __post_init__(self) -> None:
        for name in ("epochs", "rank", "steps", "batch", "visit", "proxy"):
            if (count := getattr(self, name)) is not None and count <= 0:
                raise UsageError(f"aim.{name} must be above 0, got {count}")

    @property
    def visits(self) -> int:
        """How often the pool is valued on the way back through the short training."""
        return -(-self.steps // self.visit)

    @property
    def steps_back(self) -> int:
        """Steps that are gone back through: none before the first at which the pool is valued."""
        return self.steps - (self.steps - 1) % self.visit

    @property
    def descent_rate(self) -> float:
        """The learning rate of the short training."""
        if self.rate is not None:
            return self.rate
        return 0.05 * self.rank**0.5 if self.space == "lora" else 0.008
