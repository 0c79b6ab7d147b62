"""Structures: equality, files, and what a damaged file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.errors import StructureError
from s3pet_viz.structure import PET_TYPES, Gate, Structure, column_label
from s3pet_viz.structure.structure import gates_by_index


def gate(index: int, position: str = "", pet: str = "BitFit", size: int = 8, **options: object) -> Gate:
    return Gate(index, position or f"encoder.block.{index}", "encoder", index, "SelfAttn.Q", pet, size, dict(options))


def sample() -> Structure:
    gates = (gate(3, pet="LoRA", size=16, r=1), gate(1), gate(0, size=4))
    return Structure(gates, "tiny", 1000, 30, {"task": "glue/rte", "seed": 3})


def test_numbers():
    s = sample()
    assert [g.index for g in s.gates] == [0, 1, 3]  # index order
    assert len(s) == 3
    assert s.n_params == 28
    assert s.fraction == 0.028
    assert repr(s) == "Structure(3 gates, 28 parameters = 2.8000% of tiny)"
    assert s.keys == {("encoder.block.0", "BitFit"), ("encoder.block.1", "BitFit"), ("encoder.block.3", "LoRA")}
    assert [g.index for g in gates_by_index(s.gates, [2, 0])] == [3, 0]


def test_equality_is_of_gates_and_their_options():
    s = sample()
    elsewhere = Structure(tuple(reversed(s.gates)), "other", 5, None, {"seed": 4})
    assert s == elsewhere
    assert hash(s) == hash(elsewhere)
    assert len({s, elsewhere}) == 1
    renumbered = Structure(tuple(Gate(**{**g.to_dict(), "index": 9 - g.index}) for g in s.gates))
    assert s == renumbered  # an index is a place in a search space, not part of a structure
    assert s != Structure(s.gates[:2])
    other_rank = Structure((*s.gates[:2], gate(3, pet="LoRA", size=16, r=2)))
    assert s != other_rank
    assert s.overlap(other_rank) == 1.0  # overlap is of (position, PET type)
    assert s != "a structure"
    two = gate(0, pet="LoRA", r=1, lora_alpha=16), gate(0, pet="LoRA", lora_alpha=16, r=1)
    assert Structure(two[:1]) == Structure(two[1:])  # the order of options says nothing


def test_a_gate_only_once():
    with pytest.raises(StructureError, match="encoder.here BitFit appears twice"):
        Structure((gate(0, "encoder.here"), gate(1, "encoder.here")))


def test_overlap():
    a = Structure((gate(0, size=10), gate(1, size=20), gate(2, size=30)))
    b = Structure((gate(2, size=30), gate(3, size=40)))
    assert a.overlap(b) == b.overlap(a) == 1 / 4
    assert a.overlap(b, weighted=True) == 30 / 100
    assert a.overlap(a) == a.overlap(a, weighted=True) == 1
    assert a.overlap(Structure(())) == 0
    assert Structure(()).overlap(Structure(())) == 1
    same_place = Structure((gate(0, pet="LoRA", size=10),))
    assert a.overlap(same_place) == 0


def test_more_than_the_budget_is_refused():
    assert Structure((gate(0, size=8),), budget=8).n_params == 8
    with pytest.raises(StructureError, match="8 parameters exceed the budget of 7"):
        Structure((gate(0, size=8),), budget=7)


@pytest.mark.parametrize(
    ("stack", "layer", "module", "label"),
    [
        ("encoder", 0, "SelfAttn.Q", "E.0"),
        ("decoder", 23, "CrossAttn.LN", "D.23"),
        ("encoder", -1, "Emb.LN", "E.emb"),
        ("encoder", 24, "Final.LN", "E.final"),
        ("decoder", 2, "Final.LN", "D.final"),
    ],
)
def test_column_labels(stack, layer, module, label):
    assert column_label(stack, layer, module) == label
    made = Gate(0, "somewhere", stack, layer, module, "BitFit", 1)
    assert made.column == label
    assert made.row == f"{module} · BitFit"


def test_html_is_escaped():
    evil = Gate(0, "x", "encoder", 0, "<b>FFN</b>", "BitFit", 1)
    made = Structure((evil,), "<script>alert(1)</script>", 10)._repr_html_()
    assert "<script>" not in made
    assert "<b>" not in made
    assert "&lt;script&gt;" in made
    assert "&lt;b&gt;FFN" in made
    assert "<td>E.0</td>" in made


# -- files ---------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def structures(draw):
    keys = draw(st.lists(st.tuples(text, st.sampled_from(PET_TYPES)), max_size=6, unique=True))
    gates = tuple(
        Gate(
            i, position, draw(st.sampled_from(["encoder", "decoder"])), draw(st.integers(-1, 50)), draw(text), pet,
            draw(st.integers(1, 10**9)), draw(st.dictionaries(text, st.integers() | text, max_size=2)),
        )
        for i, (position, pet) in enumerate(keys)
    )  # fmt: skip
    budget = draw(st.none() | st.integers(sum(g.n_params for g in gates), 10**11))
    return Structure(gates, draw(text), draw(st.integers(0, 10**12)), budget, draw(st.dictionaries(text, values)))


@settings(deadline=None, max_examples=60)
@given(made=structures())
def test_files_keep_everything(made, tmp_path_factory):
    path = made.save(tmp_path_factory.getbasetemp() / "round-trip" / "structure.json")
    found = Structure.load(path)
    assert found == made
    assert hash(found) == hash(made)
    for name in ("gates", "backbone", "backbone_params", "budget", "source"):
        assert getattr(found, name) == getattr(made, name)


def test_the_file_is_plain_json(tmp_path: Path):
    data = json.loads(sample().save(tmp_path / "s.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 1
    assert data["kind"] == "s3pet_viz.structure"
    assert data["n_params"] == 28
    assert data["gates"][2] == {
        "index": 3, "position": "encoder.block.3", "stack": "encoder", "layer": 3, "module": "SelfAttn.Q",
        "pet_type": "LoRA", "n_params": 16, "options": {"r": 1},
    }  # fmt: skip


TOP = {
    "kind": ["other", None],
    "schema_version": [2, None, "1"],
    "gates": [None, {}, "all"],
    "backbone": [None, 3],
    "backbone_params": [None, "1000", 1.5, True],
    "budget": ["30", 1.5, True, 27],
    "n_params": [None, "28", 28.0, True, 27, 29],
    "source": [[], "me"],
}
GATE = {
    "index": [None, "0", True],
    "position": [None, 3],
    "stack": [None, 1],
    "layer": [None, "x", 1.5],
    "module": [None, []],
    "pet_type": [None, "", "a b", "a-b", "x" * 41, ["LoRA"]],
    "n_params": [None, 0, -4, "4", 2.5, True],
    "options": [None, [], "r=1"],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in TOP.items() for v in values])
def test_a_wrong_field_is_named_with_the_file(tmp_path, field, value):
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({**sample().to_dict(), field: value}))
    with pytest.raises(StructureError) as error:
        Structure.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert field in str(error.value)


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in GATE.items() for v in values])
def test_a_wrong_field_of_a_gate_is_named_with_its_place(tmp_path, field, value):
    path = tmp_path / "damaged.json"
    data = sample().to_dict()
    data["gates"][1][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(StructureError) as error:
        Structure.load(path)
    assert str(error.value).startswith(f"{path}: gates[1]: field '{field}': expected ")
    if value is not None:
        assert str(value) in str(error.value)


@pytest.mark.parametrize("field", ["kind", "schema_version", "gates", "backbone", "backbone_params", "n_params"])
def test_a_missing_field_is_named(field):
    data = sample().to_dict()
    del data[field]
    with pytest.raises(StructureError, match=field):
        Structure.from_dict(data)


def test_a_size_that_is_not_the_sum_of_the_gates(tmp_path):
    path = tmp_path / "edited.json"
    data = sample().to_dict()
    path.write_text(json.dumps({**data, "gates": data["gates"][:2]}))  # a gate was taken out by hand
    with pytest.raises(StructureError) as error:
        Structure.load(path)
    assert str(error.value) == f"{path}: field 'n_params': expected 12, the sum over its gates, found 28"


def test_other_files(tmp_path: Path):
    path = tmp_path / "s.json"
    with pytest.raises(StructureError, match=r"s\.json: cannot be read \(No such file"):
        Structure.load(path)
    with pytest.raises(StructureError, match="cannot be read"):
        Structure.load(tmp_path)
    for content in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(StructureError, match=r"s\.json: expected JSON"):
            Structure.load(path)
    for content in ("[]", "3", "null", "{}"):
        path.write_text(content)
        with pytest.raises(StructureError, match=r"s\.json: expected a structure file"):
            Structure.load(path)
    data = sample().to_dict()
    path.write_text(json.dumps({**data, "gates": [*data["gates"], data["gates"][0]], "budget": None}))
    with pytest.raises(StructureError, match=r"s\.json: .*encoder.block.0 BitFit appears twice"):
        Structure.load(path)
    path.write_text(json.dumps({**data, "gates": [3]}))
    with pytest.raises(StructureError, match=r"gates\[0\]: expected an object, found int"):
        Structure.load(path)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = sample().save(tmp_path / "deep" / "s.json")
    before = path.read_bytes()
    with pytest.raises(TypeError, match="JSON can hold"):
        Structure((), source={"x": object()}).save(path)
    assert path.read_bytes() == before

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        Structure(()).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["s.json"]  # no temporary file is left behind
