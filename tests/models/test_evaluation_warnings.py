"""Positive controls: models that are known to be broken, each trained or built here. Negative: honest ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from models.data.images import ImageSet
from models.evaluation import AttackError, conclude, measure
from models.evaluation_evidence import merge
from models.evaluation_warnings import _sample
from models.progress import Silent
from tests.models.evaluations import spec

FGSM_PGD = ("fgsm", "pgd")
IMAGES = 200


@dataclass(frozen=True)
class Digits:
    pixels: Tensor
    labels: Tensor
    images: ImageSet

    def fit(self, model: nn.Module, *, steps: int, lr: float, attack: Callable[..., Tensor] | None = None) -> nn.Module:
        """Adam on batches of 100 in a fixed order, each attacked first."""
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for step in range(steps):
            batch = torch.arange(step * 100, step * 100 + 100) % len(self.labels)
            x, y = self.pixels[batch], self.labels[batch]
            if attack is not None:
                x = attack(model, x, y)
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = load_digits()
    pixels = torch.from_numpy((data.images / 16 * 255).round()).to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    train, test = order[:1400], order[1400 : 1400 + IMAGES]
    images = ImageSet(pixels[test], labels[test], tuple(str(digit) for digit in range(10)))
    return Digits(pixels[train].float() / 255, labels[train], images)


def ascend(model, x, y, *, eps, steps, step):
    """Plain sign-gradient ascent from the image itself; one step of eps is FGSM."""
    points = x
    for _ in range(steps):
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(model(points), y, reduction="sum"), points)
        points = torch.min(torch.max(points.detach() + step * gradient.sign(), x - eps), x + eps).clamp(0, 1)
    return points.detach()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@pytest.fixture(scope="module")
def standard(digits) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return digits.fit(convolutional(), steps=150, lr=0.01)


@pytest.fixture(scope="module")
def pgd_trained(digits) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attack = lambda model, x, y: ascend(model, x, y, eps=0.2, steps=5, step=0.08)  # noqa: E731
        return digits.fit(convolutional(), steps=100, lr=0.01, attack=attack)


@pytest.fixture(scope="module")
def collapsed(digits) -> nn.Module:
    """FGSM training without a random start: catastrophic overfitting, long enough for it to come on any processor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
        attack = lambda model, x, y: ascend(model, x, y, eps=0.3, steps=1, step=0.3)  # noqa: E731
        return digits.fit(nn.Sequential(nn.Flatten(), *layers), steps=1500, lr=0.005, attack=attack)


class Wrapped(nn.Module):
    """``before`` on the pixels, ``after`` on the logits."""

    def __init__(self, model: nn.Module, before=None, after=None) -> None:
        super().__init__()
        self.model = model
        self.before, self.after = before or (lambda x: x), after or (lambda x: x)

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def quantize(x):
    return torch.round(x * 7) / 7


def steep_stairs(x):
    """Six levels by steep sigmoids: a gradient everywhere, which is next to nothing but at the steps."""
    return sum(torch.sigmoid(1000 * (x - (level + 0.5) / 5)) for level in range(5)) / 5


def attacks(*names, eps=0.1, **extra):
    return [{"name": name, "eps": eps, **extra.get(name, {})} for name in names]


def evaluated(model, digits, asked, *, count=IMAGES, **fields):
    images = digits.images.take(torch.arange(count))
    params = spec(asked, **fields)
    evidence = measure(model, images, params, reporter=Silent(), device="cpu")
    return params, evidence, conclude(params, evidence, classes=images.classes, shape=images.image_shape).result


def found(model, digits, asked, **fields):
    """Code → warning."""
    listed = evaluated(model, digits, asked, **fields)[2]["warnings"]
    assert all(set(warning) == {"code", "detail", "advice"} and all(warning.values()) for warning in listed)
    return {warning["code"]: warning for warning in listed}


