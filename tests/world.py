"""A small world for the supervisor: it does what is asked, late, and lets things go wrong.

The world knows two things of every child apart: what is true (``alive``, ``accepts``), and what the
supervisor was told and asked for (``born``, ``ready``, ``told``). Its physics:

- What a child says arrives in order, and so does what it is told. Its end (``Lost``) comes last.
  Its exit (``Exited``) may overtake all that but its birth.
- A mold forks in the order it was asked. A fork that was asked for and never came to be is ``Lost``.
- A killed child dies, a hung one does nothing else.

The laws that hold after every event stand in ``_allow`` (may this be asked for?) and ``_check``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from random import Random

from hourd import events as e
from hourd.settings import Range, Recycle
from hourd.supervisor import Supervisor

POOLS = ("web", "console", "shell")
MARGIN = 12.0
"""Seconds that a stop may take beyond the longest grace: to be helped to an end, and to be heard of."""
MOLD = -1
BEAT = 0.25
"""Seconds between two beats."""


@dataclass(slots=True)
class Child:
    """A process, or the wish for one."""

    id: int
    pool: str
    generation: int
    slot: int
    parent: Child | None = None
    preload: bool = False
    plan: e.Plan | None = None
    # What is true.
    alive: bool = False
    hung: bool = False
    stopped: bool = False
    unable_at: float = -100.0
    beat: float = 0.0
    """When its loop turned last, while it does not."""
    requests: int = 0
    unheard: list[Callable[[], None]] = field(default_factory=list)
    """What it will do once it goes on."""
    accepts: set[int] = field(default_factory=set)
    waiting: list[Child] = field(default_factory=list)
    """What a hung mold was asked to fork."""
    hears_at: float = 0.0
    heard_at: float = 0.0
    # What the supervisor was told.
    born: bool = False
    ready: bool = False
    ready_at: float = 0.0
    lost: bool = False
    slow: bool = False
    """Its last sample says so."""
    # What the supervisor asked for.
    told: dict[int, bool] = field(default_factory=dict)
    """The slots to attend, and whether the answer was delivered."""
    ending: bool = False
    """It was told to drain, was dismissed or killed."""
    drained: bool = False
    killed: bool = False
    dumped: bool = False

    @property
    def grace(self) -> float:
        return self.plan.grace if self.plan else 0.0

    @property
    def serves(self) -> bool:
        """Whether the supervisor may count on it."""
        return self.ready and not self.lost and not self.ending and self.slot != MOLD


class World:
    """Children, configurations and a clock around one supervisor.

    Args:
        random: decides everything that the supervisor does not.
        ills: how likely a generation, a boot or an end goes wrong, from 0 to 1.
    """

    def __init__(self, random: Random, ills: float = 0.15) -> None:
        self.random = random
        self.ills = ills
        self.supervisor = Supervisor(Random(random.random()))
        self.now = 1000.0
        self.latency = random.choice((0.001, 0.02, 0.5))
        self.children: dict[int, Child] = {}
        """All that were asked for and of whose end the supervisor has not heard."""
        self.heard = 0
        self.transcript: deque[tuple[float, e.Event, list[e.Action]]] = deque(maxlen=40)
        self.plans: dict[int, tuple[e.Plan, ...]] = {0: ()}
        self.ailments: dict[int, str] = {}
        self.committed = 0
        self.trial = 0
        self.busy = 0.3
        """The share of their time in which workers work."""
        self.traffic = True
        """Whether anybody sends requests."""
        self.unanswered: set[int] = set()
        self.concluded: list[e.Conclude] = []
        self.stopping_since: float | None = None
        self.exit_code: int | None = None
        self.begun: list[tuple[float, str, int]] = []
        """When a child was asked for, and for which seat."""
        self._attended: dict[str, set[int]] = {}
        self._bound: Counter[str] = Counter()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._ids: set[int] = set()
        self._pid = 4000
        self._said: deque[e.Event] = deque(maxlen=64)

    # --- time -------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Let the next thing happen; return False when nothing ever will."""
        wake = self.supervisor.deadline()
        if self._agenda and (wake is None or self._agenda[0][0] <= wake):
            at, _, happen = heappop(self._agenda)
            self.now = max(self.now, at)
            happen()
        elif wake is not None:
            self.now = max(self.now, wake)
            self.tell(self.sample())
            self.tell(e.Elapsed())
        else:
            return False
        return self.exit_code is None

    def run(self, seconds: float) -> None:
        """Let so much time pass, or less if the daemon ends or nothing is left to happen."""
        end = self.now + seconds
        while self.now < end and self.step():
            pass

    def _later(self, at: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._agenda, (at, self._order, happen))

    def _soon(self, most: float = 0.0) -> float:
        return self.now + self.random.random() * (most or self.latency)

    # --- what the supervisor hears ----------------------------------------------------------------

    def tell(self, event: e.Event) -> None:
        """Deliver an event, do what is asked for, and see that every law holds."""
        if self.exit_code is not None:
            return
        self.heard += 1
        self._know(event)
        actions = self.supervisor.handle(event, self.now)
        self.transcript.append((self.now, event, actions))
        for action in actions:
            if not isinstance(action, e.Say):
                self._allow(action)
                self._do(action)
        self._check()

    def sample(self) -> e.Sampled:
        """Look at all workers, as they are."""
        samples = []
        for child in self.children.values():
            if child.slot == MOLD or not child.born:
                continue
            if child.alive and not child.hung and not child.stopped:
                child.beat = max(child.beat, self.now - self.random.random() * BEAT)
                child.requests += self.random.randrange(200) if self.traffic else 0
            samples.append(
                e.Sample(
                    worker=child.id,
                    beat=child.beat,
                    connections=self.random.randrange(100),
                    requests=child.requests,
                    busy=self.busy,
                    memory=self.random.randrange(1000),
                )
            )
        return e.Sampled(tuple(samples))

    def _know(self, event: e.Event) -> None:  # noqa: C901, a table
        match event:
            case e.Sampled(samples):
                for sample in samples:
                    if (child := self.children.get(sample.worker)) and child.plan and child.ready:
                        child.slow = self.now >= max(sample.beat, child.ready_at) + child.plan.slow
            case e.Configured(generation, plans):
                self.trial = generation
                self.plans[generation] = plans
            case e.Born(number) | e.Ready(number) | e.MoldReady(number) if child := self.children.get(number):
                child.born = True
                if not isinstance(event, e.Born) and not child.ready:
                    child.ready, child.ready_at = True, self.now
            case e.Attending(number, slot) if (child := self.children.get(number)) and slot in child.told:
                child.told[slot] = True
                if child.serves:
                    self._attended.setdefault(child.pool, set()).add(slot)
            case e.Unable(number, slot) if (child := self.children.get(number)) and child.told.get(slot) is False:
                del child.told[slot]
                child.unable_at = self.now
                self._attended.get(child.pool, set()).discard(slot)  # until somebody does attend it
            case e.Lost(number) if child := self.children.get(number):
                child.lost = True
                if not child.born:
                    del self.children[number]
            case e.Exited(number):
                self.children.pop(number, None)

    def _says(self, child: Child, event: e.Event) -> None:
        """Put an event on the child's channel: it keeps its order."""
        child.heard_at = max(child.heard_at, self._soon())
        self._later(child.heard_at, partial(self.tell, event))
        self._said.append(event)

    # --- what the supervisor asks for -------------------------------------------------------------

    def _do(self, action: e.Action) -> None:  # noqa: C901, PLR0912, a table of all actions
        match action:
            case e.Configure(generation):
                self.unanswered.add(generation)
                self._later(self._soon(0.5), partial(self._configure, generation))
            case e.StartMold(number, pool, generation, preload):
                mold = Child(number, pool, generation, MOLD, preload=preload, alive=True, born=True)
                self.children[number] = mold
                self.begun.append((self.now, pool, MOLD))
                self._later(self._soon(2.0), partial(self._load, mold))
            case e.Spawn(number, parent, pool, slot, generation):
                plan = next(plan for plan in self.plans[generation] if plan.pool == pool)
                child = Child(number, pool, generation, slot, self.children[parent], plan=plan)
                self.children[number] = child
                self.begun.append((self.now, pool, slot))
                self._send(self.children[parent], partial(self._fork, child))
            case e.Attend(number, slot):
                child = self.children[number]
                child.told[slot] = False
                self._bound[child.pool] = max(self._bound[child.pool], slot + 1)
                self._send(child, partial(self._attend, child, slot))
            case e.Release(number, slot):
                child = self.children[number]
                del child.told[slot]
                self._send(child, partial(child.accepts.discard, slot))
            case e.Drain(number):
                child = self.children[number]
                child.ending = child.drained = True
                self._send(child, partial(self._drain, child))
            case e.Dismiss(number):
                child = self.children[number]
                child.ending = True
                self._send(child, partial(self._leave, child))
            case e.Dump(number):
                child = self.children[number]
                child.ending = child.dumped = True
            case e.Kill(number):
                child = self.children[number]
                child.ending = child.killed = True
                self._later(self._soon(), partial(self._die, child, -9))
            case e.Commit(generation):
                self.committed, self.trial = generation, 0
            case e.Abandon(generation) if generation == self.trial:
                self.trial = 0
            case e.Conclude():
                self.concluded.append(action)
                self.unanswered -= set(action.answers)
            case e.Notify("stopping"):
                self.stopping_since = self.now
            case e.Exit(code):
                self.exit_code = code

    def _configure(self, generation: int) -> None:
        ailment = self._ill() and self.random.choice(("yaml", "import", "boot", "exit", "hang", "hang boot"))
        if ailment == "yaml":
            return self.tell(e.Misconfigured(generation, "hourd.yaml:3: pools: missing", 78))
        self.ailments[generation] = ailment or ""
        names = self.random.sample(POOLS, self.random.choice((1, 1, 2, 3)))
        return self.tell(e.Configured(generation, tuple(self._plan(name, generation) for name in names)))

    def _plan(self, pool: str, generation: int) -> e.Plan:
        return e.Plan(
            pool=pool,
            generation=generation,
            workers=self.random.choice((1, 1, 2, 2, 3, 4)),
            slots=self._bound[pool],
            preload=self.random.random() < 0.7,
            boot=self.random.choice((5.0, 10.0)),
            grace=self.random.choice((0.0, 2.0, 8.0)),
            slow=self.random.choice((0.5, 1.0, 3.0)),
            hung=self.random.choice((3.0, 6.0)),
            recycle=self.random.choice((Recycle(), Recycle(), Recycle(requests=5000), Recycle(age=60.0))),
            range=self.random.choice((None, None, Range(min=1, max=4))),
            narrows=self.random.random() < 0.3,
        )

    def _ill(self, share: float = 1.0) -> bool:
        return self.random.random() < self.ills * share

    # --- what children do -------------------------------------------------------------------------

    def _send(self, child: Child, happen: Callable[[], None]) -> None:
        """Put something on the channel to a child: it keeps its order."""
        child.hears_at = max(child.hears_at, self._soon())
        self._later(child.hears_at, partial(self._when_it_runs, child, happen))

    def _when_it_runs(self, child: Child, happen: Callable[[], None]) -> None:
        if child.stopped and child.alive:
            child.unheard.append(happen)
        else:
            happen()

    def _stop(self, child: Child) -> None:
        """Stop a child (SIGSTOP), mostly for a while only."""
        if not child.stopped:
            child.stopped = True
            self._later(self.now + self.random.choice((0.2, 2.0, 10.0)), partial(self._continue, child))

    def _continue(self, child: Child) -> None:
        child.stopped = False
        unheard, child.unheard = child.unheard, []
        for happen in unheard:
            self._when_it_runs(child, happen)

    def _load(self, mold: Child) -> None:
        ailment = self._ailment(mold)
        if not mold.alive or mold.hung or ailment == "hang":
            mold.hung = True
        elif ailment in ("import", "exit"):
            self._fail(mold, ailment, "ImportError: no module named hello")
        elif mold.preload and self._ill():
            self._says(mold, e.MoldUnsafe(mold.id, "a thread"))
        else:
            self._says(mold, e.MoldReady(mold.id))

    def _fork(self, child: Child) -> None:
        mold = child.parent
        assert mold is not None
        if mold.alive and mold.hung:
            mold.waiting.append(child)
        elif not mold.alive or self._ill(0.1):
            self._says(child, e.Lost(child.id))
        else:
            child.alive = True
            self._pid += 1
            self._says(child, e.Born(child.id, self._pid))
            self._later(self._soon(1.0), partial(self._boot, child))

    def _boot(self, child: Child) -> None:
        ailment = self._ailment(child)
        if not child.alive or ailment == "hang boot":
            child.hung = True
        elif ailment in ("boot", "exit"):
            self._fail(child, ailment, "OSError: no database")
        else:
            self._says(child, e.Ready(child.id))
            child.hung = self._ill(0.1)

    def _ailment(self, child: Child) -> str:
        """Return what goes wrong: mostly as the generation is, sometimes of its own."""
        if self.ills and self.ailments[child.generation] and self.random.random() < 0.8:
            return self.ailments[child.generation]
        return self.random.choice(("import", "boot", "exit", "hang boot")) if self._ill(0.1) else ""

    def _fail(self, child: Child, how: str, why: str) -> None:
        if how != "exit":
            self._says(child, e.Failed(child.id, why, 75))
        self._die(child, self.random.choice((0, 1, 3)))

    def _attend(self, child: Child, slot: int) -> None:
        if child.alive and not child.hung and self._ill(0.3):
            self._says(child, e.Unable(child.id, slot))
        elif child.alive and not child.hung:
            child.accepts.add(slot)
            self._says(child, e.Attending(child.id, slot))

    def _drain(self, child: Child) -> None:
        if child.alive and not child.hung and not self._ill():
            self._later(self._soon(child.grace), partial(self._die, child, 0))

    def _leave(self, mold: Child) -> None:
        if mold.alive and not mold.hung:
            self._die(mold, 0)

    def _die(self, child: Child, code: int) -> None:
        if not child.alive:
            return
        child.alive = False
        for unborn in child.waiting:
            self._says(unborn, e.Lost(unborn.id))
        if child.stopped:
            self._continue(child)  # what it did not hear goes nowhere
        exited_at = self._soon()
        if not child.born:
            exited_at = max(exited_at, child.heard_at)
        if self.random.random() < 0.8:
            self._says(child, e.Lost(child.id))
            exited_at = max(exited_at, child.heard_at)
        else:
            child.heard_at = max(child.heard_at, exited_at)
            self._says(child, e.Lost(child.id))
        self._later(exited_at, partial(self.tell, e.Exited(child.id, code, oom=code == -9 and self._ill())))

    # --- what goes wrong, and what operators want -------------------------------------------------

    def trouble(self) -> None:  # noqa: C901, a table
        """Let one thing happen that the supervisor did not ask for."""
        random = self.random
        alive = [child for child in self.children.values() if child.alive]
        child = random.choice(alive) if alive else None
        kinds = ("signal", "exit", "hang", "freeze", "deaf", "reload", "scale", "leaving", "look", "load", "late",
                 "jump", "stop")  # fmt: skip
        kind = random.choices(kinds, (20, 8, 4, 10, 1, 12, 6, 8, 10, 4, 8, 1, 0.3))[0]
        match kind:
            case "signal" | "exit" if child:
                self._die(child, random.choice((-9, -11)) if kind == "signal" else random.choice((0, 1)))
            case "hang" if child:
                child.hung = True
            case "freeze" if child and child.slot != MOLD:
                self._stop(child)
            case "deaf" if child and child.born:
                self._says(child, e.Lost(child.id))
            case "reload":
                self.tell(e.ReloadAsked())
            case "scale":
                scale = e.ScaleAsked(random.choice(POOLS), random.choice((0, 1, 2, 3, 4, 6)))
                self.tell(random.choice((scale, e.StepAsked(1), e.StepAsked(-1))))
            case "leaving" if child and child.slot != MOLD:
                self._says(child, e.Leaving(child.id))
            case "look":
                self.tell(self.sample())
            case "load":
                self.busy = random.choice((0.0, 0.3, 0.7, 1.0))
            case "late":
                self._repeat()
            case "jump":
                self._jump(random.uniform(5, 300))
            case "stop":
                self.tell(random.choice((e.StopAsked(), e.StopAsked(now=True), e.Interrupted())))

    def fell(self, *, molds: bool, code: int = 1) -> None:
        """Let all workers die that live, or all molds."""
        for child in list(self.children.values()):
            if (child.slot == MOLD) is molds:
                self._die(child, code)

    def _jump(self, seconds: float) -> None:
        """Let time pass that nobody had: the machine was suspended."""
        self.now += seconds
        if self.stopping_since is not None:
            self.stopping_since += seconds

    def _repeat(self) -> None:
        """Deliver again what a child once said that is gone now."""
        said = [event for event in self._said if _speaker(event) not in self.children]
        if said:
            self.tell(self.random.choice(said))

    # --- the laws ---------------------------------------------------------------------------------

    def closing(self, pool: str) -> bool:
        """Whether the pool is in no configuration that is, or is being tried."""
        plans = (*self.plans[self.committed], *self.plans[self.trial])
        return self.stopping_since is not None or all(plan.pool != pool for plan in plans)

    def _allow(self, action: e.Action) -> None:  # noqa: C901, a table
        match action:
            case e.StartMold(number, pool, generation):
                self._law(number not in self._ids and generation in (self.committed, self.trial), action)
                self._ids.add(number)
                same = (c for c in self.children.values() if (c.slot, c.pool, c.generation) == (MOLD, pool, generation))
                self._law(all(mold.ending or mold.lost for mold in same), action, "there is one")
            case e.Spawn(number, parent, pool, slot, generation):
                self._law(number not in self._ids, action)
                self._ids.add(number)
                mold = self._there(parent, action)
                self._law(mold.ready and not mold.ending and not mold.lost, action, "the mold cannot fork")
                self._law((mold.slot, mold.pool, mold.generation) == (MOLD, pool, generation), action)
            case e.Attend(number, slot):
                child = self._there(number, action)
                self._law(child.serves and slot not in child.told and not self.closing(child.pool), action)
            case e.Release(number, slot):
                child = self._there(number, action)
                self._law(slot in child.told and child.serves, action)
                others = [c for c in self.children.values() if c is not child and c.pool == child.pool and c.serves]
                taken = self.closing(child.pool) or any(other.told.get(slot) for other in others)
                self._law(taken, action, "nobody else attends the slot")
            case e.Drain(number):
                child = self._there(number, action)
                self._law(child.serves and not child.told, action)
                self._law(self.closing(child.pool) or child.slow or self._spared(child), action, "it has no successor")
            case e.Dismiss(number):
                child = self._there(number, action)
                self._law(child.slot == MOLD and not child.ending and not child.lost, action)
            case e.Dump(number):
                child = self._there(number, action)
                self._law(child.born and not child.killed and not child.dumped, action)
            case e.Kill(number):
                child = self._there(number, action)
                self._law(child.born and not child.killed, action)
            case e.Conclude(_, _, _, _, answers):
                self._law(set(answers) <= self.unanswered and len(set(answers)) == len(answers), action)
            case e.Commit(generation):
                self._law(generation == self.trial, action)
            case e.Exit():
                self._law(not any(child.alive for child in self.children.values()), action, "somebody lives")
                self._law(not self.unanswered, action, "somebody waits for an answer")

    def _there(self, number: int, action: e.Action) -> Child:
        self._law(number in self.children, action, "it is not there")
        return self.children[number]

    def _spared(self, child: Child) -> bool:
        """Whether a worker is one too many, or its seat is taken by one that attends it."""
        pool = self.supervisor.pools[child.pool]
        plans = [plan for plan in (pool.stable, pool.trial if pool.rolling else None) if plan]
        return child.slot >= min((plan.workers for plan in plans), default=0) or any(
            other.serves and other.pool == child.pool and other.slot == child.slot and other.told.get(child.slot)
            for other in self.children.values()
            if other is not child
        )

    def _kept(self, name: str) -> set[int]:
        """Return the slots of which all addresses are attended while a trial lacks some; the others' are not lost yet."""
        pool = self.supervisor.pools[name]
        serving = [child for child in self.children.values() if child.pool == name and child.serves]
        if pool.rolling and pool.stable and pool.trial and pool.trial.narrows:
            old = [child for child in serving if child.generation == pool.stable.generation]
            serving = old or serving
        return {slot for child in serving for slot in child.told}

    def _given_up(self, child: Child) -> bool:
        """Whether it is to be killed at its birth."""
        worker = self.supervisor.pools[child.pool].workers.get(child.id)
        return worker is not None and worker.state == "dying"

    def _check(self) -> None:
        told: dict[str, set[int]] = {}
        well: dict[str, set[int]] = {}
        # Who had no descriptors is asked again after a second.
        unable = {child.pool for child in self.children.values() if self.now < child.unable_at + 1.1}
        seats: set[tuple[str, int]] = set()
        for child in self.children.values():
            if child.serves:
                told.setdefault(child.pool, set()).update(child.told)
                if not child.slow:
                    well.setdefault(child.pool, set()).update(child.told)
                seats.add((child.pool, child.slot))
        for pool in list(self._attended):
            if self.closing(pool):
                del self._attended[pool]
            elif pool in told and pool not in unable:
                self._law(self._attended[pool] <= told[pool], pool, "a slot is left alone")
                slots = self._attended[pool] if pool in well else set()
                self._law(slots <= well.get(pool, set()), pool, "a slot is left to who is slow")
                self._law(self._attended[pool] <= self._kept(pool), pool, "a slot is left to who lacks an address")
        successors = Counter(
            child.pool
            for child in self.children.values()
            if not (child.ready or child.ending or child.lost or self._given_up(child))
            and (child.pool, child.slot) in seats
        )
        self._law(all(number == 1 for number in successors.values()), successors, "two successors at a time")
        if self.exit_code is None:
            more = self.supervisor.handle(e.Elapsed(), self.now)
            self._law(not more, more, "asked for only when called again")
            due = self.supervisor.deadline()
            self._law(due is None or due > self.now, due, "a deadline in the past")
        if self.stopping_since is not None and self.exit_code is None:
            grace = max((child.grace for child in self.children.values()), default=0.0)
            self._law(self.now - self.stopping_since < grace + 2 * MARGIN, None, "does not end")

    def unsettled(self) -> str:
        """Return what is not as ``check_settled`` wants it, or nothing."""
        try:
            self.check_settled()
        except AssertionError as error:
            return str(error)
        return ""

    def check_settled(self) -> None:
        """See that everything is as the committed configuration wants it, and nothing else lives."""
        self._law(self.supervisor.state(self.now) == "running", self.supervisor.state(self.now))
        self._law(self.supervisor.generation == self.committed and not self.trial, self.committed)
        self._law(not self.unanswered, self.unanswered, "somebody waits for an answer")
        wanted = {(plan.pool, slot) for plan in self.plans[self.committed] for slot in self._seats(plan)}
        there = [(child.pool, child.slot) for child in self.children.values()]
        self._law(sorted(there) == sorted(wanted), (there, wanted), "not settled")
        for child in self.children.values():
            fine = child.alive and child.ready and child.generation == self.committed and not child.ending
            self._law(fine and (child.slot == MOLD or child.slot in child.accepts), child)
            self._law(child.slot == MOLD or set(child.told) == child.accepts, child)
        for plan in self.plans[self.committed]:
            accepted = Counter(s for child in self.children.values() if child.pool == plan.pool for s in child.accepts)
            self._law(accepted == Counter(range(self.supervisor.pools[plan.pool].slots)), accepted)

    def _seats(self, plan: e.Plan) -> range:
        pool = self.supervisor.pools[plan.pool].stable
        assert pool is not None
        return range(MOLD, pool.workers)

    def _law(self, holds: object, what: object, why: str = "not allowed") -> None:
        if not holds:
            steps = "\n".join(f"    ({now!r}, {event!r}, {actions!r})," for now, event, actions in self.transcript)
            raise AssertionError(f"{why}: {what} at {self.now}\n{steps}")


def _speaker(event: e.Event) -> int:
    number = getattr(event, "worker", None) or getattr(event, "mold", None) or getattr(event, "child", None)
    assert isinstance(number, int)
    return number
