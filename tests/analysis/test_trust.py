"""`s3.trust`: its words held to the numbers, on runs and studies whose answers are known."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from scipy import stats
from transfer_problems import even, write_study
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.analysis.answers import CODES, against, spearman_interval
from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, RunError, S3PETError, SourceError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

GATES = [Gate(i, f"encoder.block.{i}", "encoder", i, "SelfAttn.Q", ("LoRA", "BitFit")[i % 2], 10) for i in range(40)]
COUNTS, BUDGET = np.full(40, 10), 80


def write(folder, chosen, *, seed=0, loss=lambda at: 1 - 0.8 * at, lr=0.1, still=False, task="sentiment", steps=60, constant=1.0, **config):
    """A run that comes to choose these gates."""
    alpha = np.where(np.isin(np.arange(40), chosen), 4.0, -4.0) + np.random.default_rng(seed).normal(0, 0.3, 40)
    facts = {"backbone": "tiny", "backbone_params": 10**6, "budget": BUDGET, "steps_total": steps, "constant_loss": constant}
    path = folder / f"run{len(list(folder.iterdir()))}"
    asked = {"task": task, "backbone": "tiny", "budget": 80, "mode": "fast", "seed": seed, "steps": steps, **config}
    with RunWriter.create(path, gates=GATES, config=asked, extra=facts) as writer:
        for t in range(steps):
            at = t / (steps - 1)
            now = np.zeros(40) if still else alpha * min(1, 2 * at)
            zeta = solve_shift(now, COUNTS, BUDGET)
            p = probabilities(now, zeta)
            writer.append(step=t, seconds=0.5, zeta=zeta, train_loss=loss(at), val_loss=loss(at), lr=lr * (1 - at), alpha=now, p=p)
        writer.set_status("finished")
    return open_run(path)


def code(made, line):
    return next(a.code for a in made.answers if a.line == line)


def words(made, line):
    return next(a.verdict for a in made.answers if a.line == line)


SAME, APART = [range(8)] * 3, [range(8 * k, 8 * k + 8) for k in range(3)]
HALF = [[*range(4), *range(4 + 4 * k, 8 + 4 * k)] for k in range(3)]


# -- learned, and seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "found", "overlap", "said"),
    [
        (SAME, "stable", 1.0, "stable over 3 seeds"),
        (HALF, "partly-stable", 4 / 12, "partly stable over 3 seeds"),
        (APART, "unstable", 0.0, "unstable over 3 seeds"),
    ],
)
def test_seeds_are_held_against_chance(tmp_path, chosen, found, overlap, said):
    made = s3.trust([write(tmp_path, gates, seed=seed) for seed, gates in enumerate(chosen)])
    assert (code(made, "learned"), code(made, "seeds")) == ("learned", found)
    assert made.verdict.startswith(f"learned; {said}; not known: importance, searched - random")
    row = made.table.set_index("line").loc["seeds"]
    assert row["estimate"] == pytest.approx(overlap)
    assert row["n"] == 3
    assert row["chance_low"] <= row["chance"] <= row["chance_high"] < 0.34
    assert f"overlap by {overlap:.2f} (random structures {row['chance']:.2f}, 95 % of them" in words(made, "seeds")


@pytest.mark.parametrize(
    ("options", "found", "said"),
    [
        ({}, "learned", "training loss 0.275, of one answer to every row 1"),
        ({"lr": 0.0}, "not-learned", "the learning rate was 0"),
        ({"still": True}, "not-learned", "alpha has not moved"),
        ({"loss": lambda at: 1.0}, "not-learned", "the task was not learned"),
        ({"loss": lambda at: 1.0, "constant": None}, "not-learned", "the validation loss did not fall"),
        ({"loss": lambda at: math.nan}, "not-learned", "the loss is not finite"),
        ({"constant": None}, "learned", "the validation loss fell from"),
        ({"loss": lambda at: 0.2}, "not-known", "before the search"),
        ({"steps": 8, "constant": None}, "not-known", "8 steps are too few"),
    ],
)
def test_learned_or_not(tmp_path, options, found, said):
    made = s3.trust(write(tmp_path, range(8), **options))
    assert code(made, "learned") == found
    assert said in words(made, "learned")
    assert made.verdict.startswith({"learned": "learned;", "not-learned": "not learned;"}.get(found, ""))


def test_a_search_that_did_not_learn_is_to_be_longer_before_it_is_repeated(tmp_path):
    run = write(tmp_path, range(8), loss=lambda at: 1.0)
    rows = s3.trust(run).table.set_index("line")
    assert rows.loc["learned", "command"].endswith(f"--steps 180 --out {run.path}-longer && s3pet trust {run.path}-longer")
    assert rows.loc["learned", "seconds"] == pytest.approx(90.0)
    assert rows.loc["seeds", "command"] == ""
    for k, lacking in enumerate(({"lr": 0.0}, {"loss": lambda at: math.nan})):
        (tmp_path / str(k)).mkdir()
        rows = s3.trust(write(tmp_path / str(k), range(8), **lacking)).table.set_index("line")
        assert set(rows.loc[["learned", "seeds"], "command"]) == {""}


def test_seeds_that_agree_because_nothing_moved_are_not_called_stable(tmp_path):
    made = s3.trust([write(tmp_path, range(8), seed=seed, still=True) for seed in range(3)])
    assert (code(made, "learned"), code(made, "seeds")) == ("not-learned", "not-known")
    assert "overlap by 1.00" in words(made, "seeds")
    assert "stable" not in made.verdict


def test_one_seed_says_nothing_and_how_to_find_out(tmp_path):
    run = write(tmp_path, range(8), alpha_lr=0.2)
    made = s3.trust(run)
    assert code(made, "seeds") == "not-known"
    row = made.table.set_index("line").loc["seeds"]
    assert row["seconds"] == pytest.approx(30.0)
    assert row["command"] == (
        f"s3pet search --task sentiment --backbone tiny --budget 80 --mode fast --steps 60 --alpha-lr 0.2 --seed 1 "
        f"--out {run.path}-seed1 && s3pet trust {run.path} {run.path}-seed1"
    )
    assert "To find out (agreement of seeds, about 30 s): s3pet search" in repr(made)


def test_columns_of_a_file_are_part_of_the_call(tmp_path):
    """A file's columns can be written in a shell, and a training of a study reads the same file."""
    one = {"columns": {"text": "review", "label": "stars"}}
    table = s3.trust(write(tmp_path, range(8), **one)).table.set_index("line")
    assert " --columns text=review,label=stars --seed 1 " in table.loc["seeds", "command"]
    assert "load={'columns': {'text': 'review', 'label': 'stars'}}" in table.loc["searched - random", "command"]
    odd = {"columns": {"text": "the review, in short", "label": "stars"}}
    assert "in memory" in s3.trust(write(tmp_path, range(8), seed=1, **odd)).table.set_index("line").loc["seeds", "command"]


