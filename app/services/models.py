"""The model registry: versions, aliases, references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.records import UNFINISHED, Job, Model, ModelAlias, ModelVersion, utc_now
from app.records.upsert import insert
from app.services.paging import DEFAULT_LIMIT, Page, make_cursor, read_cursor, take_limit
from app.services.tokens import Principal

_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[0-9]+")


def register_version(
    session: Session,
    *,
    name: str,
    sha256: str,
    size: int,
    card: Mapping[str, Any],
    job_id: str | None = None,
    account: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Writing. Add the next version of ``name`` (made if new, for ``account``) for weights that lie in the storage."""
    model = session.get(Model, name, with_for_update=True)
    if model is None:
        model = Model(name=name, next_version=1, account=account)
        session.add(model)
    version = ModelVersion(
        name=name,
        version=model.next_version,
        sha256=sha256,
        size=size,
        card=dict(card),
        job_id=job_id,
        metrics=dict(metrics or {}),
    )
    model.next_version += 1
    session.flush()  # the model's row first: the version's foreign key needs it
    session.add(version)
    session.flush()
    return version


def reserve(session: Session, name: str, *, asking: Principal) -> bool:
    """Writing. Whether ``asking`` may add versions to ``name``; a new name is theirs from now on.

    So two accounts whose jobs both want a new name do not meet in it when the jobs end.
    """
    new = insert(session, Model).values(name=name, next_version=1, account=asking.account, created_at=utc_now())
    session.execute(new.on_conflict_do_nothing())
    return asking.owns(session.get_one(Model, name, populate_existing=True).account)


def resolve(session: Session, reference: str) -> ModelVersion:
    """The version that ``name`` (its newest), ``name@version`` or ``name@alias`` means; NotFoundError."""
    name, _, selector = reference.partition("@")
    if not selector:
        newest = select(ModelVersion).where(ModelVersion.name == name).order_by(ModelVersion.version.desc()).limit(1)
        found = session.scalars(newest).first()
    elif selector.isascii() and selector.isdigit():
        found = session.get(ModelVersion, (name, int(selector))) if len(selector) < 10 else None
    else:
        alias = session.get(ModelAlias, (name, selector))
        found = session.get(ModelVersion, (name, alias.version)) if alias else None
    if found is None:
        raise NotFoundError(f"there is no model {reference!r}; {_known(session, name)}")
    return found


def _known(session: Session, name: str) -> str:
    versions = list(session.scalars(select(ModelVersion.version).where(ModelVersion.name == name)))
    aliases = list(session.scalars(select(ModelAlias.alias).where(ModelAlias.name == name)))
    if versions:
        return f"{name} has {', '.join([*(str(version) for version in sorted(versions)), *sorted(aliases)])}"
    names = list(session.scalars(select(Model.name).where(_has_versions()).order_by(Model.name).limit(20)))
    return f"registered: {', '.join(names)}" if names else "no model is registered yet"


def _has_versions() -> Any:
    return exists().where(ModelVersion.name == Model.name)


def get_version(session: Session, name: str, version: int) -> ModelVersion:
    """That version; NotFoundError."""
    return resolve(session, f"{name}@{version}")


