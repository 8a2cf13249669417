"""RFC 9457 problem details: the body of every error answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One thing that is wrong in a request."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) into the body, or /name of a query, path or form field")
    detail: str = Field(description="what was wrong and what would be accepted")


class Problem(BaseModel):
    """An error, as `application/problem+json`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": HTTPStatus(422).phrase,
                "status": 422,
                "detail": "/attacks/0/step: unknown field; did you mean 'steps'?",
                "instance": "/evaluate",
                "errors": [{"pointer": "/attacks/0/step", "detail": "unknown field; did you mean 'steps'?"}],
            }
        }
    )

    type: str = Field("about:blank", description="kind of problem; about:blank: the status says it")
    title: str = Field(description="the kind of problem in a few words")
    status: int = Field(description="the answer's status code")
    detail: str = Field(description="what was wrong and what would be accepted")
    instance: str | None = Field(None, description="path of the request")
    errors: list[FieldError] = Field([], description="where in the request; left out when nowhere")


MEANINGS = {
    400: "The body is not JSON, or not the form that the route takes.",
    401: "A token is needed: `Authorization: Bearer clead_…`.",
    403: "The token's scope does not allow it, or the request comes from where it may not.",
    404: "No such thing.",
    409: "The state does not allow it, or the Idempotency-Key was used with another body.",
    413: "More bytes, images or rows than are accepted.",
    415: "A content type that the route does not take.",
    422: "Well-formed, but it cannot be done; `errors` says where.",
    429: "Over capacity; try again after the seconds in `Retry-After`.",
    500: "An error inside the service.",
    503: "Something that the route needs is missing; `Retry-After` says when to try again.",
    507: "The service's disk is full; nothing was kept.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route: every status with the problem body and its meaning."""
    schema = {"$ref": "#/components/schemas/Problem"}
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        documented[status] = {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        if status in {429, 503}:
            documented[status]["headers"] = {
                "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            }
    return documented
