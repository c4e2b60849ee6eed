"""A program that grows a family of processes, and then does as it is told.

`python tree_program.py MARKER WORD…`; every process it makes carries the marker in its command line. The
words, done in order:

    child       fork a child
    stubborn    fork a child that ignores SIGTERM
    group       fork a child that leads a group of its own
    daemon      fork twice, into a session of its own, with nobody left in between
    deaf        ignore SIGTERM from now on
    ready       write "ready" to stderr
    answer      write "ready" to stdout
    exit=N      end with exit code N
    signal=N    end by signal N
    wait        wait for ever

A process that outlives its test by mistake ends after a minute.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

assert sys.platform != "win32"  # tells the type checker what this file is for


def wait() -> NoReturn:
    """Wait for ever."""
    while True:
        signal.pause()


def ignore_term() -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def become_daemon() -> None:
    """Leave the session and lose the parent."""
    os.setsid()
    if os.fork():
        os._exit(0)


def grow(prepare: Callable[[], object]) -> None:
    """Fork a child that prepares itself, says so, and waits for ever."""
    receive, send = os.pipe()
    if os.fork() == 0:
        prepare()
        signal.alarm(60)
        os.close(receive)
        os.write(send, b".")
        os.close(send)
        wait()
    os.close(send)
    os.read(receive, 1)
    os.close(receive)


FAMILY: dict[str, Callable[[], object]] = {
    "child": lambda: None,
    "stubborn": ignore_term,
    "group": lambda: os.setpgid(0, 0),
    "daemon": become_daemon,
}


def main(words: list[str]) -> None:
    """Do as the words say."""
    signal.alarm(60)
    for word in words:
        match word.split("="):
            case [kind] if kind in FAMILY:
                grow(FAMILY[kind])
            case ["deaf"]:
                ignore_term()
            case ["ready" | "answer"]:
                os.write(2 if word == "ready" else 1, b"ready\n")
            case ["exit", code]:
                os._exit(int(code))
            case ["signal", number]:
                os.kill(os.getpid(), int(number))
            case ["wait"]:
                wait()
            case _:
                sys.exit(f"unknown word {word}")


if __name__ == "__main__":
    main(sys.argv[2:])
