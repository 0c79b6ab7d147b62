"""Search and train in one go: what a prune search hands out is what it trained, scored as `tune` scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import MOOD, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from safetensors.torch import load_file
from search_problems import StopAt
from test_prune import Masks

import s3pet_viz as s3
from s3pet_viz.config import SearchConfig
from s3pet_viz.engine import Callback, search
from s3pet_viz.errors import ConfigError
from s3pet_viz.export import Adapter
from s3pet_viz.runs import open_run
from s3pet_viz.runs.place import check_apart

ONE_GO = {"mode": "prune", "steps": 12, "lr": 0.01, "checkpoint_every": 3}


def test_the_mode_that_nobody_names(tmp_path):
    given = {"task": "sentiment", "backbone": "tiny-t5", "budget": "0.2%"}
    assert SearchConfig(**given).mode == SearchConfig(**given, mode="auto").mode == "fast"
    saved = SearchConfig(**given, save=tmp_path / "a")
    assert saved.mode == SearchConfig(**given, mode="auto", save=tmp_path / "a").mode == "prune"
    assert SearchConfig.from_dict(saved.to_dict()) == saved


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
def test_it_hands_out_what_it_trained(go, form, tmp_path, task_folder):
    run = go("run", form=form, save=tmp_path / "adapter", **ONE_GO)
    assert run.status == "finished"
    adapter, scores = Adapter.from_pretrained(tmp_path / "adapter"), run.scores()
    assert adapter.structure == run.structure()
    assert (scores["method"], scores["steps"], scores["pet_params"]) == ("one go", 12, run.structure().n_params)
    assert adapter.scores == scores["metrics"]
    assert set(scores["validation"]) == set(scores["metrics"])
    assert bool(adapter.head) == (form in ("bert", "roberta"))
    # Read back on a fresh backbone it scores the same, as `tune`'s adapters do.
    again = s3.evaluate(tmp_path / "adapter", task=task_folder)
    assert again == pytest.approx(scores["metrics"], rel=1e-5)


def test_a_model_in_memory_is_left_as_it_was(tmp_path):
    model = tiny_model("bert")
    before = snapshot(model)
    given = {"task": mood_data(), "model": model, "tokenizer": tokenizer_of("bert"), "load": {"task_spec": MOOD}}
    run = search(**given, budget=600, out=tmp_path / "run", save=tmp_path / "a", progress=False, batch_size=8, **ONE_GO)
    assert_same(model, before)
    assert s3.evaluate(tmp_path / "a", **given, device="cpu") == pytest.approx(run.scores()["metrics"], rel=1e-5)


def test_the_gates_stand_still_at_the_end_and_the_weights_do_not(go, tmp_path):
    seen = Masks()
    run = go("run", save=tmp_path / "a", callbacks=[seen], **{**ONE_GO, "steps": 40})
    still = 40 - (40 - run.pruning["at_budget"]) // 2
    assert still < 39
    alphas = run.alphas()
    assert np.array_equal(alphas[still - 1 :], np.repeat(alphas[still - 1 : still], 41 - still, axis=0))
    assert not np.array_equal(alphas[still - 1], alphas[still - 2])
    chosen = {g.index for g in run.structure().gates}
    for step in range(still, 40):
        assert set(np.flatnonzero(seen.masks[step])) == chosen
        assert any(not torch.equal(a, b) for a, b in zip(seen.weights[step], seen.weights[step - 1], strict=True))


@pytest.mark.parametrize("at", [2, 7, 11])
def test_a_stopped_one_goes_on_bit_for_bit(go, tmp_path, at):
    whole = go("whole", save=tmp_path / "whole-adapter", **ONE_GO)
    part = go("part", save=tmp_path / "adapter", callbacks=[StopAt(at)], **ONE_GO)
    assert (part.status, part.scores()) == ("stopped", None)
    assert not (tmp_path / "adapter").exists()
    done = search(resume=part.path, progress=False)
    a, b = (load_file(tmp_path / name / "adapter.safetensors") for name in ("whole-adapter", "adapter"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    seconds = {"seconds": 0}
    assert {**done.scores(), **seconds} == {**whole.scores(), **seconds}


class Killed(BaseException):
    pass


def test_killed_between_the_adapter_and_its_scores_it_writes_both_again(go, tmp_path, monkeypatch):
    def killed(self, scores):
        raise Killed

    monkeypatch.setattr("s3pet_viz.runs.writer.RunWriter.write_scores", killed)
    with pytest.raises(Killed):
        go("run", save=tmp_path / "adapter", **ONE_GO)
    monkeypatch.undo()
    kept = load_file(tmp_path / "adapter" / "adapter.safetensors")
    assert open_run(tmp_path / "run").scores() is None
    assert open_run(tmp_path / "run").status != "finished", "whoever waits for its end would find no adapter"
    run = search(resume=tmp_path / "run", progress=False)
    assert run.scores()["metrics"] == Adapter.from_pretrained(tmp_path / "adapter").scores
    assert all(torch.equal(t, kept[key]) for key, t in load_file(tmp_path / "adapter" / "adapter.safetensors").items())


def test_what_cannot_be_kept_is_refused_before_anything_is_loaded(go, tmp_path, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("loaded")

    monkeypatch.setattr("s3pet_viz.engine.prepare.load_pair", never)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("")
    for options, said in (
        ({"save": tmp_path / "a", "mode": "fast"}, "save: expected mode 'prune', .* found 'fast'"),
        ({"save": tmp_path / "full", "mode": "prune"}, "the folder is not empty"),
        ({"save": tmp_path / "file", "mode": "prune"}, "expected a folder, found a file"),
        ({"save": 3, "mode": "prune"}, "save: expected a folder, found 3"),
        ({"save": "", "mode": "prune"}, "save: expected a folder, found ''"),
    ):
        with pytest.raises(ConfigError, match=said):
            go("run", **options)
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"


def test_a_folder_that_was_filled_meanwhile_is_left_alone(go, tmp_path):
    class Fill(Callback):
        def on_step_end(self, search, step, result):
            if step + 1 < ONE_GO["steps"]:
                return
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "thesis.tex").write_text("mine")

    with pytest.raises(ConfigError, match="the folder is not empty"):
        go("run", save=tmp_path / "a", callbacks=[Fill()], **ONE_GO)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["thesis.tex"]
    # The search itself is whole; once the folder is free, resuming keeps the adapter.
    (tmp_path / "a" / "thesis.tex").unlink()
    assert search(resume=tmp_path / "run", progress=False).scores()["method"] == "one go"


@pytest.mark.parametrize(("save", "out"), [("a", "a"), ("a", "a/run"), ("a/checkpoint", "a"), ("link", "a"), ("runs", None)])
def test_the_adapter_and_the_run_are_not_in_each_others_way(go, tmp_path, monkeypatch, save, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a")
    monkeypatch.setattr("s3pet_viz.engine.prepare.load_pair", None)
    with pytest.raises(ConfigError, match="save: expected a folder apart from the run's"):
        go("x", save=save, out=out, **ONE_GO)
    assert not any((tmp_path / name).exists() for name in ("a", "runs", "x"))


def test_an_adapter_within_its_run(go, tmp_path):
    run = go("run", save=tmp_path / "run" / "adapter", **ONE_GO)
    assert Adapter.from_pretrained(run.path / "adapter").structure == open_run(run.path).structure()


@pytest.mark.parametrize(("save", "words"), [("a\0b", "cannot be used as a folder"), ("loop", "cannot be|apart|folder")])
def test_what_is_no_folder_is_said_in_one_way(tmp_path, save, words):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=words):
        check_apart(tmp_path / save, tmp_path / "run")


@pytest.mark.parametrize("name", ["run", "other"])
def test_the_adapter_of_another_run_is_not_written_over(go, tmp_path, name):
    """Whatever its name: two runs were told one folder, and the one that was interrupted goes on last."""
    part = go("run", save=tmp_path / "a", callbacks=[StopAt(7)], **ONE_GO)
    go(f"there/{name}", save=tmp_path / "a", seed=5, budget=300, **ONE_GO)
    before = (tmp_path / "a" / "adapter.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="the folder is not empty; give another one$"):
        search(resume=part.path, progress=False)
    (tmp_path / "a").rename(tmp_path / "b")

    class Back(Callback):
        def on_search_begin(self, search):
            (tmp_path / "b").rename(tmp_path / "a")

    with pytest.raises(ConfigError, match="not empty; the search is whole: empty it, then resume .*run"):
        search(resume=part.path, callbacks=[Back()], progress=False)
    assert (tmp_path / "a" / "adapter.safetensors").read_bytes() == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert search(resume=part.path, progress=False).scores()["method"] == "one go"


def test_an_early_end_is_scored_as_what_it_was(go, tmp_path):
    run = go("run", save=tmp_path / "a", eval_every=1, stop_when_stable=1, **{**ONE_GO, "steps": 30, "open_steps": 4})
    scores = run.scores()
    assert run.early_stop
    assert (scores["steps"], scores["steps_taken"], scores["best_step"]) == (30, run.n_steps, run.n_steps)
    assert run.n_steps < 30
    assert scores["learned"] == (scores["validation"]["loss"] <= 0.95 * np.log(2) / 2)
