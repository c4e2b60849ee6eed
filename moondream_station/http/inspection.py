"""What people look at beside the state: plans, journals, logs, memory; and forgetting a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from moondream_station.http.api import InspectionApi, RequestInvalid, RouteUnknown
from moondream_station.http.connection import attend
from moondream_station.http.messages import json_response, read_object

ACTIVATION_PATH: Final = "/v1/station/activations/"


def inspection_handlers(
    inspection: InspectionApi,
) -> Mapping[str, Callable[[Request], Awaitable[Response]]]:
    """The handlers of what can be looked at, by route."""
    return {
        "/v1/station/activations": partial(_activations, inspection),
        "/v1/station/activations/{id}": partial(_activation, inspection),
        "/v1/station/logs": partial(_logs, inspection),
        "/v1/station/plan": partial(_plan, inspection),
        "/v1/station/remove": partial(_remove, inspection),
        "/v1/station/usage": partial(_usage, inspection),
    }


async def _activations(inspection: InspectionApi, _: Request) -> Response:
    return json_response(await inspection.activations())


async def _activation(inspection: InspectionApi, request: Request) -> Response:
    activation = request.scope["path"].removeprefix(ACTIVATION_PATH)
    journal = await inspection.activation(activation)
    if journal is None:
        raise RouteUnknown(f"There is no journal of an activation {activation!r}", hint="50 are kept.")
    return json_response(journal)


async def _logs(inspection: InspectionApi, request: Request) -> Response:
    return json_response(await inspection.logs(request.query_params.get("model")))


async def _plan(inspection: InspectionApi, request: Request) -> Response:
    """It may ask the indexes for eight seconds; a client that leaves ends that."""
    query = request.query_params
    model, strategy = query.get("model"), query.get("strategy")
    if not model:
        raise RequestInvalid("A plan is for a ?model=", hint="GET /v1/models lists them.")
    await request.body()
    return json_response(await attend(partial(inspection.plan, model, strategy or None), request.scope))


async def _remove(inspection: InspectionApi, request: Request) -> Response:
    from moondream_station.http.requests import RemoveRequest  # noqa: PLC0415  2 ms that starting does without

    model = RemoveRequest.read(await read_object(request)).model
    await inspection.remove(model)
    return json_response({"model": model}, status=202)


async def _usage(inspection: InspectionApi, _: Request) -> Response:
    return json_response(await inspection.usage())
