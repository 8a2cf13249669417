"""What a child is told to do, and the inputs that it then loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from app.cores import torch_threads
from models.checkpoints import load_model
from models.data import Dataset, ImageSet, load, subset
from models.networks import ImageModel
from models.progress import Reporter
from models.resuming import Checkpointing
from models.specs import EvaluationData, ModelCard


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
    evidence: tuple[Path | None, ...]

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Task:
        paths = {name: Path(fields[name]) if fields[name] else None for name in ("upload", "resume")}
        folders = {name: Path(fields[name]) for name in ("folder", "data_root")}
        evidence = tuple(None if path is None else Path(path) for path in fields["evidence"])
        threads = torch_threads(fields["threads"])
        return cls(**{**fields, **paths, **folders, "threads": threads, "evidence": evidence})

    @property
    def devices(self) -> int:
        """How many processes, one a device, share the job's batches."""
        return int(self.spec.get("devices", 1))

    @property
    def checkpointing(self) -> Checkpointing:
        """Of an evaluation."""
        return Checkpointing(self.folder, self.resume, seconds=self.checkpoint_seconds)

    def dataset(self, reporter: Reporter) -> Dataset:
        return load(self.spec["dataset"]["name"], root=self.data_root, upload=self.upload, progress=reporter.progress)

    def images(self, data: EvaluationData, reporter: Reporter) -> tuple[ImageSet, str]:
        """The part of the data set that is evaluated on, and the SHA-256 of the whole set."""
        dataset = self.dataset(reporter)
        split = dataset.train if data.split == "train" else dataset.test
        return subset(split, data.subset, seed=data.seed), dataset.sha256

    def model(self, field: str) -> ImageModel | None:
        """The model that this field of the spec names; None for a field left null."""
        if field not in self.models:
            return None
        given = self.models[field]
        return load_model(Path(given["path"]), ModelCard.model_validate(given["card"]))

    def sources(self) -> dict[str, nn.Module]:
        """The models that fields inside the spec name (transfer attacks' sources), by reference, each loaded once."""
        nested = {given["reference"]: field for field, given in self.models.items() if "/" in field}
        return {reference: model for reference, field in nested.items() if (model := self.model(field)) is not None}

    def needed_model(self) -> ImageModel:
        model = self.model("model")
        assert model is not None, "the field `model` is not optional where it is used"
        return model
