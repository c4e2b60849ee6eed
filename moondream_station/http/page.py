"""`GET /`: the status page, one file without outside resources, under a policy that allows no others."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from moondream_station.core.facts.events import ActivationSucceeded
from moondream_station.core.facts.state import StationState
from moondream_station.http.api import StationApi

NOT_KNOWN: Final = "It was chosen before this station started; `moondream-station logs` shows how."


def load_page() -> str:
    """The page's source, with `{{why}}` where the reason for the active build goes."""
    return files("moondream_station.http").joinpath("status_page.html").read_text(encoding="utf-8")


def content_policy(page: str) -> str:
    """The strictest Content-Security-Policy that the page works with: its own style, script and station."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_digest(page, 'style')}",
            f"script-src {_digest(page, 'script')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def why(state: StationState) -> str:
    """Why the active model has its build, by the reason of its activation."""
    if state.active is None or state.last is None or state.last.activation.selection is None:
        return NOT_KNOWN
    outcome = state.last.outcome
    if not isinstance(outcome, ActivationSucceeded) or outcome.environment != state.active.environment:
        return NOT_KNOWN
    return state.last.activation.selection.reason


def status_page(station: StationApi) -> Callable[[Request], Response]:
    """The handler of the page; what changes in it comes from the station's other routes."""
    page = load_page()
    headers = {"Content-Security-Policy": content_policy(page), "Referrer-Policy": "no-referrer"}

    def get(_request: Request) -> Response:
        reason = html.escape(why(station.state))
        return Response(page.replace("{{why}}", reason), media_type="text/html", headers=headers)

    return get


def _digest(page: str, tag: str) -> str:
    """The source expression that allows the page's one inline element with this tag."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
