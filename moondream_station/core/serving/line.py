"""Who waits for a worker: clients take turns, and each client's requests keep their order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import anyio

from moondream_station.core.worker.worker import Worker


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place in the line."""

    client: Hashable
    turn: anyio.Event = field(default_factory=anyio.Event)
    is_displaced: bool = False
    """Whether it had to leave a full line for another client."""


class Line:
    """Requests that wait for a free seat at one of the workers of the moment.

    Everything but waiting is synchronous, so that nothing can come between looking and taking.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        """The workers that take new calls."""
        self._clients: dict[Hashable, dict[Ticket, None]] = {}
        """The clients in the order of their turns, each with its requests in the order they came."""
        self.seated: Counter[Worker] = Counter()
        """How many calls occupy each worker, the former ones included."""
        self.changed = anyio.Event()
        """Set, and another one in its place, when something is worth looking at again."""

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def join(self, client: Hashable = None) -> Ticket:
        """Stand behind the client's own requests; a client that has none waits for one turn of each other."""
        ticket = Ticket(client)
        self._clients.setdefault(client, {})[ticket] = None
        self.change()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up one's place, if it is not given up yet."""
        own = self._clients.get(ticket.client, {})
        if ticket in own:
            del own[ticket]
            if not own:
                del self._clients[ticket.client]
        self.change()

    def limit(self, ticket: Ticket, most: int) -> None:
        """Keep the line within its bound after somebody came: who has most of it gives a place up.

        That is the client's last request, or the one that came where its client has as many as any other.
        """
        if len(self) <= most:
            return
        largest = max(self._clients.values(), key=len)
        own = self._clients[ticket.client]
        last = ticket if len(own) == len(largest) else next(reversed(largest))
        last.is_displaced = True
        last.turn.set()
        self.leave(last)

    def take_seat(self, ticket: Ticket) -> Worker | None:
        """Take a seat of the living worker with fewest calls, if one is free and it is the ticket's turn."""
        free = [worker for worker in self.workers if not worker.failure and self._is_free(worker)]
        if not free or ticket.is_displaced or self._first() is not ticket:
            return None
        worker = min(free, key=self.seated.__getitem__)
        self.seated[worker] += 1
        self._clients[ticket.client] = self._clients.pop(ticket.client)  # all others come before its next
        self.change()
        return worker

    def give_seat_back(self, worker: Worker) -> None:
        """The worker is done with one call."""
        self.seated -= Counter([worker])  # which drops a worker without calls
        self.change()

    def change(self, *, is_for_all: bool = False) -> None:
        """Let who is first look again; waking everybody for each seat made 64 clients slower than one."""
        if is_for_all:
            for own in self._clients.values():
                for ticket in own:
                    ticket.turn.set()
        elif self._clients:
            self._first().turn.set()
        self.changed.set()
        self.changed = anyio.Event()

    async def wait_for_turn(self, ticket: Ticket) -> None:
        """Wait until it is worth trying to take a seat again."""
        ticket.turn = anyio.Event()
        await ticket.turn.wait()

    async def idle(self, seconds: float) -> None:
        """Wait until nobody has waited, and nobody was answered, for so long."""
        while True:
            changed, is_busy = self.changed, bool(self._clients or self.seated)
            with anyio.move_on_after(math.inf if is_busy else seconds):
                await changed.wait()
            if not changed.is_set():
                return

    def _first(self) -> Ticket:
        return next(iter(next(iter(self._clients.values()))))

    def _is_free(self, worker: Worker) -> bool:
        return self.seated[worker] < worker.threads
