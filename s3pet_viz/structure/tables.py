"""Which module of a backbone family is what, in the canonical vocabulary: the package's tables, and those of users.

One form for both: ``families.yaml`` holds such tables by name. A user's own (``family=``, `register_family`) says what
discovery gets wrong, and may leave the rest to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from s3pet_viz.errors import ConfigError, short
from s3pet_viz.files import expanded, is_there
from s3pet_viz.structure.written import SUFFIXES, read_written

Kind = Literal["linear", "norm", "block"]
STACKS = ("encoder", "decoder")

#: Positions that stand for several canonical modules at once: who asks for one of those gets the whole.
PARTS: dict[str, tuple[str, ...]] = {
    **{f"{at}.QKV": (f"{at}.Q", f"{at}.K", f"{at}.V") for at in ("SelfAttn", "CrossAttn")},
    **{f"{at}.KV": (f"{at}.K", f"{at}.V") for at in ("SelfAttn", "CrossAttn")},
    "FFN.W1.both": ("FFN.W1", "FFN.W1.gate"),
}
_ATTENTION = ("", ".Q", ".K", ".V", ".O", ".QKV", ".KV", ".LN", ".Q.LN", ".K.LN", ".post.LN")
#: Canonical modules; others are ``Block.<name>`` and ``Block.<name>.LN``.
MODULES = (
    *(f"{at}{part}" for at in ("SelfAttn", "CrossAttn") for part in _ATTENTION),
    *(f"FFN{part}" for part in ("", ".W1", ".W1.gate", ".W1.both", ".W2", ".LN", ".post.LN")),
    "Emb.LN",
    "Final.LN",
)
_OTHER = re.compile(r"Block\.\w+(\.LN)?")


def kind_of(module: str) -> Kind:
    """What a canonical module is."""
    return "norm" if module.endswith(".LN") else "linear" if "." in module else "block"


@dataclass(frozen=True)
class Rule:
    """The module of this name, relative to the base model, is `module`; {n} in the name is the number of its block."""

    name: str
    module: str
    kind: Kind
    stack: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches a whole name; group ``layer`` is the block, where the module is in one."""
        return re.compile(re.escape(self.name).replace(r"\{n\}", r"(?P<layer>\d{1,4})"))


@dataclass(frozen=True)
class Family:
    """A family of backbones: the ``model_type`` values of its configs, its table of names and its stacks.

    Attributes:
        rules: its table; empty where all is read off the model.
        left_out: names of the table that are no position.
        whole: nothing but the table's names is a position; else the rest is read off the model.
        own: a user's table as it was given, a JSON value; None for those of the package.
    """

    name: str
    model_types: tuple[str, ...]
    rules: tuple[Rule, ...]
    stacks: tuple[str, ...]
    left_out: tuple[Rule, ...] = ()
    whole: bool = False
    own: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def encoder_only(self) -> bool:
        return self.stacks == ("encoder",)

    @property
    def decoder_only(self) -> bool:
        """No encoder: a causal language model."""
        return self.stacks == ("decoder",)

    @property
    def where(self) -> str:
        """What errors call its table."""
        return _where(self.own) if self.own is not None else f"the table of {self.name}"


def _rules(stack: str, table: Mapping[str, Any]) -> Iterator[Rule]:
    """The rules of one stack; the canonical module says its kind."""
    for module, names in table.items():
        if module == "block":
            continue
        for name in [names] if isinstance(names, str) else names:
            yield Rule(f"{table['block']}{name}" if name.startswith(".") else name, module, kind_of(module), stack)


def family_from(
    table: dict[str, Any], name: str, model_types: tuple[str, ...], stacks: tuple[str, ...], *, own: bool = False
) -> Family:
    """A family of its table, which is in order."""
    rules = [rule for stack in STACKS if stack in table for rule in _rules(stack, table[stack])]
    out = tuple(rule for rule in rules if rule.module == "left_out")
    kept = tuple(rule for rule in rules if rule.module != "left_out")
    return Family(name, model_types, kept, stacks, out, bool(table.get("whole")), table if own else None)


@cache
def families() -> tuple[Family, ...]:
    """Every family that has a table."""
    tables = yaml.safe_load((files(__package__) / "families.yaml").read_text("utf-8"))
    return tuple(
        family_from(table, name, tuple(table["model_types"]), tuple(s for s in STACKS if s in table))
        for name, table in tables.items()
    )


# -- a user's own table ------------------------------------------------------------------------------------------


