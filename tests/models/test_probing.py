import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from models.checkpoints import save_model
from models.data import Dataset, load, subset
from models.methods.spec import TrainingAttack
from models.methods.supervised import accuracy, strike
from models.networks import IncompatibleModelError, build_model
from models.probe_spec import ProbeParams
from models.probing import probe
from models.progress import Silent, Stopped
from models.specs import BackboneSpec, ModelCard
from models.training import TrainingOutcome
from tests.models.recording import Recorder

NONE = {"crop_padding": 0, "flip": False}
SHIFT = {"crop_padding": 1, "flip": False}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", root=tmp_path_factory.mktemp("data"))


@pytest.fixture
def encoder(digits: Dataset) -> Any:
    """An untrained encoder whose normalization statistics are not the initial ones."""
    mean, std = digits.channel_statistics()
    card = ModelCard(
        kind="encoder", backbone=BackboneSpec(width=16, blocks=(1, 1)), image_shape=(1, 8, 8), mean=mean, std=std
    )
    model = build_model(card, seed=1).train()
    for batch in digits.train.pixels().split(200):
        model(batch)
    return model.eval()


def run(encoder: Any, data: Dataset, folder: Path, *, spec: dict[str, Any], **changes: Any) -> TrainingOutcome:
    fields = {
        "model": "encoder", "dataset": {"name": "digits"}, "epochs": 10, "augmentation": NONE,
        "optimizer": {"name": "adam", "lr": 0.05, "weight_decay": 0},
    } | spec  # fmt: skip
    arguments: dict[str, Any] = {"workdir": folder, "resume": None, "reporter": Silent(), "device": "cpu"}
    return probe(ProbeParams.model_validate(fields), encoder, data, **arguments | changes)


