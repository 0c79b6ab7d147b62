"""load_task: a task by name, from a folder or from memory, split and ready."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3pet_viz import resources
from s3pet_viz.config.options import options_of
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.files import expanded, is_folder, read_json
from s3pet_viz.tasks.columns import completed, renamed, task_of_columns
from s3pet_viz.tasks.files import NAMES, READERS, by_split, check_rows, is_row_file, read_folder, read_rows
from s3pet_viz.tasks.hub import load_hub
from s3pet_viz.tasks.labels import check_numbers
from s3pet_viz.tasks.published import PUBLISHED, TASKS
from s3pet_viz.tasks.rows import Table, as_table, kind_of, plain
from s3pet_viz.tasks.spec import Form, Task, TaskData
from s3pet_viz.tasks.splits import SPLITS, SplitRule, cap_rows, split_tables, validating
from s3pet_viz.tasks.taskfile import task_from_dict


def load_task(
    task: str | Path | Mapping[str, Any],
    *,
    form: Form,
    revision: str | None = None,
    split: SplitRule = "paper",
    seed: int = 0,
    max_rows: Mapping[str, int] | int | None = None,
    task_spec: Task | Mapping[str, Any] | None = None,
    name: str | None = None,
    columns: Mapping[str, str] | str | None = None,
) -> TaskData:
    """A task with its splits as examples in one form ("text" or "pair").

    `task` is a folder or one file (csv, tsv, json, jsonl, parquet, arrow; see `tasks.files`); an embedded task's name
    (`sentiment`); a hub name (`glue/rte`, `super_glue/cb`, or any dataset id with a `task_spec`), at `revision`; or a
    mapping (a `datasets.DatasetDict` too) with train and optionally validation and test: each a `datasets.Dataset`, a
    DataFrame or a list of mappings. A file or folder that exists wins over a name. What the rows mean comes from
    `task_spec` (a Task, or a task.json object), else `name` (a GLUE or SuperGLUE task), else the folder's task.json,
    else the folder's own name, else `columns` and the rows (see `tasks.columns`). `columns` says which column holds
    which field of the task: ``{"text": "review", "label": "stars"}``.

    `split` and `seed` decide the splits (see `splits.split_tables`), `max_rows` the most rows of each. Training
    examples may differ in number from evaluation ones (see `Task.examples`). Raises TaskError for anything wrong with
    the task, naming the file and the row; ConfigError for a wrong option; MissingExtraError without `datasets`.
    """
    if form not in ("text", "pair"):
        raise ConfigError(f"form: expected 'text' or 'pair', found {form!r}.")
    spec = task_spec if isinstance(task_spec, Task) or task_spec is None else task_from_dict(task_spec)
    if spec is None and name is not None:
        spec = _known(name)
    columns = None if columns is None else options_of(SearchConfig)["columns"].checked(columns)
    said, tables, origin = _open(task, spec, revision, columns is not None)
    for table in tables.values():
        if not table.rows:
            raise TaskError(f"{table.where}: expected at least one row, found none.")
    if columns is not None:
        if said is not None and (others := set(columns) - set(said.columns)):
            known = ", ".join(said.columns)
            raise ConfigError(f"columns: expected some of {known} (task {said.name}), found {sorted(others)[0]!r}.")
        tables = renamed(tables, columns)
    if len(tables) == 1:
        tables = by_split(tables["train"])
    found, tables = _meaning(said, tables, columns, task)
    for table in tables.values():
        found.check_class_names(table)
    check_numbers(found, tables.values())
    if "test" in tables and _labels_hidden(found, tables["test"]):
        del tables["test"]
    _check_varied(found, tables["train"])
    found.of.check_table(found, tables["train"])

    deciding = f"{validating(found, tables, split)}, seed {seed}"
    tables = cap_rows(found, split_tables(found, tables, split, seed), max_rows, seed)
    _check_varied(found, tables["train"])
    examples = {part: found.examples(tables[part], form, training=part == "train") for part in SPLITS}
    if not examples["train"]:
        raise TaskError(f"{tables['train'].where}: expected rows to train on, found none with a known target.")
    return TaskData(found, examples["train"], examples["validation"], examples["test"], origin, form, deciding)


def _meaning(
    task: Task | None, tables: dict[str, Table], columns: dict[str, str] | None, opened: object
) -> tuple[Task, dict[str, Table]]:
    """The task, and its rows in its terms."""
    if "train" not in tables:
        raise TaskError(f"{next(iter(tables.values())).where}: expected rows of the split train, found none.")
    if task is None:
        name = Path(str(opened)).stem if isinstance(opened, str | Path) else "rows"
        task = task_of_columns(tables, columns, name)
    if task is None:
        names = [*map(str, tables["train"].rows[0])]
        found = ", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")
        raise TaskError(_UNSAID.format(where=tables["train"].where, found=found))
    task = _rte_of(task, tables["train"])
    return completed(task, tables)


def check_name(task: str | Path) -> None:
    """Before anything is loaded. Raises TaskError: `task` names no folder, no embedded task and nothing on the hub."""
    if isinstance(task, str):
        check_rows(task)
    if isinstance(task, str) and not (is_row_file(task) or task in PUBLISHED or "/" in task) and not _folder_of(task):
        raise _unknown(task)


def _open(
    task: object, spec: Task | None, revision: str | None, columns: bool
) -> tuple[Task | None, dict[str, Table], str]:
    """The task's meaning (None: nobody says it), its raw tables and its origin. columns: whether they are given."""
    if isinstance(task, str | Path):
        if is_row_file(task):
            path = expanded(task)
            _no_revision(revision, f"the file {path}")
            return spec, {"train": read_rows(path)}, str(path)
        check_rows(task)
        folder = _folder_of(task)
        if folder is not None:
            _no_revision(revision, f"the folder {folder}")
            own = folder / "task.json"
            if spec is None and own.exists():
                spec = task_from_dict(read_json(own, TaskError), where=str(own), in_file=True)
            tables = read_folder(folder)
            spec = spec or TASKS.get(folder.resolve().name)
            return spec, tables, str(folder)
        known = PUBLISHED.get(str(task))
        if known is not None:
            if spec is not None and (spec.name != known.name or spec not in TASKS.values()):
                raise ConfigError(f"task {task}: expected no other name or task_spec, found {spec.name!r}.")
            loaded, origin = load_hub(known, None, revision)
            return known, _tables(loaded, known, origin), origin
        if (spec is not None or columns) and "/" in str(task) and not isinstance(task, Path):
            loaded, origin = load_hub(spec, str(task), revision)
            return spec, _tables(loaded, spec, origin), origin
        raise _unknown(str(task))
    if isinstance(task, Mapping):
        _no_revision(revision, "rows in memory")
        return spec, _tables(task, spec, "memory"), "memory"
    if isinstance(task, list) or hasattr(task, "columns") or hasattr(task, "column_names"):
        _no_revision(revision, "rows in memory")
        return spec, {"train": as_table(task, "memory")}, "memory"
    raise TaskError(f"task: expected a name, a file, a folder, rows or a mapping of splits, found {kind_of(task)}.")


