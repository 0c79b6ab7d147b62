"""A backbone or data set of a stranger's: nothing is unpickled, no code that it brings is run, no NaN gets in."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s3pet_viz.backbones import load_backbone, wrap_backbone
from s3pet_viz.errors import BackboneError, TaskError
from s3pet_viz.tasks import load_task

TASK = {"name": "mood", "kind": "classification", "fields": ["text"], "label_names": ["bad", "good"], "metrics": ["accuracy"]}


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (self.marker, "ran"))


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder("bert"), tmp_path / "copy")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused_unread(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(BackboneError, match=r"holds no weights \(expected model\.safetensors\); pytorch_model\.bin.* is a pickle"):
        load_backbone(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_beside_safetensors_are_not_read(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    load_backbone(folder)
    assert not (tmp_path / "ran").exists()


def test_an_index_that_names_a_pickle_or_another_folder(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "evil.bin").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for file in ("evil.bin", "../evil.bin", "/etc/passwd"):
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(BackboneError, match="^backbone: "):
            load_backbone(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model_type", ["bert", "evil"])
@pytest.mark.parametrize("answer", ["", "1"])
def test_code_of_a_backbone_is_not_run(folder, tmp_path, monkeypatch, model_type, answer):
    """Neither asked for on a terminal, nor switched on by an environment variable."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", answer)
    monkeypatch.setenv("HF_TRUST_REMOTE_CODE", answer)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\nfrom transformers import BertConfig, BertModel\nclass C(BertConfig):\n    model_type = 'evil'\nclass M(BertModel): pass\n"
    (folder / "modeling_evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_evil.C", "AutoModelForSequenceClassification": "modeling_evil.M"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": names}))
    with pytest.raises(BackboneError, match=r"needs code of its own \(config\.json, field 'auto_map'\)"):
        load_backbone(folder)
    assert not marker.exists()


def test_code_of_a_tokenizer_is_not_run(folder, tmp_path):
    marker = tmp_path / "ran"
    (folder / "tok_evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\nclass T: pass\n")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["tok_evil.T", "tok_evil.T"]}, "tokenizer_class": "T"}))
    try:
        load_backbone(folder)
    except BackboneError as error:
        assert "copy" in str(error)  # noqa: PT017 - or it loads
    assert not marker.exists()


def test_an_adapter_is_no_backbone(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA"}))
    with pytest.raises(BackboneError, match="is an adapter of PEFT"):
        load_backbone(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder, value):
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in sorted(weights) if n.endswith("query.weight"))
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=rf"weight .*{name[-20:]} holds NaN or infinity"):
        load_backbone(folder)


def test_weights_in_memory_that_are_not_finite(tiny_folder):
    made = load_backbone(tiny_folder("t5"))
    with torch.no_grad():
        next(iter(made.model.parameters())).view(-1)[3] = float("nan")
    with pytest.raises(BackboneError, match="holds NaN or infinity"):
        wrap_backbone(made.model, made.tokenizer)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1e999}', None])
def test_any_damaged_file_is_one_error(folder, name, damage):
    path = folder / name
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    try:
        load_backbone(folder)
    except BackboneError as error:
        assert "copy" in str(error)  # noqa: PT017 - or it loads


# -- data sets ---------------------------------------------------------------------------------------------


def test_the_script_of_a_data_set_is_not_run(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    marker = tmp_path / "ran"
    (tmp_path / "owner" / "evil").mkdir(parents=True)
    (tmp_path / "owner" / "evil" / "evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\n")
    monkeypatch.chdir(tmp_path)
    from s3pet_viz.tasks.hub import load_hub
    from s3pet_viz.tasks.taskfile import task_from_dict

    with pytest.raises(TaskError, match="owner/evil @ main: expected a dataset"):
        load_hub(task_from_dict(TASK), "owner/evil", None)
    with pytest.raises(TaskError, match="expected the file train.jsonl"):
        load_task("owner/evil", form="text", task_spec=TASK)
    assert not marker.exists()
