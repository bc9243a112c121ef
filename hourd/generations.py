"""The configurations in use: one for each generation, with its addresses, until no worker of it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import errors, events, log
from .listeners import Listeners
from .planning import plan
from .settings import Settings


class Generations:
    """Reads configurations, and keeps them while they are needed."""

    def __init__(self, settings: Settings, read_again: Callable[[], Settings], listeners: Listeners) -> None:
        """Take what to begin with.

        Args:
            settings: the first configuration.
            read_again: returns the configuration as it is now; raises ``HourdError``.
            listeners: the addresses.
        """
        self.committed = settings
        """The configuration that the daemon has settled on, or begins with."""
        self.all: Mapping[int, Settings] = {}
        self._read_again = read_again
        self._listeners = listeners
        self._obsolete: set[int] = set()
        """Generations that are neither committed nor tried any more."""

    def __getitem__(self, generation: int) -> Settings:
        return self.all[generation]

    def configure(self, generation: int) -> events.Event:
        """Read the configuration and take its addresses; all or nothing."""
        try:
            settings = self._read_again() if self.all else self.committed
            self._listeners.prepare(settings)
        except errors.HourdError as error:
            return events.Misconfigured(generation, str(error), error.exit_code)
        self.all = {**self.all, generation: settings}
        plans = tuple(
            plan(
                settings,
                name,
                before=self.committed,
                generation=generation,
                slots=self._listeners.slots(settings, name),
            )
            for name in settings.pools
        )
        return events.Configured(generation, plans)

    def commit(self, generation: int) -> None:
        """Settle on a configuration."""
        settings = self.all[generation]
        self._obsolete = set(self.all) - {generation}
        self._listeners.grant(settings)
        if settings.log != self.committed.log:
            log.set_up(settings.log)
        self.committed = settings

    def abandon(self, generation: int) -> None:
        """Let a configuration go that was tried; what it would have given up is wanted after all."""
        self._obsolete.add(generation)
        if wanted := set(self.all) - self._obsolete:
            self._listeners.reopen(self.all[max(wanted)])

    def forget(self, in_use: Callable[[], set[int]]) -> None:
        """Let go of those that are not needed any more, and of their sockets.

        Args:
            in_use: returns the generations that workers which serve are of.
        """
        gone = self._obsolete - in_use() if self._obsolete else set()
        if gone:
            self._obsolete -= gone
            self.all = {number: settings for number, settings in self.all.items() if number not in gone}
            self._listeners.keep(*self.all.values())
        self._listeners.let_go()
