import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints import CheckpointError, import_model, load_model, load_state, save_model, save_state
from models.networks import ImageModel, build_model
from models.specs import BackboneSpec, ModelCard
from tests.disks import full_disk

CARD = ModelCard(
    kind="classifier",
    backbone=BackboneSpec(width=4, blocks=(1,)),
    image_shape=(1, 8, 8),
    classes=("a", "b", "c"),
    mean=(0.3,),
    std=(0.4,),
)


@pytest.fixture
def model() -> ImageModel:
    model = build_model(CARD, seed=3)
    model.train()(torch.rand(8, 1, 8, 8))
    return model.eval()


def test_a_model_comes_back_with_its_card(tmp_path: Path, model: ImageModel) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    again = load_model(path)
    images = torch.rand(4, 1, 8, 8)
    assert again.card == CARD and not again.training
    assert torch.equal(again(images), model(images))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_loading_takes_neither_torchs_compiler_nor_random_numbers(tmp_path: Path, model: ImageModel) -> None:
    """The compiler is half a job's start; torch brings it in for numbers drawn on the device `meta`."""
    save_model(tmp_path / "model.safetensors", model)
    code = (
        "import sys, torch; from pathlib import Path; from models.checkpoints import load_model;"
        "before = torch.get_rng_state(); load_model(Path(sys.argv[1])); "
        "print(torch.equal(before, torch.get_rng_state()), 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["True", "False"]


def test_equal_models_give_equal_bytes(tmp_path: Path, model: ImageModel) -> None:
    hashes = set()
    for name, layout in (("a", torch.contiguous_format), ("b", torch.channels_last)):
        save_model(tmp_path / name, model.to(memory_format=layout))
        hashes.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_given_card_replaces_the_metadata(tmp_path: Path, model: ImageModel) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    assert load_model(path, CARD).card == CARD
    with pytest.raises(CheckpointError, match="no card"):
        load_model(path)


def test_what_does_not_fit_is_listed(tmp_path: Path, model: ImageModel) -> None:
    path = tmp_path / "wrong.safetensors"
    save_model(path, model)
    weights = load_file(path)
    del weights["head.bias"]
    weights["extra"] = torch.zeros(1)
    weights["head.weight"] = torch.zeros(3, 5)
    save_file(weights, path)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, CARD)
    for part in ("missing: head.bias", "unexpected: extra", "misshapen: head.weight is (3, 5), not (3, 4)"):
        assert part in str(caught.value)


def test_a_huge_card_takes_no_memory_before_it_is_refused(tmp_path: Path, model: ImageModel) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    huge = CARD.model_copy(update={"backbone": BackboneSpec(name="resnet50", width=1024)})
    with pytest.raises(CheckpointError, match="misshapen"):
        load_model(path, huge)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_model(path)
    with pytest.raises(CheckpointError, match="not a readable resume"):
        load_state(path)


def test_state_comes_back_and_a_failed_write_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 3, "weights": {"w": torch.arange(3.0)}})
    with pytest.raises(Exception, match="pickle"):
        save_state(path, {"step": lambda: None})
    state = load_state(path)
    assert state["step"] == 3 and torch.equal(state["weights"]["w"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"step": Path}, path)
    with pytest.raises(CheckpointError):
        load_state(path)


RENAMED = {"backbone.stem.": "conv1.", "backbone.bn.": "bn1.", "backbone.stages.0.": "layer1.", "head.": "linear."}


def published(model: ImageModel, wrapper: str = "") -> dict[str, torch.Tensor]:
    """The weights under the names of kuangliu/pytorch-cifar, without the counters that old files lack."""
    found = {}
    for name, value in model.state_dict().items():
        ours, theirs = next(pair for pair in RENAMED.items() if name.startswith(pair[0]))
        if not name.endswith("num_batches_tracked"):
            found[wrapper + theirs + name.removeprefix(ours)] = value.contiguous()
    return found


