"""The adapter folder: what goes in comes out to the bit, and a damaged or foreign one says so."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from export_problems import RANKS, adapter_of, gap, logits, structure_of, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MOOD, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from safetensors.torch import load_file, save_file

import s3pet_viz as s3
from s3pet_viz.errors import AdapterError, BackboneError, ConfigError, StructureError
from s3pet_viz.export import Adapter
from s3pet_viz.export.adapter import digest
from s3pet_viz.export.folder import FILES, META, WEIGHTS, staged_folder
from s3pet_viz.structure import Structure

FAST = {"steps": 6, "batch_size": 8, "evaluations": 2, "lr": 1e-2, "progress": False, "device": "cpu"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    backbone = tiny_backbone("bert")
    return adapter_of(backbone, structure_of(backbone)).save_pretrained(tmp_path / "adapter")


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other weights, with a checksum that fits: what is checked is what is in them."""
    import hashlib

    save_file(tensors, folder / WEIGHTS)
    meta = json.loads((folder / META).read_text())
    meta["sha256"][WEIGHTS] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / META).write_text(json.dumps(meta))


def change(folder: Path, **fields: object) -> None:
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({**meta, **fields}))


# -- the round trip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, form, dtype):
    backbone = tiny_backbone(form, dtype)
    made = adapter_of(backbone, structure_of(backbone), labels=("negative", "positive"), scores={"accuracy": 0.5})
    back = Adapter.from_pretrained(made.save_pretrained(tmp_path / "adapter"))
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == sorted(FILES)
    assert back.structure == made.structure
    assert back.structure.to_dict() == made.structure.to_dict()
    for ours, theirs in ((made.weights, back.weights), (made.head, back.head)):
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
    for name in ("backbone", "revision", "model_type", "form", "num_labels", "regression", "labels", "digest", "task", "scores"):
        assert getattr(back, name) == getattr(made, name), name
    assert bool(made.head) == (form in ("bert", "roberta"))


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_attaching_computes_and_detaching_leaves_nothing(saved, form):
    backbone = tiny_backbone(form)
    adapter = adapter_of(backbone, structure_of(backbone))
    before, plain = snapshot(backbone.model), logits(backbone.model)
    with adapter.attach(backbone) as attached:
        assert attached.backbone is backbone
        changed = logits(backbone.model)
        assert not any(p.requires_grad for p in attached.pets.parameters())
    assert gap(plain, changed) > 1e-2
    assert_same(backbone.model, before)
    assert torch.equal(logits(backbone.model), plain)
    attached = adapter.attach(backbone.model)  # a model alone, and no with
    assert torch.equal(logits(backbone.model), changed)
    attached.detach()
    assert torch.equal(logits(backbone.model), plain)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_subset_of_gates_comes_back(tmp_path_factory, data):
    backbone = tiny_backbone("t5")
    gates = structure_of(backbone).gates
    kept = data.draw(st.sets(st.sampled_from(range(len(gates))), min_size=1, max_size=12))
    structure = Structure(tuple(gates[i] for i in kept), "tiny-t5", backbone.n_params)
    adapter = adapter_of(backbone, structure)
    back = Adapter.from_pretrained(adapter.save_pretrained(tmp_path_factory.mktemp("any") / "adapter"))
    with adapter.attach(backbone):
        expected = logits(backbone.model)
    with back.attach(backbone):
        assert torch.equal(logits(backbone.model), expected)


def test_tuning_on_tiny_t5_saves_what_it_scored(searched):
    folder, structure, scores = searched
    adapter = Adapter.from_pretrained(folder)
    assert adapter.structure == structure
    assert adapter.task == "sentiment"
    assert adapter.scores == scores.metrics
    assert all(bool(t.any()) for t in adapter.weights.values())
    assert s3.evaluate(folder, task="sentiment", load={"max_rows": 48}) == scores.metrics
    assert repr(adapter) == f"Adapter({len(structure)} gates, {structure.n_params:,} parameters, tiny-t5)"


@pytest.mark.parametrize("train_pooler", [False, True])
def test_tuning_an_encoder_saves_its_head(tmp_path, train_pooler):
    model, tokenizer = tiny_model("bert"), tokenizer_of("bert")
    before = snapshot(model)
    structure = structure_of(tiny_backbone("bert"), "S3PET-L")
    given = {"task": mood_data(), "model": model, "tokenizer": tokenizer, "load": {"task_spec": MOOD}}
    scores = s3.tune(structure, **given, **FAST, train_pooler=train_pooler, save=tmp_path / "a")
    assert_same(model, before)
    adapter = Adapter.from_pretrained(tmp_path / "a")
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if train_pooler else set()
    assert set(adapter.head) == {"classifier.weight", "classifier.bias"} | pooler
    assert adapter.labels == ("negative", "positive")
    assert s3.evaluate(tmp_path / "a", **given, device="cpu") == scores.metrics
    assert_same(model, before)


