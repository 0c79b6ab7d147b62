"""The type of a folder's weights: kept through a merge, and kept in memory with dtype="auto"."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from export_problems import adapter_of, logits, structure_of
from problems import MOOD, mood_data, save_tiny, tiny_model, tokenizer_of
from safetensors import safe_open
from tiny_families import TINY, tiny_family

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, wrap_backbone
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.attached import attached
from s3pet_viz.errors import ConfigError
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.origin import origin_of

FAST = {"steps": 2, "batch_size": 8, "progress": False, "device": "cpu"}


def half_folder(folder, name="t5", dtype=torch.bfloat16):
    tiny = tiny_family(name)
    tiny.model(layers=1).to(dtype).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


def types_in(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - not a mapping


def size(folder):
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["t5", "bert", "llama"])
def test_a_merge_keeps_the_type(tmp_path, name, dtype):
    folder = half_folder(tmp_path / "base", name, dtype)
    backbone = load_backbone(folder)
    adapter = adapter_of(backbone, structure_of(backbone, types=("LoRA", "LNFit")))
    for i, given in enumerate((None, folder)):  # the adapter's own, and one that is named
        merged = s3.merge(adapter, given, folder=tmp_path / f"merged{i}")
        assert next(merged.parameters()).dtype == dtype
        assert types_in(tmp_path / f"merged{i}") == types_in(folder) == {dtype}
        assert size(tmp_path / f"merged{i}") == pytest.approx(size(folder), rel=0.02)
        said = json.loads((tmp_path / f"merged{i}" / "config.json").read_text())
        assert said["dtype"] == str(dtype).removeprefix("torch.")
    again = load_backbone(tmp_path / "merged1", dtype="auto")
    assert again.body[0].dtype == dtype
    changed = float((logits(merged).float() - logits(load_backbone(folder, dtype="auto").model).float()).abs().max())
    assert changed > 1e-3


def test_a_merge_of_several_types(tmp_path):
    """transformers keeps some weights of T5 in float32."""
    model = tiny_model("t5").to(torch.bfloat16)
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.float()
    types = {n: p.dtype for n, p in model.named_parameters()}
    backbone = wrap_backbone(model, tokenizer_of("t5"))
    merged = s3.merge(adapter_of(backbone, structure_of(backbone, types=("LNFit",))), backbone)
    assert {n: p.dtype for n, p in merged.named_parameters()} == types


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, torch.float32), ({"dtype": "auto"}, torch.bfloat16), ({"dtype": "bfloat16"}, torch.bfloat16), ({"dtype": torch.float64}, torch.float64)],
)
def test_the_type_in_memory(tmp_path, given, found):
    assert {p.dtype for p in load_backbone(half_folder(tmp_path), **given).model.parameters()} == {found}


@pytest.mark.parametrize("value", ["float33", "int8", torch.int64, "float8_e4m3fn", 3, None, "nn"])
def test_types_that_are_none(tmp_path, value):
    with pytest.raises(ConfigError, match="dtype: expected auto, float32"):
        load_backbone(save_tiny("t5", tmp_path), dtype=value)
    with pytest.raises(ConfigError, match="dtype: expected one of float32, bfloat16, float16, auto"):
        SearchConfig(task="a", backbone="b", budget=1, dtype="float64")


@pytest.mark.parametrize("name", [t.name for t in TINY if "classification" not in t.name and t.name != "qwen2"])
def test_a_search_with_frozen_weights_in_half_precision(tmp_path, name, monkeypatch):
    """They are half the size; what is trained is float32, or small steps would be rounded away."""
    folder, seen = half_folder(tmp_path / "base", name), {}

    class Look(s3.Callback):
        def on_search_begin(self, search):
            seen["weights"] = search.state.w.flat.dtype

    def keep(backbone, *rest):
        seen["frozen"] = {p.dtype for n, p in backbone.model.named_parameters() if n not in backbone.head}
        return attached(backbone, *rest)

    monkeypatch.setattr(sys.modules["s3pet_viz.engine.api"], "attached", keep)  # `s3.search` is the function
    given = {"task": mood_data(24, 8), "load": {"task_spec": MOOD}, "budget": 400}
    run = s3.search(**given, backbone=folder, dtype="auto", callbacks=[Look()], out=tmp_path / "run", **FAST)
    assert seen == {"frozen": {torch.bfloat16}, "weights": torch.float32}
    assert run.config["dtype"] == "auto"
    again = s3.search(**{**given, "load": {**given["load"], "dtype": "auto"}}, backbone=folder, out=tmp_path / "again", **FAST)
    assert again.config["dtype"] == "auto"
    assert (again.alpha() == run.alpha()).all()


def test_a_run_of_half_precision_is_resumed_and_tuned_so(tmp_path):
    folder = half_folder(tmp_path / "base", "bert")
    task = tmp_path / "mood"
    task.mkdir()
    (task / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(24, 8).items():
        (task / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    class Stop(s3.Callback):
        def on_step_end(self, search, step, result):
            search.request_stop("enough")

    s3.search(task=task, backbone=folder, budget=400, dtype="auto", out=tmp_path / "run", callbacks=[Stop()], **FAST)
    run = s3.search(resume=tmp_path / "run", progress=False)
    assert (run.status, run.config["dtype"]) == ("finished", "auto")
    assert origin_of(run)["load"]["dtype"] == "auto"
    with pytest.raises(ConfigError, match="keeps its own options"):
        s3.search(resume=run.path, load={"dtype": "float32"})
    found = s3.explain(run, **FAST)
    assert found.n_rows == 8


def test_small_steps_are_not_lost(tmp_path):
    """A step of 1e-4 on a norm's weight near 1 would vanish in bfloat16."""
    bench = Workbench.open(mood_data(24, 8), half_folder(tmp_path, "bert"), task_spec=MOOD, device="cpu", dtype="auto")
    before = {n: p.detach().clone() for n, p in bench.backbone.model.named_parameters()}
    with bench.tuned("full", s3.TuneConfig(steps=1, full_lr=1e-5, evaluations=1), progress=False):
        moved = [n for n, p in bench.backbone.model.named_parameters() if not torch.equal(p.float(), before[n].float())]
    assert any("LayerNorm.weight" in n for n in moved)
    assert all(torch.equal(p, before[n]) and p.dtype == before[n].dtype for n, p in bench.backbone.model.named_parameters())
