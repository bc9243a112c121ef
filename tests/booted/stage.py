"""Where phases play: a service, the load on it, and the account of both."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from .load import Load, load, measure
from .rows import Row
from .service import Service

_UNCLEAN = re.compile(r"Traceback|cannot tell the service manager|internal error|Unknown key|Cannot store")


class Stage:
    """A service, and what was seen of it."""

    def __init__(self, service: Service) -> None:
        """Take the service."""
        self.service = service
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self._passed = 0
        """Lines of the journal that were looked at."""

    def play(self, phase: Callable[[], None]) -> None:
        """Run a phase; that it fails is noted, and shown with what the service has to say."""
        try:
            self.service.serve_anew()
            phase()
            self._check_journal()
        except (AssertionError, measure.CannotRunError) as error:
            self.failures.append(f"{phase.__name__}: {error}")
            print(f"--- {phase.__name__}: {error}", file=sys.stderr)
            self.service.tell()

    @contextlib.contextmanager
    def transition(self, name: str, note: str = "", *, answered: bool = True) -> Iterator[Row]:
        """Have something happen under load, and add its row.

        Args:
            name: of it.
            note: what else is to be said of it.
            answered: whether anybody is there that answers before it begins.
        """
        with self.loaded(name, note, answered=answered) as (row, clients):
            yield row
            row.seconds = measure.clock() - row.began
            clients.wait_for_more()

    @contextlib.contextmanager
    def loaded(self, name: str, note: str = "", *, answered: bool = True) -> Iterator[tuple[Row, Load]]:
        """As ``transition``, for who says himself when it is over."""
        row = Row(name, note=note)
        with load(self.service.machine) as clients:
            if answered:
                clients.wait_for_more()
            row.began = measure.clock()
            yield row, clients
            row.take(clients.stop())
        self.rows.append(row)

    @contextlib.contextmanager
    def timed(self, name: str, note: str = "") -> Iterator[None]:
        """Have something happen that nobody asks anything meanwhile, and add its row."""
        began = measure.clock()
        yield
        self.rows.append(Row(name, seconds=measure.clock() - began, note=note))

    def pass_over_journal(self) -> None:
        """Take what is in the journal for as it should be."""
        self._passed = len(self.service.journal().splitlines())

    def _check_journal(self) -> None:
        """What was logged since the last look holds nothing that should not be."""
        lines = self.service.journal().splitlines()
        new, self._passed = lines[self._passed :], len(lines)
        unclean = [line for line in new if _UNCLEAN.search(line)]
        assert not unclean, "the journal is not clean:\n" + "\n".join(unclean[:20])
