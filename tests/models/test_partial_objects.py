"""What is left out of a request, and where it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from models.attacks.spec import IterativeParams
from models.methods.spec import METHODS
from models.specs import SIMCLR

DATA = {"dataset": {"name": "digits"}}


def parsed(method: str, **fields: Any) -> Any:
    return METHODS[method].params.model_validate({**DATA, **fields})


def test_an_object_given_in_part_keeps_the_rest_of_the_methods_own() -> None:
    optimizer = parsed("simclr", optimizer={"lr": 3.0}).optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("lars", 3.0, 1e-6)
    assert parsed("simclr", optimizer={"name": "lars", "lr": 3.0}).optimizer == optimizer
    assert parsed("dynacl", augmentation={"flip": False}).augmentation == SIMCLR.model_copy(update={"flip": False})
    assert parsed("clead", schedule={"name": "cosine"}).schedule.warmup_epochs == 10
    attack = parsed("advprop", attack={"name": "pgd"}).attack
    assert (attack.eps, attack.steps) == (4 / 255, 5)


def test_another_kind_of_thing_brings_its_own_defaults() -> None:
    optimizer = parsed("simclr", optimizer={"name": "sgd"}).optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.1, 1e-4)
    assert parsed("clead", schedule={"name": "constant"}).schedule.warmup_epochs == 0
    assert parsed("advprop", attack={"norm": "l2"}).attack.eps == 0.5


def test_another_radius_brings_another_step() -> None:
    attack = parsed("rocl", attack={"eps": "4/255"}).attack
    assert (attack.eps, attack.steps, attack.step_size) == (4 / 255, 7, 1 / 255)
    assert parsed("rocl", attack={"steps": 3}).attack.step_size == pytest.approx(0.007)


@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_written_out_is_read_as_it_was(method: str) -> None:
    base = {"base_model": "base"} if METHODS[method].teacher else {}
    spec = parsed(method, **base, optimizer={"name": "adam"})
    assert parsed(method, **spec.model_dump(mode="json", exclude={"method", "dataset"})) == spec
    attack = getattr(spec, "attack", None)
    assert attack is None or isinstance(attack, IterativeParams) or attack.eps > 0
