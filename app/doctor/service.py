"""The API at an address: it answers, is ready, and is of this version."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import httpx

from app.doctor.findings import Finding, Site, failed, ok, warning

SECONDS = 20.0


def api(site: Site) -> Iterator[Finding]:
    """Looked at only if an address is given."""
    if site.url is None:
        return
    try:
        with httpx.Client(base_url=site.url, timeout=SECONDS) as client:
            ready, theirs = client.get("/readyz"), client.get("/version")
            detail, their_version = str(ready.json()["detail"]), str(theirs.json()["version"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield failed("api", f"{site.url} does not answer: {error}", advice="is it started, and is the address right?")
        return
    except (ValueError, KeyError, TypeError):
        yield failed("api", f"what answers at {site.url} is not this service", advice="check the address")
        return
    if ready.status_code == 200:
        yield ok("api", f"{site.url} is ready")
    else:
        yield failed("api", f"{site.url} is not ready: {detail}", advice="what is missing is named here")
    ours = version("clead")
    if their_version != ours:
        yield warning("api", f"it is version {their_version}, this is {ours}", advice="update the older of the two")
