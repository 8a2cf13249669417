"""A small training by every registered method, on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.data import Dataset
from models.methods.spec import METHODS
from models.progress import Silent
from models.specs import TrainingParams
from models.training import TrainingOutcome, train

ATTACK = {"eps": 0.2, "steps": 2, "step_size": 0.1}
VIEWS = [{"name": name, **ATTACK} for name in ("pgd", "cw")]
LOUD: dict[str, Any] = {
    "augmentation": {"crop_padding": 1, "flip": False, "crop_area": 0.6, "jitter": 0.5},
    "temperature": 0.1,
}
"""What contrastive methods need, as far as digits bear it."""
SPECS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "pgd-at": {"method": "pgd-at", "attack": ATTACK},
    "pgd-at with cw": {"method": "pgd-at", "attack": {"name": "cw", "norm": "l2", "eps": 1, "steps": 2}},
    "pgd-at with worst weights": {
        "method": "pgd-at", "attack": ATTACK, "weight_perturbation": {"gamma": 0.01, "warmup_epochs": 0.5},
    },
    "pgd-at, watched": {
        "method": "pgd-at", "attack": ATTACK,
        "validation": {"images": 30, "every_epochs": 0.5, "eps": 0.2, "steps": 2, "step_size": 0.1, "keep": "best"},
    },
    "clead, watched": {
        "method": "clead", "views": VIEWS, "crops": 1, "ema": 0.8,
        "validation": {"images": 30, "eps": 0.2, "steps": 2, "step_size": 0.1, "keep": "best"},
    },
    "trades": {"method": "trades", "attack": ATTACK},
    "fat": {"method": "fat", "attack": ATTACK, "one_more_step_from": [0.5]},
    "fast-at": {"method": "fast-at", "attack": {"eps": 0.2}, "guard": {"every": 5}},
    "fast-at by fgsm-rs": {"method": "fast-at", "attack": {"name": "fgsm-rs", "eps": 0.2}, "guard": None},
    "las-at": {
        "method": "las-at",
        "attack": ATTACK,
        "strategy": {
            "backbone": {"width": 4, "blocks": [1]}, "eps": [0.5, 1.25], "eps_choices": 3, "steps": [1, 3],
            "step_size": [0.25, 0.5], "step_size_choices": 2, "every": 3, "lr": 0.1,
        },
    },
    "advprop": {"method": "advprop", "attack": ATTACK},
    "self-training": {
        "method": "self-training", "objective": {"method": "pgd-at", "attack": ATTACK}, "base_model": "base",
        "dataset": {"name": "digits", "labels_fraction": 0.1},
    },
    "self-training on clusters by trades": {
        "method": "self-training", "objective": {"method": "trades", "attack": ATTACK}, "base_model": "base",
        "pseudo_labels": "clusters",
    },
    "self-training by fast-at": {
        "method": "self-training", "base_model": "base",
        "objective": {"method": "fast-at", "attack": {"eps": 0.2}, "guard": {"every": 5}},
    },
    "simclr": {"method": "simclr", **LOUD},
    "rocl": {"method": "rocl", **LOUD, "attack": ATTACK},
    "acl, dual stream": {"method": "acl", **LOUD, "attack": ATTACK},
    "acl, both attacked": {"method": "acl", **LOUD, "streams": "a2a", "attack": ATTACK},
    "acl, one attacked": {
        "method": "acl", **LOUD, "streams": "a2s", "attack": {"eps": 0.05, "steps": 2, "step_size": 0.03},
    },
    "dynacl": {"method": "dynacl", **LOUD, "attack": ATTACK, "stages": 4},
    "deacl": {"method": "deacl", "attack": ATTACK, "base_model": "base"},
    "clead with averaged weights": {"method": "clead", "views": VIEWS, "crops": 1, "ema": 0.9},
    "clead": {"method": "clead", "views": VIEWS, "crops": 1},
    "clead, views in turn": {"method": "clead", "views": VIEWS, "views_in_turn": True},
    "clead between versions, fading": {
        "method": "clead", "views": VIEWS, **LOUD, "pairs": "versions", "fading": {"stages": 4},
    },
    "clead, two crops": {"method": "clead", "views": VIEWS},
    "clead, online": {
        "method": "clead", "views": VIEWS, "perturbation": "pseudo-label-online", "base_model": "base",
    },
    "clead, base": {"method": "clead", "views": VIEWS, "perturbation": "pseudo-label-base", "base_model": "base"},
}  # fmt: skip


def params(case: str, **changes: object) -> TrainingParams:
    fields: dict[str, Any] = {
        "backbone": {"name": "resnet18", "width": 16, "blocks": [1, 1]},
        "dataset": {"name": "digits", "subset": None},
        "augmentation": {"crop_padding": 1, "flip": False},
        "epochs": 2,
        "batch_size": 32,
        "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 0},
        "schedule": {"warmup_epochs": 0.2},
        **SPECS[case],
        **changes,
    }
    return METHODS[fields["method"]].params.model_validate(fields)


def run(spec: TrainingParams, data: Dataset, folder: Path, **changes: Any) -> TrainingOutcome:
    arguments: dict[str, Any] = {
        "init": None, "base": None, "workdir": folder, "resume": None, "reporter": Silent(), "device": "cpu",
    }  # fmt: skip
    return train(spec, data, **arguments | changes)
