"""The commands, in this process: results, errors as one line, Ctrl-C, pages that cannot be hijacked."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, refused

from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.layout import gates_to_parquet
from s3pet_viz.structure import Gate, Structure, probabilities, solve_shift

COUNTS = np.array([20, 10, 20, 10, 6])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run of five gates over 10,000 parameters, budget 30; its name tries to be HTML."""
    gates = [
        Gate(0, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20),
        Gate(1, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "BitFit", 10),
        Gate(2, "encoder.1.q", "encoder", 1, "SelfAttn.Q", "LoRA", 20),
        Gate(3, "encoder.1.q", "encoder", 1, "SelfAttn.Q", "BitFit", 10),
        Gate(4, "encoder.final", "encoder", 2, "Final.LN", "LNFit", 6),
    ]
    extra = {
        "name": "<script>alert(1)</script>",
        "backbone": "[bold]tiny</bold>",
        "backbone_params": 10_000,
        "budget": 30,
        "steps_total": 3,
    }
    config = {"task": "in memory", "mode": "fast", "seed": 4}
    with RunWriter.create(tmp_path / "run", gates=gates, config=config, extra=extra) as writer:
        for step in range(3):
            alpha = step * np.array([0.1, 0.5, -1, 2, 0.3])
            zeta = solve_shift(alpha, COUNTS, 30)
            writer.append(
                step=step, seconds=1, zeta=zeta, train_loss=1, val_loss=1, lr=1e-3,
                alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip
        structure = open_run(writer.path).structure()
        writer.write_structure(structure)
        writer.set_status("finished")
    return tmp_path / "run"


# -- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "search", "tune", "baselines", "show", "explain", "watch", "report", "pause", "resume", "stop"])
def test_help(name):
    text = call(name, "--help").output
    assert "--debug" in text
    if name in ("demo", "search", "tune", "baselines"):
        assert "sentiment" in text  # the embedded tasks are listed


def test_python_dash_m():
    command = [sys.executable, "-m", "s3pet_viz", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("s3pet_viz 0.")


# -- show --------------------------------------------------------------------------------------------------


def test_show_a_run(run_folder):
    text = call("show", run_folder, "--gates").output
    assert "SelfAttn.Q LoRA" in text
    assert "● chosen (3)" in text
    assert "30 parameters = 0.3000% of the backbone" in text
    assert "3 gates, 26 parameters" in text
    assert "3 of 3" in text
    assert "[bold]tiny</bold>" in text  # no markup


def test_show_at_another_budget(run_folder, tmp_path):
    saved = tmp_path / "small.json"
    text = call("show", run_folder, "--budget", "0.1%", "--save", saved).output
    assert "budget       10 parameters" in text
    assert "● chosen (1)" in text
    assert [g.index for g in Structure.load(saved).gates] == [3]


def test_show_a_structure_file(run_folder):
    text = call("show", run_folder / "structure.json").output
    assert "● chosen (3)" in text
    assert "upper ends" not in text  # p is not known


def test_show_writes_a_page_that_stands_alone(run_folder, tmp_path):
    page = tmp_path / "pages" / "heatmap.html"
    call("show", run_folder, "--html", page)
    text = page.read_text()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "class View " in text  # the module is inside
    assert 'src="http' not in text
    assert "exists already" in refused("show", run_folder, "--html", page)
    call("show", run_folder, "--html", page, "--budget", 10, "--force")
    assert page.read_text() != text


def test_show_a_run_without_steps(tmp_path):
    gates = [Gate(0, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "BitFit", 10)]
    RunWriter.create(tmp_path / "new", gates=gates, config={}, extra={"budget": 10}).close()
    assert "no steps recorded yet" in call("show", tmp_path / "new").output
    page = tmp_path / "page.html"
    assert "no structure" in refused("show", tmp_path / "new", "--save", tmp_path / "s.json")
    assert "no structure" in refused("show", tmp_path / "new", "--html", page)
    assert not page.exists()


def test_show_refuses(run_folder, tmp_path):
    assert "neither" in refused("show", tmp_path / "nothing")
    assert "run.json" in refused("show", tmp_path)
    assert "only a run" in refused("show", run_folder / "structure.json", "--budget", 10)
    assert "smallest module" in refused("show", run_folder, "--budget", 5)
    assert "found a folder" in refused("show", run_folder, "--html", tmp_path)
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused("show", run_folder, "--html", tmp_path / "file" / "page.html")


# -- wrong input -------------------------------------------------------------------------------------------


def test_search_needs_a_task_and_a_budget():
    assert "sentiment" in refused("search", "--budget", "0.1%")
    assert "0.1%" in refused("search", "--task", "sentiment")
    assert "--task" in refused("baselines")


@pytest.mark.parametrize("budget", ["much", "0", "-1", "200%", "3"])
def test_a_budget_that_cannot_be(budget, mood, tiny_folder, tmp_path):
    line = refused("search", "--task", mood, "--backbone", tiny_folder("t5"), "--budget", budget, "--out", tmp_path / "o")
    assert "budget" in line
    assert not (tmp_path / "o").exists()


def test_a_backbone_folder_without_weights(mood, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    line = refused("search", "--task", mood, "--backbone", tmp_path / "empty", "--budget", 600)
    assert "holds no weights" in line
    assert "no folder" in refused("search", "--task", mood, "--backbone", "./nowhere", "--budget", 600)


def test_a_task_that_is_not_there(tiny_folder):
    assert "sentiment" in refused("search", "--task", "moood", "--backbone", tiny_folder("t5"), "--budget", 600)


def test_an_occupied_folder(mood, tiny_folder, run_folder):
    before = sorted(run_folder.rglob("*"))
    line = refused("search", "--task", mood, "--backbone", tiny_folder("t5"), "--budget", 600, "--out", run_folder)
    assert "already holds a run" in line
    assert sorted(run_folder.rglob("*")) == before


def test_wrong_options(mood, tiny_folder, run_folder, tmp_path):
    base = ("search", "--task", mood, "--backbone", tiny_folder("t5"), "--budget", 600)
    assert "first-order" in refused(*base, "--mode", "slow")
    assert "bf16" in refused(*base, "--precision", "fp16")
    assert "device" in refused(*base, "--device", "abacus")
    assert "resume" in refused("search", "--resume", run_folder, "--space", "S3PET-L")
    assert "resume" in refused("search", "--resume", run_folder, "--lr", 1)
    assert "'nothing'" in refused("baselines", "--task", mood, "--backbone", tiny_folder("t5"), "--methods", "nothing")
    assert "--task" in refused("tune", run_folder)  # it was searched on rows in memory
    assert "only a run" in refused("tune", run_folder / "structure.json", "--budget", 10)
    (tmp_path / "table.csv").write_text("mine")
    assert "exists already" in refused("baselines", "--task", mood, "--out", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["explain", "sentiment-0.2pct-s0", "--out", "effects.csv"], ".json"),
        (["tune", "sentiment-0.2pct-s0", "--out", "scores.yml"], ".json"),
        (["baselines", "--task", "sentiment", "--budget", "0.2%", "--out", "table.json"], ".csv"),
        (["score", "--task", "sentiment", "--out", "structure.csv"], ".json"),
        (["score", "--tasks", "sentiment,entailment", "--out", "matrix.json"], ".csv"),
        (["show", "sentiment-0.2pct-s0", "--html", "map.PNG"], ".html"),
        (["show", "sentiment-0.2pct-s0", "--save", "map.html"], ".json"),
        (["report", "sentiment-0.2pct-s0", "--out", "report.pdf"], ".html"),
        (["sweep", "--tasks", "sentiment", "--table", "t.xlsx"], ".csv"),
        (["export", "sentiment-0.2pct-s0", "--to", "axolotl", "--out", "lora.json"], ".yaml"),
    ],
)
def test_a_name_that_promises_another_form(words, form, tmp_path, monkeypatch):
    """Before any work: a .csv that holds JSON would be found out late, in another program."""
    monkeypatch.chdir(tmp_path)
    said = " ".join(refused(*words).split())
    assert f"{words[-1]}: expected a name that ends in {form}, the form that is written" in said
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "s3pet_viz", "show", "/nowhere"]
    plain, debug = (subprocess.run([*command, *more], capture_output=True, text=True) for more in ([], ["--debug"]))
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "RunError" in debug.stderr


