"""The worker's pieces that need no second process."""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worker.attempt import Eta
from worker.child import problem
from worker.folders import LOCK, sweep, work_folder
from worker.pictures import write_example
from worker.supervisor import death_cause


def test_a_work_folder_goes_with_its_block_and_a_dead_one_is_swept(tmp_path: Path) -> None:
    with work_folder(tmp_path, "a") as folder:
        (folder / "file").write_text("x")
        assert sweep(tmp_path) == []
    assert not folder.exists()
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / LOCK).touch()
    held = tmp_path / "held"
    held.mkdir()
    with (held / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == [dead]
    assert list(tmp_path.iterdir()) == [held]


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
    assert np.isclose(write_example(tmp_path, 0, clean=clean, adversarial=adversarial), 5.0)
    shown = np.asarray(Image.open(tmp_path / "0-clean.png"))
    assert shown.shape == (8, 8)
    assert np.array_equal(shown, (clean[0] * 255).round().byte().numpy())
    difference = np.asarray(Image.open(tmp_path / "0-difference.png"))
    assert difference[2, 3] == 255
    assert set(np.delete(difference.flatten(), 2 * 8 + 3)) == {128}


def test_colour_pictures_and_equal_images(tmp_path: Path) -> None:
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    assert write_example(tmp_path, 1, clean=image, adversarial=image) == 0.0
    assert Image.open(tmp_path / "1-adversarial.png").size == (90, 70)
