"""``family=`` and `register_family`: a user's table over what discovery finds, and what becomes of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from problems import MOOD, mood_data, word_tokenizer
from quill import Quill, QuillConfig
from tiny_families import TINY, tiny_family
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import family_of, load_backbone, positions
from s3pet_viz.backbones.families import read
from s3pet_viz.backbones.load import registered_for
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.structure import tables

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
#: The table that CONTRIBUTING shows, for `Quill`.
SHOWN = re.search(r"```yaml\n(# quill.yaml\n.*?)```", CONTRIBUTING.read_text(), re.DOTALL).group(1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Quill(QuillConfig())


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "quill.yaml"
    path.write_text(SHOWN)
    return path


@pytest.fixture(autouse=True)
def _session(monkeypatch):
    """What is registered here is forgotten."""
    monkeypatch.setattr(tables, "_registered", {})


def named(found) -> dict[str, str]:
    return {p.module: p.name for p in found if p.layer == 1}


WANTED = {
    "SelfAttn": "strokes.1.gaze", "SelfAttn.Q": "strokes.1.gaze.asks", "SelfAttn.K": "strokes.1.gaze.offers",
    "SelfAttn.V": "strokes.1.gaze.holds", "SelfAttn.O": "strokes.1.gaze.tells", "SelfAttn.LN": "strokes.1.calm",
    "FFN.W1": "strokes.1.open", "FFN.W2": "strokes.1.shut", "FFN": "strokes.1.shut", "FFN.LN": "strokes.1.rest",
}  # fmt: skip


def test_a_short_table_names_what_discovery_does_not(model, table):
    """One line tests a new table."""
    assert len(SHOWN.splitlines()) < 15
    assert named(s3.positions(model, family=table).positions) == WANTED
    assert len(s3.positions(model, family=table)) == len(s3.positions(model)) + 2  # the blocks SelfAttn
    assert "named by quill.yaml, the rest read off the model" in repr(s3.positions(model, family=table))


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_the_packages_tables_are_of_the_same_form(tiny):
    """As a user's, whole or over what discovery finds, they name the same positions in the same order."""
    model = tiny.model()
    data = yaml.safe_load((Path(tables.__file__).parent / "families.yaml").read_text())[tiny.family]
    expected = positions(model)
    there = {p.module for p in expected}
    kept = {s: {m: n for m, n in data[s].items() if m == "block" or m in there} for s in tables.STACKS if s in data}
    for whole in (True, False):
        own = tables.read_family(kept | {"whole": whole})
        assert read(model, family_of(model, own)).positions == expected


def test_a_run_keeps_its_table_and_a_structure_needs_none(model, table, tmp_path):
    common = {"task": mood_data(32, 8), "load": {"task_spec": MOOD}, "model": model, "tokenizer": word_tokenizer("bert")}
    common |= {"device": "cpu", "progress": False, "batch_size": 4}

    class Stop(s3.Callback):
        def on_step_end(self, *_) -> None:
            raise KeyboardInterrupt

    s3.register_family("quill", table)
    with pytest.raises(KeyboardInterrupt):
        s3.search(**common, budget=600, steps=2, callbacks=[Stop()], out=tmp_path / "run")
    tables._registered.clear()
    assert "SelfAttn.Q" not in {p.module for p in positions(model)}
    assert s3.open_run(tmp_path / "run").config["family"]["encoder"]["SelfAttn"] == ".gaze"
    run = s3.search(resume=tmp_path / "run", **{k: v for k, v in common.items() if k in ("task", "model", "tokenizer", "progress", "load")})
    modules = {g.module for g in run.gates_list}
    assert {"SelfAttn", "SelfAttn.Q", "FFN.LN"} <= modules
    folder = tmp_path / "adapter"
    scores = s3.tune(run.structure(), steps=2, evaluations=1, save=folder, **common)
    assert scores.pet_params == run.structure().n_params
    with s3.Adapter.from_pretrained(folder).attach(model):
        pass
    made = s3.baselines(methods=["LowRankAdapter"], budget=600, seeds=1, steps=1, evaluations=1, family=table, **common)
    assert made["n_gates"].tolist() == [4]  # discovery knows the feed-forward blocks alone


def test_what_is_registered_reaches_the_processes_that_are_started(tmp_path, monkeypatch):
    folder = tmp_path / "llama"
    tiny_family("llama").model().save_pretrained(folder)
    word_tokenizer("gpt").save_pretrained(folder)
    assert registered_for(folder) is None
    s3.register_family("llama", {"decoder": {"block": "layers.{n}", "Block.mix": ".self_attn.q_proj"}})
    assert tables.registered_family("qwen2")["decoder"]["Block.mix"] == ".self_attn.q_proj"  # the table's other types
    handed = tables.families_environment()
    tables._registered.clear()
    monkeypatch.setenv(*next(iter(handed.items())))
    assert registered_for(folder) == {"decoder": {"block": "layers.{n}", "Block.mix": ".self_attn.q_proj"}}
    found = load_backbone(folder).positions()
    assert [p.name for p in found if p.module == "Block.mix"] == ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]
    own = {"decoder": {"block": "layers.{n}", "left_out": ".self_attn.q_proj"}}  # what is given goes first
    left = s3.positions(folder, family=own)
    assert left.left_out["layers.0.self_attn.q_proj"] == "left out by family"
    assert "Block.mix" not in {p.module for p in left.positions}