@pytest.mark.parametrize("augmentation", [NONE, SHIFT])
def test_the_head_learns_and_the_backbone_stays_bit_identical(
    augmentation: dict[str, Any], encoder: Any, digits: Dataset, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    recorder = Recorder()
    outcome = run(encoder, digits, tmp_path, spec={"augmentation": augmentation}, reporter=recorder)
    for state in (encoder.backbone.state_dict(), outcome.model.backbone.state_dict()):
        assert state.keys() == before.keys()
        assert all(torch.equal(before[key], value) for key, value in state.items())
    losses = list(recorder.series["loss"].values())
    assert losses[-1] < 0.8 * losses[0] and recorder.stages == {"probe"}
    assert outcome.model.card.classes == digits.classes
    with torch.no_grad():
        right = outcome.model(digits.test.pixels()).argmax(1) == digits.test.labels
    assert outcome.result["clean_accuracy"] == pytest.approx(right.double().mean().item())
    assert outcome.result["clean_accuracy"] > 0.35


def test_it_finds_the_optimum_of_its_convex_problem(encoder: Any, digits: Dataset, tmp_path: Path) -> None:
    """Against scikit-learn's multinomial logistic regression: the L2 term of both is ½·λ‖w‖² a mean loss."""
    from sklearn.linear_model import LogisticRegression

    decay, count = 0.01, 300
    spec = {
        "epochs": 1500,
        "batch_size": count,
        "dataset": {"name": "digits", "subset": count},
        "optimizer": {"name": "sgd", "lr": 2.0, "weight_decay": decay},
    }
    outcome = run(encoder, digits, tmp_path, spec=spec)
    images = subset(digits.train, count, seed=0)
    with torch.no_grad():
        features = encoder(images.pixels())
        ours = outcome.model(images.pixels()).log_softmax(1).exp()
    exact = LogisticRegression(C=1 / (count * decay), tol=1e-9, max_iter=5000).fit(
        features.numpy(), images.labels.numpy()
    )
    # scikit-learn leaves the intercept unregularized, hence the tolerance.
    assert (ours - torch.tensor(exact.predict_proba(features.numpy()))).abs().mean() < 0.01


@pytest.mark.parametrize("augmentation", [NONE, SHIFT])
def test_a_stopped_probe_resumes_to_the_same_bytes(
    augmentation: dict[str, Any], encoder: Any, digits: Dataset, tmp_path: Path
) -> None:
    spec = {"augmentation": augmentation, "dataset": {"name": "digits", "subset": 300}, "epochs": 4}
    unbroken = run(encoder, digits, tmp_path, spec=spec)
    recorder = Recorder(5)
    with pytest.raises(Stopped):
        run(encoder, digits, tmp_path, spec=spec, reporter=recorder)
    ((path, step),) = recorder.checkpoints
    assert step == 5
    resumed = run(encoder, digits, tmp_path, spec=spec, resume=path)
    hashes = set()
    for name, outcome in (("a", unbroken), ("b", resumed)):
        save_model(tmp_path / name, outcome.model)
        hashes.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_classifier_can_be_probed_and_another_channel_count_is_refused(
    encoder: Any, digits: Dataset, tmp_path: Path
) -> None:
    classifier = run(encoder, digits, tmp_path, spec={}).model
    again = run(classifier, digits, tmp_path, spec={"seed": 4})
    assert again.result["clean_accuracy"] > 0.6
    card = encoder.card.model_dump() | {"image_shape": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(IncompatibleModelError, match="channels"):
        run(build_model(ModelCard.model_validate(card)), digits, tmp_path, spec={})


HARD = {"attack": {"eps": 0.1, "steps": 3}, "augmentation": SHIFT, "epochs": 6}


def under_attack(outcome: TrainingOutcome, data: Dataset) -> tuple[float, float]:
    """Accuracy and loss on test images under the attack of ``HARD`` with more steps."""
    images, labels = data.test.pixels(), data.test.labels
    attack = TrainingAttack(eps=0.1, steps=10)
    attacked = strike(outcome.model, images, labels, attack=attack, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = outcome.model(attacked)
    return accuracy(logits, labels).item(), functional.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adversarial_linear_probe_leaves_the_backbone_and_stands_more(
    precision: str, encoder: Any, digits: Dataset, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    hard = {**HARD, "epochs": 3}
    attacked = run(encoder, digits, tmp_path, spec={**hard, "mode": "adversarial-linear", "precision": precision})
    clean = run(encoder, digits, tmp_path, spec={**hard, "mode": "linear"})
    for state in (encoder.backbone.state_dict(), attacked.model.backbone.state_dict()):
        assert all(torch.equal(before[key], value) for key, value in state.items())
    # On random features no head is robust; but this one minimizes the loss under attack, and the other does not.
    assert under_attack(attacked, digits)[1] < 0.95 * under_attack(clean, digits)[1]
    assert 0 < attacked.result["attack_share"] < 1 and "attack_share" not in clean.result


def test_an_adversarial_full_probe_trains_all_weights(encoder: Any, digits: Dataset, tmp_path: Path) -> None:
    spec = {**HARD, "mode": "adversarial-full", "optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 64}
    outcome = run(encoder, digits, tmp_path, spec=spec)
    for name, weight in outcome.model.backbone.named_parameters():
        assert not torch.equal(weight, encoder.backbone.get_parameter(name)), name
    assert under_attack(outcome, digits)[0] > 0.5
    recorder = Recorder(7)
    with pytest.raises(Stopped):
        run(encoder, digits, tmp_path, spec=spec, reporter=recorder)
    ((path, _),) = recorder.checkpoints
    resumed = run(encoder, digits, tmp_path, spec=spec, resume=path)
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(resumed.model.parameters(), outcome.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("attack", [{"name": "cw"}, {"random_start": False}])
def test_an_adversarial_full_probe_takes_no_attack_that_it_would_not_run(attack: dict[str, Any]) -> None:
    fields = {"model": "m", "dataset": {"name": "digits"}, "attack": attack}
    with pytest.raises(ValidationError, match="climbs TRADES' divergence"):
        ProbeParams.model_validate({**fields, "mode": "adversarial-full"})
    ProbeParams.model_validate({**fields, "mode": "adversarial-linear"})


def test_each_mode_has_its_fields_defaults() -> None:
    def defaults(mode: str, **given: Any) -> ProbeParams:
        return ProbeParams.model_validate({"model": "m", "dataset": {"name": "digits"}, "mode": mode, **given})

    linear, full = defaults("linear"), defaults("adversarial-full")
    assert defaults("adversarial-linear").model_dump(exclude={"mode"}) == linear.model_dump(exclude={"mode"})
    assert (linear.epochs, linear.optimizer.name, linear.optimizer.lr, linear.schedule.name) == (
        100,
        "adam",
        1e-4,
        "constant",
    )
    assert (full.epochs, full.optimizer.name, full.optimizer.lr, full.schedule.name) == (25, "sgd", 0.1, "step")
    assert defaults("adversarial-full", epochs=3).epochs == 3
    slower = defaults("adversarial-full", optimizer={"lr": 0.01}).optimizer
    assert (slower.name, slower.lr, slower.weight_decay) == ("sgd", 0.01, 5e-4)
    assert defaults("adversarial-full", optimizer={"name": "adam"}).optimizer.weight_decay == 1e-4
    assert defaults("adversarial-full", epochs=None).model_dump() == full.model_dump()
    assert ProbeParams.model_validate(full.model_dump()) == full
