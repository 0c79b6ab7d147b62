"""A view's state: the page checks what a link says as Python checks what it is given, and nothing else gets in."""

from __future__ import annotations

import base64
import json

import pytest
import widget_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_problems import write_study

from s3pet_viz import figures, open_run
from s3pet_viz.analysis import Transfer
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures.difference import told as difference_said
from s3pet_viz.viewer.documents import EXPLORE_PARTS, Compared, run_doc, text
from s3pet_viz.viewer.state import check_state, choices, defaults, mark_of, names_of
from s3pet_viz.viewer.transfer import transfer_doc

LAST = 7


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """A document of each kind; the run has a gate pinned in."""
    made = tmp_path_factory.mktemp("shared")
    *gates, inside = widget_runs.space(3, 2)
    found = []
    for seed in range(2):
        growing = widget_runs.Growing(made / f"run{seed}", gates, seed=seed, pinned={"in": [inside.to_dict()], "out": []})
        growing.write(LAST + 1)
        found.append(growing.end())
    runs = dict(zip("ab", found, strict=True))
    facts = {label: {"task": "mood", "budget": "40", "seed": label} for label in runs}
    study = write_study(made / "study", lambda *_: 0.5, targets=["x", "y"], seeds=[0], searches=True)
    documents = {
        "run": run_doc(found[0], key="k", parts=EXPLORE_PARTS),
        "compare": Compared(runs, facts, key="k").doc,
        "transfer": transfer_doc(Transfer(study), key="k"),
    }
    return {kind: json.loads(text(doc)) for kind, doc in documents.items()}


@pytest.mark.parametrize("kind", ["run", "compare", "transfer"])
def test_the_page_and_python_know_the_same_fields_words_and_gates(node, docs, kind):
    doc = docs[kind]
    found = node("shared", {"doc": doc})
    assert found["choices"] == choices(doc)
    assert sorted(found["fields"]) == sorted(defaults(doc))
    assert [tuple(name) for name in found["names"]] == names_of(doc)
    assert doc["of"] == mark_of(doc)


def both(node, doc, states):
    """What the page and Python say of each state: the field that is wrong, or nothing."""
    page = node("problems", {"doc": doc, "states": [json.dumps(state) for state in states], "last": LAST})
    for state, said in zip(states, page, strict=True):
        try:
            check_state(json.loads(json.dumps(state)), doc, LAST)
        except ConfigError as error:
            yield state, said, str(error)
        else:
            yield state, said, ""


WRONG = [
    None, 5, [], "x", {"nonsense": 1}, {"__proto__x": 1}, {"constructor": 1}, {"version": 2}, {"version": "1"}, {"version": True},
    {"kind": "other"}, {"of": "0" * 16}, {"of": None}, {"rows": "nonsense"}, {"rows": None}, {"rows": ["p"]}, {"rows": "toString"},
    {"theme": "<b>"}, {"hide_pale": 1}, {"hide_pale": "no"}, {"stack": "lung"}, {"type": 5}, {"selection": None},
    {"selection": [5]}, {"selection": [["encoder.0.SelfAttn.Q", "<script>"]]}, {"selection": [["encoder.0.SelfAttn.Q"]]},
    {"selection": {"0": 1}}, {"selection": "x"},
]  # fmt: skip
OF_RUN = [
    {"step": -1}, {"step": LAST + 1}, {"step": 1.5}, {"step": "3"}, {"step": True}, {"budget": 1}, {"budget": 10**9}, {"budget": "0.2%"},
    {"in_cells": "importance"}, {"in_cells": None}, {"show": "trace"}, {"show": ["trace", "worth"]}, {"show": [1]}, {"edit": 5},
    {"edit": []}, {"edit": {}}, {"edit": {"gates": [], "budget": None}}, {"edit": {"gates": [], "budget": None, "step": 99}},
    {"edit": {"gates": [["x", "y"]], "budget": None, "step": None}}, {"edit": {"gates": [], "budget": 1, "step": None}}, {"a": "a"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["run", "compare", "transfer"])
def test_wrong_states_are_refused_by_both_by_the_same_field(node, docs, kind):
    for state, page, python in both(node, docs[kind], [*WRONG, *(OF_RUN if kind == "run" else [])]):
        assert page, state
        assert python.startswith("state: "), state
        field = page.split(":")[0]
        if isinstance(state, dict):
            assert next(iter(state)) in page, state
        assert python.removeprefix("state: ").startswith(field) or field.startswith(("expected a view", "unknown")), (page, python)


def test_right_states_are_taken_by_both(node, docs):
    doc = docs["run"]
    names = [list(name) for name in names_of(doc)]
    right = [defaults(one) for one in docs.values()]
    right_of_run = [
        {}, {"step": LAST}, {"step": 0, "budget": doc["run"]["total"]}, {"show": []}, {"selection": names[:3], "rows": "likeness"},
        {"edit": {"gates": [names[0], names[-1]], "budget": 20, "step": 3}}, {"theme": "dark", "own_scale": True, "type": "LoRA"},
    ]  # fmt: skip
    for one, state in zip(docs.values(), right, strict=True):
        assert [(page, python) for _, page, python in both(node, one, [state])] == [("", "")]
    assert {(page, python) for _, page, python in both(node, doc, right_of_run)} == {("", "")}
    strange = {"selection": [names[-1]]}  # pinned in: it is drawn, but cannot be picked
    assert all(page and python for _, page, python in both(node, doc, [strange]))


def encoded(data: bytes) -> str:
    return "#view=" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_link_holds_states_by_viewer(node):
    states = {"run-1": {"version": 1, "theme": "dark"}, "compared": {"a": "é ↗ </script>"}}
    link = node("link", states)
    assert link == encoded(json.dumps(states, ensure_ascii=False, separators=(",", ":")).encode())
    assert node("linked", {"hashes": [link, link], "viewers": ["run-1", "compared"]}) == [{"states": states}] * 2
    assert node("linked", {"hashes": [link], "viewers": ["compared", "x"]}) == [{"states": {"compared": states["compared"]}}]
    (foreign,) = node("linked", {"hashes": [link], "viewers": ["run"]})
    assert "another page" in foreign["problem"]
    assert node("linked", {"hashes": ["", "#s3", "#viewer=1"], "viewers": ["run"]}) == [None] * 3


def test_damaged_links_are_said_to_be_so(node):
    whole = encoded(b'{"run":{"version":1}}')
    damaged = [
        "#view=", "#view=%3Cscript%3E", whole[:-3], whole + "%", "#view=" + "A" * (1 << 22), encoded(b"\xff\xfe"), encoded(b"null"),
        encoded(b"[]"), encoded(b'"x"'), encoded(b"{"), encoded(b"<img src=x onerror=alert(1)>"),
    ]  # fmt: skip
    for found in node("linked", {"hashes": damaged, "viewers": ["run"]}):
        assert list(found) == ["problem"]
        assert "link" in found["problem"]


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60) | st.binary(max_size=60).map(encoded))
def test_no_fragment_breaks_the_page(node, hash_):
    (found,) = node("linked", {"hashes": [hash_], "viewers": ["run"]})
    assert found is None or set(found) <= {"problem", "states"}