@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "module.model.", "1."])
def test_published_names_give_the_same_stored_bytes_as_our_own(tmp_path: Path, wrapper: str) -> None:
    model = build_model(CARD, seed=3)
    save_model(tmp_path / "ours", model)
    save_file(published(model, wrapper), tmp_path / "theirs")
    save_model(tmp_path / "imported", import_model(tmp_path / "theirs", CARD))
    assert (tmp_path / "imported").read_bytes() == (tmp_path / "ours").read_bytes()
    with pytest.raises(CheckpointError, match="missing: backbone"):
        load_model(tmp_path / "theirs", CARD)


def test_what_does_not_fit_is_listed_in_the_files_own_names(tmp_path: Path, model: ImageModel) -> None:
    weights = published(model, "module.")
    del weights["module.layer1.0.conv2.weight"]
    weights["module.layer1.0.conv3.weight"] = torch.zeros(1)
    weights["module.linear.weight"] = torch.zeros(10, 4)
    save_file(weights, tmp_path / "theirs")
    with pytest.raises(CheckpointError) as caught:
        import_model(tmp_path / "theirs", CARD)
    for part in (
        "missing: module.layer1.0.conv2.weight;",
        "unexpected: module.layer1.0.conv3.weight;",
        "misshapen: module.linear.weight is (10, 4), not (3, 4)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("wrapper", "extra", "says"),
    [
        ("model.", "normalize.mean", "unexpected: normalize.mean; the card's mean and std"),
        ("", "mu", "unexpected: mu; the card's mean and std"),
        ("", "fc.weight", "two classifiers in it, linear and fc"),
        ("", "bn.weight", "bn.weight and bn1.weight both stand for backbone.bn.weight"),
        ("", "module.bn2.weight", "unexpected: module.bn2.weight"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    tmp_path: Path, model: ImageModel, wrapper: str, extra: str, says: str
) -> None:
    save_file({**published(model, wrapper), extra: torch.zeros(4)}, tmp_path / "theirs")
    with pytest.raises(CheckpointError) as caught:
        import_model(tmp_path / "theirs", CARD)
    assert says in str(caught.value)


def test_a_stage_that_trades_never_uses_is_dropped(tmp_path: Path) -> None:
    card = CARD.model_copy(update={"backbone": BackboneSpec(name="wideresnet34-10", width=4, blocks=(1,))})
    model = build_model(card, seed=1)
    theirs = {
        name.removeprefix("backbone.").replace("head.", "fc."): value for name, value in model.state_dict().items()
    }
    unused = {name.replace("block1", "sub_block1"): value.clone() for name, value in theirs.items() if "block1" in name}
    assert unused
    save_file({**theirs, **unused}, tmp_path / "theirs")
    again = import_model(tmp_path / "theirs", card)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_encoder_takes_no_classifier(tmp_path: Path, model: ImageModel) -> None:
    encoder = CARD.model_copy(update={"kind": "encoder", "classes": None})
    weights = published(model)
    save_file(weights, tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"unexpected: linear.bias, linear.weight"):
        import_model(tmp_path / "theirs", encoder)
    save_file({key: value for key, value in weights.items() if "linear" not in key}, tmp_path / "theirs")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(import_model(tmp_path / "theirs", encoder)(images), model.features(images))


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, model: ImageModel) -> None:
    """Both writers' libraries hide the reason: torch says "unexpected pos"."""
    with full_disk(tmp_path / "disk", size=256 * 1024) as disk:
        weights, state = disk / "model.safetensors", disk / "resume.pt"
        save_model(weights, model)
        save_state(state, {"step": 1})
        large = build_model(CARD.model_copy(update={"backbone": BackboneSpec(width=64, blocks=(1,))}))
        with pytest.raises(OSError, match=r"No space left on device: 'model\.safetensors'"):
            save_model(weights, large)
        with pytest.raises(OSError, match=r"No space left on device: 'resume\.pt'"):
            save_state(state, {"weights": torch.rand(200_000)})
        assert load_model(weights).card == CARD and load_state(state) == {"step": 1}
        assert sorted(file.name for file in disk.iterdir()) == [weights.name, state.name]
