"""Servers with OpenAI's interface: conversations in, answers out, several at a time."""

import asyncio
import math
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from learnable.errors import ModelError, UsageError
from learnable.packages import needed
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say, say_once
from learnable.settings import Sampling
from learnable.types import Answer, Message
from learnable.urls import HIDDEN, is_this_machine, without_secrets

if TYPE_CHECKING:
    import httpx

GIVE_UP = 8
"""Failures in a row after which a server is given up."""
SEEDS = 2**31
"""Seeds are sent modulo this: some servers take no more than 31 bits."""

ALIKE = 4
"""Answers to questions asked more than once that must agree for a server to be taken to ignore the seed."""
EXCERPT = 200
"""Characters of what a server said that are shown in a message."""

MOST_BYTES = 16 << 20
"""Longest answer of a server that is read."""
KEY_CHARACTERS = 8
"""A key of fewer is a word such as ``none``, which is left in what a server says."""

_OF_TRANSPORT = ("content-length", "transfer-encoding")
_BUSY = (408, 409, 429)
_CUT_OFF = ("length", "content_filter", "abort")
_WRITTEN = re.compile(r"openai:(https?://[^\s#]+)#(\S(?:.*\S)?)")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server said to a request; ``text`` is None where that is no answer, and ``why`` says why.

    ``nll`` in nats is that of the characters of a given text that count, which lie in so many ``tokens``. ``trouble``: it is the server that failed, too slow, too busy or broken, and not this request that it did not like.
    """

    text: str | None = None
    finished: bool = False
    why: str = ""
    trouble: bool = False
    nll: float | None = None
    tokens: int = 0


Requested = Callable[[Any, int], Awaitable[Any]]
"""Sends a request: takes a client and the position of what is asked."""


@dataclass(frozen=True, kw_only=True)
class ServerGenerator:
    """A model on any server with OpenAI's interface; implements ``types.Generator``.

    The server's key, if it wants one, is read from the environment variable ``OPENAI_API_KEY``; it stands in nothing
    that is shown or written, also where the server repeats it. Each request carries its seed; whether the same seed
    gives the same answer is up to the server. Rows go to this server alone: redirects are not followed.

    Args:
        url: Base URL, such as ``http://127.0.0.1:8000/v1``; without user, password and query, as it is written down.
        name: Name of the model on that server.
        timeout_s: Seconds to wait for an answer, up to its last byte.
        retries: How often to ask again after a time-out, a full queue or an error of the server; longer and longer
            waits lie between.
        concurrency: Requests at the same time.
    """

    url: str
    name: str
    timeout_s: float = 120.0
    retries: int = 4
    concurrency: int = 8

    def __post_init__(self) -> None:
        if not re.match("https?://", self.url):
            raise UsageError(
                f"the URL of a server begins with http:// or https://, got {without_secrets(self.url)!r}",
                hint="for example http://127.0.0.1:8000/v1",
            )
        if without_secrets(self.url) != self.url:
            raise UsageError(
                f"the URL of a server is written into results, so it holds no user, password or query: {without_secrets(self.url)}",
                hint="leave them out; a key goes into the environment variable OPENAI_API_KEY",
            )
        if self.concurrency < 1 or self.retries < 0 or self.timeout_s <= 0:
            raise UsageError(
                "concurrency must be at least 1, retries at least 0 and timeout_s above 0, "
                f"got {self.concurrency}, {self.retries} and {self.timeout_s:g}"
            )

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read ``openai:URL#NAME``; something else is a ``UsageError``."""
        match = _WRITTEN.fullmatch(written.strip())
        if match is None:
            raise UsageError(
                f"cannot read the generator {without_secrets(written)!r}",
                hint="write openai:URL#NAME, for example openai:http://127.0.0.1:8000/v1#Qwen/Qwen3-0.6B, or vllm:MODEL",
            )
        return cls(url=match.group(1), name=match.group(2))

    @property
    def key(self) -> str:
        """Identity of name and URL: what stands behind them, only the server knows."""
        return fingerprint(["server", self.url.rstrip("/"), self.name])

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None = None,
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Yield positions and answers as they come.

        A request that fails after all retries is left out; how many there were, and why, is said on standard error.

        Raises:
            ModelError: If the server cannot be reached, refuses the key or the model, answers none of the first
                requests, or fails ``GIVE_UP`` times in a row.
        """
        whole = only is None or len(only) == len(conversations)
        why, failed, drawn = Counter[str](), 0, dict[int, str]()
        for batch in self.replies(conversations, sampling=sampling, seeds=seeds, only=only):
            good = [(place, Answer(r.text, r.finished)) for place, r in batch if r.text is not None]
            bad = [reply for _, reply in batch if reply.text is None]
            why.update(reply.why for reply in bad)
            drawn |= {place: answer.text for place, answer in good}
            failed = 0 if good else failed + len(bad)
            # When others were answered before, a few that this server will never take must not stop a run for good.
            none = whole and not drawn and failed >= min(GIVE_UP, len(conversations))
            if none or (failed >= GIVE_UP and any(reply.trouble for reply in bad)):
                raise ModelError(
                    f"the server {self.url} left {failed} requests in a row without an answer: {bad[-1].why}",
                    hint="what it answered before is kept; when the server is well again, run the same command again",
                )
            if good:
                yield [place for place, _ in good], [answer for _, answer in good]
        if why:
            reasons = "; ".join(f"{count:,} x {reason}" for reason, count in why.most_common())
            say(f"{self.name} at {self.url} did not answer {why.total():,} requests: {reasons}")
        if sampling.temperature and _alike(conversations, drawn):
            say(
                f"{self.name} at {self.url} gives the same answer whatever the seed: it seems to ignore the temperature "
                "(transformers serve does, where the model's generation_config.json lacks do_sample)"
            )

    def replies(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None = None,
        who: str = "server",
        what: str = "answer",
    ) -> Iterator[list[tuple[int, Reply]]]:
        """Yield positions and replies as they come; messages call the server ``who``, and its answers ``what``."""

        def chat(client: Any, place: int) -> Awaitable[Any]:
            return client.chat.completions.create(  # type: ignore[no-any-return]
                model=self.name,
                messages=[message.turn() for message in conversations[place]],
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seeds[place] % SEEDS,
            )

        places = [place for place in range(len(conversations)) if only is None or place in only]
        yield from self._asked(chat, places, lambda response, _: _read(response, who), who=who, what=what)

    def scored(
        self, texts: Sequence[tuple[str, int]], *, only: Collection[int]
    ) -> Iterator[list[tuple[int, Reply]]]:
        """Yield positions and the nll of given texts, each with the character from which on it counts.

        A text is sent with ``echo``, one token is written and not looked at. A token belongs to the character that it
        begins at, so one across the border does not count.

        Raises:
            ModelError: If the server does not give log-probabilities of what it is given.
        """

        def echoed(client: Any, place: int) -> Awaitable[Any]:
            return client.completions.create(  # type: ignore[no-any-return]
                model=self.name, prompt=texts[place][0], echo=True, logprobs=1, max_tokens=1, temperature=0.0
            )

        def read(response: Any, place: int) -> Reply:
            text, start = texts[place]
            return _log_probabilities(response, start, len(text), self)

        yield from self._asked(echoed, sorted(only), read)

    def continued_texts(
        self, texts: Sequence[str], *, new_tokens: int, only: Collection[int]
    ) -> Iterator[list[tuple[int, Reply]]]:
        """Yield positions and what the model writes after given texts, up to the end of the line."""

        def written(client: Any, place: int) -> Awaitable[Any]:
            return client.completions.create(  # type: ignore[no-any-return]
                model=self.name, prompt=texts[place], max_tokens=new_tokens, temperature=0.0, stop=["\n"]
            )

        yield from self._asked(written, sorted(only), lambda response, _: _read_text(response))

    def _asked(
        self,
        send: Requested,
        places: Sequence[int],
        read: Callable[[Any, int], Reply],
        *,
        who: str = "server",
        what: str = "answer",
    ) -> Iterator[list[tuple[int, Reply]]]:
        """Send requests, several at a time, and yield positions with what was read of the responses, as they come."""
        left = iter(places)
        openai = needed("openai", by=f"a {who}", extra="servers")
        key = os.environ.get("OPENAI_API_KEY")
        if key and self.url.startswith("http:") and not is_this_machine(self.url):
            say_once(f"the key goes to {self.url} unencrypted, as the URL begins with http://")
        client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=key or "none",  # servers of one's own take any key; the client wants one
            timeout=self.timeout_s,
            max_retries=self.retries,
            http_client=_http_client(self.timeout_s, secret=key),
        )
        at_once = asyncio.Semaphore(self.concurrency)

        async def replied(place: int) -> Reply:
            try:
                async with at_once:
                    response = await send(client, place)
            except (openai.OpenAIError, ValueError) as error:
                return self._failed(error, openai, who, what)
            return read(response, place)

        waiting: dict[Future[Reply], int] = {}
        with _event_loop(at_end=client.close) as loop:
            while True:
                # Twice as many as run at a time, so that none waits for what the caller does with an answer.
                for place in islice(left, 2 * self.concurrency - len(waiting)):
                    waiting[asyncio.run_coroutine_threadsafe(replied(place), loop)] = place
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                yield sorted(((waiting.pop(future), future.result()) for future in done), key=lambda r: r[0])

    def _failed(self, error: Exception, openai: Any, who: str, what: str) -> Reply:
        """Return a reply without an answer, and why; raise what no other request would be spared."""
        if isinstance(
            error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError
        ):
            raise ModelError(
                f"the {who} {self.name} at {self.url} refuses: {_body(error)}",
                hint="check model, server and the environment variable OPENAI_API_KEY",
            ) from error
        if isinstance(error, openai.APITimeoutError):
            return Reply(why=f"no {what} within {self.timeout_s:g} s", trouble=True)
        if isinstance(error, openai.APIConnectionError):
            raise ModelError(
                f"cannot reach the {who} at {self.url}: {error}", hint="is the server running?"
            ) from error
        if not isinstance(error, openai.APIStatusError):
            return Reply(why=f"the {who} sent no chat completion: {error}"[:EXCERPT])
        status: Any = error
        if status.response.has_redirect_location:
            to = without_secrets(status.response.headers["location"])
            raise ModelError(
                f"the {who} at {self.url} sends requests elsewhere, to {to}; rows go to the server that was named",
                hint="if you trust the other one, give its address",
            ) from error
        trouble = status.status_code >= 500 or status.status_code in _BUSY
        return Reply(why=f"the {who} failed: {_body(error)}", trouble=trouble)


@contextmanager
def _event_loop(at_end: Callable[[], Awaitable[None]]) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own; then end all that still runs in it, and what is to be done at the end."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await at_end()
        await asyncio.sleep(0)  # connections close in the next turn of the loop

    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _http_client(limit_s: float, *, secret: str | None) -> "httpx.AsyncClient":
    """Return a client whose answers end: in time and size as a whole, at this server, without the secret in them."""
    import httpx
    import openai

    async def body_of(response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":  # its size cannot be told
            raise openai.OpenAIError("it is compressed, which was not asked for")
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                raise openai.OpenAIError(f"it is longer than {MOST_BYTES >> 20} MiB")
        return bytes(body)

    class Bounded(httpx.AsyncClient):
        async def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
            try:
                async with asyncio.timeout(limit_s):
                    response = await super().send(request, stream=True, follow_redirects=False)
                    try:
                        body = await body_of(response)
                    finally:
                        await response.aclose()
            except TimeoutError as error:
                raise httpx.ReadTimeout(str(error), request=request) from error
            if secret and len(secret) >= KEY_CHARACTERS:
                body = body.replace(secret.encode(), HIDDEN.encode())
            kept = {name: value for name, value in response.headers.items() if name not in _OF_TRANSPORT}
            return httpx.Response(response.status_code, headers=kept, content=body, request=request)

    return Bounded(
        timeout=limit_s, headers={"Accept-Encoding": "identity"}, limits=httpx.Limits(max_connections=None)
    )


def _read(response: Any, who: str) -> Reply:
    """Return the text of a response; the client checks nothing of what a server sends."""
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        return Reply(why=f"the {who} sent no chat completion: {str(response)[:EXCERPT]!r}")
    text = getattr(getattr(choices[0], "message", None), "content", None)
    finish = getattr(choices[0], "finish_reason", None)
    if not isinstance(text, str):
        return Reply(why=f"the {who} sent no text (finish_reason {finish!r})")
    return Reply(text=text, finished=finish not in _CUT_OFF)


def _read_text(response: Any) -> Reply:
    """Return the text of a completion that is no chat."""
    choices = getattr(response, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    text, finish = getattr(first, "text", None), getattr(first, "finish_reason", None)
    if not isinstance(text, str):
        return Reply(why=f"the server sent no completion: {str(response)[:EXCERPT]!r}")
    return Reply(text=text, finished=finish not in _CUT_OFF)


def _log_probabilities(response: Any, start: int, length: int, server: ServerGenerator) -> Reply:
    """Return the nll of the tokens of an echoed text that begin at ``start`` or later, and before its ``length``."""
    reply = _read_text(response)
    if reply.text is None:
        return reply
    given = getattr(response.choices[0], "logprobs", None)
    offsets, values = (getattr(given, name, None) for name in ("text_offset", "token_logprobs"))
    if not isinstance(offsets, list) or not isinstance(values, list) or len(offsets) != len(values):
        raise ModelError(
            f"the server {server.url} gives no log-probabilities of a text that it is given",
            hint="take one whose completions know echo with logprobs, such as vLLM's",
        )
    counted = [value for offset, value in zip(offsets, values, strict=True) if start <= offset < length]
    if not counted or any(not isinstance(value, int | float) for value in counted):
        return Reply(why="the server left out log-probabilities of the options")
    return Reply(text="", nll=-math.fsum(counted), tokens=len(counted))


def _alike(conversations: Sequence[Sequence[Message]], drawn: Mapping[int, str]) -> bool:
    """Return whether several conversations were answered more than once, and each time in the same words."""
    texts: dict[tuple[Message, ...], list[str]] = {}
    for place, text in drawn.items():
        texts.setdefault(tuple(conversations[place]), []).append(text)
    again = [answers for answers in texts.values() if len(answers) > 1]
    return sum(map(len, again)) >= ALIKE and all(len(set(answers)) == 1 for answers in again)


def _body(error: Any) -> str:
    """Return what a server said beside an error; the client's own message leaves some of it out."""
    return f"{error.status_code} {error.response.text[:EXCERPT]}"
