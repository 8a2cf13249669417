"""Bodies of /classify and /embed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.problems import Problem

MAX_IMAGES = 10_000
"""Of one request, whatever the settings; they allow fewer, and images of fewer bytes."""
MAX_FILENAME = 500


class EncodedImage(BaseModel):
    """An image file in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    base64: str = Field(
        max_length=2**30, description="the file's bytes (PNG, JPEG, WebP, BMP or GIF) in standard base64"
    )
    filename: str | None = Field(None, max_length=MAX_FILENAME, description="given back with the answer")


class ImagesBody(BaseModel):
    """Images in a JSON body; the multipart form takes files in the field `images` instead."""

    model_config = ConfigDict(extra="forbid")

    images: list[EncodedImage] = Field(min_length=1, max_length=MAX_IMAGES, description="one image or many")


class ClassScore(BaseModel):
    """A class and how probable the model holds it."""

    label: str = Field(description="the class's name")
    class_index: int = Field(ge=0, description="the class's index in the model's `classes`")
    probability: float = Field(ge=0, le=1, description="softmax probability")


class Adversarial(BaseModel):
    """Verdict of the model's detector of adversarial images."""

    score: float = Field(ge=0, le=1, description="how much the image looks attacked")
    flagged: bool = Field(description="whether the score is above the detector's threshold")


class Prediction(BaseModel):
    """What the model says of one image, or why it says nothing."""

    index: int = Field(ge=0, description="position of the image in the request")
    filename: str | None = Field(None, description="name that the image came with")
    label: str | None = Field(None, description="most probable class; null with an error")
    class_index: int | None = Field(None, ge=0, description="index of the most probable class")
    probability: float | None = Field(None, ge=0, le=1, description="softmax probability of the most probable class")
    top_k: list[ClassScore] = Field([], description="the most probable classes, best first")
    adversarial: Adversarial | None = Field(None, description="null: the model has no detector of adversarial images")
    error: Problem | None = Field(None, description="what is wrong with this image; null when it was classified")


class Classification(BaseModel):
    """Answer of POST /classify."""

    model: str = Field(description="the version that answered, as name@version")
    predictions: list[Prediction] = Field(description="one entry an image, in the request's order")


class Embedding(BaseModel):
    """The features of one image, or why there are none."""

    index: int = Field(ge=0, description="position of the image in the request")
    filename: str | None = Field(None, description="name that the image came with")
    features: list[float] | None = Field(None, description="the backbone's feature vector; null with an error")
    error: Problem | None = Field(None, description="what is wrong with this image; null when it was embedded")


class Embeddings(BaseModel):
    """Answer of POST /embed."""

    model: str = Field(description="the version that answered, as name@version")
    embeddings: list[Embedding] = Field(description="one entry an image, in the request's order")
