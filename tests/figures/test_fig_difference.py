"""`figures.difference`: two sets of seeds, and what may be compared."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from s3pet_viz import figures
from s3pet_viz.analysis.contrast import contrast
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, S3PETError, StructureError
from s3pet_viz.figures.difference import NOISE, REMAINS
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

SENTIMENT, ENTAILMENT, SIMILARITY = ([f"{task}-0.2pct-s{seed}" for seed in range(3)] for task in ("sentiment", "entailment", "similarity"))


def gates(n=24, unit=False, size=10):
    if unit:
        return [Gate(i, f"encoder.block.{i // 4}", "encoder", i // 4, "SelfAttn.Q", "LoRA", size, {"r": 1}, i % 4) for i in range(n)]
    return [Gate(i, f"encoder.block.{i}", "encoder", i, "SelfAttn.Q", "LoRA", size) for i in range(n)]


def write(folder, alpha, *, space=None, seed=0, task="rte", budget=80, tau=1.0, name=None, **config):
    space = space or gates(len(alpha))
    counts = np.array([g.n_params for g in space])
    path = folder / (name or f"{task}-{budget}-{seed}-{len(list(folder.iterdir()))}")
    facts = {"backbone": "tiny", "backbone_params": 10**5, "budget": budget, "tau": tau}
    with RunWriter.create(path, gates=space, config={"task": task, "seed": seed, "mode": "fast", **config}, extra=facts) as writer:
        zeta = solve_shift(alpha, counts, budget, tau)
        p = probabilities(alpha, zeta, tau)
        writer.append(step=0, seconds=1, zeta=zeta, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=p)
        writer.set_status("finished")
    return open_run(path)


def side(folder, level, n=3, *, rng=None, first=0, **facts):
    rng = rng or np.random.default_rng(len(list(folder.iterdir())))
    return [write(folder, level + rng.logistic(0, 0.2, len(level)), seed=first + seed, **facts) for seed in range(n)]


LEVEL = np.linspace(-2, 2, 24)
MOVED = LEVEL + np.where(np.arange(24) == 3, 5.0, 0.0)


def test_the_table_is_means_and_the_contrast(tmp_path):
    a, b = side(tmp_path, LEVEL), side(tmp_path, MOVED, task="cb")
    table = figures.difference_table(a, b)
    p = [np.mean([run.p() for run in runs], axis=0) for runs in (a, b)]
    np.testing.assert_allclose(table["p_a"], p[0], rtol=1e-6)
    np.testing.assert_allclose(table["difference"], p[1] - p[0], atol=1e-6)
    found = contrast([run.alpha() for run in a], [run.alpha() for run in b])
    np.testing.assert_allclose(table["q"], found.q)
    np.testing.assert_allclose(table[["low", "high"]], np.transpose([found.low, found.high]))
    assert table.index[table["remains"]].tolist() == [3]
    assert set(table["n_a"]) == set(table["n_b"]) == {3}


def test_the_figure_says_how_many_remain_and_hatches_the_others(tmp_path):
    made = figures.difference(side(tmp_path, LEVEL), side(tmp_path, MOVED, task="cb"))
    assert made.layout.title.text.replace("<br>", " · ") == "cb less rte · 3 against 3 seeds · 1 of 24 gates differ beyond seeds"
    traces = {trace.name: trace for trace in made.data}
    assert len(traces[NOISE].x) == 23 * 3 * 3  # 3 strokes a cell
    assert len(traces[REMAINS].x) == 6
    assert REMAINS in traces["gates"].customdata[0, 3, -1]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1)])
def test_with_one_seed_a_side_nothing_can_be_told(tmp_path, sizes):
    a, b = side(tmp_path, LEVEL, sizes[0]), side(tmp_path, MOVED, sizes[1], task="cb")
    table = figures.difference_table(a, b)
    assert not table["remains"].any()
    assert table[["low", "high", "p_value", "q"]].isna().all(axis=None)
    made = figures.difference(a, b)
    assert "nothing can be told, two or more are needed on each side" in made.layout.title.text
    assert len(made.data[1].x) == 24 * 9


def test_recorded_tasks_differ_at_few_gates():
    for a, b in ((SENTIMENT, ENTAILMENT), (SENTIMENT, SIMILARITY), (ENTAILMENT, SIMILARITY)):
        assert figures.difference_table(a, b)["remains"].sum() <= 5


def test_budgets_are_compared_and_solved_again(tmp_path):
    a, b = side(tmp_path, LEVEL), side(tmp_path, MOVED, budget=160)
    assert figures.difference(a, b).layout.title.text.startswith("0.16% less 0.08%")
    again = figures.difference_table(a, b, budget=80)
    np.testing.assert_allclose(again["p_b"], np.mean([run.p(budget=80) for run in b], axis=0))
    assert again["remains"].tolist() == figures.difference_table(a, b)["remains"].tolist()


def test_sets_of_seeds_of_one_setting(tmp_path):
    rng = np.random.default_rng(0)
    made = figures.difference(side(tmp_path, LEVEL, rng=rng), side(tmp_path, LEVEL, first=3, rng=rng))
    assert made.layout.title.text.replace("<br>", " · ") == "seeds 3, 4, 5 less seeds 0, 1, 2 · 3 against 3 seeds · 0 of 24 gates differ beyond seeds"
    two = figures.difference(side(tmp_path, LEVEL, rng=rng), side(tmp_path, LEVEL, rng=rng, alpha_lr=0.3))
    assert two.layout.title.text.startswith("alpha_lr 0.3 less alpha_lr default · ")
    many = figures.difference(side(tmp_path, LEVEL, 2, rng=rng), side(tmp_path, LEVEL, 20, first=2, rng=rng))
    assert many.layout.title.text.startswith("seeds 2, 3, 4, … 21 (20) less seeds 0, 1 · ")


def test_units_of_a_position_are_one_cell(tmp_path):
    rng, moved = np.random.default_rng(0), np.zeros(24)
    moved[4:8] = 5
    space = gates(unit=True)
    a, b = ([write(tmp_path, level + rng.permuted(np.tile([0, 0.1, 0.2, 0.3], 6)) + rng.logistic(0, 0.05, 24), space=space, seed=s, task=task) for s in range(3)] for level, task in ((np.zeros(24), "rte"), (moved, "cb")))
    made = figures.difference(a, b)
    assert made.data[0].z.shape == (1, 6)
    total = figures.difference_table(a, b).groupby("column")["difference"].sum()
    np.testing.assert_allclose(made.data[0].z[0], total.to_numpy())
    assert made.data[0].z[0].argmax() == 1


def wrong(tmp_path):
    a, runs = side(tmp_path, LEVEL), lambda **facts: side(tmp_path, LEVEL, **facts)
    other = gates(25)[1:]
    other = [Gate(i, g.position, g.stack, g.layer, g.module, g.pet_type, g.n_params) for i, g in enumerate(other)]
    large = gates(size=12)
    yield a, a, "each run on one side"
    yield a, [*runs(task="cb"), *runs(task="x")], "expected one task in runs_b, found 'cb', 'x'"
    yield [*a, *runs(budget=160)], runs(task="cb"), "expected one budget in runs_a"
    yield a, [*runs(task="cb"), *runs(task="cb")], "each seed once in runs_b, found seed 0 twice"
    yield a, runs(task="cb", budget=160), "differ in one of task, budget and mode, found rte, 0.08% and cb, 0.16%; give budget="
    yield a, [*runs(task="cb", n=1), *runs(task="cb", first=1, n=1, steps=7)], "differ by their seed alone, found other steps"
    yield a, runs(task="cb", space=other), "expected one search space, found 24 gates"
    yield a, runs(task="cb", space=large, budget=80), "has 10 parameters in"
    yield a, runs(task="cb", tau=2.0), "expected one tau"
    yield a, [], "at least one run"


def test_what_cannot_be_compared_is_refused(tmp_path):
    for a, b, words in wrong(tmp_path):
        with pytest.raises(ConfigError, match=words):
            figures.difference(a, b)
    with pytest.raises(StructureError, match="only its chosen gates"):
        figures.difference_table(open_run(SENTIMENT[0]).structure(), open_run(ENTAILMENT[0]).structure())


@pytest.mark.parametrize("value", [5, None, {}, b"x", object(), "nowhere", [5]])
def test_what_is_no_run_is_refused(value):
    for sides in ((value, SENTIMENT), (SENTIMENT, value)):
        with pytest.raises(S3PETError):
            figures.difference_table(*sides)


def test_a_wrong_rate_is_refused():
    with pytest.raises(ConfigError, match="rate"):
        figures.difference_table(SENTIMENT, ENTAILMENT, rate=2)


def test_the_command(tmp_path):
    line = ["difference", ",".join(ENTAILMENT), ",".join(SIMILARITY), "--table", str(tmp_path / "t.csv"), "--html", str(tmp_path / "d.html")]
    out = CliRunner().invoke(app, line, catch_exceptions=False)
    assert out.exit_code == 0, out.output
    n = int(figures.difference_table(ENTAILMENT, SIMILARITY)["remains"].sum())
    assert f"3 against 3 seeds · {n} of 156 gates differ beyond seeds" in out.output
    assert "plotly" in (tmp_path / "d.html").read_text()
    assert (tmp_path / "t.csv").read_text().count("\n") == 157
    assert CliRunner().invoke(app, ["difference", SENTIMENT[0], SENTIMENT[0]]).exit_code == 2
