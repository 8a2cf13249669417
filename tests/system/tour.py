"""One small job of each kind on a real service, and every operation once: `python -m tests.system.tour` records it.

What it writes, `app/schemas/answers.json`, are the examples of the OpenAPI document.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from app import schemas
from app.records import FINAL
from app.records.session import Database
from app.schemas import examples
from app.services.prune import Pruner
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from models.checkpoints import save_model
from tests.app.api.conftest import make_model
from tests.app.api.test_dataset_routes import folder_zip
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import QUICK, start_api

SMALL: dict[str, Any] = {
    "backbone": {"name": "resnet18", "width": 4, "blocks": [1]},
    "dataset": {"name": "digits", "subset": 320},
    "augmentation": {"crop_padding": 1, "flip": False},
    "batch_size": 32,
    "epochs": 4,
}
PGD: dict[str, Any] = {"name": "pgd", "eps": 0.1, "steps": 3, "step_size": 0.05}
VALIDATION = {"images": 20, "every_epochs": 1, "eps": 0.1, "steps": 3, "step_size": 0.05, "keep": "best"}
TRAIN = {
    **SMALL,
    "method": "pgd-at",
    "backbone": {"name": "resnet18", "width": 8, "blocks": [1]},
    "epochs": 20,
    "attack": PGD,
    "validation": VALIDATION,
    "register_as": "robust",
}
PROBE = {
    "model": "tiny",
    "dataset": SMALL["dataset"],
    "epochs": 10,
    "register_as": "probed",
    "labels": {"team": "vision"},
}
DIVERGES = {**SMALL, "method": "standard", "optimizer": {"name": "sgd", "lr": 100, "weight_decay": 10}}
ENDLESS = {**SMALL, "method": "standard", "epochs": 2000}
TESTED = {"model": "robust", "dataset": {"name": "digits", "subset": 60}}
EVALUATE = {
    **TESTED,
    "examples": 2,
    "attacks": [PGD],
    "curve": {"attack": "pgd", "eps": [0.05, 0.1]},
    "require": {"pgd": ">=0.40"},
}
MORE_ATTACKS: list[dict[str, Any]] = [
    {"name": "fgsm", "eps": 0.1},
    {"name": "cw", "norm": "l2", "steps": 10, "binary_search_steps": 2},
    {"name": "autoattack", "eps": 0.1, "steps": 5, "targets": 2, "queries": 20},
    {"name": "transfer", "source": "probed", "attack": PGD},
    {"name": "uniform-noise", "eps": 0.1},
]
SHARDED = {**TESTED, "dataset": {"name": "digits", "subset": 100}, "attacks": [PGD], "shard_size": 50}
CORRUPTIONS = {**TESTED, "corruptions": ["fog", "jpeg_compression"], "severities": [1, 5]}
PROTOCOL = {
    "preset": "quick",
    "dataset": {"name": "digits", "subset": 128},
    "methods": ["standard", "pgd-at"],
    "attacks": [PGD],
}
BINARY = ("image/png", "application/octet-stream")


class Taken(NamedTuple):
    """An answer: its value, of an event stream its shortest event; None for a file and for nothing.

    ``called``: its name among the document's examples; None: it is none of them.
    """

    operation: str
    called: str | None
    status: int
    media_type: str
    value: Any


@dataclass
class Tour:
    """Requests to ``deployment`` by ``client``, and what was answered."""

    deployment: Deployment
    client: httpx.Client
    taken: list[Taken] = field(default_factory=list)

    def ask(self, operation: str, *, called: str | None = "an answer", query: str = "", **more: Any) -> Any:
        """Do ``operation`` (``GET /jobs/{job_id}``); ``more``: values of its path, and what httpx sends."""
        method, _, path = operation.partition(" ")
        sent = {key: more.pop(key) for key in ("json", "data", "files") if key in more}
        answer = self.client.request(method, path.format(**more) + query, **sent)
        assert answer.is_success, (operation, answer.status_code, answer.text)
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        value: Any = None
        if media_type == "text/event-stream":
            value = min(_events(answer.text), key=lambda event: len(event["data"]))
        elif media_type not in BINARY and answer.content:
            value = answer.json() if media_type == "application/json" else answer.text
        self.taken.append(Taken(operation, called, answer.status_code, media_type, value))
        return value

    def job(self, path: str, body: dict[str, Any], *, called: str | None, status: str = "succeeded") -> str:
        """Submit a job and read it once it is final."""
        job_id: str = self.ask(f"POST {path}", json=body)["id"]
        job = self.deployment.wait(job_id)
        assert job.status == status, (called, job.error, self.deployment.tail())
        self.ask("GET /jobs/{job_id}", called=called, job_id=job_id)
        return job_id

    def go(self) -> None:
        self._catalog()
        self._uploads()
        evaluation, protocol = self._jobs()
        self._around_a_job(evaluation)
        self._stop_and_go_on()
        for format in ("json", "csv", "markdown", "latex"):
            self.ask("GET /compare", query=f"?jobs={protocol}&format={format}")
        self._models()
        Pruner(self.deployment.database, self.deployment.storage).examples(older_than=timedelta(0))
        self.ask("GET /jobs/{job_id}", called=None, job_id=evaluation)

    def _catalog(self) -> None:
        self.ask("GET /healthz")
        wait_for(lambda: self.client.get("/readyz").status_code == 200, seconds=150, what="a worker")
        for path in ("/readyz", "/version", "/metrics", "/methods", "/attacks", "/corruptions", "/backbones"):
            self.ask(f"GET {path}")
        self.ask("GET /backbones/{family}", family="torchvision")

    def _uploads(self) -> None:
        self.ask("POST /datasets", data={"name": "pets"}, files={"file": ("pets.zip", folder_zip())})
        self.ask("GET /datasets")
        self.ask("GET /datasets/{name}", name="pets")
        weights = self.deployment.settings.home / "mine.safetensors"
        save_model(weights, make_model())
        files = {"weights": ("mine.safetensors", weights.read_bytes())}
        self.ask("POST /models/{name}/versions", name="mine", files=files)

    def _jobs(self) -> tuple[str, str]:
        self.job("/jobs/pretrain", QUICK, called="pretrain")
        self.job("/jobs/probe", PROBE, called="probe")
        self.job("/jobs/train", TRAIN, called="train")
        self.job("/jobs/train", DIVERGES, called="a failed job", status="failed")
        evaluation = self.job("/evaluate", EVALUATE, called="evaluate")
        self.job("/evaluate", {**EVALUATE, "attacks": MORE_ATTACKS, "curve": None, "require": {}}, called=None)
        large = self.job("/evaluate", SHARDED, called=None)
        for child in self.deployment.view(large)["children"]:
            self.ask("GET /jobs/{job_id}", called=None, job_id=child)
        self.job("/evaluate/corruptions", CORRUPTIONS, called="corruptions")
        return evaluation, self.job("/jobs/protocol", PROTOCOL, called="protocol")

    def _around_a_job(self, evaluation: str) -> None:
        self.ask("GET /jobs", query="?kind=probe&label=team:vision")
        self.ask("GET /jobs")
        training = self.client.get("/jobs?kind=train").json()["items"][-1]["id"]
        self.ask("GET /jobs/{job_id}/metrics", query="?points=3", job_id=training)
        self.ask("GET /jobs/{job_id}/examples", job_id=evaluation)
        self.ask("GET /jobs/{job_id}/examples.safetensors", job_id=evaluation)
        self.ask("GET /jobs/{job_id}/examples/{index}/{part}.png", job_id=evaluation, index=0, part="clean")
        self.ask("GET /jobs/{job_id}/events", job_id=training)

    def _stop_and_go_on(self) -> None:
        job_id = self.ask("POST /jobs/train", json=ENDLESS)["id"]
        self.ask("POST /jobs/{job_id}/cancel", job_id=job_id)
        self.deployment.wait(job_id, "cancelled")
        self.ask("POST /jobs/{job_id}/resume", job_id=job_id)
        self.client.post(f"/jobs/{job_id}/cancel").raise_for_status()
        self.deployment.wait(job_id, *FINAL)

    def _models(self) -> None:
        self.ask("GET /models")
        self.ask("GET /models/{name}", name="robust")
        self.ask("GET /models/{name}/versions/{version}", name="robust", version=1)
        self.ask("GET /models/{name}/versions/{version}/weights", name="robust", version=1)
        alias = "/models/{name}/aliases/{alias}"
        self.ask(f"PUT {alias}", name="robust", alias="production", json={"version": 1})
        images = {"images": [*examples.IMAGES["images"], {"base64": "AAAA"}]}
        self.ask("POST /classify", query="?top_k=2", json=images)
        self.ask("POST /embed", json=images)
        self.ask(f"DELETE {alias}", name="robust", alias="production")
        self.ask("DELETE /models/{name}/versions/{version}", name="mine", version=1)
        self.ask("DELETE /models/{name}", name="robust")


def _events(stream: str) -> list[dict[str, str]]:
    blocks = stream.replace("\r\n", "\n").strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if "data: " in block]


def short(value: Any) -> Any:
    """The shortest item of a list, the first fields of a schema in it, the first lines of a text; others whole."""
    if isinstance(value, str):
        return "".join(value.splitlines(keepends=True)[:4])
    if not isinstance(value, dict) or not isinstance(value.get("items"), list):
        return value
    shortest = min(value["items"], key=lambda item: len(json.dumps(item)))
    if "parameters" in shortest:
        whole = shortest["parameters"]["properties"].items()
        fields = [(name, field) for name, field in whole if "$ref" not in field][:2]
        shortest = {**shortest, "parameters": {"type": "object", "properties": dict(fields)}}
    return {**value, "items": [shortest]}


def recorded(tour: Tour) -> dict[str, dict[str, dict[str, Any]]]:
    """The answers as `app/schemas/answers.json` has them; of those of one name the first."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in tour.taken:
        if one.value is not None and one.called is not None:
            found.setdefault(one.operation, {}).setdefault(one.media_type, {}).setdefault(one.called, short(one.value))
    return found


def toured(deployment: Deployment) -> Tour:
    """A tour of ``deployment``, which gets an API and a worker."""
    deployment.start_worker()
    _, address = start_api(deployment)
    with httpx.Client(base_url=address, timeout=120) as client:
        tour = Tour(deployment, client)
        tour.go()
    return tour


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", device="cpu", threads=1)
        upgrade(settings)
        database, storage = Database(settings.database_url), Storage(settings.storage_url)
        deployment = Deployment(settings, database, storage, Path(folder) / "log")
        try:
            tour = toured(deployment)
        finally:
            deployment.close()
    path = Path(schemas.__path__[0]) / "answers.json"
    path.write_text(json.dumps(recorded(tour), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
