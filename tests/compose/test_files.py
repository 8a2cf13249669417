"""What can be said of docker-compose.yml, the Dockerfile and .env.example without Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"secrets", "migrate", "prometheus-token"}
each_service = pytest.mark.parametrize("name", SERVICES)


def test_it_is_a_compose_file() -> None:
    """By the schema of the Compose specification, which check-jsonschema carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_services_and_their_profiles() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert {name for name, wanted in profiles.items() if not wanted} == {
        *("secrets", "migrate", "api", "worker", "reaper", "redis", "postgres"),
    }
    assert profiles["worker-gpu"] == ["gpu"]
    assert profiles["flower"] == profiles["prometheus"] == profiles["prometheus-token"] == ["monitoring"]


@each_service
def test_a_service_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, group = service["user"].split(":")
    assert int(user) > 0 and int(group) > 0
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"] and limits["pids"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@each_service
def test_a_service_is_started_again_or_waited_for(name: str) -> None:
    """`up --wait` takes the end of a one-shot for a failure unless another service waits for it."""
    service = SERVICES[name]
    if name not in ONE_SHOT:
        assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"]
        return
    assert service["restart"] == "no"
    conditions = [other.get("depends_on", {}).get(name, {}).get("condition") for other in SERVICES.values()]
    assert "service_completed_successfully" in conditions


@each_service
def test_dependencies_say_what_they_wait_for(name: str) -> None:
    """Later versions of Compose start dependents of a new container anew only where that is asked for."""
    for wanted, how in SERVICES[name].get("depends_on", {}).items():
        condition = "service_completed_successfully" if wanted in ONE_SHOT else "service_healthy"
        anew = {"restart": True} if wanted == "migrate" and name not in ONE_SHOT else {}
        assert how == {"condition": condition, **anew}


@each_service
def test_keys_of_the_storage_are_where_it_is_read(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    assert ("AWS_SECRET_ACCESS_KEY" in environment) == (name in ("api", "worker", "worker-gpu"))


@each_service
def test_ports_are_published_on_this_machine_alone_unless_asked(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.match(r"\$\{CLEAD_BIND\w*:-127\.0\.0\.1\}:", port)


def test_servers_are_reached_by_inner_networks_alone() -> None:
    assert all(COMPOSE["networks"][name]["internal"] for name in ("database", "broker"))
    for name, network in (("postgres", "database"), ("redis", "broker")):
        assert SERVICES[name]["networks"] == [network] and "ports" not in SERVICES[name]


def test_volumes_are_named() -> None:
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert used == set(COMPOSE["volumes"])


def test_the_example_lists_every_variable_and_sets_none() -> None:
    """No variable is required, so none lacks a default, and there is no default password."""
    read = dict(re.findall(r"\$\{(\w+)(:-[^}]*|[^}]*)\}", TEXT))
    assert all(default.startswith(":-") for default in read.values()), read
    assert read["POSTGRES_PASSWORD"] == read["CLEAD_SECRET_KEY"] == ":-"
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = dict(match.groups() for line in lines if (match := re.match(r"# (\w+)=(.*)", line)))
    read |= dict.fromkeys(re.findall(r"^  (AWS_\w+):$", TEXT, re.M), "")  # handed on if they are set
    assert listed == {name: default.removeprefix(":-") for name, default in read.items()}
    assert all(not line or line.startswith("#") for line in lines)


def test_one_dockerfile_that_an_old_builder_reads_without_a_registry() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"python:3.11-slim-bookworm", "build"}
    assert not re.search(r"# *syntax *=|<<|--link", text)
    assert "ARG TORCH_INDEX_URL" in text and "USER 1000:1000" in text
