#!/usr/bin/env python3
"""The database's password as files for docker-compose.yml, and in the database itself.

PostgreSQL keeps the password that it was made with; a new value of POSTGRES_PASSWORD alone would only lock the service
out. So ``make`` writes one before there is a database, given or random, and leaves it alone from then on; ``change``
tells the running database first, and then writes it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

USER = DATABASE = "clead"
HOST = "postgres"
PASSWORD_FILE = "postgres_password"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "change"))
    parser.add_argument("--folder", type=Path, default=Path("/run/secrets"))
    options = parser.parse_args()
    kept: Path = options.folder / PASSWORD_FILE
    given = os.environ.get("POSTGRES_PASSWORD", "")
    if options.what == "make":
        if not kept.exists():
            keep(options.folder, given or secrets.token_urlsafe(32))
    elif given and given != kept.read_text(encoding="utf-8"):
        change(kept.read_text(encoding="utf-8"), given)
        keep(options.folder, given)
        print("the database's password is that of POSTGRES_PASSWORD now")
    return 0


def change(old: str, new: str) -> None:
    """Tell the database; it is sent a hash, so that no log of statements can show the password."""
    import psycopg

    login = {"host": HOST, "user": USER, "dbname": DATABASE}
    try:
        connection = psycopg.connect(**login, password=old)
    except psycopg.OperationalError:
        connection = psycopg.connect(**login, password=new)  # it was told before, and what followed was cut off
    with connection:
        verifier = connection.pgconn.encrypt_password(new.encode(), USER.encode(), b"scram-sha-256").decode()
        connection.execute(psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(psycopg.sql.Identifier(USER), verifier))


def keep(folder: Path, password: str) -> None:
    """The password for PostgreSQL, and last, since it decides, the URL for the service; each whole or not at all."""
    url = f"postgresql+psycopg://{USER}:{quote(password, safe='')}@{HOST}/{DATABASE}"
    for name, text in (("clead_database_url", url), (PASSWORD_FILE, password)):
        draft = folder / f".{name}"
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o444)  # who may read it is decided by who mounts the volume
        draft.replace(folder / name)


if __name__ == "__main__":
    sys.exit(main())
