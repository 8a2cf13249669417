"""What `bench.methods` would post: every method is there, and every body is one that the service takes."""

from __future__ import annotations

from typing import get_args

import pytest

from app.services.datasets import DatasetInfo
from app.services.recipes import Preset
from bench.methods_plan import WAYS, stage_body
from models.methods.spec import METHODS

INFO = DatasetInfo(
    name="cifar10-jpg",
    source="",
    kind="upload",
    classes=tuple("abcdefghij"),
    image_shape=(3, 32, 32),
    train_size=50_000,
    test_size=10_000,
)


def test_every_method_has_a_way() -> None:
    assert {stage.method for way in WAYS.values() for stage in way.stages} == set(METHODS)


@pytest.mark.parametrize("fraction", [1.0, 0.01])
@pytest.mark.parametrize("preset", [preset for preset in get_args(Preset) if not preset.startswith("paper")])
@pytest.mark.parametrize("way", WAYS)
def test_bodies_are_valid_and_shares_add_up(way: str, preset: Preset, fraction: float) -> None:
    stages = WAYS[way].stages
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    for number, stage in enumerate(stages):
        assert all(position < number for position in stage.uses.values())
        body = stage_body(stage, INFO, preset=preset, images=10_000, fraction=fraction, epochs=3, seed=0)
        params = METHODS[stage.method].params.model_validate(body | dict.fromkeys(stage.uses, "a-model"))
        assert params.epochs == 3 and params.dataset.subset == 10_000
        assert params.validation is None
        if stage.method == "clead":
            assert params.views_in_turn == stage.fields.get("views_in_turn", False)
            assert [view.eps for view in params.views] == pytest.approx([stage.radius * 8 / 255] * 2)
            assert [view.steps * view.step_size for view in params.views] == pytest.approx(
                [stage.radius * 10 / 255] * 2
            )


def test_costs_are_of_one_stage_each() -> None:
    """Stages of one name are of one cost, whatever way they are in."""
    seen: dict[str, tuple[str, str]] = {}
    for way in WAYS.values():
        for stage in way.stages:
            told = stage.method, repr((sorted(stage.fields.items(), key=str), stage.radius, stage.steps))
            assert seen.setdefault(stage.name, told) == told
