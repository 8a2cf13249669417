"""AutoAttack: its parts in their order, each on what is left, and what counts as broken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torchattacks
from torch import Tensor

from models.attacks.autoattack import AutoAttackParams, parts, run
from models.attacks.ensemble import Found, run_parts
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS, AttackParams
from models.attacks.victim import Tuning, Victim

CHEAP = {"steps": 8, "targets": 3, "queries": 40}
EPS = {"linf": 0.1, "l2": 0.5}


def run_all(victim: Victim, images: Tensor, labels: Tensor, members: Sequence[AttackParams]) -> Found:
    """What the attacks find from the beginning."""
    found = Found.before(victim, images, labels)
    run_parts(victim, images, labels, members, noise=noise_of(len(images)), found=found)
    return found


def names(found: Found) -> list[str]:
    return [part.name for part in found.parts]


def broken_by(found: Found) -> Tensor:
    """Boolean (parts, N)."""
    return torch.stack([part.broken for part in found.parts])


def noise_of(count: int) -> PerImageNoise:
    return PerImageNoise(torch.arange(count))


@torch.no_grad()
def right(victim, points: Tensor, labels: Tensor) -> Tensor:
    return is_right(victim.model(points), labels)


def test_the_standard_version_is_that_of_the_paper():
    params = AutoAttackParams()
    assert (params.norm, params.eps, params.version) == ("linf", 8 / 255, "standard")
    for norm in ("linf", "l2"):
        apgd_ce, apgd_t, fab_t, square = parts(AutoAttackParams(norm=norm, eps=0.3), 10)
        assert [part.name for part in (apgd_ce, apgd_t, fab_t, square)] == [
            "apgd-ce",
            "apgd-dlr-targeted",
            "fab-t",
            "square",
        ]
        assert all(part.radius == (norm, 0.3) for part in (apgd_ce, apgd_t, fab_t, square))
        assert all(part.model_dump()["restarts"] == 1 for part in (apgd_ce, apgd_t, fab_t, square))
        assert apgd_ce.model_dump()["steps"] == apgd_t.model_dump()["steps"] == fab_t.model_dump()["steps"] == 100
        assert apgd_t.model_dump()["targets"] == fab_t.model_dump()["targets"] == 9
        assert square.model_dump()["queries"] == 5_000 and square.model_dump()["p_init"] == 0.8


def test_a_model_of_few_classes_is_attacked_towards_all_that_there_are():
    for classes in (2, 3):
        _, apgd_t, fab_t, _ = parts(AutoAttackParams(), classes)
        assert apgd_t.model_dump()["targets"] == fab_t.model_dump()["targets"] == classes - 1


@pytest.mark.parametrize("field", ["version", "steps", "targets", "queries", "restarts"])
def test_a_bad_parameter_is_named(field):
    with pytest.raises(ValueError) as caught:
        AutoAttackParams(**{field: "plus" if field == "version" else 0})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_part_attacks_what_those_before_it_left(victim, norm):
    images, labels = victim.right(60)
    params = AutoAttackParams(norm=norm, eps=EPS[norm], **CHEAP)
    found = run_all(Victim(victim.model), images, labels, parts(params, 10))
    points = found.points
    assert names(found) == ["apgd-ce", "apgd-dlr-targeted", "fab-t", "square"]
    assert broken_by(found).sum(dim=0).max() == 1, "an image is broken once"
    broken = broken_by(found).any(dim=0)
    assert torch.equal(broken, ~found.standing)
    assert 5 < broken.sum() < 60
    assert torch.equal(~right(victim, points, labels), broken)
    assert torch.equal(run(Victim(victim.model), images, labels, params, noise=noise_of(60)), points)

    # The first part is the attack of that name on its own.
    first = parts(params, 10)[0]
    alone = ATTACKS["apgd-ce"].run(Victim(victim.model), images, labels, first, noise=noise_of(60).branch("apgd-ce"))
    assert torch.equal(~right(victim, alone, labels), broken_by(found)[0])


def test_it_breaks_at_least_what_torchattacks_breaks_with_its_white_box_parts(victim):
    images, labels = victim.right(100)
    ours = run(
        Victim(victim.model), images, labels, AutoAttackParams(eps=0.1, **CHEAP | {"targets": 9}), noise=noise_of(100)
    )
    theirs = torchattacks.MultiAttack(
        [
            torchattacks.APGD(victim.model, eps=0.1, steps=8, loss="ce"),
            torchattacks.APGDT(victim.model, eps=0.1, steps=8, n_classes=10),
        ]
    )(images, labels)
    standing, theirs_standing = right(victim, ours, labels), right(victim, theirs, labels)
    assert 10 < theirs_standing.sum() < 90
    assert standing.sum() <= theirs_standing.sum() + 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_it_breaks_on_fast_gradients_is_wrong_for_the_model_inside_the_ball(victim, norm):
    images, labels = victim.right(50)
    fast = Victim(victim.model, tuning=Tuning(folded=True, precision="bfloat16"), batch_size=16)
    found = run_all(fast, images, labels, parts(AutoAttackParams(norm=norm, eps=EPS[norm], **CHEAP), 10))
    points = found.points
    assert points.min() >= 0 and points.max() <= 1
    delta = (points - images).double().flatten(1)
    sizes = delta.abs().amax(dim=1) if norm == "linf" else delta.square().sum(dim=1).sqrt()
    assert sizes.max() <= EPS[norm] * (1 + 1e-6) + 1e-6
    assert torch.equal(~right(victim, points, labels), broken_by(found).any(dim=0))


def test_a_minimum_norm_part_counts_only_inside_the_ball(victim):
    images, labels = victim.right(40)
    params = ATTACKS["fab-t"].params.model_validate({"eps": 0.1, "steps": 10, "targets": 3})
    found = ATTACKS["fab-t"].run(Victim(victim.model), images, labels, params, noise=noise_of(40).branch("fab-t"))
    outside = ~right(victim, found, labels) & ((found - images).abs().flatten(1).amax(dim=1) > 0.101)
    assert outside.any(), "some boundaries must lie farther away than the ball reaches"
    counted = run_all(Victim(victim.model), images, labels, [params])
    (broken,) = broken_by(counted)
    assert not broken[outside].any() and torch.equal(counted.points[outside], images[outside])
    assert broken.any()


def test_images_that_are_wrong_already_are_nobodys_success(victim):
    images, labels = victim.right(12)
    labels = labels.clone()
    labels[:5] = (labels[:5] + 1) % 10
    attacked = Victim(victim.model)
    members = parts(AutoAttackParams(eps=0.0, **CHEAP), 10)[:2]
    found = run_all(attacked, images, labels, members)
    assert torch.equal(found.points, images) and not broken_by(found).any()
    nothing_to_do = run_all(attacked, images[:5], labels[:5], members)
    assert names(nothing_to_do) == ["apgd-ce", "apgd-dlr-targeted"], "such a part is reported all the same"


def test_verdicts_do_not_depend_on_the_chunk(victim):
    images, labels = victim.right(45)
    params = AutoAttackParams(eps=0.1, **CHEAP)
    whole = run(Victim(victim.model), images, labels, params, noise=noise_of(45))
    small = Victim(victim.model, batch_size=8)
    pieces = [
        run(small, images[part], labels[part], params, noise=noise_of(45).select(part))
        for part in torch.arange(45).split(20)
    ]
    assert torch.equal(right(victim, torch.cat(pieces), labels), right(victim, whole, labels))
