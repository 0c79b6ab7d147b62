"""Positions: the modules of a live backbone that PET modules can be attached to, by tables of names or read off it."""

from __future__ import annotations

from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from torch import nn

from s3pet_viz.backbones.discovery import Discovered, discover, is_norm
from s3pet_viz.backbones.position import Position, base_of, block_width, is_linear, widths
from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.gate import EMBEDDING_LAYER, Gate
from s3pet_viz.structure.tables import STACKS, Family, Kind, Rule, families, family_from, kind_of, registered_family

FAMILIES = families()


def family_of(model: nn.Module, table: dict[str, Any] | None = None) -> Family:
    """The family of a model: of the user's table (`read_family`), the one that is registered, the package's, or made of
    the model itself.

    Raises:
        BackboneError: it has other stacks than the user's table.
    """
    config: Any = getattr(model, "config", None)
    if not isinstance(getattr(config, "model_type", None), str):  # none of transformers' models
        names = [name.lower() for name, _ in model.named_children()]
        both = all(any(part in name for name in names) for part in ("enc", "dec"))
        said = {stack in table for stack in STACKS} if table else {both}
        config = SimpleNamespace(model_type="", is_encoder_decoder=said == {True})
    writes = getattr(model, "can_generate", None)
    return _family(config, type(model).__name__, bool(writes and writes()), table)


def reads_text(model: nn.Module) -> bool:
    """Whether transformers has a text model of this type; of any other model all parts are looked at."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return any(kind in _auto(task) for task in _TASKS)


def family_of_config(config: Any, table: dict[str, Any] | None = None) -> Family:
    """`family_of`, where there is only a config yet. Raises BackboneError: transformers has no text model of it."""
    if not any(config.model_type in _auto(task) for task in _TASKS):
        raise BackboneError(
            "backbone: expected a model that transformers loads for sequence classification, causal or "
            f"sequence-to-sequence language modelling, found {config.model_type!r}"
        )
    return _family(config, config.model_type, False, table)


_TASKS = ("SEQUENCE_CLASSIFICATION", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM")


def _auto(task: str) -> dict[str, Any]:
    """Model types that transformers' auto class for this task knows."""
    from transformers.models.auto import modeling_auto

    names: dict[str, Any] = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
    return names


def _family(config: Any, name: str, writes: bool, table: dict[str, Any] | None) -> Family:
    kind = config.model_type
    stacks, own = _stacks(config, writes), table or registered_family(kind)
    if own is not None:
        said = tuple(stack for stack in STACKS if stack in own)
        # Of one stack, the table knows better which it is.
        stacks = said if len(stacks) == len(said) == 1 else stacks
        made = family_from(own, kind or name, (kind,), stacks, own=True)
        if not set(said) <= set(stacks):
            raise BackboneError(
                f"{made.where}: expected a table for the {stacks[0]} of {name}, found one for both stacks"
            )
        return made
    known = next((family for family in FAMILIES if kind in family.model_types), None)
    # Decoders are made of encoders and of encoder-decoders too (BertLMHeadModel, BartForCausalLM).
    return known if known is not None and known.stacks == stacks else Family(kind or name, (kind,), (), stacks)


def _stacks(config: Any, writes: bool) -> tuple[str, ...]:
    """Of one stack, a decoder writes, or is known for that and not for filling in masks."""
    if getattr(config, "is_encoder_decoder", False):
        return STACKS
    causal = config.model_type in _auto("CAUSAL_LM") and config.model_type not in _auto("MASKED_LM")
    return ("decoder",) if writes or causal or getattr(config, "is_decoder", False) else ("encoder",)


def positions(model: nn.Module, family: Family | None = None) -> list[Position]:
    """Every position of a model, in the order of its modules. `family`: its own, if it is known already.

    Raises:
        BackboneError: a table that does not fit this model, or a model in which no layers are found.
    """
    return read(model, family or family_of(model)).positions


def read(model: nn.Module, family: Family) -> Discovered:
    """The positions of a model as its family names them, and what was left out; of a whole table, that is not said."""
    found = Discovered() if family.whole else discover(model, family.stacks, text=reads_text(model))
    if family.rules or family.left_out:
        found = _by_table(model, family, found)
    if not any(p.kind == "linear" for p in found.positions):
        raise BackboneError(
            f"backbone: found no numbered layers with linear layers in {type(model).__name__}; family= can name them"
        )
    return found


