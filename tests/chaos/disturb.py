"""What goes wrong, and when: a plan that the seed alone decides, and what carries it out."""

import dataclasses
import random
import threading
import time

KILLED = {
    "api-1": 3, "api-2": 3, "conductor-1": 5, "conductor-2": 5, "compute-left": 5, "compute-right": 5,
    "network-agent-left": 2, "network-agent-right": 2, "identity": 1, "image": 2, "network": 2, "volume": 2, "placement": 1,
    "metadata": 1, "key-manager": 2, "scheduler": 2,
}  # fmt: skip
# For how long others leave a silent conductor's work alone.
LEASE = 10
# Longer than that, and than the silence after which a host is down and its servers may be evacuated.
LONG = {"conductor-1": 16, "conductor-2": 16, "compute-left": 18, "compute-right": 18}
# Without both of them no host is up, and a create ends at once.
TWIN = {"compute-left": "compute-right", "compute-right": "compute-left"}
# Runs of so many seconds have time for each of these; a shorter one has it for one host's.
TIME_FOR_ALL = 120

# For how long an API believes what it saw.
LOOK_AGE = 3


@dataclasses.dataclass
class Disturbance:
    """One of them; times in seconds since the begin."""

    at: float
    how: str
    whom: str
    until: float


def plan(seed, seconds):
    """All disturbances of a run; one at a time for each victim."""
    dice = random.Random(f"{seed}/disturbances")
    free, made, at = {}, [], 4.0
    # Each at least once.
    due = {"broker": 0.35 * seconds, "database": 0.65 * seconds}
    victims = dice.sample(list(KILLED), len(KILLED))
    due |= {whom: (0.05 + 0.8 * turn / len(victims)) * seconds for turn, whom in enumerate(victims)}
    # Each of these is away for long at least once.
    long = set(LONG) if seconds >= TIME_FOR_ALL else {dice.choice(("compute-left", "compute-right"))}

    def there(whom):
        return all(free.get(one, 0) < at for one in (whom, TWIN.get(whom)))

    while at < seconds or due:
        how = dice.choices(("kill", "pause", "broker", "database"), (14, 6, 1, 1))[0]
        whom = dice.choices(list(KILLED), list(KILLED.values()))[0]
        waiting = [one for one, when in due.items() if when <= at and there(one)]
        if waiting:
            which = min(waiting, key=due.get)
            del due[which]
            how, whom = ("kill", which) if which in KILLED else (which, which)
        if how in ("broker", "database"):
            whom, lasts = how, dice.uniform(2, 8)
        else:
            lasts = dice.uniform(0.1, 3) if how == "kill" else dice.uniform(0.5, 6)
            if whom in LONG and (dice.random() < 0.15 or how == "kill" and whom in long):
                lasts = LONG[whom]
        if there(whom):
            free[whom] = at + lasts + 1
            if how == "kill" and lasts == LONG.get(whom):
                long.discard(whom)
            made.append(Disturbance(at, how, whom, at + lasts))
            victim = dice.choice(list(KILLED))
            if how == "database" and there(victim):
                # It comes back while its database is away, and must wait for that.
                free[victim] = at + lasts
                made.append(Disturbance(at + 0.2, "kill", victim, at + 1))
        at += dice.uniform(0.5, 4)
    return made


@dataclasses.dataclass
class Recovery:
    """From a kill to the end of the last of the work that the victim had; seconds."""

    whom: str
    since: float
    left: set
    # When its process was started again.
    back: float | None = None
    took: float | None = None

    @property
    def dead(self):
        """For how long of that time the process was dead."""
        return self.took if self.back is None else min(self.back - self.since, self.took)


