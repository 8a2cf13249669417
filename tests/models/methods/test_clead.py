"""C-LEAD's inner attacks climb what they should, and its parameters refuse what cannot run."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.attacks.objectives import cross_entropy, margin
from models.losses import NTXent, contrastive_margin
from models.methods.clead import CLeadParams, build
from models.methods.clead_learner import CLeadLearner
from models.networks import Classifier, build_model
from models.progress import Moment
from models.specs import BackboneSpec, ModelCard

EPS = 0.1
START = Moment(step=0, total=100, epoch=0.0, lr=0.1)
IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 10


def same(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def card(kind: str) -> ModelCard:
    return ModelCard.model_validate(
        {
            "kind": kind,
            "backbone": BackboneSpec(width=8, blocks=(1, 1)),
            "image_shape": (1, 8, 8),
            "classes": tuple("0123456789") if kind == "classifier" else None,
            "mean": (0.5,),
            "std": (0.3,),
        }
    )


@pytest.fixture
def base() -> Classifier:
    model = build_model(card("classifier"), seed=2)
    assert isinstance(model, Classifier)
    return model.eval()


def learner(base: Classifier | None, **changes: object) -> CLeadLearner:
    views = [{"name": name, "eps": EPS, "steps": 5, "step_size": EPS / 4} for name in ("pgd", "cw")]
    fields = {"dataset": {"name": "digits"}, "views": views, "crops": 1, **changes}
    made = build(CLeadParams.model_validate(fields), build_model(card("encoder"), seed=1), base=base, augment=same)
    assert isinstance(made, CLeadLearner)
    made.modules.train()
    made._encoder(IMAGES)  # moves the statistics away from their start
    return made


def perturbed(made: CLeadLearner, pseudo: Tensor | None) -> list[Tensor]:
    return made._perturb(IMAGES, IMAGES, pseudo, views=made._views, generator=torch.Generator().manual_seed(3))


def attacked(made: CLeadLearner) -> tuple[Tensor, Tensor]:
    pseudo = made._pseudo_labels(IMAGES)
    pgd, cw = perturbed(made, pseudo)
    for points in (pgd, cw):
        assert points.min() >= 0 and points.max() <= 1
        assert (points - IMAGES).abs().max() <= EPS + 1e-6
    return pgd, cw


def test_contrastive_perturbations_raise_the_contrastive_loss_and_margin() -> None:
    made = learner(None)
    pgd, cw = attacked(made)
    made.modules.eval()
    generator = torch.Generator().manual_seed(3)
    noisy = (IMAGES + EPS * (torch.rand(IMAGES.shape, generator=generator) * 2 - 1)).clamp(0, 1)
    with torch.no_grad():
        clean, z_noisy, z_pgd, z_cw = (made._embed(images) for images in (IMAGES, noisy, pgd, cw))
    contrast = NTXent(0.1)
    assert contrast(clean, z_pgd) > contrast(clean, z_noisy) + 0.03
    assert contrastive_margin(z_cw, clean).mean() > contrastive_margin(z_noisy, clean).mean() + 0.002


@pytest.mark.parametrize("guide", ["pseudo-label-online", "pseudo-label-base"])
def test_label_guided_perturbations_raise_the_guides_loss_and_margin(guide: str, base: Classifier) -> None:
    made = learner(base, perturbation=guide, base_model="base")
    pgd, cw = attacked(made)
    made.modules.eval()
    pseudo = base(IMAGES).argmax(1)
    with torch.no_grad():
        logits = {"clean": made._logits(IMAGES), "pgd": made._logits(pgd), "cw": made._logits(cw)}
    assert cross_entropy(logits["pgd"], pseudo).mean() > cross_entropy(logits["clean"], pseudo).mean() + 0.05
    assert margin(logits["cw"], pseudo).mean() > margin(logits["clean"], pseudo).mean() + 0.05
    if guide == "pseudo-label-base":
        assert torch.equal(logits["pgd"], base(pgd))


def test_a_step_leaves_modes_gradients_and_statistics_of_the_attack_untouched() -> None:
    made = learner(None)
    state = {key: value.clone() for key, value in made.modules.state_dict().items()}
    attacked(made)
    assert all(torch.equal(state[key], value) for key, value in made.modules.state_dict().items())
    assert all(module.training for module in made.modules.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in made.modules.parameters())


def test_the_online_head_gets_no_gradient_into_the_encoder(base: Classifier) -> None:
    """The encoder's gradient is that of the contrastive loss alone."""

    def gradients(made: CLeadLearner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss, extra = made.loss(IMAGES, LABELS, moment=START, generator=torch.Generator().manual_seed(3))
        loss.backward()
        return {n: p.grad for n, p in made.modules.named_parameters() if p.grad is not None}, extra

    online, extra = gradients(learner(base, perturbation="pseudo-label-online", base_model="base"))
    assert any(name.startswith("online_head") for name in online)
    assert extra["contrastive_loss"] > 0 and extra["online_head_loss"] > 0
    made = learner(base, perturbation="pseudo-label-online", base_model="base")
    pgd, cw = perturbed(made, made._pseudo_labels(IMAGES))
    made._criterion(*made._embed(torch.cat((IMAGES, pgd, cw))).chunk(3)).backward()
    for name, parameter in made.modules.named_parameters():
        if not name.startswith("online_head"):
            torch.testing.assert_close(online[name], parameter.grad)


def test_labels_are_not_used() -> None:
    losses = [
        learner(None).loss(IMAGES, labels, moment=START, generator=torch.Generator().manual_seed(3))[0].item()
        for labels in (LABELS, LABELS.flip(0))
    ]
    assert losses[0] == losses[1]


def test_views_in_turn_take_one_term_of_the_loss_an_update() -> None:
    """The same as one view alone has, with the same random numbers: its attack is all that the update costs."""

    def loss(step: int, **changes: object) -> float:
        made, moment = learner(None, **changes), Moment(step=step, total=100, epoch=0.0, lr=0.1)
        return made.loss(IMAGES, LABELS, moment=moment, generator=torch.Generator().manual_seed(3))[0].item()

    pgd, cw = ({"name": name, "eps": EPS, "steps": 5, "step_size": EPS / 4} for name in ("pgd", "cw"))
    in_turn = [loss(step, views=[pgd, cw], views_in_turn=True) for step in range(3)]
    assert in_turn == [loss(0, views=[pgd]), loss(0, views=[cw]), loss(0, views=[pgd])]
    assert in_turn[0] != in_turn[1]


def test_defaults_are_the_papers() -> None:
    params = CLeadParams.model_validate({"dataset": {"name": "cifar10"}})
    assert (params.epochs, params.batch_size, params.temperature, params.perturbation) == (200, 512, 0.1, "contrastive")
    assert (params.optimizer.lr, params.optimizer.momentum, params.optimizer.weight_decay) == (0.4, 0.9, 1e-4)
    assert [(v.name, v.steps) for v in params.views] == [("pgd", 5), ("cw", 5)]
    for view in params.views:
        assert (view.eps, view.step_size) == (pytest.approx(8 / 255), pytest.approx(2 / 255))
    assert params.schedule.warmup_epochs == 10 and params.projection.dim == 128


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"perturbation": "pseudo-label-base"}, "base_model"),
        ({"perturbation": "pseudo-label-online"}, "base_model"),
        ({"base_model": "base"}, "base_model"),
        ({"views": []}, "views"),
        ({"views": [{"name": "fgsm"}]}, "views"),
        ({"views": [{"name": "pgd", "step": 3}]}, "views"),
        ({"views": [{"name": "pgd", "restarts": 2}]}, "views"),
        ({"temperature": 0}, "temperature"),
        ({"crops": 3}, "crops"),
        ({"temprature": 0.1}, "temprature"),
    ],
)
def test_specs_that_cannot_run_are_refused_at_their_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CLeadParams.model_validate({"dataset": {"name": "digits"}, **changes})
    assert caught.value.errors()[0]["loc"][0] == field
