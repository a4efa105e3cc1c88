"""What ``learnable run rft`` does: a reward model learned from demonstrations, and a policy trained by it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from learnable.commands.experiment import Begun
from learnable.commands.network import Network
from learnable.commands.own_answers import (
    demonstrations,
    held_out,
    own_answers,
    pairs_of,
    room_for,
    train_from,
)
from learnable.commands.preferred import Preferred, distances, looked_up
from learnable.deferred import models, training
from learnable.diversifiers.drawing import Drawing
from learnable.errors import DataError, UsageError
from learnable.experiments.run import Place
from learnable.objects.given import render_rows
from learnable.packages import needed
from learnable.runs.files import write_frame
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.step import Finished, Step
from learnable.runs.store import Store
from learnable.settings import Sampling, Tuning
from learnable.types import Example, Message, ModelRef, Rendered

BLIND = 0.6
"""Share of held-out demonstrations above the model's answers, below which a reward hardly tells the two apart."""


@dataclass(frozen=True, kw_only=True)
class Rewarding:
    """How a reward model is learned from demonstrations, and a policy by it.

    Args:
        rounds: Of reward and policy; the next one starts from the policy.
        steps: Optimizer steps of the policy in a round.
        beta: How dear it is for the policy to leave its start (KL).
        new_tokens: Most tokens of an own answer; room for 95 % of the demonstrations, at most 512, when not given.
        tuned: The model was fine-tuned on such rows already: it is not fine-tuned before.
    """

    rounds: int = 1
    steps: int = 30
    beta: float = 0.05
    new_tokens: int | None = None
    tuned: bool = False

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "new_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")

    @property
    def sampling(self) -> Sampling:
        """How own answers are drawn, once their most tokens are known."""
        assert self.new_tokens is not None
        return Sampling(temperature=1.0, top_p=1.0, max_new_tokens=self.new_tokens)


def reinforce(begun: Begun, *, rewarding: Rewarding, sft: Tuning, reward: Tuning, policy: Tuning) -> Step:
    """Learn a reward that puts demonstrations above the model's own answers, and train the model by it."""
    needed("trl", by="learnable run rft", extra="rft")
    for name, each in (("sft", sft), ("reward", reward), ("policy", policy)):
        if each.method != "lora" or each.steps is not None:
            raise UsageError(
                f"{name} trains LoRA adapters for whole epochs", hint="leave method and steps out"
            )
    network, loaded = begun.network, begun.loaded.step
    heldout, taught = held_out(loaded), demonstrations(begun.loaded.rows.examples)
    room = room_for(taught, heldout, network, new_tokens=rewarding.new_tokens)
    rewarding = replace(rewarding, new_tokens=room)
    work = _Reinforcement(
        network=network,
        rewarding=rewarding,
        sft=None if rewarding.tuned else sft,
        reward=reward,
        policy=policy,
        taught=taught,
        heldout=heldout,
        store=begun.store,
    )
    settings = {"rewarding": rewarding, "sft": work.sft, "reward": reward, "policy": policy}
    return Step(
        verb="run rft",
        parameters={name: None if each is None else fingerprint(each) for name, each in settings.items()}
        | {"max_length": network.longest},
        inputs={
            "pool": loaded.identity,
            "heldout": fingerprint([each.id for each in heldout]),
            "base": network.identity,
        },
        links={"pool": loaded.folder},
        says=[
            f"{rewarding.rounds} rounds of a reward on {len(taught):,} pairs and {rewarding.steps} steps of a policy",
            f"own answers of at most {room:,} tokens",
        ],
        awaits=network.awaits,
        plan=work.price,
        work=work.work,
    )


