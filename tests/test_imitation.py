"""Rewards learned from demonstrations: the losses by hand, toys with known ends by exact enumeration, and the command."""

import json
import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from learnable.cli import app as cli
from learnable.commands import load
from learnable.commands.experiment import tried
from learnable.commands.imitate import Imitating, StageTuning, imitate
from learnable.commands.network import Network
from learnable.commands.own_answers import (
    CUT_OFF,
    EQUAL,
    Own,
    Stages,
    demonstrations,
    own_answers,
    train_from,
    warnings_of,
)
from learnable.commands.preferred import far
from learnable.data import load_pool, read
from learnable.diversifiers.drawing import Drawing
from learnable.errors import DataError, UsageError
from learnable.experiments.run import place_of
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.models.source import adapter_key, identify
from learnable.objectives import DPO, HingeMargin, LinearMargin
from learnable.runs.identity import fingerprint
from learnable.runs.store import Store
from learnable.settings import Sampling, Tuning
from learnable.training import checkpoints, fine_tune
from learnable.training.loop import Loop
from learnable.types import Answer, Example, Message, ModelRef

LOSSES = {"sigmoid": DPO, "hinge": HingeMargin, "linear": LinearMargin}
SETTINGS = {"imitating": Imitating(), "sft": Tuning(), "tuning": StageTuning()}
DATA = torch.tensor([0.8, 0.2], dtype=torch.float64)


def pair_loss(objective, log_ratios):
    """The loss of pairs whose answers gained so much since the reference, (n, 2)."""
    reference = torch.full_like(log_ratios, 50.0)
    return objective(reference - log_ratios, {"reference_nll": reference})


class TestByHand:
    @pytest.mark.parametrize(("loss", "value"), [("sigmoid", 0.3133), ("hinge", 0.0), ("linear", -1.0)])
    def test_a_pair_whose_h_is_1(self, loss, value):
        found = pair_loss(LOSSES[loss](beta=0.1), torch.tensor([[4.0, -6.0]]))
        assert float(found) == pytest.approx(value, abs=5e-5)

    @pytest.mark.parametrize(("loss", "value"), [("sigmoid", 0.6931), ("hinge", 1.0), ("linear", 0.0)])
    def test_a_stage_begins_where_h_is_0(self, loss, value):
        assert float(pair_loss(LOSSES[loss](), torch.zeros(3, 2))) == pytest.approx(value, abs=5e-5)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_an_own_answer_that_is_the_demonstration_teaches_nothing(self, loss):
        gained = torch.randn(4, 1, generator=torch.manual_seed(0)).requires_grad_()
        pair_loss(LOSSES[loss](), gained.expand(4, 2)).backward()
        assert gained.grad.tolist() == [[0.0]] * 4

    def test_without_own_answers_the_linear_gradient_is_that_of_fine_tuning(self):
        nll = torch.tensor([[45.0, 21.0], [3.0, 9.0]], requires_grad=True)
        LinearMargin(beta=0.1)(nll, {"reference_nll": torch.zeros(2, 2)}).backward()
        assert nll.grad[:, 0].tolist() == pytest.approx([0.1 / 2, 0.1 / 2])

    def test_a_linear_training_ends_where_the_mean_h_is_above_its_limit(self):
        objective, reference = LinearMargin(beta=1.0, max_h=5.0), torch.full((2, 2), 50.0)
        gained = torch.tensor([[8.0, 0.0], [2.0, 0.0]])
        assert not objective.ends(reference - gained, {"reference_nll": reference})
        gained[1, 0] = 2.5
        assert objective.ends(reference - gained, {"reference_nll": reference})

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
    def test_a_limit_that_is_not_above_0_is_refused(self, value):
        with pytest.raises(UsageError, match="max_h must be above 0"):
            LinearMargin(max_h=value)


