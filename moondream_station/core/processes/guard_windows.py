"""The guard of guard.py for Windows, where a Job object does its work.

Written from Microsoft's documentation (learn.microsoft.com/windows/win32/procthread/job-objects); the project
has not run it so far.

The guard puts itself into a new job before it starts the program, so that the program and all that it ever
starts belong to the job from their first instruction on; nothing may break away. The job is marked
JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE and the guard holds its only handle: however the guard dies, Windows ends
the whole job. To leave on purpose, the guard terminates the job, itself included, with the program's exit
code; it does when the station, its parent, is gone. Nested jobs need Windows 8 or newer.
"""

import ctypes
import os
import subprocess
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

assert sys.platform == "win32"  # noqa: S101  tells the type checker what this file is for

_NOT_STARTED = 127
_ENDED_WITH_STATION = 1
_SYNCHRONIZE = 0x00100000  # the right to wait for a process
_INFINITE = 0xFFFFFFFF
_EXTENDED_LIMIT_INFORMATION = 9  # JOBOBJECTINFOCLASS.JobObjectExtendedLimitInformation
_LIMIT_KILL_ON_JOB_CLOSE = 0x2000

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.CreateJobObjectW.restype = ctypes.c_void_p
_kernel32.CreateJobObjectW.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p]
_kernel32.SetInformationJobObject.restype = ctypes.c_int
_kernel32.SetInformationJobObject.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
_kernel32.AssignProcessToJobObject.restype = ctypes.c_int
_kernel32.AssignProcessToJobObject.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_kernel32.TerminateJobObject.restype = ctypes.c_int
_kernel32.TerminateJobObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_kernel32.GetCurrentProcess.restype = ctypes.c_void_p
_kernel32.GetCurrentProcess.argtypes = []
_kernel32.OpenProcess.restype = ctypes.c_void_p
_kernel32.OpenProcess.argtypes = [ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32]
_kernel32.WaitForSingleObject.restype = ctypes.c_uint32
_kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]


class _BasicLimits(ctypes.Structure):  # JOBOBJECT_BASIC_LIMIT_INFORMATION
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),  # IO_COUNTERS
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


def _enter_job() -> int:
    """Put this process into a new job that ends with it, and return the job's handle."""
    job: int | None = _kernel32.CreateJobObjectW(None, None)
    if job is None:
        raise ctypes.WinError(ctypes.get_last_error())
    limits = _ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = _LIMIT_KILL_ON_JOB_CLOSE
    if not _kernel32.SetInformationJobObject(
        job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
    ):
        raise ctypes.WinError(ctypes.get_last_error())
    if not _kernel32.AssignProcessToJobObject(job, _kernel32.GetCurrentProcess()):
        raise ctypes.WinError(ctypes.get_last_error())
    return job


def _end(job: int, code: int) -> "NoReturn":
    """End everything in the job, this process included, with one exit code."""
    _kernel32.TerminateJobObject(job, code & 0xFFFFFFFF)
    os._exit(code & 0x7FFFFFFF)  # not reached, unless the job could not be terminated


def _end_with_station(job: int) -> None:
    station = _kernel32.OpenProcess(_SYNCHRONIZE, False, os.getppid())
    if station:  # else it is gone by now
        _kernel32.WaitForSingleObject(station, _INFINITE)
    _end(job, _ENDED_WITH_STATION)


def main(program: list[str]) -> "NoReturn":
    """Guard one program until it, or the station, is gone."""
    job = _enter_job()
    threading.Thread(target=_end_with_station, args=(job,), daemon=True).start()
    try:
        process = subprocess.Popen(program, stdin=0, stdout=1, stderr=2)
    except OSError as error:
        os.write(2, f"{error.strerror}\n".encode())
        _end(job, _NOT_STARTED)
    _end(job, process.wait())


if __name__ == "__main__":
    main(sys.argv[1:])
