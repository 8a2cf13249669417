"""The loop that trainings and probes share: schedule, metrics, checkpoints, stopping, and resuming.

On one CPU a run that was interrupted ends bit for bit as one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.average import Average
from models.device_memory import cuda_memory, peak_memory
from models.distributed import agreed, average_gradients, mean, rank
from models.optimization import build_optimizer, gradient_norm, learning_rate, set_learning_rate
from models.progress import Moment, Reporter, Stopped
from models.resuming import Checkpointing, Checkpoints, read_checkpoint
from models.specs import OptimizerSpec, ScheduleSpec
from models.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class DivergedError(ArithmeticError):
    """The loss or its gradient is not finite any more; the message names the step."""


@dataclass
class Watch:
    """``look()`` answers accuracies on held-out images, every ``every`` steps and at the end; ``score`` names the one
    to be raised. With ``keep_best`` the best look's weights of ``model`` are in it at the end; after ``patience`` looks
    without a better one the training ends.
    """

    model: nn.Module
    look: Callable[[], dict[str, float]]
    score: str
    every: int
    keep_best: bool
    patience: int | None
    weights: dict[str, Tensor] | None = None
    """Of the best look."""


@dataclass(frozen=True)
class Task:
    """What is optimized. ``loss(moment)`` answers the scalar to minimize and further scalars worth a plot.

    ``modules`` is trained and saved; ``fingerprint`` identifies the spec and the data, so that a checkpoint of another
    run is refused; ``stage`` is what progress reports call it; ``average``, if there is one, follows its model;
    ``kept`` is what a resumed run has to take over, by :func:`kept_by`, since another machine might find it otherwise.
    """

    modules: nn.Module
    loss: Callable[[Moment], tuple[Tensor, dict[str, Tensor]]]
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    steps_per_epoch: int
    epochs: int
    batch_size: int
    fingerprint: str
    stage: str
    attack_time: Stopwatch = field(default_factory=Stopwatch)
    average: Average | None = None
    watch: Watch | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.steps_per_epoch * self.epochs


@dataclass
class Progress:
    """How far a run is, over all its attempts. ``losses``: sum and number of the losses of the epoch that it is in.

    ``best``: the highest score of a look at held-out images so far, at step ``best_step``; ``looks`` since then.
    """

    step: int = 0
    seconds: float = 0.0
    attack_seconds: float = 0.0
    losses: tuple[float, int] = (0.0, 0)
    best: float = -math.inf
    best_step: int = 0
    looks: int = 0


def optimize(task: Task, reporter: Reporter, *, checkpointing: Checkpointing) -> dict[str, Any]:
    """Run ``task`` to its end and answer its figures; the trained weights are in ``task.modules``.

    Raises :class:`Stopped` once a checkpoint is reported after the reporter asked to stop, :class:`DivergedError`,
    and :class:`models.checkpoints.CheckpointError` for a resume checkpoint of another run. No checkpoint is made of
    weights that are not finite.
    """
    task.modules.train()
    optimizer = build_optimizer(task.optimizer, task.modules.parameters())
    checkpoints = Checkpoints(checkpointing, fingerprint=task.fingerprint, reporter=reporter)
    interrupted = checkpoints.interrupted()
    done = Progress() if interrupted is None else _restore(interrupted, task, optimizer)
    clock = _Clock(task, done)
    second = done.step + 2
    while done.step < task.total:
        if agreed(reporter.should_stop):
            _save(task, optimizer, clock.read(), checkpoints)
            raise Stopped
        measured = done.step + 1 == second  # the first brings the libraries up
        began = _now() if measured else 0.0
        total, count = done.losses if done.step % task.steps_per_epoch else (0.0, 0)
        done.losses = total + _update(task, optimizer, done.step, reporter=reporter, clock=clock), count + 1
        done.step += 1
        if measured:
            _foretell(task, done.step, seconds=_now() - began, reporter=reporter)
        enough = task.watch is not None and _has_seen_enough(task, task.watch, done, reporter=reporter)
        reporter.progress(done.step, done.step if enough else task.total, unit="step", stage=task.stage)
        if enough:
            break
        if checkpoints.due(done.step) and done.step < task.total:
            _save(task, optimizer, clock.read(), checkpoints)
    if task.watch is not None and task.watch.weights is not None:
        task.watch.model.load_state_dict(task.watch.weights)
    return _figures(task, clock.read())


def _now() -> float:
    """Once a GPU has done what it was given."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