def test_a_drawn_pooler_travels(tmp_path):
    """A language model's checkpoint has no pooler; another load would draw another one."""
    from transformers import BertForMaskedLM

    BertForMaskedLM(tiny_model("bert").config).save_pretrained(tmp_path / "lm")
    tokenizer_of("bert").save_pretrained(tmp_path / "lm")
    backbone = s3.load_backbone(tmp_path / "lm")
    assert backbone.drawn == ("bert.pooler.dense.bias", "bert.pooler.dense.weight")
    adapter = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    other = s3.load_backbone(tmp_path / "lm", seed=1)
    with adapter.attach(backbone):
        expected = logits(backbone.model)
    with adapter.attach(other):
        assert torch.equal(logits(other.model), expected)
    assert s3.load_backbone("tiny-t5").drawn == ()


# -- folders -------------------------------------------------------------------------------------------------


def test_a_folder_with_files_is_left_alone(saved, tmp_path):
    backbone = tiny_backbone("bert")
    other = adapter_of(backbone, structure_of(backbone, RANKS), seed=7)
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(ConfigError, match="adapter: the folder is not empty; give another one"):
        other.save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    (saved / "notes.txt").write_text("mine")
    other.save_pretrained(saved, overwrite=True)
    assert Adapter.from_pretrained(saved).structure == other.structure
    assert (saved / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder, found a file"):
        other.save_pretrained(tmp_path / "file")
    with pytest.raises(ConfigError, match="expected a folder, found a file|is not a folder that can be written"):
        other.save_pretrained(tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="cannot be used as a folder"):
        other.save_pretrained("a\0b")


def test_tune_asks_before_it_trains(tmp_path, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("trained")

    monkeypatch.setattr("s3pet_viz.tuning.workbench.Workbench.open", never)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    structure = structure_of(tiny_backbone("t5"))
    with pytest.raises(ConfigError, match="the folder is not empty"):
        s3.tune(structure, task="sentiment", backbone="tiny-t5", save=tmp_path / "full")
    with pytest.raises(ConfigError, match="save: expected a structure, .* found 'full'"):
        s3.tune("full", task="sentiment", backbone="tiny-t5", save=tmp_path / "new")


def test_what_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "new") as staged:
        (staged / "a.json").write_text("{}")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="new: cannot be written .*No space"), staged_folder(tmp_path / "new"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model-00001-of-00002.safetensors").write_text("stale")
    with staged_folder(tmp_path / "old", overwrite=True, own=("model*.safetensors",)) as staged:
        (staged / "model.safetensors").write_text("new")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["model.safetensors"]


def test_a_folder_that_is_there_stays_the_same_folder(tmp_path, monkeypatch):
    """Empty, the current one, or behind a link: it is filled, not replaced."""
    backbone = tiny_backbone("bert")
    adapter = adapter_of(backbone, structure_of(backbone, RANKS))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    inode = (tmp_path / "real").stat().st_ino
    adapter.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_ino == inode
    assert sorted(p.name for p in (tmp_path / "real").iterdir()) == sorted(FILES)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    adapter.save_pretrained(".")
    assert Adapter.from_pretrained(".").structure == adapter.structure


# -- damaged and foreign -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(AdapterError, match=f"adapter/{name}: no such file; an adapter folder holds"):
        Adapter.from_pretrained(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "peft"}, "adapter.json: field 'kind': expected 's3pet_viz.adapter'"),
        ({"schema_version": 2}, "adapter.json: field 'schema_version': expected 1, found 2"),
        ({"sha256": {}}, "adapter.json: field 'sha256': expected an object with 'adapter.safetensors'"),
        ({"sha256": {WEIGHTS: "0" * 64}}, "adapter.safetensors: expected the file that adapter.json was written with"),
        ({"backbone": 3}, "adapter.json: field 'backbone': expected str, found 3"),
        ({"revision": 3}, "adapter.json: field 'revision': expected str or null, found 3"),
        ({"form": "image"}, "adapter.json: field 'form': expected str, found 'image'"),
        ({"num_labels": True}, "adapter.json: field 'num_labels': expected int, found True"),
        ({"num_labels": -1}, "adapter.json: field 'num_labels': expected int, found -1"),
        ({"labels": [1]}, "adapter.json: field 'labels': expected list"),
        ({"scores": {"a": "b"}}, "adapter.json: field 'scores': expected dict"),
    ],
)
def test_a_wrong_field(saved, fields, message):
    change(saved, **fields)
    with pytest.raises(AdapterError, match=message):
        Adapter.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"[]", b"3"])
