"""The doctor over the gallery of recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.record import RecordedMachine, load_record
from moondream_station.doctor.examination import examine
from moondream_station.doctor.report import ASCII, Report, Status, report_text, report_to_json
from support.gallery import RecordedCase, recorded_cases
from support.patients import finding_of, ids_of, words_of

pytestmark = pytest.mark.anyio

NOTHING_FITS = {"machine.platform", "gpu.build", "python.version", "python.architecture"}
DRIVER_AT_FAULT = {"linux-mismatch-535", "linux-permission-denied-580"}
"""Machines on which a CUDA build is chosen and none computes, before somebody repairs something."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here: the checks themselves run on both elsewhere."""
    return "asyncio"


def _check_text(report: Report) -> None:
    """The text tells every finding of the JSON, in its order, with its status and its remedy's commands."""
    rest = report_text(report, ASCII)
    for finding in report_to_json(report)["findings"]:
        line = f"  {ASCII[Status(finding['status'])]} {finding['summary']}\n"
        assert line in rest
        rest = rest.partition(line)[2]
        if finding["status"] in {"warning", "error"} and finding["remedy"]:
            assert all(command in rest for command in finding["remedy"]["commands"])


@pytest.mark.parametrize("machine", recorded_cases(), ids=lambda machine: str(machine.name))
async def test_errors_are_where_no_model_can_work(machine: RecordedCase, tmp_path: Path) -> None:
    """Where nothing can be installed, or the driver is at fault; where a GPU lies idle, it is a warning."""
    report = await examine(
        home=Home(root=tmp_path / "home"),
        settings=Settings(),
        environ={},
        machine=RecordedMachine(load_record(machine.record)),
    )
    expected = next(answer for answer in machine.answers if answer.requirement == "torch")
    _check_text(report)
    errors = ids_of(report.findings, Status.ERROR)
    build = finding_of(report, "gpu.build")
    if expected.build is None:
        assert "gpu.build" in errors <= NOTHING_FITS
        return
    assert errors == ({"gpu.driver"} if machine.name in DRIVER_AT_FAULT else set())
    assert f"{expected.build} with torch {expected.torch}" in build.summary
    if expected.build == "cpu" and expected.warning:
        assert build.status is Status.WARNING
        assert expected.warning in words_of(build)
