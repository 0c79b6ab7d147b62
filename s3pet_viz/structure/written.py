"""What users write by hand in YAML or JSON: search spaces and families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from s3pet_viz.errors import S3PETError
from s3pet_viz.files import no_repeats, read_json, read_text

SUFFIXES = (".yaml", ".yml", ".json")
#: Bytes of a file; a space that names every position of T5-11b has 100 KB.
_MOST = 1024**2
#: Names, lists and mappings of one; such a one has 5,000.
_MOST_VALUES = 50_000

#: libyaml's, where there is one: PyYAML's own takes ten seconds for a megabyte.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_written(path: Path, error: type[S3PETError], what: str) -> Any:
    """The content of a YAML or JSON file. Raises S3PETError: of the kind `error`; names the file."""
    try:
        if path.suffix.lower() == ".json":
            return read_json(path, error)
        return _read_yaml(read_text(path, error, most=_MOST))
    except S3PETError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as problem:  # YAML's 2026-99-99 is a ValueError
        raise error(f"{path}: cannot be read as {what}: {problem}") from None


def _read_yaml(text: str) -> Any:
    """Safe YAML without aliases, of which ten lines can stand for more values than any memory holds; no key twice."""
    for values, event in enumerate(yaml.parse(text, _Safe)):
        if values > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"alias *{event.anchor} is not supported{event.start_mark}")
    return yaml.load(text, _Plain)


class _Plain(_Safe):
    """No key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        no_repeats([(str(key.value), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)
