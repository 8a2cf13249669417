"""Self-training: another model labels the images that have no label; then adversarial training on all of them.

With a classifier trained on the labelled part this is robust self-training (Carmon et al. 2019, arXiv 1905.13736;
Uesato et al. 2019, arXiv 1905.13725). With the clusters of an encoder's features it is the second phase of DynACL++
(Luo et al. 2023, arXiv 2303.01289, §4.3), without its 10 epochs of the head alone: ``init`` and ``base_model`` are
that encoder, and ``objective`` is TRADES'.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator

from models.data.images import DataError, ImageSet
from models.measurement import features_of, predictions_of
from models.methods.objectives import AnyObjective
from models.methods.pgd_at import PGDATObjective
from models.methods.spec import METHODS, Augment, Learner, Method, Objective
from models.methods.supervised import STEPS, SupervisedParams
from models.networks import Classifier, ImageModel, IncompatibleModelError
from models.references import ModelRef
from models.specs import OptimizerSpec, ScheduleSpec

STARTS = 10
"""Of k-means, of which the best is taken."""


class SelfTrainingParams(SupervisedParams):
    """Defaults are those of ``pgd-at``."""

    method: Literal["self-training"] = Field("self-training", description="name of the method; see GET /methods")
    base_model: ModelRef = Field(
        description="registered model that the pseudo-labels are of: a classifier trained on the labelled part, by "
        "standard as a rule; for clusters, any model"
    )
    pseudo_labels: Literal["classifier", "clusters"] = Field(
        "classifier",
        description="classifier: the base model's predictions, for the images without a label; clusters: k-means on "
        "its features, for all images, whose labels are not looked at",
    )
    clusters: int | None = Field(
        None, ge=2, le=100_000, description="number of clusters; null: as many as the data has classes"
    )
    objective: Annotated[Objective, AnyObjective()] = Field(
        PGDATObjective(), description="what is minimized: an adversarial method by its name, with its own fields"
    )
    epochs: int = Field(110, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=5e-4)
    schedule: ScheduleSpec = STEPS

    @field_validator("pseudo_labels")
    @classmethod
    def _clusters_without_validation(cls, pseudo_labels: str, info: ValidationInfo) -> str:
        if pseudo_labels == "clusters" and info.data.get("validation") is not None:
            raise ValueError("clusters are no classes to validate by; leave validation null")
        return pseudo_labels

    @field_validator("clusters")
    @classmethod
    def _clusters_that_are_made(cls, clusters: int | None, info: ValidationInfo) -> int | None:
        if clusters is not None and info.data.get("pseudo_labels") == "classifier":
            raise ValueError('a classifier makes no clusters; leave it null, or give pseudo_labels "clusters"')
        return clusters

    @property
    def second_norms(self) -> bool:
        return self.objective.second_norms


def cluster_names(count: int) -> tuple[str, ...]:
    """The classes of a classifier that was trained on so many clusters."""
    return tuple(f"cluster-{number}" for number in range(count))


def relabel(
    params: SelfTrainingParams, images: ImageSet, *, known: torch.Tensor, base: ImageModel | None, device: torch.device
) -> ImageSet:
    """All images, with pseudo-labels in the place of those that are not ``known``; see :class:`Method`."""
    assert base is not None, "the field is not optional"
    if params.pseudo_labels == "clusters":
        count = params.clusters or len(images.classes)
        if count > len(images):
            raise DataError(f"{count} clusters of {len(images)} images: ask for at most as many")
        features = features_of(base, images, device=device).cpu().double().numpy()
        from sklearn.cluster import KMeans  # costs a third of a process's start, and clusters alone need it

        found = KMeans(count, n_init=STARTS, random_state=params.seed % 2**32).fit_predict(features)
        return ImageSet(images.images, torch.from_numpy(found).long(), cluster_names(count))
    if not isinstance(base, Classifier):
        raise IncompatibleModelError("pseudo-labels of a classifier need a classifier as base model; or take clusters")
    if base.card.classes != images.classes:
        raise IncompatibleModelError(
            f"the base model tells {base.head.out_features} classes apart; the data has {len(images.classes)}, "
            "and they must have the same names in the same order"
        )
    labels = predictions_of(base, images, device=device)
    labels[known] = images.labels[known]
    return ImageSet(images.images, labels, images.classes)


def build(params: SelfTrainingParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    """The learner of the objective's method, in a training that is otherwise this one."""
    method = METHODS[params.objective.method]
    shared = {name: getattr(params, name) for name in SupervisedParams.model_fields}
    return method.build(
        method.params.model_validate(shared | dict(params.objective)), model, base=None, augment=augment
    )


METHODS.add(
    "self-training",
    Method(
        name="self-training",
        kind="train",
        title="Self-training",
        params=SelfTrainingParams,
        build=build,
        paper="Carmon et al. 2019, Unlabeled data improves adversarial robustness, arXiv 1905.13736",
        formula="ŷ = argmax base(x) where y is unknown; min CE(h(x'), ŷ), or another method's objective on ŷ",
        teacher="standard",
        relabel=relabel,
    ),
)
