"""What health says beside its numbers: each sentence on runs where it is true, and on runs where it is not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3pet_viz.analysis.health import Finding, health
from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, Structure, probabilities, select, solve_shift
from s3pet_viz.structure.budget import budget_at

N = 40
property_test = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gates(sizes, types) -> list[Gate]:
    return [Gate(i, f"encoder.block.{i}", "encoder", i, "SelfAttn.Q", t, int(n)) for i, (n, t) in enumerate(zip(sizes, types, strict=True))]


def order(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.linspace(-4, 4, n))


def write(folder: Path, *, space=None, alpha=None, train=None, val=None, lr=None, budget=120, n_steps=60, status="finished", config=(), structure=None, **more) -> Run:
    """A run whose alpha, losses and rate at step t are functions of t / (n_steps - 1)."""
    space = space or gates([10] * N, ["LoRA", "BitFit"] * (N // 2))
    counts = np.array([g.n_params for g in space])
    alpha = alpha or (lambda at: order(0, len(space)) * min(1, 2 * at))
    train, val, lr = train or (lambda at: 1 - 0.8 * at), val or (lambda at: 1 - 0.5 * at), lr or (lambda at: 1 - at)
    path = folder / f"run{len(list(folder.iterdir()))}"
    config = {"task": "sentiment", "seed": 0, "mode": "fast", **dict(config)}
    facts = {"backbone": "tiny", "backbone_params": 10**6, "budget": budget, "name": path.name, "steps_total": n_steps, **more}
    with RunWriter.create(path, gates=space, config=config, extra=facts) as w:
        for t in range(n_steps):
            at = t / max(1, n_steps - 1)
            a = np.asarray(alpha(at), dtype=float)
            held = budget_at(t, budget, counts.sum(), config.get("open_steps", 0), config.get("shrink_steps", 0)) if budget else 1
            zeta = solve_shift(a, counts, held)
            w.append(step=t, seconds=0.1, zeta=zeta, train_loss=train(at), val_loss=val(at), lr=lr(at), alpha=a, p=probabilities(a, zeta))
        if structure is not None:
            w.write_structure(structure)
        if status != "running":
            w.set_status(status, steps_taken=n_steps, **{k: more[k] for k in ("stop_reason",) if k in more})
    return open_run(path)


def going_on(run: Run) -> Run:
    """As it is read while another machine writes it."""
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**info, "status": "running", "host": "elsewhere"}))
    return open_run(run.path)


def found(run: Run, code: str) -> Finding | None:
    hits = [finding for finding in health(run) if finding.code == code]
    assert len(hits) <= 1
    return hits[0] if hits else None


# -- one PET type, and what it costs -----------------------------------------------------------------------


@property_test
@given(mine=st.lists(st.integers(1, 60), min_size=10, max_size=10), others=st.lists(st.integers(1, 60), min_size=20, max_size=20))
def test_a_type_crowds_out_the_others_only_where_it_is_cheap(tmp_path, mine, others):
    space = gates([*mine, *others], ["LoRA"] * 10 + ["BitFit"] * 20)
    run = write(tmp_path, space=space, alpha=lambda at: np.r_[np.full(10, 4.0), np.full(20, -4.0)], budget=sum(mine))
    text = found(run, "one-pet-type").text
    a, b = np.median(mine), np.median(others)
    assert f"have {a:,g} parameters in the median, the others {b:,g}" in text
    assert ("crowd out" in text) == (a < b)
    assert ("against its cost" in text) == (a > b)
    assert ("does not say why" in text) == (a == b)


def test_the_recorded_runs_do_not_call_their_dearest_type_cheap():
    text = found(open_run("acceptability-0.1pct-s0"), "one-pet-type").text
    assert "256 parameters in the median, the others 128" in text
    assert "crowd" not in text


def test_few_gates_say_nothing_of_types(tmp_path):
    (good,) = health(write(tmp_path, budget=30, alpha=lambda at: np.where(np.arange(N) % 2, -4, 4) + order(0) / 100))
    assert "PET types" in good.text.partition("Not looked at")[2]


# -- separation --------------------------------------------------------------------------------------------


@property_test
@given(sizes=st.lists(st.integers(1, 1000), min_size=N, max_size=N), share=st.floats(0.05, 0.6), level=st.floats(-3, 3))
def test_equal_gates_have_not_separated_whatever_their_sizes(tmp_path, sizes, share, level):
    space = gates(sizes, ["LoRA", "BitFit"] * (N // 2))
    run = write(tmp_path, space=space, alpha=lambda at: np.full(N, level), budget=max(1, int(share * sum(sizes))))
    finding = found(run, "not-separated")
    assert "is 100% of what equal gates would have: all alpha are equal" in finding.text


@property_test
@given(small=st.integers(1, 50), large=st.integers(50, 5000), seed=st.integers(0, 99))
def test_gates_that_are_open_by_halves_beside_shut_ones_have_separated(tmp_path, small, large, seed):
    """Of the mean over gates alone these have many times the entropy of equal gates."""
    sizes = np.random.default_rng(seed).permutation([small] * (N // 2) + [large * small] * (N // 2))
    apart = np.where(sizes == small, 8.0, -8.0)
    run = write(tmp_path, space=gates(sizes, ["LoRA"] * N), alpha=lambda at: apart, budget=small * N // 4)
    assert found(run, "not-separated") is None


@pytest.mark.parametrize("end", [0, 1])
def test_the_order_is_called_changing_only_where_it_changes(tmp_path, end):
    text = found(write(tmp_path, alpha=lambda at: (order(0) if at < 0.9 else order(end)) * 0.01), "not-separated").text
    assert ("still changes" in text) == (end == 1)
    assert ("was the same" in text) == (end == 0)


# -- losses ------------------------------------------------------------------------------------------------


@property_test
@given(ends=st.tuples(st.floats(0.2, 2), st.floats(0.2, 2)), noise=st.sampled_from([0.0, 0.01, 0.3]), drop=st.sampled_from([0.0, 2.0]), seed=st.integers(0, 99))
def test_the_losses_words_are_its_numbers(tmp_path, ends, noise, drop, seed):
    draws = iter(np.random.default_rng(seed).normal(0, noise, 200))
    run = write(tmp_path, n_steps=100, val=lambda at: ends[0] + (ends[1] - ends[0]) * at + drop * (at < 0.04) + next(draws))
    loss = run.steps()["val_loss"].to_numpy()
    first, last = loss[:20], loss[80:]
    spread = 2 * math.sqrt(first.var(ddof=1) / 20 + last.var(ddof=1) / 20)
    rise = last.mean() - first.mean()
    assert (found(run, "loss-rose") is not None) == (rise > spread)
    flat = found(run, "loss-did-not-fall")
    early = loss[:4].mean() - last.mean() > 4 * last.std(ddof=1) * math.sqrt(1 / 4 + 1 / 20)
    if flat:
        assert abs(rise) <= spread
        assert not early
        assert "have learned little" in flat.text
    elif abs(rise) <= spread:
        assert early
        (good,) = health(run)
        assert "within the first fifth" in good.text
    for finding in (found(run, "loss-rose"), flat):
        if finding:
            a, b = re.search(r"was (\S+) in the first fifth of the search, and (\S+) in the last", finding.text).groups()
            assert float(a) == pytest.approx(first.mean(), rel=6e-3)
            assert (float(a) < float(b)) == (rise > 0)


@pytest.mark.parametrize("drop", [0.0, 0.05, 2.0])
def test_a_loss_that_fell_at_once_did_fall(tmp_path, drop):
    """By noise alone (0.01) it did not."""
    draws = iter(np.random.default_rng(57).normal(0, 0.01, 200))
    run = write(tmp_path, n_steps=100, val=lambda at: 1 + drop * (at < 0.04) + next(draws))
    codes = [finding.code for finding in health(run)]
    assert codes == ["nothing-unusual" if drop else "loss-did-not-fall"]


@pytest.mark.parametrize(("constant", "little"), [(None, True), (0.5, True), (2.0, False)])
def test_weights_have_learned_little_only_where_the_task_was_not_learned(tmp_path, constant, little):
    flat = {"train": lambda at: 1.0, "val": lambda at: 1.0}
    text = found(write(tmp_path, **flat, **({"constant_loss": constant} if constant else {})), "loss-did-not-fall").text
    assert ("learned little" in text) == little
    assert ("below the 2 of one answer" in text) == (not little)


def test_after_a_shrinking_budget_the_fifths_are_of_what_is_left(tmp_path):
    run = write(tmp_path, n_steps=100, val=lambda at: at, config={"open_steps": 20, "shrink_steps": 30})
    assert "in the first fifth of the steps from 50 on, where the budget stays" in found(run, "loss-rose").text


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_no_number(tmp_path, which, value):
    run = write(tmp_path, **{which: lambda at: value if 0.5 < at < 0.6 else 1 - at / 2})
    finding = found(run, "loss-not-finite")
    if which == "val" and math.isnan(value):  # a step that did not measure it
        assert finding is None
    else:
        assert f"The {'training' if which == 'train' else 'validation'} loss was {value:g} at step 30" in finding.text


@property_test
@given(ratio=st.floats(0.5, 2), opened=st.booleans(), over=st.booleans())
def test_what_was_learned_is_what_the_training_loss_says(tmp_path, ratio, opened, over):
    config = {"open_steps": 10, "shrink_steps": 10} if opened else {}
    run = write(tmp_path, train=lambda at: ratio, constant_loss=1.0, config=config)
    run = run if over else going_on(run)
    finding = found(run, "not-learned")
    assert (finding is not None) == (ratio > 0.95)
    if finding:
        assert ("not even learned which answers there are" in finding.text) == (ratio > 1 / 0.95)
        assert ("learned which answers there are and not which is right" in finding.text) == (ratio <= 1 / 0.95)
        assert ("open gates" in finding.text) == (not opened)
        assert ("ended at" in finding.text) == over


# -- steps, movement, the end ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 10.0])
def test_few_steps_say_how_far_alpha_went(tmp_path, rate):
    text = found(write(tmp_path, n_steps=20, alpha=lambda at: order(0) * at * rate), "few-steps").text
    assert f"alpha moved by {4 * rate:.2g} at most" in text


@property_test
@given(st.integers(0, 999), st.integers(1, 20))
def test_gates_that_came_and_went_are_counted(tmp_path, seed, swapped):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, N)
    before, after = order(seed), order(seed)
    after[rng.permutation(N)[:swapped]] += rng.normal(0, 6, swapped)
    run = write(tmp_path, space=gates(sizes, ["LoRA", "BitFit"] * (N // 2)), alpha=lambda at: before if at < 0.9 else after)
    a, b = (set(select(x.astype(np.float32), sizes, 120)) for x in (before, after))
    finding = found(run, "still-moving")
    assert (finding is not None) == (len(a & b) / len(a | b) < 0.8)
    if finding:
        assert f"{len(b - a)} of the {len(b)} chosen gates came in" in finding.text
        assert (f" and {len(a - b)} went" in finding.text) == bool(a - b)


@pytest.mark.parametrize(("rate", "says"), [(lambda at: 1 - 0.2 * at, "rate was still 80% of the first"), (lambda at: 1 - at, None)])
def test_the_rate_of_a_search_that_stopped_early(tmp_path, rate, says):
    reason = "selected structure unchanged for 3 evaluations"
    text = found(write(tmp_path, lr=rate, steps_total=400, stop_reason=reason), "stopped-early").text
    assert ("learning rate" in text) == (says is not None)
    assert (says or reason) in text
    assert "rested" in text
    other = found(write(tmp_path, lr=rate, steps_total=400, stop_reason="a callback said so"), "stopped-early").text
    assert "rested" not in other


def test_a_search_that_died_before_its_first_step_has_none_to_read(tmp_path):
    for n, readable in ((0, False), (60, True)):
        run = write(tmp_path, n_steps=n, status="running")
        assert run.status == "dead"  # its writer is closed
        assert ("steps can be read" in found(run, "search-died").text) == readable


# -- the budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_the_rest_of_the_budget(tmp_path, cut):
    """As the rule chooses, no gate fits the rest; a structure that was cut by hand leaves gates that do."""
    space = gates([10] * 8 + [70] * 8, ["LoRA", "BitFit"] * 8)
    kept = Structure(tuple(space[:3]), budget=150)
    alpha = lambda at: np.r_[np.full(8, 4.0), np.full(8, -4.0)] + np.linspace(0, 0.01, 16)  # noqa: E731
    text = found(write(tmp_path, space=space, alpha=alpha, budget=149, structure=kept if cut else None), "budget-unused").text
    assert ("no gate that is left is small enough for the rest (the smallest has 70)" in text) == (not cut)
    assert ("a gate that is left, of 10, would fit" in text) == cut


@pytest.mark.parametrize("budget", [400, 401])
def test_a_budget_that_holds_everything(tmp_path, budget):
    assert found(write(tmp_path, budget=budget), "budget-not-binding")


# -- seeds, and what was looked at -------------------------------------------------------------------------


def test_runs_of_one_seed_say_nothing_of_seeds(tmp_path):
    runs = [write(tmp_path, alpha=lambda at, s=s: order(s)) for s in (1, 2)]
    assert not [f for f in health(runs) if f.code.startswith("seeds")]
    runs.append(write(tmp_path, alpha=lambda at: order(3), config={"seed": 1}))
    assert [f for f in health(runs) if f.code.startswith("seeds")]


ALL = ["how it ended", "validation loss", "task learned", "number of steps", "gates separated", "gates at rest", "PET types", "budget kept", "budget used"]


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"constant_loss": 1.0}, []),
        ({}, ["task learned"]),
        ({"val": lambda at: math.nan}, ["validation loss", "task learned"]),
        ({"budget": None, "alpha": lambda at: np.r_[np.full(4, 4.0), np.full(N - 4, -4.0)]},
         ["task learned", "gates at rest", "PET types", "budget kept", "budget used"]),
    ],
)  # fmt: skip
def test_nothing_unusual_lists_what_was_looked_at(tmp_path, options, lacking):
    (good,) = health(write(tmp_path, **options))
    assert good.code == "nothing-unusual"
    looked, _, not_looked = good.text.partition("Not looked at")
    assert re.findall(r"(?:at: |; )([\w ]+) \(", looked) == [name for name in ALL if name not in lacking]
    assert [name for name in ALL if name in not_looked] == lacking


def test_nothing_unusual_of_seeds_and_of_a_search_that_goes_on(tmp_path):
    def near(seed):
        return lambda at: order(0) + 0.01 * order(seed)

    runs = [write(tmp_path, alpha=near(s), config={"seed": s}, constant_loss=1.0) for s in (1, 2, 3)]
    (good,) = health(runs)
    assert "agreement of seeds (3 runs on sentiment overlap by" in good.text
    assert "not over" not in good.text
    assert "Not looked at" not in good.text
    runs.append(write(tmp_path, alpha=near(4), config={"seed": 4}))
    assert "Not looked at in every run, for lack of numbers: task learned." in health(runs)[0].text

    (good,) = health(going_on(write(tmp_path, constant_loss=1.0)))
    assert good.text.endswith("for lack of numbers: how it ended. The search is not over yet.")
