"""Tokens and models: the key is safe, the weights are there, what an alias names can be served."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from sqlalchemy import select

from app.doctor.findings import Finding, Site, failed, ok, warning
from app.errors import DomainError
from app.records import ModelAlias, ModelVersion
from app.services import models
from app.services import tokens as token_service
from app.serving.engine import Engine
from app.storage import Storage

SHORTEST_KEY = 32
SHOWN = 5


def tokens(site: Site) -> Iterator[Finding]:
    """Whoever reaches the service needs a token, unless only this machine does."""
    with site.opened_database().session() as session:
        required = token_service.required(session)
    host = site.settings.host
    if required:
        yield ok("tokens", "requests need a token")
    elif _is_loopback(host):
        yield ok("tokens", "there is none; the service answers this machine alone")
    else:
        detail = f"there is none, so that nobody is answered on {host} but this machine"
        yield warning("tokens", detail, advice="clead token create --name me --scope admin")


def secret_key(site: Site) -> Iterator[Finding]:
    """The key of the tokens' hashes: there once it is needed, and nobody else's to read."""
    given = site.settings.secret_key.get_secret_value()
    path = site.settings.home / "secret.key"
    if given:
        if len(given) < SHORTEST_KEY:
            advice = f"take {SHORTEST_KEY} random characters or more; all tokens must be made anew with it"
            yield warning("secret key", f"CLEAD_SECRET_KEY has {len(given)} characters only", advice=advice)
        else:
            yield ok("secret key", "CLEAD_SECRET_KEY is set")
    elif path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield failed("secret key", f"{path} has mode {mode:o}: others may read it", advice=f"chmod 600 {path}")
        else:
            yield ok("secret key", f"{path} is this user's alone")
    else:
        with site.opened_database().session() as session:
            needed = token_service.required(session)
        if needed:
            advice = "bring the file from the machine where the tokens were made, or set CLEAD_SECRET_KEY"
            yield failed("secret key", f"there are tokens, but {path}, which they need, is missing", advice=advice)
        else:
            yield ok("secret key", "it is made with the first token")


def weights(site: Site) -> Iterator[Finding]:
    """Every model version's weights are in the storage, whole; with ``deep`` their hashes are compared."""
    with site.opened_database().session() as session:
        versions = list(session.scalars(select(ModelVersion).order_by(ModelVersion.name, ModelVersion.version)))
    if not versions:
        yield ok("weights", "no model is registered")
        return
    storage = site.opened_storage()
    wrong: dict[str, str | None] = {}
    for version in versions:
        if version.sha256 not in wrong:
            wrong[version.sha256] = _damage(storage, version, deep=site.deep)
    damaged = [f"{each.reference} {wrong[each.sha256]}" for each in versions if wrong[each.sha256] is not None]
    if damaged:
        more = f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
        advice = "bring them back from a backup, run their jobs again, or delete these versions"
        yield failed("weights", f"{'; '.join(damaged[:SHOWN])}{more}", advice=advice)
    else:
        how = "and their hashes are right" if site.deep else "with the right sizes (--deep compares the hashes)"
        yield ok("weights", f"those of {len(versions)} versions are in the storage {how}")


def aliases(site: Site) -> Iterator[Finding]:
    """What carries an alias can be loaded and answers, as the API would have it."""
    with site.opened_database().session() as session:
        named = [(alias.name, alias.alias) for alias in session.scalars(select(ModelAlias).order_by(ModelAlias.name))]
        versions = {f"{name}@{alias}": models.resolve(session, f"{name}@{alias}") for name, alias in named}
    if not versions:
        yield ok("aliases", "no model has an alias")
        return
    engine = Engine(site.settings, site.opened_storage())
    try:
        for reference, version in versions.items():
            try:
                engine.get(version)
            except (DomainError, RuntimeError) as error:
                detail = f"{reference} ({version.reference}) cannot be served: {error}"
                yield failed("aliases", detail, advice="move the alias to another version: PUT /models/NAME/aliases/…")
            else:
                yield ok("aliases", f"{reference} ({version.reference}) loads and answers")
    finally:
        engine.close()


def _damage(storage: Storage, version: ModelVersion, *, deep: bool) -> str | None:
    """What is wrong with the weights; None: nothing."""
    size = storage.size(version.sha256)
    if size is None:
        return "is missing"
    if size != version.size:
        return f"has {size} bytes instead of {version.size}"
    if deep:
        with tempfile.TemporaryDirectory(prefix="clead-doctor-") as folder:
            try:
                storage.fetch(version.sha256, Path(folder) / "weights")
            except DomainError:
                return "is damaged: its hash is another"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
