"""Search spaces: the published ones counted, and a user's own."""

from __future__ import annotations

import json
import warnings
from collections import Counter

import pytest
import torch
from problems import tiny_model
from transformers import T5Config, T5ForConditionalGeneration

from s3pet_viz.backbones import positions
from s3pet_viz.errors import SpaceError
from s3pet_viz.pet import PET_CLASSES, PRESETS, Space, SpaceEntry, candidate_gates, load_space


def t5_large(**changes):
    """The real T5-large, without its weights."""
    config = T5Config(
        **{
            "d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16, "num_layers": 24, "num_decoder_layers": 24,
            "vocab_size": 32128, **changes,
        }
    )  # fmt: skip
    with torch.device("meta"):
        return T5ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def large():
    return positions(t5_large())


def count(found, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a preset that names what T5 lacks would warn
        gates, missing = candidate_gates(found, load_space(name))
    assert missing == []
    assert [g.index for g in gates] == list(range(len(gates)))
    assert len({g.key for g in gates}) == len(gates)
    return gates


def test_s3pet_m_on_t5_large_has_the_published_916_gates(large):
    gates = count(large, "S3PET-M")
    assert len(gates) == 916
    final = [g for g in gates if g.module == "Final.LN"]
    assert [(g.stack, g.pet_type, g.column) for g in final] == [
        ("encoder", "BitFit", "E.final"), ("encoder", "LNFit", "E.final"),
        ("decoder", "BitFit", "D.final"), ("decoder", "LNFit", "D.final"),
    ]  # fmt: skip
    per_block = Counter((g.stack, g.layer) for g in gates if g.module != "Final.LN")
    assert per_block == {**{("encoder", i): 18 for i in range(24)}, **{("decoder", i): 20 for i in range(24)}}
    assert Counter(g.pet_type for g in gates) == {
        "LoRA": 24 * 6 * 2, "BitFit": 24 * (6 + 2) + 24 * (6 + 3) + 2, "LNFit": 24 * 2 + 24 * 3 + 2,
        "LowRankAdapter": 24 * 2 * 2,
    }  # fmt: skip
    assert not [g for g in gates if g.module.startswith("CrossAttn") and g.module != "CrossAttn.LN"]
    size = {(g.module, g.pet_type): g.n_params for g in gates}
    assert size["SelfAttn.Q", "LoRA"] == 2048
    assert size["FFN.W1", "LoRA"] == size["FFN.W2", "LoRA"] == 1024 + 4096
    assert size["FFN.W1", "BitFit"] == 4096
    assert size["FFN.W2", "BitFit"] == size["SelfAttn.LN", "LNFit"] == 1024
    assert size["FFN", "LowRankAdapter"] == 2 * (1024 + 32) + 32 + 1024


def test_s3pet_l_on_t5_large(large):
    gates = count(large, "S3PET-L")
    assert len(gates) == 24 * 6 * 2
    assert {g.pet_type for g in gates} == {"LoRA"}
    assert all(g.options == {"r": 1, "lora_alpha": 16} for g in gates)


def test_cross_attention_on_request(large):
    extra = {g.key for g in count(large, "S3PET-M+cross")} - {g.key for g in count(large, "S3PET-M")}
    # q, k, v, o with LoRA and BitFit, and the block's adapter
    assert len(extra) == 24 * (4 * 2 + 1)
    assert all("EncDecAttention" in position and position.startswith("decoder.") for position, _ in extra)
    assert len(count(large, "s3pet-l+cross")) == 24 * 6 * 2 + 24 * 4
    assert load_space("S3PET-L+cross").name == "S3PET-L+cross"


def test_gated_feed_forward_has_one_linear_layer_more():
    found = positions(t5_large(feed_forward_proj="gated-gelu", d_ff=2816, tie_word_embeddings=False))
    gates = count(found, "S3PET-M")
    assert len(gates) == 916 + 48 * 2
    names = {(g.module, g.position.rsplit(".", 1)[1]) for g in gates if g.module.startswith("FFN.W1")}
    assert names == {("FFN.W1", "wi_1"), ("FFN.W1.gate", "wi_0")}
    assert len(count(found, "S3PET-L")) == 24 * 7 * 2


@pytest.mark.parametrize("form", ["bert", "roberta"])
def test_encoders(form):
    gates = count(positions(tiny_model(form)), "S3PET-M")
    assert len(gates) == 2 * 18 + 2  # as T5's encoder, and the norm of the embeddings
    assert {g.column for g in gates} == {"E.emb", "E.0", "E.1"}
    assert [(g.module, g.pet_type, g.layer) for g in gates[:2]] == [("Emb.LN", "BitFit", -1), ("Emb.LN", "LNFit", -1)]
    assert len(count(positions(tiny_model(form)), "S3PET-L")) == 12
    assert {g.row for g in gates if g.module == "FFN"} == {"FFN · LowRankAdapter"}


def test_what_the_backbone_lacks_is_said_and_returned():
    found = positions(tiny_model("bert"))
    with pytest.warns(UserWarning, match=r"space S3PET-L\+cross names what this backbone lacks: LoRA on CrossAttn.Q; "):
        gates, missing = candidate_gates(found, load_space("S3PET-L+cross"))
    assert missing == [f"LoRA on CrossAttn.{x}" for x in "QKVO"]
    assert len(gates) == 12
    space = load_space({"gates": [{"type": "BitFit", "modules": ["*.LN"], "positions": ["*layer.1.*", "decoder.*"]}]})
    with pytest.warns(UserWarning, match=r"BitFit on \*\.LN at decoder\.\*"):
        gates, missing = candidate_gates(found, space)
    assert missing == ["BitFit on *.LN at decoder.*"]
    assert [g.column for g in gates] == ["E.1", "E.1"]


def test_nothing_matches():
    space = Space("mine", (SpaceEntry("LoRA", ("CrossAttn.Q",)),))
    with pytest.raises(SpaceError, match="space mine: nothing matches this backbone, whose modules are: Emb.LN, Self"):
        candidate_gates(positions(tiny_model("bert")), space)


@pytest.mark.parametrize(
    ("pet_type", "module", "kind", "goes"),
    [
        ("LoRA", "SelfAttn", "block", "linear"),
        ("LoRA", "*.LN", "norm", "linear"),
        ("BitFit", "FFN", "block", "linear or norm"),
        ("LNFit", "SelfAttn.Q", "linear", "norm"),
        ("Adapter", "FFN.W1", "linear", "block"),
        ("LowRankAdapter", "Final.LN", "norm", "block"),
        ("Compacter", "FFN.W2", "linear", "block"),
    ],
)
def test_a_type_where_it_cannot_go(pet_type, module, kind, goes):
    space = Space("mine", (SpaceEntry(pet_type, (module,)),))
    with pytest.raises(SpaceError) as error:
        candidate_gates(positions(tiny_model("t5")), space)
    assert f"{pet_type} cannot go on {module} (a {kind}); it goes on a {goes}" in str(error.value)


def test_two_entries_for_one_gate():
    found = positions(tiny_model("t5"))
    twice = (SpaceEntry("LoRA", ("SelfAttn.?",)), SpaceEntry("LoRA", ("SelfAttn.Q",)))
    assert len(candidate_gates(found, Space("same", twice))[0]) == 16  # the same gate twice is that gate
    other = (twice[0], SpaceEntry("LoRA", ("SelfAttn.Q",), options={"r": 2}))
    with pytest.raises(SpaceError, match=r"LoRA at encoder\.block\.0\..*\.q is asked for twice, .*'r': 1.* and {'r': 2"):
        candidate_gates(found, Space("mine", other))
    spelt = (twice[0], SpaceEntry("LoRA", ("SelfAttn.Q",), options={"r": 1}))  # r = 1 is the default
    assert len(candidate_gates(found, Space("same", spelt))[0]) == 16


def test_gates_come_in_the_order_of_the_modules():
    model = tiny_model("t5")
    gates = count(positions(model), "S3PET-M")
    order = [n for n, _ in model.named_modules()]
    places = [order.index(g.position) for g in gates]
    assert places == sorted(places)
    assert gates == count(positions(tiny_model("t5", seed=4)), "S3PET-M")


# -- files ---------------------------------------------------------------------------------------------

YAML = """
name: mine
gates:
  - {type: LoRA, modules: [SelfAttn.Q, SelfAttn.V], options: {r: 2}}
  - {type: BitFit, modules: "*.LN", positions: ["encoder.*"]}
"""


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json", "YAML"])
def test_a_users_own_space(tmp_path, suffix):
    path = tmp_path / f"space.{suffix}"
    data = {
        "name": "mine",
        "gates": [
            {"type": "LoRA", "modules": ["SelfAttn.Q", "SelfAttn.V"], "options": {"r": 2}},
            {"type": "BitFit", "modules": ["*.LN"], "positions": ["encoder.*"]},
        ],
    }
    path.write_text(json.dumps(data) if suffix == "json" else YAML)
    space = load_space(path)
    assert space == load_space(str(path)) == load_space(data)
    assert load_space(space) is space
    assert load_space(space.to_dict()).to_dict() == space.to_dict()
    gates, missing = candidate_gates(positions(tiny_model("t5")), space)
    assert not missing
    lora = [g for g in gates if g.pet_type == "LoRA"]
    assert len(lora) == 2 * 2 * 2
    assert {g.n_params for g in lora} == {2 * 64}
    assert lora[0].options == {"r": 2, "lora_alpha": 16}
    assert {g.stack for g in gates if g.pet_type == "BitFit"} == {"encoder"}
    assert len(gates) == 8 + 5


def test_a_file_without_a_name_is_called_after_itself(tmp_path):
    path = tmp_path / "attention.yaml"
    path.write_text("gates: [{type: LoRA, modules: [SelfAttn.Q]}]")
    assert load_space(path).name == "attention"


GOOD = {"type": "LoRA", "modules": ["SelfAttn.Q"]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "expected a mapping with 'gates', found list"),
        (None, "expected a mapping with 'gates', found NoneType"),
        ({}, "field 'gates': expected a non-empty list"),
        ({"gates": []}, "field 'gates': expected a non-empty list"),
        ({"gates": "LoRA"}, "field 'gates': expected a non-empty list"),
        ({"gates": {"type": "LoRA"}}, "field 'gates': expected a non-empty list"),
        ({"gates": [GOOD], "budget": 3}, "unknown field 'budget'"),
        ({"gates": [GOOD], 3: 4}, "unknown field '3'"),
        ({"gates": [GOOD, 3]}, "gates[1]: expected a mapping, found int"),
        ({"gates": [{**GOOD, "module": "x"}]}, "gates[0]: unknown field 'module'"),
        ({"gates": [{"modules": ["FFN"]}]}, "gates[0]: field 'type': expected one of LoRA"),
        ({"gates": [{**GOOD, "type": "Prompt"}]}, "found 'Prompt'"),
        ({"gates": [{**GOOD, "type": ["LoRA"]}]}, "found ['LoRA']"),
        ({"gates": [{**GOOD, "type": "lora"}]}, "found 'lora'"),
        ({"gates": [{"type": "LoRA"}]}, "field 'modules': expected a non-empty list of names, found None"),
        ({"gates": [{**GOOD, "modules": []}]}, "field 'modules'"),
        ({"gates": [{**GOOD, "modules": [3]}]}, "field 'modules'"),
        ({"gates": [{**GOOD, "positions": None}]}, "field 'positions'"),
        ({"gates": [{**GOOD, "positions": []}]}, "field 'positions'"),
        ({"gates": [{**GOOD, "options": [1]}]}, "field 'options': expected a mapping"),
        ({"gates": [{**GOOD, "options": {"rank": 1}}]}, "LoRA has no option 'rank' (its options: r, lora_alpha)"),
        ({"gates": [{**GOOD, "options": {"rank": 1, 3: 4}}]}, "LoRA has no option '3'"),
        ({"gates": [{"type": "BitFit", "modules": "*.LN", "options": {"r": 1}}]}, "BitFit has no option 'r' (its options: none)"),
        ({"gates": [{**GOOD, "options": {"r": 0}}]}, "gates[0]: option 'r': expected a whole number of at least 1"),
        ({"gates": [{**GOOD, "options": {"r": "2"}}]}, "gates[0]: option 'r'"),
        ({"gates": [{**GOOD, "options": {"r": True}}]}, "gates[0]: option 'r'"),
        ({"gates": [{**GOOD, "options": {"r": 1.5}}]}, "gates[0]: option 'r'"),
        ({"gates": [{**GOOD, "options": {"lora_alpha": "big"}}]}, "gates[0]: option 'lora_alpha': expected a positive"),
    ],
)  # fmt: skip
def test_a_wrong_space_names_file_and_field(tmp_path, data, says):
    path = tmp_path / "space.yaml"
    import yaml

    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SpaceError) as error:
        load_space(path)
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 2.0, None])
@pytest.mark.parametrize("pet_type", [t for t, c in PET_CLASSES.items() if c.defaults])
def test_every_size_option_is_checked(pet_type, value):
    for option in PET_CLASSES[pet_type].defaults:
        if option != "lora_alpha":
            with pytest.raises(SpaceError, match=f"option '{option}': expected a whole number of at least 1"):
                load_space({"gates": [{"type": pet_type, "modules": "*", "options": {option: value}}]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.yaml", b"gates: [unclosed"),
        ("date.yaml", b"name: 2026-99-99\ngates: []"),
        ("object.yaml", b"!!python/object/apply:os.system ['true']"),
        ("bad.json", b"{'gates': []}"),
        ("bytes.yaml", b"\xff\xfe\xfa"),
        ("bytes.json", b"\xff\xfe\xfa"),
        ("deep.json", b"[" * 100_000),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=rf"{name}: (cannot be read as a search space: |expected (JSON|text))"):
        load_space(path)


@pytest.mark.parametrize("name", ["S3PET-X", "S3PET-M+", "+cross", "", "missing.yaml", "setup.py", "a\0b"])
def test_no_such_space(name):
    with pytest.raises(SpaceError, match=r"expected one of S3PET-M, S3PET-L, LoRA-ranks \(with '\+cross'"):
        load_space(name)


def test_presets_by_any_case():
    assert load_space("s3pet-m") is PRESETS["S3PET-M"]
    assert load_space("S3PET-L") is PRESETS["S3PET-L"]