@pytest.mark.parametrize("eps", [0.05, 0.15, 0.4])
@pytest.mark.parametrize("name", ["standard", "pgd_trained"])
def test_an_honest_model_gives_no_warning(request, digits, name, eps):
    asked = attacks(*FGSM_PGD, "cw-linf", eps=eps, pgd={"steps": 10}, **{"cw-linf": {"steps": 10}})
    assert found(request.getfixturevalue(name), digits, asked) == {}


@pytest.mark.parametrize("name", ["standard", "pgd_trained"])
def test_an_honest_model_gives_no_warning_for_square_and_l2(request, digits, name):
    model = request.getfixturevalue(name)
    assert found(model, digits, attacks(*FGSM_PGD, "square", square={"queries": 100})) == {}
    assert found(model, digits, [{"name": "pgd", "norm": "l2", "eps": 0.5, "steps": 10}]) == {}


def test_a_model_collapsed_by_fgsm_training_is_called_that(digits, collapsed):
    result = evaluated(collapsed, digits, attacks(*FGSM_PGD, eps=0.3))[2]
    fgsm, pgd = (row["robust_accuracy"] for row in result["attacks"])
    assert fgsm > 0.4 and pgd < 0.1, "the control has collapsed"
    (warning,) = result["warnings"]
    assert warning["code"] == "catastrophic-overfitting"
    assert f"{fgsm:.3f}" in warning["detail"] and f"{pgd:.3f}" in warning["detail"]


def test_a_single_step_alone_is_no_claim(digits, standard):
    assert set(found(standard, digits, attacks("fgsm"))) == {"single-step-only"}
    elsewhere = [*attacks("fgsm"), *attacks("pgd", eps=0.05)]
    assert set(found(standard, digits, elsewhere)) == {"single-step-only"}


def test_a_quantizing_front_has_no_gradients_and_survives_anything(digits, standard):
    seen = found(Wrapped(standard, before=quantize), digits, attacks(*FGSM_PGD))
    assert {"zero-gradients", "survives-huge-eps"} == set(seen)
    assert re.search(r"of (\d+) of \1 images", seen["zero-gradients"]["detail"]), "of every image that was looked at"


def test_a_steep_front_survives_a_radius_at_which_every_image_may_be_plain_grey(digits, standard):
    assert "survives-huge-eps" in found(Wrapped(standard, before=steep_stairs), digits, attacks(*FGSM_PGD))


def test_queries_that_beat_the_gradients_show_in_square_and_in_autoattacks_parts(digits, standard):
    masked = Wrapped(standard, before=quantize)
    square = attacks("pgd", "square", eps=0.2, square={"queries": 100})
    seen = found(masked, digits, square)
    assert "square broke" in seen["black-box-beats-white-box"]["detail"]
    budget = {"steps": 3, "targets": 1, "queries": 100}
    seen = found(masked, digits, attacks("autoattack", eps=0.2, autoattack=budget), count=100)
    assert "black-box-beats-white-box" in seen


def test_a_loss_that_underflows_is_not_called_masked(digits, standard):
    seen = found(Wrapped(standard, after=lambda logits: 100 * logits), digits, attacks(*FGSM_PGD))
    assert "saturated-loss" in seen and "zero-gradients" not in seen


def test_probabilities_are_told_from_logits_and_their_logarithm_is_fine(digits, standard):
    probabilities = Wrapped(standard, after=lambda logits: logits.softmax(1))
    assert "probabilities-as-logits" in found(probabilities, digits, attacks(*FGSM_PGD))
    logarithms = Wrapped(standard, after=lambda logits: logits.log_softmax(1))
    assert found(logarithms, digits, attacks(*FGSM_PGD)) == {}


def test_dropout_that_stays_on_makes_a_stochastic_model(digits, standard):
    noisy = Wrapped(standard, before=lambda x: dropout(x, 0.1, training=True))
    assert "stochastic-model" in found(noisy, digits, attacks(*FGSM_PGD))


