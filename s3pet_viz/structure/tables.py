"""The tables of names: which module of a backbone family is what, in the canonical vocabulary.

To add a family: one table in ``families.yaml``, and its tiny model in ``tests/tiny_families.py``. Then run
``python tools/make_compatibility.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal

import yaml

Kind = Literal["linear", "norm", "block"]

#: Positions that stand for several canonical modules at once: who asks for one of those gets the whole.
PARTS: dict[str, tuple[str, ...]] = {
    **{f"{at}.QKV": (f"{at}.Q", f"{at}.K", f"{at}.V") for at in ("SelfAttn", "CrossAttn")},
    **{f"{at}.KV": (f"{at}.K", f"{at}.V") for at in ("SelfAttn", "CrossAttn")},
    "FFN.W1.both": ("FFN.W1", "FFN.W1.gate"),
}


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

    A family without a table has no rules: its names are read off the model.
    """

    name: str
    model_types: tuple[str, ...]
    rules: tuple[Rule, ...]
    stacks: tuple[str, ...]

    @property
    def encoder_only(self) -> bool:
        return self.stacks == ("encoder",)

    @property
    def decoder_only(self) -> bool:
        """No encoder: a causal language model."""
        return self.stacks == ("decoder",)


def _rules(stack: str, table: Mapping[str, str | list[str]]) -> Iterator[Rule]:
    """The rules of one stack; the canonical module says its kind."""
    for module, names in table.items():
        if module == "block":
            continue
        kind: Kind = "norm" if module.endswith(".LN") else "linear" if "." in module else "block"
        for name in [names] if isinstance(names, str) else names:
            yield Rule(f"{table['block']}{name}" if name.startswith(".") else name, module, kind, stack)


def _family(name: str, table: Mapping[str, Any]) -> Family:
    stacks = tuple(stack for stack in ("encoder", "decoder") if stack in table)
    rules = [rule for stack in stacks for rule in _rules(stack, table[stack])]
    return Family(name, tuple(table["model_types"]), tuple(rules), stacks)


@cache
def families() -> tuple[Family, ...]:
    """Every family that has a table."""
    tables = yaml.safe_load((files(__package__) / "families.yaml").read_text("utf-8"))
    return tuple(_family(name, table) for name, table in tables.items())
