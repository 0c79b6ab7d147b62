"""Measures with known answers, and health: each finding on a run made to deserve it, none on a good one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s3pet_viz.analysis.health import Finding, Findings, health
from s3pet_viz.analysis.measures import chance_overlap, entropy, jaccard, need_sizes, random_structures, spearman
from s3pet_viz.errors import StructureError
from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, Structure, probabilities, solve_shift
from s3pet_viz.structure.budget import expected_params


def test_entropy():
    np.testing.assert_allclose(entropy([0, 1, 0.5, 0.25]), [0, 0, 1, 2 - 0.75 * math.log2(3)])
    assert np.isnan(entropy([np.nan]))[0]
    assert entropy(np.full((2, 3), 0.5)).shape == (2, 3)


def test_expected_params():
    assert expected_params([0.5, 0.25], [10, 100]) == 30
    np.testing.assert_allclose(expected_params([[1, 0], [0.5, 0.5]], [10, 100]), [10, 55])


def gate(i: int, size: int = 10, pet: str = "BitFit") -> Gate:
    return Gate(i, f"encoder.block.{i}", "encoder", i, "SelfAttn.Q", pet, size)


def test_jaccard():
    a, b = Structure((gate(0), gate(1, 30))), Structure((gate(1, 30), gate(2, 60)))
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a.keys, list(b.keys)) == pytest.approx(1 / 3)
    assert a.overlap(b, weighted=True) == pytest.approx(0.3)
    assert jaccard(Structure(()), Structure(())) == 1
    with pytest.raises(StructureError, match="size of gate encoder.block.0 BitFit is not known.*backbone='t5-large'"):
        need_sizes([gate(0, 0)], "overlap by parameters")


@given(hnp.arrays(float, st.integers(2, 30), elements=st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.0])), st.integers(0, 99))
def test_spearman_is_scipys(p, seed):
    q = np.random.default_rng(seed).permutation(p) + np.linspace(0, 1e-3, len(p))
    if len(set(p)) == 1:
        assert math.isnan(spearman(p, q))
    else:
        assert spearman(p, q) == pytest.approx(scipy.stats.spearmanr(p, q).statistic)
    assert math.isnan(spearman([1.0], [2.0]))


def test_chance_of_equal_gates_is_known():
    """10 of 100 equal gates twice: the overlap is hypergeometric with mean 1."""
    draws = [random_structures([5] * 100, 50, draws=4000, seed=s) for s in (0, 1)]
    assert all((d.sum(axis=1) == 10).all() for d in draws)
    np.testing.assert_allclose(draws[0].mean(axis=0), 0.1, atol=0.025)
    k = np.arange(11)
    exact = scipy.stats.hypergeom(100, 10, 10).pmf(k) @ (k / (20 - k))
    chance = chance_overlap(*draws)
    assert chance.mean == pytest.approx(exact, abs=0.003)
    assert chance.low == 0
    assert chance.high == pytest.approx(3 / 17)
    assert np.array_equal(random_structures([5] * 9, 20, draws=3, seed=4), random_structures([5] * 9, 20, draws=3, seed=4))


def test_random_structures_keep_the_budget():
    counts = np.array([3, 50, 7, 11, 20, 4])
    drawn = random_structures(counts, 30, draws=300, seed=0)
    used = drawn @ counts
    assert used.max() <= 30
    assert not drawn[:, 1].any()
    assert all((counts[~row] > 30 - u).all() for row, u in zip(drawn, used, strict=True))  # nothing left fits
    weighted = chance_overlap(drawn, drawn, counts)
    assert weighted == (1, 1, 1)


# -- health ------------------------------------------------------------------------------------------------

BUDGET = 300


def write(path: Path, alpha, *, n_steps=200, loss=None, gates=None, budget=BUDGET, status="finished", seed=0, p=None, config=(), train=None, **more) -> Run:
    """A run whose alpha at step t is ``alpha(t / (n_steps - 1))``."""
    gates = gates or [gate(i, pet="LoRA" if i % 2 else "BitFit") for i in range(100)]
    counts = np.array([g.n_params for g in gates])
    rng = np.random.default_rng(seed)
    facts = {"backbone": "tiny", "backbone_params": 10**6, "budget": budget, "name": path.name, **more}
    with RunWriter.create(path, gates=gates, config={"task": "sentiment", "seed": seed, "mode": "fast", **dict(config)}, extra=facts) as w:
        for t in range(n_steps):
            at = t / max(1, n_steps - 1)
            a = alpha(at)
            zeta = solve_shift(a, counts, budget)
            val = 1 - 0.5 * at + 0.01 * rng.normal() if loss is None else loss(at) + 0.01 * rng.normal()
            seen = val if train is None else train(at)
            w.append(step=t, seconds=0.1, zeta=zeta, train_loss=seen, val_loss=val, lr=1e-3 * (1 - at / 2), alpha=a,
                     p=probabilities(a, zeta) if p is None else p)  # fmt: skip
        w.set_status(status, error="RuntimeError: out of luck" if status == "failed" else None)
    return open_run(path)


def order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.linspace(-4, 4, 100))


def settled(at: float) -> np.ndarray:
    return order(0) * min(1.0, 2 * at)


def codes(run: Run | list[Run]) -> list[str]:
    return [finding.code for finding in health(run)]


def test_a_good_run(tmp_path):
    (finding,) = health(write(tmp_path / "good", settled))
    assert (finding.level, finding.code) == ("good", "nothing-unusual")


def test_a_task_that_was_not_learned(tmp_path):
    """The loss falls from 1 to 0.5; the last fifth has 0.55 in the mean."""
    (finding,) = health(write(tmp_path / "chance", settled, constant_loss=0.5))
    assert (finding.level, finding.code) == ("warning", "not-learned")
    assert "ended at 0.549; one answer to every row would have 0.5" in finding.text
    assert codes(write(tmp_path / "learned", settled, constant_loss=0.7)) == ["nothing-unusual"]


def test_gates_still_moving(tmp_path):
    run = write(tmp_path / "moving", lambda at: order(0) if at < 0.9 else order(1))
    (finding,) = health(run)
    assert finding.code == "still-moving"
    counts = run.counts
    before = set(np.argsort(-run.alphas()[int(0.8 * 199)], kind="stable")[:30])
    after = set(np.argsort(-run.alphas()[-1], kind="stable")[:30])
    assert counts[0] * 30 == BUDGET
    assert f"{len(after - before)} of the 30 chosen gates" in finding.text


def test_few_steps_and_gates_not_separated(tmp_path):
    assert "few-steps" in codes(write(tmp_path / "few", settled, n_steps=20))
    assert codes(write(tmp_path / "flat", lambda at: order(0) * 0.01)) == ["not-separated"]
    assert codes(write(tmp_path / "none", settled, n_steps=0)) == ["no-steps"]


def test_one_pet_type_takes_over(tmp_path):
    bias = np.array([4.0 if i % 2 else -4.0 for i in range(100)])
    (finding,) = health(write(tmp_path / "collapse", lambda at: (bias + 0.01 * order(0)) * min(1, 2 * at)))
    assert finding.code == "one-pet-type"
    assert "30 of 30 chosen gates are LoRA, which is 50% of the search space" in finding.text


@pytest.mark.parametrize(
    ("loss", "title"),
    [
        (lambda at: 1 + at, "loss-rose"),
        (lambda at: 1.0, "loss-did-not-fall"),
        (lambda at: math.inf if at > 0.5 else 1.0, "loss-not-finite"),
        (lambda at: math.nan, None),  # modes without one
    ],
)
def test_losses(tmp_path, loss, title):
    assert codes(write(tmp_path / "run", settled, loss=loss, train=lambda at: 1 - at)) == [title or "nothing-unusual"]


def test_a_loss_that_a_shrinking_budget_raises(tmp_path):
    """Open gates have the lowest loss; what counts is whether it rises once the budget stays (step 100 of 200)."""
    shrinking = {"open_steps": 40, "shrink_steps": 60}
    for name, loss, title in (
        ("kept", lambda at: 1 + min(at, 0.5), "nothing-unusual"),
        ("lost", lambda at: 1 + at, "loss-rose"),
    ):
        assert codes(write(tmp_path / name, settled, loss=loss, config=shrinking)) == [title]
    assert codes(write(tmp_path / "odd", settled, config={"open_steps": "x", "shrink_steps": -3})) == ["nothing-unusual"]


def test_the_budget(tmp_path):
    gates = [gate(i, 10) for i in range(9)] + [gate(9 + i, 170, "LoRA") for i in range(11)]
    run = write(tmp_path / "unused", lambda at: np.linspace(-6, 6, 20) * min(1, 2 * at), gates=gates, budget=330)
    (finding,) = [f for f in health(run) if "budget" in f.code]
    assert (finding.level, finding.code) == ("note", "budget-unused")
    assert "260 of 330 parameters (79%)" in finding.text
    assert "budget-not-binding" in codes(write(tmp_path / "wide", settled, budget=5000))
    assert codes(write(tmp_path / "off", settled, p=np.full(100, 0.001)))[0] == "budget-not-kept"


def test_a_failed_search(tmp_path):
    finding = health(write(tmp_path / "failed", settled, status="failed"))[0]
    assert (finding.level, finding.code) == ("problem", "search-failed")
    assert "RuntimeError: out of luck" in finding.text


def test_seeds(tmp_path):
    def noisy(share: float, seed: int):
        return lambda at: ((1 - share) * order(0) + share * order(10 + seed)) * min(1, 2 * at)

    for name, share, title in (("agree", 0.05, "nothing-unusual"), ("differ", 0.5, "seeds-disagree"),
                               ("chance", 1.0, "seeds-by-chance")):  # fmt: skip
        runs = [write(tmp_path / f"{name}{s}", noisy(share, s), seed=s) for s in range(3)]
        assert codes(runs) == [title]
    assert health(runs)[0].level == "problem"
    assert "3 runs on sentiment overlap by" in health(runs)[0].text


def test_findings_of_several_name_their_run(tmp_path):
    runs = [write(tmp_path / "good", settled), write(tmp_path / "short", settled, n_steps=20, seed=1)]
    assert "short: Few steps" in [finding.title for finding in health(runs)]
    assert "few-steps" in codes(runs)


def test_findings_are_shown_as_sentences_and_escaped():
    found = Findings([Finding("few-steps", "warning", "Few <steps>", "Take more & wait.")])
    assert repr(found) == "warning: Few <steps>. Take more & wait."
    assert found._repr_html_().count("<li>") == 1
    assert "Few &lt;steps&gt;.</b> Take more &amp; wait." in found._repr_html_()
