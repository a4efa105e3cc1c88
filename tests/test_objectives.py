"""Objectives: their contract, TRL's losses where TRL has them, and trainings that do not depend on how a batch is cut."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from learnable.data.pairs import answers_of
from learnable.errors import DataError, TrainError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.packing import padded
from learnable.models.rendering import Renderer
from learnable.objectives import DPO, IPO, NLL, OBJECTIVES, PREFERENCES, DavIR, HingeMargin, LinearMargin
from learnable.settings import Tuning
from learnable.testing import check_objective, toy_examples
from learnable.training import checkpoints, fine_tune, fine_tuning, memory
from learnable.training.batches import batch_of, inputs_of
from learnable.training.loop import Loop
from learnable.training.loss import response_nll
from learnable.types import Message, ModelRef
from pairing import pair_of

TUNING = Tuning(learning_rate=1e-2, batch_size=4, rank=4)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pairs():
    chosen, rejected = toy_examples(11, seed=1), toy_examples(11, seed=2)
    answers = zip(chosen, rejected, strict=True)
    return [pair_of(one.messages[:1], one.messages[1], two.messages[1], source="toy") for one, two in answers]


@pytest.fixture(scope="module")
def rendered(ref, pairs):
    """Rows of chosen and rejected answers in turn."""
    return Renderer.of(ref).render([answer for pair in pairs for answer in answers_of(pair)], max_length=128)


@pytest.fixture(scope="module")
def columns(ref, rendered):
    """What any objective may need, by row; the reference is not quite the model, so that margins differ."""
    nll = LanguageModel(ref).nll(rendered)
    noise = np.random.default_rng(0).normal(size=len(nll)).astype(np.float32)
    return pl.DataFrame(
        {"id": [row.id for row in rendered], "reference_nll": (nll + noise).astype(np.float32)}
    )


def examples(rendered, objective):
    m = objective.answers
    return [tuple(rendered[start : start + m]) for start in range(0, len(rendered) - m + 1, m)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_the_contract(name):
    check_objective(OBJECTIVES[name]())


@dataclass(frozen=True)
class Broken:
    needs: ClassVar[tuple[str, ...]] = ()
    answers: ClassVar[int] = 1
    linear: ClassVar[bool] = True
    fault: str = ""

    def __call__(self, nll, columns):
        return {
            "not a scalar": lambda: nll,
            "another gradient": lambda: (nll.detach() * nll).sum(),
            "the order": lambda: (nll * torch.arange(len(nll))[:, None]).sum(),
            "not linear": lambda: (nll**2).sum(),
            "not finite": lambda: (nll - nll).sum().log(),
            "a column": lambda: nll.sum() / columns["reference_nll"].sum(),
        }[self.fault]()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("not a scalar", "not a scalar"),
        ("another gradient", "not that of the values"),
        ("the order", "depends on the order"),
        ("not linear", "linear is True"),
        ("not finite", "not a number|the loss is"),
        ("a column", "not in needs"),
    ],
)
def test_a_broken_contract_is_told(fault, says):
    with pytest.raises(AssertionError, match=says):
        check_objective(Broken(fault=fault))


def trl_nll(network, rows, _):
    ids, seen, counted = laid_out(rows)
    add_fused_lm_head(network)
    labels = torch.where(counted, ids, -100)
    return network(input_ids=ids, attention_mask=seen, labels=labels, fused_lm_head=True).loss


def trl_preference(network, rows, reference_nll, *, loss, reference=None):
    """Return TRL's loss; it measures the ``reference`` itself where no nll of one is given."""

    class Given(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    arguments = DPOConfig(
        output_dir="unused",
        loss_type=[loss],
        beta=PREFERENCES[loss]().beta,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = Given(
        network,
        ref_model=reference or copy.deepcopy(network),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt_ids": [[1]], "chosen_ids": [[1]], "rejected_ids": [[1]]}),
        processing_class=AutoTokenizer.from_pretrained(network.config._name_or_path),
    )
    trainer.precompute_ref_logps = reference is None
    ids, seen, counted = laid_out([*rows[0::2], *rows[1::2]])
    batch = {"input_ids": ids, "attention_mask": seen.long(), "completion_mask": counted.long()}
    if reference is None:
        batch |= {"ref_chosen_logps": -reference_nll[0::2], "ref_rejected_logps": -reference_nll[1::2]}
    return trainer.compute_loss(network.train(), batch)


def laid_out(rows):
    layout = padded(rows)
    lengths = torch.tensor([len(row.ids) for row in rows])
    seen = torch.arange(layout.ids.shape[1]) < lengths[:, None]
    counted = torch.zeros_like(seen)
    for number, row in enumerate(rows):
        counted[number, : len(row.ids)] = torch.from_numpy(row.mask)
    return layout.ids, seen, counted


TRL = {
    "nll": trl_nll,
    **{loss: partial(trl_preference, loss=loss) for loss in ("sigmoid", "ipo", "hinge")},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRL)
def test_loss_and_gradient_are_those_of_trl(tiny, rendered, columns, name):
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    parameters, objective = list(network.parameters()), (OBJECTIVES | PREFERENCES)[name]()
    rows, m = rendered[:8], objective.answers
    members = batch_of(list(enumerate(rows)))
    nll, _ = response_nll(network, inputs_of(members, padded(rows)), count=len(rows), forward=network)
    reference_nll = torch.from_numpy(columns["reference_nll"].to_numpy().copy())[: len(rows)]
    tokens = torch.tensor([int(row.mask.sum()) for row in rows])
    given = {"reference_nll": reference_nll.reshape(-1, m), "response_tokens": tokens.reshape(-1, m)}
    loss = objective(nll.reshape(-1, m), given)
    ours = torch.autograd.grad(loss, parameters)
    theirs = TRL[name](network, rows, reference_nll)
    torch.testing.assert_close(loss, theirs.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, parameters), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_a_stored_reference_is_what_trl_measures_itself(tiny, ref, rendered, name):
    """The nll of the model before a change of its weights, against the pass that TRL makes with its reference model."""
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    before = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    rows = rendered[:8]
    stored = torch.from_numpy(LanguageModel(ref).nll(rows).astype(np.float32))
    members = batch_of(list(enumerate(rows)))
    nll, _ = response_nll(network, inputs_of(members, padded(rows)), count=len(rows), forward=network)
    tokens = torch.tensor([int(row.mask.sum()) for row in rows])
    given = {"reference_nll": stored.reshape(-1, 2), "response_tokens": tokens.reshape(-1, 2)}
    theirs = trl_preference(network, rows, None, loss=name, reference=before)
    torch.testing.assert_close(
        PREFERENCES[name]()(nll.reshape(-1, 2), given), theirs.float(), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_is_the_same_however_a_batch_is_cut_and_ordered(
    ref, rendered, columns, tmp_path, monkeypatch, name
):
    objective = OBJECTIVES[name]()
    options = {"tuning": TUNING, "label": "training", "objective": objective, "columns": columns}
    given = examples(rendered, objective)
    fine_tune(ref, given, tmp_path / "whole", keep_losses=True, **options)
    monkeypatch.setitem(memory.PIECE_TOKENS, "cpu", 40)
    fine_tune(ref, given[::-1], tmp_path / "pieces", keep_losses=True, **options)
    losses = [pl.read_parquet(tmp_path / each / fine_tuning.LAST_EPOCH) for each in ("whole", "pieces")]
    assert losses[0]["id"].to_list() == losses[1]["id"].to_list()
    np.testing.assert_allclose(losses[0]["nll"], losses[1]["nll"], rtol=1e-3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_backwarded_is_the_gradient_of_the_loss(tiny, rendered, columns, name, monkeypatch):
    """Piece by piece, against one pass of autograd over the formula."""
    monkeypatch.setitem(memory.PIECE_TOKENS, "cpu", 40)
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    objective = OBJECTIVES[name]()
    rows, m = rendered[:8], objective.answers
    needed = {column: columns[column].to_numpy()[:8].copy() for column in objective.needs}
    loop = Loop(
        network,
        rows,
        columns=needed,
        sampler=OneByOne(len(rows) // m),
        objective=objective,
        tuning=TUNING,
        mixed=False,
        packs=False,
        keep_losses=False,
        advance=lambda _: None,
    )
    members = batch_of(list(enumerate(rows)))
    met = loop._gradients(members, loop._columns)
    found = [parameter.grad.clone() for parameter in network.parameters()]
    nll, _ = response_nll(network, inputs_of(members, padded(rows)), count=len(rows), forward=network)
    torch.testing.assert_close(met, nll.detach(), rtol=1e-5, atol=1e-5)
    loss = objective(nll.reshape(-1, m), loop._columns)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    torch.testing.assert_close(found, list(expected), rtol=1e-3, atol=1e-5)


class OneByOne:
    def __init__(self, steps):
        self.steps = steps

    def batch(self, step):
        return [step]


class TestPreferences:
    """The pair (chosen, rejected) of the reference -50 and -20 nats, of the model -45 and -21, of 10 and 4 tokens."""

    nll, reference = torch.tensor([[45.0, 21.0]]), torch.tensor([[50.0, 20.0]])
    columns: ClassVar = {"reference_nll": reference, "response_tokens": torch.tensor([[10, 4]])}

    @pytest.mark.parametrize(
        ("objective", "loss"),
        [
            (DPO(beta=0.1), 0.4375),  # margin .1 (5 + 1) = .6
            (DavIR(beta=10), 0.2014),  # 10 (5 / 50 + 1 / 20) = 1.5
            (IPO(beta=0.1), 18.0625),  # (5 / 10 + 1 / 4 - 5)^2
            (HingeMargin(beta=0.1), 0.4),  # 1 - .6
        ],
    )
    def test_by_hand(self, objective, loss):
        assert float(objective(self.nll, self.columns)) == pytest.approx(loss, abs=5e-5)

    @pytest.mark.parametrize(
        ("name", "loss"), [("sigmoid", math.log(2)), ("davir", math.log(2)), ("ipo", 25.0), ("hinge", 1.0)]
    )
    def test_where_the_model_is_the_reference(self, name, loss):
        start = float(PREFERENCES[name]()(self.reference, self.columns))
        assert start == pytest.approx(loss, abs=1e-6)

    def test_doubled_nll_double_the_margin_of_dpo_and_not_that_of_davir(self):
        doubled = {**self.columns, "reference_nll": 2 * self.reference}
        once = [float(each(self.nll, self.columns)) for each in (DPO(), DavIR())]
        twice = [float(each(2 * self.nll, doubled)) for each in (DPO(), DavIR())]
        assert twice[0] == pytest.approx(math.log1p(math.exp(-1.2)))
        assert twice[1] == once[1]

    @pytest.mark.parametrize("name", PREFERENCES)
    def test_two_equal_answers_pull_in_no_direction(self, name):
        nll = torch.tensor([[30.0, 30.0]], requires_grad=True)
        equal = {"reference_nll": torch.full((1, 2), 40.0), "response_tokens": torch.full((1, 2), 7)}
        PREFERENCES[name]()(nll, equal).backward()
        assert float(nll.grad.sum()) == 0

    @pytest.mark.parametrize("objective", [DPO(), DavIR()])
    def test_swapped_answers_negate_the_margin(self, objective):
        swapped = {name: values.flip(1) for name, values in self.columns.items()}
        there, back = objective(self.nll, self.columns), objective(self.nll.flip(1), swapped)
        # The loss at -m less that at m is m.
        assert float(back - there) == pytest.approx(0.6 if isinstance(objective, DPO) else 1.5, abs=1e-6)

    def test_the_gradient_of_davir_is_divided_by_the_reference(self):
        nll = self.nll.clone().requires_grad_()
        DavIR(beta=10)(nll, self.columns).backward()
        # d loss / d log pi(chosen) = -beta sigmoid(-margin) / |log ref(chosen)|; of the nll, the other sign
        assert float(nll.grad[0, 0]) == pytest.approx(10 / (1 + math.exp(1.5)) / 50)

    def test_davir_is_dpo_to_the_bit_where_all_references_are_alike(self):
        rng = torch.Generator().manual_seed(0)
        nll = 64 + 20 * torch.randn(50, 2, generator=rng)
        given = {"reference_nll": torch.full((50, 2), 64.0)}
        assert torch.equal(DavIR(beta=6.4)(nll, given), DPO(beta=6.4 / 64)(nll, given))

    def test_davir_divides_by_no_less_than_a_nat(self):
        nll, columns = torch.tensor([[0.5, 21.0]]), {"reference_nll": torch.tensor([[1e-6, 20.0]])}
        expected = math.log1p(math.exp(-10 * ((1e-6 - 0.5) / 1 + 1 / 20)))
        assert float(DavIR(beta=10)(nll, columns)) == pytest.approx(expected, abs=1e-5)

    def test_the_beta_of_davir_is_that_of_dpo_for_the_median_answer(self):
        assert DavIR().scaled_to(np.array([10.0, 300.0, 40.0])) == DavIR(beta=4.0)

    @pytest.mark.parametrize("name", PREFERENCES)
    @pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
    def test_a_beta_that_is_not_above_0_is_refused(self, name, beta):
        with pytest.raises(UsageError, match="beta must be above 0"):
            PREFERENCES[name](beta=beta)


class TestDPO:
    def test_a_hopeless_pair_has_a_finite_loss_and_a_whole_gradient(self):
        nll = torch.tensor([[1e5, 1.0]], requires_grad=True)
        loss = DPO(beta=0.5)(nll, {"reference_nll": torch.ones(1, 2)})
        loss.backward()
        assert loss.item() == pytest.approx(0.5 * (1e5 - 1))
        assert nll.grad.tolist() == [[0.5, -0.5]]

    def test_it_teaches_what_is_preferred(self, ref, rendered, columns, tmp_path):
        def margins(model):
            gain = columns["reference_nll"].to_numpy() - model.nll(rendered)
            return gain[0::2] - gain[1::2]

        model = LanguageModel(ref)
        before = margins(model)
        tuning = replace(TUNING, epochs=4)
        fine_tune(
            ref,
            examples(rendered, DPO()),
            tmp_path,
            tuning=tuning,
            label="t",
            objective=DPO(),
            columns=columns,
        )
        with model.adapter(tmp_path):
            after = margins(model)
        assert after.mean() > before.mean() + 5
        assert (after > 0).all()

    def test_a_killed_training_goes_on_to_the_same_bits(self, ref, rendered, columns, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
        monkeypatch.setitem(memory.PIECE_TOKENS, "cpu", 40)
        options = {"tuning": TUNING, "label": "t", "objective": DPO(), "columns": columns}
        given, step = examples(rendered, DPO()), Loop.step
        fine_tune(ref, given, tmp_path / "whole", **options)

        def killed(self):
            if self.done == 2:
                raise KeyboardInterrupt
            step(self)

        with monkeypatch.context() as dying:
            dying.setattr(Loop, "step", killed)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(ref, given, tmp_path / "killed", **options)
        fine_tune(ref, given, tmp_path / "killed", **options)
        whole, killed = (
            load_file(tmp_path / each / "adapter_model.safetensors") for each in ("whole", "killed")
        )
        assert all(torch.equal(value, killed[name]) for name, value in whole.items())

    def test_a_column_that_is_missing_is_named(self, ref, rendered, tmp_path):
        given = examples(rendered, DPO())
        with pytest.raises(TrainError, match="DPO needs reference_nll"):
            fine_tune(ref, given, tmp_path, tuning=TUNING, label="t", objective=DPO())

    def test_an_answer_without_a_value_is_named(self, ref, rendered, columns, tmp_path):
        options = {"tuning": TUNING, "label": "t", "objective": DPO(), "columns": columns[1:]}
        with pytest.raises(TrainError, match=f"1 of 22 lack it, such as {rendered[0].id[:8]}"):
            fine_tune(ref, examples(rendered, DPO()), tmp_path, **options)

    def test_single_answers_are_refused(self, ref, rendered, columns, tmp_path):
        options = {"tuning": TUNING, "label": "t", "objective": DPO(), "columns": columns}
        with pytest.raises(TrainError, match="takes 2 answers of an example"):
            fine_tune(ref, rendered, tmp_path, **options)


def test_a_training_ends_where_its_objective_says_so_killed_or_not(
    ref, rendered, columns, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    objective = LinearMargin(beta=1.0, max_h=20.0)
    options = {"tuning": replace(TUNING, epochs=9), "label": "t", "objective": objective, "columns": columns}
    given, step = examples(rendered, objective), Loop.step
    whole = fine_tune(ref, given, tmp_path / "whole", **options)
    assert 1 < whole.steps < 27

    def killed(self):
        step(self)
        if self.ended:
            raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Loop, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(ref, given, tmp_path / "killed", **options)
    assert fine_tune(ref, given, tmp_path / "killed", **options).steps == whole.steps
    one, two = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("whole", "killed"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_nll_counts_every_token_alike():
    nll, tokens = torch.tensor([[6.0], [2.0]]), torch.tensor([[3], [1]])
    assert float(NLL()(nll, {"response_tokens": tokens})) == 2.0


class TestPair:
    prompt = (Message(role="user", content="hot or cold?"),)
    hot, cold = (Message(role="assistant", content=text) for text in ("hot", "cold"))

    def test_its_answers_are_conversations_with_ids_of_their_own(self):
        pair = pair_of(self.prompt, self.hot, self.cold, source="s")
        chosen, rejected = answers_of(pair)
        assert chosen.messages == (*self.prompt, self.hot)
        assert rejected.messages == (*self.prompt, self.cold)
        assert len({pair.id, chosen.id, rejected.id}) == 3

    def test_the_side_is_part_of_its_identity(self):
        there, back = (
            pair_of(self.prompt, *answers, source="s")
            for answers in ((self.hot, self.cold), (self.cold, self.hot))
        )
        assert there.id != back.id

    def test_equal_answers_are_refused(self):
        with pytest.raises(DataError, match="both answers"):
            pair_of(self.prompt, self.hot, self.hot, source="s")

    def test_an_answer_of_the_user_is_refused(self):
        with pytest.raises(DataError, match="rejected answer is by 'user'"):
            pair_of(self.prompt, self.hot, self.prompt[0], source="s")
