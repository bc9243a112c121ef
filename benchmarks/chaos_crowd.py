"""The processes of clients: who talks to whom, and what is the right answer."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess  # noqa: TID251, clients run apart
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import chaos_clients
import chaos_http
import measure
from chaos_stage import Stage
from chaos_wire import WrongError
from chaos_world import Spec, Target

_PROGRAM = Path(__file__).resolve().parent / "chaos_clients.py"
_FAILED = 400
"""A status from here on says that a request failed (RFC 9110, 15)."""


@dataclass(slots=True)
class Crowd:
    """The processes of clients."""

    place: Path
    stage: Stage
    options: argparse.Namespace
    files: list[Path] = field(default_factory=list)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _errors: list[IO[str]] = field(default_factory=list)

    def start(self) -> None:
        """Let clients of all sorts that know what to say begin.

        Raises:
            measure.CannotRunError: what they would be answered proves nothing.
        """
        parts: dict[int, list[tuple[str, Target]]] = {}
        for sort, target in self._clients():
            parts.setdefault(chaos_clients.SORTS[sort].part, []).append((sort, target))
        for part, clients in parts.items():
            spec, records = self.place / f"clients-{part}.json", self.place / f"records-{part}"
            options = self.options
            Spec(clients, options.seed, part, self.stage.scene.patience, options.rate).dump(spec)
            self.files.append(records)
            self._errors.append((self.place / f"clients-{part}.log").open("w"))
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(_PROGRAM), str(spec), str(records)],
                    env=measure.environment(),
                    stdin=subprocess.PIPE,
                    stderr=self._errors[-1],
                    text=True,
                    start_new_session=True,
                )
            )

    def _clients(self) -> Iterator[tuple[str, Target]]:
        scene = self.stage.scene
        for name, places in self.stage.addresses().items():
            pool, _, server = name.partition("/")
            kind, known = scene.pools[pool]["servers"][server]["kind"], scene.is_known(pool, server)
            for number, address in enumerate(places):
                target = Target(name, kind, number, address, known, self.options.path)
                if kind in chaos_clients.HTTP and not known:
                    target.status = self._expected(target)
                for sort in chaos_clients.sorts_for(kind, known=known, echo=name in self.options.echo):
                    yield from [(sort, target)] * chaos_clients.SORTS[sort].number

    def _expected(self, target: Target) -> int:
        """Return the status that answers of somebody's application must have: that of the first, unless it is told."""
        what, wanted = f"{target.server} at {target.address}", self.options.expect
        try:
            status = asyncio.run(chaos_http.ask_status(target.address, target.path, self.stage.scene.patience))
        except (OSError, EOFError, WrongError) as error:
            raise measure.CannotRunError(f"{what} does not answer GET {target.path}: {error!r}") from None
        if wanted and status != wanted:
            raise measure.CannotRunError(f"{what} answers GET {target.path} with {status}, not {wanted}")
        if status >= _FAILED and not wanted:
            raise measure.CannotRunError(
                f"{what} answers GET {target.path} with {status}, which would prove nothing: "
                f"give it a --path that it serves, or --expect {status} if that is right"
            )
        return status

    def move(self) -> None:
        """Tell them the addresses of a daemon that was started anew."""
        self._tell(json.dumps(self.stage.addresses()) + "\n")

    def _tell(self, text: str) -> None:
        for process in self._processes:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(text)
                process.stdin.flush()

    def check(self) -> None:
        """Raise ``CannotRunError`` when one of them has failed."""
        for process, errors in zip(self._processes, self._errors, strict=True):
            if process.poll():
                raise measure.CannotRunError(f"clients ended with {process.poll()}:\n{Path(errors.name).read_text()}")

    def finish(self) -> None:
        """Ask nothing more, and wait for the answers that are due."""
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        end = measure.clock() + self.stage.scene.patience + 30.0
        for process in self._processes:
            try:
                process.wait(max(0.0, end - measure.clock()))
            except subprocess.TimeoutExpired:
                raise measure.CannotRunError("clients did not end") from None
        self.check()

    def close(self) -> None:
        """End them in any case."""
        for process, errors in zip(self._processes, self._errors, strict=True):
            process.kill()
            process.wait()
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            errors.close()
