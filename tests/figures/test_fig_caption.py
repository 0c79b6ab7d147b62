"""The caption of a figure: every number in it is the run's, and it stands beside the file that is saved."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s3pet_viz import figures, open_run
from s3pet_viz.analysis.agreement import Found, relations
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures.caption import overlap_interval
from s3pet_viz.structure import Gate, Structure

ONE = "similarity-0.2pct-s0"
SEEDS = ["entailment-0.2pct-s0", "entailment-0.2pct-s1"]


def test_one_run():
    run = open_run(ONE)
    structure, said = run.structure(), figures.caption(ONE)
    for part in (
        "for similarity on tiny-t5", f"mode {run.config['mode']}", f"step {run.n_steps} of {run.n_steps}", "n = 1 seed: 0",
        f"the {len(structure)} of {len(run.gates_list)} gates", f"{structure.n_params:,} parameters of a budget of {structure.budget:,}",
        "0.2 % of the backbone", "no interval",
    ):  # fmt: skip
        assert part in said, part
    other = figures.caption(run, budget="0.1%", step=10)
    assert "step 11 of" in other
    assert f"a budget of {run.structure('0.1%').budget:,} (0.1 %" in other


def test_several_seeds():
    said = figures.caption(SEEDS)
    a, b = map(open_run, SEEDS)
    row = relations([Found.of(a), Found.of(b)]).iloc[0]
    assert "n = 2 seeds: 0, 1" in said
    assert f"two seeds: {jaccard(a.structure(), b.structure()):.2f} (no interval" in said
    assert f"random structures of this budget {row['chance']:.2f} (95 % of them {row['low']:.2f} to {row['high']:.2f})" in said
    assert said == figures.caption(SEEDS[::-1])


def test_a_difference_says_both_sides_and_what_may_be_noise():
    said = figures.caption(ONE, minus=SEEDS[0])
    assert said.index("A: a structure search for entailment") < said.index("B: a structure search for similarity")
    assert f"(Jaccard {jaccard(open_run(ONE).structure(), open_run(SEEDS[0]).structure()):.2f}). One seed a side" in said
    with pytest.raises(ConfigError, match="expected a run"):
        figures.caption(ONE, minus=5)
    with pytest.raises(ConfigError, match="differ by nothing but their seed"):
        figures.caption(ONE, minus=[ONE, SEEDS[0]])


def test_what_has_no_caption():
    with pytest.raises(ConfigError, match="differ by nothing but their seed"):
        figures.caption([ONE, SEEDS[0]])
    with pytest.raises(ConfigError, match="each seed once, found 0, 0"):
        figures.caption([ONE, ONE])
    with pytest.raises(ConfigError, match="expected one run for a step"):
        figures.caption(SEEDS, step=3)
    with pytest.raises(ConfigError, match="expected a run"):
        figures.caption(5)


GATES = [Gate(i, f"encoder.{i}.Q", "encoder", i, "Q", "LoRA", 10) for i in range(60)]


def seeded(n: int, rng: np.random.Generator) -> list[Structure]:
    """Structures of a setting whose gates are chosen with probabilities of their own."""
    p = np.where(np.arange(60) < 15, 0.75, 0.08)
    return [Structure(tuple(g for g, on in zip(GATES, rng.random(60) < p, strict=True) if on), "b", 1) for _ in range(n)]


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_interval_of_an_overlap_holds_its_mean(n):
    rng = np.random.default_rng(n)
    true = np.mean([jaccard(*seeded(2, rng)) for _ in range(1500)])
    found = [overlap_interval(seeded(n, rng)) for _ in range(300)]
    share = np.mean([low <= true <= high for _, low, high in found])
    assert share >= 0.9, share  # nominal 0.95; 0.95 to 0.97 were found
    widths = np.array(found)[:, 2] - np.array(found)[:, 1]
    assert np.nanmean(widths) < {3: 0.8, 5: 0.4, 8: 0.25}[n]


def test_two_seeds_or_equal_ones_have_no_interval():
    rng = np.random.default_rng(0)
    one, two = seeded(2, rng)
    assert [math.isnan(v) for v in overlap_interval([one, two])] == [False, True, True]
    assert overlap_interval([one] * 4)[0] == 1
    assert math.isnan(overlap_interval([one] * 4)[1])


def test_it_is_written_beside_the_figure(tmp_path):
    figure = figures.heatmap(ONE)
    said = figures.caption(ONE)
    figures.save(figure, tmp_path / "a.html", caption=said)
    assert (tmp_path / "a.txt").read_text() == said + "\n"
    figures.save(figure, tmp_path / "b.html")
    assert not (tmp_path / "b.txt").exists()
    for wrong in (5, "", "  ", True):
        with pytest.raises(ConfigError, match="caption: expected text"):
            figures.save(figure, tmp_path / "c.html", caption=wrong)
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(ConfigError, match=r"d\.txt: expected a file name, found a folder"):
        figures.save(figure, tmp_path / "d.html", caption=said)
    assert not (tmp_path / "c.html").exists()
    assert not (tmp_path / "d.html").exists()
