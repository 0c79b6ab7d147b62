"""Experiment trackers: what they are told, that it is said once, and that a search is the same with and without them."""

from __future__ import annotations

import warnings

import accelerate.tracking
import numpy as np
import pytest
import yaml
from accelerate.tracking import GeneralTracker
from reliability_problems import assert_same_result
from test_interrupt import command

from s3pet_viz.analysis.measures import entropy
from s3pet_viz.engine import Callback, search
from s3pet_viz.engine.tracking import tracker_names
from s3pet_viz.errors import ConfigError, MissingExtraError
from s3pet_viz.launcher import _arguments
from s3pet_viz.runs import open_run
from s3pet_viz.structure.budget import expected_params


def events(folder):
    """{tag: {step: value}} of a folder of TensorBoard's event files, as TensorBoard shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    made = {}
    for tag in found.Tags()["scalars"]:
        steps = [event.step for event in found.Scalars(tag)]
        assert steps == sorted(set(steps)), f"{tag}: a step is there twice: {steps}"
        made[tag] = dict(zip(steps, [event.value for event in found.Scalars(tag)], strict=True))
    return made


def expected(run):
    """What the step log says that trackers should have been told."""
    table, config = run.steps(), run.config
    factor = 1 - table["step"] / config["steps"]
    columns = {
        "loss/train": table["train_loss"], "loss/val": table["val_loss"], "gates/zeta": table["zeta"],
        "gates/expected_params": expected_params(run.ps(), run.counts), "gates/entropy": entropy(run.ps()).mean(axis=1),
        "lr/weights": table["lr"], "lr/alpha": config["alpha_lr"] * factor, "seconds/step": table["seconds"],
    }  # fmt: skip
    made = {tag: dict(zip(table["step"], values, strict=True)) for tag, values in columns.items()}
    for name in ("val_loss", "selected_params", "alpha_grad_norm"):
        made[f"eval/{name}"] = dict(zip(run.evals()["step"], run.evals()[name], strict=True))
    return made


def assert_told(run):
    told, wanted = events(run.path / "tracking" / "tensorboard"), expected(run)
    assert told.keys() == wanted.keys()
    for tag, values in wanted.items():
        assert told[tag].keys() == values.keys(), tag
        assert list(told[tag].values()) == pytest.approx(list(values.values()), rel=1e-5), tag


class Recorder(GeneralTracker):
    """A tracker of the user's own."""

    name = "recorder"
    requires_logging_directory = False
    main_process_only = False

    def __init__(self, fail_at=None):
        super().__init__()
        self.rows, self.config, self.finished, self.fail_at = [], None, 0, fail_at

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **more):
        if step == self.fail_at:
            raise ConnectionError("the network is gone")
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


def test_tensorboard_from_the_command_line(server, options, whole, tmp_path):
    folder = tmp_path / "run"
    assert server.run(argv=[*command(options, folder), "--track", "tensorboard"]) == 0, server.said()
    assert "warning" not in server.said().lower()
    assert_same_result(folder, whole[0])
    run = open_run(folder)
    assert run.info["track"] == ["tensorboard"]
    (kept,) = (folder / "tracking" / "tensorboard").glob("events*")
    assert all(gate.module.encode() in kept.read_bytes() for gate in run.structure().gates)
    assert_told(run)
    (settings,) = (folder / "tracking").rglob("hparams.yml")
    said = yaml.safe_load(settings.read_text())
    assert {name: said[name] for name in ("steps", "mode", "tau", "budget")} == {"steps": 8, "mode": "fast", "tau": 1.0, "budget": 600}


