"""Pictures → predictions or features: each is decoded apart, the good ones are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from app.errors import FieldError, InvalidSpecError, OverloadedError, TooLargeError
from app.schemas.inference import Classification, ClassScore, Embedding, Embeddings, Prediction
from app.schemas.problems import Problem
from app.serving.batcher import places_of
from app.serving.decode import BadImageError, decode_image
from app.serving.engine import Engine, Output, Served
from models.specs import ModelCard


@dataclass(frozen=True)
class Picture:
    """One image file as it arrived; ``read`` gives its bytes or raises :class:`BadImageError`."""

    filename: str | None
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class Answered:
    """Row ``rows[positions[i]]`` answers picture i; a picture without a position has an error."""

    rows: Tensor
    positions: dict[int, int]
    errors: dict[int, str]


async def classify(engine: Engine, served: Served, *, pictures: Sequence[Picture], top_k: int) -> bytes:
    """The JSON of a :class:`Classification`: one prediction a picture, in order.

    Raises TooLargeError, InvalidSpecError when all are bad, OverloadedError.
    """

    def write(answered: Answered) -> Classification:
        return Classification(
            model=served.reference, predictions=_predictions(answered, served.card, pictures=pictures, top_k=top_k)
        )

    return await _answer(engine, served, pictures=pictures, output="logits", write=write)


async def embed(engine: Engine, served: Served, *, pictures: Sequence[Picture]) -> bytes:
    """The JSON of :class:`Embeddings`: one feature vector a picture, in order; raises as :func:`classify`."""

    def write(answered: Answered) -> Embeddings:
        return Embeddings(model=served.reference, embeddings=_embeddings(answered, pictures=pictures))

    return await _answer(engine, served, pictures=pictures, output="features", write=write)


def _predictions(answered: Answered, card: ModelCard, *, pictures: Sequence[Picture], top_k: int) -> list[Prediction]:
    probabilities = answered.rows.softmax(dim=1)
    best = probabilities.topk(min(top_k, probabilities.shape[1]), dim=1)
    classes = card.classes or ()
    predictions = []
    for index, picture in enumerate(pictures):
        if index in answered.errors:
            predictions.append(
                Prediction(index=index, filename=picture.filename, error=_problem(answered.errors[index]))
            )
            continue
        row = answered.positions[index]
        scores = [
            ClassScore(label=classes[column], class_index=column, probability=probability)
            for column, probability in zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
        ]
        predictions.append(
            Prediction(
                index=index,
                filename=picture.filename,
                label=scores[0].label,
                class_index=scores[0].class_index,
                probability=scores[0].probability,
                top_k=scores,
            )
        )
    return predictions


def _embeddings(answered: Answered, *, pictures: Sequence[Picture]) -> list[Embedding]:
    embeddings = []
    for index, picture in enumerate(pictures):
        if index in answered.errors:
            found = Embedding(index=index, filename=picture.filename, error=_problem(answered.errors[index]))
        else:
            features = answered.rows[answered.positions[index]].tolist()
            found = Embedding(index=index, filename=picture.filename, features=features)
        embeddings.append(found)
    return embeddings


async def _answer(
    engine: Engine,
    served: Served,
    *,
    pictures: Sequence[Picture],
    output: Output,
    write: Callable[[Answered], BaseModel],
) -> bytes:
    """The JSON of what ``write`` makes of the answered pictures, in a thread: of many classes it takes seconds."""
    forward = served.rows(output)  # refuses what this model cannot answer before anything is decoded
    places = _places(engine, served, count=len(pictures))
    with _admitted(engine, places, images=len(pictures)):
        decoded = await asyncio.gather(*(_decode(engine, served, picture=picture) for picture in pictures))
        good = [index for index, image in enumerate(decoded) if not isinstance(image, str)]
        errors = {index: image for index, image in enumerate(decoded) if isinstance(image, str)}
        if not good:
            raise _all_bad(errors)
        images = torch.from_numpy(np.stack([image for image in decoded if not isinstance(image, str)]))
        waiting = engine.batcher.submit((served.reference, output), images, forward=forward)
        rows = await asyncio.wrap_future(waiting)
        engine.metrics.answered.labels(output).inc(len(good))
        for index, finite in zip(good, rows.isfinite().all(dim=1).tolist(), strict=True):
            if not finite:
                errors[index] = f"{served.reference} computes NaN or infinity from this image"
        positions = {index: row for row, index in enumerate(good) if index not in errors}
        if not positions:
            raise _all_bad(errors)
        answered = Answered(rows, positions, errors)
        return await asyncio.get_running_loop().run_in_executor(
            engine.writers, lambda: write(answered).model_dump_json().encode()
        )


def _places(engine: Engine, served: Served, *, count: int) -> int:
    """Places that ``count`` images of the model's size take; TooLargeError for more than any request may.

    One image alone is always taken.
    """
    each = places_of(served.card.image_shape)
    most = max(1, engine.request_max_places // each)
    if count > most:
        size = " × ".join(map(str, served.card.image_shape))
        raise TooLargeError(
            f"{count} images; {served.reference} makes {size} values of each, and of that size "
            f"at most {most} are accepted in one request"
        )
    return count * each


async def _decode(engine: Engine, served: Served, *, picture: Picture) -> NDArray[np.uint8] | str:
    """The picture's pixels, or what is wrong with it."""
    loop = asyncio.get_running_loop()
    try:
        data = await picture.read()
        return await loop.run_in_executor(
            engine.decoders, lambda: decode_image(data, engine.limits, image_shape=served.card.image_shape)
        )
    except BadImageError as error:
        engine.metrics.rejected.labels(error.reason).inc()
        return str(error)


def require_room(engine: Engine) -> None:
    """Raise OverloadedError when the queue takes no further image: before any is received."""
    with _counted(engine, images=1):
        engine.batcher.require_room()


@contextmanager
def _admitted(engine: Engine, places: int, *, images: int) -> Iterator[None]:
    with ExitStack() as room:
        with _counted(engine, images=images):
            room.enter_context(engine.batcher.admit(places))
        yield


@contextmanager
def _counted(engine: Engine, *, images: int) -> Iterator[None]:
    """Count the images that an OverloadedError inside refuses."""
    try:
        yield
    except OverloadedError:
        engine.metrics.rejected.labels("overloaded").inc(images)
        raise


def _all_bad(errors: dict[int, str]) -> InvalidSpecError:
    found = [FieldError(pointer=f"/images/{index}", detail=detail) for index, detail in errors.items()]
    if len(found) == 1:
        return InvalidSpecError(found[0]["detail"], errors=found)
    return InvalidSpecError(f"none of the {len(found)} images can be used", errors=found)


def _problem(detail: str) -> Problem:
    return Problem(title="Bad image", status=422, detail=detail)
