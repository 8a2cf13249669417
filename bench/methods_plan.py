"""Ways to a classifier that ``bench.methods`` compares: stages of training, each with its share of the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, objective_body, perturbation_size, training_body
from app.services.recipes import Preset
from models.methods.spec import METHODS
from models.specs import SIMCLR

MOST_EPOCHS = 2000


@dataclass(frozen=True)
class Stage:
    """A training by ``method``, as the preset trains it but for ``fields`` (an objective by its method's name), and
    C-LEAD in the paper's form: its views' radius ``radius`` times the one attacked with, reached in ``steps`` if given,
    and so another pretraining's attack where one of the two is.

    ``uses``: field → number of the stage whose model it names.
    ``probed``: its model is a linear probe on the frozen backbone that the training leaves.
    """

    method: str
    share: float = 1.0
    fields: dict[str, Any] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    radius: float = 1.0
    steps: int | None = None
    probed: bool = False

    @property
    def kind(self) -> str:
        return METHODS[self.method].kind

    @property
    def uses_labels(self) -> bool:
        return self.kind == "train" and self.fields.get("pseudo_labels") != "clusters"

    @property
    def name(self) -> str:
        """Of its cost and of its model: the method, and the fields that set it apart."""
        marks = [key if isinstance(value, dict) else f"{key}-{value}" for key, value in self.fields.items()]
        marks += [f"radius-{self.radius:g}"] if self.radius != 1 else []
        marks += [f"steps-{self.steps}"] if self.steps is not None else []
        return "-".join([self.method, *marks])


@dataclass(frozen=True)
class Way:
    """Stages one after the other; the last one's model is the classifier.

    ``unlabelled``: it is about images without a label, and the same as another way where there are none.
    """

    stages: tuple[Stage, ...]
    unlabelled: bool = False

    @property
    def frozen(self) -> bool:
        """Whether no label shaped the classifier's backbone."""
        return self.stages[-1].probed


IN_TURN = {"views_in_turn": True}
VERSIONS = {"pairs": "versions", "fading": {}, "augmentation": SIMCLR.model_dump()}
BY_FAST_AT = {"objective": "fast-at"}
CLUSTERS = {"pseudo_labels": "clusters", "objective": "trades"}


def _pretrained(method: str) -> Way:
    return Way((Stage(method, probed=True),))


def _on_clusters(method: str) -> Way:
    """DynACL's second phase, on the encoder of any method."""
    second = Stage("self-training", 0.4, fields=CLUSTERS, uses={"init": 0, "base_model": 0}, probed=True)
    return Way((Stage(method, 0.6), second))


WAYS: dict[str, Way] = {
    **{name: Way((Stage(name),)) for name in ("standard", "pgd-at", "trades", "fat", "fast-at", "las-at", "advprop")},
    "self-training": Way(
        (Stage("standard", 0.2), Stage("self-training", 0.8, uses={"base_model": 0})),
        unlabelled=True,
    ),
    "self-training by fast-at": Way(
        (Stage("standard", 0.2), Stage("self-training", 0.8, fields=BY_FAST_AT, uses={"base_model": 0})),
        unlabelled=True,
    ),
    "simclr": _pretrained("simclr"),
    "clead": _pretrained("clead"),
    "clead at 1.5 ε": Way((Stage("clead", radius=1.5, probed=True),)),
    "clead at 1.5 ε, 2 steps": Way((Stage("clead", radius=1.5, steps=2, probed=True),)),
    "clead at 1.5 ε, 2 steps, views in turn": Way((Stage("clead", fields=IN_TURN, radius=1.5, steps=2, probed=True),)),
    "simclr, then clead at 1.5 ε, 2 steps, views in turn": Way(
        (
            Stage("simclr", 0.3),
            Stage("clead", 0.7, fields=IN_TURN, uses={"init": 0}, radius=1.5, steps=2, probed=True),
        )
    ),
    "clead at 1.5 ε, 2 steps, between versions, fading": Way(
        (Stage("clead", fields=VERSIONS, radius=1.5, steps=2, probed=True),)
    ),
    "rocl": _pretrained("rocl"),
    "acl": _pretrained("acl"),
    "dynacl": _pretrained("dynacl"),
    "dynacl at 1.5 ε, 2 steps": Way((Stage("dynacl", radius=1.5, steps=2, probed=True),)),
    "deacl": Way((Stage("simclr", 0.4), Stage("deacl", 0.6, uses={"base_model": 0}, probed=True))),
    "dynacl, then its clusters": _on_clusters("dynacl"),
    "clead, then its clusters": _on_clusters("clead"),
    "clead, then self-training": Way(
        (
            Stage("clead", 0.4),
            Stage("standard", 0.1),
            Stage("self-training", 0.5, uses={"init": 0, "base_model": 1}),
        ),
        unlabelled=True,
    ),
    "simclr, whose probe labels for self-training": Way(
        (Stage("simclr", 0.4, probed=True), Stage("self-training", 0.6, uses={"init": 0, "base_model": 0})),
        unlabelled=True,
    ),
    "simclr, whose probe labels for self-training from clead": Way(
        (
            Stage("simclr", 0.3, probed=True),
            Stage("clead", 0.2, fields=IN_TURN, uses={"init": 0}, radius=1.5, steps=2),
            Stage("self-training", 0.5, uses={"init": 1, "base_model": 0}),
        ),
        unlabelled=True,
    ),
    "clead, whose probe labels for self-training": Way(
        (
            Stage("clead", 0.5, fields=IN_TURN, radius=1.5, steps=2, probed=True),
            Stage("self-training", 0.5, uses={"init": 0, "base_model": 0}),
        ),
        unlabelled=True,
    ),
    "clead, whose probe labels for self-training by fast-at": Way(
        (
            Stage("clead", 0.5, fields=IN_TURN, radius=1.5, steps=2, probed=True),
            Stage("self-training", 0.5, fields=BY_FAST_AT, uses={"init": 0, "base_model": 0}),
        ),
        unlabelled=True,
    ),
}
"""By name."""


def stage_body(
    stage: Stage, data: DatasetInfo, *, preset: Preset, images: int | None, fraction: float, epochs: int, seed: int
) -> dict[str, Any]:
    """What is posted: the preset's, for so many epochs on so many images with labels for a ``fraction`` of them."""
    chosen = {"name": data.name, "subset": images, "labels_fraction": fraction}
    params = ProtocolParams.model_validate(
        {"preset": preset, "dataset": chosen, "methods": [stage.method], "seed": seed}
    )
    body = training_body(params, data, method=stage.method)
    body.pop("validation", None)  # too short for robust overfitting, and what a few images choose is noise
    body.pop("views_in_turn", None)
    if "objective" in stage.fields:
        body["objective"] = objective_body(params, data, method=stage.fields["objective"])
    fields = {name: value for name, value in stage.fields.items() if name != "objective"}
    body |= {"epochs": epochs, "schedule": {"name": "cosine", "warmup_epochs": epochs / 10}, **fields}
    eps = perturbation_size(data.image_shape)
    if "views" in body:
        body["views"] = [_in_the_ball(view, stage, eps=eps) for view in body["views"]]
    elif stage.radius != 1 or stage.steps is not None:
        body["attack"] = _in_the_ball(body["attack"], stage, eps=eps)
    return body


def _in_the_ball(attack: dict[str, Any], stage: Stage, *, eps: float) -> dict[str, Any]:
    """In the stage's ball, whatever the preset's is; fewer steps are longer by as much."""
    steps = stage.steps or attack["steps"]
    radius = stage.radius / (attack["eps"] / eps)
    scale = radius * attack["steps"] / steps
    return attack | {"steps": steps, "eps": radius * attack["eps"], "step_size": scale * attack["step_size"]}
