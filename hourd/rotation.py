"""Certificates that are replaced while they are in use.

A mold reads them, as its user, so that what is wrong refuses a start or a reload, and workers that are forked from it
share the keys of session tickets. Each worker then looks at the files every second. What has stayed the same for a
second is read, in a thread, and serves new connections if it is right: certificate and key fit each other. What is not
right is told of once, and what was there before stays in use; a worker that is born meanwhile has it from its mold,
which looks as well. What failed is tried again: it may have been this process that had no descriptor, say.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from . import certificates, errors, settings

LOOK: Final = 1.0
"""Seconds between two looks at the files."""
_AGAIN: Final = 10.0
"""Seconds after which files that could not be used are read again, though they are the same."""
_DAY: Final = 86400.0


class Certificates:
    """The certificates of a server while it serves."""

    def __init__(self, tls: settings.Tls) -> None:
        """Read them.

        Raises:
            errors.HourdError: as ``certificates.load``.
        """
        self._tls = tls
        self._loaded = certificates.load(tls)
        self._alpn: tuple[str, ...] = ()
        self._log: logging.Logger | None = None
        self._quieten = 0
        self._seen = self._tried = self._loaded.stamps
        self._again = 0.0
        """When they are read again, by whichever clock they are looked at."""
        self._problem: errors.HourdError | None = None
        """Why what lies there now is not in use."""
        self._told: str | None = None
        self._warned = 0.0
        self._reading: asyncio.Future[certificates.Loaded] | None = None
        self._front: _Front | None = None

    @property
    def current(self) -> ssl.SSLContext:
        """The newest that was right."""
        return self._loaded.context

    @property
    def front(self) -> ssl.SSLContext:
        """A context that stays the same and serves each client with the newest."""
        if self._front is None:
            front = _Front(ssl.PROTOCOL_TLS_SERVER)
            front.newest = lambda: self._loaded.context
            self._front = certificates.prepare(front, self._tls, self._tls, self._loaded.content)
        return self._front

    def refresh(self, now: float) -> bool:
        """Look at the files, and take new ones at once if they are right; tells whether there were any.

        So a mold does for the workers to come: what is there when they are born may be wrong, or there no more.

        Args:
            now: seconds, by a clock that is the same each time.
        """
        if not self._is_due(now):
            return False
        with contextlib.suppress(errors.HourdError):  # workers tell of it
            self._loaded = certificates.load(self._tls)
            return True
        return False

    def watch(self, log: logging.Logger, alpn: tuple[str, ...], *, tell: bool) -> None:
        """Look at the files from now on, in the running event loop.

        Args:
            log: where it is told what was found.
            alpn: protocols to offer.
            tell: whether operators are to see that; of all workers, which find the same, one tells them.
        """
        self._log = log
        self._quieten = 0 if tell else logging.DEBUG - logging.ERROR
        self._alpn = self._tls.alpn or alpn
        if certificates.stamps(self._tls) != self._loaded.stamps:
            with contextlib.suppress(errors.HourdError):  # it is looked at again, and told of then
                self._loaded = certificates.load(self._tls)
        if self._tls.sni:
            _pass_over_no_names()
        self._use(self._loaded)
        self._seen = self._tried = self._loaded.stamps
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(LOOK, self._look)
        self._warn()
        if self._reading:
            return
        if self._is_due(loop.time()):
            try:
                self._reading = loop.run_in_executor(None, certificates.load, self._tls)
            except RuntimeError as error:  # there can be no further thread
                self._problem = errors.SystemRefusedError(f"cannot read {self._tls.certificate}: {error}")
            else:
                self._reading.add_done_callback(self._take)
        elif self._problem and self._seen == self._tried:
            self._tell(self._problem)

    def _is_due(self, now: float) -> bool:
        """Look at the files; tells whether they are to be read."""
        stamps = certificates.stamps(self._tls)
        settled = stamps == self._seen
        self._seen = stamps
        if not settled:
            return False  # certificate and key are replaced one after the other
        if stamps == self._loaded.stamps:
            self._right_again()
            return False
        if stamps == self._tried and now < self._again:
            return False
        self._tried, self._again = stamps, now + _AGAIN
        return True

    def _take(self, reading: asyncio.Future[certificates.Loaded]) -> None:
        self._reading = None
        try:
            loaded = reading.result()
        except errors.HourdError as error:
            self._problem = error
            return
        changed = self._changed(loaded)
        self._use(loaded)
        self._right_again()
        if changed:
            self._warned = 0.0
            self._say(logging.INFO, f"new certificate in use: {', '.join(changed)}")

    def _changed(self, loaded: certificates.Loaded) -> list[str]:
        """Return which files have others than before: certificates of servers and of authorities, rather than keys."""
        paths = [path for path, content in loaded.content.items() if content != self._loaded.content[path]]
        keys = {each.key for each in (self._tls, *self._tls.sni.values())}
        return [path for path in paths if path not in keys] or paths

    def _use(self, loaded: certificates.Loaded) -> None:
        for context in (loaded.context, *loaded.named.values()):
            context.set_alpn_protocols(list(self._alpn))
        self._loaded = loaded

    def _tell(self, problem: errors.HourdError) -> None:
        if str(problem) != self._told:
            self._told = str(problem)
            self._say(logging.ERROR, f"{problem}; the certificate that was read before stays in use", own=_own(problem))

    def _right_again(self) -> None:
        if self._told:
            self._say(logging.INFO, "the files of the certificate are right again", own=_own(self._problem))
        self._told = self._problem = None

    def _warn(self) -> None:
        now = time.time()
        if abs(now - self._warned) >= _DAY:
            self._warned = now
            for sentence in certificates.ending(self._tls, self._loaded, now):
                self._say(logging.WARNING, sentence)

    def _say(self, level: int, text: str, *, own: bool = False) -> None:
        """Log what all workers find, or what is this one's own."""
        if self._log:
            self._log.log(level if own else max(logging.DEBUG, level + self._quieten), "%s", text)


def _own(problem: errors.HourdError | None) -> bool:
    """Tell whether siblings need not have the problem: it is the process that lacks something, not the files."""
    return isinstance(problem, errors.SystemRefusedError)


class _Front(ssl.SSLContext):
    """Leaves each connection to the newest context, whole.

    To change a connection's context once its client has asked for a name is not enough: its session would be one of
    this context for good, and could be resumed when the authority for its client's certificate is not trusted any more.
    """

    newest: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *arguments: Any, **more: Any) -> ssl.SSLObject:
        return self.newest().wrap_bio(*arguments, **more)

    def wrap_socket(self, *arguments: Any, **more: Any) -> ssl.SSLSocket:
        return self.newest().wrap_socket(*arguments, **more)


@functools.cache
def _pass_over_no_names() -> None:
    """Have nothing said of clients that ask for a name which is none: ssl prints each to standard error."""
    others = sys.unraisablehook

    def hook(about: sys.UnraisableHookArgs, /) -> None:
        if not (isinstance(about.exc_value, UnicodeDecodeError) and isinstance(about.object, bytes)):
            others(about)

    sys.unraisablehook = hook
