"""The configurations in use: one for each generation, with its addresses, until no worker of it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from . import descriptors, errors, events, log, state
from .listeners import Listeners
from .planning import plan
from .settings import Range, Settings

_logger = logging.getLogger("hourd")


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
        self.obsolete: set[int] = set()
        """Generations that are neither committed nor tried any more."""

    def restore(self, saved: state.State) -> None:
        """Go on with the configurations of the program whose place we have taken."""
        self.all = saved.settings
        self.committed = saved.settings[saved.committed]
        self.obsolete = set(saved.obsolete)

    def __getitem__(self, generation: int) -> Settings:
        return self.all[generation]

    def configure(self, generation: int) -> events.Event:
        """Read the configuration and take its addresses; all or nothing."""
        try:
            settings = self._read() if self.all else self.committed
            self._listeners.prepare(settings)
        except errors.HourdError as error:
            return events.Misconfigured(generation, str(error), error.exit_code)
        try:
            plans = tuple(self._plan(settings, generation))
        except errors.HourdError as error:
            self._listeners.keep(*self.all.values())
            return events.Misconfigured(generation, str(error), error.exit_code)
        self.all = {**self.all, generation: settings}
        return events.Configured(generation, plans)

    def _read(self) -> Settings:
        """Read the configuration again.

        Raises:
            errors.HourdError: there are mistakes; or one of ours, which is no reason to end who serves.
        """
        try:
            return self._read_again()
        except errors.HourdError:
            raise
        except Exception as error:
            _logger.exception("the configuration could not be read")
            why = f"the configuration could not be read: {type(error).__name__}"
            raise errors.HourdError(f"{why}; that is a bug of hourd, and its traceback is in the log") from error

    def _plan(self, settings: Settings, generation: int) -> Iterator[events.Plan]:
        """Yield the plan of each pool. Every slot that may be wanted is bound: what the load wants is then there.

        Raises:
            errors.HourdError: the slots that a pool begins with cannot be had.
        """
        plans = []
        coming = 0
        for name in settings.pools:
            slots = self._listeners.slots(settings, name)
            each = plan(settings, name, before=self.committed, generation=generation, slots=slots)
            # At the start nobody is there yet, and each pool will have a mold.
            coming += max(0, each.workers - slots) if self.all else each.workers + 1
            self._listeners.reserve([settings], name, max(each.workers, slots), coming)
            plans.append(each)
        for each in plans:
            yield self._cut(each, settings, coming)
            coming += 0 if each.range is None else self._listeners.reserved(settings, each.pool) - each.workers

    def _cut(self, whole: events.Plan, settings: Settings, coming: int) -> events.Plan:
        """Bind what a range may come to want, and return the plan with as much of the range as can be had."""
        if whole.range is None:
            return whole
        name, least = whole.pool, self._listeners.reserved(settings, whole.pool)
        most = min(whole.range.max, max(least, self._listeners.room(settings, name, coming)))
        try:
            self._listeners.reserve([settings], name, most, coming + most - least)
        except errors.HourdError:
            most = least
        if most == whole.range.max:
            return whole
        which = f"pool {name}: descriptors are left for {most} workers, not for {whole.range.max}"
        _logger.warning("%s; %s", which, descriptors.ADVICE)
        return replace(whole, range=Range(min=whole.range.min, max=most))

    def commit(self, generation: int) -> None:
        """Settle on a configuration."""
        settings = self.all[generation]
        self.obsolete = set(self.all) - {generation}
        self._listeners.grant(settings)
        self._listeners.settle()
        if settings.log != self.committed.log:
            log.set_up(settings.log)
        self.committed = settings

    def abandon(self, generation: int) -> None:
        """Let a configuration go that was tried; what it would have given up is wanted after all."""
        self.obsolete.add(generation)
        if wanted := set(self.all) - self.obsolete:
            self._listeners.reopen(self.all[max(wanted)])

    def forget(self, in_use: Callable[[], set[int]]) -> None:
        """Let go of those that are not needed any more, and of their sockets.

        Args:
            in_use: returns the generations that workers which serve are of.
        """
        gone = self.obsolete - in_use() if self.obsolete else set()
        if gone:
            self.obsolete -= gone
            self.all = {number: settings for number, settings in self.all.items() if number not in gone}
            self._listeners.keep(*self.all.values())
        self._listeners.let_go()
