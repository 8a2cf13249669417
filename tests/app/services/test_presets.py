"""Every method fits into every preset."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.datasets import DatasetInfo
from app.services.fitting import misfits
from app.services.presets import ProtocolParams, perturbation_size, training_body
from app.services.recipes import Preset
from models.methods.spec import METHODS

SHAPES = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
PRESETS: tuple[Preset, ...] = ("quick", "small", "paper-resnet18")


def described(name: str, image_shape: tuple[int, int, int], *, size: int, classes: int = 2) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        source="",
        kind="upload",
        classes=tuple(map(str, range(classes))),
        image_shape=image_shape,
        train_size=size,
        test_size=100,
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", SHAPES)
def test_a_presets_body_is_one_that_the_method_takes(name: str, method: str, preset: Preset) -> None:
    """At the radius of the images' size, with the recipe's network and the method's own kind of attack."""
    shape = SHAPES[name]
    data = described(name, shape, size=900)
    params = ProtocolParams.model_validate({"preset": preset, "dataset": {"name": name}, "methods": [method]})
    body = training_body(params, data, method=method)
    base = {"base_model": "teacher"} if METHODS[method].teacher else {}
    parsed: Any = METHODS[method].params.model_validate({**body, **base})
    default: Any = METHODS[method].params.model_validate({"dataset": {"name": name}, **base})
    assert parsed.batch_size <= 900
    eps = perturbation_size(shape)
    for view in getattr(parsed, "views", ()):
        assert view.eps == (1.5 if preset == "small" else 1) * eps
        assert view.steps * view.step_size >= view.eps
    parsed, default = getattr(parsed, "objective", parsed), getattr(default, "objective", default)
    if hasattr(parsed, "attack"):
        assert (parsed.attack.eps, parsed.attack.name) == (eps, default.attack.name)
        assert parsed.attack.step_size <= 1.25 * eps
    if hasattr(parsed, "strategy") and preset != "paper-resnet18":
        assert parsed.strategy.backbone == parsed.backbone


@pytest.mark.parametrize(("fraction", "held"), [(1.0, 500), (0.1, 100), (0.01, None)])
@pytest.mark.parametrize("preset", PRESETS)
def test_small_keeps_the_best_weights_of_adversarial_trainings(
    preset: Preset, fraction: float, held: int | None
) -> None:
    """By PGD on a tenth of the labelled images, where they are enough; pretraining and the other presets hold none."""
    data = described("grey", (1, 28, 28), size=10_000)
    chosen = {"name": "grey", "labels_fraction": fraction}
    params = ProtocolParams.model_validate({"preset": preset, "dataset": chosen, "methods": ["pgd-at", "clead"]})
    looks = training_body(params, data, method="pgd-at").get("validation")
    if preset != "small" or held is None:
        assert looks is None
    else:
        assert (looks["images"], looks["keep"], looks["eps"]) == (held, "best", 0.1)
    assert "validation" not in training_body(params, data, method="clead")
    assert "validation" not in training_body(params, data, method="advprop"), "which is no defence"


@pytest.mark.parametrize(
    ("classes", "size", "held"), [(100, 1_000, 100), (200, 1_000, 200), (201, 1_000, None), (1_000, 50_000, 1_000)]
)
def test_small_holds_out_one_of_each_class_or_nothing(classes: int, size: int, held: int | None) -> None:
    """And so few as its own training takes: at most a fifth."""
    data = described("photos", (3, 32, 32), size=size, classes=classes)
    for method in ("pgd-at", "self-training"):
        asked = {"preset": "small", "dataset": {"name": "photos"}, "methods": [method]}
        body = training_body(ProtocolParams.model_validate(asked), data, method=method)
        assert (body["validation"] and body["validation"]["images"]) == held
        params = METHODS[method].params.model_validate({**body, "base_model": "x"} if method != "pgd-at" else body)
        assert [error["pointer"] for error in misfits(params, data, {})] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_body_is_taken_for_large_images(preset: Preset) -> None:
    data = described("photos", (3, 640, 480), size=2_000)
    params = ProtocolParams.model_validate({"preset": preset, "dataset": {"name": "photos"}, "methods": ["pgd-at"]})
    METHODS["pgd-at"].params.model_validate(training_body(params, data, method="pgd-at"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", list(METHODS))
def test_a_presets_body_is_taken_for_a_handful_of_labels(method: str, preset: Preset) -> None:
    data = described("digits", (1, 8, 8), size=1437)
    chosen = {"name": "digits", "labels_fraction": 0.01}
    params = ProtocolParams.model_validate({"preset": preset, "dataset": chosen, "methods": [method]})
    base = {"base_model": "teacher"} if METHODS[method].teacher else {}
    METHODS[method].params.model_validate({**training_body(params, data, method=method), **base})


@pytest.mark.parametrize("size", [1_000, 10_000, 50_000, 1_000_000])
@pytest.mark.parametrize("method", ["standard", "pgd-at", "clead"])
def test_small_takes_as_long_on_few_images(method: str, size: int) -> None:
    """As many images pass as on CIFAR-10; on more, each is seen as often as there. The schedule stretches along."""
    data = described("photos", (3, 32, 32), size=size)

    def body(preset: Preset) -> dict[str, Any]:
        asked = {"preset": preset, "dataset": {"name": "photos"}, "methods": [method]}
        return training_body(ProtocolParams.model_validate(asked), data, method=method)

    small = body("small")
    passes = {"standard": 20, "pgd-at": 8, "clead": 10}[method]
    assert small["epochs"] == (passes if size >= 50_000 else passes * 50_000 // size)
    assert small["schedule"]["warmup_epochs"] == small["epochs"] / 10
    assert small.get("validation", {}).get("every_epochs") == (small["epochs"] / 8 if method == "pgd-at" else None)
    assert body("quick")["epochs"] == {"standard": 12, "pgd-at": 8, "clead": 4}[method]
