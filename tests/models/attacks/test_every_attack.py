"""What holds for each registered attack, on models of two classes, of one channel and of 64×64 pixels."""

from __future__ import annotations

import pytest
import torch
import torchattacks

from models.attacks.fgsm import FGSMParams
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.pgd import PGDParams
from models.attacks.spec import ATTACKS
from models.attacks.victim import Tuning, Victim
from models.networks import build_model
from models.specs import BackboneSpec, ModelCard

COUNT = 12
SHORT = {
    "steps": 6,
    "initial_const": 10.0,
    "lr": 0.05,
    "queries": 40,
    "targets": 3,
    "binary_search_steps": 3,
    "draws": 2,
}
MODELS = {
    "two classes, grey": ((1, 8, 8), 2),
    "three classes, 64×64": ((3, 64, 64), 3),
    "ten classes, grey, not square": ((1, 12, 9), 10),
}
PLAIN, FAST = Tuning(), Tuning(folded=True, precision="bfloat16")


def network(shape, classes):
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(name="resnet18", width=4, blocks=(1, 1)),
        image_shape=shape,
        classes=tuple(map(str, range(classes))),
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
    )
    return build_model(card, seed=5).eval()


@pytest.fixture(params=MODELS, scope="module")
def attacked(request):
    """A model and images that it is right about, since the labels are its own answers."""
    shape, classes = MODELS[request.param]
    model = network(shape, classes)
    images = torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.head.bias -= model(images).mean(dim=0)  # so that it does not name one class for everything
        return model, images, model(images).argmax(dim=1)


def short(name: str, norm: str | None = None):
    """The attack with few steps, in a ball that a network of random weights does not survive."""
    fields = ATTACKS[name].params.model_fields
    if name == "transfer":
        return ATTACKS[name].params(source="other@1", attack={"name": "pgd", "eps": 0.3, "steps": 6})
    given = {field: value for field, value in SHORT.items() if field in fields}
    if "eps" in fields and not ATTACKS[name].minimum_norm:
        given["eps"] = 2.0 if norm == "l2" else 0.3
    if norm is not None:
        given["norm"] = norm
    return ATTACKS[name].params(**given)


def cases(*access):
    for entry in ATTACKS.entries():
        if access and entry.access not in access:
            continue
        norms = entry.params.model_fields["norm"].annotation if "norm" in entry.params.model_fields else None
        for norm in getattr(norms, "__args__", [None]):
            yield pytest.param(entry.name, norm, id=f"{entry.name}-{norm}")


@pytest.mark.parametrize("tuning", [PLAIN, FAST], ids=["float32", "fast"])
@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_points_stay_in_the_box_and_the_ball_and_images_do_not_influence_each_other(attacked, name, norm, tuning):
    model, images, labels = attacked
    params = short(name, norm)
    source = Victim(network(tuple(images.shape[1:]), model.head.out_features), tuning=tuning)
    victim = Victim(model, tuning=tuning, batch_size=5, sources={"other@1": source})

    def run(rows):
        return ATTACKS[name].run(victim, images[rows], labels[rows], params, noise=PerImageNoise(rows))

    points = run(torch.arange(COUNT))
    assert points.shape == images.shape and points.dtype == torch.float32
    assert points.min() >= 0 and points.max() <= 1
    if params.radius is not None and not ATTACKS[name].minimum_norm:
        radius = (points - images).flatten(1).norm(dim=1, p=2 if params.radius[0] == "l2" else float("inf"))
        assert radius.max() <= params.radius[1] * (1 + 1e-6) + 1e-6
    if tuning is PLAIN:
        torch.testing.assert_close(run(torch.tensor([7]))[0], points[7], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "norm"), list(cases("white-box")))
def test_an_attack_that_uses_the_model_breaks_a_network_of_random_weights(attacked, name, norm):
    model, images, labels = attacked
    noise = PerImageNoise(torch.arange(COUNT))
    points = ATTACKS[name].run(Victim(model), images, labels, short(name, norm), noise=noise)
    with torch.no_grad():
        assert (~is_right(model(points), labels)).float().mean() >= 0.5


def test_fgsm_and_pgd_equal_torchattacks_on_every_shape(attacked):
    model, images, labels = attacked
    noise = PerImageNoise(torch.arange(COUNT))
    fgsm = ATTACKS["fgsm"].run(Victim(model), images, labels, FGSMParams(eps=0.05), noise=noise)
    torch.testing.assert_close(fgsm, torchattacks.FGSM(model, eps=0.05)(images, labels), atol=1e-6, rtol=0)
    params = PGDParams(eps=0.05, steps=5, step_size=0.02, random_start=False, verdict="last")
    pgd = ATTACKS["pgd"].run(Victim(model), images, labels, params, noise=noise)
    theirs = torchattacks.PGD(model, eps=0.05, alpha=0.02, steps=5, random_start=False)(images, labels)
    torch.testing.assert_close(pgd, theirs, atol=1e-6, rtol=0)
