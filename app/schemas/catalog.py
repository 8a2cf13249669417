"""What the service offers: methods, attacks, models and data sets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.records import ModelVersion
from app.schemas.figures import Figures
from app.schemas.results import shown_as
from app.services.datasets import DatasetInfo
from app.services.views import timestamp
from models.attacks.spec import Attack
from models.backbones.spec import BackboneEntry, BackboneFamily
from models.corruptions.spec import Corruption, Group
from models.methods.spec import Method
from models.specs import MAX_VERSION, ModelCard, Spec


class MethodView(BaseModel):
    """A method of pretraining or training."""

    name: str = Field(description="value of `method` in the job's body")
    kind: Literal["pretrain", "train"] = Field(description="which route takes it: POST /jobs/{kind}")
    title: str = Field(description="what it does in a few words")
    paper: str = Field(description="where it comes from")
    formula: str = Field(description="the loss that it minimizes")
    parameters: dict[str, Any] = Field(description="JSON Schema of its parameters with bounds and defaults")

    @classmethod
    def of(cls, entry: Method) -> MethodView:
        """The registry's entry as clients read it."""
        return cls(
            name=entry.name,
            kind=entry.kind,
            title=entry.title,
            paper=entry.paper,
            formula=entry.formula,
            parameters=entry.params.model_json_schema(),
        )


class Methods(BaseModel):
    """Answer of GET /methods."""

    items: list[MethodView] = Field(description="every method, by name")


class AttackView(BaseModel):
    """An attack that evaluations and trainings can use."""

    name: str = Field(description="value of `name` in an attack's spec")
    title: str = Field(description="what it does in a few words")
    source: str = Field(description="where it comes from")
    formula: str = Field(description="how it moves an image")
    parameters: dict[str, Any] = Field(description="JSON Schema of its parameters with bounds and defaults")

    @classmethod
    def of(cls, entry: Attack) -> AttackView:
        """The registry's entry as clients read it."""
        schema = entry.params.model_json_schema()
        return cls(name=entry.name, title=entry.title, source=entry.source, formula=entry.formula, parameters=schema)


class Attacks(BaseModel):
    """Answer of GET /attacks."""

    items: list[AttackView] = Field(description="every attack, by name")


class CorruptionView(BaseModel):
    """A corruption of images that evaluations can measure."""

    name: str = Field(description="value in `corruptions` of POST /evaluate/corruptions")
    title: str = Field(description="what it is called")
    group: Group = Field(description="what kind of corruption it is")
    source: str = Field(description="where it comes from")
    formula: str = Field(description="what it does to an image x; pixels in [0, 1]")
    severities: list[dict[str, float]] = Field(
        description="its parameters at severity 1, 2, …; lengths are in pixels of a 32-pixel image"
    )
    note: str | None = Field(description="how it differs from CIFAR-10-C; null: not knowingly")

    @classmethod
    def of(cls, entry: Corruption) -> CorruptionView:
        """The registry's entry as clients read it."""
        return cls(
            name=entry.name,
            title=entry.title,
            group=entry.group,
            source=entry.source,
            formula=entry.formula,
            severities=list(entry.strengths),
            note=entry.note,
        )


class Corruptions(BaseModel):
    """Answer of GET /corruptions."""

    items: list[CorruptionView] = Field(description="every corruption, by name")


class BackboneView(BaseModel):
    """A registered backbone."""

    name: str = Field(description="value of `backbone.name` in a spec or a card")
    title: str = Field(description="what it is, in a few words")
    source: str = Field(description="where it comes from")
    width: int = Field(description="channels of the first stage that `width` null stands for")
    blocks: list[int] = Field(description="blocks a stage that `blocks` null stands for")

    @classmethod
    def of(cls, entry: BackboneEntry) -> BackboneView:
        """The registry's entry as clients read it."""
        return cls(
            name=entry.name, title=entry.title, source=entry.source, width=entry.width, blocks=list(entry.blocks)
        )


class FamilyView(BaseModel):
    """Networks of another library."""

    name: str = Field(description="what their names start with, before a slash; GET /backbones/{name} lists them")
    title: str = Field(description="what it holds")
    source: str = Field(description="where it comes from")

    @classmethod
    def of(cls, family: BackboneFamily) -> FamilyView:
        """The registry's entry as clients read it."""
        return cls(name=family.name, title=family.title, source=family.source)