def test_what_is_taken_again_is_shown_once(options, whole, tmp_path):
    """After a kill the log is ahead of the checkpoint; so is what the tracker was told."""

    class Killed(Exception):
        pass

    class Kill(Callback):
        def on_step_end(self, search, step, result):
            if step == 4:
                raise Killed

    folder = tmp_path / "run"
    with pytest.raises(Killed):
        search(**options, out=folder, track=("tensorboard",), callbacks=[Kill()], progress=False)
    assert sorted(events(folder / "tracking" / "tensorboard")["loss/train"]) == [0, 1, 2, 3]
    run = search(resume=folder, progress=False)  # no word of tracking: the run knows
    assert_same_result(folder, whole[0])
    assert_told(run)
    assert len(list((folder / "tracking").rglob("hparams.yml"))) == 1


def test_a_tracker_of_the_users_own(options, whole, tmp_path):
    mine = Recorder()
    run = search(**options, out=tmp_path / "run", track=[mine], progress=False)
    assert_same_result(tmp_path / "run", whole[0])
    assert "track" not in run.info or run.info["track"] == []
    assert mine.finished == 1
    assert mine.config["seed"] == 0
    assert all(isinstance(value, (bool, int, float, str)) for value in mine.config.values())
    told = {}
    for step, values in mine.rows:
        for tag, value in values.items():
            assert step not in told.setdefault(tag, {})
            told[tag][step] = value
    wanted = expected(run)
    assert told.keys() == wanted.keys()
    assert all(told[tag] == pytest.approx(wanted[tag], rel=1e-6) for tag in wanted)


def test_what_is_not_finite_is_left_out(options, tmp_path):
    mine = Recorder()
    run = search(**{**options, "mode": "single-level", "steps": 2}, out=tmp_path / "run", track=mine, progress=False)
    assert np.isnan(run.steps()["val_loss"]).all()
    assert [set(values) & {"loss/train", "loss/val"} for _, values in mine.rows] == [{"loss/train"}] * 2


def test_a_tracker_that_fails_ends_no_search(options, whole, tmp_path):
    failing, other = Recorder(fail_at=2), Recorder()
    other.name = "other"
    with pytest.warns(UserWarning, match="recorder is left out from now on .ConnectionError: the network is gone.") as said:
        search(**options, out=tmp_path / "run", track=[failing, other], progress=False)
    assert len(said) == 1
    assert_same_result(tmp_path / "run", whole[0])
    assert max(step for step, _ in failing.rows) == 1
    assert max(step for step, _ in other.rows) == 7


def test_a_tracker_that_cannot_begin_is_an_error(options, tmp_path):
    class Closed(Recorder):
        def store_init_configuration(self, values):
            raise PermissionError("no account")

    with pytest.raises(ConfigError, match="recorder cannot begin .PermissionError: no account"):
        search(**options, out=tmp_path / "run", track=Closed(), progress=False)
    assert open_run(tmp_path / "run").status == "failed"
    assert search(resume=tmp_path / "run", track="none", progress=False).status == "finished"


def test_missing_and_unknown_trackers_are_said_before_anything_is_loaded(tmp_path, monkeypatch):
    for name, error, words in (
        ("tensorbord", ConfigError, r"track: expected one of aim, .*tensorboard.*, or none, found 'tensorbord'"),
        (3, ConfigError, "found 3"),
        ("tensorboard", MissingExtraError, r'tensorboard is not installed: pip install "s3pet_viz\[tracking\]"'),
        ("wandb", MissingExtraError, "wandb is not installed: pip install wandb"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(accelerate.tracking, "_available_trackers", [])
            with pytest.raises(error, match=words):
                search(task="nowhere-task", backbone="/nowhere", budget=600, out=tmp_path / "run", track=name)
    assert not (tmp_path / "run").exists()
    assert tracker_names(None) == tracker_names("none") == tracker_names([]) == ()
    assert tracker_names(["tensorboard", "tensorboard"]) == ("tensorboard",)


def test_a_launched_search_is_told():
    assert _arguments({"track": "tensorboard"}) == ["--track", "tensorboard"]
    assert _arguments({"track": ["tensorboard", "wandb"]}) == ["--set", 'track=["tensorboard", "wandb"]']