def test_the_caption_is_pythons_to_the_letter(node, docs, tmp_path):
    gates = widget_runs.space(3, 2)
    for name, facts in (("whole", {}), ("bare", {"steps_total": None, "backbone_params": None}), ("small", {"backbone_params": 10**9, "task": "a/mood/"})):
        growing = widget_runs.Growing(tmp_path / name, gates, **facts)
        growing.write(3)
        run = growing.end()
        for budget, step in ((None, -1), (None, 1), (20, -1)):
            made = run.structure(budget, step)
            source = {key: run.config.get(key) for key in ("task", "mode", "seed")}
            told = {
                **source, "backbone": run.info["backbone"], "chosen": len(made), "gates": len(gates), "pinned": 0, "used": made.n_params,
                "budget": made.budget, "backbone_params": run.info["backbone_params"], "step": 3 if step == -1 else step + 1,
                "steps": run.info["steps_total"],
            }  # fmt: skip
            assert node("caption", told) == figures.caption(run, budget=budget, step=step)
    recorded = open_run("minilm-sst2-0.0139pct-s0")
    assert "0.0139 % of the backbone" in figures.caption(recorded)


def facts_of(run):
    made = run.structure()
    source = {key: run.config.get(key) for key in ("task", "mode", "seed")}
    return {
        **source, "backbone": run.info["backbone"], "chosen": len(made), "gates": len(run.gates_list), "pinned": 0, "used": made.n_params,
        "budget": made.budget, "backbone_params": run.info["backbone_params"], "step": run.n_steps, "steps": run.info["steps_total"],
    }  # fmt: skip


def test_the_caption_of_a_difference_is_pythons_to_the_letter(node):
    a, b = open_run("sentiment-0.2pct-s0"), open_run("entailment-0.2pct-s0")
    chosen = figures.compare_table(a, b)["chosen"]
    told = {"a": facts_of(a), "b": facts_of(b), "shared": int((chosen == "both").sum()), "either": int((chosen != "").sum())}
    assert node("difference", told) == figures.caption(b, minus=a)


def test_the_caption_of_a_difference_over_seeds_is_pythons_to_the_letter(node):
    sides = [[open_run(f"{task}-0.2pct-s{seed}") for seed in seeds] for task, seeds in (("sentiment", (1, 0)), ("entailment", (0, 1, 2)))]
    said = figures.caption(sides[1], minus=sides[0])
    told = {"a": [*map(facts_of, sides[0])], "b": [*map(facts_of, sides[1])], "told": difference_said(figures.difference_table(*sides))}
    assert node("seedsDifference", told) == said
    assert "A: a structure search for sentiment on tiny-t5 (mode fast, 200 steps, n = 2 seeds: 0, 1)." in said
    assert f"{int(figures.difference_table(*sides)['remains'].sum())} of 156 gates differ beyond seeds" in said


def test_a_card_is_asked_for_by_what_is_shown(node):
    asked = [{"step": 8}, {"runs": [0, 2]}, {}]
    assert [node("cardKey", ["k", about]) for about in asked] == ["k@8", "k:0,2", "k"]
