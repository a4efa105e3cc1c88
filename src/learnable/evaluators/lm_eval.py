"""Any task of lm-eval, on the model as it is loaded."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from learnable.errors import DataError, UsageError, did_you_mean
from learnable.evaluators.kinds import GRADES, Kind
from learnable.evaluators.reading import ItemSettings, distinct, drawn
from learnable.packages import needed
from learnable.runs.identity import fingerprint
from learnable.runs.progress import bar
from learnable.types import Example, Message

TOKENS_PER_REQUEST = 256

_needed = partial(needed, by="lm_eval", extra="evaluate")


@dataclass(frozen=True, kw_only=True)
class LMEval(ItemSettings):
    """The items of a task of lm-eval: ``lm_eval:path/to/task.yaml``, or the name of a task or group that it knows.

    A task file can name its data by ``dataset_path: json`` (or ``parquet``, ``csv``) and
    ``dataset_kwargs: {data_files: ...}``; nothing else is needed to run without network.

    Args:
        metric: Metric to take the value of; the first of the task when not given. It must be one where more is
            better and that has a value for each item.
        fewshot: Number of solved items before each; the task's own when not given.
        chat: Put the prompts into the model's chat template.
        n: How many items of each task to draw; all when not given.

    Source: EleutherAI lm-evaluation-harness 0.4.13.
    """

    kind: ClassVar[Kind] = "harness"
    unit: ClassVar[str] = "the task's metric"
    packages: ClassVar[tuple[str, ...]] = ("lm-eval",)
    metric: str | None = None
    fewshot: int | None = None
    chat: bool = False

    def read(self, path: str | None) -> list[Example]:
        """Return the items as questions; the path is a task file or name."""
        if path is None:
            raise UsageError("lm_eval needs a task", hint="write lm_eval:path/to/task.yaml or lm_eval:NAME")
        examples = []
        for name, task in _loaded(path)[1].items():
            items = [_item(path, name, task, number, doc) for number, doc in enumerate(task.eval_docs)]
            examples += drawn(distinct(items, name), n=self.n, seed=self.seed)
        return examples

    def documents(self, path: str | None) -> list[tuple[Example, Mapping[str, Any], list[str]]]:
        """Return the items with what each is made of, and the choices that the task offers; none where it offers none."""
        examples, tasks = self.read(path), _loaded(str(path))[1]
        kept = {name: list(task.eval_docs) for name, task in tasks.items()}
        found = []
        for example in examples:
            task, document = tasks[example.source], kept[example.source][example.meta["number"]]
            offers = task.config.doc_to_choice is not None
            choices = [str(choice) for choice in task.doc_to_choice(document)] if offers else []
            found.append((example, document, choices))
        return found

    def run(
        self, network: Any, tokenizer: Any, examples: Sequence[Example], *, batch_tokens: int
    ) -> pl.DataFrame:
        """Return the value of each item by the task's metric, with its answer.

        Args:
            network: A causal language model of transformers, with or without adapters.
            tokenizer: Its tokenizer.
            examples: Items that ``read`` gave, at least one.
            batch_tokens: Most tokens of a batch, roughly: lm-eval counts requests.

        Raises:
            DataError: If lm-eval cannot run the task, for whatever reason it gives.
            UsageError: If the metric has no value for each item, or lower is better.
        """
        path = examples[0].meta["task"]
        manager, tasks = _loaded(path)
        wanted: dict[str, dict[int, Example]] = {}
        for example in examples:
            wanted.setdefault(example.source, {})[example.meta["number"]] = example
        models, evaluator = _needed("lm_eval.models.huggingface"), _needed("lm_eval.evaluator")
        size = max(1, batch_tokens // TOKENS_PER_REQUEST)
        try:
            with _quiet(), _our_bars(f"lm_eval:{path}"):
                results = evaluator.simple_evaluate(
                    model=models.HFLM(pretrained=network, tokenizer=tokenizer, batch_size=size),
                    tasks=[tasks[name] for name in wanted],
                    task_manager=manager,
                    num_fewshot=self.fewshot,
                    samples={name: sorted(items) for name, items in wanted.items()},
                    apply_chat_template=self.chat,
                    log_samples=True,
                    bootstrap_iters=0,
                )
        except Exception as error:  # tasks are outside code
            raise DataError(f"lm-eval cannot run {path}: {error}") from error
        rows = []
        for name, items in wanted.items():
            samples, better = results["samples"][name], results["higher_is_better"][name]
            metric = self.metric or next(iter(tasks[name].aggregation()))
            for sample in samples:
                if sample["filter"] == samples[0]["filter"]:
                    value = _value(name, metric, sample, more_is_better=better.get(metric, True))
                    why = "" if value >= 1 else f"expected {str(sample['target'])[:80]}"
                    example = items[sample["doc_id"]]
                    rows.append((example.id, example.source, value, _answer(sample), why))
        return pl.DataFrame(rows, schema=GRADES, orient="row")


def _item(path: str, name: str, task: Any, number: int, doc: Any) -> Example:
    turns = (Message(role="user", content=str(task.doc_to_text(doc))),)
    content = json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)
    identity = fingerprint([name, turns[0].content, content])
    return Example(id=identity, messages=turns, source=name, meta={"task": path, "number": number})


def _loaded(path: str) -> tuple[Any, dict[str, Any]]:
    """Return lm-eval's manager of tasks, and the named tasks; an error if there is none, or it cannot be loaded."""
    manager_of = _needed("lm_eval.tasks").TaskManager
    file = Path(path)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise DataError(f"there is no file {path}")
        manager = manager_of(include_path=str(file.parent), include_defaults=False)
    else:
        manager = manager_of()
        if path not in manager.all_tasks:
            close = did_you_mean(path, map(str, manager.all_tasks))
            raise UsageError(f"lm-eval knows no task {path!r}", hint=close)
    try:
        with _quiet():
            return manager, manager.load([path])["tasks"]
    except Exception as error:  # tasks are outside code, and most load data from the hub
        raise DataError(
            f"lm-eval cannot load {path}: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="a task over local files has dataset_path: json and dataset_kwargs: {data_files: ...}",
        ) from error


