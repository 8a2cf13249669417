"""`clead prune`: remove what is old, and what nobody needs, from the database and storage that the settings name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from sqlalchemy.exc import OperationalError

from app.errors import DomainError
from app.records.session import Database
from app.services.prune import SAFETY_AGE, Pruned, Pruner
from app.settings import settings_or_exit
from app.storage import Storage

console = Console()
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_age(text: str) -> timedelta:
    """``90m``, ``36h``, ``14d``, ``2w``."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age; write it like 36h, 14d or 12w")
    return int(found[1]) * _UNITS[found[2]]


def _age(help: str) -> Any:
    return typer.Option(parser=parse_age, metavar="AGE", help=help)


def prune(
    checkpoints_older_than: Annotated[
        timedelta | None, _age("checkpoints of jobs that failed or were cancelled longer ago; a resume begins at zero")
    ] = None,
    examples_older_than: Annotated[
        timedelta | None, _age("pictures and pixels of evaluations that ended longer ago")
    ] = None,
    idempotency_keys_older_than: Annotated[
        timedelta | None, _age("a request that repeats such a key is done again")
    ] = None,
    unreferenced: Annotated[
        bool,
        typer.Option("--unreferenced", help="files older than 24 h that nothing refers to"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be removed, and remove nothing")] = False,
) -> None:
    """Remove old checkpoints, examples, keys, and what nothing refers to. An AGE is like 36h, 14d, 12w.

    It runs beside the API and any number of workers. Nothing that a model, a data set, or a job that may still run
    refers to is ever removed.
    """
    settings = settings_or_exit()
    database = Database(settings.database_url)
    pruner = Pruner(database, Storage(settings.storage_url), dry_run=dry_run)
    aged: dict[str, tuple[Callable[..., Pruned], timedelta | None]] = {
        "checkpoints": (pruner.checkpoints, checkpoints_older_than),
        "examples": (pruner.examples, examples_older_than),
        "idempotency keys": (pruner.idempotency_keys, idempotency_keys_older_than),
        "unreferenced": (pruner.unreferenced, SAFETY_AGE if unreferenced else None),
    }
    steps = [(name, remove, age) for name, (remove, age) in aged.items() if age is not None]
    if not steps:
        raise typer.BadParameter("say what to prune; see clead prune --help")
    from migrations import NewerSchemaError, refuse_newer  # here: no other command of this module's needs Alembic

    try:
        refuse_newer(database)
        for name, remove, age in steps:
            console.print(_told(name, remove(older_than=age), dry_run=dry_run), highlight=False)
    except NewerSchemaError as error:  # what only that version's columns name would look unused
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None
    except (DomainError, OperationalError) as error:
        cause = error.orig if isinstance(error, OperationalError) else error
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(cause))}; run it again to go on", highlight=False)
        raise typer.Exit(1) from None
    finally:
        database.close()


def _told(name: str, pruned: Pruned, *, dry_run: bool) -> str:
    verb = "would remove" if dry_run else "removed"
    if name == "idempotency keys":
        return f"{name}: {verb} {pruned.rows}"
    return f"{name}: {verb} {pruned.files} files of {pruned.jobs} jobs, {decimal(pruned.bytes)}"
