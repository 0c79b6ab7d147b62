"""The flat optimisers equal torch's, clipping and decay do what they say."""

from __future__ import annotations

import math

import pytest
import torch
from search_problems import SGD, FewGatesCarryTheSignal
from torch import nn

from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.modes import first_order_step
from s3pet_viz.engine.optim import AdamW, FlatWeights, clip_
from s3pet_viz.engine.state import State


def test_adamw_is_torchs():
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(7, dtype=torch.float64, generator=generator))
    theirs = torch.optim.AdamW([p], lr=0.1, weight_decay=0.0)
    ours, w = AdamW(p.detach()), p.detach().clone()
    for k in range(30):
        g = torch.randn(7, dtype=torch.float64, generator=generator) * 10.0 ** (k % 5 - 3)
        lr = 0.1 * (1 - k / 30)
        theirs.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        theirs.step()
        peeked = ours.peek(w, g, lr)
        w = ours.update(w, g, lr)
        assert torch.equal(peeked, w)
        torch.testing.assert_close(w, p.detach(), rtol=1e-12, atol=1e-14)


def test_peek_moves_nothing():
    opt, w, g = AdamW(torch.zeros(3)), torch.zeros(3), torch.ones(3)
    opt.update(w, g, 0.1)
    before = {k: v.clone() for k, v in opt.state().items()}
    opt.peek(w, 5 * g, 0.1)
    assert all(torch.equal(v, before[k]) for k, v in opt.state().items())


def test_slope_is_the_derivative_of_the_step_at_constant_second_moments():
    opt = AdamW(torch.zeros(4, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    w = torch.zeros(4, dtype=torch.float64)
    for _ in range(25):
        w = opt.update(w, torch.randn(4, dtype=torch.float64, generator=generator), 0.1)
    m, v, t = opt.m.clone(), opt.v.clone(), opt.t

    def step(shift):  # the last step again, with its gradient moved and v held
        moved = m + (1 - opt.beta1) * shift
        return -0.1 * (moved / (1 - opt.beta1**t)) / (v.sqrt() / math.sqrt(1 - opt.beta2**t) + opt.eps)

    eps = 1e-6
    numeric = (step(torch.full((4,), eps)) - step(torch.full((4,), -eps))) / (2 * eps)
    torch.testing.assert_close(-0.1 * opt.slope(), numeric, rtol=1e-6, atol=0)


def test_slope_is_zero_without_gradient_history():
    opt = AdamW(torch.zeros(6), sizes=[3, 3])
    opt.update(torch.zeros(6), torch.tensor([0.0, 0.0, 0.0, 1.0, 1e-9, 0.5]), 0.1)
    slope = opt.slope()
    assert slope[:3].tolist() == [0, 0, 0]  # a whole tensor that has seen nothing (LoRA's A while B is zero)
    assert slope[4] == 0
    assert (slope[[3, 5]] > 0).all()


def test_clip_is_joint_and_only_shrinks():
    grad = torch.tensor([3.0, 4.0])
    assert clip_(grad, 10.0) == 1.0
    assert grad.tolist() == [3, 4]
    factor = clip_(grad, 2.0)
    assert factor == pytest.approx(0.4, rel=1e-6)
    assert float(grad.norm()) == pytest.approx(2.0, rel=1e-6)
    unclipped = torch.tensor([3.0, 4.0])
    clip_(unclipped, 0.0)
    assert unclipped.tolist() == [3, 4]


@pytest.mark.parametrize("clip", [0.0, 1e-4])
def test_the_weights_gradient_is_clipped(clip):
    """SGD makes the clipped gradient visible: the step is lr times it."""
    problem = FewGatesCarryTheSignal()
    state = State(problem, GateModel(problem.counts, problem.budget), lr=1.0, clip=clip)
    state.w_opt = SGD(state.w.flat)
    before = state.w.flat.clone()
    first_order_step(state, 0)
    moved = float((state.w.flat - before).norm())
    assert moved == pytest.approx(clip, rel=1e-3) if clip else moved > 1e-2


def test_alphas_gradient_is_clipped_apart():
    problem = FewGatesCarryTheSignal()
    state = State(problem, GateModel(problem.counts, problem.budget), lr=0.1)
    grad = torch.full((12,), 100.0, dtype=torch.float64)
    state.move_alpha(grad, 0)
    # AdamW's first step is the rate, whatever the gradient's size; its moment holds the clipped gradient.
    assert float(state.alpha_opt.m.norm()) == pytest.approx(0.1 * 2.0, rel=1e-6)


def test_decay_is_linear_to_zero_and_reaches_both_rates():
    config = SearchConfig("t", "b", 0.1, steps=10)
    assert [config.schedule_at(s) for s in (0, 5, 9, 10)] == pytest.approx([1.0, 0.5, 0.1, 0.0])
    assert SearchConfig("t", "b", 0.1, steps=10, schedule="constant").schedule_at(9) == 1.0
    problem = FewGatesCarryTheSignal()
    state = State(
        problem, GateModel(problem.counts, problem.budget), lr=0.5, alpha_lr=0.1, schedule=config.schedule_at
    )
    first_order_step(state, 0)
    assert float(state.alpha.abs().max()) == pytest.approx(0.1, rel=1e-4)
    assert float(state.w_lr(5).max()) == pytest.approx(0.25)
    frozen = state.alpha.clone()
    first_order_step(state, 10)
    assert torch.equal(state.alpha, frozen)


def test_flat_weights_are_views_and_swap_in_place():
    parameters = [nn.Parameter(torch.arange(3.0)), nn.Parameter(torch.ones(2, 2))]
    flat = FlatWeights(parameters)
    pointers = [p.data_ptr() for p in parameters]
    flat.set(torch.arange(7.0))
    assert parameters[0].tolist() == [0, 1, 2]
    assert parameters[1].tolist() == [[3, 4], [5, 6]]
    assert [p.data_ptr() for p in parameters] == pointers
    assert flat.join([None, torch.ones(2, 2)]).tolist() == [0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(TypeError, match="one dtype"):
        FlatWeights([torch.zeros(1), torch.zeros(1, dtype=torch.float64)])
