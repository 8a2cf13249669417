"""What a real service answers, each kind of job included, against the OpenAPI document: nothing more, nothing less."""

from __future__ import annotations

import pytest

from app.main import create_app
from app.schemas.results import RESULTS
from app.settings import Settings
from tests.contract import Contract
from tests.deployment import Deployment
from tests.system.tour import BINARY, recorded, toured


@pytest.mark.timeout(900)
def test_every_answer_is_what_the_document_tells(laptop: Deployment) -> None:
    contract = Contract(create_app(Settings(home=laptop.settings.home)).openapi())
    tour = toured(laptop)
    wrong, kinds = {}, set()
    for operation, called, status, media_type, value in tour.taken:
        if value is None:
            continue
        errors = contract.answer_errors(value, operation=operation, status=status, media_type=media_type)
        if operation == "GET /jobs/{job_id}" and value["result"] is not None:
            kinds.add(value["kind"])
            shape = {"$ref": f"#/components/schemas/{RESULTS[value['kind']].__name__}"}
            errors = errors or contract.errors(value["result"], shape)
        if errors:
            wrong[operation, called] = errors
    assert wrong == {}
    assert kinds == RESULTS.keys(), "one of each kind was seen"
    operations = {f"{method.upper()} {path}" for path, found in contract.document["paths"].items() for method in found}
    assert {one.operation for one in tour.taken} == operations
    binary = {one.operation for one in tour.taken if one.media_type in BINARY or one.status == 204}
    assert recorded(tour).keys() == operations - binary
