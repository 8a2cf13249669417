"""The page at `/`, read from the same JSON API that clients use, and its login."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from app import security
from app.api import access
from app.api.dependencies import Opened, Resources
from app.errors import ForbiddenError, UnauthenticatedError

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent
_SWAGGER = "/static/swagger"
_TEMPLATES = Jinja2Templates(_FOLDER / "templates")
_HEADERS = {
    # Whatever a label or a model's name may hold, no script but our own runs, and nothing is fetched from elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


@router.head("/", include_in_schema=False)
@router.get("/", response_class=HTMLResponse)
def index(request: Request, opened: Opened) -> Response:
    """Jobs and models; the tables are filled by static/page.js."""
    user = None
    if access.tokens_required(opened):
        try:
            user = _signed_in(opened, request.cookies.get(access.COOKIE, ""))
        except (UnauthenticatedError, ForbiddenError):
            return RedirectResponse("/login", 303, headers=_HEADERS)
    values = {"version": version("clead"), "user": user}
    return _TEMPLATES.TemplateResponse(request, "index.html", values, headers=_HEADERS)


@router.get("/docs", response_class=HTMLResponse)
def documentation(request: Request) -> Response:
    """/openapi.json for people, by Swagger UI."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="clead",
        swagger_js_url=f"{root}{_SWAGGER}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{_SWAGGER}/swagger-ui.css",
        swagger_favicon_url=f"{root}{_SWAGGER}/favicon.png",
    )


@router.get("/login", response_class=HTMLResponse)
def login_form(request: Request) -> Response:
    """Where a browser gives its token."""
    return _TEMPLATES.TemplateResponse(request, "login.html", {"trouble": None}, headers=_HEADERS)


@router.post("/login")
def login(request: Request, opened: Opened, *, token: Annotated[str, Form(max_length=200)] = "") -> Response:
    """Keep the token in a cookie that no script can read and no other site's request carries."""
    access.refuse_foreign_pages(request)
    token = token.strip()
    try:
        _signed_in(opened, token)
    except (UnauthenticatedError, ForbiddenError) as error:
        values = {"trouble": error.detail}
        return _TEMPLATES.TemplateResponse(request, "login.html", values, status_code=401, headers=_HEADERS)
    answer = RedirectResponse("/", 303, headers=_HEADERS)
    secure = request.url.scheme == "https"
    answer.set_cookie(access.COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """Forget the cookie; the token itself stays good until it is revoked."""
    access.refuse_foreign_pages(request)
    answer = RedirectResponse("/login", 303, headers=_HEADERS)
    answer.delete_cookie(access.COOKIE, httponly=True, samesite="strict")
    return answer


def _signed_in(opened: Resources, token: str) -> str:
    """The token's name; raises UnauthenticatedError, and ForbiddenError if it may not see jobs."""
    found = access.identify(opened, token)
    if not security.allows(found.scope, "submit"):
        raise ForbiddenError(f"the page shows jobs, which takes a token of scope submit; this one has {found.scope}")
    return found.account or ""


class _Revalidated(StaticFiles):
    """Browsers ask each time whether a file has changed: after an upgrade old and new scripts must not meet."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        answer = super().file_response(*args, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def mount_static(app: FastAPI) -> None:
    """Serve the pages' styles and scripts; they use nothing from elsewhere. Swagger UI's are in fastapi-offline."""
    swagger = Path(str(files("fastapi_offline"))) / "static"
    app.mount(_SWAGGER, StaticFiles(directory=swagger), name="swagger")
    app.mount("/static", _Revalidated(directory=_FOLDER / "static"), name="static")
