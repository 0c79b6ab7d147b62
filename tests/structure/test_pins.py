"""Gates pinned by hand, and structures edited by hand: what is parted, what is refused, what the source says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from widget_runs import space

from s3pet_viz.config import SearchConfig
from s3pet_viz.errors import BudgetError, ConfigError, StructureError
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.pins import matching, part, pin_text, read_pin, searched_of

GATES = space(3, 1)  # LoRA of 10 and BitFit of 5 on SelfAttn.Q of E.0 to E.2 and D.0


def names(gates):
    return [gate.label for gate in gates]


@pytest.mark.parametrize(
    "given",
    [
        {"in": ["E.0"], "out": ["D.*", "*BitFit"]},
        {"in": "E.0", "out": ("D.*", "*BitFit", "D.*")},
        "in=E.0; out=D.*, *BitFit",
        '{"in": "E.0", "out": ["D.*", "*BitFit"]}',
    ],
)
def test_every_form_is_one_and_is_kept(given):
    config = SearchConfig(task="t", backbone="b", budget=10, pin=given)
    assert config.pin == {"in": ["E.0"], "out": ["D.*", "*BitFit"]}
    assert read_pin("pin", pin_text(config.pin)) == config.pin
    assert SearchConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("given", [3, ["E.0"], {"inside": ["E.0"]}, {"in": [3]}, {"in": [""]}, "E.0", "in=", "", {"in": 3}])
def test_what_is_no_pin_is_refused(given):
    with pytest.raises(ConfigError, match="^pin: "):
        SearchConfig(task="t", backbone="b", budget=10, pin=given)


def test_nothing_pinned_is_no_pin():
    assert SearchConfig(task="t", backbone="b", budget=10, pin={}).pin is None
    gates, inside, outside = part(GATES, None, 40)
    assert (gates, inside, outside) == (GATES, (), ())


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("encoder.1.SelfAttn.Q", ["E.1 SelfAttn.Q · LoRA", "E.1 SelfAttn.Q · BitFit"]),
        ("encoder.1.SelfAttn.Q LoRA", ["E.1 SelfAttn.Q · LoRA"]),
        ("E.1 SelfAttn.Q LoRA", ["E.1 SelfAttn.Q · LoRA"]),
        ("E.1 SelfAttn.Q · LoRA", ["E.1 SelfAttn.Q · LoRA"]),
        ("D.*LoRA", ["D.0 SelfAttn.Q · LoRA"]),
        ("D.0", ["D.0 SelfAttn.Q · LoRA", "D.0 SelfAttn.Q · BitFit"]),
    ],
)
def test_a_gate_is_called_by_any_of_its_names(pattern, found):
    assert names(matching(GATES, pattern, "pin")) == found


def test_the_rest_is_numbered_anew_and_the_budget_is_what_is_left():
    gates, inside, outside = part(GATES, {"in": ["E.1 *LoRA"], "out": ["D.0"]}, 30)
    assert [gate.index for gate in gates] == [0, 1, 2, 3, 4]
    assert [gate.index for gate in inside] == [5]
    assert [(gate.index, gate.label) for gate in outside] == [(6, GATES[6].label), (7, GATES[7].label)]
    assert sorted(names([*gates, *inside, *outside])) == sorted(names(GATES))


@pytest.mark.parametrize(
    ("pin", "budget", "error", "words"),
    [
        ({"in": ["E.9"]}, 40, ConfigError, "pin: in: no gate of this search is named 'E.9'"),
        ({"out": ["SelfAttn.Q"]}, 40, ConfigError, r"a part of a name needs stars: '\*SelfAttn.Q\*'"),
        ({"in": ["E.0"], "out": ["*BitFit"]}, 40, ConfigError, "found both for encoder.0.SelfAttn.Q BitFit"),
        ({"in": ["*LoRA"]}, 39, BudgetError, "the 4 gates pinned in have 40 parameters, more than the budget of 39"),
        ({"in": ["*LoRA"]}, 44, BudgetError, "leave 4 of the budget of 44, less than the smallest other gate"),
        ({"out": ["*"]}, 40, ConfigError, "found all 8 pinned"),
        ({"out": ["*BitFit"]}, 9, BudgetError, "below the smallest module"),
    ],
)
def test_what_cannot_be_pinned_is_refused_by_one_error(pin, budget, error, words):
    with pytest.raises(error, match=words):
        part(GATES, pin, budget)


def test_units_are_pinned_together_or_by_their_number():
    units = [Gate(i, "layer.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 10, {"r": 1}, i) for i in range(4)]
    other = Gate(4, "layer.0.v", "encoder", 0, "SelfAttn.V", "BitFit", 5)
    gates, inside, _ = part([*units, other], {"in": ["layer.0.q LoRA.0", "layer.0.q LoRA.1"]}, 40)
    assert [gate.unit for gate in inside] == [0, 1]
    assert [gate.unit for gate in gates] == [2, 3, None]
    assert len(part([*units, other], {"in": ["layer.0.q LoRA"]}, 45)[1]) == 4


def test_a_structure_is_edited_and_its_source_says_how():
    structure = Structure(tuple(GATES[:2]), "tiny", 1000, 20, {"task": "mood"})
    made = structure.edit(remove="E.0 *LoRA", add=["E.2 SelfAttn.Q LoRA", GATES[3]], of=GATES)
    assert names(made.gates) == ["E.0 SelfAttn.Q · BitFit", "E.1 SelfAttn.Q · BitFit", "E.2 SelfAttn.Q · LoRA"]
    said = {"by": "hand", "added": ["encoder.2.SelfAttn.Q LoRA", "encoder.1.SelfAttn.Q BitFit"]}
    assert made.source == {"task": "mood", "edits": [{**said, "removed": ["encoder.0.SelfAttn.Q LoRA"]}]}
    assert structure.source == {"task": "mood"}
    assert len(structure) == 2
    again = made.edit(remove="E.1")
    assert [len(edit["removed"]) for edit in again.source["edits"]] == [1, 1]
    assert Structure.from_dict(again.to_dict()) == again


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"add": "E.2"}, ConfigError, "add: expected of="),
        ({"add": "E.9", "of": GATES}, ConfigError, "add: no gate of this search is named 'E.9'"),
        ({"add": "*", "of": GATES}, StructureError, "60 parameters exceed the budget of 20"),
        ({"add": GATES[0]}, ConfigError, "gates that are in already"),
        ({}, ConfigError, "edit: expected gates to add or to remove, found none"),
        ({"remove": "E.2"}, ConfigError, "remove: no gate of this search is named 'E.2'"),
        ({"remove": GATES[4]}, ConfigError, "remove: the structure has no gate encoder.2.SelfAttn.Q LoRA"),
        ({"remove": "E.0", "add": GATES[0]}, ConfigError, "found both"),
        ({"add": "E.2", "of": 3}, ConfigError, "of: expected a run or gates, found 3"),
        ({"remove": 3}, ConfigError, "remove: expected gates or patterns of their names, found 3"),
    ],
)
def test_what_cannot_be_edited_is_refused(how, error, words):
    with pytest.raises(error, match=words):
        Structure(tuple(GATES[:2]), budget=20).edit(**how)


def test_what_was_searched_is_told_from_what_was_pinned():
    pinned = replace(GATES[4], index=99)
    source = {"pinned": {"in": [pinned.name]}}
    whole = Structure((*GATES[:2], pinned), "tiny", 1000, 30, source)
    assert searched_of(whole).gates == tuple(GATES[:2])
    assert searched_of(whole).budget == 20
    assert searched_of(replace(whole, source={})) is not None
    assert len(searched_of(replace(whole, source={"pinned": 3}))) == 3
