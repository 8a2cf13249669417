"""White-box evaluation of a classifier: attack what it gets right, count what it still gets right.

:func:`measure` attacks images, any part of them; :func:`conclude` turns what all parts saw into one result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attacks.spec import ATTACKS
from models.data.images import ImageSet
from models.evaluation_checks import AttackError
from models.evaluation_evidence import Evidence
from models.evaluation_examples import Examples
from models.evaluation_report import Outcome, report
from models.evaluation_run import Run
from models.evaluation_spec import EvaluationParams
from models.evaluation_warnings import warnings
from models.precision import exact_float32
from models.progress import Reporter, Stopped
from models.resuming import Checkpointing, Checkpoints, fingerprint
from models.statistics import wilson_interval

__all__ = ["AttackError", "EvaluationResult", "conclude", "evaluate", "measure", "wilson_interval"]


@dataclass(frozen=True)
class EvaluationResult:
    """``result``: JSON in the shape of POST /evaluate. ``examples``: ``clean`` and ``adversarial``, (M, C, H, W)."""

    result: dict[str, Any]
    examples: dict[str, Tensor]


def evaluate(
    model: nn.Module,
    images: ImageSet,
    params: EvaluationParams,
    *,
    reporter: Reporter,
    device: torch.device | str,
    model_name: str = "",
    dataset_info: Mapping[str, Any] | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    checkpointing: Checkpointing | None = None,
) -> EvaluationResult:
    """Run every attack of ``params`` on the images that ``model`` gets right; it stays as it was, bit for bit.

    ``dataset_info`` goes into the result's ``dataset`` beside name, split and size. ``sources``: the models that
    transfer attacks craft on, by reference. ``checkpointing`` and errors: as in :func:`measure`.
    """
    evidence = measure(
        model, images, params, reporter=reporter, device=device, sources=sources, checkpointing=checkpointing
    )
    return conclude(
        params,
        evidence,
        classes=images.classes,
        model_name=model_name,
        dataset_info=dataset_info,
        shape=images.image_shape,
    )


def measure(
    model: nn.Module,
    images: ImageSet,
    params: EvaluationParams,
    *,
    reporter: Reporter,
    device: torch.device | str,
    sources: Mapping[str, nn.Module] | None = None,
    ids: Tensor | None = None,
    total: int | None = None,
    checkpointing: Checkpointing | None = None,
) -> Evidence:
    """Attack ``images``, which are those at the positions ``ids`` (default: all) of the evaluation's ``total``.

    What happens to an image depends on the model, the spec and its position alone, not on the images beside it.
    With ``checkpointing`` resume checkpoints are written between chunks of images and between the parts of an ensemble
    attack; an evaluation that goes on from one sees, but for its seconds, what one that was never interrupted sees.
    Raises ValueError without images, :class:`AttackError`, :class:`models.checkpoints.CheckpointError` for a checkpoint
    of another evaluation, and :class:`models.progress.Stopped`, after a checkpoint, when the reporter asks.
    """
    if not len(images):
        raise ValueError("there are no images to evaluate on")
    ids = torch.arange(len(images)) if ids is None else ids
    checkpoints = None
    if checkpointing is not None:
        run_id = fingerprint(params, f"{ids.tolist()} {images.labels.tolist()}")  # pixels depend on who decodes them
        checkpoints = Checkpoints(checkpointing, fingerprint=run_id, reporter=reporter)
    run = Run(
        images,
        params,
        ids=ids,
        total=len(images) if total is None else total,
        reporter=reporter,
        device=torch.device(device),
        checkpoints=checkpoints,
    )
    try:
        with exact_float32(run.device):
            return _seen(run, images, params, model=model, sources=sources or {})
    except Stopped:
        run.save()
        raise


def _seen(
    run: Run, images: ImageSet, params: EvaluationParams, *, model: nn.Module, sources: Mapping[str, nn.Module]
) -> Evidence:
    run.take_on(model, sources)
    run.clean()
    attacks = tuple(run.attack(params) for params in params.attacks)
    curve = run.curve(attacks)
    health = run.health() if params.sanity_checks else {}
    forwards, gradients = run.victim.work.forwards, run.victim.work.gradients
    examples = run.rounded_examples()  # not counted: shards look at more examples than are kept in the end
    return Evidence(
        ids=run.ids,
        labels=images.labels,
        predictions=run.state.predictions,
        right=run.state.right,
        attacks=attacks,
        curve=curve,
        examples=examples,
        health=health,
        forwards=forwards,
        gradients=gradients,
        seconds=run.seconds,
    )


def conclude(
    params: EvaluationParams,
    evidence: Evidence,
    *,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    model_name: str = "",
    dataset_info: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """The result of an evaluation from the evidence of all its images."""
    info = {"name": params.dataset.name, "split": params.dataset.split, **(dataset_info or {}), "size": len(evidence)}
    examples = Examples(params.examples, images=len(evidence), seed=params.seed)
    for example in evidence.examples:
        examples.offer(example)
    outcomes = [
        Outcome(ATTACKS[attack.name], attack, evidence.right, seen)
        for attack, seen in zip(params.attacks, evidence.attacks, strict=True)
    ]
    numbers = report(params, evidence, outcomes=outcomes, classes=classes)
    asked = numbers["requirements"]
    result = {
        "model": model_name or params.model,
        "dataset": info,
        **numbers,
        "warnings": warnings(params, evidence, outcomes=outcomes, requirements=asked, shape=shape),
        "example_predictions": examples.predictions(),
        "examples_surviving_8bit": examples.surviving_8bit(),
    }
    return EvaluationResult(result, examples.tensors(shape))
