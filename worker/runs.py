"""What a child does for each kind of job: load the inputs, call ``models``, leave the outputs in the folder.

Outputs: ``result.json``; ``weights.safetensors`` and ``card.json`` of a model; ``examples.json`` and ``examples/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoints import load_model, save_model
from models.data import Dataset, load, subset
from models.evaluation import EvaluationResult, evaluate
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.networks import ImageModel
from models.precision import pick_device
from models.probing import probe
from models.specs import ModelCard, ProbeParams
from models.training import TrainingOutcome, train
from worker.pictures import write_example
from worker.pipe import Pipe


@dataclass(frozen=True)
class Task:
    """The supervisor's first line (see :func:`worker.inputs.prepare`)."""

    kind: str
    spec: dict[str, Any]
    folder: Path
    data_root: Path
    device: str
    threads: int
    checkpoint_seconds: float
    models: dict[str, dict[str, Any]]
    upload: Path | None
    resume: Path | None

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Task:
        paths = {name: Path(fields[name]) if fields[name] else None for name in ("upload", "resume")}
        folders = {name: Path(fields[name]) for name in ("folder", "data_root")}
        return cls(**{**fields, **paths, **folders})

    def dataset(self, pipe: Pipe) -> Dataset:
        return load(self.spec["dataset"]["name"], root=self.data_root, upload=self.upload, progress=pipe.progress)

    def model(self, field: str) -> ImageModel | None:
        """The model that this field of the spec names; None for a field left null."""
        if field not in self.models:
            return None
        given = self.models[field]
        return load_model(Path(given["path"]), ModelCard.model_validate(given["card"]))

    def needed_model(self) -> ImageModel:
        model = self.model("model")
        assert model is not None, "the field `model` is not optional where it is used"
        return model


def run(task: Task, pipe: Pipe) -> None:
    """Do the job. Raises :class:`models.progress.Stopped`, and whatever ``models`` raises for bad inputs."""
    runs: dict[str, Callable[[Task, Pipe], None]] = {
        "pretrain": _train,
        "train": _train,
        "probe": _probe,
        "evaluate": _evaluate,
    }
    torch.set_num_threads(task.threads)
    runs[task.kind](task, pipe)


def _train(task: Task, pipe: Pipe) -> None:
    outcome = train(
        METHODS[task.spec["method"]].params.model_validate(task.spec),
        task.dataset(pipe),
        init=task.model("init"),
        base=task.model("base_model"),
        workdir=task.folder,
        resume=task.resume,
        reporter=pipe,
        device=task.device,
        checkpoint_seconds=task.checkpoint_seconds,
    )
    _leave_model(task, outcome)


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
    dataset = task.dataset(pipe)
    split = dataset.train if params.dataset.split == "train" else dataset.test
    evaluation = evaluate(
        task.needed_model(),
        subset(split, params.dataset.subset, seed=params.dataset.seed),
        params,
        reporter=pipe,
        device=pick_device(task.device),
        model_name=task.models["model"]["reference"],
        dataset_info={"sha256": dataset.sha256},
    )
    _write_json(task.folder / "result.json", evaluation.result)
    _leave_examples(task.folder, evaluation, classes=dataset.classes)


def _leave_examples(folder: Path, evaluation: EvaluationResult, *, classes: tuple[str, ...]) -> None:
    """Pictures, and a list of what they show with class names in place of indices."""
    (folder / "examples").mkdir()
    pairs = zip(evaluation.examples["clean"], evaluation.examples["adversarial"], strict=True)
    listed = []
    for position, (shown, (clean, adversarial)) in enumerate(
        zip(evaluation.result["example_predictions"], pairs, strict=True)
    ):
        magnification = write_example(folder / "examples", position, clean=clean, adversarial=adversarial)
        names = {field: classes[shown[field]] for field in ("label", "clean_prediction", "adversarial_prediction")}
        listed.append({**shown, **names, "magnification": magnification})
    _write_json(folder / "examples.json", listed)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
