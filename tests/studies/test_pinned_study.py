"""What stands beside a pinned search holds its pins too: random structures, one-pass scores, the consensus."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from pin_problems import PIN, check

import s3pet_viz as s3
from s3pet_viz.errors import BudgetError, ConfigError


@pytest.fixture(scope="module")
def study(tmp_path_factory, small):
    with ThreadPoolExecutor(1) as pool:
        return s3.sweep(
            tasks="sentiment", budgets="3%", seeds=2, methods=["searched", "random", "gradient", "sensitivity/param"],
            pin=PIN, executor=pool, out=tmp_path_factory.mktemp("pinned") / "study", **small,
        )  # fmt: skip


def test_all_that_choose_from_the_space_hold_the_pins(study):
    assert not len(study.failed())
    table = study.table()
    assert set(table["method"]) == {"searched", "random", "gradient", "sensitivity/param"}
    made = {row.key: study.structure(row.key) for row in table.itertuples()}
    for structure in made.values():
        check(structure)
    budgets = {structure.budget for structure in made.values()}
    assert budgets == {table["budget_params"].iloc[0]}
    random = [made[key] for key in table.loc[table["method"] == "random", "key"]]
    assert random[0] != random[1]  # what is not pinned is still drawn


def test_each_fills_what_is_left_by_the_rule_of_a_search(study):
    """No gate that was left out, and may be in, would still fit."""
    runs = study.runs()
    gates = {gate.key: gate for gate in runs[0].gates_list}
    for key in study.table()["key"]:
        structure = study.structure(key)
        others = [gate.n_params for k, gate in gates.items() if k not in structure.keys]
        assert structure.n_params + min(others) > structure.budget


def test_without_pins_a_recipe_is_what_it_was(monkeypatch, tmp_path, small):
    """Recorded studies are compared with what would be planned now."""
    seen = {}
    monkeypatch.setattr("s3pet_viz.studies.options.run_cells", lambda cells, *a, **k: seen.update(cells=cells))
    s3.sweep(tasks="sentiment", budgets="3%", seeds=1, methods=["random", "gradient"], out=tmp_path / "s", **small)
    assert [sorted(cell.what["structure"]) for cell in seen["cells"]] == [
        ["budget", "draw", "kind", "space"], ["budget", "kind", "name", "seed", "space"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pin": "in=nowhere"}, ConfigError, "pin: in: no gate of this search is named 'nowhere'"),
        ({"pin": {"in": ["*"]}}, BudgetError, "pinned in have"),
        ({"pin": "what"}, ConfigError, "pin: expected in=PATTERN"),
        ({"pin": "in=E.0 SelfAttn.Q LoRA", "space": "S3PET-L", "methods": ["domlora"]}, ConfigError, "'domlora'"),
    ],
)
def test_pins_that_cannot_be_are_refused_before_any_cell(tmp_path, small, options, error, words):
    asked = {"methods": ["random", "gradient"], **options}
    with pytest.raises(error, match=words):
        s3.sweep(tasks="sentiment", budgets="3%", seeds=1, out=tmp_path / "s", **asked, **small)
    assert not (tmp_path / "s").exists()


def test_a_consensus_of_searches_with_other_pins_is_refused_first(tmp_path, small):
    per_task = {"sentiment": {"pin": PIN}, "entailment": {"pin": {"in": ["E.0 SelfAttn.V LoRA"]}}}
    with pytest.raises(ConfigError, match="the same gates pinned in for all sources of a consensus"):
        s3.transfer(
            sources=["sentiment", "entailment", "consensus"], targets=["sentiment"], budget="3%", seeds=1,
            per_task=per_task, out=tmp_path / "t", **small,
        )  # fmt: skip
