"""A whole search on a tiny backbone: what it writes, how it stops, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from problems import MOOD, assert_same, mood_data, mood_rows, snapshot, tiny_model, tokenizer_of
from safetensors.torch import load_file
from search_problems import STEPS, StopAt

from s3pet_viz.engine import Callback, SearchConfig, search
from s3pet_viz.errors import BudgetError, ConfigError, NonFiniteLossError, RunError, S3PETError, SpaceError, TaskError
from s3pet_viz.runs import open_run


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
@pytest.mark.parametrize("mode", ["fast", "paper", "first-order", "single-level", "exact", "prune"])
def test_every_mode_on_every_family(go, form, mode):
    run = go("run", form=form, mode=mode, steps=4)
    assert run.status == "finished"
    steps = run.steps()
    assert steps["step"].tolist() == [0, 1, 2, 3]
    assert np.isfinite(steps["train_loss"]).all()
    # prune looks at held-out rows now and then, the last step among them.
    assert np.isfinite(steps["val_loss"]).all() == (mode not in ("single-level", "prune"))
    assert np.isfinite(steps["val_loss"].iloc[-1]) == (mode != "single-level")
    structure = run.structure()
    assert 0 < structure.n_params <= 600
    assert structure.backbone_params == run.info["backbone_params"]
    sizes = np.array([g.n_params for g in run.gates_list])
    assert run.p() @ sizes == pytest.approx(600, rel=1e-5)
    assert np.abs(run.alpha()).max() > 0.1
    # The structure on disk is what a reader would select again from the step log.
    assert open_run(run.path).structure(budget=600) == structure


def final_state(run):
    return load_file(run.path / "checkpoint" / "state.safetensors")


@pytest.mark.parametrize("mode", ["fast", "paper", "prune"])
@pytest.mark.parametrize("form", ["t5", "bert"])
def test_resume_is_bit_for_bit(go, form, mode):
    options = {"form": form, "mode": mode, "checkpoint_every": 3, "dropout": True, "eval_every": 2}
    whole = go("whole", **options)
    stop = StopAt(5)
    part = go("part", callbacks=[stop], **options)
    assert part.status == "stopped"
    assert part.info["stop_reason"] == "enough"
    assert stop.seen == ["begin", 0, 1, 2, 3, 4, "end"]
    resumed = search(resume=part.path, progress=False)
    assert resumed.status == "finished"
    a, b = final_state(whole), final_state(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.steps()["step"].tolist() == list(range(STEPS))
    assert np.array_equal(whole.alphas(), resumed.alphas())
    assert np.array_equal(whole.steps()["train_loss"], resumed.steps()["train_loss"])
    assert whole.info.get("pruning") == resumed.info.get("pruning")
    assert whole.structure().source == {**resumed.structure().source, "run": "whole"}
    assert whole.structure() == resumed.structure()
    kept = ["step", "val_loss", "selected_params"]
    pd.testing.assert_frame_equal(whole.evals()[kept], resumed.evals()[kept])


def test_resume_from_a_checkpoint_before_the_last_logged_step(go):
    """As after a kill: the log is ahead of the checkpoint; the steps in between are taken again, once."""
    whole = go("whole")

    class Killed(Exception):
        pass

    class Kill(Callback):
        def on_step_end(self, search, step, result):
            if step == 5:
                raise Killed

    with pytest.raises(Killed):
        go("part", checkpoint_every=4, callbacks=[Kill()])
    part = open_run(whole.path.parent / "part")
    assert part.status == "failed"
    assert part.n_steps == 6
    resumed = search(resume=part.path, progress=False)
    assert resumed.steps()["step"].tolist() == list(range(STEPS))
    assert np.array_equal(whole.alphas(), resumed.alphas())


def test_same_seed_same_run_other_seed_another(go):
    a, b, c = go("a"), go("b"), go("c", seed=1)
    assert np.array_equal(a.alphas(), b.alphas())
    assert not np.array_equal(a.alphas(), c.alphas())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_resumable_run(go, number):
    class Interrupt(Callback):
        def on_step_end(self, search, step, result):
            if step == 3:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        go("part", callbacks=[Interrupt()])
    assert signal.getsignal(number) is before
    whole = go("whole")
    part = open_run(whole.path.parent / "part")
    assert (part.status, part.n_steps) == ("stopped", 4)
    assert np.array_equal(search(resume=part.path, progress=False).alphas(), whole.alphas())


def test_non_finite_loss_leaves_a_saved_run(go, tiny_folder, tmp_path):
    model = tiny_model("bert")

    class Poison(Callback):  # not before: a backbone that holds NaN is refused
        def on_search_begin(self, search):
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")

    with pytest.raises(NonFiniteLossError, match="step 0: train loss is nan"):
        go("bad", backbone=None, model=model, tokenizer=tokenizer_of("bert"), callbacks=[Poison()])
    run = open_run(tmp_path / "bad")
    assert run.status == "failed"
    assert "step 0: train loss is nan" in run.info["error"]
    assert (run.path / "checkpoint" / "state.safetensors").exists()


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_objects_in_memory_are_left_as_they_were(go, form):
    datasets = pytest.importorskip("datasets")
    model = tiny_model(form)
    before, grads = snapshot(model), [p.requires_grad for p in model.parameters()]
    rows = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in mood_data().items()})
    run = go(
        "memory", task=rows, backbone=None, model=model, tokenizer=tokenizer_of(form), load={"task_spec": MOOD}
    )
    assert run.status == "finished"
    assert run.config["task"] == "in memory"
    assert_same(model, before)
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


def test_search_keeps_the_callers_random_state(go):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    go("run", steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_and_options_reach_the_run(go):
    run = go("run", precision="bf16", steps=3, space="S3PET-L+cross", tau=0.5, warmup=1, lr=1e-3)
    assert run.status == "finished"
    assert run.info["tau"] == 0.5
    assert run.info["lr"] == 1e-3
    assert {g.pet_type for g in run.gates_list} == {"LoRA"}
    assert any(g.module.startswith("CrossAttn") for g in run.gates_list)
    assert not np.abs(run.alphas()[0]).any()  # warm-up: alpha rests
    assert np.abs(run.alphas()[1]).any()
    assert SearchConfig.from_dict(run.config).warmup == 1


def test_what_a_space_names_and_the_backbone_lacks_is_said_and_kept(go):
    space = {"name": "mine", "gates": [{"type": "BitFit", "modules": ["FFN.W1", "CrossAttn.Q"]}]}
    with pytest.warns(UserWarning, match=r"CrossAttn\.Q"):
        run = go("run", form="bert", layers=2, space=space, steps=2, budget=60)
    assert run.info["space_missing"] == ["BitFit on CrossAttn.Q"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 0}, BudgetError, "above zero"),
        ({"budget": -5}, BudgetError, "above zero"),
        ({"budget": "101%"}, BudgetError, "over 100 %"),
        ({"budget": "much"}, BudgetError, "0.0139%"),
        ({"budget": 3}, BudgetError, "smallest module"),
        ({"mode": "slow"}, ConfigError, "fast"),
        ({"steps": 0}, ConfigError, "steps"),
        ({"lr": -1.0}, ConfigError, "lr"),
        ({"speed": 3}, ConfigError, "speed"),
        ({"space": "S3PET-XL"}, SpaceError, "S3PET-M"),
        ({"backbone": "/nowhere"}, S3PETError, "no folder"),
        ({"task": "nowhere-task"}, TaskError, "nowhere-task"),
        ({"device": "tpu9"}, ConfigError, "device"),
        ({"precision": "fp16"}, ConfigError, "bf16"),
        ({"warmup": STEPS}, ConfigError, "warmup"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(go, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        go("never", **options)
    assert not (tmp_path / "never").exists()


def _spoil(folder, what):
    rows = mood_rows(20, 1)
    if what == "empty":
        rows = []
    elif what == "column":
        rows = [{"label": r["label"]} for r in rows]
    elif what == "label":
        rows[3]["label"] = 7
    elif what == "one class":
        rows = [r for r in rows if r["label"] == 0]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.mark.parametrize("what", ["empty", "column", "label", "one class"])
def test_bad_tasks_are_refused(go, task_folder, tmp_path, what):
    _spoil(task_folder, what)
    with pytest.raises(TaskError, match=r"train\.jsonl"):
        go("never")
    assert not (tmp_path / "never").exists()


def test_a_folder_that_holds_another_run_is_refused(go):
    first = go("run")
    before = (first.path / "run.json").read_bytes()
    with pytest.raises(RunError, match="run"):
        go("run", seed=1)
    assert (first.path / "run.json").read_bytes() == before


def test_resume_refuses_what_it_cannot_continue(go, task_folder, tmp_path):
    run = go("run", callbacks=[StopAt(3)])
    with pytest.raises(ConfigError, match="seed"):
        search(resume=run.path, seed=3)
    with pytest.raises(ConfigError, match="space"):
        search(resume=run.path, space="S3PET-L")
    text = (task_folder / "train.jsonl").read_text()
    (task_folder / "train.jsonl").write_text(text.replace("good", "bad"))
    with pytest.raises(RunError, match="data was"):
        search(resume=run.path, progress=False)
    (task_folder / "train.jsonl").write_text(text)
    assert search(resume=run.path, progress=False).status == "finished"
    with pytest.raises(RunError, match="already taken all"):
        search(resume=run.path)
    (run.path / "checkpoint" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="damaged"):
        search(resume=run.path)
    with pytest.raises(RunError):
        search(resume=tmp_path / "mood")


def test_budget_that_holds_everything_opens_every_gate(go):
    with pytest.warns(UserWarning, match="every gate is open"):
        run = go("run", layers=2, space="S3PET-L", budget=20000, steps=3)
    assert (run.p() > 0.999999).all()
    assert len(run.structure()) == len(run.gates_list)