def read_family(given: Any) -> dict[str, Any]:
    """A user's table, checked as far as it can be without a model. It is its own plain form, which a run keeps.

    A table has ``encoder``, ``decoder`` or both. Each maps canonical modules to names of modules, relative to the base
    model (several: of which a model has one)::

        encoder:
          block: strokes.{n}
          SelfAttn.Q: .gaze.asks
          FFN.LN: .rest
          left_out: [.gaze.spare]

    A name that begins with a point lies in the ``block``, whose number is {n}. What the table does not name is read off
    the model, unless it says ``whole: true``; what is in ``left_out`` is no position.

    Args:
        given: a mapping, or a YAML or JSON file.

    Raises:
        ConfigError: no such file, or a field that cannot be used; names the file and the field.
    """
    if isinstance(given, (str, os.PathLike)):
        path = expanded(os.fspath(given))
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"family: expected a mapping, or a YAML or JSON file, found {os.fspath(given)!r}")
        if not is_there(path):
            raise ConfigError(f"family: no file {os.fspath(given)!r}")
        data = read_written(path, ConfigError, "a family")
        if isinstance(data, dict):
            data = {**data, "file": str(Path(path).name)}
        where = str(path)
    else:
        data, where = given, _where(given) if isinstance(given, Mapping) else "family"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping with encoder, decoder or both, found {short(data)}")
    known = (*STACKS, "whole", "model_types", "file")
    if unknown := [key for key in data if key not in known]:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r} (expected {', '.join(known[:-1])})")
    if not set(STACKS) & set(data):
        raise ConfigError(f"{where}: expected encoder, decoder or both, found neither")
    if not isinstance(data.get("whole", False), bool):
        raise ConfigError(f"{where}: field 'whole': expected true or false, found {short(data['whole'])}")
    types = data.get("model_types", [])
    if not (isinstance(types, (list, tuple)) and all(isinstance(kind, str) and kind for kind in types)):
        raise ConfigError(f"{where}: field 'model_types': expected a list of names, found {short(types)}")
    plain: dict[str, Any] = {key: data[key] for key in known if key in data and key not in STACKS}
    for stack in STACKS:
        if stack in data:
            plain[stack] = _read_stack(data[stack], f"{where}: {stack}")
    return plain


def _where(table: Mapping[str, Any]) -> str:
    return str(table.get("file") or "family")


def _read_stack(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping) or not table:
        raise ConfigError(f"{where}: expected a mapping of canonical modules to names, found {short(table)}")
    block = table.get("block")
    said: dict[tuple[str, bool], str] = {}
    made: dict[str, Any] = {}
    if block is not None and not (isinstance(block, str) and block.count("{n}") == 1):
        raise ConfigError(f"{where}: field 'block': expected a name with {{n}} for its number, found {short(block)}")
    for module, names in table.items():
        if module == "block":
            made[module] = names
            continue
        if not (module == "left_out" or module in MODULES or (isinstance(module, str) and _OTHER.fullmatch(module))):
            expected = f"block, left_out, Block.<name> or one of {', '.join(MODULES)}"
            raise ConfigError(f"{where}: unknown field {module!r} (expected {expected})")
        several = [names] if isinstance(names, str) else names
        if not (isinstance(several, (list, tuple)) and several and all(isinstance(n, str) and n for n in several)):
            raise ConfigError(
                f"{where}: field {module!r}: expected the name of a module, or several, found {short(names)}"
            )
        for name in several:
            if name.startswith(".") and block is None:
                raise ConfigError(f"{where}: field {module!r}: {name!r} begins with a point, but there is no 'block'")
            other = said.setdefault((name, kind_of(module) == "block"), module)
            if other != module:
                raise ConfigError(f"{where}: fields {other!r} and {module!r}: expected one of them for {name!r}")
        made[module] = names if isinstance(names, str) else list(several)
    if block is not None and not any(name.startswith(".") for name, _ in said):
        raise ConfigError(f"{where}: field 'block': expected another field that lies in it (with a point), found none")
    return made


#: In the environment of the processes that this one starts: what is registered here, as JSON.
_ENVIRONMENT = "S3PET_FAMILIES"
_registered: dict[str, dict[str, Any]] = {}


def register_family(name: str, family: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Use this table for all backbones of a family from now on, in this session and in the searches that it starts.

    Runs keep it, so that they can be resumed where it is not registered; structures need none. ``family=`` of a call
    goes before it.

    Args:
        name: the ``model_type`` of their configs, or the name of a family that has a table (all of its types).
        family: as of `read_family`.

    Raises:
        ConfigError: as `read_family`.
    """
    if not (isinstance(name, str) and name):
        raise ConfigError(f"name: expected a model_type, found {short(name)}")
    table = read_family(family)
    known = next((f.model_types for f in families() if f.name == name), (name,))
    _registered.update(dict.fromkeys((*known, *table.get("model_types", ())), table))


def registered_family(model_type: str) -> dict[str, Any] | None:
    """The table that is registered for a model type, here or where this process was started."""
    return _all_registered().get(model_type)


def families_environment() -> dict[str, str]:
    """What a process that is to know the registered tables needs in its environment."""
    known = _all_registered()
    return {_ENVIRONMENT: json.dumps(known)} if known else {}


def _all_registered() -> dict[str, dict[str, Any]]:
    return {**json.loads(os.environ.get(_ENVIRONMENT, "{}")), **_registered}
