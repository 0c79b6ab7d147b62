"""A structure as what people paste into a training tool: TRL, Axolotl, LLaMA-Factory, or PEFT's own JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from s3pet_viz.config.checks import among
from s3pet_viz.errors import ExportError
from s3pet_viz.export.peft_form import PeftExport

Fields = dict[str, Any]

#: Fields of a config that say nothing of where and how large.
_ALWAYS = ("task_type", "r", "lora_alpha", "lora_dropout", "target_modules")


def training_config(made: PeftExport, to: str) -> str:
    """The text of a file, or of a piece of one, for a training tool.

    - ``peft-json``: all fields of the config that are not at their default: ``LoraConfig(**json.load(file))``.
    - ``trl``: Python, to be given to a trainer as ``peft_config=``.
    - ``axolotl``, ``llama-factory``: the lines of the YAML that name the adapter; model, data and rates are yours.

    Raises:
        ConfigError: no such tool. ExportError: that tool's file cannot hold the config; says what, and what can.
    """
    among("to", to, tuple(FORMS))
    return FORMS[to](made.config)


def config_fields(config: Any) -> Fields:
    """What a PEFT config says beside its defaults, as plain data in the order of the class."""
    plain = type(config)()
    found = {name: value for name, value in config.to_dict().items() if name not in ("auto_mapping", "peft_version")}
    kept = {n: v for n, v in found.items() if n in _ALWAYS or v != plain.to_dict().get(n)}
    kept |= {n: getattr(v, "value", v) for n, v in kept.items()}
    for name in ("target_modules", "modules_to_save"):
        if kept.get(name) is not None:
            kept[name] = list(getattr(config, name))
    return {n: v for n, v in kept.items() if v is not None and n not in ("peft_type", "inference_mode")}


def _json(config: Any) -> str:
    return json.dumps(config_fields(config), indent=2) + "\n"


def _python(config: Any) -> str:
    name = type(config).__name__
    lines = []
    for field, value in config_fields(config).items():
        if isinstance(value, (list, dict)) and value:
            ends = "[]" if isinstance(value, list) else "{}"
            each = value if isinstance(value, list) else [f"{k!r}: {v!r}" for k, v in value.items()]
            inside = "".join(
                f"        {item!r},\n" if isinstance(value, list) else f"        {item},\n" for item in each
            )
            lines.append(f"    {field}={ends[0]}\n{inside}    {ends[1]},\n")
        else:
            lines.append(f"    {field}={value!r},\n")
    return (
        f"from peft import {name}\n\npeft_config = {name}(\n{''.join(lines)})\n"
        "# trainer = SFTTrainer(model=..., train_dataset=..., peft_config=peft_config)\n"
    )


def _axolotl(config: Any) -> str:
    """Keys as in Axolotl's documentation of its config (lora_r, lora_target_modules, lora_modules_to_save)."""
    fields = _one_rank(config, "Axolotl")
    made: Fields = {"adapter": "lora", "lora_r": fields["r"], "lora_alpha": fields["lora_alpha"]}
    made |= {"lora_dropout": fields["lora_dropout"], "lora_target_modules": fields["target_modules"]}
    for name in ("modules_to_save", "fan_in_fan_out"):
        if name in fields:
            made[f"lora_{name}"] = fields[name]
    return yaml.safe_dump(made, sort_keys=False)


def _llama_factory(config: Any) -> str:
    """Keys as in LLaMA-Factory's LoraArguments (lora_rank, lora_target, additional_target)."""
    fields = _one_rank(config, "LLaMA-Factory")
    if "fan_in_fan_out" in fields:
        raise ExportError(
            "LLaMA-Factory's file has no place for fan_in_fan_out, which GPT-2's layers need; --to trl has"
        )
    made: Fields = {"finetuning_type": "lora", "lora_rank": fields["r"], "lora_alpha": fields["lora_alpha"]}
    made |= {"lora_dropout": fields["lora_dropout"], "lora_target": ",".join(fields["target_modules"])}
    if "modules_to_save" in fields:
        made["additional_target"] = ",".join(fields["modules_to_save"])
    return yaml.safe_dump(made, sort_keys=False, width=10**6)


def _one_rank(config: Any, tool: str) -> Fields:
    """The fields, where one rank and one alpha hold for all modules. Raises ExportError: they do not."""
    fields = config_fields(config)
    if "r" not in fields:
        raise ExportError(f"{tool}'s file has LoRA, and no {type(config).__name__}; --to peft-json or trl holds it")
    if fields.get("task_type") != "CAUSAL_LM":
        raise ExportError(f"{tool} trains causal language models, and the config's task is {fields.get('task_type')}")
    patterns = {name: fields[name] for name in ("rank_pattern", "alpha_pattern") if fields.get(name)}
    if patterns:
        others = {key.lstrip("^").replace("\\", "") for pattern in patterns.values() for key in pattern}
        listed = "\n".join(
            f"  {name}: rank {_of(fields, 'rank_pattern', name, 'r')}, "
            f"alpha {_of(fields, 'alpha_pattern', name, 'lora_alpha')}"
            for name in fields["target_modules"]
            if name in others
        )
        raise ExportError(
            f"{tool}'s file has one rank and one alpha for all modules, here {fields['r']} and {fields['lora_alpha']}; "
            f"{len(others)} of {len(fields['target_modules'])} modules have others:\n{listed}\n"
            "--to trl or peft-json holds them all"
        )
    return fields


def _of(fields: Fields, pattern: str, name: str, common: str) -> Any:
    found = {key.lstrip("^").replace("\\", ""): value for key, value in fields.get(pattern, {}).items()}
    return found.get(name, fields[common])


#: By the name that ``s3pet export --to`` takes.
FORMS: dict[str, Callable[[Any], str]] = {
    "peft-json": _json,
    "trl": _python,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
}
