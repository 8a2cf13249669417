"""Uploading data sets: good ones, and files made to do harm."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import HERE, assert_problem, png, random_pixels
from tests.app.serving.test_decode import bomb


def folder_zip(**extra: bytes) -> bytes:
    """The same bytes whenever it is called: a file of a :class:`ZipInfo` has no date of today."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split, count in (("train", 4), ("test", 2)):
            for label, seed in (("cat", 1), ("dog", 2)):
                for index, pixels in enumerate(random_pixels(count, seed=seed)):
                    archive.writestr(zipfile.ZipInfo(f"{split}/{label}/{index}.png"), png(pixels))
        for name, data in extra.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def arrays_npz(**changed: Any) -> bytes:
    images, labels = random_pixels(6), np.array([0, 1, 2, 0, 1, 2])
    arrays: dict[str, Any] = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, **changed})
    return buffer.getvalue()


def upload(client: TestClient, data: bytes, *, name: str = "mine", **options: Any) -> Any:
    return client.post("/datasets", data={"name": name}, files={"file": ("data.zip", data)}, **options)


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in (settings.home / "storage").rglob("*") if path.is_file()]


def test_a_zip_of_folders_becomes_a_data_set(client: TestClient) -> None:
    created = upload(client, folder_zip())
    assert created.status_code == 201, created.text
    view = created.json()
    assert (view["name"], view["kind"], view["classes"]) == ("mine", "upload", ["cat", "dog"])
    assert (view["train_size"], view["test_size"]) == (8, 4)
    assert client.get(created.headers["location"]).json() == view
    assert client.get("/datasets").json()["items"][0] == view


def test_an_npz_becomes_a_data_set_that_jobs_can_name(client: TestClient) -> None:
    assert upload(client, arrays_npz()).status_code == 201
    body = {"method": "standard", "dataset": {"name": "mine"}, "batch_size": 2, "backbone": {"width": 4, "blocks": [1]}}
    assert client.post("/jobs/train", json=body).status_code == 202
    assert_problem(client.post("/jobs/train", json={**body, "batch_size": 7}), 422, pointer="/batch_size")


def test_names_are_taken_once(client: TestClient, settings: Settings) -> None:
    data = folder_zip()
    first = upload(client, data, headers={"Idempotency-Key": "k"})
    assert upload(client, data, headers={"Idempotency-Key": "k"}).json() == first.json()
    assert upload(client, data).json() == first.json()
    assert_problem(upload(client, arrays_npz()), 409, says="other contents")
    assert_problem(upload(client, data, name="digits"), 409, says="built-in")
    assert len(stored_files(settings)) == 1  # a refused upload leaves nothing
    assert_problem(upload(client, data, name="../x"), 422, pointer="/name")
    assert_problem(client.post("/datasets", data={"name": "x"}), 422, pointer="/file")
    assert_problem(client.get("/datasets/none"), 404, says="digits")


WHOLE = png(random_pixels(1)[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text",
        folder_zip()[:-40],
        folder_zip(**{"../../evil.png": WHOLE}),
        folder_zip(**{"/etc/evil.png": WHOLE}),
        folder_zip(**{"train/cat/cut.png": WHOLE[: len(WHOLE) // 2]}),
        folder_zip(**{"train/cat/notes.png": b"just text"}),
        folder_zip(**{"train/cat/bomb.png": bomb(20_000, 20_000)}),
        folder_zip(**{"train/cat/large.png": png(np.zeros((16, 16), np.uint8))}),
        arrays_npz(x_train=np.array([{"a": print}], dtype=object)),
        pickle.dumps({"x_train": 1}),
        arrays_npz(y_train=np.arange(5)),
        arrays_npz(x_train=np.full((6, 8, 8), np.nan, dtype=np.float32)),
    ],
    ids=[
        "empty", "text", "cut-zip", "dot-dot", "absolute", "cut-png", "text-png", "bomb", "sizes", "pickled-npz",
        "pickle", "lengths", "nan",
    ],
)  # fmt: skip
def test_a_harmful_upload_is_refused_and_leaves_nothing(client: TestClient, settings: Settings, data: bytes) -> None:
    problem = assert_problem(upload(client, data), 422, pointer="/file")
    assert len(problem["detail"]) > 10
    assert [item["kind"] for item in client.get("/datasets").json()["items"]].count("upload") == 0
    assert stored_files(settings) == []
    assert upload(client, folder_zip()).status_code == 201


def test_an_upload_over_the_limit_is_cut_off_while_it_arrives(settings: Settings) -> None:
    small = settings.model_copy(update={"upload_max_bytes": 1000})
    with TestClient(create_app(small), HERE, raise_server_exceptions=False) as client:
        assert_problem(upload(client, b"x" * 2_000_000), 413, says="larger than")

        def endless() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield b"x" * 100_000

        headers = {"content-type": "multipart/form-data; boundary=b"}
        assert_problem(client.post("/datasets", content=endless(), headers=headers), 413, says="larger than")


def test_data_sets_come_in_pages(client: TestClient) -> None:
    names = [item["name"] for item in client.get("/datasets").json()["items"]]
    first = client.get("/datasets?limit=2").json()
    second = client.get(f"/datasets?limit=200&cursor={first['next_cursor']}").json()
    assert [item["name"] for item in first["items"] + second["items"]] == names
    assert second["next_cursor"] is None
