import itertools

import pytest

from models.optimization import learning_rate
from models.specs import OptimizerSpec, ScheduleSpec


def rates(total: int, **schedule: object) -> list[float]:
    return [
        learning_rate(
            step,
            total,
            optimizer=OptimizerSpec(lr=0.4),
            schedule=ScheduleSpec.model_validate(schedule),
            steps_per_epoch=10,
        )
        for step in range(total)
    ]


def test_warmup_rises_to_the_peak_and_the_cosine_falls() -> None:
    values = rates(100, name="cosine", warmup_epochs=1)
    assert values[:3] == pytest.approx([0.04, 0.08, 0.12])
    assert max(values) == values[9] == pytest.approx(0.4)
    assert values[10] == pytest.approx(0.4)
    assert values[55] == pytest.approx(0.2)
    assert all(a > b > 0 for a, b in itertools.pairwise(values[10:]))


def test_constant_and_a_warmup_longer_than_the_training() -> None:
    assert rates(20, name="constant") == [0.4] * 20
    assert rates(20, warmup_epochs=50)[-1] == pytest.approx(0.4)
