"""What a search does, told to experiment trackers (TensorBoard, Weights & Biases, MLflow, ...) through accelerate."""

from __future__ import annotations

import json
import math
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.analysis.measures import entropy
from s3pet_viz.engine.callbacks import Callback, RunningSearch
from s3pet_viz.engine.state import StepResult
from s3pet_viz.errors import ConfigError, MissingExtraError
from s3pet_viz.files import json_ready, write_json_atomic, write_text_atomic
from s3pet_viz.runs import layout, open_run
from s3pet_viz.runs.place import disk_errors
from s3pet_viz.structure import Structure
from s3pet_viz.structure.budget import expected_params
from s3pet_viz.threads import LOCK, no_warnings

FOLDER = "tracking"
#: In that folder: which trackers have begun, and by which id each goes on.
_BEGUN = "trackers.json"
#: Those that take the config as they start: accelerate would give it to the process's latest run.
_TOLD_AT_START = ("wandb", "trackio")
#: What trackers call the project that searches belong to.
_PROJECT = "s3pet_viz"


def tracker_names(track: Any) -> tuple[Any, ...]:
    """The trackers that `track` means, each once: names that accelerate knows, or its `GeneralTracker` objects.

    Args:
        track: a name, an object, or a sequence of them; None, ``none`` and an empty sequence mean none.

    Raises:
        ConfigError: a name that accelerate does not know.
        MissingExtraError: the tracker's package is not installed.
    """
    wanted: list[Any] = []
    for name in track if isinstance(track, (list, tuple)) else [track]:
        if name is not None and not (isinstance(name, str) and name == "none") and name not in wanted:
            wanted.append(name)
    if not wanted:
        return ()
    with LOCK:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers

        PartialState()  # trackers ask it which process they are in, and accelerate's loggers raise without it

    known = sorted(LOGGER_TYPE_TO_CLASS)
    for name in wanted:
        if isinstance(name, GeneralTracker):
            continue
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"track: expected one of {', '.join(known)}, or none, found {name!r}")
        if not filter_trackers([name], logging_dir="."):
            extra = '"s3pet_viz[tracking]"' if name == "tensorboard" else name.replace("_", "-")
            raise MissingExtraError(f"track: {name} is not installed: pip install {extra}")
    return tuple(wanted)


class Tracking(Callback):
    """Logs each step and each evaluation to trackers that keep what they keep on disk in the run directory.

    Step ``k`` of the step log is step ``k`` of every tracker. Logged: ``loss/train``, ``loss/val``; ``gates/zeta``;
    ``gates/expected_params`` and ``gates/entropy`` (mean over the gates, in bits) of the p in the step log;
    ``lr/weights``, ``lr/alpha``; ``seconds/step``; of evaluations ``eval/val_loss``, ``eval/selected_params`` and
    ``eval/alpha_grad_norm``; once, the config; at its end the structure and a heatmap as artifacts, where a tracker
    takes any. What is not finite is left out.

    A tracker that fails while the search runs is left out from then on, with a warning: it ends no search.

    Args:
        trackers: as `tracker_names` gives them.
    """

    def __init__(self, trackers: Sequence[Any]) -> None:
        self._wanted = tuple(trackers)
        self._open: dict[str, Any] = {}

    def on_search_begin(self, search: RunningSearch) -> None:
        """Raises ConfigError where a tracker cannot begin (no account, no network)."""
        folder = search.writer.path / FOLDER
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        self._counts = np.array([gate.n_params for gate in search.gates])
        self._pinned = sum(gate["n_params"] for gate in search.writer.info.get("pinned", {}).get("in", ()))
        begun = _read_begun(folder)
        for wanted in self._wanted:
            name = wanted if isinstance(wanted, str) else wanted.name
            facts = begun.get(name, {})
            try:
                with no_warnings():  # their packages warn of one another's age, which is nothing to a search
                    config = _plain(search.writer.info, search.config.to_dict())
                    named = isinstance(wanted, str)
                    tracker, made = _start(wanted, folder, search, facts, config) if named else (wanted, {})
                    self._open[name] = tracker
                    if name not in begun and name not in _TOLD_AT_START:
                        tracker.store_init_configuration(config)
            except Exception as error:
                raise ConfigError(f"track: {name} cannot begin ({type(error).__name__}: {error})") from error
            begun[name] = {**facts, **made}
        with disk_errors(folder / _BEGUN):
            write_json_atomic(folder / _BEGUN, begun)

    def on_step_end(self, search: RunningSearch, step: int, result: StepResult) -> None:
        config = search.config
        # Scores of mode prune have no rate.
        alpha_lr = math.nan if config.mode == "prune" else config.alpha_lr * config.schedule_at(step)
        values = {
            "loss/train": result.train_loss,
            "loss/val": result.val_loss,
            "gates/zeta": result.zeta,
            "gates/expected_params": float(expected_params(search.p, self._counts)) + self._pinned,
            "gates/entropy": float(entropy(search.p).mean()),
            "lr/weights": search.lr,
            "lr/alpha": alpha_lr,
            "seconds/step": search.step_seconds,
        }
        self._log(values, step)

    def on_evaluation(self, search: RunningSearch, record: Mapping[str, Any]) -> None:
        names = ("val_loss", "selected_params", "alpha_grad_norm")
        self._log({f"eval/{name}": record[name] for name in names}, record["step"])

    def on_search_end(self, search: RunningSearch) -> None:
        """A finished search hands its structure and a heatmap to the trackers that take files."""
        folder = search.writer.path
        if self._open and (folder / layout.STRUCTURE).is_file():
            picture = folder / FOLDER / "heatmap.svg"
            # By name: what searches does not know what shows.
            drawn = import_module("s3pet_viz.viewer.static").of_run(open_run(folder))
            with disk_errors(picture):
                write_text_atomic(picture, drawn)
            for name, tracker in self._open.items():
                self._try(name, _keep, name, tracker, [folder / layout.STRUCTURE, picture], search.structure())
        self.close()

    def close(self) -> None:
        """Let every tracker write what it holds; doing so twice is harmless."""
        for name, tracker in list(self._open.items()):
            del self._open[name]
            self._try(name, tracker.finish)

    # -- inside ----------------------------------------------------------------------------------------

    def _log(self, values: dict[str, float], step: int) -> None:
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name, tracker in list(self._open.items()):
            if not self._try(name, tracker.log, finite, step=step):
                del self._open[name]

    def _try(self, name: str, call: Any, *values: Any, **more: Any) -> bool:
        try:
            with no_warnings():
                call(*values, **more)
        except Exception as error:
            said = f"track: {name} is left out from now on ({type(error).__name__}: {error}); the search goes on"
            warnings.warn(said, stacklevel=2)
            return False
        return True


