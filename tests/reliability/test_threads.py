"""Searches, trainings and explanations in threads of one process: bit for bit what they give alone."""

from __future__ import annotations

import asyncio
import copy
import os
import random
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from problems import MOOD, mood_data, save_tiny, snapshot, tiny_model, tokenizer_of
from reliability_problems import OPTIONS, assert_same_result, until_steps
from torch import nn
from transformers.utils import logging as hf_logging

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions, shared
from s3pet_viz.backbones.shared import RandomStream, seeded
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.threads import LOCK, no_warnings
from s3pet_viz.tuning import Workbench, one_pass_scores

MINUTES = 300  # s; nothing here takes as long
TUNE = {"steps": 4, "batch_size": 4, "evaluations": 2, "device": "cpu", "progress": False}
#: Every kind of step, a checkpoint and an evaluation.
SEARCH = {**OPTIONS, "steps": 4}
ONE_LAYER = {"num_layers": 1, "num_decoder_layers": 1, "dropout_rate": 0.1}  # of each stack
DATA = {"task": mood_data(48, 8), "load": {"task_spec": MOOD}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Backbones that draw dropout masks."""
    made = tmp_path_factory.mktemp("dropping")
    bert = {"num_hidden_layers": 1, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return {"t5": save_tiny("t5", made / "t5", **ONE_LAYER), "bert": save_tiny("bert", made / "bert", **bert)}


def searched(folder, **options):
    """Every number of a search but its times."""
    run = s3.search(**{**SEARCH, **DATA, **options}, out=folder, progress=False)
    return run_says(run)


def run_says(run):
    steps = run.steps()
    return [
        *(steps[name].to_numpy().tobytes() for name in ("step", "zeta", "train_loss", "val_loss", "lr")),
        run.alphas().tobytes(), run.ps().tobytes(), run.evals().to_json(), [gate.key for gate in run.structure().gates],
    ]  # fmt: skip


def scored(scores):
    return [{k: v for k, v in scores.to_dict().items() if k != "seconds"}]


def structure_of(folder, every=3):
    backbone = load_backbone(folder)
    gates, _ = candidate_gates(positions(backbone.model), load_space("S3PET-M"))
    return s3.Structure(tuple(gates[::every]), backbone.name, backbone.n_params, None, {})


def one_pass(folder):
    bench = Workbench.open(DATA["task"], folder, device="cpu", **DATA["load"])
    made = one_pass_scores(bench, "sensitivity", warm_steps=3, rows=16, progress=False)
    return [made.score.tobytes()]


def compared(folder):
    table = s3.baselines(
        backbone=folder, methods=["BitFit", "head"], seeds=1, **DATA, **{**TUNE, "steps": 2}
    )
    return [table.drop(columns="seconds").to_json()]


def explained(folder):
    found = s3.explain(structure_of(folder, every=12), backbone=folder, rows=4, **DATA, **TUNE)
    return [found.table.to_json(), found.loss]


@pytest.fixture(scope="module")
def jobs(folders):
    """Name -> what gives the numbers, into a folder."""
    t5, bert = str(folders["t5"]), str(folders["bert"])
    return {
        "fast": lambda out: searched(out, backbone=t5),
        "another seed": lambda out: searched(out, backbone=t5, seed=1),
        "an encoder, checkpointed": lambda out: searched(out, backbone=bert, gradient_checkpointing=True),
        "exact": lambda out: searched(out, backbone=t5, mode="exact", steps=3),
        "bf16": lambda out: searched(out, backbone=t5, precision="bf16", mode="paper", steps=3),
        "tune": lambda out: scored(s3.tune(structure_of(t5), backbone=t5, save=out, **DATA, **TUNE)),
        "tune full": lambda out: scored(s3.tune("full", backbone=bert, seed=3, **DATA, **TUNE)),
        "baselines": lambda out: compared(bert),
        "scores": lambda out: one_pass(bert),
        "explain": lambda out: explained(t5),
    }


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory):
    made = tmp_path_factory.mktemp("alone")
    return {name: job(made / str(k)) for k, (name, job) in enumerate(jobs.items())}


def at_once_in_threads(calls):
    """All begin in the same instant."""
    found = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def work(k):
        ready.wait(MINUTES)
        try:
            found[k] = calls[k]()
        except BaseException as error:
            found[k] = error

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MINUTES)
        assert not thread.is_alive()
    return found


def in_a_pool(calls):
    with ThreadPoolExecutor(3) as pool:
        return [future.result(MINUTES) for future in [pool.submit(call) for call in calls]]


def with_asyncio(calls):
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))

    return asyncio.run(main())


def of_the_process():
    """What a search might change for everybody."""
    return {
        "torch": torch.get_rng_state().tolist(), "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random": random.getstate(),
        "threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "grad": torch.is_grad_enabled(),
        "init": {name: id(getattr(nn.init, name)) for name in dir(nn.init)}, "linspace": torch.linspace,
        "warnings": list(warnings.filters), "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ), "verbosity": hf_logging.get_verbosity(), "folder": Path.cwd(),
        "bars": hf_logging.is_progress_bar_enabled(), "printing": torch._tensor_str.PRINT_OPTS.__dict__,
    }  # fmt: skip


@pytest.mark.parametrize("way", [at_once_in_threads, in_a_pool, with_asyncio])
def test_all_at_once_gives_what_each_gives_alone(way, jobs, alone, tmp_path):
    before = of_the_process()
    calls = [lambda job=job, k=k: job(tmp_path / str(k)) for k, job in enumerate(jobs.values())]
    for (name, wanted), found in zip(alone.items(), way(calls), strict=True):
        assert found == wanted, name
    assert of_the_process() == before


def test_beside_a_search_in_the_main_thread(jobs, alone, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(jobs["tune"], tmp_path / "other")
        assert jobs["fast"](tmp_path / "mine") == alone["fast"]
        assert other.result(MINUTES) == alone["tune"]


def test_what_others_draw_between_the_passes_is_theirs(jobs, alone, tmp_path):
    """A search leaves the process's random numbers alone, and is not moved by who draws between its passes."""

    class Drawing(s3.Callback):
        def on_step_end(self, search, step, result):
            drawn.append(torch.rand(()).item())

    drawn = []
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(SEARCH["steps"])]
    torch.manual_seed(5)
    backbone = str(jobs["fast"].__closure__[0].cell_contents)
    assert searched(tmp_path / "run", backbone=backbone, callbacks=[Drawing()]) == alone["fast"]
    assert drawn == expected