class Watch(threading.Thread):
    """Sees when work ends: how long after a kill the last of the work that the victim had."""

    PAUSE = 0.2
    OF_CONDUCTOR = "SELECT id FROM tasks WHERE owner LIKE 'conductor-control-{number}-%'"
    OF_HOST = "SELECT DISTINCT task_id FROM host_work WHERE host LIKE '{host}-%' AND outcome IS NULL"

    def __init__(self, postgres):
        super().__init__(daemon=True)
        self.postgres, self.lock, self.stop = postgres, threading.Lock(), threading.Event()
        self.waiting, self.recoveries, self.ended = [], [], 0
        self.ended_without_broker, self.broker_away = 0, False

    def had(self, whom):
        """The open tasks of a victim; nothing while the database is away."""
        role, _, which = whom.rpartition("-")
        if role == "conductor":
            sql = self.OF_CONDUCTOR.format(number=which)
        elif role == "compute":
            sql = self.OF_HOST.format(host=which)
        else:
            return set()
        return set(self.postgres.query(sql) or ())

    def killed(self, whom):
        now = time.monotonic()
        had = self.had(whom)
        if had:
            with self.lock:
                self.waiting.append(Recovery(whom, now, had))

    def back(self, whom):
        """The process is started again."""
        now = time.monotonic()
        with self.lock:
            for one in self.waiting:
                if one.whom == whom and one.back is None:
                    one.back = now

    def run(self):
        known = set()
        while not self.stop.wait(self.PAUSE):
            lines = self.postgres.query("SELECT id FROM tasks")
            if lines is None:
                continue
            now, open_tasks = time.monotonic(), set(lines)
            gone = len(known - open_tasks)
            self.ended += gone
            if self.broker_away:
                self.ended_without_broker += gone
            known = open_tasks
            with self.lock:
                for one in self.waiting:
                    one.left &= open_tasks
                    if not one.left:
                        one.took = now - one.since
                        self.recoveries.append(one)
                self.waiting = [one for one in self.waiting if one.left]


class Havoc:
    """Carries the plan out, on the thread that calls it: the processes are its children and end with it."""

    def __init__(self, machines, watch, say):
        self.machines, self.watch, self.say = machines, watch, say
        self.counts = {"kill": 0, "pause": 0, "broker": 0, "database": 0}
        self.unready = 0
        self.trouble, self.away = [], []
        self.database_comes = threading.Event()

    def run(self, planned, seconds):
        began = time.monotonic()
        events = [(one.at, 0, number, one) for number, one in enumerate(planned)]
        events += [(one.until, 1, number, one) for number, one in enumerate(planned)]
        for at, ends, _, one in sorted(events, key=lambda event: event[:3]):
            self.rest(began + at)
            (self.end if ends else self.begin)(one)
        self.rest(began + seconds)

    def rest(self, until):
        """Waits, and starts again what ended by itself, as an init system does."""
        while True:
            for name in self.machines.ended():
                if name not in self.down:
                    self.trouble.append(f"{name} ended by itself: {self.machines.processes[name].process.returncode}")
                    self.machines.spawn(name)
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.25))

    down = frozenset()

    def see_unready(self):
        """While the database is away an API that runs says that it is not ready, soon, and not that it is."""
        began = time.monotonic()
        while not self.database_comes.is_set():
            for port in self.machines.api_ports:
                asked = time.monotonic()
                status = self.machines.readiness(port)
                self.unready += status == 503
                # Its last look may be some seconds old.
                if status == 200 and began + LOOK_AGE < asked and not self.database_comes.is_set():
                    self.trouble.append("an API says that it is ready without its database")
            time.sleep(0.2)

    def begin(self, one):
        self.say(f"{one.how} {one.whom} for {one.until - one.at:.1f} s")
        self.counts[one.how] += 1
        if one.how == "kill":
            self.down |= {one.whom}
            self.machines.kill(one.whom)
            self.watch.killed(one.whom)
        elif one.how == "pause":
            self.machines.pause(one.whom)
        elif one.how == "broker":
            self.watch.broker_away = True
            self.machines.broker.kill()
        else:
            self.machines.postgres.crash()
            self.database_comes.clear()
            self.away.append(threading.Thread(target=self.see_unready, daemon=True))
            self.away[-1].start()

    def end(self, one):
        if one.how == "kill":
            self.machines.spawn(one.whom)
            self.watch.back(one.whom)
            self.down -= {one.whom}
        elif one.how == "pause":
            if one.whom in self.machines.stopped:
                self.machines.resume(one.whom)
        elif one.how == "broker":
            self.watch.broker_away = False
            self.machines.broker.start()
        else:
            self.database_comes.set()
            self.machines.postgres.start()
