"""FGSM, PGD and CW-Linf against torchattacks, foolbox and a plain loop."""

from __future__ import annotations

import copy

import foolbox
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from models.attacks import cw_linf, fgsm, pgd
from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise, PerImageNoise
from models.attacks.objectives import cross_entropy, is_right, margin
from models.attacks.spec import IterativeParams
from models.attacks.threat import threat_model
from models.attacks.victim import Victim

EPS, STEP_SIZE, STEPS = 0.1, 0.02, 8
L2_EPS, L2_STEP_SIZE = 0.8, 0.2


def silence(count: int) -> PerImageNoise:
    return PerImageNoise(torch.arange(count))


class Replay:
    """Gives back a perturbation that another library drew, as the noise that leads to it."""

    def __init__(self, *, uniform: Tensor, normal: Tensor | None = None) -> None:
        self._uniform = uniform
        self._normal = normal

    def uniform(self, like: Tensor) -> Tensor:
        assert like.shape == self._uniform.shape
        return self._uniform

    def normal(self, like: Tensor) -> Tensor:
        assert self._normal is not None
        return self._normal

    def select(self, chosen: Tensor) -> Replay:
        return Replay(uniform=self._uniform[chosen], normal=None if self._normal is None else self._normal[chosen])


def linf_replay(images: Tensor, *, seed: int) -> Replay:
    torch.manual_seed(seed)  # torchattacks.PGD draws from the global generator
    return Replay(uniform=torch.empty_like(images).uniform_(-EPS, EPS) / EPS)


def l2_replay(images: Tensor, *, seed: int) -> Replay:
    torch.manual_seed(seed)
    normal = torch.empty_like(images).normal_()
    length = images.new_zeros(len(images), 1, 1, 1).uniform_(0, 1)
    return Replay(uniform=length * 2 - 1, normal=normal)


def their_pgd(model: nn.Module, images: Tensor, labels: Tensor, *, norm: str, steps: int, seed: int | None) -> Tensor:
    if norm == "linf":
        theirs = torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=steps, random_start=seed is not None)
    else:
        theirs = torchattacks.PGDL2(model, eps=L2_EPS, alpha=L2_STEP_SIZE, steps=steps, random_start=seed is not None)
    if seed is not None:
        torch.manual_seed(seed)
    return theirs(images, labels)


