"""How the tests of evaluations ask for one."""

from __future__ import annotations

import torch

from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.progress import Silent

COUNT = 150
LADDER = [
    {"name": "fgsm", "eps": 0.1},
    {"name": "pgd", "eps": 0.1, "steps": 8, "restarts": 2},
    {"name": "cw-linf", "eps": 0.1, "steps": 8},
    {"name": "pgd", "norm": "l2", "eps": 0.8, "steps": 8},
]
CURVE = {"attack": "pgd", "eps": [0.2, 0.0, 0.05, 0.1, 0.3]}
QUICK_CW = {"name": "cw-l2", "steps": 150, "lr": 0.02, "initial_const": 0.01}


def spec(attacks=LADDER, **fields):
    return EvaluationParams.model_validate(
        {"model": "victim@1", "dataset": {"name": "digits"}, "attacks": attacks, **fields}
    )


def run(victim, params, *, reporter=None, count=COUNT, model=None):
    images = victim.images.take(torch.arange(count))
    return evaluate(
        model or victim.model,
        images,
        params,
        reporter=reporter or Silent(),
        device="cpu",
        dataset_info={"sha256": "ab"},
    )


def numbers(result):
    """The result without its clock."""
    rows = [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in result["attacks"]]
    cost = {key: result["cost"][key] for key in result["cost"] if key != "seconds"}
    return {**result, "attacks": rows, "cost": cost}
