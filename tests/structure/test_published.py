"""Files of the published implementation: what they mean, the way back, and what a damaged one says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.errors import BudgetError, StructureError
from s3pet_viz.structure import (
    Gate,
    Structure,
    T5Shape,
    from_s3delta,
    parse_budget,
    read_final_alphas,
    select,
    solve_shift,
    to_s3delta,
)
from s3pet_viz.structure.published import is_s3delta
from s3pet_viz.structure.sizes import FORMS, pet_params
from s3pet_viz.structure.t5 import SHAPES, parse_position

LORA = {"parallel": {"Lora": {"lora_r": 1}}}
BIAS = {"sequential": {"BitFitParallel": {}}}
NORM = {"parallel": {"LNFit": {}}, **BIAS}
LINEAR = [f"SelfAttention.{x}" for x in "qkvo"] + ["DenseReluDense.wi", "DenseReluDense.wo"]
#: S3PET-M, as a config with suffixes.
SPACE_M = [
    {**{name: {**LORA, **BIAS} for name in LINEAR}, "layer_norm": NORM, "final_layer_norm": NORM},
    {name: {"sequential": {"LowRankAdapter": {}}} for name in ("DenseReluDense", "SelfAttention")},
]
CHOSEN = [
    {
        "encoder.block.22.layer.0.SelfAttention.q": LORA,
        "encoder.block.22.layer.0.layer_norm": NORM,
        "decoder.block.3.layer.1.layer_norm": BIAS,
        "decoder.final_layer_norm": {"parallel": {"LNFit": {}}},
    },
    {"decoder.block.21.layer.2.DenseReluDense": {"sequential": {"LowRankAdapter": {}}}},
]


def line(position: str, method: str, name: str, size: float, alpha: float, p: float) -> str:
    """One row, padded as the published code prints it."""
    return f"|{position:<45s}| {method:<12s}|{name:<17s}|{size / 1024**2:<.7f}  |{alpha:<.5f}  |{p:<.5f}  "


def write_alphas(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["=" * 25 + "alphas" + "=" * 25, *rows, "=" * 56, ""]))
    return path


@pytest.fixture
def alphas(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    space = from_s3delta(SPACE_M, backbone="t5-small")
    alpha = rng.normal(size=len(space)).round(5)
    counts = [g.n_params for g in space.gates]
    p = 1 / (1 + np.exp(solve_shift(alpha, counts, 20_000) - alpha))
    back = {"LoRA": ("parallel", "Lora"), "LNFit": ("parallel", "LNFit"), "BitFit": ("sequential", "BitFitParallel"),
            "LowRankAdapter": ("sequential", "LowRankAdapter")}  # fmt: skip
    rows = [line(g.position, *back[g.pet_type], g.n_params, a, q) for g, a, q in zip(space.gates, alpha, p, strict=True)]
    return write_alphas(tmp_path / "final_alphas.txt", rows)


# -- the config --------------------------------------------------------------------------------------------


def test_the_whole_space_of_t5_large():
    space = from_s3delta(SPACE_M, backbone="t5-large")
    assert len(space) == 916  # S3PET-L on T5-large
    assert sum(g.stack == "encoder" for g in space.gates) == 24 * 18 + 2
    assert [g.index for g in space.gates] == list(range(916))
    assert not any(g.module.startswith("CrossAttn.Q") for g in space.gates)
    assert sum(g.module == "CrossAttn.LN" for g in space.gates) == 48
    by_key = {g.key: g for g in space.gates}
    q = by_key["encoder.block.3.layer.0.SelfAttention.q", "LoRA"]
    assert (q.column, q.row, q.n_params) == ("E.3", "SelfAttn.Q · LoRA", 2048)
    assert q.options == {"r": 1, "lora_alpha": 16}
    assert by_key["encoder.block.3.layer.1.DenseReluDense.wi", "BitFit"].n_params == 4096
    assert by_key["encoder.block.3.layer.0.SelfAttention", "LowRankAdapter"].n_params == 2 * (1024 + 32) + 32 + 1024
    final = by_key["decoder.final_layer_norm", "LNFit"]
    assert (final.column, final.layer, final.n_params) == ("D.final", 24, 1024)
    assert space.backbone_params == 737_668_096


def formula(pet_type, width, d, r=1, bottleneck=24, reduction=None, n=4, lora_alpha=16):
    """The table "PET types" of docs/method.md."""
    if pet_type == "LoRA":
        return r * (width + d)
    if pet_type in ("BitFit", "LNFit"):
        return d
    if pet_type == "Adapter":
        return 2 * d * bottleneck + bottleneck + d
    if pet_type == "LowRankAdapter":
        k = max(1, d // (reduction or 32))
        return 2 * (d + k) + k + d
    k = n * max(1, round(d / (reduction or 16) / n))
    return 2 * n**3 + 2 * (d + k) + k + d


def test_sizes_are_those_of_the_table_and_of_the_pet_modules():
    from s3pet_viz.pet.modules import PET_CLASSES

    options = {"LoRA": {"r": 3}, "Adapter": {"bottleneck": 5}, "Compacter": {"reduction": 8, "n": 2}}
    for shape in (SHAPES["t5-large"], SHAPES["tiny-t5"], T5Shape(64, 256, 32, 1, 1)):
        for name in shape.positions():
            place = parse_position(name)
            widths = shape.widths(place)
            live = SimpleNamespace(name=name, in_features=widths[0], out_features=widths[1], kind=place.kind)
            for pet_type, form in FORMS.items():  # those that the published code knows
                cls = PET_CLASSES[pet_type]
                assert (cls.defaults, cls.kinds) == (form.defaults, form.kinds)
                if place.kind in cls.kinds:
                    for chosen in ({}, options.get(pet_type, {})):
                        assert pet_params(pet_type, widths, chosen) == formula(pet_type, *widths, **chosen)
                        assert cls.n_params(live, chosen) == formula(pet_type, *widths, **chosen)


def test_positions_are_those_of_the_backbone():
    from s3pet_viz.backbones import load_backbone, positions

    made = load_backbone("tiny-t5")
    live = positions(made.model)
    shape = SHAPES["tiny-t5"]
    assert set(shape.positions()) == {p.name for p in live}
    assert shape.backbone_params == made.n_params
    for position in live:
        place = parse_position(position.name)
        assert (place.stack, place.module, place.kind) == (position.stack, position.module, position.kind)
        assert place.layer == (position.layer if place.layer is not None else None)
        assert shape.widths(place) == (position.in_features, position.out_features)


def test_full_positions_need_no_backbone(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CHOSEN))
    structure = from_s3delta(path)
    assert [(g.column, g.row) for g in structure.gates] == [
        ("E.22", "SelfAttn.Q · LoRA"),
        ("E.22", "SelfAttn.LN · LNFit"),
        ("E.22", "SelfAttn.LN · BitFit"),
        ("D.3", "CrossAttn.LN · BitFit"),
        ("D.final", "Final.LN · LNFit"),
        ("D.21", "FFN · LowRankAdapter"),
    ]
    assert structure.n_params == 0  # nobody said how wide the backbone is
    assert structure.source["file"] == str(path)
    sized = from_s3delta(path, backbone="google-t5/t5-large")
    assert sized.keys == structure.keys
    assert sized.n_params == 2048 + 2 * 1024 + 1024 + 1024 + 3168


def test_with_the_gates_of_a_run():
    space = from_s3delta(SPACE_M, backbone="tiny-t5")
    shuffled = [Gate(**{**g.to_dict(), "index": i}) for i, g in enumerate(reversed(space.gates))]
    structure = from_s3delta({"SelfAttention.q": LORA}, gates=shuffled)
    assert len(structure) == 8
    assert all(g in shuffled for g in structure.gates)
    with pytest.raises(StructureError, match="options {'r': 2, 'lora_alpha': 16} there, but {'r': 1"):
        from_s3delta({"SelfAttention.q": {"parallel": {"Lora": {"lora_r": 2}}}}, gates=shuffled)
    with pytest.raises(StructureError, match="Adapter matches no position of the search space"):
        from_s3delta({"SelfAttention": {"sequential": {"Adapter": {}}}}, gates=shuffled)


def test_a_suffix_matches_at_dots_only():
    norms = from_s3delta({"layer_norm": BIAS}, backbone="tiny-t5")
    assert {g.module for g in norms.gates} == {"SelfAttn.LN", "CrossAttn.LN", "FFN.LN"}
    with pytest.warns(UserWarning, match="lm_head.*left out"):
        assert len(from_s3delta({"lm_head": BIAS, "final_layer_norm": BIAS}, backbone="tiny-t5")) == 2


def test_options():
    def read(name: str, options: dict[str, object]) -> dict[str, object]:
        method = "parallel" if name == "Lora" else "sequential"
        key = "encoder.block.0.layer.0.SelfAttention" + (".q" if name == "Lora" else "")
        return from_s3delta({key: {method: {name: options}}}).gates[0].options

    assert read("Lora", {}) == {"r": 8, "lora_alpha": 16}  # OpenDelta's own
    assert read("Lora", {"lora_r": 2, "lora_alpha": 8, "lora_dropout": 0.0}) == {"r": 2, "lora_alpha": 8}
    assert read("Adapter", {"bottleneck_dim": 6}) == {"bottleneck": 6}
    assert read("LowRankAdapter", {"reduction_factor": 16, "low_rank_rank": 1}) == {"reduction": 16}
    assert read("Compacter", {"hypercomplex_division": 2}) == {"reduction": 16, "n": 2}


def test_the_way_back(tmp_path):
    assert to_s3delta(from_s3delta(CHOSEN)) == CHOSEN
    path = tmp_path / "out.json"
    path.write_text(json.dumps(to_s3delta(from_s3delta(SPACE_M, backbone="t5-small"))))
    assert from_s3delta(path, backbone="t5-small") == from_s3delta(SPACE_M, backbone="t5-small")
    with pytest.raises(StructureError, match="no option 'colour'"):
        to_s3delta(Structure((Gate(0, "p", "encoder", 0, "SelfAttn.Q", "LoRA", 2, {"colour": 1}),)))


def test_all_that_the_published_form_cannot_hold_is_listed():
    gates = [
        Gate(0, "a", "encoder", 0, "SelfAttn.Q", "LoRA", 2, {"colour": 1}),
        Gate(1, "b", "encoder", 0, "SelfAttn.Q", "BitFit", 2),
        Gate(2, "c", "encoder", 0, "FFN", "Adapter", 2, {"depth": 2}),
        Gate(3, "d", "encoder", 0, "FFN", "Prefix", 2),
    ]
    with pytest.raises(StructureError) as caught:
        to_s3delta(Structure(tuple(gates)))
    assert str(caught.value) == (
        "structure: gate a: S3Delta has no option 'colour' of LoRA; gate c: S3Delta has no option 'depth' of Adapter; "
        "gate d: S3Delta has no PET type 'Prefix'"
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(p, t) for p in SHAPES["tiny-t5"].positions() for t in FORMS
                             if parse_position(p).kind in FORMS[t].kinds]),
            st.integers(1, 9),
        ),
        min_size=1, max_size=30, unique_by=lambda pair: pair[0],
    )
)  # fmt: skip
def test_any_structure_comes_back(pairs):
    names = {"LoRA": "r", "Adapter": "bottleneck", "LowRankAdapter": "reduction", "Compacter": "reduction"}
    gates = []
    for i, ((position, pet), value) in enumerate(pairs):
        place = parse_position(position)
        options = {**FORMS[pet].defaults, **({names[pet]: value} if pet in names else {})}
        size = pet_params(pet, SHAPES["tiny-t5"].widths(place), options)
        layer = 4 if place.layer is None else place.layer
        gates.append(Gate(i, position, place.stack, layer, place.module, pet, size, options))
    structure = Structure(tuple(gates))
    back = from_s3delta(json.loads(json.dumps(to_s3delta(structure))), backbone="tiny-t5")
    assert back == structure
    assert back.n_params == structure.n_params
    ours = {g.key: g for g in structure.gates}
    assert all((g.column, g.row) == (ours[g.key].column, ours[g.key].row) for g in back.gates)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: expected JSON"),
        ("[" * 100_000, "config.json: expected JSON"),
        ("3", "expected a list of objects, found 3"),
        ("[]", "expected a list of objects"),
        ("[{}]", "expected at least one position"),
        ("[3]", "item 0: expected an object, found 3"),
        ('[{"encoder.final_layer_norm": 1}]', "'encoder.final_layer_norm': expected an object with 'parallel'"),
        ('[{"encoder.final_layer_norm": {"across": {}}}]', "expected 'parallel' or 'sequential', found 'across'"),
        ('[{"encoder.final_layer_norm": {"parallel": []}}]', "parallel: expected an object of PET types"),
        ('[{"encoder.final_layer_norm": {"parallel": {"Prefix": {}}}}]', "type: expected one of Lora,.*found 'Prefix'"),
        ('[{"encoder": {"sequential": {"SoftPrompt": {}}}}]', "type: expected one of Lora,.*found 'SoftPrompt'"),
        ('[{"encoder.final_layer_norm": {"sequential": {"LNFit": {}}}}]', "LNFit: expected to be parallel"),
        ('[{"encoder.final_layer_norm": {"parallel": {"Lora": {}}}}]', "LoRA cannot go on .* (a norm)"),
        ('[{"SelfAttention.q": {"parallel": {"Lora": {}}}}]', "not a full T5 position; a suffix .* backbone="),
        ('[{"encoder.block.0.layer.0.SelfAttention.q": {"parallel": {"Lora": {"lora_r": 0}}}}]', "lora_r: expected a whole"),
        ('[{"encoder.block.0.layer.0.SelfAttention.q": {"parallel": {"Lora": {"lora_r": "1"}}}}]', "lora_r: expected a whole"),
        ('[{"encoder.block.0.layer.0.SelfAttention.q": {"parallel": {"Lora": {"lora_dropout": 0.1}}}}]', "lora_dropout: expected 0"),
        ('[{"encoder.block.0.layer.0.SelfAttention.q": {"parallel": {"Lora": {"bias": 1}}}}]', "unknown option 'bias'"),
    ],
)
def test_damaged_configs(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    message = message.replace("(a norm)", r"\(a norm\)")
    with pytest.raises(StructureError, match=message) as caught:
        from_s3delta(path)
    assert str(path) in str(caught.value)


def test_a_gate_given_twice_and_wrong_backbones(tmp_path):
    q = "encoder.block.0.layer.0.SelfAttention.q"
    assert len(from_s3delta([{q: LORA}, {q: LORA}])) == 1
    with pytest.raises(StructureError, match="is given twice"):
        from_s3delta([{q: LORA}, {q: {"parallel": {"Lora": {"lora_r": 2}}}}])
    with pytest.raises(StructureError, match="LoRA matches no position of this backbone"):
        from_s3delta({"encoder.block.30.layer.0.SelfAttention.q": LORA}, backbone="t5-large")
    with pytest.raises(StructureError, match="backbone: expected a known T5 .* found 'bert'"):
        from_s3delta({q: LORA}, backbone="bert")
    with pytest.raises(StructureError, match="cannot be read"):
        from_s3delta(tmp_path / "none.json")
    with pytest.raises(StructureError, match="cannot be read"):
        from_s3delta("a\0b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["Lora", "lora_r"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["parallel", "sequential", "Lora", "BitFitParallel", "lora_r", "SelfAttention.q", "layer_norm",
                         "encoder.final_layer_norm", "encoder.block.0.layer.0.SelfAttention.q", ""]) | st.text(max_size=3),
        inner, max_size=3,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.sampled_from([None, "tiny-t5"]))
@settings(max_examples=300)
def test_no_content_crashes(data, backbone):
    is_s3delta(data)
    try:
        structure = from_s3delta(data if not isinstance(data, str) else [data], backbone=backbone)
    except StructureError:
        return
    assert len(structure)


# -- the table of alphas -----------------------------------------------------------------------------------


def test_the_table(alphas):
    table = read_final_alphas(alphas, backbone="t5-small")
    space = from_s3delta(SPACE_M, backbone="t5-small")
    assert [g.to_dict() for g in table.gates] == [g.to_dict() for g in space.gates]
    assert table.alpha.shape == table.p.shape == (len(space),)
    assert table.budget == pytest.approx(20_000, abs=5)
    assert table.name.endswith("/final_alphas.txt")
    bare = read_final_alphas(alphas, budget=20_000)
    assert [g.key for g in bare.gates] == [g.key for g in space.gates]
    assert bare.counts.tolist() == table.counts.tolist()
    assert bare.gates[-1].column == "D.final"
    assert bare.budget == 20_000


def test_another_budget(alphas):
    table = read_final_alphas(alphas, backbone="t5-small", budget=20_000)
    np.testing.assert_allclose(table.p_at(20_000), table.p, atol=1e-5)
    assert table.p_at("0.1%") @ table.counts == pytest.approx(parse_budget("0.1%", 60_506_624), rel=1e-5)
    structure = table.structure(50_000)
    assert [g.index for g in structure.gates] == select(table.alpha, table.counts, 50_000).tolist()
    assert structure.budget == 50_000
    with pytest.raises(BudgetError, match="smallest module"):
        table.structure(3)
    with pytest.raises(StructureError, match="whole number of parameters"):
        read_final_alphas(alphas).p_at("0.1%")
    assert read_final_alphas(alphas).p_at("9000") @ table.counts == pytest.approx(9000, rel=1e-6)


def test_the_rank_follows_from_the_size(tmp_path):
    row = line("encoder.block.0.layer.0.SelfAttention.q", "parallel", "Lora", 3 * 1024, 0.5, 0.25)
    path = write_alphas(tmp_path / "a.txt", [row])
    assert read_final_alphas(path, backbone="t5-small").gates[0].options == {"r": 3, "lora_alpha": 16}


GOOD = line("encoder.final_layer_norm", "parallel", "LNFit", 1024, 0.5, 0.25)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "line 1: expected a rule"),
        ([GOOD, "rubbish"], "line 3: expected '|position"),
        ([GOOD, GOOD], "line 3: gate encoder.final_layer_norm LNFit appears twice"),
        ([GOOD.replace("final_layer_norm", "end_layer_norm")], "line 2: position: expected a T5 module"),
        ([GOOD.replace("LNFit", "Prefix")], "line 2: type: expected one of Lora"),
        ([GOOD.replace("parallel", "diagonal")], "line 2: LNFit: expected to be parallel"),
        ([GOOD.replace("0.50000", "nan")], "line 2: alpha: expected a number, found 'nan'"),
        ([GOOD.replace("0.25000", "1.25000")], "line 2: p: expected 0 to 1"),
        ([GOOD.replace("0.0009766", "0.0009763")], "line 2: parameters / 1024.2: expected a whole number"),
        ([GOOD.replace("0.0009766", "0.0000000")], "line 2: parameters / 1024.2: expected a whole number"),
    ],
)
def test_damaged_tables(tmp_path, rows, message):
    path = write_alphas(tmp_path / "final_alphas.txt", rows)
    with pytest.raises(StructureError, match=message.replace("|", r"\|")) as caught:
        read_final_alphas(path)
    assert str(path) in str(caught.value)


def test_a_table_cut_off(alphas):
    whole = alphas.read_bytes()
    alphas.write_bytes(whole[:1000])
    with pytest.raises(StructureError, match="expected a rule of '=' at the end; the file is cut off"):
        read_final_alphas(alphas)
    alphas.write_bytes(b"\xff" + whole)
    with pytest.raises(StructureError, match="expected text in UTF-8"):
        read_final_alphas(alphas)


@given(data=st.data())
@settings(max_examples=150)
def test_no_table_crashes(data, tmp_path_factory):
    path = write_alphas(tmp_path_factory.getbasetemp() / "fuzz.txt", [GOOD, line("decoder.final_layer_norm", "sequential", "BitFitParallel", 64, -1, 0)])
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"|", b"=", b"\n", b"e9", b"-", b"inf"]))
        text[at : at + data.draw(st.integers(0, 8))] = piece
        text = text or bytearray(b"=")
    path.write_bytes(text)
    try:
        table = read_final_alphas(path)
    except StructureError:
        return
    assert np.isfinite(table.p_at(max(1, table.budget))).all()
