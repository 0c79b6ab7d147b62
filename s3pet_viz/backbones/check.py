"""What must hold of a backbone right after it is loaded, before any work starts: the one place for such checks.

`wrap_backbone` asks for a sound model and tokenizer, `tuning.workbench.load_pair` for a backbone that can do the task.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.utils.parametrize import is_parametrized

from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.heads import TOKENS
from s3pet_viz.backbones.placed import stored
from s3pet_viz.backbones.position import known_tokens, text_config, understood
from s3pet_viz.errors import BackboneError, TaskError
from s3pet_viz.files import read_json
from s3pet_viz.tasks import Example, Task, TaskData, compute_metrics

#: Packages that put PET layers of their own into a model, by the first part of a class's import path.
_PET_PACKAGES = ("peft", "adapters", "loralib", "opendelta", "minlora")
_OURS = "s3pet_viz.pet.insertion"

#: Heads that a backbone may come with; any other is of another kind of task.
_HEADS = (
    "MaskedLM|PreTraining|CausalLM|ConditionalGeneration|TextToText|NextSentencePrediction|SequenceClassification|"
    "TokenClassification"
)
_OTHER_HEAD = re.compile(rf".*For(?=[A-Z])(?!({_HEADS})$)\w+")  # RoFormer's first For is none

#: Files that hold a vocabulary, where a tokenizer's class does not say which it reads.
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_MOST_TEXTS = 100
#: Rows that a metric is tried on.
_FEW = 8


# -- folders -------------------------------------------------------------------------------------------------


def refuse_adapter(folder: Path) -> None:
    """A folder with trained PET weights alone is no backbone. Raises BackboneError: it is an adapter's, PEFT's or this
    package's.
    """
    if (folder / "adapter_config.json").is_file():
        said = read_json(folder / "adapter_config.json", BackboneError)
        base = said.get("base_model_name_or_path") if isinstance(said, dict) else None
        named = f" ({base})" if isinstance(base, str) and base else ""
        raise BackboneError(
            f"backbone: {folder} is an adapter of PEFT (adapter_config.json); give its base model{named}, or merge "
            "them: PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...)"
        )
    if (folder / "adapter.safetensors").is_file() and (folder / "adapter.json").is_file():
        raise BackboneError(
            f"backbone: {folder} is an adapter of s3pet_viz (adapter.json); give its backbone, or a folder that "
            "s3.merge wrote"
        )


def check_vocabulary(folder: Path, tokenizer: Any = None) -> None:
    """A folder holds what its tokenizer reads; transformers makes an empty tokenizer where nothing is there.
    `tokenizer`: that was made of it; None: none could be made. Raises BackboneError: it does not.
    """
    files: Mapping[str, str] = getattr(type(tokenizer), "vocab_files_names", {}) if tokenizer is not None else {}
    needed = [file for key, file in files.items() if key != "tokenizer_file"]
    if tokenizer is not None and not files:
        return  # of bytes or characters: it has no vocabulary
    if tokenizer is None:
        found = any((folder / file).is_file() for file in _VOCABULARIES)
    else:
        found = (folder / "tokenizer.json").is_file() or (
            bool(needed) and all((folder / file).is_file() for file in needed)
        )
    if not found:
        expected = "tokenizer.json" + (f", or {' and '.join(needed)}" if needed else "")
        raise BackboneError(
            f"backbone: {folder} holds no tokenizer files (expected {expected}); "
            "tokenizer.save_pretrained writes them beside the model"
        )


def check_writes(text: bool, problem: str, name: str, kind: str) -> None:
    """A task that no head can do (`problem` is empty) has a language model. Raises BackboneError: it has not."""
    if not text and not problem:
        raise BackboneError(
            f"backbone: expected a language model, which writes texts, for a task of generation, found {name!r} with a "
            f"head ({kind}); take an encoder-decoder or a decoder-only model (head lm)"
        )


def check_head(config: Any, text: bool, name: str, problem: str = "") -> None:
    """The files hold a plain pretrained model, or one with a head for the same kind of task. Raises BackboneError:
    another head, which would be dropped (and another drawn) without a word.
    """
    import transformers

    own = "" if text else "TokenClassification" if problem == TOKENS else "SequenceClassification"
    for architecture in map(str, getattr(config, "architectures", None) or ()):
        if not hasattr(transformers, architecture):
            warnings.warn(
                f"backbone: {name!r} was saved by a class that transformers does not know ({architecture}): of its "
                "weights those of the base model are used; to use all, load it yourself and give model= and tokenizer=",
                stacklevel=2,
            )
        other = [head for head in ("SequenceClassification", "TokenClassification") if head != own]
        if _OTHER_HEAD.fullmatch(architecture) or architecture.endswith(tuple(f"For{head}" for head in other)):
            kind = f"{own.removesuffix('Classification').lower()} classification"
            wanted = "a language model" if text else f"a pretrained model, or one for {kind}"
            raise BackboneError(
                f"backbone: expected {wanted}, found {name!r} with another head ({architecture}); "
                "its head would be lost"
            )


# -- a model and its tokenizer -------------------------------------------------------------------------------


def check_bare(model: nn.Module) -> None:
    """No PET modules are in a model yet (they would be searched, counted and saved as if they were the backbone's), and
    it is not compiled. Raises BackboneError: it has some, or is; says whose, and where.
    """
    for name, module in (("the model itself", model), *model.named_modules()):
        kinds = [c for c in type(module).__mro__ if c.__module__.partition(".")[0] in _PET_PACKAGES]
        if kinds:
            package = kinds[0].__module__.partition(".")[0]
            raise BackboneError(
                f"backbone: expected a plain transformers model, found a layer of {package} at "
                f"{name or 'the model itself'} ({type(module).__name__}); fold it in first: model.merge_and_unload() "
                "of a PeftModel gives a plain model (unload() one without what was trained)"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise BackboneError(
                f"backbone: expected a model that is not compiled, found torch.compile at {name}: what was compiled "
                "would not hold with PET modules in it; give the model from before (model._orig_mod, or load it anew)"
            )
        if is_parametrized(module):
            raise BackboneError(
                f"backbone: expected plain weights, found a parametrization at {name}; make it permanent first: "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), vars(module).get("forward")]
        if any(getattr(hook, "__module__", None) == _OURS for hook in hooks):
            raise BackboneError(f"backbone: expected none, found PET modules attached to {name}: detach them first")


def check_model(model: nn.Module, tokenizer: Any, name: str) -> None:
    """A live model is one of transformers' own kind, with its weights in memory, and for a kind of task done here.
    Raises BackboneError: it is not.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    if not isinstance(model, PreTrainedModel):
        # Data parallel ones wrap a model in a class of their own.
        raise BackboneError(
            f"backbone: expected a model of transformers (PreTrainedModel), found {type(model).__name__}"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise BackboneError(f"backbone: expected a tokenizer of transformers, found {type(tokenizer).__name__}")
    check_in_memory(model, name)
    for cls in type(model).__mro__:
        if cls.__module__.startswith("transformers.") and _OTHER_HEAD.fullmatch(cls.__name__):
            raise BackboneError(
                "backbone: expected a model with a language model's head or a classification head, found "
                f"{type(model).__name__}"
            )


def check_in_memory(model: nn.Module, name: str) -> None:
    """Raises BackboneError: a weight of a live model has no numbers."""
    for kind, tensors in (("parameter", stored(model)), ("buffer", model.named_buffers())):
        for at, tensor in tensors:
            if tensor.is_meta:
                raise BackboneError(
                    f"backbone: expected weights in memory, found {kind} {at} of {name!r} on the meta device (not "
                    "loaded, or offloaded); load it whole with from_pretrained"
                )


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Raises BackboneError: a weight is NaN or infinite."""
    for name, weight in stored(model):
        if isinstance(weight, FakeTensor) or isinstance(weight.data, FakeTensor):
            continue
        # aminmax hands NaN on, and needs no memory.
        if weight.numel() and not all(torch.isfinite(end) for end in torch.aminmax(weight)):
            raise BackboneError(f"backbone: weight {name} holds NaN or infinity")


def check_tokens(backbone: Backbone) -> None:
    """A model and its tokenizer belong together: each token has an embedding, each special token that is needed is
    there, and both name the same ones. Raises BackboneError: they do not.
    """
    model: Any = backbone.model
    tokenizer, config, decoder_only = backbone.tokenizer, text_config(model.config), backbone.family.decoder_only
    known = known_tokens(model)
    if known is None:
        return
    token, last = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if last >= known:
        raise BackboneError(
            f"backbone: expected every token of the tokenizer among the model's {known:,} embeddings, found "
            f"{token!r} with id {last:,}; they are of two models, or tokens were added: "
            f"model.resize_token_embeddings({last + 1})"
        )
    if config.is_encoder_decoder:
        needed = {"decoder_start_token_id": backbone.start_id, "pad_token_id": getattr(config, "pad_token_id", None)}
        for field, found in needed.items():
            if not isinstance(found, int) or not 0 <= found < known:
                raise BackboneError(
                    f"backbone: expected model.config.{field}, a token from 0 to {known - 1:,} that the decoder of "
                    f"{backbone.name!r} starts or is padded with, found {found}"
                )
    if tokenizer.pad_token_id is None and not decoder_only:
        raise BackboneError("backbone: expected a tokenizer with a pad token, found none (tokenizer.pad_token)")
    # A decoder-only model is often padded with its end token, whatever its config says.
    for role in ("eos",) if decoder_only else ("pad", "eos"):
        its = tokenizer.pad_token_id if role == "pad" else backbone.end_id
        sources = (config, getattr(model, "generation_config", None))
        said = [getattr(source, f"{role}_token_id", None) for source in sources]
        own = sorted({i for ids in said if ids is not None for i in (ids if isinstance(ids, list) else [ids])})
        if its is not None and own and its not in own:
            raise BackboneError(
                f"backbone: expected a tokenizer whose {role} token is the model's (model.config.{role}_token_id: "
                f"{', '.join(map(str, own))}), found token {its}; they are of two models, or one of them was changed"
            )


# -- a backbone and a task -----------------------------------------------------------------------------------


def check_task(backbone: Backbone, data: TaskData) -> TaskData:
    """The backbone can read this task's texts and say its labels, or its head has them in the task's order.

    Returns:
        The task's data, with room for the longest label (`max_target_length` counts tokens).

    Raises:
        TaskError: texts that the tokenizer cannot read, a label that it cannot say, or two that it cannot tell apart.
        BackboneError: a head that numbers the same labels in another order.
    """
    task, rows = data.task, (data.train, data.validation, data.test)
    check_writes(backbone.form == "text", task.of.problem, backbone.name, type(backbone.model).__name__)
    _check_texts(backbone, data)
    check_metrics(task, data.validation)
    if backbone.form == "pair":
        _check_order(backbone, task)
        return data
    labels = [] if task.generates_text else task.of.said(task, (e.target for part in rows for e in part))
    if not labels:
        return data
    ids = backbone.answers(labels)
    _check_said(backbone, task, labels, ids)
    longest, most = max(map(len, ids)), backbone.longest_input
    if longest >= most:
        raise TaskError(
            f"task {task.name}: expected labels shorter than the {most:,} tokens that {backbone.name} can write, found "
            f"one of {longest:,}"
        )
    return data if longest <= task.max_target_length else replace(data, task=replace(task, max_target_length=longest))


def check_metrics(task: Task, rows: Sequence[Example]) -> None:
    """Metrics that need a package, or are the user's own, score a few right answers before any work starts.

    Raises:
        MissingExtraError, TaskError: they do not.
    """
    if task.functions or set(task.metrics) & set(task.of.extras):
        few = rows if task.functions else rows[:_FEW]  # what few rows lack, a function may need
        compute_metrics(task, few, [task.of.truth(example) for example in few])


def _check_texts(backbone: Backbone, data: TaskData) -> None:
    texts = [t for e in data.train[:_MOST_TEXTS] for t in (e.text_a, e.text_b) if t and t.strip()]
    if not texts:
        return
    ids = backbone.tokenizer(texts, add_special_tokens=False)["input_ids"]
    if not any(text.strip() for text in backbone.said(ids)):
        raise TaskError(
            f"task {data.task.name}: expected texts that the tokenizer of {backbone.name} can read, found unknown "
            f"tokens alone, as in {texts[0][:60]!r}; it is a tokenizer of another language, or an empty one"
        )


def _check_said(backbone: Backbone, task: Task, labels: Sequence[str], ids: Sequence[list[int]]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for label, tokens in zip(labels, ids, strict=True):
        if tokens[-1:] != [backbone.end_id]:
            raise BackboneError(
                f"backbone: expected a tokenizer that ends a text with its end token ({backbone.end_id}), by which an "
                f"answer ends, found {label!r} as tokens {tokens[:20]}"
            )
        other = seen.setdefault(tuple(tokens), label)
        if other != label:
            raise TaskError(
                f"task {task.name}: expected labels that the tokenizer of {backbone.name} can tell apart, found "
                f"{other!r} and {label!r} as the same tokens {tokens[:20]}; use other label_names"
            )
    for label, text in zip(labels, backbone.said(ids), strict=True):
        if task.parse_prediction(text) != task.parse_prediction(label):
            words = task.kind != "regression"
            raise TaskError(
                f"task {task.name}: expected {'labels' if words else 'numbers'} that the tokenizer of {backbone.name} "
                f"gives back, found {label!r} come back as {text.strip()!r}; use "
                + ("other label_names" if words else "a backbone that knows digits, or an encoder")
            )


def _check_order(backbone: Backbone, task: Task) -> None:
    named: Mapping[int, str] = getattr(backbone.model.config, "id2label", None) or {}
    if not task.label_names or task.scores_candidates or len(named) != task.num_labels:
        return
    order = [str(named.get(i, "")).casefold() for i in range(len(named))]
    ours = [label.casefold() for label in task.label_names]
    if order != ours and sorted(order) == sorted(ours):
        raise BackboneError(
            f"backbone: expected a head with the labels numbered {', '.join(task.label_names)}, as in task {task.name}"
            f", found {', '.join(str(named[i]) for i in range(len(named)))} (model.config.id2label)"
        )


@torch.no_grad()
def check_pass(backbone: Backbone, batch: Mapping[str, Tensor], task: Task) -> None:
    """A batch of the task goes through the model, and what comes out is a loss and an output for each label. Raises
    BackboneError: it does not; says why.
    """
    where = f"backbone: expected {backbone.name} to read rows of task {task.name}"
    try:
        output = backbone.model(**batch, **understood(backbone.model, return_dict=True))
        loss, logits = getattr(output, "loss", None), getattr(output, "logits", None)
    except Exception as error:  # a model in memory may fail anywhere
        first = (str(error).strip().splitlines() or [""])[0]
        raise BackboneError(f"{where}, found {type(error).__name__}: {first}") from error
    if loss is None or logits is None:
        raise BackboneError(f"{where} and give an output with loss and logits, found {type(output).__name__}")
    rows = len(batch["input_ids"])
    shape = (*(batch["input_ids"].shape if backbone.problem == TOKENS else (rows,)), task.num_labels)
    if backbone.form == "pair" and tuple(logits.shape) != shape:
        wanted, found = (" x ".join(map(str, sizes)) for sizes in (shape, logits.shape))
        raise BackboneError(f"{where} and give {wanted} outputs, found a shape of {found}")
    if loss.numel() != 1:
        raise BackboneError(f"{where} and give a loss, found {loss.numel()} of them")
