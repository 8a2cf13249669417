"""Worked examples of the request bodies, shown by /docs and kept valid by the tests."""

from __future__ import annotations

from typing import Any

PRETRAIN: dict[str, Any] = {
    "method": "clead",
    "backbone": {"name": "resnet18", "width": 64},
    "dataset": {"name": "cifar10", "subset": None},
    "init": None,
    "views": [
        {"name": "pgd", "eps": "8/255", "steps": 5, "step_size": "2/255"},
        {"name": "cw", "eps": "8/255", "steps": 5, "step_size": "2/255"},
    ],
    "epochs": 200,
    "batch_size": 512,
    "temperature": 0.1,
    "projection": {"layers": 2, "dim": 128},
    "optimizer": {"name": "sgd", "lr": 0.4, "momentum": 0.9, "weight_decay": 0.0001},
    "schedule": {"name": "cosine", "warmup_epochs": 10},
    "precision": "auto",
    "seed": 0,
    "register_as": "clead-r18",
    "labels": {"team": "vision"},
}

PROBE: dict[str, Any] = {
    "model": "clead-r18@1",
    "mode": "linear",
    "dataset": {"name": "cifar10"},
    "epochs": 100,
    "optimizer": {"name": "adam", "lr": 0.0001, "weight_decay": 0},
    "register_as": "clead-r18",
}

TRAIN: dict[str, Any] = {
    "method": "pgd-at",
    "backbone": {"name": "resnet18", "width": 64},
    "dataset": {"name": "cifar10"},
    "epochs": 110,
    "batch_size": 128,
    "register_as": "pgd-at-r18",
}

EVALUATE: dict[str, Any] = {
    "model": "clead-r18@2",
    "dataset": {"name": "cifar10", "split": "test", "subset": 1000, "seed": 0},
    "attacks": [
        {"name": "fgsm", "eps": "8/255"},
        {"name": "pgd", "norm": "linf", "eps": "8/255", "steps": 20, "step_size": "2/255", "restarts": 1},
        {"name": "cw", "norm": "l2", "steps": 100, "binary_search_steps": 9, "confidence": 0, "lr": 0.01},
    ],
    "curve": {"attack": "pgd", "eps": ["0/255", "2/255", "4/255", "8/255", "16/255"]},
    "examples": 16,
    "require": {"pgd": ">=0.40"},
}

CORRUPTIONS: dict[str, Any] = {
    "model": "clead-r18@2",
    "dataset": {"name": "cifar10", "split": "test", "subset": 1000, "seed": 0},
    "corruptions": ["gaussian_noise", "motion_blur", "fog", "jpeg_compression"],
    "severities": [1, 3, 5],
}

PROTOCOL: dict[str, Any] = {
    "preset": "quick",
    "dataset": {"name": "digits"},
    "methods": ["standard", "clead", "pgd-at"],
    "seed": 0,
}

IMAGES: dict[str, Any] = {
    "images": [
        {
            "base64": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEklEQVR42mNk"
            "UIAAJgYoII8BAD0oAPARRQaGAAAAAElFTkSuQmCC",
            "filename": "ramp.png",
        }
    ]
}
"""A grey picture of 8×8 pixels."""
