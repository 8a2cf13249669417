"""The APGD family against torchattacks, the paper's formulas written out plainly, and PGD."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from models.attacks import apgd_ce, apgd_ce_targeted, apgd_dlr, apgd_dlr_targeted
from models.attacks.apgd import checkpoints
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim
from tests.models.attacks.parity import Replay
from tests.models.attacks.robust_digits import Robust, hardened

FAMILY = ("apgd-ce", "apgd-dlr", "apgd-ce-targeted", "apgd-dlr-targeted")
EPS = {"linf": 0.12, "l2": 0.6}


@pytest.fixture(scope="module")
def robust() -> Robust:
    return hardened(classes=10, steps=100)


@pytest.fixture(scope="module")
def few_classes() -> dict[int, Robust]:
    return {classes: hardened(classes=classes, steps=40) for classes in (2, 3)}


def noise_of(count: int, *, first: int = 0) -> PerImageNoise:
    return PerImageNoise(torch.arange(first, first + count))


def attacked(
    name: str, model: nn.Module, images: Tensor, labels: Tensor, *, victim: Victim | None = None, **fields: object
) -> Tensor:
    params = ATTACKS[name].params.model_validate({"name": name, **fields})
    return ATTACKS[name].run(victim or Victim(model), images, labels, params, noise=noise_of(len(images)))


@torch.no_grad()
def standing(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    return is_right(model(points), labels)


def started(images: Tensor, *, norm: str, seed: int) -> Replay:
    """What torchattacks draws after that seed."""
    torch.manual_seed(seed)
    return Replay(2 * torch.rand(images.shape) - 1 if norm == "linf" else torch.randn(images.shape))


def their_run(
    theirs: torchattacks.attack.Attack, images: Tensor, labels: Tensor, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Best points of one run of torchattacks, and which images no iterate of it broke."""
    torch.manual_seed(seed)
    best, right, _, _ = theirs.attack_single_run(images, labels)
    return best.detach(), right


@pytest.mark.parametrize("steps", [7, 50])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_linf_ends_where_torchattacks_ends_from_the_same_start(robust, loss, steps):
    images, labels = robust.images[:80], robust.labels[:80]
    theirs = torchattacks.APGD(robust.model, norm="Linf", eps=EPS["linf"], steps=steps, loss=loss)
    best, right = their_run(theirs, images, labels, seed=3)
    params = ATTACKS[f"apgd-{loss}"].params.model_validate({"eps": EPS["linf"], "steps": steps})
    ours = ATTACKS[params.name].run(
        Victim(robust.model), images, labels, params, noise=started(images, norm="linf", seed=3)
    )
    assert 10 < right.sum() < 80, "some must break and some must stand"
    assert torch.equal(standing(robust.model, ours, labels), right)
    torch.testing.assert_close(ours[right], best[right], atol=1e-5, rtol=0)


def test_steps_that_pass_over_a_hill_are_halved_when_torchattacks_halves_them():
    class Hill(nn.Module):
        """Most unsure where the mean pixel is 0.52, and always right about class 0."""

        def forward(self, points: Tensor) -> Tensor:
            off = points.flatten(1).mean(dim=1) - 0.52
            return torch.stack([torch.full_like(off, 0.05), -40 * off.square()], dim=1)

    images = torch.linspace(0.4, 0.6, 16).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    labels = torch.zeros(16, dtype=torch.long)
    for steps in (7, 30):
        theirs = torchattacks.APGD(Hill(), norm="Linf", eps=EPS["linf"], steps=steps, loss="ce")
        best, right = their_run(theirs, images, labels, seed=3)
        params = apgd_ce.APGDCEParams(eps=EPS["linf"], steps=steps)
        ours = apgd_ce.run(Victim(Hill()), images, labels, params, noise=started(images, norm="linf", seed=3))
        assert right.all()
        torch.testing.assert_close(ours, best, atol=1e-5, rtol=0)


def test_apgd_l2_ends_where_torchattacks_ends_from_the_same_start(robust):
    # One image at a time: for L2, torchattacks gives a whole batch the step size of its first image. In double
    # precision: thirty steps along a gradient's direction make a difference of what two libraries round differently.
    model = copy.deepcopy(robust.model).double()
    theirs = torchattacks.APGD(model, norm="L2", eps=EPS["l2"], steps=30, loss="ce")
    params = apgd_ce.APGDCEParams(norm="l2", eps=EPS["l2"], steps=30)
    stood = 0
    for index in range(12):
        image, label = robust.images[index : index + 1].double(), robust.labels[index : index + 1]
        best, right = their_run(theirs, image, label, seed=index)
        ours = apgd_ce.run(Victim(model), image, label, params, noise=started(image, norm="l2", seed=index))
        assert torch.equal(standing(model, ours, label), right)
        if bool(right):
            torch.testing.assert_close(ours, best, atol=1e-5, rtol=0)
            stood += 1
    assert 3 < stood < 12


