"""The manifest's models as `models --json` and `GET /v1/models` show them."""

from __future__ import annotations

from typing import Any

from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.home.active_file import ActiveRecord


def models_shape(manifest: Manifest, active: ActiveRecord) -> dict[str, Any]:
    """Every model, in the manifest's order.

    Args:
        manifest: The models and their backends.
        active: Which of them have an environment, and which one is active.
    """
    return {"models": [_model(manifest, active, model_id) for model_id in manifest.models]}


def _model(manifest: Manifest, active: ActiveRecord, model_id: str) -> dict[str, Any]:
    info = manifest.models[model_id]
    reason = manifest.unsupported_reason(model_id)
    return {
        "id": model_id,
        "name": info.name,
        "description": info.description,
        "version": info.version,
        "backend": info.backend,
        "supported": reason is None,
        "reason": reason,
        "installed": model_id in active.models,
        "active": active.model == model_id,
    }
