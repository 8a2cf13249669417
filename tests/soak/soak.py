"""The soak itself: unbroken runs first, then the same jobs under kills, then the verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from app.records import Job
from tests.killable import postgres_folder
from tests.soak.installation import Installation
from tests.soak.kills import Kill, Killer
from tests.soak.verdict import essence, faults, left_files
from tests.soak.workload import BODIES, Client, Load
from tests.system.classifiers import register, trained_classifier

PAUSE = (0.3, 4.0)
"""Seconds between two kills, drawn evenly; the time until a server is back comes on top."""
QUIET_SECONDS = 900
"""For what is left to do after the last kill; ends a hang."""

Say = Callable[[str], None]


def soak(folder: Path, *, kills: int, seed: int, say: Say = print) -> list[str]:
    """What went wrong, which is nothing. The seed decides whom it hits and when, not how fast the machine is."""
    say(f"soak: {kills} kills, seed {seed}")
    dice = random.Random(seed)
    with postgres_folder() as data, Installation(folder, data) as service:
        register(service.deployment, trained_classifier(folder))
        client = Client(service)
        expected = {name: _unbroken(client, name) for name in BODIES}
        began = time.monotonic()
        done = _kill(client, dice, kills=kills, say=say)
        _finish(client)
        _summarize(client, done, seconds=time.monotonic() - began, say=say)
        wrong = faults(service.deployment, client.jobs, expected, done)
        wrong += client.complaints + service.fallen + service.stop()
        wrong += left_files(service.deployment)
    for fault in wrong:
        say(f"WRONG: {fault}")
    say(f"soak: {len(wrong)} faults after {kills} kills, seed {seed}")
    return wrong


def _unbroken(client: Client, name: str) -> dict[str, Any]:
    job = client.submit(name)
    deployment = client.service.deployment
    deployment.wait(job.id, seconds=QUIET_SECONDS)
    found = essence(deployment, job.id)
    assert found["status"] == "succeeded", (deployment.view(job.id), deployment.tail())
    return found


def _kill(client: Client, dice: random.Random, *, kills: int, say: Say) -> list[Kill]:
    """Every kind of victim equally often, in random order, at random moments."""
    killer = Killer(client.service, client, dice)
    victims = killer.victims
    order = [list(victims)[number % len(victims)] for number in range(kills)]
    dice.shuffle(order)
    load = Load(client)
    load.start()
    done = []
    for number, victim in enumerate(order, 1):
        time.sleep(dice.uniform(*PAUSE))
        client.service.look_after()
        done.append(victims[victim]())
        say(f"kill {number}: {victim} ({done[-1].state})")
    load.end()
    return done


def _finish(client: Client) -> None:
    """What the last kills left to do."""
    deadline = time.monotonic() + QUIET_SECONDS
    while left := client.refresh():
        client.service.look_after()
        assert time.monotonic() < deadline, (left, client.service.deployment.tail())
        time.sleep(0.5)


def _summarize(client: Client, kills: list[Kill], *, seconds: float, say: Say) -> None:
    with client.service.deployment.database.session() as session:
        counts = session.execute(select(Job.kind, func.count(), func.sum(Job.attempt)).group_by(Job.kind)).all()
    say(f"{len(kills)} kills in {seconds:.0f} s; {client.repeats} requests had to be repeated")
    for (victim, state), count in sorted(Counter((kill.victim, kill.state) for kill in kills).items()):
        say(f"  {count:3d} × {victim}: {state}")
    for kind, jobs, attempts in sorted(counts):
        say(f"  {jobs} {kind} jobs in {attempts} attempts")
