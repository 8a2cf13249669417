"""SimCLR, RoCL, ACL, DynACL and DeACL: a step beside a plain one, and attacks that raise what they should."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.data.loader import Augmentation
from models.losses import NTXent
from models.methods import acl, deacl, dynacl, rocl, simclr
from models.methods.contrastive import ContrastiveAttack, ContrastiveLearner
from models.methods.dynacl import DynACLLearner
from models.networks import ImageModel, build_model
from models.specs import BackboneSpec, ModelCard
from tests.models.methods.setting import (
    EPS,
    IMAGES,
    LABELS,
    anywhere,
    moment,
    norms,
    plain_nt_xent,
    plain_pgd,
    same,
    seeded,
)

ATTACK = {"eps": EPS, "steps": 5, "step_size": EPS / 4}
SPEC: dict[str, Any] = {"dataset": {"name": "digits"}}
BUILD = {"simclr": simclr, "rocl": rocl, "acl": acl, "dynacl": dynacl}


def encoder(*, seed: int = 1, width: int = 8) -> ImageModel:
    card = ModelCard(
        kind="encoder",
        backbone=BackboneSpec(width=width, blocks=(1, 1)),
        image_shape=(1, 8, 8),
        mean=(0.5,),
        std=(0.3,),
    )
    model = build_model(card, seed=seed).train()
    model(IMAGES)  # moves the statistics away from their start
    return model


def shaken(images: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation that makes two views differ."""
    return (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)


def learner(method: str, **changes: object) -> Any:
    module: Any = BUILD[method]
    fields = SPEC | ({} if method == "simclr" else {"attack": ATTACK}) | changes
    (params,) = (value for name, value in vars(module).items() if name.lower() == f"{method}params")
    return module.build(params.model_validate(fields), encoder(), base=None, augment=shaken)


def views() -> tuple[Tensor, Tensor]:
    generator = seeded()
    return shaken(IMAGES, generator), shaken(IMAGES, generator)


def embed(made: ContrastiveLearner, *images: Tensor) -> tuple[Tensor, ...]:
    """By a copy in train mode, everything in one pass."""
    twin = copy.deepcopy(made.modules).train()
    embedded: Tensor = twin["projection"](twin["encoder"](torch.cat(images)))  # type: ignore[index]
    return embedded.chunk(len(images))


def test_simclr_is_the_contrastive_loss_of_two_views() -> None:
    made = learner("simclr")
    expected = plain_nt_xent(*embed(made, *views()))
    loss, _ = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, expected)
    assert made.remarks()[0]["code"] == "no-defence"


def test_a_rocl_step_is_three_views_and_a_regularizer() -> None:
    made = learner("rocl", regularization=0.25)
    first, second = views()
    generator = seeded()
    shaken(IMAGES, generator), shaken(IMAGES, generator)
    attacked = made.attack_one(first, second, attack=ContrastiveAttack(**ATTACK), generator=generator)
    one, two, moved = embed(made, first, second, attacked)
    loss, _ = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, plain_nt_xent(one, two, moved) + 0.25 * plain_nt_xent(moved, two))


@pytest.mark.parametrize("streams", ["a2a", "a2s", "ds"])
def test_an_acl_step_is_that_of_its_streams(streams: str) -> None:
    made = learner("acl", streams=streams)
    first, second = views()
    generator = seeded()
    shaken(IMAGES, generator), shaken(IMAGES, generator)
    attack = ContrastiveAttack(**ATTACK)
    if streams == "a2s":  # clean and attacked views go through norms of their own, which start as the same ones
        moved = made.attack_one(first, second, attack=attack, generator=generator)
        expected = plain_nt_xent(*embed(made, moved), *embed(made, second))
    else:
        pair = made.attack_both(first, second, attack=attack, generator=generator)
        expected = plain_nt_xent(*embed(made, *pair))
    if streams == "ds":
        expected = (expected + plain_nt_xent(*embed(made, first, second))) / 2  # both norms start as the same ones
    before = {name: value.clone() for name, value in made.published().state_dict().items()}
    loss, told = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, expected)
    assert ("clean_loss" in told) == (streams == "ds")
    changed = {name for name, value in made.published().state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)


@pytest.mark.parametrize("streams", ["a2s", "ds"])
def test_attacked_and_clean_views_each_have_norms_of_their_own(streams: str) -> None:
    """In float64, beside two networks that differ in their norms alone, and an attack by its definition."""
    made = learner("acl", streams=streams)
    made.modules.double()
    ours, clean, head = (copy.deepcopy(made.modules[name]) for name in ("encoder", "encoder", "projection"))
    auxiliary = norms(made.modules["clean_norms"])
    for own, other in zip(norms(clean), auxiliary, strict=True):
        with torch.no_grad():  # both norms start as the same ones
            other.weight.mul_(1.5)
            other.running_mean.add_(0.2)
        own.load_state_dict(other.state_dict())
    images, generator = IMAGES[:8].double(), seeded()
    first, second = shaken(images, generator), shaken(images, generator)
    anchors = head(clean.eval()(second)).detach()

    def objective(points: Tensor) -> Tensor:
        vectors: Tensor = head(ours.eval()(points))
        return plain_nt_xent(vectors, anchors) if streams == "a2s" else plain_nt_xent(*vectors.chunk(2))

    attacked, unattacked = (first, second) if streams == "a2s" else (torch.cat((first, second)),) * 2
    moved = plain_pgd(objective, attacked, start=anywhere(attacked, generator), steps=5)
    vectors, others = head(ours.train()(moved)), head(clean.train()(unattacked))
    if streams == "a2s":
        expected = plain_nt_xent(vectors, others)
    else:
        expected = (plain_nt_xent(*others.chunk(2)) + plain_nt_xent(*vectors.chunk(2))) / 2
    loss, _ = made.loss(images, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, expected)
    for found, twin in ((norms(made.published()), norms(ours)), (auxiliary, norms(clean))):
        for layer, same_layer in zip(found, twin, strict=True):
            torch.testing.assert_close(layer.state_dict(), same_layer.state_dict())


