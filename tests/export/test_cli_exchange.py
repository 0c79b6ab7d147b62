"""``s3pet import``, ``s3pet export`` and ``s3pet tune --save``, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import call, refused
from export_problems import adapter_of, structure_of

import s3pet_viz as s3
from s3pet_viz.export import Adapter
from s3pet_viz.structure import Structure, from_s3delta

QUERY = "encoder.block.0.layer.0.SelfAttention.q"
CONFIG = [{"SelfAttention.q": {"parallel": {"Lora": {"lora_r": 2}}}}, {"DenseReluDense": {"sequential": {"Adapter": {}}}}]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def alphas(tmp_path: Path) -> Path:
    rows = [
        f"|{QUERY.replace('.0.', f'.{layer}.', 1)}| parallel |Lora|{256 / 1024**2:.7f}|{alpha:.5f}|{p:.5f}"
        for layer, alpha, p in ((0, 0.5, 0.7), (1, -0.5, 0.3))
    ]
    path = tmp_path / "final_alphas.txt"
    path.write_text("\n".join(["=" * 40, *rows, "=" * 40]))
    return path


# -- import --------------------------------------------------------------------------------------------------


def test_import_json(config, tmp_path):
    said = call("import", config, "--backbone", "tiny-t5", "--out", tmp_path / "s.json")
    assert "structure: " in said.stdout
    made = Structure.load(tmp_path / "s.json")
    assert made == from_s3delta(CONFIG, backbone="tiny-t5")
    assert made.backbone == "tiny-t5"
    assert "exists already" in refused("import", config, "--backbone", "tiny-t5", "--out", tmp_path / "s.json")
    call("import", config, "--backbone", "tiny-t5", "--out", tmp_path / "s.json", "--force")


def test_import_with_the_gates_of_a_run(tmp_path):
    run = s3.open_run("sentiment-0.2pct-s0")
    (tmp_path / "config.json").write_text(json.dumps([{QUERY: {"parallel": {"Lora": {"lora_r": 1}}}}]))
    call("import", tmp_path / "config.json", "--run", "sentiment-0.2pct-s0", "--out", tmp_path / "s.json")
    made = Structure.load(tmp_path / "s.json")
    assert made.gates == tuple(g for g in run.gates_list if g.key == (QUERY, "LoRA"))
    assert (made.backbone, made.backbone_params) == (run.info["backbone"], run.info["backbone_params"])


def test_import_alphas(alphas, tmp_path):
    call("import", alphas, "--backbone", "tiny-t5", "--budget", "300", "--out", tmp_path / "s.json")
    made = Structure.load(tmp_path / "s.json")
    assert [g.position for g in made.gates] == [QUERY]
    assert made.budget == 300
    call("import", alphas, "--out", tmp_path / "own.json")  # sizes are in the file, and so is the budget
    assert len(Structure.load(tmp_path / "own.json")) == 1


def test_import_of_wrong_input(config, alphas, tmp_path):
    out = ("--out", tmp_path / "s.json")
    assert "cannot be read" in refused("import", tmp_path / "none", *out)
    assert "not a full T5 position" in refused("import", config, *out)
    (tmp_path / "full.json").write_text(json.dumps([{QUERY: {"parallel": {"Lora": {}}}}]))
    assert "sizes of its gates are not known" in refused("import", tmp_path / "full.json", *out)
    assert "budget: only final_alphas.txt" in refused("import", config, "--budget", "300", *out)
    assert "--run is for JSON" in refused("import", alphas, "--run", "sentiment-0.2pct-s0", *out)
    assert "either --backbone or --run" in refused(
        "import", config, "--backbone", "tiny-t5", "--run", "sentiment-0.2pct-s0", *out
    )
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "expected text" in refused("import", tmp_path / "binary", *out)
    (tmp_path / "text").write_text("hello")
    assert "expected JSON" in refused("import", tmp_path / "text", *out)
    assert not (tmp_path / "s.json").exists()


# -- export --------------------------------------------------------------------------------------------------


def test_an_adapter_everywhere(searched, tmp_path):
    folder, structure, _ = searched
    said = call("export", folder, "--to", "peft", "--out", tmp_path / "peft").stdout
    assert f"{len(structure)} of {len(structure)} gates in a LoraConfig" in said
    assert "of the adapter's" in said
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    assert "by transformers" in call("export", folder, "--to", "merged", "--out", tmp_path / "merged").stdout
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    call("export", folder, "--to", "s3delta", "--out", tmp_path / "config.json")
    assert from_s3delta(tmp_path / "config.json", backbone="tiny-t5") == structure
    call("export", folder, "--to", "adapter", "--out", tmp_path / "copy")
    assert Adapter.from_pretrained(tmp_path / "copy").structure == structure


def test_a_run_and_a_structure(tmp_path):
    run = s3.open_run("sentiment-0.2pct-s0")
    call("export", "sentiment-0.2pct-s0", "--to", "s3delta", "--budget", "1000", "--out", tmp_path / "config.json")
    assert from_s3delta(tmp_path / "config.json", gates=run.gates_list) == run.structure(budget=1000)
    file = structure_of(s3.load_backbone("tiny-t5"), types=("LoRA", "LowRankAdapter")).save(tmp_path / "s.json")
    assert "PEFT cannot hold 16 of 64 gates" in refused("export", file, "--to", "peft", "--out", tmp_path / "peft")
    result = call("export", file, "--to", "peft", "--out", tmp_path / "peft", "--partial")
    assert result.stderr.count("left out: ") == 16
    assert "48 of 64 gates" in result.stdout
    assert "the config alone" in result.stdout
    assert [p.name for p in (tmp_path / "peft").iterdir()] == ["adapter_config.json"]


def test_export_of_wrong_input(searched, tmp_path, tiny_folder):
    folder, _, _ = searched
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    for form in ("peft", "merged", "adapter"):
        assert "the folder is not empty" in refused("export", folder, "--to", form, "--out", tmp_path / "full")
    assert "expected a file name" in refused("export", folder, "--to", "s3delta", "--out", tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["a"]
    new = ("--out", tmp_path / "new")
    assert "expected a run folder or a structure file" in refused("export", "none", "--to", "peft", *new)
    assert "only a run can be solved again" in refused("export", folder, "--to", "peft", "--budget", "1%", *new)
    assert "partial: is for --to peft" in refused("export", folder, "--to", "merged", "--partial", *new)
    for form in ("merged", "adapter"):
        line = refused("export", "sentiment-0.2pct-s0", "--to", form, *new)
        assert "needs trained weights, which come from: s3pet tune sentiment-0.2pct-s0 --save FOLDER" in line
    line = refused("export", folder, "--to", "merged", "--backbone", tiny_folder("bert"), *new)
    assert "adapter: field 'form': expected a backbone of form 'text', found another" in line
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter.json").write_text("{}")
    assert "structure.json: no such file" in refused("export", tmp_path / "broken", "--to", "peft", *new)
    call("export", folder, "--to", "gguf", *new, code=2)
    assert not (tmp_path / "new").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_a_name_on_the_hub(monkeypatch, tmp_path, tiny_folder):
    backbone = s3.load_backbone(tiny_folder("bert"))
    made = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    asked = []
    monkeypatch.setattr(Adapter, "from_pretrained", lambda name: (asked.append(name), made)[1])
    call("export", "someone/mood", "--to", "adapter", "--out", tmp_path / "copy")
    assert asked == ["someone/mood"]


# -- tune --save ---------------------------------------------------------------------------------------------


def test_tune_keeps_the_weights(tmp_path):
    structure = structure_of(s3.load_backbone("tiny-t5"), "S3PET-L")
    file = structure.save(tmp_path / "s.json")
    common = ("tune", file, "--task", "sentiment", "--steps", "3", "--max-rows", "16", "--quiet", "--save")
    assert "adapter: " in call(*common, tmp_path / "adapter").stdout
    assert Adapter.from_pretrained(tmp_path / "adapter").structure == structure
    assert "the folder is not empty" in refused(*common, tmp_path / "adapter")
    call(*common, tmp_path / "adapter", "--force")
    assert "save: expected a structure" in refused("tune", "full", *common[2:], tmp_path / "other")
