"""The search loop: steps, records, checkpoints, callbacks, a clean end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.callbacks import Callback
from s3pet_viz.engine.checkpoint import save_checkpoint
from s3pet_viz.engine.modes import MODES, warmup_step
from s3pet_viz.engine.stability import Stability
from s3pet_viz.engine.state import State, StepResult
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.runs.control import ControlReader
from s3pet_viz.runs.writer import RunWriter
from s3pet_viz.structure import Gate, Structure, select
from s3pet_viz.structure.budget import budget_at
from s3pet_viz.structure.pins import left_for, pins_said
from s3pet_viz.structure.structure import gates_by_index
from s3pet_viz.structure.units import by_rank
from s3pet_viz.training.processes import SilentWriter

#: How often a paused search looks whether it may go on.
_PAUSED_SECONDS = 0.1


class Search:
    """A search in progress; callbacks see of it what `RunningSearch` names."""

    p: np.ndarray
    step_seconds: float
    lr: float

    def __init__(
        self,
        config: SearchConfig,
        gates: Sequence[Gate],
        state: State,
        writer: RunWriter | SilentWriter,
        *,
        pinned: Sequence[Gate] = (),
        fingerprint: dict[str, Any],
        first_step: int = 0,
        stability: Stability | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
        hand_out: Callable[[], None] | None = None,
    ) -> None:
        self.config, self.gates, self.state, self.writer = config, tuple(gates), state, writer
        self.pinned = tuple(pinned)
        self.budget: int = left_for(writer.info["budget"], self.pinned)  # of the gates that are searched
        self.fingerprint, self.step = fingerprint, first_step
        self.callbacks = tuple(callbacks)
        self.progress, self._hand_out = progress, hand_out
        self.stability = stability or Stability(config.stop_when_stable)
        # As after a kill between the last checkpoint and the end: nothing is left to do.
        self.stop_reason: str | None = self.stability.reason if self._ends_early() else None
        self._control = ControlReader(writer.path)

    def request_stop(self, reason: str) -> None:
        """End the search after the present step; it can be resumed."""
        self.stop_reason = self.stop_reason or reason

    def structure(self) -> Structure:
        """The structure at the present alpha."""
        # From alpha as the step log keeps it, so that a reader of the run finds the same structure.
        alpha = self.state.alpha.float().numpy()
        chosen = select(alpha, [g.n_params for g in self.gates], self.budget)
        config, pruning, info = self.config, self.state.pruning, self.writer.info
        return Structure(
            (*gates_by_index(self.gates, chosen), *self.pinned),
            info["backbone"],
            info["backbone_params"],
            info["budget"],
            {
                "task": config.task,
                "mode": config.mode,
                "seed": config.seed,
                "steps": self.step,
                "space": config.space if isinstance(config.space, str) else config.space.get("name"),
                "run": info["name"],
                **pins_said(self.pinned, config.pin),
                **({} if pruning is None else {"task_learned": pruning.verdict}),
            },
        )

    def checkpoint(self) -> None:
        if isinstance(self.writer, SilentWriter):
            return
        self.writer.sync()  # a checkpoint must not run ahead of the step log
        save_checkpoint(
            self.writer.checkpoint_dir,
            self.state,
            next_step=self.step,
            fingerprint=self.fingerprint,
            stability=self.stability,
        )

    def run(self) -> None:
        """Run to the end, a stop, or an error. The run directory is consistent in every case.

        Raises:
            DiskError: the disk refuses; the run keeps its last checkpoint.
            NonFiniteLossError: with the step and the loss; the run says ``failed`` and keeps its last checkpoint.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is done and the checkpoint written.
        """
        config = self.config
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            desc=f"search {config.task} ({config.mode})",
            unit="step",
            disable=not (self.progress and self.state.processes.leads),
        )
        with _deferred_interrupt(self) as interrupted, bar:
            self.checkpoint()
            for callback in self.callbacks:
                callback.on_search_begin(self)
            while self.step < config.steps and self.stop_reason is None:
                self._obey(bar)
                self._agree()
                if self.stop_reason is None:
                    self._one_step(bar)
            self._finish()
        if interrupted:
            raise KeyboardInterrupt(self.stop_reason)

    def _obey(self, bar: tqdm) -> None:
        """Do what a reader of the run asked for between the steps; while paused, wait here."""
        if not self.state.processes.leads:
            return
        if self._control.request() == "pause":
            self.checkpoint()
            self.writer.set_status("paused")
            bar.set_postfix_str("paused")
            while self._control.request() == "pause" and self.stop_reason is None:
                time.sleep(_PAUSED_SECONDS)
            self.writer.set_status("running")
            # Without the time spent waiting, which would spoil the bar's rate for a long while.
            bar.unpause()
        if self._control.request() == "stop":
            self.request_stop("asked to stop")

    def _agree(self) -> None:
        """Stop together: a signal or a request may have reached one process of several."""
        processes = self.state.processes
        if processes.size > 1 and processes.any(self.stop_reason is not None):
            self.request_stop(processes.share(self.stop_reason) or "another process of the search was asked to stop")

    def _one_step(self, bar: tqdm) -> None:
        config, step = self.config, self.step
        began = time.perf_counter()
        total = sum(self.state.gates.counts)
        pruning = self.state.pruning
        held = budget_at(step, self.budget, total, config.open_steps, config.shrink_steps)
        if pruning is not None:
            held = pruning.held
            phase = (pruning.opened, pruning.at_budget)
        self.state.gates = replace(self.state.gates, budget=held)
        take = warmup_step if step < config.weight_steps and pruning is None else MODES[config.mode]
        lr = self.state.lr * self.state.schedule(step)  # before the step: what prune learns in it changes its schedule
        try:
            result = take(self.state, step)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}; the run in {self.writer.path} keeps its last checkpoint") from None
        self.step_seconds = time.perf_counter() - began
        self.lr = lr * result.rate
        # At the alpha that this step arrived at: what the run would select from now.
        self.p = self._probabilities()
        self.writer.append(
            step=step,
            seconds=self.step_seconds,
            zeta=result.zeta,
            train_loss=result.train_loss,
            val_loss=result.val_loss,
            lr=self.lr,
            alpha=self.state.alpha.numpy(),
            p=self.p,
        )
        self.step += 1
        bar.update()
        said = f"{result.val_loss:.3f}" if pruning is None else pruning.phase
        bar.set_postfix({"train": f"{result.train_loss:.3f}", "gates" if pruning else "val": said}, refresh=False)
        if pruning is not None and phase != (pruning.opened, pruning.at_budget):  # told as soon as it is known
            self.writer.set_status("running", pruning=pruning.report())
        if config.eval_every and self.step % config.eval_every == 0:
            self._evaluate(result)
        # After the evaluation of this step, which belongs to the state that is saved.
        if self.step % config.checkpoint_every == 0:
            self.checkpoint()
        if self._ends_early():
            self.stop_reason = self.stability.reason
            bar.set_postfix_str("selected structure unchanged, finished early")
        for callback in self.callbacks:
            callback.on_step_end(self, step, result)

    def _probabilities(self) -> Any:
        return self.state.gates.probabilities(self.state.alpha).numpy()

    def _evaluate(self, result: StepResult) -> None:
        record = self._evaluation(result)
        self.writer.evaluation(record)
        for callback in self.callbacks:
            callback.on_evaluation(self, record)
        # A structure that nothing has moved yet is no result. AdamW's second moments are 0 until a gradient is not, so
        # through all of the warm-up too.
        pruning = self.state.pruning
        shrunk = self.step > self.config.open_steps + self.config.shrink_steps
        if pruning is not None:
            shrunk = pruning.at_budget is not None and self.step > pruning.at_budget
        if shrunk and bool((self.state.alpha_opt.v if pruning is None else pruning.scores).any()):
            chosen = np.zeros(len(self.gates), dtype=bool)
            chosen[record["selected"]] = True
            # Which units are open at a position does not matter; how many does.
            self.stability.see(np.flatnonzero(by_rank(chosen, self.gates)).tolist(), self.step)

    def _ends_early(self) -> bool:
        return self.stability.settled and self.step < self.config.steps

    @torch.no_grad()
    def _evaluation(self, result: StepResult, batches: int = 8) -> dict[str, Any]:
        """Mean val loss over the first batches at z = p (prune: the open gates alone), and what would be selected."""
        problem, state = self.state.problem, self.state
        problem.closed = frozenset()
        z = self._probabilities() if state.pruning is None else state.pruning.mask()
        z = torch.as_tensor(z).to(state.w.flat)
        drawn = [problem.batch("val", k) for k in range(batches)]
        with state.masks(self.step, 99):
            losses = [float(problem.loss(batch, z)) for batch in drawn]
        chosen = self.structure()
        return {
            "step": self.step - 1,
            "val_loss": sum(losses) / len(losses),
            "selected": [g.index for g in chosen.gates if g.index < len(self.gates)],
            "selected_params": chosen.n_params,
            "alpha_grad_norm": float(torch.linalg.vector_norm(result.alpha_grad)),
        }

    def _finish(self) -> None:
        self.checkpoint()
        finished = self.step >= self.config.steps or self._ends_early()
        if finished:
            self.writer.write_structure(self.structure())
            if self._hand_out is not None:
                self._hand_out()  # who waits for the end finds all of it
        told: dict[str, Any] = {} if self.state.pruning is None else {"pruning": self.state.pruning.report()}
        self.writer.set_status(
            "finished" if finished else "stopped", stop_reason=self.stop_reason, steps_taken=self.step, **told
        )
        for callback in self.callbacks:
            callback.on_search_end(self)


@contextmanager
def _deferred_interrupt(search: Search) -> Iterator[list[int]]:
    """Let the present step finish on Ctrl-C or SIGTERM; a second one does not wait.

    Yields a list that holds the signal once one has come. Off the main thread, signals stay as they are.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        search.request_stop(signal.Signals(number).name)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
