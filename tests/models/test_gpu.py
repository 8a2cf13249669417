"""What runs on a CUDA device as on the CPU: every method, every attack, every probe. `make test-gpu` runs these."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from models.attacks.spec import ATTACKS
from models.data import Dataset, load
from models.distributed import _Gather, _Total, agreed, joined
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.networks import ImageModel
from models.probe_spec import ProbeParams
from models.probing import probe
from models.progress import Silent, Stopped
from tests.models.recording import Recorder
from tests.models.small_trainings import ATTACK, SPECS, params, run

pytestmark = pytest.mark.gpu
COUNT = 100
SHORT = {"steps": 10, "queries": 200, "initial_const": 1.0, "lr": 0.05, "binary_search_steps": 3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", root=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    return run(params("standard", epochs=4), digits, tmp_path_factory.mktemp("base"), device="cuda").model


@pytest.fixture(scope="module")
def robust(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    """A classifier of which attacks break some images and not all."""
    return run(params("pgd-at", epochs=6), digits, tmp_path_factory.mktemp("robust"), device="cuda").model


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", SPECS)
def test_two_epochs_lower_the_loss(
    case: str, precision: str, digits: Dataset, base: ImageModel, tmp_path: Path
) -> None:
    recorder = Recorder()
    outcome = run(params(case, precision=precision), digits, tmp_path, base=base, reporter=recorder, device="cuda")
    losses = list(recorder.series["contrastive_loss" if "online" in case else "loss"].values())
    assert losses[-1] < losses[0] - 0.08 * abs(losses[0])
    assert all(math.isfinite(value) for series in recorder.series.values() for value in series.values())
    assert outcome.result["precision"] == precision
    assert 0 <= outcome.result["attack_share"] < 1
    assert (outcome.result["attack_share"] > 0) == (case not in ("standard", "simclr"))
    assert all(value.device.type == "cpu" for value in outcome.model.state_dict().values())
    kind = METHODS[params(case).method].kind
    assert outcome.result["knn_accuracy" if kind == "pretrain" or "clusters" in case else "clean_accuracy"] > 0.2


@pytest.mark.parametrize("case", SPECS)
def test_a_stopped_run_goes_on(case: str, digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    few = {**SPECS[case].get("dataset", {"name": "digits"}), "subset": 160}
    spec = params(case, dataset=few, epochs=2)
    with pytest.raises(Stopped):
        run(spec, digits, tmp_path, base=base, reporter=(recorder := Recorder(3)), device="cuda")
    ((path, _),) = recorder.checkpoints
    resumed = run(spec, digits, tmp_path, base=base, resume=path, device="cuda").result
    assert resumed["steps"] == run(spec, digits, tmp_path, base=base).result["steps"]


@pytest.mark.parametrize("mode", ["linear", "adversarial-linear", "adversarial-full"])
def test_probes(mode: str, digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    fields = {"model": "base", "mode": mode, "dataset": {"name": "digits"}, "epochs": 3}
    fields |= {"augmentation": {"crop_padding": 0, "flip": False}}
    fields |= {} if mode == "linear" else {"attack": ATTACK}
    fields |= {"optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 0}}
    spec = ProbeParams.model_validate(fields)
    outcome = probe(spec, base, digits, workdir=tmp_path, resume=None, reporter=Silent(), device="cuda")
    assert outcome.result["clean_accuracy"] > 0.8
    if mode != "adversarial-full":
        before = base.backbone.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in outcome.model.backbone.state_dict().items())


@pytest.mark.parametrize("name", [entry.name for entry in ATTACKS.entries() if entry.name != "transfer"])
def test_attacks_leave_what_they_leave_on_the_cpu(name: str, robust: ImageModel, digits: Dataset) -> None:
    fields = ATTACKS[name].params.model_fields
    asked = {field: value for field, value in SHORT.items() if field in fields}
    if "eps" in fields and not ATTACKS[name].minimum_norm:
        norm = fields["norm"].default if "norm" in fields else "linf"
        asked["eps"] = 1.0 if norm == "l2" else 0.15
    images = digits.test.take(torch.arange(COUNT))
    left = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        spec = {"model": "robust@1", "dataset": {"name": "digits"}, "attacks": [{"name": name, **asked}]}
        evaluation = EvaluationParams.model_validate(spec | {"precision": precision})
        result = evaluate(robust, images, evaluation, reporter=Silent(), device=device).result
        left[device, precision] = result["clean_accuracy"], result["attacks"][0]["robust_accuracy"]
    clean, here = left["cpu", "float32"]
    for other_clean, there in left.values():
        assert other_clean == clean and there == pytest.approx(here, abs=0.05)


def test_processes_exchange_by_nccl(tmp_path: Path) -> None:
    torch.cuda.set_device(0)
    with joined("nccl", tmp_path / "meeting-place", rank=0, size=1):
        rows = torch.arange(6.0, device="cuda").view(3, 2).requires_grad_()
        for exchanged in (_Gather.apply(rows), _Total.apply(rows)):
            assert torch.equal(exchanged, rows)
            (gradient,) = torch.autograd.grad((exchanged * 3).sum(), rows)
            assert torch.equal(gradient, torch.full_like(rows, 3))
        box = ["said"]
        torch.distributed.broadcast_object_list(box)
        assert box == ["said"] and agreed(lambda: 7) == 7
        layer = nn.SyncBatchNorm(2).cuda()
        assert layer(rows).isfinite().all()
