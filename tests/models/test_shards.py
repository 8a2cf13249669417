"""Shards merge into what one run over all images finds, to the digit, and leave no image out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from models.evaluation import conclude, evaluate
from models.evaluation_evidence import EvidenceError, load_evidence, merge, save_evidence
from models.evaluation_progress import total_steps
from models.evaluation_shards import MAX_SHARDS, Shard, ShardParams, measure_shard, shard_count
from models.progress import Silent
from tests.models.evaluations import spec

COUNT = 121  # not divisible by 2 or 4
ATTACKS = [
    {"name": "pgd", "eps": 0.1, "steps": 4, "restarts": 2},
    {"name": "cw-l2", "steps": 20, "lr": 0.05, "initial_const": 1.0, "binary_search_steps": 1},
]
CURVE = {"attack": "pgd", "eps": [0.05, 0.2]}
PARAMS = spec(ATTACKS, curve=CURVE, examples=8, precision="float32", require={"pgd": ">=0.1"})


class LastProgress(Silent):
    """Keeps the last progress that was reported."""

    def progress(self, done, total, *, unit, stage):
        self.done, self.total = done, total


def timeless(value):
    """A result without its clock, and without the forward passes: each shard judges examples that are not kept."""
    gone = ("seconds", "images_per_second", "forward_images")
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in gone}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def images(victim):
    """Sorted by class, as a folder of class folders is."""
    chosen = victim.images.take(torch.arange(COUNT))
    return chosen.take(chosen.labels.argsort(stable=True))


@pytest.fixture(scope="module")
def whole(victim, images):
    return evaluate(victim.model, images, PARAMS, reporter=Silent(), device="cpu")


@pytest.mark.parametrize("of", [1, 2, 4])
def test_shards_merge_to_the_result_of_one_run(victim, images, whole, tmp_path, of):
    paths = []
    for index in reversed(range(of)):  # they end in any order
        shard = Shard(index=index, of=of)
        evidence = measure_shard(victim.model, images, PARAMS, shard=shard, reporter=Silent(), device="cpu")
        paths.append(tmp_path / f"{index}.safetensors")
        save_evidence(paths[-1], evidence)
    merged = merge([load_evidence(path) for path in paths])
    together = conclude(PARAMS, merged, classes=images.classes, shape=images.image_shape)
    assert timeless(together.result) == timeless(whole.result)
    assert 0 < whole.result["attacks"][0]["robust_accuracy"] < whole.result["clean_accuracy"]
    for part in ("clean", "adversarial"):
        assert torch.equal(together.examples[part], whole.examples[part])
    assert len(whole.examples["clean"]) == 8


@pytest.mark.parametrize("hopeless", [0, 1])
def test_a_shard_in_which_nothing_is_right_merges(victim, images, hopeless):
    """Nothing is attacked there, so it knows of no parts; the others' stand."""
    steps = [{"name": "autoattack", "eps": 0.1, "steps": 2, "queries": 20}]
    params = spec(steps)
    wrong = images.labels.clone()
    rows = Shard(index=hopeless, of=2).positions(COUNT)
    wrong[rows] = (victim.model(images.take(rows).pixels()).argmax(1) + 1) % 10
    mislabelled = dataclasses.replace(images, labels=wrong)
    parts = [
        measure_shard(
            victim.model, mislabelled, params, shard=Shard(index=index, of=2), reporter=Silent(), device="cpu"
        )
        for index in range(2)
    ]
    assert not parts[hopeless].right.any() and parts[1 - hopeless].right.any()
    merged = conclude(params, merge(parts), classes=images.classes, shape=images.image_shape).result
    alone = evaluate(victim.model, mislabelled, params, reporter=Silent(), device="cpu").result
    assert timeless(merged) == timeless(alone) and len(merged["attacks"][0]["parts"]) == 4


def test_a_missing_or_doubled_shard_is_refused(victim, images):
    params = spec(ATTACKS[:1])
    first, second = (
        measure_shard(victim.model, images, params, shard=Shard(index=index, of=2), reporter=Silent(), device="cpu")
        for index in range(2)
    )
    for parts in ([first], [first, first], [first, second, second]):
        with pytest.raises(EvidenceError):
            merge(parts)


def test_every_shard_of_a_set_sorted_by_class_has_its_share_of_every_class(images):
    counts = [
        torch.bincount(images.labels[Shard(index=index, of=4).positions(COUNT)], minlength=10) for index in range(4)
    ]
    assert int(torch.stack(counts).sum()) == COUNT
    assert int((torch.stack(counts).amax(0) - torch.stack(counts).amin(0)).max()) <= 1


def test_the_steps_of_the_shards_add_up_to_those_of_the_whole(victim, images):
    params = spec(ATTACKS[:1])
    totals = []
    for index in range(4):
        last = LastProgress()
        measure_shard(victim.model, images, params, shard=Shard(index=index, of=4), reporter=last, device="cpu")
        assert last.done == last.total
        totals.append(last.total)
    assert abs(sum(totals) - total_steps(params, images=COUNT)) <= 2  # each is rounded


@pytest.mark.parametrize(
    ("images", "shard_size", "shards"),
    [(1000, 1000, 1), (1001, 1000, 2), (10_000, 1000, 10), (10_000, None, 1), (10**6, 50, MAX_SHARDS)],
)
def test_only_a_large_evaluation_is_cut(images, shard_size, shards):
    assert shard_count(images, shard_size) == shards


def test_a_shard_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="no shard 2 of 2"):
        ShardParams.model_validate({**PARAMS.model_dump(), "shard": {"index": 2, "of": 2}})
