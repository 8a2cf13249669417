"""The page at `/`: jobs and models, read from the same JSON API that clients use."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent
_TEMPLATES = Jinja2Templates(_FOLDER / "templates")
_HEADERS = {
    # Whatever a label or a model's name may hold, no script but our own runs, and nothing is fetched from elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/", response_class=HTMLResponse)
def index(request: Request) -> HTMLResponse:
    """Jobs and models; the tables are filled by static/page.js."""
    return _TEMPLATES.TemplateResponse(request, "index.html", {"version": version("clead")}, headers=_HEADERS)


def mount_static(app: FastAPI) -> None:
    """Serve the page's own style and script; it uses nothing from elsewhere."""
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"), name="static")
