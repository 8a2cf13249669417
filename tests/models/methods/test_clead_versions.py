"""C-LEAD of two crops, between perturbed versions, and with an augmentation that fades: a step beside a plain one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.data.loader import Augmentation
from models.methods.clead import CLeadParams, build
from models.methods.clead_learner import CLeadLearner
from models.methods.fading import Fading, FadingSpec
from models.networks import build_model
from models.specs import AugmentationSpec, BackboneSpec, ModelCard
from tests.models.methods.setting import EPS, IMAGES, LABELS, anywhere, moment, plain_nt_xent, plain_pgd, seeded

VIEWS = [{"name": name, "eps": EPS, "steps": 5, "step_size": EPS / 4} for name in ("pgd", "cw")]
FADING = {"stages": 2, "reweighting": 0.6}


def shaken(images: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation that makes two crops differ."""
    return (images + 0.1 * torch.rand(images.shape, generator=generator).to(images)).clamp(0, 1)


def learner(*, double: bool = False, **changes: object) -> CLeadLearner:
    card = ModelCard(
        kind="encoder", backbone=BackboneSpec(width=8, blocks=(1, 1)), image_shape=(1, 8, 8), mean=(0.5,), std=(0.3,)
    )
    encoder = build_model(card, seed=1).train()
    encoder(IMAGES)  # moves the statistics away from their start
    fields: dict[str, Any] = {"dataset": {"name": "digits"}, "views": VIEWS, **changes}
    made = build(CLeadParams.model_validate(fields), encoder, base=None, augment=shaken)
    assert isinstance(made, CLeadLearner)
    made.modules.train()
    if double:
        made.modules.double()
    return made


def embedded(modules: nn.Module, *views: Tensor) -> tuple[Tensor, ...]:
    """By the encoder's own norms, everything in one pass."""
    vectors: Tensor = modules["projection"](modules["encoder"](torch.cat(views)))  # type: ignore[index]
    return vectors.chunk(len(views))


def margins(moved: Tensor, anchors: Tensor) -> Tensor:
    """How much nearer each moved image is to the nearest other image than to its own, added up."""
    nearer = [
        max(moved[image] @ anchors[k] for k in range(len(anchors)) if k != image) - moved[image] @ anchors[image]
        for image in range(len(moved))
    ]
    return torch.stack(nearer).sum()


def climbed(modules: nn.Module, crop: Tensor, against: Tensor, *, name: str, start: Tensor) -> Tensor:
    """PGD of contrastive objectives, step by step, with the model's statistics."""
    twin = copy.deepcopy(modules).eval()
    anchors = embedded(twin, against)[0].detach()

    def objective(points: Tensor) -> Tensor:
        (moved,) = embedded(twin, points)
        return plain_nt_xent(anchors, moved, temperature=0.1) if name == "pgd" else margins(moved, anchors)

    return plain_pgd(objective, crop, start=start, steps=5)


@pytest.mark.parametrize("random_start", [True, False])
def test_a_step_contrasts_one_crop_with_each_perturbed_version_of_the_other(random_start: bool) -> None:
    """In float64, beside attacks and losses by their definitions."""
    made = learner(double=True, views=[{**view, "random_start": random_start} for view in VIEWS])
    images = IMAGES[:8].double()
    generator = seeded()
    first, second = shaken(images, generator), shaken(images, generator)
    starts = [anywhere(second, generator) if random_start else second for _ in VIEWS]
    versions = [
        climbed(made.modules, second, first, name=name, start=start)
        for name, start in zip(("pgd", "cw"), starts, strict=True)
    ]
    clean, *moved = embedded(copy.deepcopy(made.modules).train(), first, *versions)
    pgd, cw = (plain_nt_xent(clean, version, temperature=0.1) for version in moved)
    loss, _ = made.loss(images, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, (pgd + cw) / 2)


