"""Backbones by name, folder or from memory: a Hugging Face name, a folder, an embedded one or ``minilm``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from s3pet_viz.backbones import check
from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.families import family_of_config, read
from s3pet_viz.backbones.heads import PROBLEMS, TOKENS, auto_class, heads_of, is_text, padding
from s3pet_viz.backbones.locate import clear_errors, config_of, source_of
from s3pet_viz.backbones.placed import bring_home, placing
from s3pet_viz.backbones.position import base_of, text_config
from s3pet_viz.backbones.quantised import refuse_outline, refuse_quantised
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.backbones.wrap import wrap_backbone
from s3pet_viz.config.checks import among
from s3pet_viz.config.names import HEADS
from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.files import is_folder, name_or_folder
from s3pet_viz.structure.tables import families_environment, read_family, registered_family
from s3pet_viz.threads import LOCK


def load_backbone(
    name: str | Path,
    *,
    head: str = "auto",
    num_labels: int = 2,
    regression: bool = False,
    problem: str | None = None,
    revision: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | str = torch.float32,
    device_map: str | dict[str, Any] | None = None,
    family: Mapping[str, Any] | str | Path | None = None,
) -> Backbone:
    """Load a backbone and give it the head that the task needs.

    Args:
        name: ``tiny-t5`` (ships with the package), ``minilm`` (extra), a folder, or a Hugging Face name of a
            text model of transformers (docs/compatibility.md).
        head: ``lm`` (text-to-text: encoder-decoders and decoder-only models), ``classification`` (encoders and
            decoder-only models), or ``auto``: classification for encoders, lm for the others.
        num_labels: width of a classification head.
        regression: the head predicts one number: the same as ``problem="regression"``.
        problem: what a classification head is for: ``single_label_classification`` (the default), ``regression``,
            ``multi_label_classification``, or ``token_classification``, whose head has outputs for each token. Empty:
            no head can do it, and an encoder is refused.
        revision: branch, tag or commit for a Hugging Face name.
        seed: of the head's initial weights.
        dtype: of the weights in memory, float32 unless said otherwise: a torch dtype or its name, or ``auto`` for
            that of the files (half the memory, where they are bfloat16).
        device_map: ``auto``, or module names with places (``cpu``, ``disk``, one device), as accelerate takes them:
            weights wait there, and are brought to the device for the length of a module's pass. A head stays in memory.
        family: which of its modules is what, where discovery gets it wrong: a mapping, or a YAML or JSON file (see
            `structure.tables.read_family`).

    Raises:
        BackboneError: a table that does not fit it, no such folder or name, no weights in it or not those of its
            config, quantised weights, not a text model, no tokenizer files, a head of another kind of task, an
            adapter, or what `wrap_backbone` refuses.
        ConfigError: a revision for a folder, a head that this family has not, or a table that cannot be used.
        MissingExtraError: ``minilm`` without its extra.
    """
    problem = _problem(problem, regression)
    return _load(name, head, num_labels, problem, revision, seed, _dtype(dtype), family, device_map=device_map)


def outline(
    name: str | Path,
    mode: FakeTensorMode,
    *,
    head: str = "auto",
    num_labels: int = 2,
    regression: bool = False,
    problem: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    family: Mapping[str, Any] | str | Path | None = None,
) -> Backbone:
    """What `load_backbone` loads, with weights that have a shape and a type, and no numbers: no file of them is read.

    Args:
        mode: that the weights belong to.

    Raises:
        BackboneError, ConfigError, MissingExtraError: as `load_backbone`, but for what only weights tell.
    """
    problem = _problem(problem, regression)
    return _load(name, head, num_labels, problem, revision, 0, _dtype(dtype), family, outlined=mode)


def _load(
    name: str | Path,
    head: str,
    num_labels: int,
    problem: str,
    revision: str | None,
    seed: int,
    dtype: Any,
    family: Mapping[str, Any] | str | Path | None,
    *,
    outlined: FakeTensorMode | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Backbone:
    table = None if family is None else read_family(family)
    with LOCK:  # it replaces its own module while it is imported, and a second thread would keep half of it
        import transformers
        from transformers import AutoTokenizer

    among("head", head, HEADS)
    name = name_or_folder(name)
    source, hub = source_of(str(name), revision, outlined is None)
    # One at a time: from_pretrained replaces functions and the default dtype of the whole process while it reads.
    with LOCK, clear_errors(str(name), source):
        config = config_of(source, hub, str(name))
        # Before the weights are read.
        known = family_of_config(config, table)
        refuse_quantised(config, None, str(name))
        if outlined is not None:
            refuse_outline(config, str(name))
        text = is_text(known, head)
        check.check_writes(text, problem, str(name), type(config).__name__)
        kind = auto_class(known, "lm" if text else "classification", problem)
        check.check_head(config, text, str(name), problem)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        except Exception:
            if is_folder(source):
                check.check_vocabulary(Path(source))
            raise
        if is_folder(source):
            check.check_vocabulary(Path(source), tokenizer)
        pad = None
        if known.decoder_only:
            pad = padding(tokenizer, text, None if text else getattr(text_config(config), "pad_token_id", None))
        auto = getattr(transformers, kind)
        if known.own is not None:
            with quiet(), torch.device("meta"):
                read(auto.from_config(config), known)
        labels = {} if text else {"num_labels": num_labels, **({} if problem == TOKENS else {"problem_type": problem})}
        with quiet(), seeded(seed):
            if outlined is not None:
                model = _outlined(auto, config, labels, dtype, outlined)
            else:
                model, report = auto.from_pretrained(
                    source,
                    **placing(auto, config, device_map),
                    dtype=dtype,
                    output_loading_info=True,
                    # A checkpoint tuned on another task may hold a head of another width: it is drawn anew.
                    ignore_mismatched_sizes=True,
                    **labels,
                    use_safetensors=True,
                    **hub,
                )
                _check_weights(model, report, str(name), text)
    if known.decoder_only and not text:
        # The head finds a row's last token by it; the cache is for generation.
        for part in (model.config, text_config(model.config)):
            part.pad_token_id, part.use_cache = pad, False
    if device_map is not None and not text:
        inside = {id(p) for p in base_of(model).parameters()}
        bring_home(model, {n for n, p in model.named_parameters() if id(p) not in inside})
    made = wrap_backbone(model, tokenizer, name=str(name), family=known.own)
    if outlined is None:
        drawn = set(report["missing_keys"]) & {n for n, _ in model.named_parameters()}
        made.drawn = tuple(sorted(drawn - set(made.head)))
    return made


def _outlined(auto: Any, config: Any, labels: dict[str, Any], dtype: Any, mode: FakeTensorMode) -> Any:
    """A model of this config in `mode`, each weight in the type that `from_pretrained` gives it."""
    for field, value in labels.items():
        setattr(config, field, value)
    kind = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else dtype
    with mode:
        model = auto.from_config(config, dtype=kind)
        high = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if kind == torch.float16 else set()
        for name, weight in model.named_parameters():
            if high & set(name.split(".")):  # T5's wo
                weight.data = weight.data.float()
    return model


def without_weights(name: str | Path, *, revision: str | None = None) -> nn.Module:
    """The model that `load_backbone` loads, with its weights on the meta device: its files of weights are not read.

    Raises:
        BackboneError, ConfigError, MissingExtraError: as `load_backbone`.
    """
    with LOCK:
        import transformers

    name = name_or_folder(name)
    source, hub = source_of(str(name), revision, False)
    with LOCK, clear_errors(str(name), source), quiet(), torch.device("meta"):
        config = config_of(source, hub, str(name))
        family = family_of_config(config)
        auto = getattr(transformers, auto_class(family, heads_of(family)[0]))
        made: nn.Module = auto.from_config(config)
        return made


def registered_for(name: str | Path, *, revision: str | None = None) -> dict[str, Any] | None:
    """The table that is registered for a backbone's type, if any; for work in processes that know of none.

    Raises:
        BackboneError, ConfigError, MissingExtraError: as `load_backbone`.
    """
    if not families_environment():
        return None
    name = str(name_or_folder(name))
    source, hub = source_of(name, revision, False)
    with LOCK, clear_errors(name, source):
        return registered_family(config_of(source, hub, name).model_type)


def _check_weights(model: nn.Module, report: Any, name: str, text: bool) -> None:
    """Every weight of the backbone proper came from the files; only a pooler may be missing (no language model
    has one). A language model's output matrix is its own.
    """
    inside = {id(p) for p in (model if text else base_of(model)).parameters()}
    ours = {n for n, p in model.named_parameters() if id(p) in inside and ".pooler." not in f".{n}"}
    for problem, keys in (
        ("no weights for", set(report["missing_keys"])),
        ("weights of another size for", {key[0] for key in report["mismatched_keys"]}),
    ):
        wrong = sorted(keys & ours)
        if wrong:
            raise BackboneError(f"backbone: {name!r} holds {problem} {wrong[0]} ({len(wrong)} such)")


def _problem(problem: str | None, regression: bool) -> str:
    """One of `PROBLEMS`, or empty."""
    if problem is None:
        return "regression" if regression else "single_label_classification"
    if problem != "":
        among("problem", problem, PROBLEMS)
    return problem


def _dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """A torch dtype of real numbers, by its name too, or ``auto``."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1):
        raise ConfigError(f"dtype: expected auto, float32, bfloat16, ... (a torch dtype), found {dtype!r}")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and loading reports of transformers: a new head is news to it, but the whole point here."""
    with LOCK:
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
