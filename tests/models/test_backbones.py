"""Published networks: the same weights give the same logits as plain re-implementations and as the libraries."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from models.backbones.spec import BACKBONES, FAMILIES
from models.checkpoints import import_model
from models.networks import build_model
from models.registry import UnknownNameError
from models.specs import BackboneSpec, ModelCard
from tests.models.published import PLAIN, Published, Weights

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def card(name: str, *, side: int = 16, classes: int = 10, channels: int = 3, **size: object) -> ModelCard:
    return ModelCard(
        kind="classifier",
        backbone=BackboneSpec.model_validate({"name": name, **size}),
        image_shape=(channels, side, side),
        classes=tuple(str(index) for index in range(classes)),
        mean=MEAN[:channels],
        std=STD[:channels],
    )


def imported_logits(folder: Path, weights: Weights, card: ModelCard, images: Tensor) -> Tensor:
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "published.safetensors")
    with torch.no_grad():
        logits: Tensor = import_model(folder / "published.safetensors", card)(images)
    return logits


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list(PLAIN))
def test_published_weights_give_the_published_logits(name: str, tmp_path: Path, images: Tensor) -> None:
    net = Published()
    expected = PLAIN[name](net, normalized(images))
    logits = imported_logits(tmp_path, net.weights, card(name, width=4, blocks=[1, 2]), images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_networks_of_one_name_in_the_literature_differ_although_their_weights_fit(
    tmp_path: Path, images: Tensor
) -> None:
    net = Published()
    wong = PLAIN["preactresnet18-wong"](net, normalized(images))
    other = imported_logits(tmp_path, net.weights, card("preactresnet18-kuangliu", width=4, blocks=[1, 2]), images)
    assert (wong - other).abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "parameters", "dim"),
    [
        ("preactresnet18", 11_172_170, 512),
        ("preactresnet18-kuangliu", 11_171_146, 512),
        ("preactresnet18-wong", 11_171_146, 512),
        ("wideresnet28-10", 36_479_194, 640),
        ("wideresnet28-10-swish", 36_479_194, 640),
        ("wideresnet34-10", 46_160_474, 640),
        ("wideresnet70-16", 266_796_506, 1024),
    ],
)
def test_full_size_networks_have_the_published_parameter_counts(name: str, parameters: int, dim: int) -> None:
    """Counts of RobustBench's implementations, head for ten classes included, TRADES' unused stage left out."""
    with torch.device("meta"):
        model = build_model(card(name, side=32))
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert model.backbone.feature_dim == dim


def test_a_cifar_resnet_in_the_usual_names_gives_torchvisions_logits(tmp_path: Path, images: Tensor) -> None:
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    weights = {
        key.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for key, value in theirs.state_dict().items()
    }
    logits = imported_logits(tmp_path, weights, card("resnet18", blocks=[1, 1, 1, 1]), images)
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(normalized(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_torchvisions_weights_give_torchvisions_logits(name: str, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    logits = imported_logits(tmp_path, theirs.state_dict(), card(f"torchvision/{name}", side=32), images)
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(normalized(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sized"),
    [("resnet10t", {}), ("convnext_atto", {}), ("vit_tiny_patch16_224", {"img_size": 32})],
)
def test_timms_weights_give_timms_logits(name: str, sized: dict[str, int], tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    theirs = timm.create_model(name, pretrained=False, num_classes=10, **sized).eval()
    logits = imported_logits(tmp_path, theirs.state_dict(), card(f"timm/{name}", side=32), images)
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(normalized(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision/shufflenet_v2_x0_5", "timm/vit_tiny_patch16_224"])
def test_a_librarys_network_depends_on_its_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first, drawn = build_model(card(name, side=32), seed=5).state_dict(), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "a build leaves torch's own random state alone"
    again, other = (build_model(card(name, side=32), seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[f"head.{part}"], other[f"head.{part}"]) for part in ("weight", "bias"))
    assert any(key.startswith("backbone") and not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (card("torchvision/reznet18"), r"did you mean .*torchvision/resnet18"),
        (card("torchvision/"), "GET /backbones/torchvision"),
        (card("keras/resnet18"), "known: timm, torchvision"),
        (card("resnet19"), r"known: .*resnet18, .*torchvision/…"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_known(wrong: ModelCard, says: str) -> None:
    with pytest.raises(UnknownNameError, match=says):
        build_model(wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (card("torchvision/vit_b_16", side=32), r"torchvision/vit_b_16 is no backbone for images of \(3, 32, 32\)"),
        (card("torchvision/alexnet", side=32), "too small"),
        (card("torchvision/resnet18", side=32, channels=1), r"images of \(1, 32, 32\)"),
        (card("torchvision/squeezenet1_0", side=64), "does not end in a linear layer"),
        (card("torchvision/resnet18", side=32, width=64), "leave width, blocks and stem_stride out"),
    ],
)
def test_images_that_a_librarys_network_cannot_take_are_refused(wrong: ModelCard, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_model(wrong)


def test_a_transformer_is_made_for_the_images_or_refused_where_its_patches_would_not_cover_them() -> None:
    made = build_model(card("timm/vit_tiny_patch16_224", side=48, channels=1)).eval()
    assert made(torch.rand(2, 1, 48, 48)).shape == (2, 10)
    with pytest.raises(ValueError, match="patches of 16×16 pixels do not divide"):
        build_model(card("timm/vit_tiny_patch16_224", side=28))


def test_a_network_that_averages_two_classifiers_is_refused() -> None:
    with pytest.raises(ValueError, match="several classifiers"):
        build_model(card("timm/repvit_m0_9", side=32))


def test_a_network_whose_constructor_computes_with_tensors_is_checked_all_the_same() -> None:
    with torch.device("meta"):
        model = build_model(card("torchvision/regnet_x_400mf", side=32))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnknownNameError, match=r"pip install -e '.\[timm\]'"):
        build_model(card("timm/resnet10t", side=32))
    assert "timm" in FAMILIES and "resnet18" in BACKBONES