def test_fgsm_gives_the_images_of_torchattacks_and_foolbox(victim):
    images, labels = victim.right(100)
    ours = fgsm.run(Victim(victim.model), images, labels, fgsm.FGSMParams(eps=EPS), noise=silence(100))
    torch.testing.assert_close(ours, torchattacks.FGSM(victim.model, eps=EPS)(images, labels), atol=1e-6, rtol=0)
    theirs, _, _ = foolbox.attacks.FGSM()(
        foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu"), images, labels, epsilons=EPS
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_gives_the_images_of_torchattacks_from_the_same_start(victim, norm, seed):
    # torchattacks never drops an image, so its counterpart is the loop without a verdict.
    images, labels = victim.right(100)
    linf = norm == "linf"
    noise = silence(100) if seed is None else (linf_replay if linf else l2_replay)(images, seed=seed)
    ours = ascend(
        lambda points: cross_entropy(victim.model(points), labels),
        images,
        threat=threat_model(norm, EPS if linf else L2_EPS),
        steps=STEPS,
        step_size=STEP_SIZE if linf else L2_STEP_SIZE,
        noise=noise,
        random_start=seed is not None,
    )
    theirs = their_pgd(victim.model, images, labels, norm=norm, steps=STEPS, seed=seed)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_returns_the_first_wrong_iterate_of_torchattacks_or_its_last(victim, norm):
    # torchattacks with k steps from one start shows iterate k: the first that fools is what "any iterate" must return.
    # In double precision: where a gradient is nearly zero, its direction is what rounding made of it.
    images, labels = victim.right(100)
    images, model = images.double(), copy.deepcopy(victim.model).double()
    linf = norm == "linf"
    expected = their_pgd(model, images, labels, norm=norm, steps=STEPS, seed=5)
    pending = torch.ones(100, dtype=torch.bool)
    for steps in range(STEPS):
        points = their_pgd(model, images, labels, norm=norm, steps=steps, seed=5)
        with torch.no_grad():
            wrong = pending & (model(points).argmax(1) != labels)
        expected[wrong] = points[wrong]
        pending &= ~wrong
    assert 0 < pending.sum() < 100, "the ball must break some images on the way and not all"
    params = pgd.PGDParams(
        norm=norm, eps=EPS if linf else L2_EPS, steps=STEPS, step_size=STEP_SIZE if linf else L2_STEP_SIZE
    )
    replay = (linf_replay if linf else l2_replay)(images, seed=5)
    ours = pgd.run(Victim(model), images, labels, params, noise=replay)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        ("linf", foolbox.attacks.LinfProjectedGradientDescentAttack),
        ("l2", foolbox.attacks.L2ProjectedGradientDescentAttack),
    ],
)
def test_ascent_gives_the_images_of_foolbox(victim, norm, attack):
    images, labels = victim.right(60)
    eps, step_size = (EPS, STEP_SIZE) if norm == "linf" else (L2_EPS, L2_STEP_SIZE)
    theirs, _, _ = attack(steps=STEPS, abs_stepsize=step_size, random_start=False)(
        foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu"), images, labels, epsilons=eps
    )
    ours = ascend(
        lambda points: cross_entropy(victim.model(points), labels),
        images,
        threat=threat_model(norm, eps),
        steps=STEPS,
        step_size=step_size,
        noise=silence(60),
        random_start=False,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_cw_linf_follows_a_plain_loop_over_single_images(victim):
    images, labels = victim.right(40)
    replay = linf_replay(images, seed=11)
    params = cw_linf.CWLinfParams(eps=EPS, steps=STEPS, step_size=STEP_SIZE)
    ours = cw_linf.run(Victim(victim.model), images, labels, params, noise=replay)
    model = victim.model.double()
    try:
        for index in range(40):
            x, y = images[index].double(), int(labels[index])
            point = (x + EPS * replay.uniform(images)[index].double()).clamp(0, 1)
            for _ in range(STEPS):
                point.requires_grad_(True)
                logits = model(point[None])[0]
                others = [logits[k] for k in range(10) if k != y]
                lead = torch.stack(others).max() - logits[y]
                if lead > 0:
                    break
                (gradient,) = torch.autograd.grad(lead, point)
                point = point.detach() + STEP_SIZE * gradient.sign()
                point = torch.minimum(torch.maximum(point, x - EPS), x + EPS).clamp(0, 1)
            torch.testing.assert_close(ours[index].double(), point.detach(), atol=1e-6, rtol=0)
    finally:
        model.float()


def test_margin_is_negative_only_when_the_label_alone_leads():
    logits = torch.tensor([[2.0, 1.0, -5.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [-3.0, -4.0, -5.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 0, 0])
    torch.testing.assert_close(margin(logits, labels), torch.tensor([-1.0, 1.0, 0.0, -1.0, 0.0]))
    # argmax would call the third and the fifth right just because class 0 comes first.
    assert is_right(logits, labels).tolist() == [True, False, False, True, False]
    assert not is_right(torch.full((1, 3), float("nan")), torch.tensor([1])).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_its_ball_and_in_the_box(victim, norm):
    images, labels = victim.right(60)
    params = pgd.PGDParams(norm=norm, eps=0.3, restarts=2)
    points = pgd.run(Victim(victim.model), images, labels, params, noise=silence(60))
    assert points.dtype == torch.float32 and points.min() >= 0 and points.max() <= 1
    sizes = threat_model(norm, 0.3).size((points - images).double())
    assert sizes.max() <= 0.3 + 1e-6
    assert sizes.min() > 0.01


def test_more_restarts_break_at_least_as_many(victim):
    images, labels = victim.right(150)
    broken = []
    for restarts in (1, 4):
        params = pgd.PGDParams(eps=0.06, steps=3, restarts=restarts)
        points = pgd.run(Victim(victim.model), images, labels, params, noise=silence(150))
        broken.append(~is_right(victim.model(points), labels))
    assert (broken[0] <= broken[1]).all() and broken[0].sum() < broken[1].sum()


def test_a_zero_radius_returns_the_images(victim):
    images, labels = victim.right(20)
    for norm in ("linf", "l2"):
        points = pgd.run(Victim(victim.model), images, labels, pgd.PGDParams(norm=norm, eps=0), noise=silence(20))
        assert torch.equal(points, images)


def test_a_zero_gradient_does_not_become_nan():
    images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)

    def constant(points: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + points.sum() * 0 + torch.zeros(len(points), 1)

    for norm in ("linf", "l2"):
        params = pgd.PGDParams(norm=norm, eps=0.1, random_start=False)
        assert torch.equal(pgd.run(Victim(constant), images, labels, params, noise=silence(4)), images)


def test_training_ascent_climbs_its_objective(victim):
    images, labels = victim.right(32)
    noise = BatchNoise(torch.Generator().manual_seed(0))
    threat = threat_model("linf", EPS)
    points = ascend(
        lambda x: cross_entropy(victim.model(x), labels).sum(),
        images,
        threat=threat,
        steps=5,
        step_size=0.04,
        noise=noise,
    )
    assert not points.requires_grad
    assert (cross_entropy(victim.model(points), labels) > cross_entropy(victim.model(images), labels)).all()


def test_an_attack_leaves_the_model_as_it_was(victim):
    model = victim.model
    images, labels = victim.right(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.zero_grad()
    model[0].weight.requires_grad_(False)
    try:
        pgd.run(Victim(model), images, labels, pgd.PGDParams(), noise=silence(8))
        assert model.training and all(module.training for module in model.modules())
        assert not model[0].weight.requires_grad and model[3].weight.requires_grad
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.load_state_dict(before)
        model[0].weight.requires_grad_(True)
        model.eval()


def test_default_parameters_are_the_fields_usual_ones():
    params = pgd.PGDParams()
    assert (params.norm, params.eps, params.steps, params.step_size) == ("linf", 8 / 255, 20, 2 / 255)
    assert pgd.PGDParams(norm="l2").eps == 0.5
    assert pgd.PGDParams(eps="16/255").step_size == 4 / 255
    assert pgd.PGDParams(eps="8/255", step_size="1/255").at(16 / 255).step_size == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"eps": 8}, "eps"),
        ({"eps": -0.1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"step": 5}, "step"),
        ({"steps": 0}, "steps"),
        ({"step_size": 0}, "step_size"),
        ({"norm": "l1"}, "norm"),
        ({"random_start": False, "restarts": 2}, "restarts"),
    ],
)
def test_a_bad_parameter_is_named_and_nothing_else(fields, location):
    with pytest.raises(ValueError) as caught:
        pgd.PGDParams(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [(location,)]
    assert issubclass(pgd.PGDParams, IterativeParams)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_vanishing_gradient_is_followed_all_the_same(victim, norm):
    images, labels = victim.right(20)

    def climbed(scale: float) -> Tensor:
        return ascend(
            lambda x: margin(victim.model(x), labels) * scale,
            images,
            threat=threat_model(norm, 0.3),
            steps=3,
            step_size=0.1,
            noise=silence(20),
            random_start=False,
        )

    # Squares of numbers near 1e-27 are zero in float32. A power of two scales without rounding.
    torch.testing.assert_close(climbed(2.0**-90), climbed(1.0), atol=1e-6, rtol=0)