class TestToys:
    """Softmax over a few answers; expectations over demonstrations and own answers are sums over all pairs."""

    @staticmethod
    def expected(objective, logits, start, data, own):
        """The expected loss: demonstrations by ``data``, own answers by ``own``, the reference being ``start``."""
        gained = logits.log_softmax(0) - start.log_softmax(0)
        answers = range(len(data))
        return sum(
            data[one] * own[two] * pair_loss(objective, torch.stack([gained[one], gained[two]])[None])
            for one in answers
            for two in answers
        )

    @classmethod
    def descended(cls, objective, *, steps, rate, fresh):
        """The distribution that gradient descent from (.5, .5) comes to, with fresh own answers or those of the start."""
        start = torch.zeros(2, dtype=torch.float64)
        logits = start.clone().requires_grad_()
        for _ in range(steps):
            own = (logits if fresh else start).detach().softmax(0)
            reference = logits.detach() if fresh else start
            (slope,) = torch.autograd.grad(cls.expected(objective, logits, reference, DATA, own), logits)
            logits = (logits - rate * slope).detach().requires_grad_()
        return logits.detach().softmax(0)

    def test_where_the_model_is_the_data_fresh_answers_give_no_linear_gradient(self):
        logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
        here = logits.detach().softmax(0)
        loss = self.expected(LinearMargin(beta=1.0), logits, logits.detach(), here, here)
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))

    def test_with_fresh_answers_the_expected_linear_gradient_is_that_of_fine_tuning(self):
        logits = torch.tensor([0.7, -0.2], dtype=torch.float64, requires_grad=True)
        own = logits.detach().softmax(0)
        loss = self.expected(LinearMargin(beta=0.1), logits, logits.detach(), DATA, own)
        tuned = -0.1 * (DATA * logits.log_softmax(0)).sum()
        slopes = [torch.autograd.grad(each, logits)[0] for each in (loss, tuned)]
        torch.testing.assert_close(*slopes)

    def test_with_fresh_answers_the_linear_loss_ends_at_the_data(self):
        end = self.descended(LinearMargin(beta=1.0), steps=200, rate=0.5, fresh=True)
        assert float(end[0]) == pytest.approx(0.8, abs=1e-6)

    def test_with_the_answers_of_the_start_the_linear_loss_collapses(self):
        # Its gradient is .8 - .5 at every step: after n steps of .5 the logits are .3 n apart.
        ten = self.descended(LinearMargin(beta=1.0), steps=10, rate=0.5, fresh=False)
        assert float(ten[0]) == pytest.approx(1 / (1 + math.exp(-3.0)), abs=1e-9)
        far = self.descended(LinearMargin(beta=1.0), steps=100, rate=0.5, fresh=False)
        assert float(far[0]) > 1 - 1e-12

    def test_with_the_answers_of_the_start_the_logistic_loss_ends_at_the_data_for_a_beta_of_1(self):
        end = self.descended(DPO(beta=1.0), steps=400, rate=2.0, fresh=False)
        assert float(end[0]) == pytest.approx(0.8, abs=1e-6)

    def test_a_small_beta_ends_far_sharper_than_the_data(self):
        start = torch.zeros(2, dtype=torch.float64)
        gap = math.log(0.8 / 0.2) / 0.1
        logits = torch.tensor([gap, 0.0], dtype=torch.float64, requires_grad=True)
        loss = self.expected(DPO(beta=0.1), logits, start, DATA, start.softmax(0))
        (slope,) = torch.autograd.grad(loss, logits)
        assert slope.abs().max() < 1e-12
        assert float(logits.detach().softmax(0)[0]) == pytest.approx(0.999999, abs=5e-7)

    def test_pairs_do_not_leave_the_reward_that_explains_the_data_where_it_is(self):
        """Uniform reference, beta 1: the model of the reward log(.8/.2) is the data, and its pairs pull the reward to 0."""
        rewards = torch.tensor([math.log(0.8 / 0.2), 0.0], dtype=torch.float64, requires_grad=True)
        own = rewards.detach().softmax(0)
        torch.testing.assert_close(own, DATA)
        # Maximum likelihood, the outer problem: E_data grad r - E_model grad r.
        (outer,) = torch.autograd.grad(((DATA - own) * rewards).sum(), rewards, retain_graph=True)
        assert outer.abs().max() < 1e-12
        loss = sum(
            DATA[one] * own[two] * pair_loss(DPO(beta=1.0), torch.stack([rewards[one], rewards[two]])[None])
            for one in range(2)
            for two in range(2)
        )
        (slope,) = torch.autograd.grad(loss, rewards)
        assert float(slope[0]) == pytest.approx(0.16 * (0.8 - 0.2))


