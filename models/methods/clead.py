"""C-LEAD: contrastive pretraining on images and their PGD and CW perturbed versions (arXiv 2510.27249).

The paper does not say which loss the perturbations climb; ``perturbation`` names three readings. The default,
label-free one is our interpretation: it alone makes frozen features robust to white-box attacks.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from models.fields import ChunkSize, JsonArray
from models.methods.clead_learner import CLeadLearner
from models.methods.clead_versions import VersionsLearner
from models.methods.fading import Fading, FadingSpec
from models.methods.spec import METHODS, Augment, Learner, Method, TrainingAttack
from models.networks import ImageModel
from models.references import ModelRef
from models.specs import OptimizerSpec, ProjectionSpec, ScheduleSpec, TrainingParams

Perturbation = Literal["contrastive", "pseudo-label-online", "pseudo-label-base"]


class View(TrainingAttack):
    """One perturbed version of every image: pgd climbs the loss, cw the margin, of the chosen ``perturbation``."""

    name: Literal["pgd", "cw"] = Field(description="pgd: the loss; cw: the margin")
    steps: int = Field(5, ge=1, le=1_000, description="gradient steps")


class CLeadParams(TrainingParams):
    """C-LEAD's pretraining; defaults are the paper's where it gives them."""

    method: Literal["clead"] = Field("clead", description="name of the method; see GET /methods")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.4)
    schedule: ScheduleSpec = ScheduleSpec(warmup_epochs=10)
    views: Annotated[tuple[View, ...], JsonArray] = Field(
        (View(name="pgd"), View(name="cw")), min_length=1, max_length=4, description="perturbed versions of each image"
    )
    views_in_turn: bool = Field(
        False, description="true: each update takes one of the views, in turn, which is one term of the loss"
    )
    temperature: float = Field(0.1, ge=0.001, le=100, description="τ of the contrastive loss")
    projection: ProjectionSpec = ProjectionSpec()
    chunk_size: ChunkSize = None
    perturbation: Perturbation = Field(
        "contrastive",
        description="what the perturbations climb. contrastive: the contrastive loss itself, without labels; "
        "pseudo-label-online: a linear head trained on the base model's pseudo-labels; "
        "pseudo-label-base: the frozen base model",
    )
    crops: Literal[1, 2] = Field(
        2, description="2: perturbations start from a second augmentation of the image; 1: from the same one"
    )
    pairs: Literal["image", "versions"] = Field(
        "image",
        description="what is contrasted. image: each perturbed version with the image (the paper); versions: one "
        "view's version of a crop with the other view's of another crop, and the clean crops, through batch "
        "normalization of their own, with each other; needs two views, two crops and contrastive perturbations",
    )
    fading: FadingSpec | None = Field(
        None,
        description="the augmentation fades to none in the course of the training, as in dynacl, while pairs of "
        "versions gain weight over clean ones; null: it stays",
    )
    base_model: ModelRef | None = Field(
        None,
        validate_default=True,
        description="registered classifier that gives pseudo-labels; needed by pseudo-label-online and -base alone",
    )

    @field_validator("pairs")
    @classmethod
    def _pairs_that_can_be(cls, pairs: str, info: ValidationInfo) -> str:
        if pairs == "versions":
            chosen = info.data
            views = chosen.get("views")  # none where they were refused themselves
            if (views is not None and len(views) != 2) or chosen.get("views_in_turn"):
                raise ValueError("pairs of versions need two views, both in every update")
            if chosen.get("crops") == 1:
                raise ValueError("pairs of versions need two crops")
            if chosen.get("perturbation", "contrastive") != "contrastive":
                raise ValueError("pairs of versions need contrastive perturbations")
        return pairs

    @field_validator("base_model")
    @classmethod
    def _base_model_where_needed(cls, base_model: str | None, info: ValidationInfo) -> str | None:
        if "perturbation" not in info.data:  # it was refused itself
            return base_model
        perturbation = info.data["perturbation"]
        if perturbation != "contrastive" and base_model is None:
            raise ValueError(f"perturbation {perturbation!r} needs the name of a registered classifier")
        if perturbation == "contrastive" and base_model is not None:
            raise ValueError("perturbation 'contrastive' uses no base model; leave it null")
        return base_model

    @property
    def second_norms(self) -> bool:
        return self.pairs == "versions"


def build(params: CLeadParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    learner = VersionsLearner if params.pairs == "versions" else CLeadLearner
    return learner(
        model,
        augment,
        views=params.views,
        views_in_turn=params.views_in_turn,
        temperature=params.temperature,
        projection=params.projection,
        guide=params.perturbation,
        crops=params.crops,
        chunk_size=params.chunk_size,
        fading=None if params.fading is None else Fading(params.fading, params.augmentation),
        base=base,
        seed=params.seed,
    )


METHODS.add(
    "clead",
    Method(
        name="clead",
        kind="pretrain",
        title="C-LEAD contrastive pretraining",
        params=CLeadParams,
        build=build,
        paper="C-LEAD, arXiv 2510.27249, Eq. 1 and 2",
        formula="min ½ [ℓ(x, x_pgd; τ) + ℓ(x, x_cw; τ)], ℓ = NT-Xent over 2N views",
        few_updates=400,
    ),
)