@dataclass(frozen=True, kw_only=True)
class _Reinforcement:
    network: Network
    rewarding: Rewarding
    sft: Tuning | None
    reward: Tuning
    policy: Tuning
    taught: Sequence[Example]
    heldout: Sequence[Example]
    store: Path

    def price(self) -> Price:
        """Return what it will cost, as far as it is known."""
        network, rounds, taught = self.network, self.rewarding.rounds, list(self.taught)
        prompts = [each.messages[:-1] for each in taught]
        price = network.training(taught, self.reward, passes=2 * self.reward.epochs * rounds, models=rounds)
        if self.sft is not None:
            price += network.training(taught, self.sft, passes=self.sft.epochs, models=1)
        texts = (len(taught) + self.rewarding.steps * self.policy.batch_size + 2 * len(self.heldout)) * rounds
        price += network.writing(texts, new_tokens=self.rewarding.sampling.max_new_tokens, prompts=prompts)
        return price + Price(unknown=("the steps of the policy are counted as what they write alone",))

    def work(self, folder: Path) -> Finished:
        network, tokens = self.network, 0
        place: Place = (network.ref, None)
        renderer = network.renderer
        if self.sft is not None:
            seen = render_rows(renderer, self.taught, max_length=network.longest, most_refused=0.0)
            begun = train_from(place, seen, network=network, tuning=self.sft, store=self.store, label="sft")
            place, tokens = (network.ref, begun.folder), begun.tokens if begun.ran else 0
        lines, looks = list[dict[str, Any]](), list[pl.DataFrame]()
        for number in range(1, self.rewarding.rounds + 1):
            line, own, place = self._round(place, renderer, number)
            lines.append(line)
            looks.append(own)
        ref, adapter = place
        assert adapter is not None
        training.save_whole(ref, adapter, folder / "model")
        frame = pl.DataFrame(lines)
        write_frame(frame, folder / "rounds.parquet")
        write_frame(pl.concat(looks), folder / "own.parquet")
        facts = {"model": network.ref.name, "demonstrations": len(self.taught), "held out": len(self.heldout)}
        facts |= {f"round {line['round']}": _in_words(line) for line in lines}
        return Finished(facts=facts | {"warnings": _warnings(lines)}, tokens=tokens)

    def _round(
        self, place: Place, renderer: "models.Renderer", number: int
    ) -> tuple[dict[str, Any], pl.DataFrame, Place]:
        """Learn a reward against the model at ``place``, train a policy by it, and judge both on held-out rows."""
        what, longest = f"round {number}", self.network.longest
        model = self.network.open(place[0])
        with model.adapter(place[1]):
            draw = Drawing(generator=model, sampling=self.rewarding.sampling, store=Store(self.store))
            owns = own_answers(draw, self.taught, seed=0, when=what, label=f"own answers, {what}")
            pairs, dropped = pairs_of(model, owns, longest=longest)
            key = model.key
        if not pairs:
            raise DataError(
                f"{what}: none of {len(owns):,} own answers makes a pair", hint="raise --new-tokens"
            )
        settings = [asdict(self.rewarding), self.reward, self.policy, renderer.key, longest, number]
        made = self.store / "rewards" / fingerprint([key, [each[0].id for each in pairs], *settings])[:16]
        made.mkdir(parents=True, exist_ok=True)
        if place[1] is None:
            training.rewards.write_whole(place[0], made / "start")
        else:
            training.save_whole(place[0], place[1], made / "start")
        say(f"{what}: a reward on {len(pairs):,} pairs")
        reward = training.rewards.train_reward(made / "start", pairs, made / "reward", tuning=self.reward)
        say(f"{what}: a policy, {self.rewarding.steps} steps")
        policy = training.rewards.train_policy(
            made / "start",
            [each.messages[:-1] for each in self.taught],
            lambda prompts, texts: training.rewards.rewards_of(
                reward, _seen(renderer, prompts, texts, longest)
            ),
            made / "policy",
            tuning=self.policy,
            steps=self.rewarding.steps,
            beta=self.rewarding.beta,
            new_tokens=self.rewarding.sampling.max_new_tokens,
        )
        start = replace(place[0], name=str(made / "start"), revision=None)
        own, rewards = self._judged(start, policy, reward)
        line = {
            "round": number,
            "pairs": len(pairs),
            "dropped": len(dropped),
            **rewards,
            "start": models.identify(start),
        }
        return line, own.select(pl.lit(number).alias("round"), pl.all()), (start, policy)

    def _judged(self, start: ModelRef, policy: Path, reward: Path) -> tuple[pl.DataFrame, dict[str, float]]:
        """Return fresh answers to held-out prompts before and after, and the figures of the reward and the policy."""
        network = replace(self.network, ref=start)
        preferred = Preferred(
            network=network, heldout=self.heldout, sampling=self.rewarding.sampling, store=self.store
        )
        model, none = network.open(), pl.DataFrame()
        before = preferred.look(model, none)
        with model.adapter(policy):
            after = preferred.look(model, none)
        own = pl.concat(
            found.select(pl.lit(arm).alias("arm"), pl.lit(0).alias("seed"), pl.all())
            for arm, found in (("start", before), ("policy", after))
        )
        own, _ = preferred.since(own, {0: (start, None)}, beta=self.rewarding.beta)
        known = dict(
            zip(
                preferred.seen,
                training.rewards.rewards_of(reward, list(preferred.seen.values())),
                strict=True,
            )
        )
        own = own.with_columns(reward=looked_up("id", known), own_reward=looked_up("own_id", known))
        ended = own.filter(pl.col("why") == "", pl.col("own_id") != pl.col("id"))
        means = dict(own.group_by("arm").agg(pl.col("own_reward").mean()).iter_rows())
        kl = dict(distances(own).select("arm", "kl_nats").iter_rows())
        of_start = ended.filter(arm="start")
        figures = {
            "accuracy": (of_start["reward"] > of_start["own_reward"]).mean(),
            "judged": of_start.height,
            "reward_before": means["start"],
            "reward_after": means["policy"],
            "kl_nats": kl["policy"],
        }
        return own, figures


def _seen(
    renderer: "models.Renderer", prompts: Sequence[Sequence[Message]], texts: Sequence[str], longest: int
) -> list[Rendered]:
    """Return answers to prompts as the reward model saw its pairs."""
    examples = []
    for prompt, text in zip(prompts, texts, strict=True):
        messages = (*prompt, Message(role="assistant", content=text))
        examples.append(Example(id=example_id(messages), messages=messages, source="policy"))
    return renderer.render(examples, max_length=longest)


def _in_words(line: dict[str, Any]) -> str:
    accuracy = (
        "nothing to judge on" if line["accuracy"] is None else f"{line['accuracy']:.3f} of {line['judged']:,}"
    )
    return (
        f"held-out demonstrations above the start's own answers: {accuracy}; mean reward of own answers "
        f"{line['reward_before']:.3f} before, {line['reward_after']:.3f} after, KL {line['kl_nats']:.3f} nats per token"
    )


def _warnings(lines: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    for line in lines:
        if line["accuracy"] is None or line["accuracy"] < BLIND:
            found.append(
                f"Round {line['round']}: the reward hardly tells held-out demonstrations from own answers; what the policy "
                "gains by it means little. Give more rows, or more epochs of the reward."
            )
        if line["kl_nats"] is not None and line["kl_nats"] > 1:
            found.append(
                f"Round {line['round']}: the policy went {line['kl_nats']:.2f} nats per token from its start. Raise --beta."
            )
    return found