# -- one model, one tokenizer, one workbench -------------------------------------------------------------------


def test_one_model_and_one_tokenizer_in_several_threads(tmp_path):
    model, tokenizer = tiny_model("t5", **ONE_LAYER), tokenizer_of("t5")
    before = snapshot(model)
    memory = {"model": model, "tokenizer": tokenizer, "backbone": None}
    calls = [lambda seed=seed: searched(tmp_path / f"{seed}", **memory, seed=seed) for seed in range(3)]
    expected = [searched(tmp_path / f"alone-{seed}", **{**memory, "model": copy.deepcopy(model)}, seed=seed) for seed in range(3)]
    assert at_once_in_threads(calls) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    copies = [copy.deepcopy(model) for _ in range(3)]  # one tokenizer still
    calls = [
        lambda seed=seed: searched(tmp_path / f"copy-{seed}", **{**memory, "model": copies[seed]}, seed=seed)
        for seed in range(3)
    ]
    assert at_once_in_threads(calls) == expected


def test_one_workbench_in_several_threads(folders):
    bench = Workbench.open(DATA["task"], folders["bert"], device="cpu", **DATA["load"])
    structure = structure_of(folders["bert"])

    def tuned(seed):
        return scored(s3.tune(structure, task=None, workbench=bench, seed=seed, **{k: v for k, v in TUNE.items() if k != "device"}))

    expected = [tuned(seed) for seed in range(4)]
    assert in_a_pool([lambda seed=seed: tuned(seed) for seed in range(4)]) == expected


# -- what belongs to the process -------------------------------------------------------------------------------


def test_nothing_is_made_while_another_thread_loads(folders, monkeypatch):
    """from_pretrained changes the default dtype and nn.init of the process; here for as long as it takes to be seen."""
    import transformers

    own = transformers.AutoModelForSeq2SeqLM.from_pretrained
    loading, seen = threading.Event(), []

    def slow(*args, **options):
        before, zeros = torch.get_default_dtype(), nn.init.zeros_
        torch.set_default_dtype(torch.bfloat16)
        nn.init.zeros_ = lambda t: seen.append("nn.init of a loading") or t
        loading.set()
        try:
            time.sleep(0.5)
            return own(*args, **options)
        finally:
            nn.init.zeros_ = zeros
            torch.set_default_dtype(before)

    model = tiny_model("t5")
    gates, _ = candidate_gates(positions(model), load_space("S3PET-M"))

    def weights():
        pets = insert(model, gates)
        pets.detach()
        return [p.detach().clone() for p in pets.parameters()]

    expected, stream = weights(), RandomStream(3)
    with seeded(7):
        numbers = torch.rand(4)
    monkeypatch.setattr(transformers.AutoModelForSeq2SeqLM, "from_pretrained", slow)
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load_backbone, folders["t5"])
        assert loading.wait(MINUTES)
        for a, b in zip(weights(), expected, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
        loading.clear()
        loaded.result(MINUTES)
        again = pool.submit(load_backbone, folders["t5"])
        assert loading.wait(MINUTES)
        with seeded(7):
            assert torch.equal(torch.rand(4), numbers)
        with stream.part():
            assert torch.rand(2).dtype == torch.float32
        again.result(MINUTES)
    assert not seen


def test_a_stream_goes_on_where_it_ended():
    with seeded(11):
        whole = torch.rand(6)
    stream, other = RandomStream(11), RandomStream(12)
    before = torch.get_rng_state()
    parts = []
    for _ in range(3):
        with other.part():
            torch.rand(5)
        with stream.part():
            parts.append(torch.rand(2))
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_seed_gives_the_numbers_of_torch_and_is_told_to_other_devices_where_there_are_some(monkeypatch, accelerated):
    told, own = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: told.append(seed) or own(seed))
    monkeypatch.setattr(shared, "_accelerated", lambda: accelerated)
    for seed in (0, 3, 2**63 - 1, 2**64 - 1):
        with seeded(seed):
            drawn = torch.rand(4)
        assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(seed)))
    assert bool(told) == accelerated