def test_at_the_command_line(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"encoder": {"block": "encoder.block.{n}.layer", "Block.first": ".0.SelfAttention.q"}}))
    result = CliRunner().invoke(app, ["positions", "tiny-t5", "--family", str(path)])
    assert result.exit_code == 0, result.output
    assert "Block.first" in result.output
    path.write_text('{"encoder": {"SelfAttn.Z": "x"}}')
    for command in (["positions", "tiny-t5"], ["search", "--task", "sentiment", "--budget", "300"]):
        result = CliRunner().invoke(app, [*command, "--family", str(path)])
        assert result.exit_code == 2
        assert "own.json: encoder: unknown field 'SelfAttn.Z'" in result.output


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "family: expected a mapping with encoder, decoder or both, found 3"),
        ({}, "expected encoder, decoder or both, found neither"),
        ("nowhere.yaml", "family: no file 'nowhere.yaml'"),
        ("nowhere", "expected a mapping, or a YAML or JSON file, found 'nowhere'"),
        ({"encoder": {}, "layers": 2}, "unknown field 'layers' .expected encoder, decoder, whole, model_types"),
        ({"encoder": ["Q"]}, "family: encoder: expected a mapping of canonical modules to names, found "),
        ({"encoder": {"SelfAttn.Query": "q"}}, "encoder: unknown field 'SelfAttn.Query' .expected block, left_out"),
        ({"encoder": {"SelfAttn.Q": ".q"}}, "field 'SelfAttn.Q': '.q' begins with a point, but there is no 'block'"),
        ({"encoder": {"block": "layer", "FFN": ".f"}}, "field 'block': expected a name with {n} for its number"),
        ({"encoder": {"block": "nowhere.{n}"}}, "field 'block': expected another field that lies in it"),
        ({"encoder": {"FFN.W1": "f", "FFN.W2": "f"}}, "fields 'FFN.W1' and 'FFN.W2': expected one of them for 'f'"),
        ({"encoder": {"FFN.W1": []}}, "field 'FFN.W1': expected the name of a module, or several"),
        ({"encoder": {"FFN": "f"}, "whole": 1}, "field 'whole': expected true or false, found 1"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used(given, says, model):
    with pytest.raises(ConfigError, match=says):
        s3.positions(model, family=given)
    with pytest.raises(ConfigError, match=says):
        s3.search(task="sentiment", budget=300, family=given)


def test_an_error_names_the_file(tmp_path, model):
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: {block: 'strokes.{n}', SelfAttn.Q: .gaze.ask}")
    said = r"mine.yaml: encoder: field 'SelfAttn.Q': no module of this Quill is named 'strokes.{n}.gaze.ask'; near it are strokes.0.gaze.asks"
    with pytest.raises(BackboneError, match=said):
        s3.positions(model, family=path)
    path.write_text("encoder: {FFN: a, FFN: b}")
    with pytest.raises(ConfigError, match=r"mine.yaml: cannot be read as a family: .*FFN"):
        s3.positions(model, family=path)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"SelfAttn.Q": ".calm"}, "field 'SelfAttn.Q': expected a linear layer, found LayerNorm at 'strokes.0.calm'"),
        ({"FFN.LN": ".open"}, "field 'FFN.LN': expected a norm with weights of its own, found Linear"),
        ({"SelfAttn": ".calm"}, "field 'SelfAttn': expected a module that runs, found LayerNorm"),
        ({"FFN.W1": ".open", "Block.x": "strokes.0.open"}, "fields 'FFN.W1' and 'Block.x': expected one of them for 'strokes.0.open'"),
        ({"left_out": [".spare"]}, "field 'left_out': no module of this Quill is named 'strokes.{n}.spare'"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_the_model(table, says, model):
    with pytest.raises(BackboneError, match=says):
        s3.positions(model, family={"encoder": {"block": "strokes.{n}", **table}})


def test_a_table_is_refused_before_weights_are_read(tmp_path):
    folder = tmp_path / "bert"
    tiny_family("bert").model().save_pretrained(folder)
    word_tokenizer("bert").save_pretrained(folder)
    for changed, says in (
        ({"encoder": {"FFN.W2": "nowhere"}}, "no module of this BertForSequenceClassification is named 'nowhere'"),
        ({"encoder": {"FFN": "a"}, "decoder": {"FFN": "b"}}, "expected a table for the encoder of bert, found one for both"),
    ):  # fmt: skip
        (folder / "model.safetensors").write_bytes(b"never read")
        with pytest.raises(BackboneError, match=says):
            load_backbone(folder, family=changed)
    shutil.rmtree(folder)