def test_runs_of_other_options_are_not_pooled(tmp_path):
    runs = [write(tmp_path, range(8), seed=s, steps=60 + s // 2) for s in range(4)]
    made = s3.trust(runs)
    seeds = made.table[made.table["line"] == "seeds"]
    assert seeds["about"].tolist() == ["all", "sentiment 80", "sentiment 80 (2)"]
    assert seeds["n"].tolist() == [4, 2, 2]
    assert "stable over 2 seeds in all 2 questions" in made.verdict


def test_several_tasks_are_told_apart(tmp_path):
    runs = [write(tmp_path, chosen, seed=s, task=task) for task, of in (("a", SAME), ("b", APART)) for s, chosen in enumerate(of)]
    made = s3.trust(tmp_path)  # a folder of runs
    assert code(made, "seeds") == "mixed"
    assert "agreement of seeds: stable in 1 of 2, unstable in 1 of 2" in made.verdict
    parts = {a.about: a.code for a in made.details if a.line == "seeds"}
    assert parts == {"a 80": "stable", "b 80": "unstable"}
    assert s3.trust(runs).verdict == made.verdict
    assert made.problems == ()


def test_runs_of_a_folder_that_cannot_be_read_are_named(tmp_path):
    run = write(tmp_path, range(8))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    made = s3.trust(tmp_path)
    assert made.name == f"{run.name} (1 left out)"
    assert [str(tmp_path / "broken") in text for text in (*made.problems, repr(made), made._repr_html_())] == [True] * 3
    out = CliRunner().invoke(app, ["trust", str(tmp_path)], catch_exceptions=False)
    assert "left out: " in out.output.lower()


def test_backbones_are_named_where_there_are_several(tmp_path):
    runs = [write(tmp_path, range(8), seed=s) for s in range(2)]
    info = json.loads((runs[1].path / "run.json").read_text())
    (runs[1].path / "run.json").write_text(json.dumps({**info, "backbone": "models/small"}))
    made = s3.trust(tmp_path)
    assert [a.about for a in made.details if a.line == "seeds"] == ["sentiment 80 tiny", "sentiment 80 small"]


def test_a_search_that_goes_on_has_learned_so_far(tmp_path):
    run, over = (write(tmp_path, range(8), seed=seed, steps=30) for seed in (0, 1))
    with RunWriter.attach(run.path) as writer:
        writer.set_status("running")
        made, both = s3.trust(run.path), s3.trust([run.path, over])
        assert made.verdict.startswith("learned so far; ")
        assert words(made, "learned").endswith("; not over yet (step 30 of 30)")
        assert words(both, "learned").endswith("; 1 of 2 not over yet")
        writer.set_status("finished")
    assert s3.trust(run.path).verdict.startswith("learned; ")


# -- importance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "found"), [(1, "follows"), (-1, "against"), (0, "not-settled")])
def test_importance_against_p(tmp_path, sign, found):
    run = write(tmp_path, range(8))
    rng = np.random.default_rng(1)
    p = np.linspace(0.6, 0.99, 8)
    rise = sign * p + rng.normal(0, 0.03, 8) if sign else np.array([1, -1, 1, -1, -1, 1, -1, 1.0])
    effects = tuple(GateEffect(g, float(a), 0.0, 1.0, float(b), 0.001) for g, a, b in zip(GATES[:8], p, rise, strict=True))
    Explanation(effects, task="sentiment", backbone="tiny", n_rows=9, loss=0.5).save(run)
    row = s3.trust(run).table.set_index("line").loc["importance"]
    assert row["code"] == found
    assert row["estimate"] == pytest.approx(stats.spearmanr(p, rise)[0])
    assert row["low"] < row["estimate"] <= row["high"]
    assert f"{row['estimate']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}; 8 chosen gates)" in row["verdict"]


def test_the_interval_of_a_rank_correlation_holds_it():
    """Share of 95 % intervals that hold the true rank correlation of normal pairs, (6 / pi) asin(r / 2)."""
    rng, r, n = np.random.default_rng(0), 0.6, 15
    truth, held = 6 / math.pi * math.asin(r / 2), 0
    x = rng.standard_normal((600, n))
    y = r * x + math.sqrt(1 - r * r) * rng.standard_normal((600, n))
    rx, ry = (v.argsort(1).argsort(1) - (n - 1) / 2 for v in (x, y))
    for rho in (rx * ry).sum(1) / (rx * rx).sum(1):
        low, high = spearman_interval(float(rho), n)
        held += low <= truth <= high
    assert 0.92 < held / 600 < 0.98
    assert all(math.isnan(v) for args in ((0.5, 4), (math.nan, 9)) for v in spearman_interval(*args))
    low, high = spearman_interval(1.0, 9)
    assert 0.8 < low < high == 1.0


def test_an_explanation_of_another_structure_is_not_taken(tmp_path):
    run = write(tmp_path, range(8))
    Explanation((GateEffect(GATES[30], 0.5),), task="sentiment", backbone="tiny", n_rows=9, loss=0.5).save(run)
    assert words(s3.trust(run), "importance") == "explained is another structure than the run has now"


# -- scores ------------------------------------------------------------------------------------------------


def test_the_words_of_a_study_are_its_numbers(tmp_path):
    study = s3.open_study(write_study(tmp_path / "study", even))
    made = s3.trust(study)
    told = study.differences("searched", "random", scale="points").set_index("task").loc["all"]
    row = made.table.set_index(["line", "about"]).loc["searched - random", "all"]
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx((told["difference"], told["low"], told["high"]))
    assert f"better than random structures by {told['low']:.0f} to {told['high']:.0f} points" in made.verdict
    assert re.search(r"worse than full fine-tuning by \d+ to \d+ points", made.verdict)
    assert "not known: searched - gradient, searched - LoRA-everywhere" in made.verdict


def test_a_score_that_is_not_known_is_said_to_be_so(tmp_path):
    made = s3.trust(write_study(tmp_path / "study", lambda *cell: math.nan if cell[:2] == ("random", "similarity") else even(*cell)))
    assert code(made, "searched - random") == "not-known"
    assert words(made, "searched - random") == (
        "searched - random is not known (no interval: a value is not known; 9 pairs of seeds in 3 groups)"
    )
    assert "not known: searched - random, searched - gradient" in made.verdict
    assert "worse than full fine-tuning by" in made.verdict
    parts = {a.about: a.code for a in made.details if a.line == "searched - random"}
    assert parts == {"sentiment 0.2%": "better", "entailment 0.2%": "better", "similarity 0.2%": "not-known"}


def test_a_task_named_all_is_a_task(tmp_path):
    made = s3.trust(write_study(tmp_path / "study", even, targets=("all", "entailment")))
    assert {a.about for a in made.details if a.line == "searched - full"} == {"all 0.2%", "entailment 0.2%"}
    row = made.table.set_index(["line", "about"]).loc["searched - full", "all tasks"]
    assert row["n"] == 6
    one = next(a for a in made.answers if a.line == "searched - full")
    assert one.about == "all tasks"


@pytest.mark.parametrize(
    ("low", "high", "unit", "found", "said"),
    [
        (2.2, 22.7, "points", "better", "better than random structures by 2 to 23 points"),
        (-3.6, -0.31, "points", "worse", "worse than random structures by 0.3 to 4 points"),
        (-1.5, 1.9, "points", "alike", "as good as random structures (within 2 points)"),
        (0.2, 1.9, "points", "better", "better than random structures by 0.2 to 2 points"),
        (-1.5, 2.1, "points", "not-settled", "not told apart from random structures (-2 to +2 points)"),
        (-0.01, 0.01, "", "not-settled", "not told apart from random structures (-0.01 to +0.01)"),
        (2.02, 2.18, "points", "better", "better than random structures by 2.0 to 2.2 points"),
        (0.45, 0.54, "", "better", "better than random structures by 0.45 to 0.54"),
        (math.nan, math.nan, "points", "not-settled", "not told apart from random structures"),
    ],
)
def test_a_difference_in_words(low, high, unit, found, said):
    middle = 0.0 if math.isnan(low) else (low + high) / 2
    row = {"a": "searched", "b": "random", "difference": middle, "low": low, "high": high, "level": 0.95}
    row |= {"unit": unit, "value": "score", "n_pairs": 3, "n_a": 3, "n_b": 3, "n_groups": 1, "paired": True, "test": "one value only"}
    made = against("sentiment", row)
    assert (made.code, made.brief) == (found, said)
    assert made.code in CODES


def test_the_recorded_study():
    made = s3.trust("tiny-t5", draws=99)
    told = s3.open_study("tiny-t5").differences("searched", "random", scale="points").set_index(["task", "budget"]).loc["all"]
    low, high = ({at: f"{told.loc[at, end]:.0f}" for at in ("0.1%", "0.2%")} for end in ("low", "high"))
    by = ", ".join(f"by {low[at]} to {high[at]} points at {at}" for at in ("0.1%", "0.2%"))
    assert f"better than random structures {by}, not told apart from random structures" in made.verdict
    assert code(made, "searched - random") == "mixed"  # budgets are not pooled
    each = made.table.set_index(["line", "about"]).loc["searched - random"]
    for at, row in told.iterrows():
        assert (each.loc[f"all {at}", "low"], each.loc[f"all {at}", "high"]) == (row["low"], row["high"])
    assert math.isnan(each.loc["all", "estimate"])
    assert "learned in all 6 of 15 questions whose runs are at hand" in made.verdict
    assert code(made, "searched - gradient") == "not-settled"
    assert code(made, "searched - full") == "worse"
    row = made.table.set_index(["line", "about"]).loc["searched - LoRA-everywhere", "all"]
    assert row["command"].startswith("s3.sweep(tasks=['sentiment', 'entailment',")
    assert "methods=['searched', 'LoRA-everywhere']" in row["command"]
    assert row["seconds"] > 1000
    for text in (repr(made), made._repr_html_()):
        assert "better than random structures" in text
    assert set(made.table["code"]) <= set(CODES)


def test_a_study_that_calls_its_searches_by_their_modes():
    made = s3.trust("deciding", draws=9)
    each = made.table.set_index(["line", "about"]).loc["searched - full"]
    told = s3.open_study("deciding").differences("prune", "full", scale="points").set_index(["task", "budget"]).loc[("all", "0.2%")]
    assert tuple(each.loc["all 0.2% prune", ["low", "high"]]) == (told["low"], told["high"])
    assert {"all 0.1% fast", "all 0.2% fast", "all 0.1% prune", "all 0.2% prune"} <= set(each.index)
    assert code(made, "searched - random") != "not-known"


# -- ways in -----------------------------------------------------------------------------------------------


def test_the_command_prints_it(tmp_path):
    names = [f"sentiment-0.2pct-s{seed}" for seed in range(3)]
    out = CliRunner().invoke(app, ["trust", *names, "--table", str(tmp_path / "t.csv")], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert "Would another" in out.output
    assert "s3pet explain sentiment-0.2pct-s0" in out.output
    assert (tmp_path / "t.csv").read_text().startswith("line,about,code,verdict,estimate,low,high,n,unit,chance,")
    assert CliRunner().invoke(app, ["trust", "tiny-t5", names[0]]).exit_code == 2


@pytest.mark.parametrize("wrong", [5, None, [], {}, "", b"x", 2.5, [5], object(), ["tiny-t5", "minilm"], "nowhere"])
def test_what_is_no_run_and_no_study_is_refused(wrong):
    with pytest.raises((SourceError, ConfigError, RunError)):
        s3.trust(wrong)


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"draws": "x"}, {"seed": -1}, {"draws": 2.5}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(S3PETError):
        s3.trust("sentiment-0.2pct-s0", **wrong)


def test_a_run_without_steps(tmp_path):
    with RunWriter.create(tmp_path / "run", gates=GATES, config={"task": "x"}, extra={"backbone": "t", "backbone_params": 9, "budget": 80}):
        made = s3.trust(tmp_path / "run")
    assert {a.code for a in made.answers if a.line != "health"} == {"not-known"}
    assert made.verdict.startswith("nothing can be said yet")


def test_warnings_of_a_search_too_short_to_judge_are_called_so(tmp_path):
    made = s3.trust(write(tmp_path, range(8), steps=8, constant=None))
    told = next(a for a in made.answers if a.line == "health")
    assert told.code == "warnings"
    assert made.verdict.startswith(f"nothing can be said yet; warnings: {told.brief}; not known: learned, ")
    assert "few steps" in told.brief