def list_models(session: Session, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[str]:
    """Names with at least one version, newest model first."""
    query = select(Model).where(_has_versions()).order_by(Model.created_at.desc(), Model.name.desc())
    if cursor is not None:
        after = session.get(Model, read_cursor(cursor)[0])
        if after is not None:
            older = Model.created_at < after.created_at
            query = query.where(or_(older, (Model.created_at == after.created_at) & (Model.name < after.name)))
    found = list(session.scalars(query.limit(take_limit(limit) + 1)))
    items = [model.name for model in found[:limit]]
    return Page(items, make_cursor(items[-1]) if len(found) > limit else None)


def list_versions(session: Session, name: str) -> list[ModelVersion]:
    """Every version of ``name``, newest first; NotFoundError if there is none."""
    query = select(ModelVersion).where(ModelVersion.name == name).order_by(ModelVersion.version.desc())
    found = list(session.scalars(query))
    if not found:
        raise NotFoundError(f"there is no model {name!r}; {_known(session, name)}")
    return found


def list_aliases(session: Session, name: str) -> dict[str, int]:
    """Alias → version of ``name``."""
    query = select(ModelAlias).where(ModelAlias.name == name).order_by(ModelAlias.alias)
    return {alias.alias: alias.version for alias in session.scalars(query)}


def find_alias(session: Session, alias: str) -> list[ModelVersion]:
    """The versions that carry ``alias``, one a model at most, the alias of the name that sorts first leading."""
    query = (
        select(ModelVersion)
        .join(ModelAlias, (ModelAlias.name == ModelVersion.name) & (ModelAlias.version == ModelVersion.version))
        .where(ModelAlias.alias == alias)
        .order_by(ModelVersion.name)
    )
    return list(session.scalars(query))


def set_alias(session: Session, name: str, *, alias: str, version: int) -> ModelAlias:
    """Writing. Let ``name@alias`` mean ``version``; NotFoundError, ConflictError for an alias made of digits."""
    if alias.isdigit():
        raise ConflictError(f"alias {alias!r} would read as a version number; give it a letter")
    get_version(session, name, version)
    found = session.get(ModelAlias, (name, alias), with_for_update=True)
    if found is None:
        found = ModelAlias(name=name, alias=alias, version=version)
        session.add(found)
    found.version = version
    session.flush()
    return found


def delete_alias(session: Session, name: str, *, alias: str) -> None:
    """Writing. Forget ``name@alias``; NotFoundError."""
    found = session.get(ModelAlias, (name, alias))
    if found is None:
        raise NotFoundError(f"model {name!r} has no alias {alias!r}")
    session.delete(found)
    session.flush()


def delete_version(session: Session, name: str, *, version: int) -> str:
    """Writing. Forget a version. ConflictError while an alias or an unfinished job needs it.

    Returns the sha256 of its weights, for :func:`app.services.artifacts.delete_unused` after the commit.
    """
    found = get_version(session, name, version)
    _delete(session, name, [found])
    return found.sha256


def delete_model(session: Session, name: str) -> list[str]:
    """Writing. Forget every version of ``name``; returns the hashes of their weights, as :func:`delete_version`."""
    versions = list_versions(session, name)
    _delete(session, name, versions)
    session.execute(delete(ModelAlias).where(ModelAlias.name == name))
    return [version.sha256 for version in versions]


def _delete(session: Session, name: str, versions: Sequence[ModelVersion]) -> None:
    """Writing. Forget these versions of ``name``, unless one of them is needed."""
    aliases = list_aliases(session, name)
    users = _unfinished_users(session)
    for version in versions:
        carried = [alias for alias, number in aliases.items() if number == version.version]
        if carried:
            raise ConflictError(f"{version.reference} carries the alias {', '.join(carried)}; move or delete it first")
        if version.reference in users:
            job_id = users[version.reference]
            raise ConflictError(f"{version.reference} is needed by the unfinished job {job_id}; cancel it first")
        session.delete(version)
    session.flush()


def _unfinished_users(session: Session) -> dict[str, str]:
    """Reference of every model that the spec of a queued or running job names → id of one such job."""
    unfinished = session.execute(select(Job.id, Job.spec).where(UNFINISHED))
    return {reference: job_id for job_id, spec in unfinished for reference in references(spec).values()}


def references(spec: Mapping[str, Any]) -> dict[str, str]:
    """The models that a resolved spec names: path (``model``, ``attacks/1/source``) → name@version.

    Whatever the kind of job: a resolved spec pins its models, and none of its other texts looks like name@version.
    """
    return dict(_pinned(spec, ()))


def _pinned(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _pinned(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _pinned(item, (*path, str(index)))
    elif isinstance(value, str) and _PINNED.fullmatch(value):
        yield "/".join(path), value