def test_warning_filters_are_left_as_they_were():
    before = list(warnings.filters)
    turn = threading.Barrier(2)

    def first():
        with no_warnings():
            turn.wait(MINUTES)
            time.sleep(0.2)  # the other would enter, and leave last

    def second():
        turn.wait(MINUTES)
        with no_warnings():
            time.sleep(0.4)

    at_once_in_threads([first, second])
    assert warnings.filters == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_not_locked_out():
    held, done = threading.Event(), threading.Event()

    def holder():
        with LOCK:
            held.set()
            done.wait(0.5)

    thread = threading.Thread(target=holder)
    thread.start()
    assert held.wait(MINUTES)
    pid = os.fork()
    if not pid:
        os._exit(0 if LOCK.acquire(timeout=180) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join(MINUTES)


# -- studies -----------------------------------------------------------------------------------------------------


def test_a_sweep_in_a_thread_pool(folders, tmp_path):
    options = {
        "tasks": ["sentiment", "entailment"], "budgets": "2%", "seeds": 1, "methods": ["searched", "random", "gradient"],
        "backbone": str(folders["bert"]), "steps": 2, "tune_steps": 2, "evaluations": 1, "device": "cpu", "load": {"max_rows": 16},
        "progress": False,
    }  # fmt: skip
    tables = []
    for size in (1, 3):
        with ThreadPoolExecutor(size) as pool:
            study = s3.sweep(**options, executor=pool, out=tmp_path / f"{size}")
        assert study.status() == {"planned": 8, "done": 8, "failed": 0, "missing": 0}, study.failed()
        table = study.table().sort_values("key", ignore_index=True)
        tables.append(table[[c for c in table.columns if "seconds" not in c]])
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_two_studies_that_begin_at_once_have_folders_of_their_own(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        "tasks": "sentiment", "budgets": "2%", "seeds": 1, "methods": ["LoRA"], "backbone": str(folders["bert"]), "tune_steps": 1,
        "evaluations": 1, "device": "cpu", "load": {"max_rows": 16}, "progress": False,
    }  # fmt: skip
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        studies = at_once_in_threads([lambda pool=pool: s3.sweep(**options, executor=pool) for pool in (one, two)])
    assert [study.status()["done"] for study in studies] == [1, 1]
    assert studies[0].path != studies[1].path


# -- interrupts --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, threading
import s3pet_viz as s3
options, (mine, other) = {options!r}, sys.argv[1:]
ready = threading.Barrier(2)

def search(out):
    ready.wait()
    s3.search(**options, out=out, progress=False)

threading.Thread(target=search, args=(other,), daemon={daemon}).start()
try:
    search(mine)
except KeyboardInterrupt as error:
    print("interrupted", error, flush=True)
"""


@pytest.mark.parametrize(("number", "times", "daemon"), [(signal.SIGINT, 1, False), (signal.SIGINT, 2, True), (signal.SIGTERM, 1, True)])
def test_ctrl_c_beside_a_search_in_a_thread_leaves_both_resumable(server, options, whole, tmp_path, number, times, daemon):
    mine, other = tmp_path / "mine" / "run", tmp_path / "other" / "run"
    pid = server.start(script=SCRIPT.format(options=options, daemon=daemon), argv=[str(mine), str(other)])
    until_steps(mine, 2, seconds=MINUTES)
    until_steps(other, 1, seconds=MINUTES)
    for _ in range(times):
        os.kill(pid, number)
    server.end(pid)
    assert any(line.startswith("interrupted") for line in server.said().splitlines()), server.said()
    assert s3.open_run(mine).status == "stopped"
    assert s3.open_run(other).status in ("dead", "finished")
    for folder in (mine, other):
        if s3.open_run(folder).status != "finished":
            s3.search(resume=folder, progress=False)
        assert_same_result(folder, whole[0])
