"""Certificates that are replaced while they are in use.

A mold reads them, as its user, so that what is wrong refuses a start or a reload, and workers that are forked from it
share the keys of session tickets. Each worker then looks at the files every second. What has stayed the same for a
second is read, in a thread, and serves new connections if it is right: certificate and key fit each other. What is not
right is told of once, and what was there before stays in use; a worker that is born meanwhile has it from its mold.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import sys
import time
from typing import Final

from . import certificates, errors, settings

_LOOK: Final = 1.0
"""Seconds between two looks at the files."""
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
        self._problem: str | None = None
        """Why what lies there now is not in use."""
        self._told = False
        self._warned = 0.0
        self._reading: asyncio.Future[certificates.Loaded] | None = None
        self._front: ssl.SSLContext | None = None

    @property
    def current(self) -> ssl.SSLContext:
        """The newest that was right."""
        return self._loaded.context

    @property
    def front(self) -> ssl.SSLContext:
        """A context that shows each client the newest certificate."""
        if self._front is None:
            front = certificates.make_context(self._tls, self._tls, self._loaded.content)
            front.set_alpn_protocols(list(self._alpn))
            _pass_over_no_names()
            front.sni_callback = certificates.chooser(lambda: self._loaded)
            self._front = front
        return self._front

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
        loop.call_later(_LOOK, self._look)
        self._warn()
        stamps = certificates.stamps(self._tls)
        settled = stamps == self._seen
        self._seen = stamps
        if not settled or self._reading:
            return  # certificate and key are replaced one after the other
        if stamps == self._loaded.stamps:
            self._right_again()
        elif stamps != self._tried:
            self._tried = stamps
            self._reading = loop.run_in_executor(None, certificates.load, self._tls)
            self._reading.add_done_callback(self._take)
        elif self._problem:
            self._tell()

    def _take(self, reading: asyncio.Future[certificates.Loaded]) -> None:
        self._reading = None
        try:
            loaded = reading.result()
        except errors.HourdError as error:
            self._problem = str(error)
            return
        changed = loaded.content != self._loaded.content
        self._use(loaded)
        self._right_again()
        if changed:
            self._warned = 0.0
            self._say(logging.INFO, f"new certificate in use: {self._tls.certificate}")

    def _use(self, loaded: certificates.Loaded) -> None:
        for context in (loaded.context, *loaded.named.values()):
            context.set_alpn_protocols(list(self._alpn))
        self._loaded = loaded

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._say(logging.ERROR, f"{self._problem}; the certificate that was read before stays in use")

    def _right_again(self) -> None:
        if self._told:
            self._say(logging.INFO, "the files of the certificate are right again")
        self._told, self._problem = False, None

    def _warn(self) -> None:
        now = time.time()
        if abs(now - self._warned) >= _DAY:
            self._warned = now
            for sentence in certificates.ending(self._tls, self._loaded, now):
                self._say(logging.WARNING, sentence)

    def _say(self, level: int, text: str) -> None:
        if self._log:
            self._log.log(max(logging.DEBUG, level + self._quieten), "%s", text)


@functools.cache
def _pass_over_no_names() -> None:
    """Have nothing said of clients that ask for a name which is none: ssl prints each to standard error."""
    others = sys.unraisablehook

    def hook(about: sys.UnraisableHookArgs, /) -> None:
        if not (isinstance(about.exc_value, UnicodeDecodeError) and isinstance(about.object, bytes)):
            others(about)

    sys.unraisablehook = hook
