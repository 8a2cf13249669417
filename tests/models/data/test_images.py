import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data import DATASETS, DataError, ImageSet, load, subset
from models.data.images import Dataset, content_hash


def image_set(labels: list[int], *, classes: int = 3, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (len(labels), 3, 4, 5), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.tensor(labels), tuple(f"class {k}" for k in range(classes)))


def test_digits_are_scikit_learns_split_once_and_for_all(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = load("digits", root=tmp_path)
    entry = DATASETS["digits"]
    assert (len(data.train), len(data.test)) == (entry.train_size, entry.test_size) == (1437, 360)
    assert data.image_shape == entry.image_shape and data.classes == entry.classes
    assert int(data.train.images.max()) == 255
    assert data.sha256 == "4ce7f29a079c1d60543df70d3634ae96d220a279cada64f4ea33b305b0d21d63"
    # Together the splits are the whole set, and every class is in the test split with its share.
    pixels = torch.cat((data.train.images, data.test.images)).flatten(1).numpy().astype(int)
    source = np.rint(load_digits().images.reshape(-1, 64) * 255 / 16).astype(int)
    assert sorted(map(tuple, pixels.tolist())) == sorted(map(tuple, source.tolist()))
    assert data.test.labels.bincount().min() >= 34


def test_digits_are_kept_so_that_the_next_process_needs_no_scikit_learn(tmp_path: Path) -> None:
    first = load("digits", root=tmp_path)
    script = (
        "import sys; from pathlib import Path; from models.data import load;"
        "from models.data.images import content_hash; again = load('digits', root=Path(sys.argv[1]));"
        "print(content_hash(again.train, again.test), again.sha256, 'sklearn' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told == [first.sha256, first.sha256, "False"]


def test_data_that_cannot_be_kept_is_answered_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "decoded").write_bytes(b"a file where the folder should be")
    assert len(load("digits", root=tmp_path).test) == 360
    assert "the decoded pixels of digits cannot be kept" in caplog.text


def test_channel_statistics_are_numpys() -> None:
    train = image_set([0, 1, 2] * 10)
    mean, std = Dataset("x", train, train, sha256="").channel_statistics()
    pixels = train.images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(pixels.std(axis=(0, 2, 3)).tolist(), rel=1e-9)


def test_a_constant_channel_has_a_deviation_to_divide_by() -> None:
    black = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    assert Dataset("x", black, black, sha256="").channel_statistics()[1] == (0.5 / 255,)


@pytest.mark.parametrize("size", [1, 7, 10, 59])
def test_a_subset_keeps_every_class_share(size: int) -> None:
    labels = [0] * 30 + [1] * 20 + [2] * 10
    chosen = subset(image_set(labels), size, seed=4)
    assert len(chosen) == size
    for label, count in enumerate((30, 20, 10)):
        share = count * size / 60
        assert abs(int((chosen.labels == label).sum()) - share) < 1


def test_a_subset_depends_on_its_seed_alone() -> None:
    images = image_set([0, 1, 2] * 20)
    first, again, other = (subset(images, 12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert subset(images, None, seed=1) is images and subset(images, 60, seed=1) is images
    with pytest.raises(DataError, match="at least one"):
        subset(images, 0, seed=1)


def test_sets_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(DataError, match="0 to 2"):
        image_set([0, 3])
    with pytest.raises(DataError, match="uint8"):
        ImageSet(torch.zeros(1, 1, 2, 2), torch.tensor([0]), ("a",))
    with pytest.raises(DataError, match="int64"):
        ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), ("a",))
    with pytest.raises(DataError, match="splits differ"):
        Dataset("x", image_set([0]), image_set([0], classes=2), sha256="")


def test_the_content_hash_sees_pixels_labels_and_classes() -> None:
    base = image_set([0, 1])
    others = [
        image_set([0, 1], seed=1),
        ImageSet(base.images, torch.tensor([1, 0]), base.classes),
        ImageSet(base.images, base.labels, ("x", "y", "z")),
    ]
    assert len({content_hash(one, base) for one in [base, *others]}) == 4
