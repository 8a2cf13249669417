"""FAB-T against torchattacks' port of the authors' code, and its own promises."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from models.attacks.fab import FABTParams, run
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim
from tests.models.attacks.parity import Replay, watched

COUNT, STEPS = 40, 25
EPS = {"linf": 0.1, "l2": 0.5}
FAST = Tuning(folded=True, precision="bfloat16")


def attack(victim: Victim, images: Tensor, labels: Tensor, **params) -> Tensor:
    noise = PerImageNoise(torch.arange(len(images)))
    return run(victim, images, labels, FABTParams(**{"steps": STEPS, **params}), noise=noise)


def sizes(points: Tensor, images: Tensor, norm: str) -> Tensor:
    return threat_model(norm, 0).size((points - images).double())


def their_norms(model: nn.Module, images: Tensor, labels: Tensor, *, norm: str) -> Tensor:
    """The smallest norm that torchattacks finds over the nine targets; infinite where none fools the model."""
    theirs = torchattacks.FAB(model, norm={"linf": "Linf", "l2": "L2"}[norm], steps=STEPS, multi_targeted=True)
    best = torch.full((len(images),), torch.inf, dtype=torch.float64)
    for target in range(2, 11):
        theirs.target_class = target
        points = theirs.attack_single_run_targeted(images, labels)
        with torch.no_grad():
            wrong = ~is_right(model(points), labels)
        best = torch.minimum(best, sizes(points.detach(), images, norm).where(wrong, torch.inf))
    return best


@pytest.fixture(scope="module", params=["linf", "l2"])
def attacked(request, victim):
    images, labels = victim.right(COUNT)
    norm = request.param
    return norm, images, labels, attack(Victim(victim.model), images, labels, norm=norm)


def test_it_finds_the_norms_of_torchattacks(victim, attacked):
    norm, images, labels, ours = attacked
    assert not is_right(victim.model(ours), labels).any()
    assert ours.min() >= 0 and ours.max() <= 1 and ours.dtype == torch.float32
    ratio = sizes(ours, images, norm) / their_norms(victim.model, images, labels, norm=norm)
    assert (ratio <= 1.001).float().mean() >= 0.95
    assert 0.97 <= ratio.median() <= 1.0001


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_looks_at_the_points_of_torchattacks_from_the_image_and_from_a_random_start(victim, norm):
    images, labels = victim.right(12)
    model, ours = watched(victim.model)
    torch.manual_seed(5)
    numbers = 2 * torch.rand(images.shape) - 1 if norm == "linf" else torch.randn(images.shape)
    params = FABTParams(norm=norm, eps=0.05, steps=8, targets=1, restarts=2)  # nearer than any of their boundaries
    run(Victim(model), images, labels, params, noise=Replay(numbers[:, None]))
    model, seen = watched(victim.model)
    theirs = torchattacks.FAB(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=0.05, steps=8, multi_targeted=True)
    theirs.target_class = 2
    for random in (False, True):
        torch.manual_seed(5)
        theirs.attack_single_run_targeted(images, labels, use_rand_start=random)
    torch.testing.assert_close(torch.stack(ours), torch.stack(seen), atol=1e-4, rtol=0)


def test_fast_gradients_change_neither_success_nor_norms(victim, attacked):
    norm, images, labels, exact = attacked
    fast = attack(Victim(victim.model, tuning=FAST, batch_size=64), images, labels, norm=norm)
    assert not is_right(victim.model(fast), labels).any()
    assert fast.min() >= 0 and fast.max() <= 1
    assert sizes(fast, images, norm).median() == pytest.approx(sizes(exact, images, norm).median().item(), rel=0.01)


@pytest.mark.parametrize("tuning", [Tuning(), FAST])
def test_stopping_inside_breaks_the_same_images_with_less_work(victim, attacked, tuning):
    norm, images, labels, nearest = attacked
    eps = EPS[norm]
    judge = Victim(victim.model, tuning=tuning)
    stopped = attack(judge, images, labels, norm=norm, eps=eps, stop_inside=True)
    assert not is_right(victim.model(stopped), labels).any()
    inside, expected = sizes(stopped, images, norm) <= eps, sizes(nearest, images, norm) <= eps
    assert 5 < expected.sum() < COUNT - 5
    assert (inside == expected).float().mean() >= 1 - 1 / COUNT, "an image at the very edge may differ"
    full = Victim(victim.model, tuning=tuning)
    attack(full, images[:8], labels[:8], norm=norm, eps=eps)
    assert judge.work.gradients / COUNT < 0.9 * full.work.gradients / 8


def brightness(points: Tensor) -> Tensor:
    """Logits of two classes with the boundary at a mean pixel of 0.5, which low precision takes for 0.46."""
    lead = points.flatten(1).mean(dim=1) - (0.46 if torch.is_autocast_enabled("cpu") else 0.5)
    return torch.stack([-lead, lead], dim=1)


@pytest.mark.parametrize(
    ("tuning", "near", "far"),
    [
        (Tuning(), 1, 2 * 7),
        (Tuning(precision="bfloat16"), 2 * 7 + 1, 2 * 7 + 2 * 7),  # to the end, and again in float32
    ],
)
def test_an_image_leaves_with_its_first_point_inside_that_float32_calls_wrong(tuning, near, far):
    for level, work in ((0.4, near), (0.1, far)):
        image, label, victim = torch.full((1, 1, 4, 4), level), torch.tensor([0]), Victim(brightness, tuning=tuning)
        point = attack(victim, image, label, eps=0.25, targets=1, steps=7, restarts=2, stop_inside=True)
        assert victim.work.gradients == work
        torch.testing.assert_close(point, torch.full_like(point, 0.5), atol=0.002, rtol=0)


def test_an_image_does_not_depend_on_its_batch(victim):
    images, labels = victim.right(12)
    params = FABTParams(eps=0.1, steps=10, targets=3, restarts=3, stop_inside=True)

    def points(chosen: Tensor) -> Tensor:
        return run(Victim(victim.model), images[chosen], labels[chosen], params, noise=PerImageNoise(chosen))

    together = points(torch.arange(12))
    for index in (0, 7):
        torch.testing.assert_close(points(torch.tensor([index]))[0], together[index], atol=1e-4, rtol=0)


def test_restarts_find_norms_that_are_no_larger_and_some_that_are_smaller(victim):
    images, labels = victim.right(20)
    once, often = (
        sizes(attack(Victim(victim.model), images, labels, eps=0.2, targets=2, restarts=restarts), images, "linf")
        for restarts in (1, 3)
    )
    # The line search at the end may leave either a little off.
    assert (often <= once * 1.005).all() and (often < once * 0.997).any()


def test_more_targets_find_norms_that_are_no_larger(victim, attacked):
    norm, images, labels, nine = attacked
    one = attack(Victim(victim.model), images, labels, norm=norm, targets=1)
    one, nine = sizes(one, images, norm), sizes(nine, images, norm)
    assert (nine <= one * 1.005).all() and nine.mean() < one.mean()


def test_a_failure_returns_the_clean_image(victim):
    images, _ = victim.right(5)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    flat[1].weight.zero_()
    flat[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    labels = torch.zeros(5, dtype=torch.long)
    for norm in ("linf", "l2"):
        for tuning in (Tuning(), FAST):
            points = attack(Victim(flat, tuning=tuning), images, labels, norm=norm, steps=3, restarts=2)
            assert torch.equal(points, images)


def test_a_wrong_image_comes_back_as_it_is(victim):
    images, labels = victim.right(8)
    labels[:4] = (labels[:4] + 1) % 10
    points = attack(Victim(victim.model), images, labels)
    assert torch.equal(points[:4], images[:4])
    assert not is_right(victim.model(points[4:]), labels[4:]).any()


def test_two_classes_large_grey_images_and_no_radius_will_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(1, 1, 64, 64)
    labels = model(images).argmax(dim=1)
    for norm in ("linf", "l2"):
        points = attack(Victim(model), images, labels, norm=norm, eps=0, steps=5, restarts=2, stop_inside=True)
        assert not is_right(model(points), labels).any()


def test_default_parameters_are_the_authors():
    params = FABTParams()
    assert (params.norm, params.eps, params.steps, params.targets, params.restarts) == ("linf", 8 / 255, 100, 9, 1)
    assert (params.alpha_max, params.eta, params.beta, params.stop_inside) == (0.1, 1.05, 0.9, False)
    assert params.at(4 / 255).radius == ("linf", 4 / 255)
