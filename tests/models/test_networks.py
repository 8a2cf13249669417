import pytest
import torch
from torch import nn

from models.backbones.spec import BACKBONES
from models.networks import (
    Classifier,
    Encoder,
    IncompatibleModelError,
    ProjectionHead,
    build_model,
    copy_backbone,
    frozen,
)
from models.specs import BackboneSpec, ModelCard, ProjectionSpec


def card(kind: str = "classifier", **changes: object) -> ModelCard:
    fields: dict[str, object] = {
        "kind": kind,
        "backbone": BackboneSpec(width=4, blocks=(1, 1)),
        "image_shape": (3, 16, 16),
        "classes": ("cat", "dog") if kind == "classifier" else None,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    }
    return ModelCard.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("name", "parameters", "dim"),
    [("resnet18", 11_173_962, 512), ("resnet34", 21_282_122, 512), ("resnet50", 23_520_842, 2048)],
)
def test_full_size_networks_have_the_published_parameter_counts(name: str, parameters: int, dim: int) -> None:
    """Counts of the common CIFAR-10 ResNets (kuangliu/pytorch-cifar), head for ten classes included."""
    full = card(backbone=BackboneSpec(name=name), image_shape=(3, 32, 32), classes=tuple("0123456789"))
    with torch.device("meta"):
        model = build_model(full)
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert model.backbone.feature_dim == dim


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("blocks", [(1,), (2, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_width_block_list_and_stem(name: str, blocks: tuple[int, ...], stride: int) -> None:
    spec = BackboneSpec(name=name, width=3, blocks=blocks, stem_stride=stride)
    model = build_model(card("encoder", backbone=spec, image_shape=(1, 8, 8), mean=(0.1,), std=(1.0,)))
    assert isinstance(model, Encoder)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, model.backbone.feature_dim)


def test_normalization_happens_inside() -> None:
    model = build_model(card()).eval()
    images = torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(images[:, c] - model.card.mean[c]) / model.card.std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model.features(images), model.backbone(by_hand))
    assert isinstance(model, Classifier)
    torch.testing.assert_close(model(images), model.head(model.features(images)))


def test_a_build_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_model(card(), seed=5).state_dict()
    torch.manual_seed(2)
    again, other = build_model(card(), seed=5).state_dict(), build_model(card(), seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_contradicting_cards_are_refused() -> None:
    with pytest.raises(IncompatibleModelError, match="3 channels but 1 means"):
        build_model(card(mean=(0.5,)))
    with pytest.raises(IncompatibleModelError, match="name its classes"):
        build_model(card(classes=None))


def test_projection_answers_unit_vectors_in_float32() -> None:
    head = ProjectionHead(8, ProjectionSpec(layers=3, dim=5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(torch.randn(4, 8))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))
    assert sum(isinstance(layer, nn.Linear) for layer in head.layers) == 3


def test_copy_backbone_takes_statistics_too_and_refuses_another_shape() -> None:
    source, target = build_model(card("encoder"), seed=1), build_model(card(), seed=2)
    source.train()(torch.rand(8, 3, 16, 16))
    copy_backbone(source, target)
    theirs = source.backbone.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in target.backbone.state_dict().items())
    with pytest.raises(IncompatibleModelError, match="does not fit"):
        copy_backbone(build_model(card("encoder", backbone=BackboneSpec(width=8, blocks=(1, 1)))), target)


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_frozen_holds_still_and_restores_everything_even_after_an_error(bn_mode: str) -> None:
    model = build_model(card()).train()
    model.backbone.bn.eval()
    next(iter(model.parameters())).requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="on purpose"), frozen(model, bn_mode=bn_mode):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        images = torch.rand(6, 3, 16, 16)
        alone, together = model(images[:2]), model(images)[:2]
        # In train mode an image's logits depend on its neighbours; in eval mode they do not.
        assert torch.allclose(alone, together, atol=1e-5) == (bn_mode == "eval")
        raise RuntimeError("on purpose")
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(norm.track_running_stats for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
