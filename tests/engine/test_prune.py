"""Pruning from open gates: what is open when, what stands still, and what is said of the task."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from search_problems import FewGatesCarryTheSignal, StopAt, t5_state, toy_search

from s3pet_viz.analysis.health import health
from s3pet_viz.engine import Callback, SearchConfig, search
from s3pet_viz.engine.api import make_state
from s3pet_viz.engine.checkpoint import FILE, load_checkpoint, save_checkpoint
from s3pet_viz.engine.modes import prune_step
from s3pet_viz.engine.optim import AdamW
from s3pet_viz.engine.prune import PausingAdamW, Pruning
from s3pet_viz.engine.state import TRAIN_MASKS
from s3pet_viz.errors import ConfigError, NonFiniteLossError, RunError
from s3pet_viz.structure import select
from s3pet_viz.structure.structure import Structure

COUNTS = (3,) * 12


def state_of(problem, steps=60, **options):
    config = SearchConfig("toy", "toy", problem.budget, mode="prune", steps=steps, schedule="constant", **options)
    return make_state(problem, problem.counts, problem.budget, config, 0.05)


def take(state, steps, first=0):
    for step in range(first, first + steps):
        prune_step(state, step)


class Masks(Callback):
    """The open gates of each step, their weights and moments, and the budget held."""

    def __init__(self):
        self.masks, self.held, self.weights, self.moments = [], [], [], []

    def on_search_begin(self, search):
        self.next = search.state.pruning.mask().numpy()

    def on_step_end(self, search, step, result):
        state = search.state
        self.masks.append(self.next)
        self.held.append(state.gates.budget)
        self.weights.append([w.clone() for w in state.w.split(state.w.flat)])
        moments = (state.w_opt.m, state.w_opt.v, state.w_opt.ages.float())
        self.moments.append([torch.stack(parts) for parts in zip(*(m.split(state.w.sizes) for m in moments), strict=True)])
        self.next = state.pruning.mask().numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_budget_is_exact_at_every_step_and_the_planted_gates_are_found(tmp_path, seed):
    problem, seen = FewGatesCarryTheSignal(seed=seed), Masks()
    run = toy_search(
        tmp_path / "run", mode="prune", steps=80, lr=0.05, problem=problem, callbacks=[seen], schedule="constant"
    )
    counts = np.array(COUNTS)
    held, masks, opened = np.array(seen.held), np.array(seen.masks), run.pruning["open_steps"]
    np.testing.assert_allclose(run.ps().astype(np.float64) @ counts, held, rtol=1e-5)
    assert (held[:opened] == counts.sum()).all()
    assert masks[:opened].all()
    assert (np.diff(held) <= 0).all()
    assert (held[run.pruning["at_budget"] :] == 9).all()
    assert (masks @ counts <= held).all()
    assert (masks @ counts > held - 3).all()
    # Each mask is what a reader selects from the alpha of the step before, at the budget held.
    for step in range(1, 80):
        chosen = select(run.alphas()[step - 1], counts, held[step])
        assert np.flatnonzero(masks[step]).tolist() == chosen.tolist()
    assert {g.index for g in run.structure().gates} == problem.signal
    assert run.structure().n_params == 9
    assert run.structure().source["task_learned"] == run.structure(budget=6).source["task_learned"] == "learned"
    assert not [f for f in health(run) if f.level == "problem" or "learned" in f.title]
    # The rate suits the open gates, and what the step log says of it is what was used.
    np.testing.assert_allclose(run.steps()["lr"], 0.05 * np.sqrt(9 / held))


def test_gates_of_unlike_sizes(tmp_path):
    problem, seen = FewGatesCarryTheSignal(), Masks()
    problem.counts = [3, 5, 7, 2] * 3
    toy_search(
        tmp_path / "run", mode="prune", steps=60, lr=0.05, counts=problem.counts, budget=20, problem=problem, callbacks=[seen]
    )
    assert all(mask @ problem.counts <= held for mask, held in zip(seen.masks, seen.held, strict=True))
    assert seen.masks[-1] @ problem.counts > 20 - 7


def test_weights_and_moments_of_closed_gates_stand_still(tmp_path):
    seen = Masks()
    toy_search(tmp_path / "run", mode="prune", steps=60, lr=0.05, callbacks=[seen], problem=FewGatesCarryTheSignal())
    closed = 0
    for step in range(1, 60):
        for gate, on in enumerate(seen.masks[step]):
            still = torch.equal(seen.weights[step][gate], seen.weights[step - 1][gate])
            assert still == (not on), (step, gate)
            if not on:
                closed += 1
                assert torch.equal(seen.moments[step][gate], seen.moments[step - 1][gate])
    assert closed > 100


def test_a_closed_gate_comes_back_as_it_was():
    problem = FewGatesCarryTheSignal(signal=(2, 7, 9))
    state = state_of(problem)
    take(state, 25)
    before = [w.clone() for w in state.w.split(state.w.flat)]
    assert min(float(before[i].norm()) for i in problem.signal) > 0.1
    # At the budget, and the score of every gate wrong: the gates that matter are closed.
    pruning = state.pruning
    pruning.opened, pruning.shrunk = 20, 60
    pruning.scores = torch.full((12,), 1e-3, dtype=torch.float64)
    pruning.scores[[0, 1, 3]] = 1e-2
    state.alpha = pruning.alpha
    assert torch.nonzero(pruning.mask()).flatten().tolist() == [0, 1, 3]
    for step in range(25, 60):
        prune_step(state, step)
        came = set(torch.nonzero(pruning.mask()).flatten().tolist()) & problem.signal
        for gate in problem.signal - came:
            assert torch.equal(state.w.split(state.w.flat)[gate], before[gate])
        if came:
            break
    assert came
    take(state, 10, first=step + 1)
    assert set(torch.nonzero(pruning.mask()).flatten().tolist()) == problem.signal


def test_one_pass_gives_the_derivative_of_every_gate_and_of_the_open_weights_alone():
    state = t5_state()
    state.w.set(state.w.flat + 0.02 * torch.randn(state.w.flat.shape, dtype=torch.float64))
    z = torch.ones(len(state.gates.counts), dtype=torch.float64)
    z[::3] = 0
    found = state.run("train", 0, z, TRAIN_MASKS)
    assert (found.dz[::3] != 0).float().mean() > 0.9
    for gate in (0, 3, 6, 1):
        losses = []
        for way in (1e-5, -1e-5):
            moved = z.clone()
            moved[gate] += way
            losses.append(state.run("train", 0, moved, TRAIN_MASKS, dw=False).loss)
        assert float(found.dz[gate]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-9)
    owners = state.problem.gate_of
    for gate, grad in zip(owners, state.w.split(found.dw), strict=True):
        assert bool((grad == 0).all()) == (gate % 3 == 0), gate


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=12))
def test_a_pausing_optimiser_is_one_of_its_own_for_each_weight(steps):
    start = torch.tensor([0.3, -0.7], dtype=torch.float64)
    both, w = PausingAdamW(start), start.clone()
    alone = [(AdamW(start[i : i + 1]), start[i : i + 1].clone()) for i in range(2)]
    for first, second, g in steps:
        both.moving = torch.tensor([first, second])
        grad = torch.tensor([g + 0.5, 0.1 * g - 0.2], dtype=torch.float64)
        w = both.update(w, grad, 0.1)
        for i, on in enumerate((first, second)):
            if on:
                optimizer, own = alone[i]
                alone[i] = optimizer, optimizer.update(own, grad[i : i + 1], 0.1)
    torch.testing.assert_close(w, torch.cat([own for _, own in alone]), rtol=1e-12, atol=1e-15)


# -- phases --------------------------------------------------------------------------------------------------

LOSSES = st.floats(0.01, 3)


@given(
    steps=st.integers(1, 60), losses=st.lists(LOSSES, min_size=60, max_size=60), held_out=st.lists(LOSSES, min_size=60, max_size=60),
    constant=st.sampled_from([None, 0.7]), opened=st.integers(0, 20), shrink=st.integers(0, 20), budget=st.sampled_from([3, 9, 36, 50]),
)  # fmt: skip
def test_whatever_the_losses_it_ends_at_the_budget(steps, losses, held_out, constant, opened, shrink, budget):
    if opened + shrink >= steps:
        opened = shrink = 0
    given = {"open_steps": opened, "shrink_steps": shrink, "constant_loss": constant}
    pruning = Pruning(COUNTS, budget, steps, **given)
    before, held = math.inf, []
    for step in range(steps):
        # As a resumed search would have it.
        again = Pruning(COUNTS, budget, steps, **given)
        again.load(json.loads(json.dumps(pruning.state(), allow_nan=False)), pruning.scores.clone())
        pruning = again
        held.append(pruning.held)
        assert min(budget, 36) <= held[-1] <= max(36, budget)
        assert held[-1] <= before
        before = held[-1]
        assert 0 < pruning.factor <= 1
        assert pruning.mask().sum() == min(held[-1] // 3, 12)
        pruning.see(losses[step], torch.linspace(0, 1, 12, dtype=torch.float64))
        pruning.advance(step, held_out[step] if pruning.looks(step) else None)
        json.dumps(pruning.report(), allow_nan=False)
    assert held[-1] == budget
    assert pruning.opened is not None
    assert pruning.opened <= (opened or math.ceil(0.6 * steps))
    at = pruning.at_budget
    assert held[at] == budget
    if not shrink:
        assert steps - at >= math.floor(0.2 * (steps - pruning.opened))
    # Where the loss never exceeds what was learned, it does not wait either.
    assert (pruning.learned is None) == (constant is None or steps == 1)


def fed(pruning, losses, held_out, first=0):
    for step, loss in enumerate(losses, first):
        pruning.see(loss, torch.ones(len(pruning.counts), dtype=torch.float64))
        pruning.advance(step, held_out if pruning.looks(step) else None)


def test_the_open_phase_ends_by_what_was_learned():
    early, late, never = (Pruning(COUNTS, 9, 200, constant_loss=1.0) for _ in range(3))
    fed(early, [0.5] * 100, 0.5)
    fed(late, [1.0] * 60 + [0.5] * 40, 0.5)
    fed(never, [1.0] * 120, 1.0)
    assert early.opened == 20  # the second look: as low as the first
    assert early.opened < late.opened < never.opened == 120
    assert (early.learned, late.learned, never.learned) == (True, True, False)
    assert [p.verdict for p in (early, late, never)] == ["learned", "learned", "not learned"]
    assert "NOT LEARNED" in never.phase
    # Learned on the rows that it trains on, and not on others.
    overfit = Pruning(COUNTS, 9, 200, constant_loss=1.0)
    fed(overfit, [0.1] * 120, 1.2)
    assert (overfit.opened, overfit.verdict) == (120, "not learned")
    # While a look still gains, it stays open.
    gaining = Pruning(COUNTS, 9, 200, constant_loss=1.0)
    for step in range(60):
        fed(gaining, [0.5], 0.9 - step / 100, first=step)
    assert gaining.opened is None


def test_held_out_rows_are_compared_with_one_answer_to_themselves():
    for spread, learned in ((0.7, False), (1.5, True)):
        pruning = Pruning(COUNTS, 9, 40, constant_loss=1.0, held_out_constant=spread)
        fed(pruning, [0.5] * 40, 0.8)
        assert pruning.learned == learned
        assert pruning.report()["held_out_constant"] == spread


def test_the_budget_waits_until_the_loss_allows():
    pruning = Pruning(COUNTS, 3, 400, constant_loss=1.0)
    fed(pruning, [0.4] * 40, 0.4)
    assert pruning.opened == 40
    fed(pruning, [0.4] * 30, 0.4, first=40)
    assert pruning.shrunk == 31
    held = pruning.held
    fed(pruning, [1.0] * 60, 1.0, first=70)
    assert 0.8 * held < pruning.held  # the mean of losses needs a few steps to rise
    waited = pruning.shrunk
    fed(pruning, [0.4] * 40, 0.4, first=130)
    assert pruning.shrunk > waited + 25
    # At last there is no more time to wait: 72 steps (a fifth of 360) are spent at the budget.
    fed(pruning, [1.0] * 230, 1.0, first=170)
    assert pruning.at_budget == 400 - 72
    assert pruning.verdict == "lost"


def test_the_rate_is_halved_where_nothing_is_learned():
    stuck, falling = (Pruning(COUNTS, 9, 400, constant_loss=1.0) for _ in range(2))
    fed(stuck, [1.0] * 199, 1.0)
    fed(falling, np.linspace(6, 1, 199), 1.0)
    assert stuck.opened is falling.opened is None
    assert stuck.factor < math.sqrt(9 / 36) == falling.factor
    assert stuck.factor == math.sqrt(9 / 36) * 0.5**stuck.halvings
    assert 1 <= stuck.halvings <= 3


def test_the_rate_that_is_told_is_the_one_that_was_used(tmp_path):
    """In the step in which the task turns out to be learned, too: the decay begins with the next one."""
    seen = []

    class Look(StopAt):
        def on_step_end(self, search, step, result):
            seen.append(search.lr)

    problem = FewGatesCarryTheSignal()
    run = toy_search(tmp_path / "run", mode="prune", steps=80, lr=0.05, problem=problem, callbacks=[Look(-1)])
    rates, opened = run.steps()["lr"].to_numpy(), run.pruning["open_steps"]
    assert 0 < opened < 48
    np.testing.assert_allclose(rates, seen)
    np.testing.assert_allclose(rates[:opened], 0.05 * math.sqrt(9 / 36))
    held = run.ps().astype(np.float64) @ np.array(COUNTS)
    decay = (80 - np.arange(opened, 80)) / (80 - opened)
    np.testing.assert_allclose(rates[opened:], 0.05 * np.sqrt(9 / held[opened:]) * decay, rtol=1e-5)


# -- whole searches ------------------------------------------------------------------------------------------


def test_a_task_that_is_not_learned_is_told_before_a_structure_is_handed_out(tmp_path, capsys):
    problem, told = FewGatesCarryTheSignal(), []
    problem.y = torch.randn(problem.y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Look(StopAt):
        def on_step_end(self, search, step, result):
            told.append((search.state.pruning.opened, dict(search.writer.info.get("pruning", {}))))

    run = toy_search(tmp_path / "run", mode="prune", steps=60, problem=problem, callbacks=[Look(-1)], lr=1e-3)
    assert run.pruning["task"] == "not learned"
    assert run.pruning["open_steps"] == 36  # the cap
    assert told[34] == (None, {})
    assert told[35][1]["task"] == "not learned"  # long before there is a structure
    assert run.structure().source["task_learned"] == "not learned"
    assert Structure.load(run.path / "structure.json").source["task_learned"] == "not learned"
    (finding,) = [f for f in health(run) if "before the task was learned" in f.title]
    assert finding.level == "problem"
    assert "36 steps" in finding.text
    assert f"{run.pruning['held_out_loss']:.3g}" in finding.text
    assert run.structure().n_params <= 9


def test_what_was_learned_and_lost_is_told(tmp_path):
    problem = FewGatesCarryTheSignal(n_gates=30, signal=range(30))
    run = toy_search(
        tmp_path / "run", mode="prune", steps=100, counts=(3,) * 30, budget=3, problem=problem, lr=0.2, schedule="constant"
    )
    assert run.pruning["task"] == "lost"
    assert run.structure().source["task_learned"] == "lost"
    assert "lost while the budget shrank" in str(health(run))


def test_progress_says_in_which_phase_it_is(tmp_path, capsys, monkeypatch):
    said = []
    monkeypatch.setattr("s3pet_viz.engine.loop.tqdm.set_postfix", lambda self, *a, **k: said.append(str(a)), raising=False)
    toy_search(tmp_path / "run", mode="prune", steps=20, lr=1e-6)
    assert "every gate open" in said[0]
    assert "NOT LEARNED" in said[-1]


@pytest.mark.parametrize("at", [3, 13, 21, 27])
def test_a_state_that_is_saved_and_loaded_goes_on_bit_for_bit(tmp_path, at):
    whole, first, second = (state_of(FewGatesCarryTheSignal(), steps=30) for _ in range(3))
    take(whole, at)
    take(first, at)
    save_checkpoint(tmp_path, first, next_step=at, fingerprint={})
    assert load_checkpoint(tmp_path, second, fingerprint={}) == at
    for step in range(at, 30):
        assert torch.equal(whole.pruning.mask(), second.pruning.mask())
        prune_step(whole, step)
        prune_step(second, step)
    assert torch.equal(whole.w.flat, second.w.flat)
    assert torch.equal(whole.pruning.scores, second.pruning.scores)
    assert whole.pruning.state() == second.pruning.state()


@pytest.mark.parametrize(
    "wrong",
    [
        {"opened": -1}, {"opened": "3"}, {"learned": 1}, {"loss": "0"}, {"shrunk": None}, {"halvings": 1.5}, {"at_budget": 99},
        None, 3,
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_checkpoint_is_told(tmp_path, wrong):
    state = state_of(FewGatesCarryTheSignal(), steps=30)
    take(state, 5)
    save_checkpoint(tmp_path, state, next_step=5, fingerprint={})
    tensors = load_file(tmp_path / FILE)
    kept = {**state.pruning.state(), **wrong} if isinstance(wrong, dict) else wrong
    save_file(tensors, tmp_path / FILE, {"next_step": "5", "fingerprint": "{}", "pruning": json.dumps(kept)})
    with pytest.raises(RunError, match="checkpoint is damaged"):
        load_checkpoint(tmp_path, state_of(FewGatesCarryTheSignal(), steps=30), fingerprint={})


def test_a_checkpoint_of_another_mode_is_told(tmp_path):
    problem = FewGatesCarryTheSignal()
    config = SearchConfig("toy", "toy", problem.budget, steps=30)
    save_checkpoint(tmp_path, make_state(problem, problem.counts, 9, config, 0.05), next_step=5, fingerprint={})
    with pytest.raises(RunError, match="checkpoint is damaged"):
        load_checkpoint(tmp_path, state_of(FewGatesCarryTheSignal(), steps=30), fingerprint={})


def test_a_head_moves_throughout_at_its_own_rate():
    problem = FewGatesCarryTheSignal()
    problem.gate_of[11] = -1
    state = state_of(problem)
    pruning = state.pruning
    moved = []
    for step in range(60):
        before = [w.clone() for w in state.w.split(state.w.flat)]
        prune_step(state, step)
        moved.append([float((w - b).abs().max()) for w, b in zip(state.w.split(state.w.flat), before, strict=True)])
    assert pruning.at_budget is not None
    assert all(row[11] > 0 for row in moved)
    # AdamW's first step has the length of the rate.
    assert moved[0][11] == pytest.approx(0.05, rel=1e-4)
    assert moved[0][2] == pytest.approx(0.05 * math.sqrt(9 / 36), rel=1e-4)


def test_gradients_of_gates_that_are_not_finite_are_refused():
    state = state_of(FewGatesCarryTheSignal())
    found = state.run
    state.run = lambda *a, **k: found(*a, **k).__class__(0.5, torch.full((12,), math.nan), torch.zeros(36))
    with pytest.raises(NonFiniteLossError, match="step 3: the gradient of the gates"):
        prune_step(state, 3)


def test_the_end_by_a_structure_at_rest_counts_evaluations_at_the_budget(tmp_path):
    run = toy_search(
        tmp_path / "run", mode="prune", steps=200, lr=0.05, eval_every=2, stop_when_stable=3,
        problem=FewGatesCarryTheSignal(), schedule="constant",
    )  # fmt: skip
    assert run.early_stop
    assert run.pruning["at_budget"] + 7 <= run.n_steps < 200
    assert run.structure().source["task_learned"] == "learned"
    selected = run.evals()["selected"].tolist()
    assert [list(s) for s in selected[-4:]] == [[2, 7, 9]] * 4


def test_an_interrupted_run_is_judged_by_the_budget_of_its_step(tmp_path):
    for stop in (5, 15, 24, 33):
        run = toy_search(tmp_path / str(stop), mode="prune", steps=40, lr=0.05, callbacks=[StopAt(stop)])
        assert run.status == "stopped"
        assert not [f for f in health(run) if f.title == "The budget is not kept"]


def test_it_trains_on_all_rows_and_looks_at_others(go):
    class Rows(Callback):
        def on_search_begin(self, search):
            self.features = search.state.problem.batch.__self__.features

    rows, halves = Rows(), Rows()
    run = go("prune", mode="prune", callbacks=[rows], steps=2)
    go("fast", callbacks=[halves], steps=2)
    assert len(rows.features["train"]) == run.info["fingerprint"]["training rows"]
    assert len(halves.features["train"]) == len(rows.features["train"]) // 2
    trained, looked = ({e.source for e in rows.features[half].examples} for half in ("train", "val"))
    assert len(looked) > 0
    assert trained != looked


def test_a_budget_that_holds_the_whole_space(tmp_path):
    run = toy_search(tmp_path / "run", mode="prune", steps=12, budget=36, problem=FewGatesCarryTheSignal())
    assert len(run.structure().gates) == 12


@pytest.mark.parametrize("option", [{"warmup": 3}, {"skip_below": 1e-3}, {"start_from": "sentiment-0.2pct-s0"}])
def test_options_that_mean_nothing_here_are_refused(option):
    (name,) = option
    with pytest.raises(ConfigError, match=f"{name}: cannot be used with mode 'prune'"):
        SearchConfig("mood", "tiny", 9, mode="prune", **option)


def test_resumed_in_each_phase(go):
    common = {"steps": 12, "mode": "prune", "checkpoint_every": 3, "dropout": True}
    whole = go("whole", **common)
    for at in (2, 7, 10):
        part = go(f"part{at}", callbacks=[StopAt(at)], **common)
        resumed = search(resume=part.path, progress=False)
        np.testing.assert_array_equal(resumed.alphas(), whole.alphas())
        np.testing.assert_array_equal(resumed.ps(), whole.ps())
        assert resumed.pruning == whole.pruning


def test_closed_gates_are_left_out_once_they_stand_still(tmp_path):
    """The numbers of the open ones are the same, to the bit."""
    state = t5_state()
    z = (torch.arange(len(state.gates.counts)) % 3 == 0).double()
    whole, part = (state.run("train", 0, z, TRAIN_MASKS, closed=closed) for closed in (True, False))
    assert part.loss == whole.loss
    torch.testing.assert_close(part.dz, whole.dz * z, rtol=0, atol=0)
    of_open = torch.cat([torch.full((n,), float(z[i])) for n, i in zip(state.w.sizes, state.problem.gate_of, strict=True)])
    torch.testing.assert_close(part.dw, whole.dw * of_open, rtol=0, atol=0)
    assert whole.dz[z == 0].any()

    class LeftOut(Callback):
        def on_step_end(self, search, step, result):
            seen.append((search.state.pruning.stands_still(step), len(search.state.problem.closed)))

    seen = []
    toy_search(tmp_path / "run", mode="prune", steps=40, callbacks=[LeftOut()])
    assert {count for still, count in seen if not still} == {0}
    assert {count for still, count in seen if still} - {0} == {9}  # 0 where a look followed
