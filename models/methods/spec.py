"""The shape of a training method and of its registry entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from models.attacks.spec import IterativeParams
from models.data.images import ImageSet
from models.networks import ImageModel
from models.progress import Moment
from models.registry import Registry
from models.specs import Spec, TrainingParams
from models.stopwatch import Stopwatch

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images (N, C, H, W) in [0, 1] → randomly augmented copies of the same shape."""


class TrainingAttack(IterativeParams):
    """The attack inside a training step: all images take every step, and the last iterate is trained on."""

    name: Literal["pgd", "cw"] = Field("pgd", description="pgd climbs the cross-entropy, cw the margin")
    steps: int = Field(10, ge=1, le=1_000, description="gradient steps")
    restarts: Literal[1] = Field(1, description="one; restarts are for evaluations")


class Objective(Spec):
    """What a supervised method minimizes: the fields that are the method's own, whatever the training around it."""

    method: str = Field(description="name of the method; see GET /methods")

    @property
    def second_norms(self) -> bool:
        """Whether a second set of batch normalization is trained beside the backbone's."""
        return False


class Learner(Protocol):
    """A method at work on one model.

    ``modules`` holds everything that is trained and goes into a resume checkpoint. All randomness of a step comes from
    its generator, so that the same step repeated gives the same loss.
    """

    modules: nn.Module
    attack_time: Stopwatch

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to be minimized for images (N, C, H, W) in [0, 1], not yet augmented, and labels (N,).

        Beside it, further scalars worth a plot.
        """

    def remarks(self) -> list[dict[str, str]]:
        """What its owner should know about this training, as warnings of a result: ``code`` and ``detail``."""

    def published(self) -> ImageModel:
        """The model that the training is for, without what only helped to train it."""


@dataclass(frozen=True)
class Method:
    """A registered method.

    ``build(params, model, base=..., augment=...)`` answers a :class:`Learner` that trains ``model`` (an encoder for
    kind "pretrain", a classifier for "train"); ``base`` is the model named by ``params.base_model``, or None.
    ``few_updates``: with fewer optimizer updates than this the method is known to learn little. ``teacher``: the
    method that trains the ``base_model`` which this one cannot do without. ``relabel(params, images, known=...,
    base=..., device=...)`` answers the images as they are trained on; ``known``: positions of those whose labels may
    be used. Without it the others are left out. ``objective``: the part of ``params`` that says what an adversarial
    method minimizes, by which other methods can train, too. ``defends``: false where an attack serves clean accuracy,
    so that robust accuracy is no measure of the training.
    """

    name: str
    kind: Literal["pretrain", "train"]
    title: str
    params: type[TrainingParams]
    build: Callable[..., Learner]
    paper: str
    formula: str
    few_updates: int = 0
    teacher: str | None = None
    relabel: Callable[..., ImageSet] | None = None
    objective: type[Objective] | None = None
    defends: bool = True


METHODS: Registry[Method] = Registry("method", package="models.methods")