# -- the real thing ----------------------------------------------------------------------------------------


def test_search_tune_baselines(mood, tiny_folder, tmp_path):
    run, table = tmp_path / "my run", tmp_path / "table.csv"
    chosen = ("--task", mood, "--backbone", tiny_folder("bert", layers=1), "--quiet")
    text = call("search", *chosen, "--budget", 600, "--steps", 4, "--batch-size", 8, "--out", run, "--warmup", 1).output
    assert "next: s3pet tune '" in text  # quoted: the path has a space
    assert "● chosen" in text
    made = open_run(run)
    assert made.status == "finished"
    assert made.config["warmup"] == 1

    text = call("tune", run, "--steps", 4, "--quiet").output  # task and backbone are the run's
    scores = made.scores()
    assert scores is not None
    assert scores["pet_params"] == made.structure().n_params
    assert f"{scores['pet_params']:,} parameters" in text
    assert "scores.json" in text

    text = call(
        "baselines", *chosen, "--steps", 2, "--seeds", 2, "--n-random", 1, "--methods",
        "random,untouched,full", "--structure", run, "--out", table,
    ).output  # fmt: skip
    assert "all " in text
    with table.open() as f:
        rows = list(csv.DictReader(f))
    assert [r["method"] for r in rows] == ["my run"] * 2 + ["random"] * 2 + ["untouched"] + ["full"] * 2
    assert 500 < int(rows[2]["pet_params"]) <= 600  # random structures take the run's budget


