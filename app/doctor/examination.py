"""All checks, in an order in which the later ones use what the earlier ones reached."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from app.doctor import broker, database, machine, registry, service, storage, work
from app.doctor.findings import Check, Finding, NotReachedError, Site, failed
from app.redaction import Redactor

CHECKS: tuple[Check, ...] = (
    machine.home,
    machine.disk,
    machine.device,
    database.database,
    database.clock,
    broker.broker,
    storage.storage,
    registry.tokens,
    registry.secret_key,
    registry.weights,
    registry.aliases,
    work.workers,
    work.abandoned_jobs,
    work.waiting_jobs,
    service.api,
)


def examine(site: Site) -> list[Finding]:
    """Every finding; no text in them holds a password."""
    redact = Redactor(site.settings.secrets)
    try:
        findings = [finding for check in CHECKS for finding in _findings(check, site)]
    finally:
        if site.database is not None:
            site.database.close()
    return [replace(finding, detail=redact(finding.detail)) for finding in findings]


def _findings(check: Check, site: Site) -> list[Finding]:
    name = check.__name__.replace("_", " ")
    try:
        return list(check(site))
    except NotReachedError as error:
        return [Finding(name, "skipped", f"not looked at without the {error}")]
    except OSError as error:
        return [failed(name, f"cannot be looked at: {error}", advice="give this user the right to read it")]
    except SQLAlchemyError as error:
        detail = f"the database failed: {type(error).__name__}"
        return [failed(name, detail, advice="see the database's own log; run clead doctor again")]
