"""What people paste into a training tool: each text, read as the tool reads it, makes the modules of the structure."""

from __future__ import annotations

import json

import pytest
import yaml
from export_problems import structure_of
from peft import LNTuningConfig, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tiny_families import tiny_family
from typer.testing import CliRunner

from s3pet_viz.backbones import Backbone, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, ExportError
from s3pet_viz.export import Adapter, to_peft, training_config
from s3pet_viz.pet import Space, SpaceEntry, insert
from s3pet_viz.structure import Structure

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TOOLS = ("peft-json", "trl", "axolotl", "llama-factory")


def fresh(form: str) -> Backbone:
    tiny = tiny_family(form)
    return wrap_backbone(tiny.model(), tiny.make_tokenizer(), name=f"tiny-{form}")


def structure(backbone: Backbone, *entries: SpaceEntry, every: int = 1) -> Structure:
    whole = structure_of(backbone, Space("some", entries))
    return Structure(whole.gates[::every], whole.backbone, whole.backbone_params, None, whole.source)


LORA = SpaceEntry("LoRA", ("SelfAttn.Q", "FFN.W2"), options={"r": 2})
RANKS = SpaceEntry("LoRA", ("SelfAttn.Q", "FFN.W2"), options={"ranks": 3})


def read(text: str, tool: str) -> LoraConfig:
    """As the tool makes PEFT's config of it."""
    if tool == "peft-json":
        return LoraConfig(**json.loads(text))
    if tool == "trl":
        names: dict = {}
        exec(text, names)
        return names["peft_config"]
    said = yaml.safe_load(text)
    if tool == "axolotl":
        assert said["adapter"] == "lora"
        return LoraConfig(
            r=said["lora_r"], lora_alpha=said["lora_alpha"], target_modules=said["lora_target_modules"], bias="none",
            lora_dropout=said["lora_dropout"], modules_to_save=said.get("lora_modules_to_save"),
            fan_in_fan_out=said.get("lora_fan_in_fan_out", False), task_type="CAUSAL_LM",
        )  # fmt: skip
    assert said["finetuning_type"] == "lora"
    more = said.get("additional_target")
    return LoraConfig(
        r=said["lora_rank"], lora_alpha=said["lora_alpha"], target_modules=said["lora_target"].split(","),
        lora_dropout=said["lora_dropout"], modules_to_save=more.split(",") if more else None, task_type="CAUSAL_LM",
    )  # fmt: skip


def loras(backbone: Backbone, config: LoraConfig) -> dict[str, tuple[int, float]]:
    base = get_peft_model(backbone.model, config).get_base_model()
    return {n: (m.r["default"], m.scaling["default"]) for n, m in base.named_modules() if isinstance(m, LoraLayer)}


def expected(backbone: Backbone, made: Structure) -> dict[str, tuple[int, float]]:
    prefix = backbone.model.base_model_prefix + "."
    names = {n for n, _ in backbone.model.named_modules()}
    found: dict[str, tuple[int, float]] = {}
    for gate in made.gates:
        name = gate.position if gate.position in names else prefix + gate.position
        r = gate.options.get("r", 1)
        found[name] = (found.get(name, (0, 0))[0] + r, gate.options["lora_alpha"] / r)
    return found


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("form", ["llama", "gemma"])
def test_each_tool_trains_the_modules_of_the_structure(form, tool):
    backbone = fresh(form)
    some = structure(backbone, LORA, every=3)
    config = read(training_config(to_peft(some, backbone), tool), tool)
    assert loras(fresh(form), config) == expected(backbone, some)
    assert config.task_type == "CAUSAL_LM"
    assert config.lora_dropout == 0


@pytest.mark.parametrize("tool", TOOLS)
def test_norms_travel_as_modules_to_save(tool):
    backbone = fresh("llama")
    some = structure(backbone, LORA, SpaceEntry("LNFit", ("FFN.LN",)))
    config = read(training_config(to_peft(some, backbone), tool), tool)
    assert len(config.modules_to_save) == sum(g.pet_type == "LNFit" for g in some.gates)


