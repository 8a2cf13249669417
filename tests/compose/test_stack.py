"""The containers for real: built, brought up, used over HTTP, killed, stopped, upgraded, taken down.

`make test-compose` runs this; it needs a Docker engine on this machine, with Compose v2, and the base images.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.compose.stack import ROOT, Stack, docker, stack
from tests.servers import wait_for
from tests.system.trainings import PRETRAIN as BODY

pytestmark = [pytest.mark.docker, pytest.mark.timeout(7200)]

RUNNING = ("api", "worker", "reaper", "redis", "postgres")
PICTURES = "digit-pictures"
STEPS = 2640
PRETRAIN = {
    **BODY,
    "dataset": {"name": PICTURES},
    "backbone": {"name": "resnet18", "width": 8, "blocks": [1]},
    "epochs": STEPS // 20,
}
PROBE = {
    "mode": "linear",
    "dataset": {"name": PICTURES},
    "epochs": 200,
    "optimizer": {"name": "adam", "lr": 0.01},
    "augmentation": {"crop_padding": 0, "flip": False},
}
PROMETHEUS_STAND_IN = "clead-test-prometheus"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up without any setting but ports, with a token and a data set of real images."""
    with stack(tmp_path_factory.mktemp("stack")) as made:
        made.make_token()
        with made.http() as client:
            files = {"file": ("pictures.zip", pictures())}
            uploaded = client.post("/datasets", data={"name": PICTURES}, files=files)
            assert uploaded.status_code == 201, uploaded.text
        yield made


def pictures() -> bytes:
    """A zip of PNG files: scikit-learn's scanned digits, 640 to train on and 200 to test on."""
    digits = load_digits()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for index, (image, label) in enumerate(zip(digits.images[:840], digits.target[:840], strict=True)):
            split = "train" if index < 640 else "test"
            archive.writestr(f"{split}/{label}/{index}.png", png(image))
    return content.getvalue()


