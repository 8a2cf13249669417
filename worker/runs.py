"""What a child does for each kind of job: load the inputs, call ``models``, leave the outputs in the folder.

Outputs: ``result.json``; ``weights.safetensors`` and ``card.json`` of a model; ``examples.json``, ``examples/``
and ``examples.safetensors``; ``evidence.safetensors`` of a shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.checkpoints import save_model
from models.corruption_evaluation import evaluate_corruptions
from models.corruption_spec import CorruptionParams
from models.data import Dataset, ImageSet
from models.evaluation import EvaluationResult, conclude, evaluate
from models.evaluation_evidence import Evidence, load_evidence, merge, save_evidence
from models.evaluation_shards import Shard, ShardParams, measure_shard
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.precision import pick_device
from models.probe_spec import ProbeParams
from models.probing import probe
from models.progress import Reporter
from models.resuming import Checkpointing
from models.training import TrainingOutcome, train
from worker.crew import crew
from worker.pictures import write_example
from worker.pipe import Pipe
from worker.task import Task


def run(task: Task, pipe: Pipe) -> None:
    """Do the job. Raises :class:`models.progress.Stopped`, and whatever ``models`` raises for bad inputs."""
    runs: dict[str, Callable[[Task, Pipe], None]] = {
        "pretrain": _train,
        "train": _train,
        "probe": _probe,
        "evaluate": _evaluate,
        "corruptions": _evaluate_corruptions,
        "shard": _shard,
        "merge": _merge,
    }
    torch.set_num_threads(task.threads)
    runs[task.kind](task, pipe)


def _train(task: Task, pipe: Pipe) -> None:
    dataset = task.dataset(pipe)  # before there are mates, who would fetch it, too
    with crew(task, pipe=pipe) as device:
        outcome = train_as(task, dataset, pipe, device=device)
    _leave_model(task, outcome)


def train_as(task: Task, dataset: Dataset, reporter: Reporter, *, device: torch.device) -> TrainingOutcome:
    """The training of the task, as one of its processes."""
    return train(
        METHODS[task.spec["method"]].params.model_validate(task.spec),
        dataset,
        init=task.model("init"),
        base=task.model("base_model"),
        workdir=task.folder,
        resume=task.resume,
        reporter=reporter,
        device=device,
        checkpoint_seconds=task.checkpoint_seconds,
    )


def _probe(task: Task, pipe: Pipe) -> None:
    outcome = probe(
        ProbeParams.model_validate(task.spec),
        task.needed_model(),
        task.dataset(pipe),
        workdir=task.folder,
        resume=task.resume,
        reporter=pipe,
        device=task.device,
        checkpoint_seconds=task.checkpoint_seconds,
    )
    _leave_model(task, outcome)


def _leave_model(task: Task, outcome: TrainingOutcome) -> None:
    save_model(task.folder / "weights.safetensors", outcome.model)
    _write_json(task.folder / "card.json", outcome.model.card.model_dump(mode="json"))
    _write_json(task.folder / "result.json", outcome.result)


def _evaluate(task: Task, pipe: Pipe) -> None:
    params = EvaluationParams.model_validate(task.spec)
    images, sha256 = task.images(params.dataset, pipe)
    evaluation = evaluate(
        task.needed_model(),
        images,
        params,
        reporter=pipe,
        device=pick_device(task.device),
        model_name=task.models["model"]["reference"],
        dataset_info={"sha256": sha256},
        sources=task.sources(),
        checkpointing=task.checkpointing,
    )
    _leave_evaluation(task.folder, evaluation, classes=images.classes)


def _shard(task: Task, pipe: Pipe) -> None:
    params = ShardParams.model_validate(task.spec)
    images, _ = task.images(params.dataset, pipe)
    evidence = _measure(task, pipe, params, images=images, shard=params.shard, checkpointing=task.checkpointing)
    save_evidence(task.folder / "evidence.safetensors", evidence)
    _write_json(task.folder / "result.json", {"images": len(evidence), "seconds": evidence.seconds})


def _merge(task: Task, pipe: Pipe) -> None:
    """What a shard saw and the storage lost is computed here: it costs time, and not the evaluation."""
    params = EvaluationParams.model_validate(task.spec)
    images, sha256 = task.images(params.dataset, pipe)
    of = len(task.evidence)
    evidence = [
        _measure(task, pipe, params, images=images, shard=Shard(index=index, of=of))
        if path is None
        else load_evidence(path)
        for index, path in enumerate(task.evidence)
    ]
    evaluation = conclude(
        params,
        merge(evidence),
        classes=images.classes,
        shape=images.image_shape,
        model_name=task.models["model"]["reference"],
        dataset_info={"sha256": sha256},
    )
    _leave_evaluation(task.folder, evaluation, classes=images.classes)


def _measure(
    task: Task,
    pipe: Pipe,
    params: EvaluationParams,
    *,
    images: ImageSet,
    shard: Shard,
    checkpointing: Checkpointing | None = None,
) -> Evidence:
    return measure_shard(
        task.needed_model(),
        images,
        params,
        shard=shard,
        reporter=pipe,
        device=pick_device(task.device),
        sources=task.sources(),
        checkpointing=checkpointing,
    )


def _evaluate_corruptions(task: Task, pipe: Pipe) -> None:
    params = CorruptionParams.model_validate(task.spec)
    images, sha256 = task.images(params.dataset, pipe)
    result = evaluate_corruptions(
        task.needed_model(),
        images,
        params,
        reporter=pipe,
        device=pick_device(task.device),
        model_name=task.models["model"]["reference"],
        dataset_info={"sha256": sha256},
        checkpointing=task.checkpointing,
    )
    _write_json(task.folder / "result.json", result)


def _leave_evaluation(folder: Path, evaluation: EvaluationResult, *, classes: tuple[str, ...]) -> None:
    """The result; of the examples the exact pixels, pictures, and a list of what they show with names of classes."""
    _write_json(folder / "result.json", evaluation.result)
    (folder / "examples").mkdir()
    pairs = zip(evaluation.examples["clean"], evaluation.examples["adversarial"], strict=True)
    listed = []
    for position, (shown, (clean, adversarial)) in enumerate(
        zip(evaluation.result["example_predictions"], pairs, strict=True)
    ):
        write_example(folder / "examples", position, clean=clean, adversarial=adversarial)
        names = {field: classes[shown[field]] for field in ("label", "clean_prediction", "adversarial_prediction")}
        listed.append({**shown, **names})
    _write_json(folder / "examples.json", listed)
    told = {field: [shown[field] for shown in evaluation.result["example_predictions"]] for field in ("index", "label")}
    tensors = {field: torch.tensor(values, dtype=torch.int64) for field, values in told.items()}
    save_file({**evaluation.examples, **tensors}, folder / "examples.safetensors")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
