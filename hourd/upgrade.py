"""Another program in our place: tried in a child first, then executed by this process, which keeps id and children.

    save -> a child executes the new program with the state, to see whether it would go on from it
         -> once nothing else is under way: save again, execute -> the new program goes on, and reloads

Both find the state by a number in the environment. After ``execute`` there is no way back, which is why the child
does everything before that: it imports, understands the state and reads the configuration.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import NoReturn

from . import __version__, errors, privileges, state

_STATE = "HOURD_STATE"
_TRIAL = "HOURD_TRIAL"
_PATIENCE = 60.0
"""Seconds that the new program has to say that it would go on."""
_SAYS_YES = "goes on: hourd "
_LIMIT = 64 * 1024
_TRIAL_FD = 3
_logger = logging.getLogger("hourd")


def receive(environ: MutableMapping[str, str]) -> state.State | None:
    """Return the state that was handed to this program, if one was.

    Raises:
        errors.RefusedError: this version cannot go on from it.
    """
    fd = environ.pop(_STATE, "")
    if not state.is_one(fd):
        return None  # somebody else has set it
    try:
        before = state.read(int(fd))
    finally:
        os.close(int(fd))
    if is_trial(environ):
        privileges.die_with_parent()
    else:
        for each in state.descriptors(before):
            os.set_inheritable(each, False)
    return before


def is_trial(environ: Mapping[str, str]) -> bool:
    """Tell whether this program is only to say whether it would go on."""
    return _TRIAL in environ


def say_yes() -> None:
    """Say so."""
    print(f"{_SAYS_YES}{__version__}")  # noqa: T201, the other end is ``Trial``


class Upgrade:
    """A program that is to take our place."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        save: Callable[[], state.State],
        refused: Callable[[str], None],
        unheard: Callable[[], bool],
    ) -> None:
        """Take what is needed.

        Args:
            selector: the master's.
            save: returns the state.
            refused: is told why the new program cannot be.
            unheard: tells whether signals came that nobody has acted on yet.
        """
        self._unheard = unheard
        self._selector = selector
        self._save = save
        self._refused = refused
        self._trial: _Trial | None = None
        self.passed = False
        """Whether the new program would go on: the next quiet moment is its."""

    def begin(self, now: float) -> None:
        """Try the program that is installed now."""
        if self._trial or self.passed:
            return
        try:
            fd = state.write(self._save())
            try:
                self._trial = _Trial(fd, now + _PATIENCE)
            finally:
                os.close(fd)
        except OSError as error:
            self._refused(str(errors.from_os(error, "execute the new program")))
            return
        self._selector.register(self._trial.output, selectors.EVENT_READ, self._on_output)

    def patience(self, now: float) -> float:
        """Return in how many seconds it has to have answered."""
        return self._trial.deadline - now if self._trial else float("inf")

    def check(self, now: float) -> None:
        """End a program that does not answer."""
        if self._trial and self._trial.deadline <= now:
            self._trial.kill()
            self._end(f"the new program did not answer within {_PATIENCE:g}s")

    def abandon(self, why: str) -> None:
        """Let it be."""
        if self._trial:
            self._trial.kill()
            self._end(why)
        elif self.passed:
            self.passed = False
            self._refused(why)

    def execute(self) -> None:
        """Let the new program take our place; returns only if that cannot be, or not yet."""
        # A signal that comes before the new program can handle it waits for that. One that came in this pass is known
        # to this program only, which has to act on it first.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if not self._unheard():
                self.passed = False
                _execute(self._save())
        except OSError as error:
            self._refused(str(errors.from_os(error, "execute the new program")))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _on_output(self, _mask: int) -> None:
        assert self._trial is not None
        if not self._trial.read():
            text = self._trial.text.strip()
            self.passed = any(line.startswith(_SAYS_YES) for line in text.splitlines())
            self._end("" if self.passed else text or "the new program ended without a word")

    def _end(self, why: str) -> None:
        assert self._trial is not None
        self._selector.unregister(self._trial.output)
        self._trial.close()
        self._trial = None
        if why:
            self._refused(why)


class _Trial:
    """A child that executes the new program, and what it prints."""

    def __init__(self, state_fd: int, deadline: float) -> None:
        self.deadline = deadline
        self._said = bytearray()
        self.output, theirs = os.pipe()
        try:
            os.set_blocking(self.output, False)
            self._pidfd = os.pidfd_open(_spawn(state_fd, theirs))
        except OSError:
            os.close(self.output)
            raise
        finally:
            os.close(theirs)

    @property
    def text(self) -> str:
        return self._said.decode(errors="replace")

    def read(self) -> bool:
        """Take what it has printed; returns whether it may print more."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.output, _LIMIT)
            self._said += data
            del self._said[:-_LIMIT]
            return bool(data)
        return True

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.output)
        os.close(self._pidfd)


def _command() -> list[str]:
    """Return what executed this program: it finds what is installed under the same names now."""
    return [sys.executable, *sys.orig_argv[1:]]


def _spawn(state_fd: int, output: int) -> int:
    return os.posix_spawn(
        sys.executable,
        _command(),
        {**_environment(_TRIAL_FD), _TRIAL: "1"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, state_fd, _TRIAL_FD),
        ],
        setpgroup=0,
        setsigmask=[],
        setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
    )


def _execute(what: state.State) -> NoReturn:
    fd = state.write(what)
    kept = [fd, *state.descriptors(what)]
    try:
        for each in kept:
            os.set_inheritable(each, True)
        _logger.info("the new program takes over")
        os.execve(sys.executable, _command(), _environment(fd))
    finally:
        for each in kept:
            os.set_inheritable(each, False)
        os.close(fd)


def _environment(state_fd: int) -> dict[str, str]:
    """Return ours with the state's number: what is no trial must not be taken for one, whoever has set that."""
    return {**{name: value for name, value in os.environ.items() if name != _TRIAL}, _STATE: str(state_fd)}