class Backbones(BaseModel):
    """Answer of GET /backbones."""

    items: list[BackboneView] = Field(description="every registered backbone, by name")
    families: list[FamilyView] = Field(description="libraries whose networks can be named too")


class FamilyNames(BaseModel):
    """Answer of GET /backbones/{family}."""

    items: list[str] = Field(description="values of `backbone.name`")


class VersionView(BaseModel):
    """One version of a model: what it is, where it came from, what was measured."""

    name: str = Field(description="the model")
    version: int = Field(ge=1, description="number of the version; never used twice")
    reference: str = Field(description="name@version")
    card: ModelCard = Field(description="architecture, classes and preprocessing: enough to rebuild the network")
    sha256: str = Field(description="hash of the weights file")
    size: int = Field(ge=0, description="bytes of the weights file")
    job: str | None = Field(None, description="the job that made it; null for an upload")
    metrics: dict[str, Any] = Field(
        description="the numbers of its job's result; empty for an upload",
        json_schema_extra=shown_as(Figures, or_else={"type": "object", "maxProperties": 0}),
    )
    aliases: list[str] = Field(description="aliases that mean this version")
    created_at: str = Field(description="ISO 8601, UTC")

    @classmethod
    def of(cls, version: ModelVersion, aliases: dict[str, int]) -> VersionView:
        """The record as clients read it; ``aliases``: alias → version of its model."""
        return cls(
            name=version.name,
            version=version.version,
            reference=version.reference,
            card=ModelCard.model_validate(version.card),
            sha256=version.sha256,
            size=version.size,
            job=version.job_id,
            metrics=version.metrics,
            aliases=[alias for alias, number in aliases.items() if number == version.version],
            created_at=timestamp(version.created_at) or "",
        )


class NewestView(VersionView):
    """The newest version of a model, as lists have it."""

    all_aliases: dict[str, int] = Field(description="alias → version, also of the model's older versions")

    @classmethod
    def of(cls, version: ModelVersion, aliases: dict[str, int]) -> NewestView:
        """As :meth:`VersionView.of`."""
        return cls(**dict(VersionView.of(version, aliases)), all_aliases=aliases)


class ModelView(BaseModel):
    """A model with all its versions."""

    name: str = Field(description="the model")
    aliases: dict[str, int] = Field(description="alias → version")
    versions: list[VersionView] = Field(description="newest first")


class ModelPage(BaseModel):
    """One page of models, newest first; of each the newest version."""

    items: list[NewestView] = Field(description="the newest version of each model of this page")
    next_cursor: str | None = Field(description="`cursor` of the next page; null: this is the last")


class AliasBody(Spec):
    """Body of PUT /models/{name}/aliases/{alias}."""

    version: int = Field(ge=1, le=MAX_VERSION, description="the version that the alias means from now on")


class AliasView(BaseModel):
    """An alias of a model."""

    name: str = Field(description="the model")
    alias: str = Field(description="the alias")
    version: int = Field(ge=1, description="the version that it means")


class DatasetView(BaseModel):
    """A data set that jobs can name."""

    name: str = Field(description="value of `dataset.name` in a spec")
    kind: Literal["builtin", "upload"] = Field(description="known to the service, or uploaded to it")
    source: str = Field(description="where it comes from")
    classes: list[str] = Field(description="class names by index")
    image_shape: tuple[int, int, int] = Field(description="channels, height, width of every image, in pixels")
    train_size: int = Field(ge=0, description="images of the training split")
    test_size: int = Field(ge=0, description="images of the test split")
    sha256: str | None = Field(None, description="hash of the upload; null for a built-in one")
    mean: list[float] | None = Field(None, description="channel means of the training split, pixels in [0, 1]")
    std: list[float] | None = Field(None, description="channel deviations of the training split, pixels in [0, 1]")

    @classmethod
    def of(cls, info: DatasetInfo) -> DatasetView:
        """The data set as clients read it."""
        return cls(
            name=info.name,
            kind=info.kind,
            source=info.source,
            classes=list(info.classes),
            image_shape=info.image_shape,
            train_size=info.train_size,
            test_size=info.test_size,
            sha256=info.sha256,
            mean=None if info.mean is None else list(info.mean),
            std=None if info.std is None else list(info.std),
        )


class DatasetPage(BaseModel):
    """Data sets: uploads, newest first, then the built-in ones by name."""

    items: list[DatasetView] = Field(description="the data sets of this page")
    next_cursor: str | None = Field(description="`cursor` of the next page; null: this is the last")