def test_a_damaged_adapter_json(saved, content):
    (saved / META).write_bytes(content)
    with pytest.raises(AdapterError, match="adapter.json: "):
        Adapter.from_pretrained(saved)


def test_a_damaged_structure(saved):
    (saved / "structure.json").write_text("{}")
    with pytest.raises(StructureError, match="structure.json: expected a structure file"):
        Adapter.from_pretrained(saved)


def test_weights_that_are_no_safetensors(saved):
    import hashlib

    data = pickle.dumps({"a": 1})
    (saved / WEIGHTS).write_bytes(data)
    change(saved, sha256={WEIGHTS: hashlib.sha256(data).hexdigest()})
    with pytest.raises(AdapterError, match="adapter.safetensors: expected safetensors, found something else"):
        Adapter.from_pretrained(saved)


def test_wrong_weights(saved):
    good = load_file(saved / WEIGHTS)
    name = "pet.encoder.layer.0.attention.self.query.LoRA.lora_A"

    def damaged(tensors: dict[str, torch.Tensor], message: str) -> None:
        rewrite(saved, tensors)
        with pytest.raises(AdapterError, match=message):
            Adapter.from_pretrained(saved)

    damaged({k: v for k, v in good.items() if k != name}, "query.LoRA: expected 64 numbers, .* found 32")
    damaged({**good, name: torch.zeros(2, 32)}, "query.LoRA: expected 64 numbers, as structure.json says, found 96")
    damaged({**good, "pet.elsewhere.LoRA.lora_A": torch.zeros(1)}, "pet.elsewhere.*expected a weight of a gate in")
    damaged({**good, "optimizer": torch.zeros(1)}, "optimizer: expected a weight of a gate in structure.json or of a head")
    damaged({**good, name: torch.full((1, 32), float("nan"))}, f"{name}: expected finite floating-point numbers")
    damaged({**good, name: torch.ones((1, 32), dtype=torch.int32)}, f"{name}: expected finite floating-point numbers")
    backbone = tiny_backbone("bert")
    before = snapshot(backbone.model)

    def misfit(tensors: dict[str, torch.Tensor], message: str) -> None:
        rewrite(saved, tensors)
        with pytest.raises(AdapterError, match=message) as caught:
            Adapter.from_pretrained(saved).attach(backbone)
        assert str(saved) in str(caught.value)
        assert_same(backbone.model, before)
        assert not any("forward" in vars(m) for m in backbone.model.modules())

    # As many numbers as the gate has, in another shape or under another name.
    misfit({**good, name: good[name].T.contiguous()}, r"lora_A: expected shape \(1, 32\) .* found \(32, 1\)")
    renamed = {k: v for k, v in good.items() if k != name} | {name.replace("lora_A", "lora_C"): good[name]}
    misfit(renamed, "lora_[AC]: expected the weights of its structure, found")
    misfit({**good, "head.classifier.weight": torch.zeros(3, 32)}, r"head classifier.weight: .*\(3, 32\) .* found \(2, 32\)")
    misfit({**good, "head.elsewhere": torch.zeros(3)}, r"head elsewhere: expected a parameter of shape \(3,\) .* found none")


def test_another_backbone(saved):
    adapter = Adapter.from_pretrained(saved)
    with pytest.raises(AdapterError, match="adapter: field 'model_type': expected a backbone of type 'bert', found 't5'"):
        adapter.attach(tiny_backbone("t5"))
    other = tiny_model("bert", seed=1)
    with pytest.raises(AdapterError, match="field 'digest': expected the weights of 'tiny-bert' .* any_weights=True .--any-weights. takes them"):
        adapter.attach(other)
    with adapter.attach(other, any_weights=True):
        assert logits(other).isfinite().all()
    with pytest.raises(StructureError, match="no position|for another backbone"):
        adapter.attach(tiny_model("bert", num_hidden_layers=1), any_weights=True)
    with pytest.raises(BackboneError, match="'tiny-bert' cannot be loaded|no folder"):
        adapter.attach("/no/such/folder")
    change(saved, backbone="")
    with pytest.raises(AdapterError, match="field 'backbone': expected a name, found none; give backbone="):
        Adapter.from_pretrained(saved).attach()