def png(image: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def unbroken(running: Stack) -> str:
    """SHA-256 of the weights of a pretraining that nothing happened to."""
    job = running.post("/jobs/pretrain", {**PRETRAIN, "register_as": "unbroken"})
    return weights(running, running.wait(job["id"]))


def weights(running: Stack, job: dict[str, Any]) -> str:
    name, version = job["result"]["model"].split("@")
    sha256: str = running.get(f"/models/{name}/versions/{version}")["sha256"]
    return sha256


def test_from_images_to_a_robust_answer_over_http(running: Stack, unbroken: str) -> None:
    probe = {**PROBE, "model": "unbroken", "register_as": "classifier"}
    probed = running.wait(running.post("/jobs/probe", probe)["id"])
    assert probed["result"]["clean_accuracy"] > 0.5
    attacks = [{"name": "fgsm", "eps": 0.1}, {"name": "pgd", "eps": 0.1, "steps": 5, "step_size": 0.03}]
    evaluation = {"model": "classifier", "dataset": {"name": PICTURES, "subset": 50}, "attacks": attacks}
    result = running.wait(running.post("/evaluate", evaluation)["id"])["result"]
    assert [attack["name"] for attack in result["attacks"]] == ["fgsm", "pgd"]
    assert all(attack["robust_accuracy"] <= result["clean_accuracy"] for attack in result["attacks"])

    digits = load_digits()
    images = [("images", (f"{index}.png", png(digits.images[index]))) for index in range(840, 860)]
    with running.http() as client:
        answer = client.post("/classify?model=classifier", files=images).raise_for_status().json()
    labels = [prediction["label"] for prediction in answer["predictions"]]
    right = sum(label == str(digits.target[840 + index]) for index, label in enumerate(labels))
    assert right >= 10, labels


def test_sigkill_of_every_container_in_one_pretraining(running: Stack, unbroken: str) -> None:
    """Each dies in the middle and is started again by its restart policy; the weights are those of an unbroken run."""
    job_id = running.post("/jobs/pretrain", {**PRETRAIN, "register_as": "killed"})["id"]
    for turn, service in enumerate(("redis", "worker", "api", "postgres", "reaper"), start=1):
        running.wait_for_step(job_id, turn * STEPS // 10)
        running.crash(service)
    job = running.wait(job_id)
    assert job["attempt"] >= 2, "the worker's death cost an attempt"
    assert weights(running, job) == unbroken


def test_a_graceful_stop_hands_the_job_over(running: Stack, unbroken: str) -> None:
    job_id = running.post("/jobs/pretrain", {**PRETRAIN, "register_as": "handed-over"})["id"]
    running.wait_for_step(job_id, STEPS // 10)
    running.compose("stop", "worker")
    assert running.container("worker")["State"]["ExitCode"] == 0
    job = running.get(f"/jobs/{job_id}")
    assert (job["status"], job["attempt"]) == ("queued", 1)
    ready = running.http().get("/readyz")
    assert ready.status_code == 503 and "worker" in ready.json()["detail"]
    running.up()
    job = running.wait(job_id)
    assert job["attempt"] == 2 and weights(running, job) == unbroken


def test_the_kernel_kills_a_job_that_outgrows_its_container_and_not_the_worker(running: Stack) -> None:
    running.up(CLEAD_WORKER_MEMORY="900m")
    before = running.container("worker")
    large = {"backbone": {"name": "resnet18", "width": 64}, "batch_size": 640, "register_as": "too-large"}
    job = running.wait(running.post("/jobs/pretrain", {**PRETRAIN, **large})["id"], status="failed")
    assert job["attempt"] == 3 and "SIGKILL" in job["error"]["detail"], job
    counts = "/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"  # of cgroups v2 and v1
    told = running.sh("worker", f"cat {counts}", check=False)
    assert re.search(r"^oom_kill [1-9]", told, re.M), told
    running.wait(running.post("/jobs/pretrain", {**PRETRAIN, "epochs": 1, "register_as": "small-enough"})["id"])
    after = running.container("worker")
    assert [after[part] for part in ("Id", "RestartCount")] == [before[part] for part in ("Id", "RestartCount")]
    running.up()


@pytest.mark.parametrize("service", RUNNING)
def test_a_container_has_no_rights_that_it_does_not_need(running: Stack, service: str) -> None:
    assert running.sh(service, "id -u").strip() not in ("", "0")
    capabilities = dict(re.findall(r"^(Cap\w+|NoNewPrivs):\s*(\w+)$", running.sh(service, "cat /proc/1/status"), re.M))
    assert {int(value, 16) for name, value in capabilities.items() if name.startswith("Cap")} == {0}
    assert capabilities["NoNewPrivs"] == "1"
    for folder in ("/", "/etc", "/usr/bin", "/venv" if service in ("api", "worker", "reaper") else "/var/lib"):
        refused = running.sh(service, f"touch {folder}/x", check=False)
        assert refused.startswith("1\n") and "Read-only file system" in refused, refused
    host = running.container(service)["HostConfig"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0 and host["ReadonlyRootfs"]


def test_nothing_is_published_beyond_this_machine(running: Stack) -> None:
    for service in RUNNING:
        bindings = running.container(service)["NetworkSettings"]["Ports"]
        addresses = {binding["HostIp"] for published in bindings.values() for binding in published or []}
        assert addresses == ({"127.0.0.1"} if service == "api" else set())
    assert httpx.get(f"http://127.0.0.1:{running.ports['CLEAD_PORT']}/jobs").status_code == 401


def test_servers_are_on_networks_that_lead_nowhere(running: Stack) -> None:
    for service in ("redis", "postgres", "reaper"):
        networks = running.container(service)["NetworkSettings"]["Networks"]
        assert networks and all(json.loads(docker("network", "inspect", name))[0]["Internal"] for name in networks)


def test_a_backup_brings_everything_back(running: Stack, unbroken: str) -> None:
    """The commands of the manual, after which every volume is lost."""
    dump = running.folder / "clead.dump"
    data = running.folder / "clead-data.tgz"
    running.pipe("exec", "-T", "postgres", "pg_dump", "-U", "clead", "-Fc", "clead", output=dump)
    running.pipe("exec", "-T", "api", "tar", "-C", "/data", "-cz", ".", output=data)
    running.compose("down", "--volumes")
    running.up()
    assert running.http().get("/models").status_code == 401, "nothing is known there, not even the token"
    database = ["exec", "-T", "postgres"]
    running.compose(*database, "psql", "-U", "clead", "-c", "CREATE TABLE of_a_later_version ()")
    running.compose("stop", "api", "worker", "reaper")
    running.compose(*database, "dropdb", "-U", "clead", "--force", "clead")
    running.compose(*database, "createdb", "-U", "clead", "clead")
    running.pipe(*database, "pg_restore", "-U", "clead", "-d", "clead", input=dump)
    running.pipe("run", "--rm", "-T", "--no-deps", "api", "tar", "-C", "/data", "-xz", input=data)
    running.up()
    assert "of_a_later_version" not in running.compose(*database, "psql", "-U", "clead", "-c", "\\dt")
    assert running.get("/models/unbroken/versions/1")["sha256"] == unbroken
    with running.http() as client:
        weights = client.get("/models/unbroken/versions/1/weights").raise_for_status().content
    assert hashlib.sha256(weights).hexdigest() == unbroken


def test_down_and_up_again_keeps_the_data(running: Stack, unbroken: str) -> None:
    """Without -v; as after a change of the image, every container is new. The token and the password still fit."""
    running.compose("down")
    running.up()
    assert running.get("/models/unbroken/versions/1")["sha256"] == unbroken
    assert PICTURES in {item["name"] for item in running.get("/datasets")["items"]}


def test_another_password_is_told_to_the_database(running: Stack) -> None:
    """By the next `up`, also one that goes on where an earlier one was cut off; then the variable may be left out."""
    before = running.sh("api", "cat /run/secrets/postgres_password")
    started = [running.container(service)["State"]["StartedAt"] for service in ("api", "worker", "reaper")]
    running.up(POSTGRES_PASSWORD="n3w p@ss/word")
    again = [running.container(service)["State"]["StartedAt"] for service in ("api", "worker", "reaper")]
    assert all(now > then for then, now in zip(started, again, strict=True)), "whoever has the old one starts anew"
    assert running.sh("api", "cat /run/secrets/postgres_password") == "n3w p@ss/word"
    assert running.get("/readyz")["status"] == "ready"
    assert "password authentication failed" in login(running, before)
    told = "ALTER ROLE clead PASSWORD 'another-one'"
    running.compose("exec", "-T", "postgres", "psql", "-U", "clead", "-c", told)
    running.up(POSTGRES_PASSWORD="another-one")
    running.up()
    assert running.sh("api", "cat /run/secrets/postgres_password") == "another-one"
    assert running.get("/readyz")["status"] == "ready"
    assert login(running, "another-one").startswith("0\n")


def login(running: Stack, password: str) -> str:
    """What a login by TCP answers."""
    connect = "import os, psycopg; psycopg.connect(host='postgres', user='clead', password=os.environ['TRIED'])"
    return running.compose("exec", "-T", "-e", f"TRIED={password}", "api", "python", "-c", connect, check=False)


def test_monitoring_shows_workers_tasks_and_metrics(running: Stack) -> None:
    """Flower from our image; Prometheus by Debian's package, with the configuration and the rights of the real one."""
    docker(
        "build", "--tag", PROMETHEUS_STAND_IN, "--file", str(ROOT / "tests/compose/prometheus.Dockerfile"), str(ROOT)
    )
    running.up("--profile", "monitoring", CLEAD_PROMETHEUS_IMAGE=PROMETHEUS_STAND_IN)
    flower = f"http://127.0.0.1:{running.ports['CLEAD_FLOWER_PORT']}"
    prometheus = f"http://127.0.0.1:{running.ports['CLEAD_PROMETHEUS_PORT']}"

    running.wait(running.post("/jobs/pretrain", {**PRETRAIN, "epochs": 1, "register_as": "watched"})["id"])
    wait_for(lambda: "task-succeeded" in httpx.get(f"{flower}/metrics").text, seconds=300, what="a task in Flower")
    (worker,) = httpx.get(f"{flower}/workers?json=1").json()["data"]
    assert worker["status"] is True and worker["task-succeeded"] == 1
    assert httpx.post(f"{flower}/api/task/async-apply/clead.run_job", json={}).status_code == 401

    def healthy() -> bool:
        targets = httpx.get(f"{prometheus}/api/v1/targets").json()["data"]["activeTargets"]
        health = {target["labels"]["job"]: target["health"] for target in targets}
        return health == {"api": "up", "worker": "up", "flower": "up"}

    wait_for(healthy, seconds=300, what="Prometheus's targets")

    def counted() -> bool:
        query = {"query": 'max(clead_jobs_finished{status="succeeded"})'}
        found = httpx.get(f"{prometheus}/api/v1/query", params=query).json()["data"]["result"]
        return [float(series["value"][1]) >= 1 for series in found] == [True]

    wait_for(counted, seconds=300, what="the finished job in Prometheus")  # the API counts again once a minute
    for service in ("flower", "prometheus"):
        assert running.container(service)["HostConfig"]["ReadonlyRootfs"]
        assert running.sh(service, "id -u").strip() not in ("", "0")


def test_the_logs_carry_no_secret(running: Stack) -> None:
    """Last but one: of every container that ran here."""
    logs = running.logs()
    password = running.sh("api", "cat /run/secrets/postgres_password")
    key = running.sh("api", "cat /data/secret.key")
    assert "worker" in logs and "postgres" in logs
    for secret in (password, key, running.token, "n3w p@ss/word"):
        assert len(secret) >= 8 and secret not in logs
    settings = running.compose("exec", "-T", "api", "clead", "settings")
    assert password not in settings and key not in settings
    environment = json.dumps([running.container(service)["Config"] for service in RUNNING])
    assert password not in environment and key not in environment


def test_the_gpu_worker_as_compose_reads_it(running: Stack) -> None:
    """There is no GPU here: what is asked of the engine is checked instead."""
    settings = {"CLEAD_GPUS": "2", "TORCH_INDEX_URL_GPU": "https://torch.example/cu130"}
    config = json.loads(running.compose("--profile", "gpu", "config", "--format", "json", **settings))
    gpu, cpu = config["services"]["worker-gpu"], config["services"]["worker"]
    devices = [{"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}]
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == devices
    assert gpu["build"]["args"]["TORCH_INDEX_URL"] == settings["TORCH_INDEX_URL_GPU"] and gpu["image"] != cpu["image"]
    assert cpu["build"]["args"]["TORCH_INDEX_URL"] == ""
    assert gpu["environment"]["CLEAD_DEVICE"] == "cuda:0"
    for shared in ("volumes", "networks", "user", "read_only", "cap_drop", "security_opt", "healthcheck", "depends_on"):
        assert gpu[shared] == cpu[shared]


def test_two_gpus_as_the_manual_says() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (override,) = re.findall(r"```\n(services:\n.*?)```", manual, re.S)
    command = ["docker", "compose", "-f", "docker-compose.yml", "-f", "-", "--profile", "gpu", "config"]
    environment = os.environ | {"CLEAD_GPUS": "all"}
    done = subprocess.run(
        [*command, "--format", "json"], input=override, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    devices = {name: services[name]["environment"]["CLEAD_DEVICE"] for name in ("worker-gpu", "worker-gpu-1")}
    assert devices == {"worker-gpu": "cuda:0", "worker-gpu-1": "cuda:1"}
    all_of_them = [{"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}]
    assert services["worker-gpu-1"]["deploy"]["resources"]["reservations"]["devices"] == all_of_them
