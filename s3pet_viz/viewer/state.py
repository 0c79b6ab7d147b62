"""What is looked at, as JSON: the state of a viewer, which `view.share()`, the page's copy menu and a link give, and
which opens the same picture elsewhere. js/share.js checks what comes by a link as `check_state` does here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from s3pet_viz.errors import ConfigError, short
from s3pet_viz.files import json_ready

VERSION = 1
#: What can be read: a view's state as JSON, or one for each viewer of a page.
State = Mapping[str, Any]

_ROWS, _GROUPS, _OVERLAPS = (
    ("order", "p", "params", "likeness"),
    ("none", "module", "type"),
    ("gates", "params", "rank"),
)
_THEMES, _PARTS = ("auto", "light", "dark"), ("curves", "trace", "sums", "path", "worth", "health", "trust")
_FLAGS = ("hide_pale", "own_scale")


def mark_of(doc: Mapping[str, Any]) -> str:
    """Tells the gates of a document (of several runs: their labels) from others; a state names it as ``of``."""
    if doc["kind"] == "compare":
        told: Any = [run["label"] for run in doc["runs"]]
    else:
        space = doc["space"]
        columns = ("position", "type", "n", "options")
        told = [[space[name] for name in columns], space.get("unit"), space.get("pinned", {}).get("gates")]
        told += [doc.get("sources"), doc.get("targets")]
    return hashlib.sha256(json.dumps(json_ready(told), separators=(",", ":")).encode()).hexdigest()[:16]


def choices(doc: Mapping[str, Any]) -> dict[str, list[str]]:
    """The fields of a state that are one of some words, by the document that it is of."""
    space, kind = doc["space"], doc["kind"]

    def values(list_: Iterable[str]) -> list[str]:
        return ["", *dict.fromkeys(list_)]

    made = {"theme": list(_THEMES), "rows": list(_ROWS), "group": list(_GROUPS)}
    made |= {name: values(space[name]) for name in ("stack", "type", "module")}
    if kind == "run":
        explained, inert = (["importance"] if doc.get("effects") else []), (["inert"] if space.get("inert") else [])
        made["in_cells"] = ["", "rank", *explained, "alpha", "params", *inert]
    elif kind == "compare":
        labels = [run["label"] for run in doc["runs"]]
        seeds = ["seeds"] if doc["seeds"]["sets"] else []
        made |= {"a": labels, "b": labels, "overlap": list(_OVERLAPS), "in_cells": ["", "rank", *seeds, "params"]}
        made |= {name: values(run["facts"][name] for run in doc["runs"]) for name in ("task", "budget", "seed")}
    else:
        made |= {"source": list(doc["sources"]), "target": list(doc["targets"])}
        made |= {n: list(dict.fromkeys(m[n] for m in doc["matrices"])) for n in ("value", "relative", "seed")}
    return made


def names_of(doc: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each gate as a state names it: (position, PET type), of a unit (position, ``LoRA.3``); those that were pinned
    follow the searched ones, as `view.edited` numbers them.
    """
    space = doc["space"]
    units = space.get("unit") or [-1] * len(space["n"])
    made = [
        (position, kind if unit < 0 else f"{kind}.{unit}")
        for position, kind, unit in zip(space["position"], space["type"], units, strict=True)
    ]
    for gate in space.get("pinned", {}).get("gates", ()):
        unit = gate.get("unit")
        made.append((gate["position"], gate["pet_type"] if unit is None else f"{gate['pet_type']}.{unit}"))
    return made


def _parts_of(doc: Mapping[str, Any]) -> list[str]:
    """Parts that can be shown or not."""
    if doc["kind"] != "run":
        return ["trust"]
    return [part for part in _PARTS if part != "worth" or doc.get("effects")]


