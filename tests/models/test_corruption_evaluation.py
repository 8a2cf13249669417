from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.attacks.noise import derive_seed
from models.checkpoints import CheckpointError, load_state
from models.corruption_evaluation import BrokenModelError, evaluate_corruptions
from models.corruption_spec import CorruptionParams
from models.corruptions.corrupt import corrupt
from models.corruptions.spec import CORRUPTIONS
from models.progress import Silent, Stopped
from models.resuming import Checkpointing
from models.statistics import wilson_interval

COUNT = 90
THREE = ["gaussian_noise", "contrast", "snow"]


class Watcher(Silent):
    """Keeps the progress that it is told, and asks to stop once ``stop_after`` images are done."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.told: list[tuple[int, int, str, str]] = []
        self.checkpoints: list[Path] = []

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        self.told.append((done, total, unit, stage))

    def checkpoint(self, path: Path, step: int) -> None:
        self.checkpoints.append(path)

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.told[-1][0] >= self.stop_after


def spec(**fields):
    return CorruptionParams.model_validate({"model": "victim@1", "dataset": {"name": "digits"}, **fields})


def run(victim, params, *, reporter=None, model=None, count=COUNT, checkpointing=None):
    images = victim.images.take(torch.arange(count))
    return evaluate_corruptions(
        model or victim.model,
        images,
        params,
        reporter=reporter or Silent(),
        device="cpu",
        dataset_info={"sha256": "ab"},
        checkpointing=checkpointing,
    )


def numbers(result):
    """The result without its clock."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result["corruptions"]]
    return {**result, "corruptions": rows, "seconds": None}


@pytest.fixture(scope="module")
def three(victim):
    return run(victim, spec(corruptions=THREE, severities=[2, 5], seed=4))


def test_the_counts_are_those_of_a_plain_loop_over_single_images(victim, three):
    for row in three["corruptions"]:
        for point in row["severities"]:
            right = 0
            for index in range(COUNT):
                image = victim.images.images[index : index + 1].float() / 255
                seed = torch.tensor([derive_seed(4, row["name"], point["severity"], index)])
                corrupted = corrupt(image, CORRUPTIONS[row["name"]], severity=point["severity"], seeds=seed)
                right += int(victim.model(corrupted).argmax() == victim.images.labels[index])
            assert point["accuracy"] == right / COUNT
            assert point["ci95"] == list(wilson_interval(right, COUNT))
    clean = int((victim.model(victim.images.pixels()[:COUNT]).argmax(1) == victim.images.labels[:COUNT]).sum())
    assert three["clean_accuracy"] == clean / COUNT
    assert three["clean_ci95"] == list(wilson_interval(clean, COUNT))


def test_the_means_are_over_every_corruption_and_severity(three):
    assert [row["name"] for row in three["corruptions"]] == THREE
    table = [[point["accuracy"] for point in row["severities"]] for row in three["corruptions"]]
    means = [row["mean_accuracy"] for row in three["corruptions"]]
    assert means == [fmean(row) for row in table]
    assert three["mean_corruption_accuracy"] == pytest.approx(fmean(value for row in table for value in row))
    assert three["worst_corruption"] == {"name": THREE[means.index(min(means))], "mean_accuracy": min(means)}
    assert [point["severity"] for point in three["severities"]] == [2, 5]
    for place, point in enumerate(three["severities"]):
        assert point["mean_accuracy"] == fmean(row[place] for row in table)
    assert three["severities"][1]["mean_accuracy"] < three["severities"][0]["mean_accuracy"] < three["clean_accuracy"]


def test_all_fifteen_at_five_severities_are_the_default_and_the_result_is_json(victim):
    watcher = Watcher()
    params = spec()
    result = json.loads(json.dumps(run(victim, params, reporter=watcher, count=20), allow_nan=False))
    assert len(params.corruptions) == 15
    assert [row["name"] for row in result["corruptions"]] == params.corruptions
    assert all([point["severity"] for point in row["severities"]] == [1, 2, 3, 4, 5] for row in result["corruptions"])
    assert {row["name"]: row["note"] for row in result["corruptions"] if row["note"]}.keys() == {"frost"}
    assert result["dataset"] == {"name": "digits", "split": "test", "sha256": "ab", "size": 20}
    assert result["model"] == "victim@1"
    assert watcher.told[0] == (0, 20 * 76, "image", "clean")
    assert watcher.told[-1] == (20 * 76, 20 * 76, "image", "zoom_blur 5")


