"""Who may use the worker next: seats, and a bounded line of those who wait for one."""

from __future__ import annotations

from collections import Counter, deque

import anyio

from moondream_station.core.worker.worker import Worker


class Line:
    """Requests in the order they came, each waiting for a free seat at the worker of the moment.

    Everything but waiting is synchronous, so that nothing can come between looking and taking.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._waiting: deque[object] = deque()
        self._seated: Counter[Worker] = Counter()
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seated(self) -> int:
        """How many calls occupy a worker, the former ones included."""
        return self._seated.total()

    def join(self) -> object:
        """Stand at the end of the line; gives a ticket."""
        ticket = object()
        self._waiting.append(ticket)
        self.change()
        return ticket

    def leave(self, ticket: object) -> None:
        """Give up one's place, seated or not."""
        self._waiting.remove(ticket)
        self.change()

    def take_seat(self, ticket: object) -> Worker | None:
        """A living worker's seat, if one is free and nobody stands before the ticket."""
        worker = self.worker
        if (
            worker is None
            or worker.failure is not None
            or self._waiting[0] is not ticket
            or self._seated[worker] >= worker.threads
        ):
            return None
        self._seated[worker] += 1
        self.change()
        return worker

    def give_seat_back(self, worker: Worker) -> None:
        """The worker is done with one call."""
        self._seated[worker] -= 1
        if self._seated[worker] <= 0:
            del self._seated[worker]
        self.change()

    def is_occupied(self, worker: Worker) -> bool:
        """Whether calls still run on a worker."""
        return worker in self._seated

    def change(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_for_change(self) -> None:
        """Wait until something is worth looking at again."""
        await self._changed.wait()
