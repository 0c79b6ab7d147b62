"""Positions read off a model that has no table: by numbers, by what blocks hold, by names and by widths.

1. Layers are numbered modules that hold an attention block and more linear layers; where no module holds both, all
   modules of one number are a layer. Where none is numbered, they are modules of one class side by side (``layer1``,
   ``layer2``), or the only one.
2. An attention block holds queries, keys and values (by the last part of their names), or says so in its class's name.
   Its output is the linear layer left in it, or else the only other one in the module around it.
3. A feed-forward block widens the stream and narrows it again: one linear layer up (or two, or both in one), one down.
4. A norm inside a block is that block's. The others of a layer are those of its blocks in turn, if there is one for
   each; else by the words in their names.
5. A linear layer of a layer that is none of these is ``Block.<own name>``, and a norm ``Block.<own name>.LN``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import takewhile

from torch import nn

from s3pet_viz.backbones.layers import cores_of, layers_of, lies_in, numbered, role_of, stack_of, unnumbered
from s3pet_viz.backbones.position import Position, base_of, block_width, hidden_size, is_linear, widths
from s3pet_viz.structure.gate import EMBEDDING_LAYER
from s3pet_viz.structure.tables import Kind

_OUTPUT = re.compile(r"(to_|w_?|c_|att(entio)?n?_)?(o|o_b|out|output|dense|proj)(_?(proj|lin|linear|layer))?", re.I)
_FEED_FORWARD = re.compile("ffn|mlp|feed_?forward|moe|experts", re.I)
#: Blocks that widen and narrow the stream too: they mix tokens, or came later.
_NO_FEED_FORWARD = re.compile("mamba|ssm|recurren|rnn|lru|adapter", re.I)
_CROSS = re.compile(r"cross|enc(oder)?_?(dec|att)|src_att", re.I)
_OTHER_INPUT = re.compile("vision|visual|image|audio|speech", re.I)
_QK_NORM = re.compile(r"(q|k|query|key)_?(layer)?_?(norm|ln)", re.I)
#: Norms inside a block that are not of its input: between its two halves, or of queries and keys of low rank.
_INNER_NORM = re.compile(r".*sub.*|(q|k|kv)_(\w+_)?(layer)?norm", re.I)
#: Norms of a layer by the words in their names, in the order in which the names are given away.
_WORDS = tuple(
    (re.compile(words, re.I), module)
    for words, module in (
        ("post.*cross_att", "CrossAttn.post.LN"),
        ("post.*self_att", "SelfAttn.post.LN"),
        ("post.*(ffn|mlp|feed|moe)", "FFN.post.LN"),
        ("(cross|enc(oder)?)_?att", "CrossAttn.LN"),
        ("input|pre.*att|self_att|before", "SelfAttn.LN"),
        ("pre.*(ffn|mlp|feed|moe)|final", "FFN.LN"),
        ("post.*att", "SelfAttn.post.LN"),
        ("post.*att", "FFN.LN"),
        ("att", "SelfAttn.LN"),
        ("ffn|mlp|feed|moe", "FFN.LN"),
    )
)


@dataclass
class Discovered:
    """Positions in the order of the model's modules; of what was left out, name -> reason."""

    positions: list[Position] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class _Block:
    """An attention or feed-forward block: its linear layers by role, and the module around them."""

    module: str
    linears: dict[str, str]
    holder: str
    area: str

    @property
    def last(self) -> str | None:
        return self.linears.get("W2" if self.module == "FFN" else "O")


def discover(model: nn.Module, stacks: tuple[str, ...], *, text: bool = True) -> Discovered:
    """Every position of a model, by the rules above.

    Args:
        stacks: ``("encoder", "decoder")``, or the only one.
        text: it reads text: its parts that read images or sound are left out, and it has one width. Else each layer's
            is the one that most inputs and outputs of its linear layers have.
    """
    modules, hidden = dict(base_of(model).named_modules()), hidden_size(model) if text else None
    found = _found(model, modules, stacks, hidden, text)
    if any(p.kind == "linear" for p in found.positions):
        return found
    made, own = unnumbered(modules, [n for n in modules if _usable(n, modules, {}, text)], stacks)
    found = _found(model, made, stacks, hidden, text)
    named = [replace(p, name=own[p.name]) for p in found.positions]
    return Discovered(named, {own[name]: why for name, why in found.left_out.items()})


