"""The rounds of a federation on Flower: what a client answers, how a server averages, and both in one process.

Imports Flower at once: import this where it is known to be there (``check_flower``). Its telemetry is off.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from learnable.errors import TrainError, first_line
from learnable.federation import Arrays, Floats, Mean, StageKind, Task, Update, check_flower, check_update

check_flower(by="a federation")

from flwr.app import (  # noqa: E402
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

Train = Callable[[Task, int], Update]
After = Callable[[int, Arrays, Sequence[Mapping[str, Any]]], None]

ARRAYS, CONFIG, METRICS, START = "arrays", "config", "metrics", "start"
ROWS = "num-examples"
CLIENT = "partition-id"
"""The setting of a node that says which client it is."""
CLIENT_RAISED = 2
"""Flower's number of errors that a client's code raised."""


def client_app(train: Train) -> ClientApp:
    """Return what runs at a client: a task in, an update out. Rows stay where ``train`` has them.

    What is sent back is the values that moved, and four numbers: rows, tokens, steps and the mean training loss.
    """
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        content = message.content
        if START in content.array_records:
            context.state[START] = content.array_records[START]
        known = context.state.array_records.get(START)
        config = content.config_records[CONFIG]
        task = Task(
            stage=config["stage"],
            round=int(config["first-round"]) + int(config["server-round"]) - 1,
            arrays=_values(content.array_records[ARRAYS]),
            start=None if known is None else _values(known),
        )
        done = train(task, int(context.node_config[CLIENT]))
        metrics = {ROWS: done.rows, "tokens": done.tokens, "steps": done.steps, "loss": done.loss}
        reply = RecordDict({ARRAYS: _record(done.arrays), METRICS: MetricRecord(metrics)})
        return Message(reply, reply_to=message)

    app.train()(answer)
    return app


class WeightedRounds(FedAvg):
    """FedAvg that leaves out clients that fail, and says what was sent.

    Args:
        clients: Fewest that a round waits for.
        product: Whether values are factors whose products are averaged.
        start: Where stage 1 ended, sent with the first round; None where clients need not know.

    What differs from Flower's: a reply with an error, values that are not finite, or of other shapes takes no part in
    the mean; sums are float64; ``lines`` has what became of each client of the round.
    """

    def __init__(self, *, clients: int, product: bool = False, start: Arrays | None = None) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        self.lines = list[dict[str, Any]]()
        self._product, self._start = product, None if start is None else _record(start)
        self._sent: dict[int, int] = {}
        self._number = 0
        self._like: Arrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the task of each client, in the order of their numbers."""
        messages = sorted(
            super().configure_train(server_round, arrays, config, grid),
            key=lambda message: message.metadata.dst_node_id,
        )
        if self._start is not None and server_round == 1:
            for message in messages:
                message.content = RecordDict({**message.content, START: self._start})
        self._like, self._number = _values(arrays), int(config["first-round"]) + server_round - 1
        self._sent = {each.metadata.dst_node_id: _bytes(each.content) for each in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of what can be averaged.

        Raises:
            TrainError: If that is nothing.
        """
        mean, self.lines = Mean(product=self._product), []
        silent = dict(self._sent)
        for reply in replies:
            node = reply.metadata.src_node_id
            line = _line(node, received_bytes=silent.pop(node, 0), why=None)
            self.lines.append(line)
            if reply.has_error():
                line["why"] = first_line(RuntimeError(reply.error.reason or "it failed"))
                continue
            metrics = reply.content.metric_records[METRICS]
            update = Update(arrays=_values(reply.content.array_records[ARRAYS]), rows=int(metrics[ROWS]))
            line |= {"rows": update.rows, "loss": float(metrics["loss"]), "sent_bytes": _bytes(reply.content)}
            line |= {name: int(metrics[name]) for name in ("tokens", "steps")}
            line["why"] = check_update(update, self._like)
            if line["why"] is None:
                mean.add(update)
        self.lines += [_line(*unheard, why="it did not answer") for unheard in silent.items()]
        if not mean.rows:
            reasons = "; ".join(f"client {line['client']}: {line['why']}" for line in self.lines)
            raise TrainError(
                f"no client of round {self._number} sent what can be averaged: {reasons}",
                hint="where losses are not finite, lower the learning rate",
            )
        return _record(mean.result()), MetricRecord({ROWS: mean.rows})


def run_rounds(train: Train, stage: StageKind, *, clients: int, **how: Any) -> None:
    """Do the rounds of a stage in this process, all clients one after the other; the rest is as of ``rounds_on``.

    ``train`` is what a client does with a task, and is called with its number.
    """
    with _identity():
        rounds_on(_InProcess(client_app(train), clients), stage, clients=clients, **how)


def rounds_on(
    grid: Grid,
    stage: StageKind,
    *,
    clients: int,
    values: Arrays,
    rounds: range,
    after: After,
    start: Arrays | None = None,
    product: bool = False,
) -> None:
    """Do the rounds of a stage with the clients of a grid: what the server of a federation does.

    Args:
        grid: Of this process, or the one that Flower gives a ServerApp.
        stage: What moves.
        clients: Fewest that a round waits for.
        values: To begin with.
        rounds: Their numbers, counted from 1 over all stages.
        after: Told after each round its number, the new values, and what became of each client.
        start: Where stage 1 ended.
        product: See ``WeightedRounds``.

    Raises:
        TrainError: If no client of a round sent what can be averaged.
    """

    def told(number: int, arrays: ArrayRecord) -> None:
        if number:
            after(rounds[number - 1], _values(arrays), strategy.lines)

    with _quiet():
        strategy = WeightedRounds(clients=clients, product=product, start=start)
        strategy.start(
            grid=grid,
            initial_arrays=_record(values),
            num_rounds=len(rounds),
            train_config=ConfigRecord({"stage": stage, "first-round": rounds[0]}),
            evaluate_fn=told,
        )


class _InProcess(Grid):
    """Calls the app of each client in turn, where a real grid would send messages."""

    def __init__(self, app: ClientApp, clients: int) -> None:
        self._app = app
        self._contexts = {
            client: Context(
                run_id=1, node_id=client, node_config={CLIENT: client}, state=RecordDict(), run_config={}
            )
            for client in range(clients)
        }

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the answer of one client after the other; what it raises is its answer."""
        for message in messages:
            node = message.metadata.dst_node_id
            try:
                reply = self._app(message, self._contexts[node])
            except Exception as error:  # as a client of its own process would die, and the round goes on
                reason = f"{type(error).__name__}: {first_line(error)}"
                reply = Message(Error(code=CLIENT_RAISED, reason=reason), reply_to=message)
            yield reply

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the clients."""
        return list(self._contexts)

    def _not_asked(self, *_: Any, **__: Any) -> Any:
        """In one process messages make themselves, and answers come at once."""
        raise NotImplementedError

    set_run = create_message = push_messages = pull_messages = _not_asked
    run = property(_not_asked)


@contextmanager
def _identity() -> Iterator[None]:
    """Say who sends within the block, which a message asks for; Flower's own processes say it at their start."""
    kept = {name: getattr(TaskIdentity, f"_{name}") for name in ("task_id", "run_id", "node_id")}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(TaskIdentity, f"_{name}", value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Flower tell errors only within the block: its log is a page for each round."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _line(client: int, received_bytes: int, *, why: str | None) -> dict[str, Any]:
    """Return what became of a client that sent nothing yet."""
    line = {"client": client, "rows": 0, "tokens": 0, "steps": 0, "loss": float("nan")}
    return line | {"received_bytes": received_bytes, "sent_bytes": 0, "why": why}


def _record(values: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(each)) for name, each in values.items()})


def _values(record: ArrayRecord) -> dict[str, Floats]:
    return {name: np.asarray(each.numpy(), dtype=np.float32) for name, each in record.items()}


def _bytes(content: RecordDict) -> int:
    """Return how many bytes a message carries: its arrays as they are written, its settings and its numbers."""
    return sum(each.count_bytes() for each in content.values())