@pytest.mark.parametrize("step", [0, 1])
def test_a_step_contrasts_the_two_crops_perturbed_and_clean(step: int) -> None:
    """In float64, beside attacks and losses by their definitions; with every update the views change crops."""
    made = learner(double=True, pairs="versions")
    images = IMAGES[:8].double()
    generator = seeded()
    first, second = shaken(images, generator), shaken(images, generator)
    one, other = ("pgd", "cw") if step == 0 else ("cw", "pgd")
    moved = climbed(made.modules, first, second, name=one, start=anywhere(first, generator))
    moved_second = climbed(made.modules, second, first, name=other, start=anywhere(second, generator))
    twin = copy.deepcopy(made.modules).train()
    adversarial = plain_nt_xent(*embedded(twin, moved, moved_second), temperature=0.1)
    clean = plain_nt_xent(*embedded(twin, first, second), temperature=0.1)  # both norms start as the same ones
    loss, told = made.loss(images, LABELS, moment=moment(step), generator=seeded())
    torch.testing.assert_close(told["adversarial_loss"], adversarial.detach())
    torch.testing.assert_close(loss, (clean + adversarial) / 2)


def test_clean_crops_have_norms_of_their_own_and_the_perturbed_ones_are_published() -> None:
    made = learner(pairs="versions")
    made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())[0].backward()
    ours = [layer for layer in made.published().modules() if isinstance(layer, nn.BatchNorm2d)]
    clean = list(made.modules["clean_norms"].layers)  # type: ignore[index]
    assert len(ours) == len(clean)
    for mine, theirs in zip(ours, clean, strict=True):
        assert not torch.equal(mine.running_mean, theirs.running_mean)
        assert not torch.equal(mine.weight.grad, theirs.weight.grad)


def test_the_weight_moves_to_the_perturbed_pair_as_the_augmentation_fades() -> None:
    made = learner(pairs="versions", fading=FADING, augmentation={"crop_padding": 0, "flip": False})
    for step, omega in ((0, 0), (499, 0), (500, 0.3), (999, 0.3)):
        loss, told = made.loss(IMAGES, LABELS, moment=moment(step), generator=seeded())
        expected = ((1 - omega) * told["clean_loss"] + (1 + omega) * told["adversarial_loss"]) / 2
        torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.parametrize("pairs", ["image", "versions"])
def test_a_faded_augmentation_is_the_weaker_one(pairs: str) -> None:
    strongest = AugmentationSpec(crop_padding=0, crop_area=0.2, jitter=1.0, gray=0.2)
    fading = {"stages": 4, "reweighting": 0}
    made = learner(pairs=pairs, fading=fading, augmentation=strongest.model_dump())
    beside = learner(pairs=pairs)
    beside._augment = Augmentation(strongest.weaker(0.25))
    losses = [each.loss(IMAGES, LABELS, moment=moment(999), generator=seeded())[0].item() for each in (made, beside)]
    assert losses[0] == losses[1]
    beside._augment = Augmentation(strongest)
    assert losses[0] != beside.loss(IMAGES, LABELS, moment=moment(999), generator=seeded())[0].item()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pairs": "versions", "views_in_turn": True}, "pairs"),
        ({"pairs": "versions", "views": VIEWS[:1]}, "pairs"),
        ({"pairs": "versions", "crops": 1}, "pairs"),
        ({"pairs": "versions", "perturbation": "pseudo-label-base", "base_model": "base"}, "pairs"),
        ({"pairs": "versions", "views": []}, "views"),
        ({"pairs": "clean"}, "pairs"),
        ({"fading": {"stages": 0}}, "fading"),
        ({"fading": {"reweighting": 2}}, "fading"),
        ({"fading": 20}, "fading"),
        ({"perturbation": "pseudo-label", "base_model": "base"}, "perturbation"),
    ],
)
def test_pairs_that_cannot_be_are_refused_at_their_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CLeadParams.model_validate({"dataset": {"name": "digits"}, **changes})
    assert [error["loc"][0] for error in caught.value.errors()] == [field]


@pytest.mark.parametrize("stages", [1, 3, 29, 50, 100])
def test_the_augmentation_fades_in_equal_stages(stages: int) -> None:
    fading = Fading(FadingSpec(stages=stages), AugmentationSpec(jitter=1.0))
    strengths = [fading.strength(replace(moment(step), total=stages * 3)) for step in range(stages * 3)]
    assert strengths == [1 - step // 3 / stages for step in range(stages * 3)]
    assert [remark["code"] for remark in fading.remarks()] == (["nothing-fades"] if stages == 1 else [])