def _found(
    model: nn.Module, modules: dict[str, nn.Module], stacks: tuple[str, ...], hidden: int | None, text: bool
) -> Discovered:
    found = Discovered()
    usable = {name: None for name in modules if _usable(name, modules, found.left_out, text)}  # in order
    numbers = layers_of(modules, usable, stacks)
    layers: dict[tuple[str, int], list[str]] = {}
    for name in usable:
        if (at := numbers(name)) is not None:
            layers.setdefault(at, []).append(name)
    named: dict[str, list[tuple[str, Kind]]] = {}
    normed_inside = set()
    for (stack, _), names in layers.items():
        layer = _Layer(modules, names, hidden)
        for name, module, kind in layer.name():
            named.setdefault(name, []).append((module, kind))
        normed_inside |= {stack} if layer.ends_with_norms else set()
    depth = {stack: 1 + max((n for s, n in layers if s == stack), default=-1) for stack in stacks}
    placed = {n: at for n in modules if (at := numbers(n)) is not None}
    loose = [n for n in usable if n not in placed]
    for name, target in modules.items():
        at, kinds = placed.get(name), named.get(name, [])
        if name in loose:
            stack = stack_of(name, stacks)
            outside = _outside(name, target, hidden, stack in normed_inside)
            peers = [n for n in loose if stack_of(n, stacks) == stack]
            if outside == "Final.LN" and name != _last_norm(modules, peers):
                outside = "another norm is the last: what it normalises is not certain"
            if outside.endswith(".LN"):
                at, kinds = (stack, EMBEDDING_LAYER if outside == "Emb.LN" else depth[stack]), [(outside, "norm")]
            else:
                found.left_out[name] = outside
        for module, kind in kinds:
            assert at is not None
            wide = widths(target) if kind != "block" else (block_width(model, target) or 0,) * 2
            found.positions.append(Position(name, target, *at, module, kind, *wide))
    return found


# -- what can be a position at all -------------------------------------------------------------------------------


def is_norm(module: nn.Module) -> bool:
    """Whether PET modules for norms can go here: it has a weight for each feature."""
    weight = getattr(module, "weight", None)
    called = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or "norm" in type(module).__name__.lower()
    return called and isinstance(weight, nn.Parameter) and weight.ndim == 1


def _usable(name: str, modules: dict[str, nn.Module], left_out: dict[str, str], text: bool) -> bool:
    """Whether this is a linear layer or a norm, and not of a kind that is left out."""
    module, parts = modules[name], name.split(".")
    around, own = ".".join(parts[:-1]), parts[-1]
    layer = is_linear(module) or is_norm(module)
    chooses = f"{around}.experts" in modules and re.search("gate|router", own)
    if "experts" in parts:
        if own == "experts":
            left_out[name] = "experts: each sees a few of the tokens alone"
        return False
    if layer and text and _OTHER_INPUT.search(name):
        left_out[name] = "of the part that reads images or sound"
    elif chooses or "router" in type(module).__name__.lower() or (layer and "router" in parts):
        left_out[name] = "chooses the experts"
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        left_out[name] = "its statistics are of a batch"
    elif is_norm(module) and re.search("group|multi_?head", type(module).__name__, re.I):
        left_out[name] = "normalises groups of features, not the stream"
    elif is_norm(module) and "gate" in signature(type(module).forward).parameters:
        left_out[name] = "a norm that multiplies by what another layer gives"
    elif not layer and "norm" in type(module).__name__.lower() and not list(module.children()):
        left_out[name] = "a norm without weights for each feature"
    elif isinstance(modules.get(around), nn.MultiheadAttention):
        left_out[name] = "nn.MultiheadAttention reads its weight, and does not call it"
    elif (
        not layer and not isinstance(module, nn.Embedding) and isinstance(getattr(module, "weight", None), nn.Parameter)
    ):
        left_out[name] = f"no PET type is written for a {type(module).__name__}"
    return layer and name not in left_out


def _outside(name: str, target: nn.Module, hidden: int | None, normed_inside: bool) -> str:
    """Of what is in no layer: which norm it is, or why it is left out."""
    if is_linear(target):
        return "in front of the layers, or behind them"
    if "emb" in name.lower():
        return "Emb.LN"
    if hidden is not None and widths(target)[1] != hidden:
        return "in no layer, and not as wide as the stream"
    if normed_inside:
        return "its layers end with norms of their own: what it normalises is not certain"
    return "Final.LN"


def _last_norm(modules: dict[str, nn.Module], loose: list[str]) -> str | None:
    """Of what is in no layer of a stack, its final norm: of several the outermost that is not among linear layers."""
    norms = [n for n in loose if is_norm(modules[n]) and "emb" not in n.lower()]
    among = {n.rpartition(".")[0] for n in loose if is_linear(modules[n])} - {""}
    if len(norms) > 1:
        norms = sorted((n for n in norms if n.rpartition(".")[0] not in among), key=lambda n: n.count("."))
    return next(iter(norms), None)


# -- one layer ---------------------------------------------------------------------------------------------------


