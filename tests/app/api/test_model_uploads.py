"""Models that were trained elsewhere, uploaded as they were published."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from fastapi.testclient import TestClient
from httpx import Response
from safetensors.torch import load, save
from torch import Tensor

from tests.app.api.conftest import assert_problem, png
from tests.models.published import PLAIN, Published

URL = "/models/mine/versions"
Weights = dict[str, Tensor]


def card(backbone: dict[str, Any], *, side: int = 32) -> dict[str, Any]:
    return {
        "kind": "classifier",
        "backbone": backbone,
        "image_shape": [3, side, side],
        "classes": ["cat", "dog", "frog"],
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2471, 0.2435, 0.2616],
    }


def upload(client: TestClient, weights: Weights, card: dict[str, Any]) -> Response:
    content = save({key: value.contiguous() for key, value in weights.items()})
    answer: Response = client.post(URL, files={"weights": content}, data={"card": json.dumps(card)})
    return answer


def random_picture(side: int) -> Tensor:
    """uint8 (side, side, 3)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator)


def normalized(pixels: Tensor, card: dict[str, Any]) -> Tensor:
    """(1, 3, side, side), as whoever trained the network fed it."""
    mean, std = (torch.tensor(card[name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((pixels.permute(2, 0, 1) / 255 - mean) / std)[None]


def classify(client: TestClient, pixels: Tensor) -> dict[str, float]:
    """Class name → probability of each class."""
    answer = client.post("/classify?model=mine&top_k=10", files={"images": ("a.png", png(pixels.numpy()))})
    return {item["label"]: item["probability"] for item in answer.json()["predictions"][0]["top_k"]}


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    """A torchvision classifier of three classes that somebody trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.resnet18(weights=None, num_classes=3).eval()


TORCHVISION = card({"name": "torchvision/resnet18"})


def test_a_torchvision_model_classifies_as_it_did_at_home(
    client: TestClient, resnet: torchvision.models.ResNet
) -> None:
    created = upload(client, resnet.state_dict(), TORCHVISION)
    assert created.status_code == 201, created.text
    assert created.json()["card"]["classes"] == ["cat", "dog", "frog"]
    pixels = random_picture(32)
    with torch.no_grad():
        expected = resnet(normalized(pixels, TORCHVISION)).softmax(1)[0].tolist()
    assert classify(client, pixels) == pytest.approx(dict(zip(TORCHVISION["classes"], expected, strict=True)), abs=1e-5)


def test_what_is_downloaded_can_be_uploaded_again_without_a_card(
    client: TestClient, resnet: torchvision.models.ResNet
) -> None:
    weights = {f"module.{key}": value for key, value in resnet.state_dict().items()}
    created = upload(client, weights, TORCHVISION).json()
    content = client.get(f"{URL}/1/weights").content
    assert {key.partition(".")[0] for key in load(content)} == {"backbone", "head"}
    again = client.post(URL, files={"weights": content}).json()
    assert (again["sha256"], again["card"]) == (created["sha256"], created["card"])


def test_misfits_are_listed_in_the_names_of_the_file(client: TestClient, resnet: torchvision.models.ResNet) -> None:
    weights = resnet.state_dict()
    weights["layer1.0.conv9.weight"] = weights.pop("layer1.0.conv1.weight")
    refused = upload(client, weights, TORCHVISION)
    assert_problem(refused, 422, says="missing: layer1.0.conv1.weight", pointer="/weights")
    assert_problem(refused, 422, says="unexpected: layer1.0.conv9.weight")
    four = {**TORCHVISION, "classes": ["a", "b", "c", "d"]}
    refused = upload(client, resnet.state_dict(), four)
    assert_problem(refused, 422, says="misshapen: fc.bias is (3,), not (4,), fc.weight is (3, 512), not (4, 512)")
    normalized = {"normalize.mean": torch.zeros(3), **resnet.state_dict()}
    assert_problem(upload(client, normalized, TORCHVISION), 422, says="unexpected: normalize.mean; the card's mean")
    assert client.get("/models").json()["items"] == []


@pytest.mark.parametrize(
    ("backbone", "side", "says"),
    [
        ({"name": "torchvision/resnet19"}, 32, "did you mean torchvision/resnet"),
        ({"name": "torchvision/vit_b_16"}, 32, "is no backbone for images of (3, 32, 32)"),
        ({"name": "torchvision/resnet18", "width": 32}, 32, "leave width, blocks and stem_stride out"),
        ({"name": "wideresnet28"}, 32, "wideresnet28-10"),
    ],
)
def test_a_card_of_no_network_is_refused(
    client: TestClient, resnet: torchvision.models.ResNet, backbone: dict[str, Any], side: int, says: str
) -> None:
    refused = upload(client, resnet.state_dict(), card(backbone, side=side))
    assert_problem(refused, 422, says=says, pointer="/card")


@pytest.mark.parametrize(("name", "sized"), [("resnet10t", {}), ("vit_tiny_patch16_224", {"img_size": 32})])
def test_timm_models_are_taken(client: TestClient, name: str, sized: dict[str, int]) -> None:
    theirs = timm.create_model(name, pretrained=False, num_classes=3, **sized)
    created = upload(client, theirs.state_dict(), card({"name": f"timm/{name}"}))
    assert created.status_code == 201, created.text
    # The same network made for 224 × 224 has other position embeddings, and no others than these fit 32 × 32.
    if sized:
        whole = timm.create_model(name, pretrained=False, num_classes=3)
        refused = upload(client, whole.state_dict(), card({"name": f"timm/{name}"}))
        assert_problem(refused, 422, says="misshapen: pos_embed is (1, 197, 192), not (1, 5, 192)", pointer="/weights")


@pytest.mark.parametrize("name", list(PLAIN))
def test_networks_of_the_robustness_literature_are_taken(client: TestClient, name: str) -> None:
    described = {**card({"name": name, "width": 4, "blocks": [1, 2]}, side=16), "classes": list("0123456789")}
    net, pixels = Published(), random_picture(16)
    expected = PLAIN[name](net, normalized(pixels, described)).softmax(1)[0]
    created = upload(client, {f"module.{key}": value for key, value in net.weights.items()}, described)
    assert created.status_code == 201, created.text
    assert classify(client, pixels) == pytest.approx(
        dict(zip(described["classes"], expected.tolist(), strict=True)), abs=1e-4
    )


def test_backbones_are_listed(client: TestClient) -> None:
    listed = client.get("/backbones").json()
    by_name = {item["name"]: item for item in listed["items"]}
    assert {"resnet18", "preactresnet18", "wideresnet28-10", "wideresnet34-10", "wideresnet70-16"} <= by_name.keys()
    assert (by_name["wideresnet70-16"]["width"], by_name["wideresnet70-16"]["blocks"]) == (256, [11, 11, 11])
    assert [family["name"] for family in listed["families"]] == ["timm", "torchvision"]
    assert "torchvision/resnet18" in client.get("/backbones/torchvision").json()["items"]
    assert_problem(client.get("/backbones/keras"), 404, says="torchvision")


def test_a_job_trains_a_librarys_network_and_refuses_one_that_cannot_take_the_data(client: TestClient) -> None:
    body = {"method": "standard", "dataset": {"name": "digits"}, "backbone": {"name": "torchvision/resnet18"}}
    assert_problem(client.post("/jobs/train", json=body), 422, says="(1, 8, 8)", pointer="/backbone")
    queued = client.post("/jobs/train", json={**body, "backbone": {"name": "timm/resnet10t"}})
    assert queued.status_code == 202, queued.text
    assert queued.json()["spec"]["register_as"] == "standard-timm-resnet10t-digits"
