"""How likely given texts are to a model here or on a server, and what it writes after them; measured once, and stored."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from learnable.commands.network import SAMPLE, Network
from learnable.deferred import models
from learnable.errors import ModelError
from learnable.evaluators import Completion
from learnable.measures import Found, fill, known, measure_of, take
from learnable.objects.given import compared_with
from learnable.runs.identity import fingerprint
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.servers import GIVE_UP, Reply, ServerGenerator
from learnable.settings import Loading, Sampling
from learnable.types import Measure, Rendered

SERVER = "openai:"
TOGETHER = 3
"""Times the usual tokens of a batch: of the orders of an item two thirds or so are computed once."""
NEW_TOKENS = (8, 16, 32, 64)
"""Lengths of completions: one that is to be longer is cut off at the last."""
_REFUSED, _LONG = "the model does not take it", "it is longer than the model takes"

Text = tuple[str, int]
"""A text, and the character from which on it counts."""


class Likelihood(NamedTuple):
    """The nll of what counts of a text, in nats, and in how many tokens; None where there is none, and ``why``."""

    nll: float | None
    tokens: int = 0
    why: str = ""


def text_model(
    name: str,
    loading: Loading,
    *,
    adapter: str | None = None,
    max_length: int | None = None,
    as_user: bool = False,
    dry_run: bool = False,
) -> "TextModel":
    """Return a model by its name: on a server, ``openai:URL#NAME``, or here.

    Raises:
        ModelError: If it cannot be found, or an adapter is none, or a server is to take one.
    """
    if name.startswith(SERVER):
        if adapter is not None or as_user:
            raise ModelError(
                f"{name} is asked for texts as they are: it takes no adapter and no chat template from here",
                hint="let the server load the adapter, and leave --rendering at plain",
            )
        return ServerTexts(name=name, server=ServerGenerator.parse(name))
    network = Network.of(name, loading, max_length=max_length, dry_run=dry_run)
    if adapter is None or network.awaits:
        return LocalTexts(name=name, network=network, as_user=as_user)
    parts = compared_with(adapter, network.ref).models.parts
    if [part.kind for part in parts] != ["adapter"]:
        what = "a whole model" if len(parts) == 1 else f"{len(parts)} models, each trained on a part"
        raise ModelError(
            f"{adapter} is {what}, not an adapter", hint="give a whole model as the model: --model"
        )
    return LocalTexts(name=adapter, network=network, adapter=Path(parts[0].name), as_user=as_user)


@dataclass(frozen=True, kw_only=True)
class LocalTexts:
    """A model on this machine, with or without an adapter; its weights are loaded when something is missing.

    With ``as_user`` a text is what a user says, in the model's chat template.
    """

    name: str
    network: Network
    adapter: Path | None = None
    as_user: bool = False
    _loaded: dict[str, "models.LanguageModel"] = field(default_factory=dict, repr=False, compare=False)

    @property
    def identity(self) -> str:
        """Of its weights, with the adapter."""
        base = self.network.identity
        return base if self.adapter is None or not base else models.adapter_key(base, self.adapter)

    def exact(self) -> "LocalTexts":
        """Return it in float32."""
        ref = replace(self.network.ref, dtype="float32")
        return replace(self, network=replace(self.network, ref=ref), _loaded={})

    def release(self) -> None:
        """Let its weights go."""
        self._loaded.clear()

    @contextmanager
    def _opened(self) -> Iterator["models.LanguageModel"]:
        model = self._loaded.get("model") or self._loaded.setdefault("model", self.network.open())
        with model.adapter(self.adapter):
            yield model

    def _rendered(self, texts: Mapping[str, Text]) -> list[Rendered]:
        return self.network.renderer.render_texts(
            [(identity, *text) for identity, text in texts.items()],
            max_length=self.network.longest,
            as_user=self.as_user,
        )

    def _measure(self) -> Measure:
        rendering = self.network.renderer.key if self.as_user else self.network.renderer.vocabulary
        written = fingerprint(["texts", rendering, self.as_user])
        return measure_of(self.identity, rendering=written, max_length=self.network.longest)

    def likelihoods(self, texts: Sequence[Text], *, store: Store, label: str) -> list[Likelihood]:
        """Return how likely texts are; one that is too long, or that cannot be rendered, says so."""
        ids = [_identity(text) for text in texts]
        rendered = {each.id: each for each in self._rendered(dict(zip(ids, texts, strict=True)))}
        whole = [each for each in rendered.values() if each.mask.any() and not each.truncated]
        measure = self._measure()
        take(
            self._opened,
            [measure],
            whole,
            store=store,
            label=label,
            batch_tokens=lambda model: TOGETHER * int(model.batch_tokens),
        )
        found = _stored(measure, [each.id for each in whole], store)

        def of(each: Rendered) -> Likelihood:
            if each.id in found:
                return Likelihood(found[each.id], int(each.mask.sum()))
            return Likelihood(None, why=_LONG if each.truncated else each.refused or _REFUSED)

        return [of(rendered[identity]) for identity in ids]

    def computed(self, groups: Sequence[Sequence[Text]]) -> tuple[int, int]:
        """Return how many tokens groups of texts have, and how many are left where beginnings are computed once."""
        tokens = computed = 0
        for group in groups:
            rendered = self._rendered({_identity(text): text for text in group})
            tokens += sum(len(each.ids) for each in rendered)
            computed += models.packing.packed(rendered).computed
        return tokens, computed

    def completions(
        self, texts: Sequence[str], *, like: Sequence[str], store: Store, label: str
    ) -> list[Completion]:
        """Return what the model writes after texts, greedily, up to the end of the line and about as long as others."""
        renderer = self.network.renderer
        (*_, line) = renderer.text_ids("\n").tolist()
        prompts = [renderer.text_ids(text) for text in texts]
        lengths = [_rounded(len(renderer.text_ids(each)) + 2) for each in like]
        room = self.network.longest

        def write(places: Sequence[int], new: int, missing: Collection[int]) -> Iterator[Found]:
            asked = models.generation.Asked(
                prompts=[prompts[place] for place in places],
                sampling=Sampling(temperature=0.0, top_p=1.0, max_new_tokens=new),
                stop_ids={*renderer.stop_ids, line},
                only=missing,
            )
            with self._opened() as model:
                for positions, answers in model.continued(asked):
                    yield Found(positions, [{"completion": (answer.text,)} for answer in answers])

        fits = [len(prompt) + new <= room for prompt, new in zip(prompts, lengths, strict=True)]
        size = [len(prompt) for prompt in prompts]
        return _completed(self.identity, texts, lengths, fits, size, write, store=store, label=label)

    def price(self, texts: Sequence[Text], *, store: Store) -> Price:
        """Return what measuring texts would cost, by the tokens of a sample; those that are stored cost nothing."""
        if self.network.awaits:
            return self.network.passing(0, len(texts))
        distinct = {_identity(text): text for text in texts}
        missing = store.missing(self._measure(), pl.Series("id", list(distinct), dtype=pl.String)).to_list()
        drawn = {identity: distinct[identity] for identity in missing[:SAMPLE]}
        tokens = sum(len(each.ids) for each in self._rendered(drawn))
        return self.network.passing(round(tokens / max(len(drawn), 1) * len(missing)), len(missing))


@dataclass(frozen=True, kw_only=True)
class ServerTexts:
    """A model on a server that gives log-probabilities of a given text."""

    name: str
    server: ServerGenerator

    @property
    def identity(self) -> str:
        """Of its name and its server."""
        return self.server.key

    def likelihoods(self, texts: Sequence[Text], *, store: Store, label: str) -> list[Likelihood]:
        """Return how likely texts are; what the server did not answer is asked again by the next run."""
        ids = [_identity(text) for text in texts]
        measure = Measure(kind="nll", model=self.identity, parameters={"rendering": "texts"})
        lengths = Measure(kind="text_tokens", model=self.identity, parameters={"rendering": "texts"})
        why: dict[str, str] = {}

        def ask(missing: Collection[int]) -> Iterator[Found]:
            for batch in _patient(self.server.scored(texts, only=missing), self.server):
                good = [(place, reply) for place, reply in batch if reply.text is not None]
                why.update({ids[place]: reply.why for place, reply in batch if reply.text is None})
                rows = [{"nll": (reply.nll,), "text_tokens": (reply.tokens,)} for _, reply in good]
                yield Found([place for place, _ in good], rows)

        fill([measure, lengths], ids, ask, store=store, label=label, size=lambda _: 1)
        found, tokens = (_stored(each, ids, store) for each in (measure, lengths))
        return [
            Likelihood(
                found.get(each), tokens.get(each, 0), "" if each in found else why.get(each, "no answer")
            )
            for each in ids
        ]

    def completions(
        self, texts: Sequence[str], *, like: Sequence[str], store: Store, label: str
    ) -> list[Completion]:
        """Return what the model writes after texts, up to the end of the line."""
        # Four characters are a token, three of them in many languages.
        lengths = [_rounded(len(each) // 3 + 2) for each in like]

        def write(places: Sequence[int], new: int, missing: Collection[int]) -> Iterator[Found]:
            prompts = [texts[place] for place in places]
            asked = self.server.continued_texts(prompts, new_tokens=new, only=missing)
            for batch in _patient(asked, self.server):
                good = [(place, reply.text) for place, reply in batch if reply.text is not None]
                yield Found([place for place, _ in good], [{"completion": (text,)} for _, text in good])

        fits, size = [True] * len(texts), [1] * len(texts)
        return _completed(self.identity, texts, lengths, fits, size, write, store=store, label=label)

    def price(self, texts: Sequence[Text], *, store: Store) -> Price:
        """Return how many requests there are."""
        return Price(rows=len(texts), unknown=(f"what {self.server.url} takes for a request is not known",))


TextModel = LocalTexts | ServerTexts
"""A model that is asked for texts as they are; what is stored of its answers is not asked for again."""
Write = Callable[[Sequence[int], int, Collection[int]], Iterator[Found]]
"""Writes after the texts at some places so many tokens, those that are missing."""


def _completed(
    model: str,
    texts: Sequence[str],
    lengths: Sequence[int],
    fits: Sequence[bool],
    size: Sequence[int],
    write: Write,
    *,
    store: Store,
    label: str,
) -> list[Completion]:
    """Return the completions of texts, of each length in a pass of its own; what is stored is not written again."""
    found: list[Completion] = [Completion(None, _LONG)] * len(texts)
    for new in sorted(set(lengths)):
        places = [place for place, length in enumerate(lengths) if length == new and fits[place]]
        ids = [fingerprint(["after", texts[place]]) for place in places]
        parameters = {"rendering": "texts", "max_new_tokens": new, "temperature": 0.0}
        measure = Measure(kind="completion", model=model, parameters=parameters)
        weighs, ask = [size[place] for place in places].__getitem__, partial(write, places, new)
        fill([measure], ids, ask, store=store, label=f"{label}, {new} tokens", size=weighs)
        stored = _stored(measure, ids, store)
        for place, identity in zip(places, ids, strict=True):
            found[place] = Completion(stored.get(identity), "" if identity in stored else "no answer")
    return found


def _patient(
    batches: Iterator[list[tuple[int, Reply]]], server: ServerGenerator
) -> Iterator[list[tuple[int, Reply]]]:
    """Pass replies on; give a server up that fails many times in a row."""
    failed = 0
    for batch in batches:
        bad = [reply for _, reply in batch if reply.text is None]
        failed = failed + len(bad) if len(bad) == len(batch) else 0
        if failed >= GIVE_UP:
            raise ModelError(
                f"the server {server.url} left {failed} requests in a row without an answer: {bad[-1].why}",
                hint="what it answered before is kept; when the server is well again, run the same command again",
            )
        if bad:
            say(f"{server.name} did not answer {len(bad)} of {len(batch)} requests: {bad[-1].why}")
        yield batch


def _identity(text: Text) -> str:
    return fingerprint(["text", *text])


def _stored(measure: Measure, ids: Sequence[str], store: Store) -> dict[str, Any]:
    """Return what is stored of ids, by id."""
    return dict(known(measure, list(dict.fromkeys(ids)), store=store).iter_rows())


def _rounded(tokens: int) -> int:
    return next((each for each in NEW_TOKENS if each >= tokens), NEW_TOKENS[-1])
