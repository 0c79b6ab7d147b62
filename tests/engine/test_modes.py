"""Search steps on problems with a known answer, and what each mode promises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import SGD, FewGatesCarryTheSignal, t5_state, tiny_t5

from s3pet_viz.engine.gates import GateModel, binary_concrete, gate_probabilities
from s3pet_viz.engine.modes import MODES, central_difference, warmup_step
from s3pet_viz.engine.prune import Pruning
from s3pet_viz.engine.state import TRAIN_MASKS, State
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet import dropout
from s3pet_viz.structure import select


def pruning(mode, problem, steps=150):
    if mode != "prune":
        return {}
    made = Pruning(problem.counts, problem.budget, steps, constant_loss=problem.constant_loss("train"))
    return {"pruning": made}


def run(mode, steps=150, seed=0, **options):
    problem = FewGatesCarryTheSignal(seed=seed)
    gates = GateModel(problem.counts, problem.budget, **options.pop("gates", {}))
    options |= pruning(mode, problem, steps)
    state = State(problem, gates, lr=0.05, seed=seed, schedule=lambda s: 1 - s / steps, **options)
    for step in range(steps):
        MODES[mode](state, step)
    return problem, state


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["paper", "fast", "first-order", "exact", "prune"])
def test_known_answer(mode, seed):
    problem, state = run(mode, seed=seed)
    chosen = select(state.alpha.numpy(), problem.counts, problem.budget)
    assert set(chosen.tolist()) == problem.signal
    p = gate_probabilities(state.alpha, state.gates.solve(state.alpha))
    signal = sorted(problem.signal)
    noise = sorted(set(range(12)) - problem.signal)
    assert p[signal].min() > 2 * p[noise].max()
    assert float(p @ torch.tensor(problem.counts, dtype=p.dtype)) == pytest.approx(problem.budget, rel=1e-6)


def test_known_answer_at_another_temperature():
    problem, state = run("fast", steps=250, gates={"tau": 0.5})
    assert set(select(state.alpha.numpy(), problem.counts, problem.budget).tolist()) == problem.signal


def test_modes_agree_where_the_second_order_term_is_off():
    """fast without H is first-order, bit for bit."""
    first = run("first-order", steps=30)[1]
    fast = run("fast", steps=30, second_order_from=10**9)[1]
    assert torch.equal(first.alpha, fast.alpha)
    assert torch.equal(first.w.flat, fast.w.flat)
    assert not torch.equal(run("fast", steps=30)[1].alpha, first.alpha)


def test_the_second_order_term_is_capped_at_the_first():
    """The same step with and without a cap: the direction of xi H stays, its length is cut."""
    results = {}
    for cap in (None, 1e-3):
        state = t5_state(second_order_from=0, second_order_cap=cap, optimizer=SGD, lr=0.3)
        results[cap] = MODES["fast"](state, 0)
    direct = results[None].alpha_grad + 0.3 * results[None].hessian
    assert torch.equal(results[None].hessian, results[1e-3].hessian)
    cut = direct - results[1e-3].alpha_grad
    assert float(cut.norm()) == pytest.approx(1e-3 * float(direct.norm()), rel=1e-6)
    torch.testing.assert_close(cut / cut.norm(), results[None].hessian / results[None].hessian.norm())


def test_competition_lowers_the_others():
    alpha = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    for competition, sign in ((True, -1), (False, 0)):
        p = gate_probabilities(alpha, 1.0, competition=competition)
        (grad,) = torch.autograd.grad(p[0], alpha)
        assert grad[0] > 0
        assert (torch.sign(grad[1:]) == sign).all()
        # Its value is the same either way.
        np.testing.assert_allclose(p.detach(), 1 / (1 + np.exp(1.0 - np.linspace(-1, 1, 5))), rtol=1e-12)


@given(st.floats(1e-22, 1 - 1e-9), st.floats(1e-9, 1 - 1e-9))
@settings(deadline=None)
def test_binary_concrete_is_its_formula(p, u):
    z = float(binary_concrete(torch.tensor([p], dtype=torch.float64), torch.tensor([u], dtype=torch.float64)))
    q = min(p, 1 - 1e-7)
    odds = (u / (1 - u)) * (q / (1 - q))
    assert z == pytest.approx(odds / (1 + odds), rel=1e-9, abs=1e-300)


def test_every_gate_open_where_the_budget_holds_all():
    problem = FewGatesCarryTheSignal()
    state = State(problem, GateModel(problem.counts, 2 * sum(problem.counts)), lr=0.05)
    result = MODES["fast"](state, 0)
    assert result.zeta == -np.inf
    assert (result.p == 1).all()
    assert torch.isfinite(state.alpha).all()


def test_difference_passes_share_dropout_masks():
    """With dropout on, the same weights give the same loss in both passes, and H stays what it is without noise."""
    state = t5_state(tiny_t5(dropout=0.3))
    state.problem.net.train()
    z = state.sample(0).z
    first = state.run("train", 0, z, TRAIN_MASKS)
    torch.manual_seed(123)
    assert state.run("train", 0, z, TRAIN_MASKS).loss == first.loss
    assert state.run("train", 0, z, TRAIN_MASKS + 1).loss != first.loss  # the masks are real
    assert state.run("train", 1, z, TRAIN_MASKS).loss != first.loss
    v = torch.randn(state.w.flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, _ = central_difference(state, 0, z, v, 1e-3)
    fine, _ = central_difference(state, 0, z, v, 1e-4)
    assert float((coarse - fine).norm() / fine.norm()) < 1e-3  # other masks would differ by O(1 / eps)


def test_differences_leave_the_weights_bit_identical():
    state = t5_state()
    before = state.w.flat.clone()
    sample = state.sample(0)
    central_difference(state, 0, sample.z, torch.ones_like(before), 0.01)
    assert torch.equal(state.w.flat, before)


def test_warmup_moves_only_the_weights():
    state = t5_state()
    alpha, w = state.alpha.clone(), state.w.flat.clone()
    warmup_step(state, 0)
    assert torch.equal(state.alpha, alpha)
    assert not torch.equal(state.w.flat, w)


def test_paper_uses_the_same_draw_for_alpha_and_a_fresh_one_for_the_weights():
    state = t5_state()
    assert torch.equal(state.draw(3), state.draw(3))
    assert not torch.equal(state.draw(3), state.draw(3, 4))


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("half", ["train", "val"])
def test_non_finite_loss_names_step_and_loss(mode, half):
    problem = FewGatesCarryTheSignal()
    problem.y[int(half == "val")] = float("nan")
    state = State(problem, GateModel(problem.counts, problem.budget), **pruning(mode, problem, steps=10))
    if mode == "single-level" and half == "val":
        MODES[mode](state, 4)  # it never reads the val half
        return
    with warnings.catch_warnings(), pytest.raises(NonFiniteLossError, match=f"step 4: {half} loss is nan"):
        warnings.simplefilter("error")
        MODES[mode](state, 4)


def test_head_moves_at_its_own_rate():
    problem = FewGatesCarryTheSignal()
    problem.lr_scale = [1.0] * 11 + [0.0]
    state = State(problem, GateModel(problem.counts, problem.budget), lr=0.1)
    MODES["fast"](state, 0)
    assert problem.weights[11].abs().max() == 0
    assert problem.weights[2].abs().max() > 0


@pytest.mark.parametrize(("mode", "passes", "made"), [("fast", 3, 2), ("paper", 5, 3), ("first-order", 2, 2)])
def test_passes_with_equal_masks_make_them_once(mode, passes, made, monkeypatch):
    """The step is the same, bit for bit. A batch in parts keeps none."""
    count = []
    real = dropout._passed
    monkeypatch.setattr(dropout, "_passed", lambda *key: count.append(key) or real(*key))

    def step(**options):
        count.clear()
        model = tiny_t5(dropout=0.2).train()
        state = t5_state(model, second_order_from=0, **options)
        with dropout.quick_dropout(model):
            MODES[mode](state, 0)
        return state, len(count)

    state, shared = step()
    _, parts = step(accumulation=2)
    monkeypatch.setattr("s3pet_viz.engine.state.kept_masks", lambda masks: dropout.kept_masks(None))
    plain, alone = step()
    assert shared * passes == alone * made > 0
    assert parts == 2 * alone
    assert torch.equal(state.alpha, plain.alpha)
    assert torch.equal(state.w.flat, plain.w.flat)