def test_targeted_apgd_breaks_what_torchattacks_breaks_from_the_same_starts(robust):
    images, labels = robust.images[:120], robust.labels[:120]
    theirs = torchattacks.APGDT(robust.model, norm="Linf", eps=EPS["linf"], steps=8)
    runs = []
    for place in (2, 3, 4):  # the place of the target among the clean logits, 1 is the label itself
        theirs.target_class = place
        runs.append(their_run(theirs, images, labels, seed=9))
    right = torch.stack([right for _, right in runs]).all(dim=0)
    params = apgd_dlr_targeted.APGDDLRTargetedParams(eps=EPS["linf"], steps=8, targets=3)
    ours = apgd_dlr_targeted.run(
        Victim(robust.model), images, labels, params, noise=started(images, norm="linf", seed=9)
    )
    assert 10 < right.sum() < runs[0][1].sum(), "further targets must break some that the first does not"
    assert torch.equal(standing(robust.model, ours, labels), right)
    torch.testing.assert_close(ours[right], runs[0][0][right], atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_stronger_members_of_the_family_break_more_than_pgd_of_as_many_steps(robust, norm):
    images, labels = robust.images[:150], robust.labels[:150]
    robustness = {
        name: standing(
            robust.model, attacked(name, robust.model, images, labels, norm=norm, eps=EPS[norm], steps=15), labels
        )
        .float()
        .mean()
        .item()
        for name in ("pgd", *FAMILY)
    }
    assert robustness["apgd-ce"] <= robustness["pgd"] + 0.01
    assert robustness["apgd-dlr"] <= robustness["pgd"] + 0.03
    assert robustness["apgd-dlr-targeted"] <= robustness["apgd-dlr"]
    assert robustness["apgd-ce-targeted"] <= robustness["apgd-ce"]
    assert robustness["apgd-dlr-targeted"] < robustness["pgd"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", FAMILY)
def test_what_low_precision_gradients_break_is_wrong_for_the_model_itself(robust, name, norm):
    images, labels = robust.images[:70], robust.labels[:70]
    victim = Victim(robust.model, tuning=Tuning(folded=True, precision="bfloat16"), batch_size=16)
    fields = {"norm": norm, "eps": EPS[norm], "steps": 8}
    points = attacked(name, robust.model, images, labels, victim=victim, **fields)
    assert points.dtype == torch.float32 and points.min() >= 0 and points.max() <= 1
    assert threat_model(norm, 0).size((points - images).double()).max() <= EPS[norm] * (1 + 1e-6) + 1e-6
    exact = standing(robust.model, attacked(name, robust.model, images, labels, **fields), labels)
    low = standing(robust.model, points, labels)
    assert 5 < low.sum() < 70
    assert abs(int(low.sum()) - int(exact.sum())) <= 3


@pytest.mark.parametrize("name", FAMILY)
def test_an_image_meets_the_same_end_in_any_batch(robust, name):
    images, labels = robust.images[:40], robust.labels[:40]
    params = ATTACKS[name].params.model_validate({"eps": EPS["linf"], "steps": 5, "restarts": 2})
    whole = ATTACKS[name].run(Victim(robust.model), images, labels, params, noise=noise_of(40))
    small = Victim(robust.model, batch_size=7)
    parts = [
        ATTACKS[name].run(small, images[part], labels[part], params, noise=noise_of(40).select(part))
        for part in torch.arange(40).split(13)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_more_restarts_break_at_least_as_many(robust):
    images, labels = robust.images[:150], robust.labels[:150]
    once, often = (
        standing(
            robust.model,
            attacked("apgd-ce", robust.model, images, labels, eps=EPS["linf"], steps=3, restarts=restarts),
            labels,
        )
        for restarts in (1, 6)
    )
    assert (often <= once).all() and often.sum() < once.sum()


def test_images_that_break_cost_no_further_gradients(robust):
    images, labels = robust.images[:100], robust.labels[:100]
    victim = Victim(robust.model)
    points = attacked("apgd-ce", robust.model, images, labels, victim=victim, eps=EPS["linf"], steps=20)
    left = int(standing(robust.model, points, labels).sum())
    assert 20 * left < victim.work.gradients < 20 * left + 10 * (100 - left)
    easy = Victim(robust.model)
    attacked("apgd-dlr-targeted", robust.model, images, labels, victim=easy, eps=1.0, steps=20)
    assert easy.work.gradients < 9 * 100 * 5, "all rows of an image leave when one target breaks it"


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_attacked_as_hard_as_by_pgd(few_classes, name, classes):
    model, images, labels = (getattr(few_classes[classes], field) for field in ("model", "images", "labels"))
    fields = {"eps": 0.25, "steps": 15}
    theirs = standing(model, attacked("pgd", model, images, labels, **fields), labels)
    ours = standing(model, attacked(name, model, images, labels, **fields), labels)
    assert 0 < theirs.float().mean() < 0.9, "the ball must break some and not all"
    assert ours.float().mean() <= theirs.float().mean() + 0.03


@pytest.mark.parametrize("name", ["apgd-ce-targeted", "apgd-dlr-targeted"])
def test_targeted_attacks_aim_at_the_likeliest_wrong_classes_of_the_clean_image(name):
    def model(points: Tensor) -> Tensor:
        # Pixel k moves logit k and nothing else; the label 0 stays ahead of all.
        return torch.tensor([9.0, 1.0, 3.0, 0.0, 2.0]) + points.flatten(1)[:, :5]

    images, labels = torch.full((1, 1, 3, 2), 0.5), torch.zeros(1, dtype=torch.long)
    for targets, raised in ((1, {2}), (2, {2, 4}), (9, {1, 2, 3, 4})):
        seen: list[Tensor] = []

        def watched(points: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(points.detach())
            return model(points)

        attacked(name, watched, images, labels, eps=0.2, steps=6, targets=targets)
        last = seen[-1].flatten(1)
        assert len(last) == min(targets, 4)
        assert {int(row) for row in (last[:, 1:5] - 0.5).argmax(dim=1) + 1} == raised


def test_checkpoints_follow_the_papers_rule():
    shares, width = [0.0, 0.22], 0.22
    while shares[-1] < 1:
        width = max(width - 0.03, 0.06)
        shares.append(shares[-1] + width)
    expected = [math.ceil(round(share * 100, 6)) for share in shares[1:] if share <= 1]
    windows = checkpoints(100)
    assert list(windows) == expected == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(windows.values()) == 99
    assert checkpoints(1) == {1: 1}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", FAMILY)
def test_edge_cases_do_not_trouble_it(robust, name, norm):
    images, labels = robust.images[:5], robust.labels[:5]
    still = attacked(name, robust.model, images, labels, norm=norm, eps=0, steps=3)
    assert torch.equal(still, images)
    wrong = (labels + 1) % 10
    points = attacked(name, robust.model, images, wrong, norm=norm, eps=EPS[norm], steps=3)
    assert not standing(robust.model, points, wrong).any()
    assert attacked(name, robust.model, images[:1], labels[:1], norm=norm, steps=1).shape == images[:1].shape
    assert attacked(name, robust.model, images[:0], labels[:0], norm=norm, steps=1).shape == images[:0].shape

    def constant(points: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0, 0.0]) + points.sum() * 0 + torch.zeros(len(points), 1)

    unmoved = attacked(name, constant, images, torch.zeros(5, dtype=torch.long), norm=norm, eps=0.1, steps=4)
    assert torch.isfinite(unmoved).all() and (unmoved - images).abs().max() <= 0.1 + 1e-6


def test_default_parameters_are_those_of_standard_autoattack():
    params = apgd_dlr_targeted.APGDDLRTargetedParams()
    assert (params.norm, params.eps) == ("linf", 8 / 255)
    assert (params.steps, params.restarts, params.rho, params.targets) == (100, 1, 0.75, 9)
    assert apgd_ce_targeted.APGDCETargetedParams(steps=10, restarts=2, targets=3).cost == 60
    assert apgd_dlr.APGDDLRParams(norm="l2").eps == 0.5


@pytest.mark.parametrize("fields", [{"steps": 0}, {"restarts": 0}, {"rho": 1.5}, {"targets": 0}, {"step_size": 0.1}])
def test_a_bad_parameter_is_named_and_nothing_else(fields):
    with pytest.raises(ValueError) as caught:
        apgd_dlr_targeted.APGDDLRTargetedParams(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]