def test_a_front_that_folds_pixels_is_hurt_less_by_a_larger_fgsm(digits, standard):
    """FGSM of one period of the sine moves a pixel to where it began."""
    folding = Wrapped(standard, before=lambda x: x + 0.2 * torch.sin(2 * torch.pi * x / 0.2))
    seen = found(folding, digits, attacks(*FGSM_PGD))
    assert "0.1" in seen["non-monotone"]["detail"]


def test_a_small_sample_says_how_little_it_knows(digits, standard):
    seen = found(standard, digits, attacks(*FGSM_PGD), count=40)
    assert set(seen) == {"few-images"} and "40 images" in seen["few-images"]["detail"]


def test_a_requirement_inside_the_interval_is_undecided_until_the_sample_is_as_large_as_advised(digits, standard):
    got = evaluated(standard, digits, attacks(*FGSM_PGD))[2]["attacks"][1]["robust_accuracy"]
    near, far = round(got - 0.03, 3), round(got - 0.2, 3)
    seen = found(standard, digits, attacks(*FGSM_PGD), require={"pgd": f">={near}", "clean": ">=0.5"})
    assert set(seen) == {"undecided-requirement"} and f"pgd >={near}" in seen["undecided-requirement"]["detail"]
    assert found(standard, digits, attacks(*FGSM_PGD), require={"pgd": f">={far}"}) == {}
    advised = int(seen["undecided-requirement"]["advice"].split("about ")[1].split(",")[0])
    # Plain search for the smallest sample whose normal test of that share against the bound is decided.
    decided = next(n for n in range(1, 10**6) if abs(got - near) > 1.96 * (near * (1 - near) / n) ** 0.5)
    assert advised == pytest.approx(decided, rel=0.01)


def test_no_sample_decides_whether_all_or_none_are_right() -> None:
    def codes(need: str, got: float, *, met: bool) -> list[str]:
        row = {"attack": "clean", "need": need, "got": got, "met": met}
        return [warning["code"] for warning in _sample(300, [row])]

    assert codes(">=1", 1.0, met=True) == codes(">0", 0.0, met=False) == ["undecided-requirement"]
    assert codes(">=0", 0.0, met=True) == codes(">=0.9", 1.0, met=True) == []


class NoNumber(nn.Module):
    """The same answers, with a gradient that is no number."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        logits = self.inner(images)
        return logits + (0 * images.flatten(1).sum(1, keepdim=True)).sqrt()


def test_a_gradient_that_is_no_number_is_none(digits, standard):
    model = NoNumber(standard)
    assert "zero-gradients" in found(model, digits, attacks(*FGSM_PGD))
    with pytest.raises(AttackError, match="input gradient is not finite"):
        found(model, digits, [{"name": "pgd", "norm": "l2", "eps": 0.5}])


def test_shards_find_what_the_whole_finds(digits, standard):
    model, asked = Wrapped(standard, before=quantize), attacks(*FGSM_PGD)
    params, whole, result = evaluated(model, digits, asked)
    parts = []
    for first in range(3):
        ids = torch.arange(first, IMAGES, 3)
        images = digits.images.take(ids)
        parts.append(measure(model, images, params, reporter=Silent(), device="cpu", ids=ids, total=IMAGES))
    merged = merge(parts)
    assert dict(merged.health) == dict(whole.health) and merged.health["images"] > 50
    told = conclude(params, merged, classes=digits.images.classes, shape=digits.images.image_shape).result
    assert told["warnings"] == result["warnings"]


def test_an_l2_radius_of_a_linf_size_is_run_and_warned_of(digits, standard):
    tiny = [{"name": "pgd", "norm": "l2", "eps": "8/255"}]
    assert set(found(standard, digits, tiny)) == {"l2-eps-looks-like-linf"}
    assert found(standard, digits, [{"name": "pgd", "norm": "l2", "eps": 0.5}]) == {}
