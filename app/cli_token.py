"""`clead token`: make, list and revoke API tokens, in the database that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import security
from app.errors import NotFoundError
from app.records import utc_now
from app.records.session import Database
from app.services import tokens
from app.settings import Settings, settings_or_exit

token_commands = typer.Typer(no_args_is_help=True, help="Make, list and revoke API tokens.")
console = Console()


class Scope(StrEnum):
    """What a token allows; each includes those above it."""

    CLASSIFY = "classify"
    SUBMIT = "submit"
    ADMIN = "admin"


@token_commands.command()
def create(
    scope: Annotated[Scope, typer.Option(help="classify: infer; submit: run jobs, too; admin: everything")],
    name: Annotated[str, typer.Option(help="the account: tokens of one name own the same jobs")],
    days: Annotated[float | None, typer.Option(min=0.001, max=36500, help="until it expires; default: never")] = None,
    requests: Annotated[
        int | None, typer.Option(min=0, help="a minute; 0: no limit [CLEAD_TOKEN_REQUESTS_PER_MINUTE]")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="unfinished; 0: no limit [CLEAD_TOKEN_UNFINISHED_JOBS]")
    ] = None,
    gigabytes: Annotated[
        float | None, typer.Option(min=0, help="stored; 0: no limit [CLEAD_TOKEN_STORED_BYTES]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="revoke the account's other tokens of this scope")] = False,
) -> None:
    """Make a token and print it: this once, since only a hash of it is kept."""
    settings = settings_or_exit()
    if not 1 <= len(name.strip()) <= 100:
        raise typer.BadParameter("a name has 1 to 100 characters", param_hint="--name")
    lifetime = None if days is None else timedelta(days=days)
    with _database(settings) as database, database.writing() as session:
        key = security.secret_key(settings)
        record, token = tokens.create(
            session,
            name=name.strip(),
            scope=scope.value,
            key=key,
            lifetime=lifetime,
            requests_per_minute=requests,
            unfinished_jobs=jobs,
            stored_bytes=None if gigabytes is None else round(gigabytes * 1e9),
        )
        if replace:
            tokens.revoke_others(session, record)
    Console(stderr=True).print(
        f"token {record.id} of {escape(repr(record.name))}, scope {record.scope}, {_until(record.expires_at)}. "
        "It is shown this once; every request to this service needs one from now on.",
        highlight=False,
    )
    print(token)


@token_commands.command("list")
def list_tokens() -> None:
    """Every token that was made, with its last use."""
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=32)  # `clead token revoke` takes all of it
    for heading in ("name", "scope", "begins", "last used (UTC)", "state"):
        table.add_column(heading, overflow="fold")
    with _database(settings_or_exit()) as database, database.session() as session:
        for record in tokens.listed(session):
            state = "revoked" if record.revoked_at else _until(record.expires_at)
            used = f"{record.used_at:%Y-%m-%d %H:%M}" if record.used_at else "never"
            table.add_row(record.id, escape(record.name), record.scope, record.hint, used, state)
    console.print(table)


@token_commands.command()
def revoke(token_id: Annotated[str, typer.Argument(help="id of the token, from `clead token list`")]) -> None:
    """Refuse a token from the next request on."""
    try:
        with _database(settings_or_exit()) as database, database.writing() as session:
            record = tokens.revoke(session, token_id)
    except NotFoundError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(error.detail)}", highlight=False)
        raise typer.Exit(1) from None
    console.print(f"token {record.id} of {escape(repr(record.name))} is revoked")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    from migrations import NewerSchemaError, upgrade

    try:
        upgrade(settings)
    except NewerSchemaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None
    database = Database(settings.database_url)
    try:
        yield database
    finally:
        database.close()


def _until(expires: datetime | None) -> str:
    if expires is None:
        return "good until revoked"
    return f"good until {expires:%Y-%m-%d %H:%M} UTC" if expires > utc_now() else "expired"