def test_the_digest_knows_weights_not_precision():
    model = tiny_model("bert")
    assert digest(model) == digest(tiny_model("bert").to(torch.bfloat16)) == digest(tiny_model("bert").double())
    assert digest(model) != digest(tiny_model("bert", seed=1))
    for name, p in model.named_parameters():
        kept, before = p.detach().clone(), digest(model)
        with torch.no_grad():
            p.reshape(-1)[0] += 1
        assert (digest(model) == before) == (".pooler." in name or name.startswith("classifier"))
        with torch.no_grad():
            p.copy_(kept)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(FILES), st.integers(0, 2000))
def test_no_damage_crashes(tmp_path_factory, noise, name, at):
    folder = tmp_path_factory.mktemp("noise") / "adapter"
    backbone = tiny_backbone("bert")
    adapter_of(backbone, structure_of(backbone, RANKS)).save_pretrained(folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:at] + noise + data[at + len(noise) :])
    said = ""
    try:
        assert len(Adapter.from_pretrained(folder).structure)
    except (AdapterError, StructureError) as error:
        said = str(error)
    assert not said or str(folder) in said
    if name == WEIGHTS and data != (folder / name).read_bytes():
        assert "the file that adapter.json was written with" in said


# -- the hub -------------------------------------------------------------------------------------------------


def test_from_the_cache_of_the_hub_at_a_revision(saved, tmp_path):
    backbone = tiny_backbone("bert")
    repo = tmp_path / "cache" / "models--someone--mood"
    (repo / "refs").mkdir(parents=True)
    for seed, (ref, commit) in enumerate({"main": "a" * 40, "v2": "b" * 40}.items()):
        adapter_of(backbone, structure_of(backbone), seed=seed).save_pretrained(repo / "snapshots" / commit)
        (repo / "refs" / ref).write_text(commit)
    cached = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    for revision, seed in ((None, 0), ("v2", 1), ("b" * 40, 1)):
        made = Adapter.from_pretrained("someone/mood", revision=revision, **cached)
        expected = adapter_of(backbone, structure_of(backbone), seed=seed)
        assert all(torch.equal(made.weights[k], expected.weights[k]) for k in expected.weights)
    with pytest.raises(AdapterError, match="someone/mood: structure.json cannot be fetched"):
        Adapter.from_pretrained("someone/mood", revision="v3", **cached)
    with pytest.raises(AdapterError, match="someone/other: structure.json cannot be fetched"):
        Adapter.from_pretrained("someone/other", **cached)
    (repo / "snapshots" / ("b" * 40) / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match="someone/mood: adapter.safetensors cannot be fetched"):
        Adapter.from_pretrained("someone/mood", revision="v2", **cached)
    with pytest.raises(ConfigError, match="revision: expected none for an adapter in a folder"):
        Adapter.from_pretrained(saved, revision="main")


@pytest.mark.parametrize("name", ["./none", "/no/such", "~/none", "a/b/c", "plain", Path("some/where")])
def test_neither_folder_nor_hub_name(name):
    with pytest.raises(AdapterError, match=r"expected a folder or a name on the Hugging Face hub \(owner/name\)"):
        Adapter.from_pretrained(name)


@pytest.mark.parametrize("name", ["-a/b", "a/..", "a/b--c"])
def test_no_name_of_the_hub(name):
    with pytest.raises(AdapterError, match="cannot be fetched from the Hugging Face hub"):
        Adapter.from_pretrained(name, local_files_only=True)


def test_push_to_hub(saved, monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))

        def upload_folder(self, *, repo_id, folder_path, **options):
            names = sorted(p.name for p in Path(folder_path).iterdir())
            calls.append(("upload", repo_id, names, (Path(folder_path) / "README.md").read_text()))
            for name in FILES:
                (tmp_path / "hub").mkdir(exist_ok=True)
                (tmp_path / "hub" / name).write_bytes((Path(folder_path) / name).read_bytes())
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    adapter = Adapter.from_pretrained(saved)
    assert adapter.push_to_hub("someone/mood", private=True, token="t").endswith("someone/mood/commit/1")
    assert calls[:2] == [("token", "t"), ("create", "someone/mood", {"private": True, "exist_ok": True})]
    assert calls[2][2] == sorted([*FILES, "README.md"])
    card = calls[2][3]
    assert 's3.Adapter.from_pretrained("someone/mood")' in card
    assert "base_model" not in card  # tiny-bert is no name of the hub
    back = Adapter.from_pretrained(tmp_path / "hub")
    assert all(torch.equal(back.weights[k], adapter.weights[k]) for k in adapter.weights)

    def refuse(self, repo_id, **_options):
        raise huggingface_hub.errors.HFValidationError("no such name")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(AdapterError, match="someone/mood: the Hugging Face hub did not take the adapter: no such name"):
        adapter.push_to_hub("someone/mood")