def _common(names: Iterable[str]) -> str:
    """The innermost module that holds all of these."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(at[0] for at in takewhile(lambda at: len(set(at)) == 1, parts))


def _own(name: str) -> str:
    """The last part of a name that is not a number; ``layer`` where all are (of an `nn.Sequential`)."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), "layer")


class _Layer:
    """Names for the linear layers, norms and blocks of one layer."""

    def __init__(self, modules: dict[str, nn.Module], names: list[str], hidden: int | None) -> None:
        self.modules = modules
        self.linears = [n for n in names if is_linear(modules[n])]
        seen = Counter(width for n in self.linears for width in widths(modules[n]))
        self.hidden = hidden or next((width for width, _ in seen.most_common(1)), 0)
        self.norms = [n for n in names if n not in self.linears]
        self.blocks = self._attention()
        self.blocks += self._feed_forward()

    def name(self) -> list[tuple[str, str, Kind]]:
        """(name, canonical module, kind) of each position; a module's own before the block whose output it gives."""
        roles = {name: f"{b.module}.{role}" for b in self.blocks for role, name in b.linears.items()}
        made: list[tuple[str, str, Kind]] = [(n, roles.get(n, f"Block.{_own(n)}"), "linear") for n in self.linears]
        made += [(n, module, "norm") for n, module in self._name_norms().items()]
        for block in self.blocks:
            if block.last and widths(self.modules[block.last])[1] == self.hidden:
                made.append((self._output(block), block.module, "block"))
        experts = {n.rpartition(".experts")[0] for n in self._experts()}
        made += [(at, "FFN", "block") for at in experts if not any(module == "FFN" for _, module, _ in made)]
        return made

    @property
    def ends_with_norms(self) -> bool:
        """The residual is added, and normalised, beside the attention's last linear layer."""
        outs = [b.last.rpartition(".")[0] for b in self.blocks if b.last and b.module == "SelfAttn"]
        return any(self._own_norms(at) for at in outs)

    def _own_norms(self, holder: str) -> list[str]:
        """Norms of the stream inside a module."""
        return [n for n in self.norms if lies_in(n, holder) and not self._of_queries(n) and not self._inner(n)]

    def _of_queries(self, norm: str) -> bool:
        return bool(_QK_NORM.fullmatch(_own(norm)))

    def _inner(self, norm: str) -> bool:
        """Of a norm inside a block, whether what it normalises is not the stream."""
        return bool(_INNER_NORM.fullmatch(_own(norm))) or widths(self.modules[norm])[1] != self.hidden

    def _output(self, block: _Block) -> str:
        """The module that gives a block's output before the residual is added: the one around all of it if it holds
        nothing else and is not given the residual (as BLOOM's are), else the last linear layer.
        """
        assert block.last
        around = block.holder
        others = {n for b in self.blocks if b is not block for n in b.linears.values()}
        alone = not any(lies_in(n, around) for n in others) and not self._own_norms(around)
        own = type(self.modules[around]).forward  # a container has that of nn.Module: it is not called
        whole = alone and around and own is not nn.Module.forward and "residual" not in signature(own).parameters
        return around if whole else block.last

    def _attention(self) -> list[_Block]:
        blocks: list[_Block] = []
        for core in cores_of(self.modules, self.linears):
            inside = [n for n in self.linears if lies_in(n, core)]
            own = [n for n in inside if n.rpartition(".")[0] == core]
            roles = {role: n for n in own if (role := role_of(n, self.modules))}
            if self._whole(core):
                inside = [n for n in inside if n in roles.values() or _OUTPUT.fullmatch(_own(n))]
            left = [n for n in inside if n not in roles.values()]
            area, around = core, core.rpartition(".")[0]
            if not (out := self._only_output(left)) and not self._whole(around):
                others = [n for n in self.linears if lies_in(n, around) and n not in inside]
                area, out = around, self._only_output(others)
            roles |= {"O": out} if out else {}
            path = ".".join(core.split(".")[len(numbered(core)[0].split(".")) :]) if numbered(core) else core
            second = any(b.module == "SelfAttn" for b in blocks) and "dec" in core.partition(".")[0].lower()
            module = "CrossAttn" if _CROSS.search(path) or second else "SelfAttn"
            blocks.append(_Block(module, roles, _common(roles.values()), area))
        return blocks

    def _whole(self, at: str) -> bool:
        """Whether this module holds all of the layer: then it is no block."""
        return all(lies_in(n, at) for n in (*self.linears, *self.norms))

    def _only_output(self, names: list[str]) -> str | None:
        names = [n for n in names if widths(self.modules[n])[1] == self.hidden]
        if len(names) > 1:
            names = [n for n in names if _OUTPUT.fullmatch(_own(n))]
        return names[0] if len(names) == 1 else None

    def _experts(self) -> list[str]:
        roots = {".".join(n.split(".")[: len(numbered(n)[0].split("."))]) for n in (*self.linears, *self.norms)}
        return [n for n in self.modules if n.endswith(".experts") and any(lies_in(n, at) for at in roots)]

    def _feed_forward(self) -> list[_Block]:
        taken = {n for b in self.blocks for n in b.linears.values()}
        areas = [b.area for b in self.blocks if not self._whole(b.area)]
        rest = [n for n in self.linears if n not in taken and not any(lies_in(n, at) for at in areas)]
        rest = [n for n in rest if "norm" not in n.rpartition(".")[0]]  # a norm's own gate
        held: dict[str, list[str]] = {}
        for n in rest:
            held.setdefault(n.rpartition(".")[0], []).append(n)
        groups = [group for group in held.values() if len(group) > 1]
        loose = [n for group in held.values() if len(group) == 1 for n in group]
        loose = [n for n in loose if self.hidden in widths(self.modules[n])]
        made = [block for group in groups if (block := self._pair(group))]
        if not made and (block := self._pair(loose) or self._pair(rest)):
            made = [block]
        # Of several pairs (gates of a recurrence, inputs of each layer), those in a block that says what it is.
        called = [b for b in made if not self._whole(b.holder) and _FEED_FORWARD.search(self._called(b.holder))]
        return called or made

    def _called(self, at: str) -> str:
        own = "" if not at or at.replace(".", "").isdigit() else _own(at)
        return f"{own} {type(self.modules[at]).__name__}"

    def _pair(self, group: list[str]) -> _Block | None:
        """Up and down again, as a block; None: these linear layers are no such pair."""
        holder = _common(group)
        called = self._called(holder)
        if _NO_FEED_FORWARD.search(called) and not _FEED_FORWARD.search(called):
            return None
        wide = {n: widths(self.modules[n]) for n in group}
        down = [n for n in group if wide[n][1] == self.hidden != wide[n][0]] or group[-1:]
        up = [n for n in group if n not in down and wide[n][0] == self.hidden]
        if len(down) != 1 or len(up) not in (1, 2) or len(group) != 1 + len(up) or wide[down[0]][1] != self.hidden:
            return None
        inner = wide[down[0]][0]
        roles = {"W1": up[-1], "W2": down[0]}
        if [wide[n][1] for n in up] == [2 * inner]:
            roles = {"W1.both": up[0], "W2": down[0]}
        elif any(wide[n][1] != inner for n in up):
            return None
        if len(up) == 2:
            gate = next((n for n in up if "gate" in _own(n)), up[0])
            roles |= {"W1.gate": gate, "W1": next(n for n in up if n != gate)}
        return _Block("FFN", roles, holder, holder)

    def _name_norms(self) -> dict[str, str]:
        made = {}
        owners = {b.module: b for b in self.blocks}
        for n in self.norms:
            around = [b for b in self.blocks if lies_in(n, b.area) and not self._whole(b.area)]
            if self._of_queries(n):
                made[n] = f"{around[0].module if around else 'SelfAttn'}.{_own(n)[0].upper()}.LN"
            elif self._inner(n):
                made[n] = f"Block.{_own(n)}.LN"
            elif around or (around := self._beside(n)):
                made[n] = f"{around[0].module}.LN"
        loose = [n for n in self.norms if n not in made]
        bare = [
            m for m in dict.fromkeys(["SelfAttn", "CrossAttn", "FFN"]) if m in owners and f"{m}.LN" not in made.values()
        ]
        if not any(b.module == "FFN" for b in self.blocks) and self._experts():
            bare.append("FFN")
        if len(loose) == len(bare) and not all("post" in _own(n) for n in loose):
            return made | {n: f"{module}.LN" for n, module in zip(loose, bare, strict=True)}
        there = {*owners, *(["FFN"] if self._experts() else [])}
        for words, module in (entry for entry in _WORDS if entry[1].partition(".")[0] in there):
            for n in loose:
                if n not in made and module not in made.values() and words.search(_own(n)):
                    made[n] = module
        if len(loose) == 1 and bare:  # one for both blocks, which run side by side
            made.setdefault(loose[0], f"{bare[0]}.LN")
        return {n: made.get(n, f"Block.{_own(n)}.LN") for n in self.norms}

    def _beside(self, norm: str) -> list[_Block]:
        """The block that a sublayer holds with this norm (T5: layer.0 holds the norm and the attention)."""
        at = norm.rpartition(".")[0]
        held = [b for b in self.blocks if all(lies_in(n, at) for n in b.linears.values())]
        return held if len(held) == 1 and not self._whole(at) else []