def _foretell(task: Task, step: int, *, seconds: float, reporter: Reporter) -> None:
    """From one measured step: the time that the rest takes, and memory; with CUDA the machine's is the lesser part.

    Both of the first process, where there are several. Attacks that end early (``fat``) take longer as the network
    learns, and looks at held-out images come on top: progress tells the rest anew all the while.
    """
    if rank() > 0:
        return
    held = peak_memory() / 2**20
    reporter.metrics(step, {"step_seconds": seconds, "memory_mib": held})
    left = task.total - step
    rest = timedelta(seconds=round(seconds * left))
    log.info(
        "a step took %.3f s, the other %d about %s at this pace; memory so far: %.0f MiB", seconds, left, rest, held
    )
    for device, memory in cuda_memory().items():
        log.info("memory of cuda:%s so far: %.0f MiB", device, memory["reserved"] / 2**20)


def _has_seen_enough(task: Task, watch: Watch, done: Progress, *, reporter: Reporter) -> bool:
    """Look at the held-out images if it is time to; whether the training should end here."""
    if done.step % watch.every and done.step < task.total:
        return False
    values = agreed(watch.look)
    reporter.metrics(done.step, values)
    if values[watch.score] > done.best:
        done.best, done.best_step, done.looks = values[watch.score], done.step, 0
        if watch.keep_best:
            watch.weights = {name: value.detach().clone() for name, value in watch.model.state_dict().items()}
    else:
        done.looks += 1
    return watch.patience is not None and done.looks >= watch.patience


class _Clock:
    """Times of all attempts: what earlier ones spent and what this one adds."""

    def __init__(self, task: Task, done: Progress) -> None:
        self._task = task
        self._done = done
        self._earlier = done.seconds, done.attack_seconds
        self._start = time.perf_counter()

    def read(self) -> Progress:
        """The run's progress with its times brought up to date."""
        self._done.seconds = self._earlier[0] + time.perf_counter() - self._start
        self._done.attack_seconds = self._earlier[1] + self._task.attack_time.seconds
        return self._done


def _update(task: Task, optimizer: Optimizer, step: int, *, reporter: Reporter, clock: _Clock) -> float:
    """One optimizer update; answers the loss."""
    lr = learning_rate(
        step,
        task.total,
        optimizer=task.optimizer,
        schedule=task.schedule,
        steps_per_epoch=task.steps_per_epoch,
    )
    set_learning_rate(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    loss, extra = task.loss(Moment(step, task.total, step / task.steps_per_epoch, lr))
    value = mean(loss).item()
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step + 1}; a lower learning rate or a warm-up may help")
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(task.modules.parameters())
    number = step + 1
    if number == 1 or number == task.total or number % max(10, task.total // 100) == 0:
        norm = gradient_norm(task.modules.parameters()).item()
        if not math.isfinite(norm):
            raise DivergedError(f"the gradient's norm is {norm} at step {number}; a lower learning rate may help")
        _report(task, number, {"loss": value, "lr": lr, "gradient_norm": norm}, extra, reporter=reporter, clock=clock)
    optimizer.step()
    if task.average is not None:
        task.average.follow()
    return value


def _report(
    task: Task, number: int, values: dict[str, float], extra: Mapping[str, Tensor], *, reporter: Reporter, clock: _Clock
) -> None:
    done = clock.read()
    values["images_per_second"] = number * task.batch_size / done.seconds
    if done.attack_seconds > 0:
        values["attack_share"] = done.attack_seconds / done.seconds
    reporter.metrics(number, values | {name: mean(value).item() for name, value in extra.items()})


def _figures(task: Task, done: Progress) -> dict[str, Any]:
    watched = {} if task.watch is None else {"best_step": done.best_step, f"best_{task.watch.score}": done.best}
    return {
        "steps": done.step,
        "seconds": done.seconds,
        "images_per_second": done.step * task.batch_size / done.seconds,
        "attack_share": done.attack_seconds / done.seconds,
        "final_loss": done.losses[0] / done.losses[1],
        **watched,
    }


def _save(task: Task, optimizer: Optimizer, done: Progress, checkpoints: Checkpoints) -> None:
    if rank() == 0 and not all(bool(weight.isfinite().all()) for weight in task.modules.parameters()):
        raise DivergedError(f"weights are not finite after step {done.step}; a lower learning rate may help")
    state: dict[str, Any] = {
        "kept": dict(task.kept),
        "progress": vars(done).copy(),
        "modules": task.modules.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    if task.average is not None:
        state["average"] = task.average.state_dict()
    if task.watch is not None:
        state["best"] = task.watch.weights
    checkpoints.write(done.step, state)


def kept_by(path: Path | None, *, fingerprint: str) -> dict[str, Any]:
    """``Task.kept`` of the interrupted run whose resume checkpoint this is; of a new run, nothing.

    Raises :class:`models.checkpoints.CheckpointError` for a checkpoint of another run.
    """
    return {} if path is None else dict(read_checkpoint(path, fingerprint=fingerprint)["kept"])


def _restore(state: Mapping[str, Any], task: Task, optimizer: Optimizer) -> Progress:
    task.modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    if task.average is not None:
        task.average.load_state_dict(state["average"])
    if task.watch is not None:
        task.watch.weights = state["best"]
    return Progress(**state["progress"])