def _value(task: str, metric: str, sample: Mapping[str, Any], *, more_is_better: bool) -> float:
    """Return the value of an item; ``UsageError`` if there is none, or lower is better."""
    if metric not in sample:
        raise UsageError(f"{task} has no metric {metric!r}", hint=did_you_mean(metric, sample["metrics"]))
    if not more_is_better or not isinstance(sample[metric], int | float):
        raise UsageError(
            f"the metric {metric!r} of {task} is not one value per item of which more is better",
            hint=f"choose another: @metric=..., of {', '.join(sample['metrics'])}",
        )
    return float(sample[metric])


def _answer(sample: Mapping[str, Any]) -> str:
    """Return what the model answered: its text, or the number of the likeliest choice."""
    answers = sample["filtered_resps"]
    if answers and isinstance(answers[0], str):
        return str(answers[0])
    likelihoods = [answer[0] for answer in answers if isinstance(answer, list | tuple)]
    if len(likelihoods) > 1 and all(isinstance(likelihood, int | float) for likelihood in likelihoods):
        return str(max(range(len(likelihoods)), key=likelihoods.__getitem__))
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out lm-eval's warnings about defaults of a task, and about a model that is loaded already."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Requests:
    """Stands in for lm-eval's bars: shows its requests to the model in a bar of ours, and what is quick in none."""

    def __init__(self, items: Iterable[Any] | None = None, *, label: str, total: int = 0, **_: Any) -> None:
        self._items, self._open = items or (), ExitStack()
        counted = items is None and total
        self._bar = self._open.enter_context(bar(label, total, unit="requests")) if counted else None
        self.close = self._open.close

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def update(self, requests: int = 1) -> None:
        if self._bar is not None:
            self._bar.advance(requests)


@contextmanager
def _our_bars(label: str) -> Iterator[None]:
    """Show our bars instead of lm-eval's, and keep it from asking git about the working folder."""
    with ExitStack() as patched:

        def put(module: Any, name: str, ours: Any) -> None:
            patched.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, ours)

        def requests(*items: Any, **settings: Any) -> _Requests:
            opened = _Requests(*items, label=label, **settings)
            patched.callback(opened.close)
            return opened

        for name in ("models.huggingface", "api.model", "api.task"):
            put(_needed(f"lm_eval.{name}"), "tqdm", requests)
        put(_needed("lm_eval.evaluator"), "get_git_commit_hash", lambda: None)
        yield
