"""benchmarks/studies/prune_ablation.py: each way changes what it says, a cell is done once, the tables say what is there."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import s3pet_viz as s3
from s3pet_viz.engine import api
from s3pet_viz.engine.prune import Pruning
from s3pet_viz.engine.state import State
from s3pet_viz.structure import select
from s3pet_viz.tuning import Workbench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
    return importlib.import_module("prune_ablation")


def pruned(of, counts=(4, 4, 8), budget=8.0, dz=(3.0, 2.0, 4.0), steps=10):
    """At the budget, after one step with these gradients."""
    made = of(counts, budget, steps, open_steps=1, shrink_steps=1, constant_loss=1.0)
    made.see(0.5, torch.tensor(dz, dtype=torch.float64))
    made.advance(0, 0.5)
    return made


def test_what_each_way_changes(ablation):
    """By hand: scores 0.3, 0.2, 0.4 of sizes 4, 4, 8."""
    assert pruned(Pruning).mask().tolist() == [0, 0, 1]
    assert pruned(ablation.PerParameter).mask().tolist() == [1, 1, 0]  # 0.075, 0.05 and 0.05: the tie to the lower index
    square = pruned(ablation.Square)
    assert square.scores.tolist() == pytest.approx([0.9, 0.4, 1.6])
    kept, free = pruned(ablation.NoReturn), pruned(Pruning)
    for made in (kept, free):
        for step in range(1, 4):
            made.see(0.5, torch.tensor([50.0, 50.0, 0.0], dtype=torch.float64))
            made.advance(step, None)
    assert (kept.mask().tolist(), free.mask().tolist()) == ([0, 0, 1], [1, 1, 0])
    linear = ablation.Linear((4, 4, 8), 4.0, 20, open_steps=1, shrink_steps=4, constant_loss=1.0)
    linear.see(0.5, torch.ones(3, dtype=torch.float64))
    held = [linear.held]
    for step in range(5):
        linear.advance(step, 0.5)
        held.append(linear.held)
    assert held == [16, 13, 10, 7, 4, 4]


def test_cells_of_a_search(ablation, monkeypatch):
    """The other half: rows of train and score are apart, and nothing of the package stays changed."""
    bench = Workbench.open("paraphrase", "tiny-t5", device="cpu", max_rows=32)
    small = {"load": {"max_rows": 32}, "batch_size": 4}
    short = {name: replace(way, steps=way.steps and 4) for name, way in ablation.WAYS.items()}
    monkeypatch.setattr(ablation, "WAYS", short)
    rows = [
        ablation.cell(bench, name, "paraphrase", 0, trained=1, **small)
        for name in ("as it is", "other half", "no return", "twice as long", "random")
    ]
    assert (api.Pruning, State.run) == (Pruning, ablation._RUN)
    assert [r["passes"] for r in rows] == [4, 8, 4, 4, 0]
    assert all(0 < r["params"] <= 2056 for r in rows)
    assert s3.Structure.from_dict(rows[0]["structure"]) == s3.Structure.from_dict(rows[3]["structure"])
    said = ablation.tables(rows)
    assert "| mode prune, unchanged | 4 | – | 1.00 (1.00) |" in said
    assert len(said.splitlines()) == 2 + len(rows)


def test_the_structure_of_the_mode_is_the_one_that_is_open_at_the_end(ablation):
    made = pruned(Pruning)
    assert made.mask().nonzero().flatten().tolist() == list(select(made.alpha.float().numpy(), made.counts, 8.0))


def test_a_cell_is_done_once(ablation, monkeypatch, tmp_path, capsys):
    rows = [json.loads(line) for line in ablation.ROWS.read_text(encoding="utf-8").splitlines()[:3]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows[:2]) + json.dumps(rows[2])[:50])
    seen = []
    monkeypatch.setattr(ablation, "cell", lambda bench, name, task, seed: seen.append((task, seed, name)) or rows[2])
    monkeypatch.setattr(ablation.Workbench, "open", lambda *args, **options: None)
    monkeypatch.setattr(sys, "argv", ["prune_ablation.py", "--rows", str(path), "--limit", "1"])
    assert ablation.main() == 0
    key = lambda r: (r["task"], r["seed"], r["way"])  # noqa: E731
    assert seen == [key(rows[2])], "the one that a kill cut off"
    assert len(ablation.read(path)) == 3
    assert "mode prune, unchanged" in capsys.readouterr().out


def test_the_page_has_the_table_of_the_recorded_cells(ablation):
    said = ablation.tables(ablation.read(ablation.ROWS))
    assert said.split("\n\n")[0] in (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
