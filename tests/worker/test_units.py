"""The worker's pieces that need no second process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from models.checkpoints import save_model
from models.networks import build_model
from models.progress import Silent
from models.specs import BackboneSpec, ModelCard
from worker.attempt import Eta
from worker.child import problem
from worker.pictures import write_example
from worker.runs import run
from worker.supervisor import death_cause
from worker.task import Task


def test_eta_follows_the_speed_of_the_stage() -> None:
    now = [100.0]
    eta = Eta(lambda: now[0])

    def report(done: int, stage: str = "train") -> float | None:
        estimate = eta.with_estimate({"done": done, "total": 100, "unit": "step", "stage": stage})["eta_seconds"]
        assert estimate is None or isinstance(estimate, float)
        return estimate

    assert report(40) is None  # a resumed run: the first 40 steps say nothing about its speed
    now[0] = 110.0
    assert report(60) == 20.0
    now[0] = 111.0
    assert report(0, "attack") is None


def test_eta_counts_on_over_the_stages_of_one_count() -> None:
    now = [0.0]
    eta = Eta(lambda: now[0])

    def report(done: int, stage: str, total: int = 100, unit: str = "image-step") -> float | None:
        progress = {"done": done, "total": total, "unit": unit, "stage": stage}
        estimate = eta.with_estimate(progress)["eta_seconds"]
        assert estimate is None or isinstance(estimate, float)
        return estimate

    assert report(5, "download", unit="byte") is None
    now[0] = 10.0
    assert report(0, "clean") is None
    now[0] = 14.0
    assert report(20, "fgsm") == 16.0
    now[0] = 20.0
    assert report(50, "pgd") == 10.0
    assert report(0, "other", total=7) is None


def test_a_death_is_described(tmp_path: Path) -> None:
    assert death_cause(-9, "") == "the process was killed by SIGKILL, as the system does when memory runs out"
    assert death_cause(-11, "x") == "the process was killed by SIGSEGV"
    assert death_cause(3, "one\ntwo\n\n") == "the process ended with status 3: two"


def test_problems_name_the_cause_without_a_traceback() -> None:
    assert problem(MemoryError())["title"] == "Out of memory"
    assert problem(torch.OutOfMemoryError("CUDA out of memory. Tried"))["title"] == "Out of memory"
    assert problem(ValueError("x is wrong")) == {"type": "about:blank", "title": "Value", "detail": "x is wrong"}


def test_example_pictures_are_the_pixels_that_the_model_saw(tmp_path: Path) -> None:
    clean = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    adversarial = clean.clone()
    adversarial[0, 2, 3] += 0.1
    adversarial[0, 5, 1] -= 0.03
    write_example(tmp_path, 0, clean=clean, adversarial=adversarial)
    shown = np.asarray(Image.open(tmp_path / "0-clean.png"))
    assert shown.shape == (8, 8)
    assert np.array_equal(shown, (clean[0] * 255).round().byte().numpy())
    difference = np.asarray(Image.open(tmp_path / "0-difference.png"))
    assert difference[2, 3] == 255, "more than 0.05 is as light as it gets"
    assert difference[5, 1] == round((0.5 - 10 * 0.03) * 255)
    assert set(np.delete(difference.flatten(), [2 * 8 + 3, 5 * 8 + 1])) == {128}


def test_colour_pictures_and_equal_images(tmp_path: Path) -> None:
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    write_example(tmp_path, 1, clean=image, adversarial=image)
    assert set(np.asarray(Image.open(tmp_path / "1-difference.png")).flatten()) == {128}
    assert Image.open(tmp_path / "1-adversarial.png").size == (90, 70)


def test_an_evaluation_leaves_the_exact_pixels_beside_the_pictures(tmp_path: Path) -> None:
    names = tuple(str(digit) for digit in range(10))
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(name="resnet18", width=8),
        image_shape=(1, 8, 8),
        classes=names,
        mean=(0.5,),
        std=(0.5,),
    )
    save_model(tmp_path / "model.safetensors", build_model(card))
    given = {"path": str(tmp_path / "model.safetensors"), "card": card.model_dump(mode="json"), "reference": "net@1"}
    spec = {
        "model": "net@1",
        "dataset": {"name": "digits", "subset": 60},
        "attacks": [{"name": "fgsm", "eps": 0.5}],
        "examples": 5,
    }
    task = Task(
        kind="evaluate",
        spec=spec,
        folder=tmp_path,
        data_root=tmp_path,
        device="cpu",
        threads=1,
        checkpoint_seconds=60,
        models={"model": given},
        upload=None,
        resume=None,
        evidence=(),
    )
    run(task, Silent())  # type: ignore[arg-type]  # what a pipe is to an evaluation
    listed = json.loads((tmp_path / "examples.json").read_text())
    pixels = load_file(tmp_path / "examples.safetensors")
    assert pixels["clean"].shape == pixels["adversarial"].shape == (len(listed), 1, 8, 8) and listed
    assert pixels["index"].tolist() == [example["index"] for example in listed]
    assert [names[label] for label in pixels["label"].tolist()] == [example["label"] for example in listed]
    for position, (example, clean, attacked) in enumerate(
        zip(listed, pixels["clean"], pixels["adversarial"], strict=True)
    ):
        shown = np.asarray(Image.open(tmp_path / "examples" / f"{position}-adversarial.png"))
        assert np.array_equal(shown, (attacked[0] * 255).round().byte().numpy())
        broken = example["adversarial_prediction"] != example["label"]
        assert (example["survives_8bit"] is not None) == broken
        if broken:
            assert np.isclose((attacked - clean).abs().max().item(), example["linf"], atol=1e-6)
