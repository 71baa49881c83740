import math
from types import SimpleNamespace

import pytest
import torch

from learner.objectives.dpo import dpo_loss, residual


def terms(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    policy = torch.stack([torch.as_tensor(policy_chosen), torch.as_tensor(policy_rejected)])
    reference = torch.stack([torch.as_tensor(reference_chosen), torch.as_tensor(reference_rejected)])
    loss, figures = dpo_loss(policy, reference, beta=beta)
    return SimpleNamespace(loss=loss, accuracy=figures["implicit_accuracy"], **figures)


def test_policy_equal_to_reference_costs_log_2():
    found = terms([0.3, 0.1], [0.7, 0.2], [0.3, 0.1], [0.7, 0.2], beta=2000.0)
    assert found.loss.tolist() == pytest.approx([math.log(2)] * 2)
    assert found.accuracy.tolist() == [0.0, 0.0]


def test_numbers_worked_out_by_hand():
    # chosen improved by 0.0005, rejected got worse by 0.0003; beta / 2 = 1000: rewards 0.5 and -0.3, margin 0.8
    found = terms([0.1000], [0.2003], [0.1005], [0.2000], beta=2000.0)
    assert found.chosen_reward.item() == pytest.approx(0.5, abs=2e-4)
    assert found.rejected_reward.item() == pytest.approx(-0.3, abs=2e-4)
    assert found.margin.item() == pytest.approx(0.8, abs=2e-4)
    assert found.loss.item() == pytest.approx(0.371101, abs=1e-4)  # log(1 + e^-0.8)
    assert found.accuracy.item() == 1.0


def test_gradient_at_the_start_is_a_quarter_of_beta_and_swapping_flips_it():
    chosen, rejected = torch.tensor([0.4], requires_grad=True), torch.tensor([0.9], requires_grad=True)
    slopes = torch.autograd.grad(terms(chosen, rejected, [0.4], [0.9], beta=100.0).loss.sum(), (chosen, rejected))
    assert slopes == (pytest.approx(25.0), pytest.approx(-25.0))
    swapped = terms(rejected, chosen, [0.9], [0.4], beta=100.0).loss.sum()
    assert torch.autograd.grad(swapped, (chosen, rejected)) == (pytest.approx(-25.0), pytest.approx(25.0))


def test_loss_and_gradient_of_a_two_parameter_model_equal_a_float64_derivation():
    torch.manual_seed(0)
    noisy_w, noisy_l, target_w, target_l = torch.randn(4, 3, 5, 2, dtype=torch.float64)
    reference, beta = (0.3, -0.2), 7.0

    def model(noisy, a, b):
        return a * noisy + b * noisy.square()

    exact = torch.tensor([0.5, 0.1], dtype=torch.float64, requires_grad=True)

    def error(noisy, target, weights):
        return ((model(noisy, *weights) - target) ** 2).sum(dim=(1, 2)) / (5 * 2)

    inside = (error(noisy_w, target_w, exact) - error(noisy_w, target_w, reference)) - (
        error(noisy_l, target_l, exact) - error(noisy_l, target_l, reference)
    )
    wanted = torch.log1p(torch.exp(beta / 2 * inside))

    weights = torch.tensor([0.5, 0.1], requires_grad=True)
    win, lose, tw, tl = (tensor.float() for tensor in (noisy_w, noisy_l, target_w, target_l))
    found = terms(
        policy_chosen=residual(model(win, *weights), tw),
        policy_rejected=residual(model(lose, *weights), tl),
        reference_chosen=residual(model(win, *reference), tw),
        reference_rejected=residual(model(lose, *reference), tl),
        beta=beta,
    )
    torch.testing.assert_close(found.loss.double(), wanted, rtol=1e-5, atol=1e-6)
    (slope,), (exact_slope,) = torch.autograd.grad(found.loss.sum(), weights), torch.autograd.grad(wanted.sum(), exact)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.margin, found.chosen_reward - found.rejected_reward)
    assert not any(figure.requires_grad for figure in (found.accuracy, found.margin, found.chosen_reward))


def test_a_margin_far_out_neither_overflows_nor_loses_its_gradient():
    bad = torch.tensor([1.0], requires_grad=True)
    loss = terms(bad, [0.0], [0.0], [0.0], beta=2e6).loss
    (slope,) = torch.autograd.grad(loss.sum(), bad)
    assert (loss.item(), slope.item()) == pytest.approx((1e6, 1e6))
    assert terms([0.0], [1.0], [0.0], [0.0], beta=2e6).loss.item() == 0.0


def test_residual_is_a_float32_mean_over_elements_even_of_bf16():
    velocity = torch.full((2, 3, 4), 256.0, dtype=torch.bfloat16)
    target = torch.full((2, 3, 4), 255.0)  # bf16 arithmetic would make the difference 0
    target[1] = 253.0
    found = residual(velocity, target)
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, 9.0]


def test_residual_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        residual(torch.zeros(2, 3), torch.zeros(1, 3))
