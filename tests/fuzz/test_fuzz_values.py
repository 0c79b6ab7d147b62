"""Budgets, configs and command lines with any value: refused by name, or usable."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fuzz_problems import WRONG, fuzz, outcome
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from s3pet_viz.cli import app
from s3pet_viz.cli.search import _set_options
from s3pet_viz.config.options import config_of
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.engine import SearchConfig
from s3pet_viz.structure import parse_budget, select, solve_shift

ANY = st.one_of(
    st.sampled_from([w for w in WRONG if w != "@deep@"]), st.integers(), st.floats(), st.text(max_size=20),
    st.lists(st.integers(), max_size=2), st.builds(np.float64, st.floats()), st.builds(np.int64, st.integers(-(2**63), 2**63 - 1)),
    st.builds(object), st.builds(bytes), st.just(lambda: None), st.builds(complex),
)  # fmt: skip
BASE = {"task": "sentiment", "backbone": "tiny-t5", "budget": "0.2%"}


@given(ANY | st.from_regex(r"[+-]?[0-9eE._]{0,12} ?%?", fullmatch=True), st.integers(1, 10**12))
@example("1e400%", 10)
@example("१०%", 1000)
@example(10**400, 10)
@fuzz(100)
def test_budgets(budget, total):
    def use():
        params = parse_budget(budget, total)
        assert type(params) is int
        assert 1 <= params <= total

    outcome("budget", use, names="budget")


@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.data())
@fuzz(100)
def test_the_shift(alpha, data):
    counts = data.draw(st.lists(st.integers(-1, 10**12), min_size=len(alpha), max_size=len(alpha)))
    budget = data.draw(st.floats() | st.integers(-1, 10**13))
    tau = data.draw(st.floats())

    def use():
        zeta = solve_shift(alpha, counts, budget, tau)
        assert not math.isnan(zeta)
        assert sum(counts[i] for i in select(alpha, counts, budget)) <= budget

    outcome("solve_shift, select", use)


@given(st.dictionaries(st.sampled_from([*SearchConfig.__dataclass_fields__, "nothing"]), ANY, min_size=1, max_size=2))
@fuzz(100)
def test_search_config(options):
    def use():
        made = SearchConfig.from_dict({**BASE, **options})
        json.dumps(made.to_dict(), allow_nan=False)  # run.json holds it
        assert 0 <= made.schedule_at(0) <= 1
        assert made.rate(10**6) > 0

    outcome("SearchConfig", use)


@given(st.dictionaries(st.sampled_from(["steps", "batch_size", "lr", "head_lr", "full_lr", "clip", "evaluations", "eval_batch_size", "seed", "max_source_length", "train_pooler", "nothing"]), ANY, min_size=1, max_size=2))
@fuzz(150)
def test_tune_config(options):
    def use():
        json.dumps(config_of(TuneConfig, options).to_dict(), allow_nan=False)

    outcome("TuneConfig", use)


@given(st.lists(st.text(max_size=30) | st.from_regex(r"[a-z_]{1,12}=.{0,20}", fullmatch=True) | st.just("x=" + "[" * 10_000), max_size=3))
@fuzz(100)
def test_set_options(pairs):
    outcome("--set", lambda: _set_options(pairs), names="--set")


WORDS = st.sampled_from(["", " ", "x", "-1", "0", "nan", "1e999", "../x", "\0", "x" * 5000, "~nobody/x", "[]", "‮", "/dev/null", "C:\\x", "0.2%"])
FLAGS = {
    "search": ["--task", "--budget", "--backbone", "--space", "--steps", "--seed", "--mode", "--device", "--precision", "--lr", "--resume", "--start-from", "--set", "--split", "--max-rows", "--revision"],
    "tune": ["--task", "--backbone", "--steps", "--lr", "--seed"],
    "show": ["--budget", "--html", "--save"],
    "report": ["--out", "--title"],
    "explain": ["--steps", "--rows"],
    "baselines": ["--task", "--budget", "--methods", "--seeds", "--structure"],
    "watch": [], "pause": [], "stop": [], "resume": [],
}  # fmt: skip


@given(st.data())
@fuzz(60)
def test_command_lines(data):
    """Exit code 2 and one line on stderr; never a traceback, and never a search that starts."""
    name = data.draw(st.sampled_from(list(FLAGS)))
    words = [name]
    if name not in ("search", "baselines"):
        words.append(data.draw(WORDS))
    if name == "search":
        words += ["--task", data.draw(WORDS), "--budget", data.draw(WORDS)]
    for flag in data.draw(st.lists(st.sampled_from(FLAGS[name] or ["--debug"]), max_size=2, unique=True)):
        words += [flag] if flag == "--debug" else [flag, data.draw(WORDS)]
    words = [word for word in words if word != "--debug"]

    def use():
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 2, (words, result.exit_code, result.output)
        assert "Traceback" not in result.output

    outcome(f"s3pet {name}", use)


@pytest.mark.parametrize("word", ["x" * 5000, "\0", "~nobody/x", "a/../../b", "CON", "nul\x00/x"])
def test_names_that_no_file_can_have(word, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    import s3pet_viz as s3
    from s3pet_viz.tasks import load_task

    for use in (s3.open_run, s3.open_study, s3.Structure.load, s3.load_backbone, s3.from_s3delta, lambda w: load_task(w, form="text")):
        assert outcome("names", lambda use=use: use(word)) != "accepted"
