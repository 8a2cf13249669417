"""Safetensors files made to do harm: each is refused with a line that says why, before memory is taken for it."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from models.checkpoints import CARD_KEY, CheckpointError, import_model
from models.networks import build_model
from models.specs import BackboneSpec, ModelCard

CARD = ModelCard(
    kind="classifier",
    backbone=BackboneSpec(width=4, blocks=(1,)),
    image_shape=(1, 8, 8),
    classes=("cat", "dog"),
    mean=(0.5,),
    std=(0.25,),
)
WEIGHTS = {name: tensor.contiguous() for name, tensor in build_model(CARD).state_dict().items()}
WHOLE = save(WEIGHTS, {CARD_KEY: CARD.model_dump_json()})
HEADER_BYTES = struct.unpack("<Q", WHOLE[:8])[0]
DATA = WHOLE[8 + HEADER_BYTES :]


def header() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(WHOLE[8 : 8 + HEADER_BYTES])
    return found


def with_header(text: bytes, *, declared: int | None = None, data: bytes = DATA) -> bytes:
    return struct.pack("<Q", len(text) if declared is None else declared) + text + data


def lying(name: str = "head.bias", **fields: Any) -> bytes:
    """The whole file, with one tensor described by ``fields``."""
    changed = header()
    changed[name] |= fields
    return with_header(json.dumps(changed).encode())


def refused(path: Path, content: bytes, *, card: ModelCard | None = CARD) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        import_model(path, card)
    return str(caught.value)


def test_the_file_that_the_others_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(with_header(json.dumps(header()).encode()))
    assert import_model(tmp_path / "good").card == CARD


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


HEAD = header()["head.bias"]["data_offsets"]
FILES: dict[str, bytes] = {
    "empty": b"",
    "shorter than its length": b"\x08\0\0",
    "header beyond the file": with_header(b"{}", declared=10**6),
    "header of 2^63 bytes": with_header(b"{}", declared=2**63),
    "header of 2^64 - 1 bytes": with_header(b"{}", declared=2**64 - 1),
    "header over 100 MB": with_header(b"{" + b" " * 100_000_001 + b"}"),
    "no JSON": with_header(b"hello"),
    "no object": with_header(b"[]"),
    "not UTF-8": with_header(b'{"\xff": {}}'),
    "deep": with_header(nested(100_000)),
    "deep metadata": with_header(b'{"__metadata__": ' + nested(10_000) + b"}"),
    "metadata of numbers": with_header(b'{"__metadata__": {"card": 1}}'),
    "offsets beyond the file": lying(data_offsets=[HEAD[0], len(DATA) + 8]),
    "offsets backwards": lying(data_offsets=[HEAD[1], HEAD[0]]),
    "offsets overlap": lying(data_offsets=[HEAD[0] - 4, HEAD[1] - 4]),
    "offsets are negative": lying(data_offsets=[-8, 0]),
    "offsets of 2^64": lying(data_offsets=[2**64, 2**64 + 8]),
    "a hole": with_header(json.dumps(header()).encode(), data=DATA + b"\0" * 8),
    "cut": WHOLE[:-1],
    "shape of 2^64 elements": lying(shape=[2**32, 2**32]),
    "shape overflows to its size": lying(shape=[2**63, 2, 2]),
    "negative shape": lying(shape=[-2]),
    "fractional shape": lying(shape=[2.0]),
    "unknown type": lying(dtype="PICKLE"),
    "wider type": lying(dtype="F64"),
    "narrower type": lying(dtype="F16"),
    "unknown field": with_header(json.dumps(header() | {"x": {"dtype": "F32"}}).encode()),
    "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
    "zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_lying_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert len(refused(tmp_path / "weights.safetensors", content)) < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("BOOL", 1), ("U8", 1), ("I8", 1), ("I16", 2), ("U16", 2), ("I32", 4), ("U32", 4), ("I64", 8), ("U64", 8)),
        *(("C64", 8), ("F4", 0.5), ("F6_E2M3", 0.75), ("F8_E8M0", 1)),
    ],
)
def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path, dtype: str, size: float) -> None:
    """Also those that the library writes down and torch cannot hold."""
    described, start = header(), int(HEAD[0])
    text = {CARD_KEY: CARD.model_dump_json()}
    end = start + int(2 * size)
    content: dict[str, Any] = {"__metadata__": text}
    shift = end - int(HEAD[1])
    for name, entry in described.items():
        if name == "__metadata__":
            continue
        offsets = [offset + shift if offset >= HEAD[1] else offset for offset in entry["data_offsets"]]
        content[name] = entry | {"data_offsets": offsets}
    content["head.bias"] = {"dtype": dtype, "shape": [2], "data_offsets": [start, end]}
    data = DATA[:start] + b"\0" * (end - start) + DATA[HEAD[1] :]
    message = refused(tmp_path / "weights.safetensors", with_header(json.dumps(content).encode(), data=data))
    assert "head.bias" in message or "readable" in message


def test_a_name_given_twice_counts_once_or_is_refused(tmp_path: Path) -> None:
    text = json.dumps(header())
    twice = text[:-1] + f', "head.bias": {json.dumps(header()["head.bias"])}}}'
    (tmp_path / "weights").write_bytes(with_header(twice.encode()))
    try:
        model = import_model(tmp_path / "weights")
    except CheckpointError:
        return
    assert model.state_dict()["head.bias"].shape == (2,)


CARDS: dict[str, dict[str, Any]] = {
    "width": {"backbone": {"name": "resnet18", "width": 10**9}},
    "blocks": {"backbone": {"name": "resnet18", "blocks": [10**9]}},
    "many stages": {"backbone": {"name": "resnet18", "blocks": [1] * 100}},
    "path": {"backbone": {"name": "../../etc/passwd"}},
    "family's path": {"backbone": {"name": "torchvision/../../x"}},
    "hub": {"backbone": {"name": "timm/hf-hub:someone/something"}},
    "image": {"image_shape": [1, 10**6, 10**6]},
    "NUL": {"classes": ["cat\0", "dog"]},
    "turned writing": {"classes": ["cat\u202e", "dog"]},
    "two lines": {"classes": ["cat\nfake log line", "dog"]},
    "long class": {"classes": ["c" * 10**6, "dog"]},
    "huge mean": {"mean": [1e300]},
    "no deviation": {"std": [0]},
    "tiny deviation": {"std": [1e-300]},
    "many means": {"mean": [0.5] * 10**5},
    "true": {"mean": [True]},
    "text": {"std": ["0.5"]},
    "unknown fields": {f"k{index}": 1 for index in range(10_000)},
}


@pytest.mark.parametrize("changes", CARDS.values(), ids=CARDS)
def test_a_card_in_the_file_is_checked_like_any_other(tmp_path: Path, changes: dict[str, Any]) -> None:
    card = json.dumps(CARD.model_dump(mode="json") | changes)
    message = refused(tmp_path / "weights.safetensors", save(WEIGHTS, {CARD_KEY: card}), card=None)
    assert len(message) < 20_000
    assert "hf-hub" not in sys.modules


@pytest.mark.parametrize("card", ["", "hello", "[]", "null", '{"kind": NaN}', "[" * 100_000, "9" * 10_000])
def test_a_card_that_is_no_card_is_refused(tmp_path: Path, card: str) -> None:
    assert "card" in refused(tmp_path / "weights.safetensors", save(WEIGHTS, {CARD_KEY: card}), card=None)
