"""Studies: each cell exactly once, failures that stop nothing, a plan that cannot change in silence."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
import torch
from forks import Forked
from study_problems import SMALL

import s3pet_viz as s3
from s3pet_viz.analysis import Study
from s3pet_viz.errors import BudgetError, ConfigError, StructureError, StudyError, TaskError
from s3pet_viz.runs.lock import WriterLock
from s3pet_viz.studies import Cell, run_cells
from s3pet_viz.studies.executors import JobExecutor
from s3pet_viz.studies.options import StudyOptions
from s3pet_viz.studies.runner import pool_size
from s3pet_viz.studies.worker import execute


@pytest.fixture(scope="module")
def pool():
    """In this process: no worker has to start."""
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture(scope="module")
def study(tmp_path_factory, pool, small):
    return s3.sweep(
        tasks=["sentiment", "entailment"], budgets=["1%", "2%"], search_budget="2%", seeds=1,
        methods=["searched", "resolved", "random", "gradient", "LoRA"], executor=pool,
        out=tmp_path_factory.mktemp("studies") / "small", **small,
    )  # fmt: skip


def events(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return Counter((e["event"], e["key"]) for e in map(json.loads, lines))


# -- a sweep -----------------------------------------------------------------------------------------------


def test_every_combination_is_a_row(study):
    table = study.table()
    assert not len(study.failed())
    assert study.status() == {"planned": 20, "done": 20, "failed": 0, "missing": 0}
    assert Counter(table["method"]) == {"searched": 4, "resolved": 2, "random": 4, "gradient": 4, "LoRA": 2}
    assert set(table["metric"]) == {"accuracy"}
    assert (table["loss"] > 0).all()
    assert table["score"].between(0, 1).all()


def test_no_structure_exceeds_its_budget(study):
    table = study.table()
    within = table[table["budget_params"] > 0]
    assert (within["pet_params"] <= within["budget_params"]).all()
    for key, structure in study.structures().items():
        row = table[table["key"] == key]
        if len(row):
            assert structure.n_params == row["pet_params"].iloc[0]


def test_one_search_solved_again_is_the_structure_of_that_budget(study):
    run = next(r for r in study.runs() if "sentiment-2pct" in r.name)
    assert study.structure("sentiment-1pct-resolved-fast-s0") == run.structure("1%")
    assert study.structure("sentiment-2pct-searched-fast-s0") == run.structure()


def test_each_cell_was_begun_and_done_once(study):
    assert set(events(study.path).values()) == {1}
    assert {key for event, key in events(study.path) if event == "done"} == {c["key"] for c in study.cells}


def test_the_same_call_does_nothing_again_and_a_larger_one_only_what_is_new(study, pool, small):
    before = events(study.path)
    again = s3.sweep(
        tasks=["sentiment"], budgets=["1%", "2%"], seeds=1, methods=["searched"], executor=pool, out=study.path, **small
    )
    assert events(study.path) == before
    s3.sweep(tasks=["sentiment"], budgets=["2%"], seeds=1, methods=["untouched"], executor=pool, out=study.path, **small)
    assert events(study.path) - before == Counter({("begun", "sentiment-untouched-s0"): 1, ("done", "sentiment-untouched-s0"): 1})
    assert again.kind == "sweep"
    assert len(Study(study.path).info["calls"]) == 3


def test_other_options_under_the_same_names_are_refused(study, pool, small):
    other = {**small, "tune_steps": 3}
    with pytest.raises(StudyError, match=r"sentiment-LoRA-s0.*what.options.steps: 2, now 3.*another out"):
        s3.sweep(tasks=["sentiment"], budgets=["2%"], seeds=1, methods=["LoRA"], executor=pool, out=study.path, **other)


def test_statistics_and_texts(study):
    assert {"task", "budget", "method", "score"} <= set(study.summary().columns)
    rows = study.differences("searched", "random")
    assert (rows.loc[rows["task"] != "all", "n_pairs"] == 1).all()
    assert "sweep" in repr(study)
    assert "random" in study._repr_html_()


# -- failures ------------------------------------------------------------------------------------------------


def cell(key, structure, needs=()):
    bench = {"task": "sentiment", "backbone": "tiny-t5", "device": "cpu", "max_rows": 24}
    labels = {"task": "sentiment", "budget": "", "budget_params": 0, "method": key, "mode": "", "source": "", "draw": 0, "seed": 0}
    what = {"structure": structure, "bench": bench, "options": {"steps": 1, "evaluations": 1}}
    return Cell(key, "tune", labels, what, needs)


def test_a_cell_that_raises_stops_no_other_and_is_done_again_on_request(tmp_path, pool):
    search = Cell(
        "broken", "search", {"task": "sentiment"},
        {"task": "sentiment", "backbone": "tiny-t5", "budget": 3, "device": "cpu"},
    )  # fmt: skip
    cells = [
        cell("wrong", {"kind": "nothing"}), search, cell("needs", {"kind": "run", "run": "broken", "budget": 3}, ("broken",)),
        cell("fine", {"kind": "method", "name": "untouched"}),
    ]  # fmt: skip
    options = {"kind": "sweep", "settings": {}, "executor": pool, "progress": False}
    study = run_cells(cells, tmp_path / "s", **options)
    assert study.status() == {"planned": 4, "done": 1, "failed": 3, "missing": 0}
    errors = study.failed().set_index("key")["error"]
    assert "StudyError" in errors["wrong"]
    assert "found 'nothing'" in errors["wrong"]
    assert "BudgetError" in errors["broken"]
    assert "the search broken that it needs failed" in errors["needs"]
    run_cells(cells, tmp_path / "s", **options)
    assert set(study.failed()["attempts"]) == {1}
    run_cells(cells, tmp_path / "s", retry=True, **options)
    assert set(study.failed()["attempts"]) == {2}
    assert events(study.path)["done", "fine"] == 1


def test_a_study_has_one_runner(tmp_path, pool):
    (tmp_path / "s").mkdir()
    held = WriterLock(tmp_path / "s" / "lock")
    with pytest.raises(StudyError, match=rf"being run by process {os.getpid()}"):
        run_cells([], tmp_path / "s", kind="sweep", settings={}, executor=pool)
    held.release()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_does_each_cell_exactly_once(server, tmp_path, pool, small):
    options = {"tasks": ["sentiment"], "budgets": ["2%"], "seeds": 3, "methods": ["searched", "random"], "out": str(tmp_path / "s"), **small}
    code = f"import s3pet_viz as s3\ns3.sweep(workers=2, **{options!r})\n"
    first = Forked(server, server.start(script=code, argv=[]))
    journal = tmp_path / "s" / "journal.jsonl"
    deadline = time.monotonic() + 600
    while not (journal.exists() and '"done"' in journal.read_text()):
        assert time.monotonic() < deadline
        assert first.poll() is None, server.said()
        time.sleep(0.05)
    first.kill()
    done = Study(tmp_path / "s").status()["done"]
    assert done < 9
    study = s3.sweep(executor=pool, **options)
    assert study.status() == {"planned": 9, "done": 9, "failed": 0, "missing": 0}
    ended = Counter({key: n for (event, key), n in events(study.path).items() if event == "done"})
    assert ended == {c["key"]: 1 for c in study.cells}


def test_workers_have_no_more_threads_than_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [pool_size(workers, 9) for workers in (1, 2, 4, 8, 20)] == [(1, 3), (2, 3), (4, 2), (8, 1), (9, 1)]
    assert pool_size(8, 2) == (2, 3)


# -- executors -----------------------------------------------------------------------------------------------


class Job:
    def __init__(self, function, args):
        self.function, self.args, self.asked = function, args, 0

    def done(self):
        self.asked += 1
        return self.asked > 1

    def result(self):
        return self.function(*self.args)


class Jobs:
    def submit(self, function, *args):
        return Job(function, args)


def test_jobs_that_can_only_be_asked_become_futures():
    executor = JobExecutor(Jobs(), poll=0.01)
    futures = [executor.submit(divmod, 7, n) for n in (2, 0)]
    assert futures[0].result(120) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        futures[1].result(120)


def test_an_executor_without_submit_is_refused(tmp_path):
    plan = [cell("fine", {"kind": "method", "name": "untouched"})]
    with pytest.raises(ConfigError, match=r"expected a concurrent.futures.Executor.*found int"):
        run_cells(plan, tmp_path / "s", kind="sweep", settings={}, executor=4)


@pytest.mark.slow
def test_submitit_runs_cells(tmp_path):
    submitit = pytest.importorskip("submitit", reason="needs the extra [slurm]")
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    plan = [cell("fine", {"kind": "method", "name": "untouched"})]
    study = run_cells(plan, tmp_path / "s", kind="sweep", settings={}, executor=executor, progress=False)
    assert study.status()["done"] == 1
    assert study.result("fine")["pid"] != os.getpid()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # dask's own
def test_dask_runs_cells(tmp_path, server):
    distributed = pytest.importorskip("distributed", reason="needs the extra [dask]")
    script = "from distributed.cli.dask_worker import main\nmain()"
    with (
        distributed.LocalCluster(n_workers=0, protocol="tcp://", dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        address = cluster.scheduler_address
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path / "dask")]
        worker = server.start(script=script, argv=[address, *options], folder=str(tmp_path))
        client.wait_for_workers(1, timeout=60)
        plan = [cell("fine", {"kind": "method", "name": "untouched"})]
        study = run_cells(
            plan, tmp_path / "s", kind="sweep", settings={}, executor=client.get_executor(), progress=False
        )
        client.retire_workers()
    server.end(worker)
    assert study.status()["done"] == 1
    assert study.result("fine")["pid"] == worker


# -- wrong input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"methods": ["magic"]}, ConfigError, "methods: expected names among searched, resolved, random.*found 'magic'"),
        ({"tasks": [{"train": []}]}, ConfigError, "expected names or folders, found dict"),
        ({"tasks": ["sentiment", "data/tasks/sentiment"]}, ConfigError, "two are called 'sentiment'"),
        ({"tasks": []}, ConfigError, "tasks: expected at least one"),
        ({"tasks": ["nowhere"]}, TaskError, "nowhere"),
        ({"budgets": ["3"]}, BudgetError, "smallest"),
        ({"seeds": 0}, ConfigError, "seeds: expected a whole number of at least 1, found 0"),
        ({"modes": ["slow"]}, ConfigError, "mode: expected one of"),
        ({"stepz": 3}, ConfigError, "unknown option 'stepz'"),
        ({"per_task": {"rte": {}}}, ConfigError, "per_task: expected tasks among sentiment, found 'rte'"),
        ({"n_random": 0}, ConfigError, "n_random: expected a whole number of at least 1"),
        ({"workers": 0}, ConfigError, "workers: expected a whole number of at least 1"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_error_before_anything_is_written(tmp_path, monkeypatch, change, error, words):
    options = {"tasks": ["sentiment"], "budgets": ["0.2%"], "seeds": 1, "out": tmp_path / "s", "backbone": "tiny-t5", **SMALL, **change}
    with pytest.raises(error, match=words):
        s3.sweep(**options)
    assert not (tmp_path / "s").exists()


def test_damaged_folders_are_named(tmp_path, study):
    with pytest.raises(StudyError, match="expected a study folder"):
        s3.open_study(tmp_path)
    folder = tmp_path / "s"
    (folder / "cells").mkdir(parents=True)
    info = json.loads((study.path / "study.json").read_text())
    for change, words in (
        ({"kind": "x"}, "field 'kind'"), ({"schema_version": 9}, "schema_version 1, found 9"), ({"cells": 3}, "'cells'"),
        ({"cells": [{"key": "../../etc", "kind": "tune", "labels": {}}]}, r"cells\[0\]"),
    ):  # fmt: skip
        (folder / "study.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(StudyError, match=words):
            s3.open_study(folder)
    (folder / "study.json").write_text(json.dumps(info))
    (folder / "cells" / f"{info['cells'][0]['key']}.json").write_text("{")
    with pytest.raises(StudyError, match="expected JSON"):
        s3.open_study(folder).table()


def test_a_done_cell_is_returned_not_done_again(study):
    key = "sentiment-LoRA-s0"
    before = events(study.path)
    plan = next(c for c in study.cells if c["key"] == key)
    assert execute(str(study.path), plan) == study.result(key)
    assert events(study.path) == before


# -- transfer ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix(tmp_path_factory, pool, study, small):
    given = tmp_path_factory.mktemp("given") / "mine.json"
    study.structure("sentiment-LoRA-s0").save(given)
    return s3.transfer(
        targets=["sentiment", "entailment", "similarity"], budget="2%", seeds=2, executor=pool,
        sources=["sentiment", "entailment", "similarity", "consensus", given], references=["random"],
        out=tmp_path_factory.mktemp("studies") / "moved", **small,
    )  # fmt: skip


def test_the_matrix_is_the_mean_over_seeds(matrix):
    table = matrix.table()
    assert not len(matrix.study.failed())
    assert matrix.sources == ["sentiment", "entailment", "similarity", "consensus", "mine"]
    assert matrix.references == ["random"]
    assert (matrix.counts() == 2).all().all()
    losses = matrix.matrix(value="loss")
    for source, target in (("sentiment", "entailment"), ("random", "sentiment"), ("mine", "similarity")):
        rows = table[(table["source"] == source) & (table["target"] == target)]
        assert losses.loc[source, target] == pytest.approx(rows["loss"].mean(), rel=1e-12)
    own = matrix.matrix(value="loss", relative="own")
    assert own.loc["sentiment", "sentiment"] == 0
    assert own.loc["sentiment", "entailment"] == pytest.approx(
        losses.loc["sentiment", "entailment"] - losses.loc["entailment", "entailment"], rel=1e-9
    )
    random = matrix.matrix(value="loss", relative="random")
    assert random.loc["mine", "sentiment"] == pytest.approx(
        losses.loc["mine", "sentiment"] - losses.loc["random", "sentiment"], rel=1e-9
    )


def test_structures_are_the_source_s(matrix):
    by_name = {r.name: r for r in matrix.study.runs()}
    run = by_name["search-sentiment-2pct-fast-s1"]
    for target in matrix.targets:
        assert matrix.structure("sentiment", seed=1, target=target) == run.structure()
    assert (matrix.overlap().to_numpy().diagonal() == 1).all()
    left_out = matrix.structure("consensus", seed=0, target="sentiment").source["consensus_of"]
    assert left_out == ["search-entailment-2pct-fast-s0", "search-similarity-2pct-fast-s0"]
    assert len(matrix.gates()) == 19, "of 20: the bias on keys is left out"
    with pytest.raises(ConfigError, match="source: expected one of sentiment"):
        matrix.structure("nothing")
    with pytest.raises(ConfigError, match="relative: expected full among"):
        matrix.matrix(relative="full")


def test_a_sweep_goes_on_as_a_transfer(study, pool, small):
    before = events(study.path)
    made = s3.transfer(
        targets=["sentiment", "entailment"], sources=["sentiment", "entailment"], budget="2%", seeds=1,
        references=["random"], executor=pool, out=study.path, **small,
    )  # fmt: skip
    new = {key for event, key in (events(study.path) - before) if event == "done"}
    assert new == {
        "entailment-2pct-searched-fast-from-sentiment-s0", "sentiment-2pct-searched-fast-from-entailment-s0",
    }  # fmt: skip
    assert made.study.kind == "sweep + transfer"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sources": ["consensus"]}, ConfigError, "a consensus needs source tasks"),
        ({"sources": [3]}, ConfigError, "sources: expected a task, a run, a structure, or the path of one, found 3"),
        ({"sources": ["sentiment", "sentiment"]}, ConfigError, "two are called 'sentiment'"),
        ({"sources": ["nowhere.json"]}, TaskError, "nowhere.json"),
        ({"references": ["searched"]}, ConfigError, "references|methods"),
    ],
)
def test_wrong_transfers(tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        s3.transfer(**{"targets": ["sentiment"], "budget": "0.2%", "out": tmp_path / "s", "backbone": "tiny-t5", **SMALL, **change})
    assert not (tmp_path / "s").exists()


def test_a_structure_of_another_backbone_is_refused(tmp_path, small):
    other = s3.Structure.from_dict(
        {
            "schema_version": 1, "kind": "s3pet_viz.structure", "backbone": "x", "backbone_params": 10, "budget": None,
            "n_params": 8, "source": {},
            "gates": [{"index": 0, "position": "encoder.block.9.layer.0.SelfAttention.q", "stack": "encoder", "layer": 9, "module": "SelfAttn.Q", "pet_type": "BitFit", "n_params": 8, "options": {}}],
        }
    )  # fmt: skip
    with pytest.raises(StructureError, match="no position"):
        s3.transfer(targets=["sentiment"], sources=[other], budget="2%", out=tmp_path / "s", **small)


def test_a_worker_whose_parent_died_while_it_started_ends():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = f"import time; from s3pet_viz.studies.worker import die_with_parent; die_with_parent(None, {gone.pid}); time.sleep(600)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 1


@pytest.mark.parametrize("study", [s3.sweep, s3.transfer])
def test_shared_options_are_in_the_signature_and_the_help(study):
    parameters = inspect.signature(study).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    shared = {f.name: f.default for f in fields(StudyOptions) if f.init and f.name != "options"}
    assert {name: parameters[name].default for name in shared} == shared
    for name in ("seeds", "n_random", "out", "executor", "retry", "per_task", "load"):
        assert f"\n    {name}: " in study.__doc__, name


@pytest.mark.parametrize("name", ["seed_numbers", "options", "outt"])
def test_what_is_no_option_of_a_study_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
        s3.sweep(tasks="sentiment", budgets="0.2%", **{name: [1]})
    assert not list(tmp_path.iterdir())