def test_attacks_raise_the_contrastive_loss_inside_the_ball() -> None:
    made = learner("acl", temperature=0.1)
    first, second = views()
    attack = ContrastiveAttack(**ATTACK)
    state = {name: value.clone() for name, value in made.modules.state_dict().items()}
    alone = made.attack_one(first, second, attack=attack, generator=seeded())
    both = made.attack_both(first, second, attack=attack, generator=seeded())
    assert all(torch.equal(state[name], value) for name, value in made.modules.state_dict().items())
    assert made.attack_time.seconds > 0
    made.modules.eval()
    noise = [EPS * (2 * torch.rand(IMAGES.shape, generator=seeded(seed)) - 1) for seed in (5, 6)]
    with torch.no_grad():
        z = [made.embed(points.clamp(0, 1))[0] for points in (first, second, first + noise[0], second + noise[1])]
        contrast = NTXent(0.1)
        assert contrast(*made.embed(alone), z[1]) > contrast(z[2], z[1]) + 0.01
        assert contrast(*(made.embed(points)[0] for points in both)) > contrast(z[2], z[3]) + 0.01
    for points, images in ((alone, first), (both[0], first), (both[1], second)):
        assert (points - images).abs().max() <= EPS + 1e-6 and points.min() >= 0 and points.max() <= 1


def test_dynacls_augmentation_fades_while_the_attacked_pair_gains_weight() -> None:
    made = learner("dynacl", stages=4)
    assert isinstance(made, DynACLLearner)
    steps = [moment(step) for step in (0, 249, 250, 999)]
    assert [made.fading.strength(step) for step in steps] == [1, 1, 0.75, 0.25]
    assert [made.adversarial_weight(step) for step in steps] == pytest.approx([0, 0, 1 / 6, 1 / 2])
    last, strongest = made.augmentation(moment(999)), dynacl.DynACLParams.model_validate(SPEC).augmentation
    assert isinstance(last, Augmentation)
    weak = strongest.weaker(0.25)
    assert (weak.crop_area, weak.jitter, weak.gray) == (1 - 0.25 * 0.9, 0.25, 0.05)
    none = strongest.weaker(0)
    assert (none.crop_area, none.jitter, none.gray, none.flip) == (1, 0, 0, True)


def test_a_dynacl_step_weighs_the_two_streams() -> None:
    quiet = {"flip": False, "crop_area": 1.0, "jitter": 0.0, "gray": 0.0}
    made = learner("dynacl", stages=2, augmentation=quiet)
    assert made.remarks()[0]["code"] == "nothing-fades"
    assert not learner("dynacl").remarks()
    loss, told = made.loss(IMAGES, LABELS, moment=moment(500), generator=seeded())
    omega = 2 / 3 * 0.5
    expected = ((1 - omega) * told["clean_loss"] + (1 + omega) * told["adversarial_loss"]) / 2
    torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.parametrize("width", [8, 4])
def test_a_deacl_step_follows_the_teacher_and_its_attack_leaves_the_student(width: int) -> None:
    params = deacl.DeACLParams.model_validate({**SPEC, "base_model": "teacher", "attack": ATTACK})
    student, teacher = encoder(), encoder(seed=2, width=width).eval()
    made: Any = deacl.build(params, student, base=teacher, augment=same)
    with torch.no_grad():
        target = teacher(IMAGES)
    attacked = made._perturb(IMAGES, target, generator=seeded())
    twin = copy.deepcopy(made.modules).train()
    clean, moved = twin["student"](torch.cat((IMAGES, attacked))).chunk(2)
    cosine = functional.cosine_similarity
    expected = -cosine(twin["bridge"](clean), target).mean() - 2 * cosine(moved, clean).mean()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss, _ = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    torch.testing.assert_close(loss, expected)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    student.eval()
    noisy = (IMAGES + EPS * (2 * torch.rand(IMAGES.shape, generator=seeded()) - 1)).clamp(0, 1)
    with torch.no_grad():
        followed = [cosine(made._bridge(student(points)), target).mean() for points in (attacked, noisy)]
    assert followed[0] < followed[1] - 0.001, "the attack leads away from the teacher (the authors' program)"
    again: Any = deacl.build(params, encoder(), base=teacher, augment=same)
    for ours, theirs in zip(again._bridge.parameters(), made._bridge.parameters(), strict=True):
        assert torch.equal(ours, theirs), "drawn from the seed"