def _start(
    name: str, folder: Path, search: RunningSearch, facts: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A tracker of this name that goes on where an earlier process of the run left off, and what the next needs."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind, run = LOGGER_TYPE_TO_CLASS[name], str(search.writer.info["name"])
    made: dict[str, Any] = {}
    if name == "tensorboard":
        # What an earlier process logged from this step on is taken again: TensorBoard then shows the later one.
        tracker = kind(name, folder, purge_step=search.step)
    elif name == "wandb":
        made = {"id": facts.get("id") or secrets.token_hex(8)}
        # A run of its own, beside another search's or the caller's; what is printed stays as it was.
        tracker = kind(
            _PROJECT,
            name=run,
            dir=str(folder.resolve()),
            id=made["id"],
            resume="allow",
            config=dict(config),
            reinit="create_new",
            settings={"console": "off"},
        )
    elif name == "trackio":
        # Runs go by their names there, and two folders may have the same.
        made = {"name": facts.get("name") or f"{run}-{secrets.token_hex(4)}"}
        tracker = kind(_PROJECT, name=made["name"], resume="allow", config=dict(config))
    elif name == "mlflow":
        if "MLFLOW_TRACKING_URI" not in os.environ:
            import mlflow  # type: ignore[import-not-found,unused-ignore]

            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        tracker = kind(_PROJECT, logging_dir=str(folder), run_id=facts.get("id"), run_name=run)
    elif kind.requires_logging_directory:
        tracker = kind(run, str(folder))
    else:
        tracker = kind(run)
    tracker.start()
    if name == "mlflow":
        made = {"id": tracker.tracker.info.run_id}
    return tracker, made


def _keep(name: str, tracker: Any, files: Sequence[Path], structure: Structure) -> None:
    """Files as artifacts, where a tracker takes any; TensorBoard takes the structure as a table."""
    inner: Any = getattr(tracker, "tracker", None)
    if name == "tensorboard":
        rows = [f"| {g.column} | {g.module} | {g.pet_type} | {g.n_params:,} |" for g in structure.gates]
        head = ["| layer | module | PET type | parameters |", "|---|---|---|---:|"]
        inner.add_text("structure", "\n".join([repr(structure), "", *head, *rows]))
    elif name == "mlflow":
        import mlflow  # type: ignore[import-not-found,unused-ignore]

        for file in files:
            mlflow.MlflowClient().log_artifact(inner.info.run_id, str(file))
    else:  # wandb, trackio and dvclive call it one thing, comet the other
        take: Any = getattr(inner, "log_artifact", None) or getattr(inner, "log_asset", None)
        for file in files if take is not None else ():
            take(str(file))


def _read_begun(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _BEGUN
    found = layout.read_json(path) if path.exists() else {}
    return {str(name): facts for name, facts in found.items() if isinstance(facts, dict)}


def _plain(info: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The config, and what follows from it, as trackers take it: plain values, the rest as JSON text, no nulls."""
    names = ("backbone_params", "budget", "lr", "device")
    facts = json_ready({**config, **{name: info.get(name) for name in names}})
    plain = (bool, int, float, str)
    return {k: v if isinstance(v, plain) else json.dumps(v) for k, v in facts.items() if v is not None}
