"""Checks of the machine and the station, and their report."""

from moondream_station.doctor.examination import examine
from moondream_station.doctor.report import Finding, Remedy, Report, Status, report_to_json

__all__ = ["Finding", "Remedy", "Report", "Status", "examine", "report_to_json"]
