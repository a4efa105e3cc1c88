"""Rewards learned from demonstrations: the losses by hand, toys with known ends by exact enumeration, and the command."""

import math

import pytest
import torch

from learnable.errors import UsageError
from learnable.objectives import DPO, HingeMargin, LinearMargin

LOSSES = {"sigmoid": DPO, "hinge": HingeMargin, "linear": LinearMargin}
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
