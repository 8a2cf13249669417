"""Images crafted on one model and judged on another."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.attacks import transfer
from models.attacks.iterative import ascend
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import cross_entropy, is_right
from models.attacks.pgd import PGDParams
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.progress import Silent
from models.references import model_references

INNER = {"name": "pgd", "eps": 0.15, "steps": 8}


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """Another network, trained on digits in another way than the victim."""
    data = load_digits()
    pixels = torch.from_numpy(data.images / 16).float()[:, None]
    labels = torch.from_numpy(data.target).long()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels), labels).backward()
            optimizer.step()
    return model.eval()


def params(**fields) -> transfer.TransferParams:
    return transfer.TransferParams.model_validate({"source": "other@1", "attack": INNER, **fields})


def noise(count: int) -> PerImageNoise:
    return PerImageNoise(torch.arange(count))


def test_the_images_are_those_of_the_inner_attack_on_the_source(victim, source):
    images, labels = victim.right(80)
    target = Victim(victim.model, sources={"other@1": Victim(source)})
    crafted = transfer.run(target, images, labels, params(), noise=noise(80))
    by_hand = ascend(
        lambda points: cross_entropy(source(points), labels),
        images,
        threat=threat_model("linf", 0.15),
        steps=8,
        step_size=0.15 / 4,
        noise=noise(80),
    )
    torch.testing.assert_close(crafted, by_hand, atol=1e-6, rtol=0)
    broken = (~is_right(victim.model(crafted), labels)).sum()
    broken_on_the_source = (~is_right(source(crafted), labels)).sum()
    assert 0 < broken < broken_on_the_source


def test_with_fast_gradients_it_stays_in_the_ball(victim, source):
    images, labels = victim.right(50)
    tuning = Tuning(folded=True, precision="bfloat16")
    crafting = Victim(source, tuning=tuning, batch_size=16)
    target = Victim(victim.model, tuning=tuning, batch_size=16, sources={"other@1": crafting})
    spec = params(attack={"name": "mi-fgsm", "norm": "l2", "eps": 0.8})
    crafted = transfer.run(target, images, labels, spec, noise=noise(50))
    assert crafted.min() >= 0 and crafted.max() <= 1
    assert threat_model("l2", 0.8).size((crafted - images).double()).max() <= 0.8 + 1e-6
    assert target.work.gradients == 0 and crafting.work.gradients == 50 * 10


def test_a_source_that_is_not_there_or_does_not_fit_is_named(victim, source):
    images, labels = victim.right(4)
    with pytest.raises(ValueError, match="'other@1' was not handed in; there are: third@2"):
        transfer.run(
            Victim(victim.model, sources={"third@2": Victim(source)}), images, labels, params(), noise=noise(4)
        )

    def two_classes(points: Tensor) -> Tensor:
        return points.flatten(1)[:, :2]

    target = Victim(victim.model, sources={"other@1": Victim(two_classes)})
    with pytest.raises(ValueError, match=r"'other@1' answers \(2,\) an image, the victim \(10,\)"):
        transfer.run(target, images, labels, params(), noise=noise(4))


def test_an_evaluation_crafts_on_the_models_it_is_handed(victim, source):
    spec = EvaluationParams.model_validate(
        {
            "model": "victim@1",
            "dataset": {"name": "digits"},
            "attacks": [INNER, {"name": "transfer", "source": "other@1", "attack": INNER}],
        }
    )
    images = victim.images.take(torch.arange(100))
    result = evaluate(victim.model, images, spec, reporter=Silent(), device="cpu", sources={"other@1": source}).result
    white_box, transferred = (row["robust_accuracy"] for row in result["attacks"])
    assert white_box < transferred < result["clean_accuracy"]


def test_crafting_takes_every_step():
    assert params().attack.verdict == "last"
    assert params(attack=PGDParams()).attack.verdict == "last"
    again = transfer.TransferParams.model_validate_json(params().model_dump_json())
    assert again == params()
    assert (params().radius, params().cost) == (("linf", 0.15), 8)


@pytest.mark.parametrize(
    ("fields", "location", "message"),
    [
        ({"attack": {"name": "pgd", "verdict": "any"}}, ("attack", "verdict"), "give last"),
        ({"attack": {"name": "square"}}, ("attack", "name"), "fits here; known: .*fgsm, mi-fgsm, pgd"),
        ({"attack": {"name": "cw", "norm": "l2"}}, ("attack", "name"), "fits here"),
        ({"attack": {"name": "transfer"}}, ("attack", "name"), "fits here"),
        ({"attack": {"name": "none"}}, ("attack", "name"), "'none' is not an attack; known"),
        ({"attack": {"name": "pgd", "eps": "8/0"}}, ("attack", "eps"), "divides by zero"),
        ({"attack": "pgd"}, ("attack",), "give an object"),
        ({"source": "a b"}, ("source",), "pattern"),
        ({"eps": 0.1}, ("eps",), "Extra inputs"),
    ],
)
def test_a_wrong_parameter_is_named_where_it_stands(fields, location, message):
    with pytest.raises(ValidationError, match=message) as caught:
        params(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [location]


def test_models_named_inside_a_spec_are_found():
    attacks = [{"name": "fgsm"}, {"name": "transfer", "source": "other", "attack": INNER}]
    spec = EvaluationParams.model_validate({"model": "m@1", "dataset": {"name": "digits"}, "attacks": attacks})
    assert model_references(spec) == {"model": "m@1", "attacks/1/source": "other"}


def test_the_schema_lists_what_can_craft():
    schema = transfer.TransferParams.model_json_schema()["properties"]["attack"]
    names = {option["properties"]["name"]["const"] for option in schema["oneOf"]}
    assert {"fgsm", "pgd", "cw-linf", "mi-fgsm"} <= names
    assert not names & {"transfer", "square", "cw-l2", "fab-t", "uniform-noise", "gaussian-noise"}