WORDS = {
    "asked": ["sky", "blue", "red", "grass", "green", "sun"],
    "of": ["moon", "sea", "water", "fire"],
    "said": ["one", "two", "three", "four"],
}
TRAINED = {"batch_size": 4, "rank": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Questions of two words with an answer of one, which a few steps teach the tiny model to give and to end."""
    lines = [
        {"prompt": f"{one} {two}", "completion": WORDS["said"][(place + other) % 4]}
        for place, one in enumerate(WORDS["asked"])
        for other, two in enumerate(WORDS["of"])
    ]
    path = tmp_path_factory.mktemp("demonstrations") / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def words(rows, tiny, tmp_path_factory):
    """The command, but for its output."""
    settings = [
        f"--{group}.{name.replace('_', '-')}={TRAINED[name]}"
        for group in ("sft", "tuning")
        for name in TRAINED
    ]
    words = [
        "run",
        "irft",
        str(rows),
        "--model",
        str(tiny),
        "--dtype=float32",
        "--holdout=0.25",
        "--stages=2",
    ]
    return [*words, "--new-tokens=8", "--temperature=0.5", "--seeds=1", "--sft.epochs=10", *settings]


@pytest.fixture(scope="module")
def ran(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("irft")
    assert cli.call([*words, "-o", str(folder)]) == cli.DONE
    return folder


def frame(ran, name):
    (path,) = ran.glob(f"irft/imitation-*/{name}.parquet")
    return pl.read_parquet(path)


def model_of(ran, arm, stage):
    line = frame(ran, "stages").filter(arm=arm, stage=stage).row(0, named=True)
    return ran / "store" / "arms" / line["model"]


@pytest.fixture(scope="module")
def start(ran):
    """The adapter that the stages of the run start from."""
    return ran / "store" / "arms" / frame(ran, "arms").filter(arm="sft")["model"][0]


def stages_of(ref, store, **changed):
    settings = {
        "network": Network(ref=ref, longest=256),
        "objective": DPO(),
        "sampling": Sampling(temperature=0.5, top_p=1.0, max_new_tokens=8),
        "tuning": Tuning(**TRAINED),
        "store": store,
    }
    return Stages(**settings | changed)


def parts_of(ran):
    """The slices of the run's stages."""
    (pool,) = ran.glob("irft/pool-*")
    taught = demonstrations(list(load_pool(pool).iter_examples()))
    ordered = sorted(taught, key=lambda each: fingerprint(["slices", 0, each.id]))
    return [ordered[0::2], ordered[1::2]]


def same_weights(one, two):
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


class TestRun:
    def test_plain_fine_tuning_gets_as_many_tokens(self, ran):
        tokens = dict(frame(ran, "arms").select("arm", "tokens").iter_rows())
        assert list(tokens) == ["untuned", "sft", "sft continued", "spin", "irft"]
        batch = 4 * 60  # of pairs
        assert abs(tokens["sft continued"] - tokens["irft"]) < batch
        assert abs(tokens["spin"] - tokens["irft"]) < batch

    def test_the_reference_of_a_stage_is_the_model_that_it_starts_from(self, ran, ref, start):
        stages = frame(ran, "stages").filter(arm="irft")
        starts = [start, model_of(ran, "irft", 1)]
        assert stages["start"].to_list() == [adapter_key(identify(ref), folder) for folder in starts]

    def test_every_own_answer_is_a_pair_or_dropped_with_a_reason(self, ran):
        stages, dropped = frame(ran, "stages"), frame(ran, "dropped")
        assert stages.filter(arm="irft")["prompts"].sum() == 18
        assert (stages["prompts"] - stages["pairs"]).sum() == dropped.height
        assert dropped["reason"].null_count() == 0

    def test_the_start_prefers_nothing_to_its_own_answers(self, ran):
        own = frame(ran, "own").filter(arm="sft")
        assert own["h"].drop_nulls().to_list() == [0.0] * own["h"].count()
        results = frame(ran, "results").filter(arm="sft", evaluation="demonstration preferred")
        assert set(results["value"].fill_nan(None).drop_nulls()) <= {0.5}

    def test_all_is_asked_and_the_last_model_is_kept(self, ran):
        table = frame(ran, "table")
        assert table["evaluation"].unique(maintain_order=True).to_list() == [
            "heldout",
            "exact match, heldout",
            "demonstration preferred",
        ]
        (page,) = ran.glob("irft/report-*/report.html")
        text = page.read_text(encoding="utf-8")
        assert "sft continued and spin are trained on as many tokens as irft, rounded up to whole" in text
        (whole,) = ran.glob("irft/imitation-*/model")
        assert (whole / "config.json").is_file()

    def test_nothing_is_done_twice(self, ran, words, monkeypatch):
        monkeypatch.setattr(Loop, "step", None)
        assert cli.call([*words, "-o", str(ran)]) == cli.DONE

    def test_a_dry_run_says_a_price_and_writes_nothing(self, words, tmp_path, capsys):
        assert cli.call([*words, "-o", str(tmp_path / "none"), "--dry-run"]) == cli.DONE
        assert not (tmp_path / "none" / "irft").exists()


class TestStages:
    def test_a_stage_of_the_logistic_loss_is_dpo_on_its_pairs(self, ran, ref, start, tmp_path):
        (rows, _), stages = parts_of(ran), stages_of(ref, ran / "store")
        stage = stages.contrasted(rows, (ref, start), seed=0, number=1, what="again")
        plain = fine_tune(
            ref,
            stage.pairs,
            tmp_path,
            tuning=Tuning(**TRAINED),
            label="dpo",
            objective=DPO(beta=0.1),
            columns=stage.reference,
            start=start,
        )
        assert same_weights(plain.folder, model_of(ran, "irft", 1))

    def test_killed_in_its_second_stage_it_goes_on_to_the_same_bits(
        self, ran, ref, start, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
        stages, step, steps = stages_of(ref, tmp_path), Loop.step, []

        def walked():
            return stages.walk(parts_of(ran), (ref, start), seed=0, label="irft")

        def killed(self):
            if len(steps) == 3:  # one of the second stage is done
                raise KeyboardInterrupt
            steps.append(self)
            step(self)

        with monkeypatch.context() as dying:
            dying.setattr(Loop, "step", killed)
            with pytest.raises(KeyboardInterrupt):
                walked()
        assert same_weights(walked().trained.folder, model_of(ran, "irft", 2))

    def test_each_stage_draws_anew(self, ran, ref, start):
        stages, (rows, _) = stages_of(ref, ran / "store"), parts_of(ran)
        model = LanguageModel(ref)
        with model.adapter(start):
            draw = Drawing(generator=model, sampling=stages.sampling, store=Store(ran / "store"))
            first, second = (own_answers(draw, rows, seed=0, when=when, label="t") for when in (1, 2))
        assert [own.answer for own in first] != [own.answer for own in second]

    def test_all_weights_can_be_trained(self, ref, rows, tmp_path):
        taught = demonstrations(list(read([str(rows)]).iter_examples()))[:6]
        tuning = Tuning(method="full", learning_rate=0.01, batch_size=6, epochs=12)
        network = Network(ref=ref, longest=256)
        rendered = Renderer.of(ref).render(taught, max_length=256)
        begun = train_from((ref, None), rendered, network=network, tuning=tuning, store=tmp_path, label="sft")
        stages = stages_of(ref, tmp_path, tuning=replace(tuning, epochs=1))
        place = place_of(ref, begun, method="full")
        walked = stages.walk([taught, taught], place, seed=0, label="irft")
        assert walked.figures["start"].n_unique() == 2


class TestOwn:
    asked = Message(role="user", content="sky?")
    row = Example(id="1", messages=(asked, Message(role="assistant", content="blue")), source="s")

    @pytest.mark.parametrize(
        ("text", "finished", "why"),
        [("red", True, ""), (" blue ", True, EQUAL), ("blue", False, CUT_OFF), ("\n", True, "empty")],
    )
    def test_what_is_no_pair(self, text, finished, why):
        assert Own(self.row, Answer(text, finished)).refused == why

    def test_a_stage_without_pairs_says_why(self, ref, tmp_path):
        stages = stages_of(ref, tmp_path, sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=1))
        with pytest.raises(DataError, match="of 1 own answers none makes a pair; cut off"):
            stages.walk([[self.row]], (ref, None), seed=0, label="irft")

    def test_earlier_answers_are_context(self):
        turns = (
            *self.row.messages,
            Message(role="user", content="sea?"),
            Message(role="assistant", content="two"),
        )
        (found,) = demonstrations([replace(self.row, messages=turns)])
        assert [turn.trained for turn in found.messages] == [True, False, True, True]

    @pytest.mark.parametrize("roles", [("user",), ("user", "assistant", "user"), ("assistant",)])
    def test_rows_that_do_not_end_with_an_answer_to_a_user_are_refused(self, roles):
        turns = tuple(Message(role=role, content="sky") for role in roles)
        with pytest.raises(DataError, match="1 of 1 rows do not end with an answer"):
            demonstrations([replace(self.row, messages=turns)])


class TestWarnings:
    @pytest.mark.parametrize(
        ("equal", "cut_off", "says"),
        [
            (2, 3, []),
            (3, 3, ["3 of 10 own answers are the demonstration"]),
            (2, 4, ["4 of 10 own answers were cut off"]),
        ],
    )
    def test_own_answers(self, equal, cut_off, says):
        line = {"arm": "irft", "seed": 0, "stage": 2, "prompts": 10, "equal": equal, "cut_off": cut_off}
        found = warnings_of(pl.DataFrame([line | {"stage": 1, "equal": 0, "cut_off": 0}, line]))
        assert len(found) == len(says)
        assert all(said in warning for said, warning in zip(says, found, strict=True))

    def test_a_model_that_went_far(self):
        lines = [{"arm": "irft", "seed": seed, "kl_nats": kl} for seed, kl in enumerate((1.01, 0.99, None))]
        (said,) = far(pl.DataFrame(lines))
        assert said.startswith("irft, seed 0: its own answers are 1.01 nats")


class TestMisuse:
    @pytest.mark.parametrize(
        ("settings", "tuning", "says"),
        [
            ({"stages": 0}, {}, "stages must be at least 1"),
            ({"temperature": 0.0}, {}, "temperature must be above 0"),
            ({"max_h": 4.0}, {}, "the loss is sigmoid"),
            ({"loss": "linear", "max_h": math.inf}, {"learning_rate": 2e-4}, "needs an end"),
        ],
    )
    def test_settings(self, settings, tuning, says):
        with pytest.raises(UsageError, match=says):
            Imitating(**settings).objective(Tuning(**tuning))

    def test_a_linear_loss_without_an_end_may_go_slowly(self):
        slow = Imitating(loss="linear", max_h=math.inf).objective(Tuning(learning_rate=1e-4))
        assert slow == LinearMargin(max_h=math.inf)
        assert Imitating(loss="linear").objective(Tuning(learning_rate=1.0)) == LinearMargin(max_h=5.0)

    def test_more_stages_than_rows(self, rows, tiny, tmp_path):
        pool = load([str(rows)], holdout=0.9, output=str(tmp_path / "pool"))
        with pytest.raises(UsageError, match="3 stages are more than there are rows, 2"):
            tried(imitate, [pool.path], model=str(tiny), **SETTINGS, output=str(tmp_path / "none"))

    def test_a_model_without_a_chat_template(self, rows, tiny_models, tmp_path):
        pool = load([str(rows)], holdout=0.5, output=str(tmp_path / "pool"))
        with pytest.raises(UsageError, match="brings no chat template"):
            tried(
                imitate,
                [pool.path],
                model=str(tiny_models["base"]),
                **SETTINGS,
                output=str(tmp_path / "none"),
            )
