"""Metrics of the user's own: functions, and names that `evaluate` loads. Both run code, so both come from Python alone.

A task.json and a run's run.json hold data: there, such a metric is named, and has to be given again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from s3pet_viz.errors import MissingExtraError, TaskError, short
from s3pet_viz.tasks.rows import kind_of
from s3pet_viz.threads import no_warnings

#: What a metric's name begins with that `evaluate` loads.
EVALUATE = "evaluate:"
#: The field that stands for such a metric in run.json.
GIVEN = "given_in_python"

Metric = Callable[[list[Any], list[Any]], Any]


@dataclass(frozen=True)
class Evaluated:
    """A metric of the package `evaluate`: a name on the hub, or a folder with its script."""

    name: str

    def __call__(self, predictions: list[Any], references: list[Any]) -> Any:
        with no_warnings():
            return _load(self.name).compute(predictions=predictions, references=references)


@lru_cache
def _load(name: str) -> Any:
    try:
        with no_warnings():
            import evaluate
    except ImportError as error:
        raise MissingExtraError(
            f"metric {EVALUATE}{name}: expected the package `evaluate`; pip install evaluate"
        ) from error
    try:
        with no_warnings():
            return evaluate.load(name)
    except Exception as error:  # it raises many kinds, of the hub too
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"metric {EVALUATE}{name}: expected a metric that evaluate.load finds (a folder with its script, or a name "
            f"on the Hugging Face hub, which needs a network), found: {first}"
        ) from error


def own_metrics(
    entries: Any, known: tuple[str, ...], where: str, *, in_file: bool = False
) -> tuple[list[Any], dict[str, Metric]]:
    """The names among a task's metrics, and what is computed by those of the user's own.

    Args:
        entries: as a task names them. known: names that this kind of task has.
        in_file: whether they come from a file, which may name none of the user's own.

    Raises:
        TaskError: one that is in a file, or cannot be loaded, or whose name is taken. MissingExtraError: without
            `evaluate`.
    """
    if not isinstance(entries, list | tuple):
        return entries, {}
    names: list[Any] = []
    functions: dict[str, Metric] = {}
    at = f"{where}, field 'metrics'"
    for entry in entries:
        name, function = entry, None
        if isinstance(entry, Mapping):
            if not isinstance(entry.get(GIVEN), str):
                raise TaskError(f"{at}: expected the name of a metric, or a function; found {kind_of(entry)}.")
            raise TaskError(
                f"{at}: {entry[GIVEN]} was given in Python, and a run does not keep code; give it again: "
                "load={'task_spec': {..., 'metrics': [...]}}"
            )
        if isinstance(entry, str) and entry.startswith(EVALUATE):
            if in_file:
                raise TaskError(
                    f"{at}: {short(entry)} runs a script, and a file here is data alone; give it in Python: "
                    "load={'task_spec': {..., 'metrics': [...]}}"
                )
            function = Evaluated(entry.removeprefix(EVALUATE))
            _load(function.name)
        elif callable(entry):
            name, function = getattr(entry, "__name__", type(entry).__name__), entry
            if not name.isidentifier():
                raise TaskError(f"{at}: expected a function with a name, found {name}; write it with def.")
        if function is not None:
            if name in (*known, "score", "loss", *names):
                raise TaskError(f"{at}: expected a function with a name of its own, found another {name!r}.")
            functions[name] = function
        names.append(name)
    return names, functions