def _folder_of(task: str | Path) -> Path | None:
    """The folder that `task` means: a Path always, a text when it exists or names an embedded task."""
    if isinstance(task, Path):
        return task
    if not task.strip() or "\0" in task:
        raise _unknown(task)
    path = expanded(task)
    if is_folder(path):
        return path
    embedded = resources.find_resource("tasks", task)
    if embedded is None and path.is_absolute():
        return path
    return embedded


def _tables(splits: Mapping[str, Any], task: Task | None, where: str) -> dict[str, Table]:
    """Tables of a mapping of splits, also by other usual names; MNLI validates on its matched part."""
    usual = ((split, [name for name in names if name in splits]) for split, names in NAMES.items())
    sources = {split: found[0] for split, found in usual if found}
    if "train" not in sources:
        found = ", ".join(map(str, splits)) or "none"
        raise TaskError(f"{where}: expected the split train{f' for {task.name}' if task else ''}, found: {found}.")
    return {split: as_table(splits[key], f"{where}, {key}") for split, key in sources.items()}


def _known(name: str) -> Task:
    found = PUBLISHED.get(name) or TASKS.get(name)
    if found is None:
        raise TaskError(f"name: expected one of {', '.join(_bare_names())}, found {name!r}.")
    return found


def _unknown(task: str) -> TaskError:
    full = [full for full in PUBLISHED if full.endswith(f"/{task}")]
    hint = f" Did you mean {' or '.join(full)}?" if full else ""
    embedded = ", ".join(resources.list_resources("tasks")) or "none here"
    return TaskError(
        f"task {task!r}: expected a folder with train.jsonl and validation.jsonl, a file "
        f"({', '.join(READERS)}), an embedded task ({embedded}), or one of {', '.join(PUBLISHED)}; found none of "
        f"these.{hint}"
    )


_UNSAID = (
    "{where}: expected to be told what the rows mean: columns ({{'text': 'review', 'label': 'stars'}}), a task_spec, a "
    "task.json in the folder, a folder named like a GLUE or SuperGLUE task, or name; found only the columns {found}."
)


def _bare_names() -> list[str]:
    return sorted({task.name for task in PUBLISHED.values()})


def _no_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise ConfigError(f"revision: expected only with a hub name, found {revision!r} with {what}.")


def _rte_of(task: Task, train: Table) -> Task:
    """GLUE's or SuperGLUE's RTE, by the columns of the first row: a bare `rte` says neither."""
    first = train.rows[0] if train.rows else {}
    return TASKS["super_glue/rte"] if task == TASKS["rte"] and "premise" in first and "sentence1" not in first else task


def _labels_hidden(task: Task, test: Table) -> bool:
    """Whether a published test split holds no answers (label -1, or empty answer lists)."""
    if task.builder == "record":
        return all(hasattr(row.get("answers"), "__len__") and len(row["answers"]) == 0 for row in test.rows)
    said = () if "-1" in task.label_names else ("-1",)  # labels that were read off the rows are texts
    values = (plain(row.get(task.label)) for row in test.rows)
    return all(isinstance(v, int | float | str) and v in (-1, *said) for v in values)


def _check_varied(task: Task, train: Table) -> None:
    seen = {one for i, row in enumerate(train.rows) for one in task.of.variety(task, row, train.at(i))}
    if len(seen) == 1:
        only = f"found only {seen.pop()!r}"
        raise TaskError(f"{train.where}: expected at least two classes in {len(train)} row(s), {only}.")
