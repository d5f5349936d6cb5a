"""The losses of reward models against closed forms and finite differences, and at scores far out."""

from __future__ import annotations

import math

import pytest
import torch

from xtune.training.reward_losses import BOUND, EDGE, barrier, focal_ranking_loss, ranking_loss

MARGINS = [-30.0, -3.0, -0.5, 0.5, 3.0, 12.0]


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("margin", MARGINS)
def test_closed_forms(margin):
    p = 1 / (1 + math.exp(-margin))
    chosen, rejected = scores(margin + 1), scores(1)
    assert ranking_loss(chosen, rejected).item() == pytest.approx(-math.log(p), rel=1e-9)
    for gamma in (0, 0.5, 2):
        expected = -((1 - 2 * max(0, p - 0.5)) ** gamma) * math.log(p)
        found = focal_ranking_loss(chosen, rejected, gamma).item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-18)


def test_the_barrier_has_the_published_form_inside_and_goes_on_as_a_line():
    for x in (-4.9, -1.0, 0.0, 2.5, EDGE):
        assert barrier(scores(x)).item() == pytest.approx(-(math.log(x + 5) + math.log(5 - x)))
    outside = barrier(scores(-100, -6, -EDGE - 1e-9, EDGE + 1e-9, 6, 100))
    assert torch.equal(outside, outside.flip(0))
    slope = (outside[5] - outside[4]).item() / 94
    assert slope == pytest.approx(2 * EDGE / (BOUND**2 - EDGE**2))
    at = scores(EDGE - 1e-12, EDGE + 1e-12)  # no step, no kink
    values = barrier(at)
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-8)
    left, right = torch.autograd.grad(values.sum(), at)[0].tolist()
    assert left == pytest.approx(right, rel=1e-6)
    assert 0.02 * slope > 1.2  # what it pulls back with is more than any pair pushes with


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_those_of_finite_differences(gamma):
    chosen, rejected = scores(4.5, -0.5, 0.3, 5.5, -7.0), scores(1.0, 0.5, 0.1, -2.0, -4.0)
    assert torch.autograd.gradcheck(ranking_loss, (chosen, rejected))
    assert torch.autograd.gradcheck(lambda a, b: focal_ranking_loss(a, b, gamma), (chosen, rejected))
    assert torch.autograd.gradcheck(barrier, (chosen,))


@pytest.mark.parametrize("margin", [1e4, -1e4])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_far_out_losses_are_finite_and_lead_back(margin, gamma):
    chosen, rejected = (torch.tensor([side * margin / 2], requires_grad=True) for side in (1, -1))
    for loss in (focal_ranking_loss(chosen, rejected, gamma), ranking_loss(chosen, rejected)):
        for gradient in torch.autograd.grad(loss.sum(), (chosen, rejected)):
            assert gradient.isfinite()
            assert bool(gradient != 0) == (margin < 0)  # what is ranked right so clearly is learnt
    kept = focal_ranking_loss(chosen, rejected, gamma) + 0.02 * (barrier(chosen) + barrier(rejected))
    towards = torch.autograd.grad(kept.sum(), (chosen, rejected))
    assert kept.isfinite()
    assert [gradient.sign().item() for gradient in towards] == [
        math.copysign(1, margin),
        -math.copysign(1, margin),
    ]
