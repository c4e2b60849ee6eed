"""The bodies that the station's own routes take: what checks them also describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moondream_station.http.api import RequestInvalid

T = TypeVar("T", bound="StationRequest")


def _absolute(path: str | None) -> str | None:
    if path is not None and not Path(path).is_absolute():
        raise ValueError
    return path


class StationRequest(BaseModel):
    """A body of these fields alone."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: ClassVar[str]
    must_be: ClassVar[Mapping[str, str]] = {"model": "the id of a model"}
    """What a field must be, where that is not true or false."""

    model: Annotated[str, Field(min_length=1, description="The id of the model.")]

    @classmethod
    def read(cls, body: dict[str, Any]) -> Self:
        """Check a body; `RequestInvalid` says what is wrong with it first."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            wrong = {str(found["loc"][0]): found["type"] for found in error.errors(include_url=False)}
        unknown = sorted(name for name, kind in wrong.items() if kind == "extra_forbidden")
        if unknown and "model" not in wrong:
            raise RequestInvalid(f"{cls.name} takes {', '.join(cls.model_fields)}, not {unknown[0]!r}")
        first = next(iter(wrong))
        raise RequestInvalid(
            f"{first!r} must be {cls.must_be.get(first, 'true or false')}",
            hint="GET /v1/models lists them." if first == "model" else None,
        )


class RollbackRequest(StationRequest):
    """The body of `POST /v1/station/rollback`."""

    name = "A rollback"


class RemoveRequest(StationRequest):
    """The body of `POST /v1/station/remove`."""

    name = "A removal"


class SwitchRequest(StationRequest):
    """The body of `POST /v1/station/switch`."""

    name = "A switch"
    must_be = {
        **StationRequest.must_be,
        "strategy": "text: auto, guide or the name of a build",
        "python": "the absolute path of an interpreter",
    }

    strategy: Annotated[
        str | None, Field(description="`auto`, `guide` or the name of a build; by default the setting.")
    ] = None
    upgrade: Annotated[bool, Field(description="Resolve again, even if an environment exists.")] = False
    anyway: Annotated[bool, Field(description="Go on even if the model does not fit this machine.")] = False
    accept_notice: Annotated[bool, Field(description="Accept the model's notice, if it has one.")] = False
    python: Annotated[
        str | None,
        AfterValidator(_absolute),
        Field(description="The interpreter of the environment, an absolute path; needs the station's token."),
    ] = None
