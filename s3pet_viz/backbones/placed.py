"""Backbones whose weights accelerate keeps on the CPU or on disk until a pass needs them (``device_map``)."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones.quantised import is_packed, is_quantised, plain_weight
from s3pet_viz.errors import ConfigError


def _hooks(module: nn.Module) -> list[Any]:
    hook: Any = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def is_placed(model: nn.Module) -> bool:
    """Whether accelerate brings each module's weights to where it computes."""
    return any(_hooks(module) for module in model.modules())


def stays(model: nn.Module) -> bool:
    """Whether a model computes where it is, whatever device is asked for: moved, quantised weights would be packed
    anew."""
    return is_placed(model) or is_quantised(model)


def computes_on(module: nn.Module) -> torch.device:
    """The device on which a module computes, wherever its weights wait."""
    for part in module.modules():
        for hook in _hooks(part):
            if (found := getattr(hook, "execution_device", None)) is not None:
                return torch.device(found)
    return next(module.parameters()).device


def stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters by name, each with its numbers; one that waits elsewhere is read, and not kept; of one that is
    quantised, those that it stands for.

    A parameter without numbers that nothing holds comes as it is, on the meta device.
    """
    for name, parameter in model.named_parameters():
        value: Tensor = parameter
        if parameter.is_meta:
            owner, _, own = name.rpartition(".")
            for hook in _hooks(model.get_submodule(owner)):
                if getattr(hook, "weights_map", None) is not None:
                    value = hook.weights_map[own].to(parameter.dtype)
        elif is_packed(parameter):
            value = plain_weight(model.get_submodule(name.rpartition(".")[0]))
        yield name, value


@torch.no_grad()
def bring_home(model: nn.Module, names: set[str]) -> None:
    """Keep these parameters where they compute: what is trained must stay in memory."""
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    kept = {name: value for name, value in stored(model) if name in names and model.get_parameter(name).is_meta}
    for name, value in kept.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        place = computes_on(module)
        set_module_tensor_to_device(module, own, place, value=value)
        if not any(p.is_meta for p in module.parameters(recurse=False)):
            remove_hook_from_module(module)


def placing(auto: Any, config: Any, device_map: str | dict[str, Any] | None) -> dict[str, Any]:
    """What transformers is told of places; a wrong name it would take in silence.

    ``auto`` computes on the first device that accelerate finds. Files of weights that wait on disk are read where they
    are; others (of another type) are written to a folder that goes with the process.

    Raises:
        ConfigError: a name that is no module's, a weight without a place, or a device that is not here.
    """
    if device_map is None:
        return {}
    if not (device_map == "auto" or isinstance(device_map, dict)):
        raise ConfigError(f"device_map: expected auto, or module names with places, found {device_map!r}")
    from accelerate.utils import get_max_memory

    room: dict[str, Any] = {}
    if device_map == "auto":
        found = get_max_memory()
        devices = [place for place in found if place != "cpu"]
        room = {"max_memory": {place: size for place, size in found.items() if place in ("cpu", *devices[:1])}}
    else:
        with torch.device("meta"):
            _check_places(auto.from_config(config), device_map)
    folder = tempfile.TemporaryDirectory(prefix="s3pet-offload-")
    atexit.register(folder.cleanup)
    return {"device_map": device_map, "offload_folder": folder.name, **room}


def _check_places(model: nn.Module, places: str | dict[str, Any]) -> None:
    given = dict(places) if isinstance(places, dict) else {}
    modules = dict(model.named_modules())
    for name, place in given.items():
        if name not in modules:
            kind = type(model).__name__
            raise ConfigError(f"device_map: expected names of modules of {kind}, found {name!r}")
        try:
            torch.empty(1, device="cpu" if place == "disk" else place)
        except (RuntimeError, AssertionError):
            raise ConfigError(f"device_map: expected cpu, disk or a device that is here, found {place!r}") from None
    for name, _ in model.named_parameters():
        if not any(key == "" or name == key or name.startswith(f"{key}.") for key in given):
            raise ConfigError(f"device_map: expected a place for each weight, found none for {name}")
