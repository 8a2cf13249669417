"""The same attacks by torchattacks, foolbox, ART and adv-lib, each as its users would call it.

Every function takes (model, images, labels) with images float32 (N, C, H, W) in [0, 1] and returns adversarial images;
a peer gets batches of 100, as we do.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

# adv-lib imports visdom for plots that nobody asks for here, and visdom does not build on current Python.
sys.modules.setdefault("visdom", types.ModuleType("visdom"))

from adv_lib.attacks import pgd_linf  # noqa: E402
from adv_lib.attacks.carlini_wagner import carlini_wagner_l2  # noqa: E402
from art.attacks import evasion  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

BATCH = 100
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def batched(attack: Attack) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        pieces = zip(images.split(BATCH), labels.split(BATCH), strict=True)
        return torch.cat([attack(model, x, y).detach() for x, y in pieces])

    return run


def foolboxed(attack: Any, *, eps: float | None) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        found: Tensor = attack(wrapped, images, labels, epsilons=eps)[1]
        return found

    return batched(run)


def arted(attack: Callable[[PyTorchClassifier], Any]) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        with contextlib.redirect_stderr(io.StringIO()):
            found = attack(classifier).generate(images.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()])
        return torch.from_numpy(found)

    return run


def fgsm(eps: float) -> dict[str, Attack]:
    return {
        "torchattacks": batched(lambda m, x, y: torchattacks.FGSM(m, eps=eps)(x, y)),
        "foolbox": foolboxed(foolbox.attacks.FGSM(), eps=eps),
        "art": arted(lambda c: evasion.FastGradientMethod(c, eps=eps, batch_size=BATCH)),
    }


def pgd(eps: float, *, steps: int, step_size: float) -> dict[str, Attack]:
    return {
        "torchattacks": batched(lambda m, x, y: torchattacks.PGD(m, eps=eps, alpha=step_size, steps=steps)(x, y)),
        "foolbox": foolboxed(foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps), eps=eps),
        "art": arted(
            lambda c: evasion.ProjectedGradientDescent(
                c,
                eps=eps,
                eps_step=step_size,
                max_iter=steps,
                num_random_init=1,
                batch_size=BATCH,
                verbose=False,
            )
        ),
        "adv-lib": batched(
            lambda m, x, y: pgd_linf(m, x, y, ε=eps, steps=steps, absolute_step_size=step_size, random_init=True)
        ),
    }


def cw_l2(*, steps: int, searches: int, lr: float, const: float) -> dict[str, Attack]:
    """With their own early stopping left on, as it is by default.

    torchattacks has no search for c: it gets c = ``const`` and as many steps in all. ART searches along every step, so
    it takes up to ten forward passes more for each.
    """
    return {
        "torchattacks": batched(lambda m, x, y: torchattacks.CW(m, c=const, lr=lr, steps=steps * searches)(x, y)),
        "art": arted(
            lambda c: evasion.CarliniL2Method(
                c,
                learning_rate=lr,
                initial_const=const,
                binary_search_steps=searches,
                max_iter=steps,
                batch_size=BATCH,
                verbose=False,
            )
        ),
        "foolbox": foolboxed(
            foolbox.attacks.L2CarliniWagnerAttack(
                binary_search_steps=searches, steps=steps, stepsize=lr, initial_const=const
            ),
            eps=None,
        ),
        "adv-lib": batched(
            lambda m, x, y: carlini_wagner_l2(
                m,
                x,
                y,
                learning_rate=lr,
                initial_const=const,
                binary_search_steps=searches,
                max_iterations=steps,
            )
        ),
    }


def autoattack(eps: float, *, steps: int, queries: int) -> dict[str, Attack]:
    """The standard parts at the asked iterations, each on what those before it left, by torchattacks.

    Its own ``AutoAttack`` runs 10 iterations instead of 100, so the parts are put together here as its ``MultiAttack``
    does it.
    """

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        parts = [
            torchattacks.APGD(model, eps=eps, steps=steps, loss="ce"),
            torchattacks.APGDT(model, eps=eps, steps=steps, n_classes=10),
            torchattacks.FAB(model, eps=eps, steps=steps, multi_targeted=True, n_classes=10),
            torchattacks.Square(model, eps=eps, n_queries=queries),
        ]
        found: Tensor = torchattacks.MultiAttack(parts)(images, labels)
        return found

    return {"torchattacks": batched(run)}