@pytest.mark.parametrize("tool", TOOLS)
def test_conv1d_says_that_it_is_transposed(tool):
    backbone = fresh("gpt2")
    some = structure(backbone, SpaceEntry("LoRA", ("SelfAttn.QKV",)))
    if tool == "llama-factory":
        with pytest.raises(ExportError, match="no place for fan_in_fan_out"):
            training_config(to_peft(some, backbone), tool)
    else:
        assert read(training_config(to_peft(some, backbone), tool), tool).fan_in_fan_out


@pytest.mark.parametrize("tool", TOOLS)
def test_ranks_that_differ_are_held_or_named(tool):
    backbone = fresh("llama")
    some = structure(backbone, RANKS, every=2)
    ranks = {r for r, _ in expected(backbone, some).values()}
    assert len(ranks) > 1
    made = to_peft(some, backbone)
    if tool in ("axolotl", "llama-factory"):
        with pytest.raises(ExportError, match=r"one rank and one alpha(.|\n)*layers\.\d+\.\S+: rank \d, alpha \d+(.|\n)*--to trl"):
            training_config(made, tool)
    else:
        assert loras(fresh("llama"), read(training_config(made, tool), tool)) == expected(backbone, some)


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
@pytest.mark.parametrize("form", ["t5", "bert"])
def test_tools_for_causal_models_refuse_others(form, tool):
    backbone = fresh(form)
    made = to_peft(structure(backbone, LORA), backbone)
    with pytest.raises(ExportError, match="trains causal language models, and the config's task is SEQ_"):
        training_config(made, tool)
    assert read(training_config(made, "trl"), "trl").task_type == made.config.task_type


def test_norms_alone_are_a_config_of_their_own_kind():
    backbone = fresh("llama")
    made = to_peft(structure(backbone, SpaceEntry("LNFit", ("FFN.LN",))), backbone)
    names: dict = {}
    exec(training_config(made, "trl"), names)
    assert isinstance(names["peft_config"], LNTuningConfig)
    with pytest.raises(ExportError, match="Axolotl's file has LoRA, and no LNTuningConfig"):
        training_config(made, "axolotl")
    with pytest.raises(ConfigError, match="to: expected one of peft-json, trl"):
        training_config(made, "unsloth")


def test_another_alpha_and_dropout():
    backbone = fresh("llama")
    some = structure(backbone, RANKS, every=2)
    made = to_peft(some, backbone, lora_alpha=4, lora_dropout=0.1)
    assert made.config.lora_dropout == 0.1
    assert {scale for _, scale in loras(fresh("llama"), made.config).values()} == {4.0}
    pets = insert(backbone.model, some.gates)
    adapter = Adapter.of(backbone, some, pets, task="mood")
    pets.detach()
    with pytest.raises(ConfigError, match="lora_alpha: trained weights belong to the scale"):
        to_peft(adapter, backbone, lora_alpha=4)
    for wrong in ({"lora_dropout": 1.0}, {"lora_dropout": -0.1}, {"lora_alpha": 0}, {"lora_alpha": "many"}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected a number"):
            to_peft(some, backbone, **wrong)


def test_the_command_writes_each(tmp_path):
    run = CliRunner()
    for tool in TOOLS:
        out = tmp_path / tool
        done = run.invoke(app, ["export", "similarity-0.2pct-s0", "--to", tool, "--out", str(out), "--partial", "--lora-dropout", "0.05"])
        if tool in ("axolotl", "llama-factory"):  # tiny-t5 is no causal model
            assert done.exit_code != 0
            assert not out.exists()
            continue
        assert done.exit_code == 0, done.output
        assert read(out.read_text(), tool).lora_dropout == 0.05
        assert run.invoke(app, ["export", "similarity-0.2pct-s0", "--to", tool, "--out", str(out), "--partial"]).exit_code != 0, "it is there"
    assert run.invoke(app, ["export", "similarity-0.2pct-s0", "--to", "s3delta", "--out", str(tmp_path / "x"), "--lora-alpha", "2"]).exit_code != 0
