"""The layers of a model that has no table, by their numbers, and by their class where none is numbered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import nn

from s3pet_viz.backbones.position import is_linear

_STEMS = {
    "Q": "q|query|queries|q_b",
    "K": "k|key|keys",
    "V": "v|value|values",
    "KV": "kv|key_value|kv_b",
    "QKV": "qkv|query_key_value|c_attn|w_pack|in_proj",
}
#: Last parts of names: to_q, q_proj, query, q_lin, wqkv, ...; q_b and kv_b widen what is of low rank (DeepSeek).
_ROLES = {
    role: re.compile(rf"(to_|w_?|project_)?({x})(_?(proj|lin|linear|head|layer))?", re.I) for role, x in _STEMS.items()
}
ATTENTION = re.compile("att(entio)?n", re.I)


def role_of(name: str, modules: dict[str, nn.Module]) -> str | None:
    last = name.rpartition(".")[2]
    role = next((role for role, pattern in _ROLES.items() if pattern.fullmatch(last)), None)
    # Others than attention blocks have an in_proj too.
    return None if last == "in_proj" and not ATTENTION.search(_around(name, modules)) else role


def _around(name: str, modules: dict[str, nn.Module]) -> str:
    """The names of the module around this one: its own, and its class's."""
    around = name.rpartition(".")[0]
    return f"{around.rpartition('.')[2]} {type(modules[around]).__name__}"


def lies_in(name: str, holder: str) -> bool:
    return not holder or name == holder or name.startswith(f"{holder}.")


def stack_of(name: str, stacks: tuple[str, ...]) -> str:
    return stacks[0] if len(stacks) == 1 else "decoder" if "dec" in name.partition(".")[0].lower() else "encoder"


def numbered(name: str) -> list[str]:
    """The modules around this one, and itself, whose names end with a number; outermost first."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()]


def cores_of(modules: dict[str, nn.Module], linears: Iterable[str]) -> list[str]:
    """Modules that hold queries, keys and values directly, or whose class is called attention. Of one inside another
    the inner one, unless the outer is both (DeepSeek's has an index of keys in it).
    """
    held: dict[str, set[str | None]] = {}
    for name in linears:
        held.setdefault(name.rpartition(".")[0], set()).add(role_of(name, modules))
    whole = {at for at, roles in held.items() if {"Q", "K", "V"} <= roles or {"Q", "KV"} <= roles or "QKV" in roles}
    called = {at for at in held if ATTENTION.search(type(modules[at]).__name__)}
    cores = [at for at, roles in held.items() if at in whole or (at in called and roles & {"Q", "K", "V", "KV"})]
    cores = [core for core in cores if not any(at != core and lies_in(core, at) for at in whole & called)]
    return [core for core in cores if not any(other != core and lies_in(other, core) for other in cores)]


def _attentions(modules: dict[str, nn.Module], linears: list[str]) -> list[str]:
    return [*cores_of(modules, linears), *(n for n, m in modules.items() if isinstance(m, nn.MultiheadAttention))]


def layers_of(
    modules: dict[str, nn.Module], usable: Iterable[str], stacks: tuple[str, ...]
) -> Callable[[str], tuple[str, int] | None]:
    """A function from a module's name to its stack and layer; None: it is in no layer."""
    linears = [n for n in usable if is_linear(modules[n])]
    lists: dict[str, int] = {}
    depth = dict.fromkeys(stacks, 0)
    cores = _attentions(modules, linears)
    held = {
        core: [at for at in numbered(core) if any(lies_in(n, at) and not lies_in(n, core) for n in linears)]
        for core in cores
    }
    for core, around in held.items() if any(held.values()) else ():
        # One that is alone in its layer, with experts beside it: the outermost is the layer.
        at = next(iter(around[-1:] or numbered(core)[:1]), "").rpartition(".")[0]
        if at and at not in lists:
            stack = stack_of(at, stacks)
            lists[at] = depth[stack]
            depth[stack] += sum(name.isdigit() for name, _ in modules[at].named_children())

    # Numbers inside blocks that have none themselves (layer1, layer2) are those of an nn.Sequential's parts.
    plain = not lists and (not held or any(map(numbered, held)))

    def number(name: str) -> tuple[str, int] | None:
        around = numbered(name)
        inner = [at for at in around if at.rpartition(".")[0] in lists]
        if inner:
            at, _, own = inner[-1].rpartition(".")
            return stack_of(name, stacks), lists[at] + int(own)
        return (stack_of(name, stacks), int(around[0].rpartition(".")[2])) if around and plain else None

    return number


def unnumbered(
    modules: dict[str, nn.Module], usable: Iterable[str], stacks: tuple[str, ...]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """A model's modules under names that number its layers (`layer1`, `layer2`: `layer1*.0`, `layer1*.1`), and these
    names -> their own. Layers are modules of one class side by side, whose names end with numbers or which each hold
    an attention block and more linear layers; one alone of the second kind too. As it is, where a stack has several
    such classes, or none.
    """
    linears = [n for n in usable if is_linear(modules[n])]
    cores = _attentions(modules, linears)
    ends = [
        n for n in modules if re.search(r"[^\d.]\d+$", n) and any(c != n and lies_in(c, n) for c in cores or linears)
    ]
    groups = [group for group in _alike(modules, ends, stacks) if len(group) > 1]
    groups = [
        group for group in groups if not any(o[0] != group[0] and lies_in(group[0], at) for o in groups for at in o)
    ]
    groups = groups or _alike(modules, [at for core in cores for at in _holder(core, modules, linears)], stacks)
    if len({stack_of(group[0], stacks) for group in groups}) < len(groups):
        groups = []
    made: dict[str, nn.Module] = {}
    own: dict[str, str] = {}
    layers = {at: f"{group[0]}*.{i}" for group in groups for i, at in enumerate(group)}
    for group in groups:
        made[f"{group[0]}*"] = nn.ModuleDict({str(i): modules[at] for i, at in enumerate(group)})
    for name, module in modules.items():
        around = next((at for at in layers if lies_in(name, at)), "")
        new = layers.get(around, "") + name[len(around) :]
        made[new], own[new] = module, name
    return made, own


def _alike(modules: dict[str, nn.Module], names: list[str], stacks: tuple[str, ...]) -> list[list[str]]:
    """These modules, those of one class and stack side by side together, in their order."""
    groups: dict[tuple[str, str, type[nn.Module]], list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault((stack_of(name, stacks), name.rpartition(".")[0], type(modules[name])), []).append(name)
    return list(groups.values())


def _holder(core: str, modules: dict[str, nn.Module], linears: list[str]) -> list[str]:
    """The innermost module around an attention block that holds more linear layers, and is not called attention."""
    parts = core.split(".")
    for around in (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)):
        more = any(lies_in(n, around) and not lies_in(n, core) for n in linears)
        if more and not ATTENTION.search(f"{around.rpartition('.')[2]} {type(modules[around]).__name__}"):
            return [around]
    return []
