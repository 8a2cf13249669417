"""A small classifier to attack, and what of an attack's result must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.services import models
from models import data
from models.checkpoints import save_model
from models.networks import ImageModel, build_model
from models.specs import BackboneSpec, ModelCard
from tests.deployment import Deployment


def trained_classifier(folder: Path) -> ImageModel:
    """A classifier of digits that a few steps of training made."""
    digits = data.load("digits", root=folder)
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(width=8, blocks=(1,)),
        image_shape=digits.image_shape,
        classes=digits.classes,
        mean=(0.3,),
        std=(0.4,),
    )
    model = build_model(card, seed=0)
    pixels, labels = digits.train.pixels(), digits.train.labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(120):
        batch = torch.arange(step * 64, step * 64 + 64) % len(labels)
        loss = nn.functional.cross_entropy(model(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def register(deployment: Deployment, model: ImageModel) -> None:
    """Put the model into the registry as tiny@1, as a worker does."""
    path = deployment.settings.home / "weights.safetensors"
    save_model(path, model)
    artifact = deployment.storage.put_file(path)
    card = model.card.model_dump(mode="json")
    with deployment.database.writing() as session:
        models.register_version(session, name="tiny", sha256=artifact.sha256, size=artifact.size, card=card)


def verdicts(value: Any) -> Any:
    """A result without clocks, counts of work, and what the service adds."""
    gone = ("seconds", "images_per_second", "forward_images", "examples", "examples_file")
    if isinstance(value, dict):
        return {key: verdicts(item) for key, item in value.items() if key not in gone}
    return [verdicts(item) for item in value] if isinstance(value, list) else value