def test_numbers_depend_on_the_seed_and_not_on_the_batch_size(victim, three):
    again = run(victim, spec(corruptions=THREE, severities=[2, 5], seed=4, batch_size=7))
    assert numbers(again) == numbers(three)
    # The same severity asked for alone, in another order of corruptions, meets the same images.
    alone = run(victim, spec(corruptions=["snow", "gaussian_noise"], severities=[5], seed=4))
    assert alone["corruptions"][0]["severities"][0] == three["corruptions"][2]["severities"][1]
    other = run(victim, spec(corruptions=["snow"], severities=[1, 2, 3, 4, 5], seed=5))
    same = run(victim, spec(corruptions=["snow"], severities=[1, 2, 3, 4, 5], seed=4))
    assert numbers(other)["corruptions"] != numbers(same)["corruptions"]


def test_the_model_stays_as_it_was(victim):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(victim, spec(corruptions=["fog"], severities=[1]), model=model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_stops_between_two_batches_when_asked(victim):
    watcher = Watcher(stop_after=COUNT + 40)
    with pytest.raises(Stopped):
        run(victim, spec(batch_size=20), reporter=watcher)
    assert watcher.told[-1][0] == COUNT + 40


def test_one_that_was_interrupted_goes_on_after_the_severities_that_are_through(victim, three, tmp_path):
    params = spec(corruptions=THREE, severities=[2, 5], seed=4)
    keeper = Watcher()
    run(victim, params, reporter=keeper, checkpointing=Checkpointing(tmp_path, steps=1))
    assert len(keeper.checkpoints) == 1 + 2 * len(THREE)
    for through, path in enumerate(keeper.checkpoints, start=1):
        again = Watcher()
        resumed = run(victim, params, reporter=again, checkpointing=Checkpointing(tmp_path / "again", path))
        assert numbers(resumed) == numbers(three)
        # What is through is not told: who times the reports would take it for speed.
        assert len(again.told) == 2 * (1 + 2 * len(THREE) - through)
        assert not again.told or again.told[0][0] == through * COUNT
    with pytest.raises(CheckpointError, match="another spec"):
        run(victim, params, count=COUNT - 1, checkpointing=Checkpointing(tmp_path, keeper.checkpoints[0]))


def test_one_that_is_asked_to_stop_leaves_a_checkpoint_to_go_on_from(victim, three, tmp_path):
    params = spec(corruptions=THREE, severities=[2, 5], seed=4)
    watcher = Watcher(stop_after=2 * COUNT + 1)
    with pytest.raises(Stopped):
        run(victim, params, reporter=watcher, checkpointing=Checkpointing(tmp_path, seconds=1e6))
    (path,) = watcher.checkpoints
    resumed = run(victim, params, checkpointing=Checkpointing(tmp_path / "again", path))
    assert numbers(resumed) == numbers(three)
    assert resumed["seconds"] > load_state(path)["seconds"]


def test_answers_that_are_no_predictions_end_the_evaluation_in_words(victim):
    class Nowhere(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 10), torch.nan)

    with pytest.raises(BrokenModelError, match="NaN"):
        run(victim, spec(), model=Nowhere())
    with pytest.raises(BrokenModelError, match=r"\(90, 3\) for 90 images of 10 classes"):
        run(victim, spec(), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ValueError, match="no images"):
        run(victim, spec(), count=0)


@pytest.mark.parametrize(
    ("fields", "location", "says"),
    [
        (
            {"corruptions": ["fog", "fogg"]},
            ("corruptions", 1),
            "'fogg' is not a corruption; known: brightness, contrast",
        ),
        ({"corruptions": ["fog", "{x}"]}, ("corruptions", 1), "'{x}' is not a corruption"),
        ({"corruptions": ["fog", "snow", "fog"]}, ("corruptions", 2), "'fog' stands at /corruptions/0 already"),
        ({"corruptions": []}, ("corruptions",), "at least 1"),
        ({"severities": [1, 6]}, ("severities", 1), "less than or equal to 5"),
        ({"severities": [0]}, ("severities", 0), "greater than or equal to 1"),
        ({"severities": [3, 3]}, ("severities", 1), "3 stands at /severities/0 already"),
        ({"severity": 1}, ("severity",), "Extra inputs"),
    ],
)
def test_a_wrong_spec_is_refused_where_it_is_wrong(fields, location, says):
    with pytest.raises(ValidationError) as refusal:
        spec(**fields)
    (error,) = refusal.value.errors()
    assert error["loc"] == location and says in error["msg"]


def test_a_resolved_spec_is_a_spec():
    resolved = spec(corruptions=None).model_dump(mode="json")
    assert resolved["corruptions"] == sorted(CORRUPTIONS) and resolved["severities"] == [1, 2, 3, 4, 5]
    assert CorruptionParams.model_validate(resolved).model_dump(mode="json") == resolved
