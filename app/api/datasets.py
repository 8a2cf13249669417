"""Data sets: the built-in ones, and uploads."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile, status
from sqlalchemy.orm import Session

from app.api.access import Asking, needs
from app.api.dependencies import FIRST_PAGE, Cursor, DatasetName, IdempotencyKey, Limit, Opened, Resources
from app.api.idempotency import once
from app.api.requests import StrictRoute
from app.errors import FieldError, InvalidSpecError
from app.folders import work_folder
from app.schemas.catalog import DatasetPage, DatasetView
from app.schemas.problems import problem_responses
from app.services import datasets, quotas
from app.services.artifacts import Deposit
from app.services.paging import make_cursor, read_cursor
from models.data import DataError, UploadSummary, check_upload
from models.references import Name

router = APIRouter(prefix="/datasets", tags=["data sets"], route_class=StrictRoute)

CHUNK = 1024 * 1024


@router.get("", response_model=DatasetPage, summary="List data sets", responses=problem_responses(422))
def list_datasets(opened: Opened, asking: Asking, *, limit: Limit = FIRST_PAGE, cursor: Cursor = None) -> Any:
    """Your uploads, newest first, then the built-in ones."""
    with opened.database.session() as session:
        found = datasets.list_datasets(session, asking=asking)
    if cursor is not None:
        after = read_cursor(cursor)[0]
        names = [info.name for info in found]
        found = found[names.index(after) + 1 :] if after in names else []
    items = found[:limit]
    next_cursor = make_cursor(items[-1].name) if len(found) > limit else None
    return DatasetPage(items=[DatasetView.of(info) for info in items], next_cursor=next_cursor)


@router.get("/{name}", response_model=DatasetView, summary="Read a data set", responses=problem_responses(404))
def read_dataset(opened: Opened, asking: Asking, name: DatasetName) -> Any:
    """Sizes, classes, shape, hash, channel statistics."""
    with opened.database.session() as session:
        return DatasetView.of(datasets.find(session, name, asking=asking))


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=DatasetView,
    summary="Upload a data set",
    dependencies=[needs("submit")],
    responses=problem_responses(400, 409, 413, 422, 503),
)
def upload_dataset(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    name: Annotated[Name, Form(description="name for `dataset.name` in specs")],
    file: Annotated[
        UploadFile,
        File(
            description="a zip of train/<class>/*.png|jpg and test/<class>/…, or an npz with "
            "x_train, y_train, x_test, y_test"
        ),
    ],
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Every image is decoded once before anything is kept. The same name with the same bytes answers what is there."""
    with work_folder(opened.settings.work_dir, "upload") as folder:
        path = folder / "upload"
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target, CHUNK)
        summary = _check(path)
        _refuse_taken(opened, name, path=path, account=asking.account)
        deposit = Deposit(opened.storage)
        artifact = deposit.put(path)

        def create(session: Session) -> dict[str, Any]:
            deposit.secure(session)
            quotas.admit_bytes(session, asking, size=artifact.size)
            datasets.register(
                session,
                name=name,
                format=summary.format,
                sha256=artifact.sha256,
                size=artifact.size,
                classes=list(summary.classes),
                image_shape=summary.image_shape,
                train_size=summary.train_size,
                test_size=summary.test_size,
                mean=list(summary.mean),
                std=list(summary.std),
                account=asking.account,
            )
            return DatasetView.of(datasets.find(session, name)).model_dump(mode="json")

        body = {"name": name, "sha256": artifact.sha256}
        view, _ = once(opened, create, asking=asking, scope="POST /datasets", key=idempotency_key, body=body)
    response.headers["Location"] = f"/datasets/{name}"
    return view


def _refuse_taken(opened: Resources, name: str, *, path: FilePath, account: str | None) -> None:
    """Before the bytes are stored: those of a refused upload would lie there for nothing."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with opened.database.session() as session:
        datasets.refuse_taken(session, name, sha256=sha256, account=account)


def _check(path: FilePath) -> UploadSummary:
    try:
        return check_upload(path)
    except DataError as error:
        raise InvalidSpecError(str(error), errors=[FieldError(pointer="/file", detail=str(error))]) from None