def position_at(model: nn.Module, gate: Gate) -> Position | None:
    """The position that a gate names, as it says itself: what a user's table has named needs no table later. None: this
    model has none of that name and kind.
    """
    base, kind = base_of(model), kind_of(gate.module)
    try:
        target = base.get_submodule(gate.position)
    except AttributeError:
        return None
    if target is base or not _fits(target, kind):
        return None
    width = block_width(model, target) if kind == "block" else None
    if kind == "block" and width is None:
        return None
    wide = widths(target) if width is None else (width, width)
    return Position(gate.position, target, gate.stack, gate.layer, gate.module, kind, *wide)


def _fits(target: nn.Module, kind: Kind) -> bool:
    if kind == "block":  # what it gives, nobody can tell
        silent = isinstance(target, (nn.ModuleList, nn.ModuleDict, nn.Embedding)) or is_norm(target)
        return not silent and any(True for _ in target.parameters())
    return is_linear(target) if kind == "linear" else is_norm(target)


# -- by a table --------------------------------------------------------------------------------------------------


def _by_table(model: nn.Module, family: Family, rest: Discovered) -> Discovered:
    """What the table names, and of what it does not name the rest."""
    modules = dict(base_of(model).named_modules())
    named: dict[tuple[str, bool], tuple[Rule, str | None]] = {}  # (name, whether it is the block there)
    matched, made = set(), Discovered(left_out=dict(rest.left_out))
    for name, target in modules.items():
        for rule in (*family.rules, *family.left_out):
            if not (match := rule.pattern.fullmatch(name)):
                continue
            matched.add((rule.stack, rule.module))
            if rule in family.left_out:
                made.left_out[name] = f"left out by {family.where}"
                continue
            _check_match(family, rule, name, target, named.get((name, rule.kind == "block")))
            named[name, rule.kind == "block"] = (rule, match.groupdict().get("layer"))
    _check_matched(model, family, matched, list(modules))
    depth = {
        stack: 1
        + max(
            [int(layer) for rule, layer in named.values() if layer and rule.stack == stack]
            + [p.layer for p in rest.positions if p.stack == stack and not p.module.startswith(("Final.", "Emb."))],
            default=-1,
        )
        for stack in STACKS
    }
    by_name: dict[str, list[Position]] = {}
    for (name, block), (rule, layer) in named.items():
        outside = EMBEDDING_LAYER if rule.module.startswith("Emb.") else depth[rule.stack]
        wide = (block_width(model, modules[name]) or 0,) * 2 if block else widths(modules[name])
        at = int(layer) if layer else outside
        by_name.setdefault(name, []).append(
            Position(name, modules[name], rule.stack, at, rule.module, rule.kind, *wide)
        )
        made.left_out.pop(name, None)
    taken = {(p.stack, p.layer, p.module) for several in by_name.values() for p in several}
    for p in rest.positions:
        if (p.name, p.kind == "block") in named or p.name in made.left_out:
            continue
        if (p.stack, p.layer, p.module) in taken:
            if p.name not in by_name:
                made.left_out[p.name] = f"{family.where} names another module {p.module}"
            continue
        by_name.setdefault(p.name, []).append(p)
    made.positions = [p for name in modules for p in by_name.get(name, ())]
    return made


def _check_match(family: Family, rule: Rule, name: str, target: nn.Module, other: tuple[Rule, Any] | None) -> None:
    if family.own is None:
        return
    where = f"{family.where}: {rule.stack}"
    if other is not None and other[0] != rule:
        raise BackboneError(
            f"{where}: fields {other[0].module!r} and {rule.module!r}: expected one of them for {name!r}"
        )
    if not _fits(target, rule.kind):
        expected = {"linear": "a linear layer", "norm": "a norm with weights of its own", "block": "a module that runs"}
        raise BackboneError(
            f"{where}: field {rule.module!r}: expected {expected[rule.kind]}, found {type(target).__name__} at {name!r}"
        )


def _check_matched(model: nn.Module, family: Family, matched: set[tuple[str, str]], names: list[str]) -> None:
    """Each field of a user's table names something; of the package's, whose fields not every model has, one does."""
    kind = type(model).__name__
    if family.own is None:
        if not matched:
            raise BackboneError(f"backbone: no module of this {kind} matches the table of {family.name!r}")
        return
    for rule in (*family.rules, *family.left_out):
        if (rule.stack, rule.module) not in matched:
            near = get_close_matches(rule.name.replace("{n}", "0"), names, 2, 0)
            raise BackboneError(
                f"{family.where}: {rule.stack}: field {rule.module!r}: no module of this {kind} is named "
                f"{rule.name!r}; near it are {', '.join(near)}"
            )
