"""`estimate`: what a search would choose from and how much memory it would take, before any weight is read."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s3pet_viz.analysis._table import html_table
from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.check import check_task
from s3pet_viz.backbones.load import outline
from s3pet_viz.config.options import takes
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.config.typed import SearchOptions
from s3pet_viz.engine.attached import checkpoint_layers
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.one_go import check_save
from s3pet_viz.engine.prepare import Request
from s3pet_viz.engine.split_batches import SplitBatches
from s3pet_viz.engine.start import open_start
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.structure import Gate, parse_budget
from s3pet_viz.structure.pins import part
from s3pet_viz.tasks import load_task
from s3pet_viz.training.arguments import check_load
from s3pet_viz.training.device import Device
from s3pet_viz.training.model_state import raise_precision
from s3pet_viz.training.processes import Processes

if TYPE_CHECKING:
    import pandas as pd

#: float32 copies of the trained weights at the fullest moment of a step: themselves, their rates, AdamW's two moments
#: (`engine.state.State`), and in a step the weights before it, two gradients, a direction and two intermediate results.
COPIES = 10


@dataclass(frozen=True)
class Estimate:
    """What a search would take.

    Attributes:
        gates: all that the space has on this backbone. Those that cannot help (`pet.inert`) are found only with the
            weights, and are left out of the search.
        missing: what the space names but the backbone lacks.
        budget: in parameters.
        batch, length: rows of a batch, and tokens of the longest that the training rows give.
        weights: bytes of the frozen weights. trained: of PET weights and a head's, their gradients and optimiser.
        passes: of what a forward and a backward pass hold at their fullest moment beside both; None where that cannot
            be told without numbers, which `why` then says.
    """

    backbone: str
    backbone_params: int
    dtype: str
    precision: str
    gates: tuple[Gate, ...]
    missing: tuple[str, ...]
    budget: int
    batch: int
    length: int
    weights: int
    trained: int
    passes: int | None
    why: str = ""

    @property
    def total(self) -> int | None:
        """Bytes of all three, without the process itself (Python and its libraries); None where `passes` is."""
        return None if self.passes is None else self.weights + self.trained + self.passes

    def table(self) -> pd.DataFrame:
        """One row per module and PET type: module, pet_type, gates, smallest, largest and parameters (of all)."""
        import pandas as pd

        rows = [(g.module, g.pet_type, g.n_params) for g in self.gates]
        made = pd.DataFrame(rows, columns=pd.Index(["module", "pet_type", "size"]))
        grouped = made.groupby(["module", "pet_type"], sort=False)["size"]
        return grouped.agg(gates="size", smallest="min", largest="max", parameters="sum").reset_index()

    def facts(self) -> dict[str, str]:
        """What, and its value in words."""
        size = sum(g.n_params for g in self.gates)
        return {
            "backbone": f"{self.backbone}, {self.backbone_params:,} parameters",
            "gates": f"{len(self.gates):,}, {size:,} parameters",
            "budget": f"{self.budget:,} parameters = {self.budget / self.backbone_params:.4%} of the backbone",
            "frozen weights": f"{mib(self.weights)} ({self.dtype})",
            "PET weights, optimiser": mib(self.trained),
            f"a pass of {self.batch} x {self.length} tokens": self.why or f"{mib(self.passes or 0)} ({self.precision})",
            "together": "not known" if self.total is None else f"{mib(self.total)}, beside the process itself",
        }

    def _repr_html_(self) -> str:
        table = self.table()
        return html_table(("what", "value"), list(self.facts().items())) + html_table(
            list(table.columns), table.to_numpy().tolist()
        )

    def __repr__(self) -> str:
        return f"Estimate({', '.join(f'{name}: {value}' for name, value in self.facts().items())})"


def mib(size: int) -> str:
    """Bytes in MiB, or in GiB where there are many."""
    return f"{size / 2**20:,.1f} MiB" if size < 10 * 2**30 else f"{size / 2**30:,.1f} GiB"


@takes(SearchConfig)
def estimate(
    *,
    task: Any = None,
    backbone: str | Path | None = None,
    budget: str | int | float | None = None,
    space: Any = None,
    load: dict[str, Any] | None = None,
    **options: Unpack[SearchOptions],
) -> Estimate:
    """The gates and the memory of a search, without its weights: a folder with a config and a tokenizer is enough.

    One pass forward and backward is followed operation by operation on tensors without numbers (torch's FakeTensor), on
    the CPU's operations, with the `batch_size` longest training rows.

    Args:
        task, budget, space, load, options: as of `search`. backbone: a name or a folder.

    Raises:
        S3PETError: what `search` refuses before it reads weights: a budget, a task, a space, a backbone or an option.
    """
    load = dict(load or {})
    what: dict[str, Any] = {"task": task, "backbone": backbone, "model": None, "tokenizer": None, "load": load}
    config = Request.fresh({"budget": budget, "space": space, **options}, out=None, **what).config
    check_load(load)
    check_save(config, None)
    if config.start_from is not None:
        open_start(config.start_from)
    device = Device.choose("cpu", config.precision)
    chosen = load_space(config.space)
    rows: dict[str, Any] = {name: getattr(config, name) for name in ("split", "max_rows", "columns")}
    rows |= {"revision": config.task_revision, **load}
    data = load_task(task, form="text", **rows)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made = outline(
        config.backbone,
        mode,
        head=str(config.head),
        num_labels=data.task.num_labels,
        problem=data.task.of.problem,
        revision=config.revision,
        dtype=config.dtype,
        family=config.family,
    )
    if made.form == "pair":
        data = load_task(task, form="pair", **rows)
    data = check_task(made, data)
    size = parse_budget(config.budget, made.n_params)
    gates, missing = candidate_gates(made.positions(), chosen)
    searched, inside, _ = part(gates, config.pin, size)
    gates = [*searched, *inside]
    halves = SplitBatches(data, made, config, device, Processes()).features.values()
    features = max(halves, key=lambda half: int(half.lengths.max()))
    longest = np.argsort(-features.lengths, kind="stable")[: config.batch_size]
    batch = features.batch(longest, "cpu")
    device = device.suited(made.model)
    frozen = {n: p for n, p in made.model.named_parameters() if n not in made.head}
    weights = sum(t.numel() * t.element_size() for t in (*frozen.values(), *made.model.buffers()))
    passes, why = None, ""
    try:
        passes = _pass(made, gates, batch, config, device, mode)
    except Exception as error:  # an operation that asks for numbers, in any model's own code
        first = (str(error).strip().splitlines() or [""])[0]
        why = f"not known without numbers ({type(error).__name__}: {first[:80]})"
    types = sorted({str(p.dtype).removeprefix("torch.") for p in frozen.values()})
    return Estimate(
        made.name,
        made.n_params,
        ", ".join(types),
        device.precision,
        tuple(gates),
        tuple(missing),
        size,
        len(longest),
        int(features.lengths.max()),
        weights,
        4 * COPIES * (sum(g.n_params for g in gates) + made.head_params),
        passes,
        why,
    )


def _pass(
    made: Backbone,
    gates: list[Gate],
    batch: Mapping[str, Tensor],
    config: SearchConfig,
    device: Device,
    mode: FakeTensorMode,
) -> int:
    """Bytes that a pass of a search holds at its fullest moment, beside weights; it is taken without numbers.

    Parts of a batch follow each other (`accumulation`), so the first one's bytes are all.
    """
    model: Any = made.model
    model.train(config.dropout)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    with mode, _plain_dropout(model):
        pets = insert(model, gates)
        pets.fused = config.mode != "exact"
        raise_precision([*pets.parameters(), *made.head.values()])
        problem = BackboneProblem(model, pets, lambda *_: {}, head=made.head, autocast=device.autocast)
        for p in problem.weights:
            p.requires_grad_(True)
        rows = -(-len(batch["labels"]) // config.accumulation)
        z = torch.full((len(gates),), 0.5, requires_grad=True)
        inputs = {name: mode.from_tensor(t[:rows]) for name, t in batch.items()}
        with Held() as held:
            loss = problem.loss(inputs, z)
            torch.autograd.grad(loss, [z, *problem.weights], allow_unused=True)
        return held.most


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside and still alive.

    Attributes:
        now, most: at present, and at the fullest moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {s._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) for s in [t.untyped_storage()]}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in before and key not in self._known:
                self._known.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, key, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def _plain_dropout(model: nn.Module) -> Iterator[None]:
    """Inside, a dropout keeps a mask of its input's type, as `pet.dropout.quick_dropout` does, and draws no numbers."""
    patched = [m for m in model.modules() if type(m) is nn.Dropout and m.p > 0]
    for module in patched:
        module.forward = _masked(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in patched:
            del module.forward


def _masked(module: nn.Dropout) -> Any:
    return lambda x: x * torch.empty_like(x) if module.training else x
