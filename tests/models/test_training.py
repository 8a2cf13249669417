"""Every registered method on real digits: it learns, it repeats itself, and it resumes bit for bit."""

import copy
import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import precision
from models.checkpoints import CheckpointError, load_state, save_model
from models.data import DataError, Dataset, load
from models.data.images import ImageSet
from models.loop import DivergedError
from models.methods.pgd_at import PGDATParams
from models.methods.spec import METHODS
from models.networks import ImageModel, IncompatibleModelError, build_model
from models.progress import Stopped
from models.resuming import fingerprint
from models.specs import ModelCard
from tests.models.recording import Recorder
from tests.models.small_trainings import SPECS, params, run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", root=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    spec = params("standard", epochs=4, dataset={"name": "digits"})
    return run(spec, digits, tmp_path_factory.mktemp("base")).model


def digest(model: ImageModel, path: Path) -> str:
    save_model(path, model)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_method_is_tried_here() -> None:
    assert {spec["method"] for spec in SPECS.values()} == set(METHODS)


@pytest.mark.parametrize("case", SPECS)
def test_two_epochs_lower_the_loss(case: str, digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    recorder = Recorder()
    outcome = run(params(case), digits, tmp_path, base=base, reporter=recorder)
    losses = list(recorder.series["contrastive_loss" if "online" in case else "loss"].values())
    assert losses[-1] < losses[0] - 0.08 * abs(losses[0])
    assert recorder.done == recorder.total == outcome.result["steps"] == (86 if "watched" in case else 88)
    assert recorder.stages == {METHODS[params(case).method].kind}
    assert {"lr", "gradient_norm", "images_per_second"} <= recorder.series.keys()
    assert list(recorder.series["step_seconds"]) == [2] and 50 < recorder.series["memory_mib"][2] < 50_000
    assert all(math.isfinite(value) for series in recorder.series.values() for value in series.values())
    attacks = case not in ("standard", "simclr")
    assert 0 <= outcome.result["attack_share"] < 1 and (outcome.result["attack_share"] > 0) == attacks
    assert outcome.result["images_per_second"] > 0
    encoder = METHODS[params(case).method].kind == "pretrain"
    known = outcome.result["knn_accuracy" if encoder or "clusters" in case else "clean_accuracy"]
    assert 0.2 < known <= 1
    assert not outcome.model.training and outcome.model.card.kind == ("encoder" if encoder else "classifier")


@pytest.mark.parametrize("case", SPECS)
def test_a_stopped_run_resumes_to_the_same_bytes(case: str, digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    # Both number formats, shared out over the methods.
    precision = "float32" if sum(map(ord, case)) % 2 else "bfloat16"
    few = {**SPECS[case].get("dataset", {"name": "digits"}), "subset": 160}
    spec = params(case, dataset=few, epochs=3, precision=precision)
    unbroken = run(spec, digits, tmp_path, base=base)
    stop_at = 1 + sum(map(ord, case + precision)) % 13
    recorder = Recorder(stop_at)
    with pytest.raises(Stopped):
        run(spec, digits, tmp_path, base=base, reporter=recorder)
    ((path, step),) = recorder.checkpoints
    assert step == recorder.done == stop_at
    torch.manual_seed(999)  # whatever the global state is, a resumed run does not look at it
    resumed = run(spec, digits, tmp_path, base=base, resume=path)
    assert digest(resumed.model, tmp_path / "a") == digest(unbroken.model, tmp_path / "b")
    for name in ("final_loss", "steps", "clean_accuracy", "knn_accuracy"):
        assert resumed.result.get(name) == unbroken.result.get(name)
    other = run(spec.model_copy(update={"seed": 1}), digits, tmp_path, base=base)
    assert digest(other.model, tmp_path / "c") != digest(unbroken.model, tmp_path / "b")


def test_layers_that_draw_by_themselves_repeat_and_resume_too(digits: Dataset, tmp_path: Path) -> None:
    """Dropout and stochastic depth draw from torch's global generator."""
    colour = replace(digits, train=_in_colour(digits.train), test=_in_colour(digits.test.take(torch.arange(20))))
    few, backbone = {"name": "digits", "subset": 96}, {"name": "torchvision/mobilenet_v2"}
    spec = params("pgd-at", backbone=backbone, dataset=few, epochs=1, precision="float32")
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        ends.append(digest(run(spec, colour, tmp_path).model, tmp_path / "a"))
        assert torch.equal(torch.get_rng_state(), before)
    recorder = Recorder(2)
    with pytest.raises(Stopped):
        run(spec, colour, tmp_path, reporter=recorder)
    ((path, _),) = recorder.checkpoints
    ends.append(digest(run(spec, colour, tmp_path, resume=path).model, tmp_path / "a"))
    assert len(set(ends)) == 1


def test_a_narrow_network_does_not_corrupt_memory(tmp_path: Path) -> None:
    """As oneDNN's weight gradient of a strided 1×1 kernel on few channels does, which ends the process."""
    script = f"""if True:
        from pathlib import Path
        from models.data import load
        from tests.models.small_trainings import params, run
        data = load("digits", root=Path({str(tmp_path)!r}))
        for width in (1, 3, 4, 6):
            backbone = {{"name": "resnet18", "width": width, "blocks": [1, 1]}}
            run(params("standard", backbone=backbone, precision="float32"), data, Path({str(tmp_path)!r}))
    """
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def _in_colour(images: ImageSet) -> ImageSet:
    return replace(images, images=images.images.expand(-1, 3, -1, -1))


def test_a_compiled_network_learns_the_same(digits: Dataset, tmp_path: Path) -> None:
    series = []
    for compiled in (False, True):
        recorder = Recorder()
        few = {"name": "digits", "subset": 96}
        spec = params("pgd-at", compile=compiled, precision="float32", epochs=1, dataset=few)
        model = run(spec, digits, tmp_path, reporter=recorder).model
        assert model.backbone._compiled_call_impl is None or compiled
        series.append(list(recorder.series["loss"].values()))
        save_model(tmp_path / "model", model)
    assert series[0] == pytest.approx(series[1], rel=1e-3)


def test_every_checkpoint_on_the_way_leads_to_the_same_end(digits: Dataset, tmp_path: Path) -> None:
    spec = params("clead", dataset={"name": "digits", "subset": 160})
    recorder = Recorder()
    end = digest(run(spec, digits, tmp_path, reporter=recorder, checkpoint_steps=3).model, tmp_path / "a")
    assert [step for _, step in recorder.checkpoints] == [3, 6, 9]
    for path, _ in recorder.checkpoints:
        assert digest(run(spec, digits, tmp_path, resume=path).model, tmp_path / "b") == end


def test_a_checkpoint_of_another_run_is_refused(digits: Dataset, tmp_path: Path) -> None:
    spec = params("standard", dataset={"name": "digits", "subset": 160})
    recorder = Recorder(2)
    with pytest.raises(Stopped):
        run(spec, digits, tmp_path, reporter=recorder)
    with pytest.raises(CheckpointError, match="another spec"):
        run(spec.model_copy(update={"epochs": 9}), digits, tmp_path, resume=recorder.checkpoints[0][0])


def test_a_later_program_with_more_fields_goes_on_with_a_run(digits: Dataset) -> None:
    class Later(PGDATParams):
        aardvark: int = 7

    spec = params("pgd-at")
    written_out = spec.model_dump(mode="json")
    first = fingerprint(PGDATParams.model_validate(written_out), digits.sha256)
    assert fingerprint(Later.model_validate(written_out), digits.sha256) == first
    assert fingerprint(Later.model_validate({**written_out, "aardvark": 8}), digits.sha256) != first
    assert fingerprint(PGDATParams.model_validate({**written_out, "epochs": 9}), digits.sha256) != first


def test_on_another_machine_a_run_goes_on_as_it_began(digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    """One that has no bfloat16 of its own, or another base model's rounding, changes neither format nor labels."""
    for case, changes in (("pgd-at", {}), ("self-training on clusters by trades", {})):
        spec = params(case, dataset={"name": "digits", "subset": 160}, **changes)
        recorder = Recorder(3)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(precision, "_computes_bfloat16", lambda device: True)
            run(spec, digits, tmp_path, base=base, reporter=recorder)
        ((path, _),) = recorder.checkpoints
        other = copy.deepcopy(base)
        with torch.no_grad():
            for weight in other.parameters():
                weight.neg_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(precision, "_computes_bfloat16", lambda device: False)
            result = run(spec, digits, tmp_path, base=other, resume=path).result
        assert result["precision"] == "bfloat16" and result["steps"] == 10
        if "clusters" in case:
            state = load_state(path)["kept"]
            assert len(state["labels"]) == 160 and state["classes"][-1] == "cluster-9"


def test_weights_chosen_by_chance_are_told(digits: Dataset, tmp_path: Path) -> None:
    hopeless = {"images": 30, "eps": 1, "steps": 2, "step_size": 1, "keep": "best"}
    spec = params("standard", validation=hopeless, dataset={"name": "digits", "subset": 200})
    assert "best-by-chance" in [warning["code"] for warning in run(spec, digits, tmp_path).result["warnings"]]


def test_a_loss_that_explodes_names_its_step(digits: Dataset, tmp_path: Path) -> None:
    spec = params("standard", optimizer={"name": "sgd", "lr": 100, "momentum": 0.99}, precision="float32", epochs=30)
    broken = build_model(run(params("standard", epochs=1), digits, tmp_path).model.card)
    with torch.no_grad():
        broken.backbone.bn.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="nan at step 1;"):
        run(spec, digits, tmp_path, init=broken)


def test_training_starts_from_the_backbone_and_normalization_of_init(
    digits: Dataset, base: ImageModel, tmp_path: Path
) -> None:
    frozen_spec = params("clead", optimizer={"name": "sgd", "lr": 1e-12, "weight_decay": 0}, epochs=1)
    outcome = run(frozen_spec, digits, tmp_path, init=base)
    theirs = dict(base.backbone.named_parameters())
    for name, parameter in outcome.model.backbone.named_parameters():
        torch.testing.assert_close(parameter, theirs[name])
    assert outcome.model.card.mean == base.card.mean
    with pytest.raises(IncompatibleModelError, match="does not fit"):
        run(params("clead", backbone={"name": "resnet18", "width": 4, "blocks": [1]}), digits, tmp_path, init=base)


def test_models_that_do_not_fit_are_refused(digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    colour = ModelCard.model_validate(
        base.card.model_dump() | {"image_shape": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    )
    with pytest.raises(IncompatibleModelError, match="channels"):
        run(params("standard"), digits, tmp_path, init=build_model(colour))
    with pytest.raises(IncompatibleModelError, match="channels"):
        run(params("clead, base"), digits, tmp_path, base=build_model(colour))
    with pytest.raises(IncompatibleModelError, match="need a classifier"):
        run(params("clead, base"), digits, tmp_path, base=None)
    with pytest.raises(DataError, match="a batch of 512"):
        run(params("standard", batch_size=512, dataset={"name": "digits", "subset": 100}), digits, tmp_path)


def test_specs_that_teach_little_are_warned_about(digits: Dataset, tmp_path: Path) -> None:
    spec = params("clead", epochs=1, schedule={"warmup_epochs": 3}, dataset={"name": "digits", "subset": 64})
    codes = [warning["code"] for warning in run(spec, digits, tmp_path).result["warnings"]]
    assert codes == ["few-updates", "warmup-only"]
    spec = params("pgd-at", epochs=1, weight_perturbation={"warmup_epochs": 1}, dataset=spec.dataset.model_dump())
    assert [warning["code"] for warning in run(spec, digits, tmp_path).result["warnings"]] == [
        "weights-never-perturbed"
    ]


def test_the_base_model_and_global_switches_are_left_alone(digits: Dataset, base: ImageModel, tmp_path: Path) -> None:
    before = digest(base, tmp_path / "a")
    modes = [module.training for module in base.modules()]
    run(params("clead, online", dataset={"name": "digits", "subset": 64}, epochs=1), digits, tmp_path, base=base)
    assert digest(base, tmp_path / "b") == before
    assert [module.training for module in base.modules()] == modes
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not torch.are_deterministic_algorithms_enabled()