def test_an_encoder_counts_its_head_apart_and_freezes_its_pooler(mood, tiny_folder, run_folder, tmp_path):
    out = tmp_path / "scores.json"
    text = call(
        "tune", "head", "--task", mood, "--backbone", tiny_folder("bert"), "--steps", 2, "--quiet", "--out", out
    ).output
    scores = json.loads(out.read_text())
    assert scores["pet_params"] == 0
    assert f"{scores['head_params']:,} parameters, trained too, counted apart" in text
    assert "pooler" in text
    assert "frozen" in text


def test_demo(mood, tiny_folder, tmp_path):
    out = tmp_path / "demo"
    options = ("--task", mood, "--backbone", tiny_folder("bert", layers=1), "--budget", 600, "--quiet", "--steps", 2, "--tune-steps", 1)
    for folder in (out, tmp_path / "demo-2"):
        text = call("demo", *options, "--out", out).output
        for method in ("searched", "random", "LoRA", "untouched", "full"):
            assert f"\n {method} " in text or f"\n{method} " in text
        assert (folder / "heatmap.html").stat().st_size > 50_000
        assert open_run(folder / "run").scores() is not None
        assert (folder / "table.csv").exists()


def test_interrupted_search_says_how_to_resume(mood, tiny_folder, tmp_path, monkeypatch):
    from s3pet_viz.engine import loop as engine

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--task", mood, "--backbone", tiny_folder("bert", layers=1), "--budget", 600, "--steps", 6, "--quiet")
    call("search", *options, "--out", whole)
    usual = engine.Search._one_step

    def interrupting(self, bar):
        usual(self, bar)
        if self.step == 3:
            import signal

            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engine.Search, "_one_step", interrupting)
    result = call("search", *options, "--out", cut, code=130)
    assert result.stderr == f"interrupted: the run is saved; continue it with: s3pet search --resume {cut}\n"
    assert open_run(cut).status == "stopped"
    monkeypatch.undo()
    call("search", "--resume", cut, "--quiet")
    assert np.array_equal(open_run(cut).alphas(), open_run(whole).alphas())


def test_interrupted_at_its_end_a_search_is_whole(mood, tiny_folder, tmp_path, monkeypatch):
    from s3pet_viz.engine import loop as engine

    usual = engine.Search._finish

    def interrupting(self):
        import signal

        signal.raise_signal(signal.SIGINT)
        usual(self)

    monkeypatch.setattr(engine.Search, "_finish", interrupting)
    options = ("--task", mood, "--backbone", tiny_folder("bert", layers=1), "--budget", 600, "--steps", 2, "--quiet")
    result = call("search", *options, "--out", tmp_path / "run", code=130)
    assert result.stderr == f"interrupted: the run is whole; see it with: s3pet show {tmp_path / 'run'}\n"
    assert open_run(tmp_path / "run").status == "finished"


def test_escape_sequences_of_a_strangers_run_do_not_reach_the_terminal(run_folder):
    path = run_folder / "run.json"
    info = json.loads(path.read_text())
    info["backbone"] = "\x1b]0;owned\x07tiny"
    path.write_text(json.dumps(info))
    gates = [{**g.to_dict(), "module": f"\x1b[2J{g.module}"} for g in open_run(run_folder).gates_list]
    (run_folder / "gates.parquet").write_bytes(gates_to_parquet([Gate(**g) for g in gates]))
    (run_folder / "structure.json").unlink()
    text = call("show", run_folder, "--gates").output
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert r"\x1b[2JSelfAttn.Q" in text
    info["kind"] = "\x1b[31mforeign"
    path.write_text(json.dumps(info))
    assert "\x1b" not in refused("show", run_folder)