def defaults(doc: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a view that nobody has touched."""
    kind = doc["kind"]
    made: dict[str, Any] = {"version": VERSION, "kind": kind, "of": mark_of(doc), "theme": doc["theme"]}
    made |= {"rows": "order", "group": "none", "stack": "", "type": "", "module": "", "hide_pale": False}
    if kind == "run":
        made |= {"own_scale": False, "in_cells": "", "step": None, "budget": None, "edit": None}
    elif kind == "compare":
        labels = [run["label"] for run in doc["runs"]]
        made |= {"own_scale": False, "a": labels[0], "b": labels[min(1, len(labels) - 1)]}
        made |= {"task": "", "budget": "", "seed": "", "overlap": "gates", "in_cells": ""}
    else:
        elsewhere = [target for target in doc["targets"] if target != doc["sources"][0]]
        made |= {"source": doc["sources"][0], "target": [*elsewhere, doc["targets"][0]][0]}
        made |= {"value": "score", "relative": "", "seed": ""}
    return made | {"show": [name for name in _parts_of(doc) if name in doc.get("parts", ())], "selection": []}


def check_state(state: Any, doc: Mapping[str, Any], last: int | None = None) -> dict[str, Any]:
    """A state that this document can be opened with. Fields that it lacks are as in an untouched view.

    Args:
        last: the newest step that is recorded, 0-based; None: none.

    Raises:
        ConfigError: names the field, what was expected and what was found.
    """
    if not isinstance(state, Mapping):
        raise ConfigError(f"state: expected the JSON object of a view (view.share()), found {short(state)}")
    known = defaults(doc)
    words, run = choices(doc), doc.get("run", {})
    numbers = {"step": (0, -1 if last is None else last), "budget": (run.get("smallest", 0), run.get("total", 0))}
    for name, value in state.items():
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"state: unknown field {short(name)} (expected some of {', '.join(known)})")
        if name in ("version", "kind", "of"):
            if type(value) is not type(known[name]) or value != known[name]:
                raise _wrong(name, _IDENTITY[name].format(known[name]), value)
        elif name in words:
            if not isinstance(value, str) or value not in words[name]:
                raise _wrong(name, "one of " + ", ".join(map(repr, words[name][:40])), value)
        elif name in _FLAGS:
            if not isinstance(value, bool):
                raise _wrong(name, "true or false", value)
        elif name in numbers:
            _number(name, value, *numbers[name])
        elif name == "show":
            parts = _parts_of(doc)
            if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v in parts for v in value):
                raise _wrong(name, f"a list of some of {', '.join(parts)}", value)
        elif name == "selection":
            _gates(name, value, names_of(doc)[: len(doc["space"]["n"])])
        elif value is not None:
            if not isinstance(value, Mapping) or set(value) != {"gates", "budget", "step"}:
                raise _wrong(name, "null, or an object with gates, budget and step", value)
            _gates("edit: gates", value["gates"], names_of(doc))
            for part, limits in numbers.items():
                _number(f"edit: {part}", value[part], *limits)
    return dict(state)


_IDENTITY = {"version": "{}", "kind": "a view of the kind {!r}", "of": "a view of these gates ({})"}


def opened(state: Any, doc: dict[str, Any], last: int | None = None) -> list[int]:
    """Have a document open with a state, which is written into it; returns the gates that are picked then.

    Raises:
        ConfigError: as `check_state`.
    """
    checked = check_state(state, doc, last)
    at = {name: i for i, name in enumerate(names_of(doc))}
    # The page keeps a selection beside the document: it outlives a reload.
    doc["view"] = {name: value for name, value in checked.items() if name != "selection"}
    return list(dict.fromkeys(at[tuple(name)] for name in checked.get("selection", ())))


def states_by_viewer(state: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The states of a page of several viewers, by viewer: of one view's state, the viewer that it is of.

    Args:
        kinds: of each viewer its document's kind.

    Raises:
        ConfigError: no viewer of that name, or one view's state and more than one viewer of its kind.
    """
    if not isinstance(state, Mapping):
        raise ConfigError(f"state: expected the JSON object of a view (view.share()), found {short(state)}")
    if state and set(state) != {"edit"} and all(isinstance(value, Mapping) for value in state.values()):
        if strange := [name for name in state if name not in kinds]:
            raise ConfigError(f"state: expected viewers of this page ({', '.join(kinds)}), found {short(strange[0])}")
        return dict(state)
    kind = state.get("kind", "run")
    own = [name for name, of in kinds.items() if of == kind]
    if len(own) != 1:
        raise ConfigError(
            f"state: expected a state for each viewer by its name ({', '.join(kinds) or 'none is here'}), "
            f"found one of the kind {short(kind)}"
        )
    return {own[0]: state}


def _wrong(name: str, expected: str, found: object) -> ConfigError:
    return ConfigError(f"state: {name}: expected {expected}, found {short(found)}")


def _number(name: str, value: Any, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        expected = f"null or a whole number from {least} to {most}" if most >= least else "null (no step is recorded)"
        raise _wrong(name, expected, value)


def _gates(name: str, value: Any, known: list[tuple[str, str]]) -> None:
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, "a list of gates, each [position, PET type]", value)
    have = set(known)
    for gate in value:
        pair = isinstance(gate, (list, tuple)) and len(gate) == 2 and all(isinstance(part, str) for part in gate)
        if not pair or tuple(gate) not in have:
            raise _wrong(name, "gates of this view, each [position, PET type]", gate)
