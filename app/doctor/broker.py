"""The broker: it answers, and does not throw messages away when it runs full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from app.doctor.findings import Finding, Site, failed, ok, warning
from app.queue import broker_folder, broker_reachable, create_celery
from app.settings import Settings

ADVICE = "check CLEAD_BROKER_URL, and that the server runs; meanwhile jobs wait in the database and nothing is lost"
SECONDS = 3.0


def broker(site: Site) -> Iterator[Finding]:
    """A round trip; of Redis also its version, its eviction policy and what it keeps."""
    scheme = urlsplit(site.settings.broker_url).scheme
    if scheme == "filesystem":
        yield from _folder(site.settings)
    elif scheme in ("redis", "rediss"):
        yield from _redis(site.settings.broker_url)
    else:
        yield from _other(site.settings)


def _folder(settings: Settings) -> Iterator[Finding]:
    messages = broker_folder(settings) / "messages"
    if not messages.is_dir():
        yield failed("broker", f"{messages} is missing", advice="clead serve makes it; or set CLEAD_BROKER_URL")
    elif not os.access(messages, os.W_OK | os.X_OK):
        yield failed("broker", f"{messages} cannot be written to", advice="give this user the folder")
    else:
        yield ok("broker", f"{messages} can be written to; {len(list(messages.glob('*.msg')))} messages wait")


def _redis(url: str) -> Iterator[Finding]:
    try:
        import redis

        with redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
            client.ping()
            facts: dict[str, Any] = client.info()
    except ImportError:
        yield failed(
            "broker", "the Redis client is not installed", advice="in the checkout: pip install -e '.[production]'"
        )
        return
    except (redis.RedisError, OSError, ValueError) as error:
        yield failed("broker", f"Redis does not answer: {error}", advice=ADVICE)
        return
    kept = "keeps messages over a restart" if facts.get("aof_enabled") else "may lose messages at a restart, harmlessly"
    yield ok("broker", f"Redis {facts['redis_version']} answers; it {kept}")
    policy = facts.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return
    advice = "set maxmemory-policy to noeviction: messages that are thrown away wait for the reaper, one at a time"
    if facts.get("maxmemory"):
        yield failed("broker", f"Redis throws messages away when it is full (maxmemory-policy {policy})", advice=advice)
    else:
        yield warning("broker", f"maxmemory-policy is {policy}, without a maxmemory yet", advice=advice)


def _other(settings: Settings) -> Iterator[Finding]:
    celery = create_celery(settings)
    try:
        if broker_reachable(celery):
            yield ok("broker", "answers")
        else:
            yield failed("broker", "does not answer", advice=ADVICE)
    finally:
        celery.close()
