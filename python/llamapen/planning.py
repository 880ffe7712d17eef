"""What running a model would do (`plan`), and whether it would work (`preflight`). Neither does anything."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, List, Optional

from ._inputs import Machine, Path, config_json, options_json
from ._library import call_json_and_text
from .engine import PreparedEngine


@dataclass(frozen=True)
class Step:
    """One step of a `Plan`."""

    #: ``locate``, ``read_header``, ``verify_digest``, ``devices``, ``memory``, ``load_weights``, ``start_workers``...
    kind: str
    #: What it does here.
    detail: str


@dataclass(frozen=True, eq=False)
class Plan:
    """What would be done, in order. ``str()`` gives a line per step, and the memory as a table."""

    steps: List[Step]
    #: The engine that it leads to.
    engine: PreparedEngine
    #: All of it in lines for people.
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Check:
    """One thing that a `Preflight` looked at."""

    #: Which one, such as ``cpu_features``; names keep their meaning.
    name: str
    #: ``pass``, ``warn`` (it will run, with a drawback) or ``fail``.
    status: str
    #: What was found.
    message: str
    #: What to do, for everything that did not pass.
    remedy: Optional[str]


@dataclass(frozen=True)
class Preflight:
    """A report on everything that running a model needs. ``str()`` gives lines for people."""

    checks: List[Check]
    #: All of it in lines for people.
    text: str = field(repr=False)

    @property
    def status(self) -> str:
        """The worst status of any check."""
        return max((check.status for check in self.checks), key=["pass", "warn", "fail"].index, default="pass")

    @property
    def ok(self) -> bool:
        """Whether it will run: nothing fails."""
        return self.status != "fail"

    def get(self, name: str) -> Optional[Check]:
        """The check of this name, if it was made: what depends on something that failed is not."""
        return next((check for check in self.checks if check.name == name), None)

    def __str__(self) -> str:
        return self.text


def plan(model: Path, *, machine: Optional[Machine] = None, hub: Optional[Path] = None, **config: Any) -> Plan:
    """What would be done to run a model, step by step. Arguments and exceptions are those of `prepare`; given digests are
    not checked."""
    inputs = (*config_json(model, config), *options_json(machine, hub))
    encoded, text = call_json_and_text("llamapen_plan", *inputs)
    found = json.loads(encoded)
    steps = [Step(step["kind"], step["detail"]) for step in found["steps"]]
    return Plan(steps, PreparedEngine.from_json(json.dumps(found["engine"])), text)


def preflight(
    model: Path, *, machine: Optional[Machine] = None, hub: Optional[Path] = None, **config: Any
) -> Preflight:
    """Looks at everything that running a model needs, and says what is wrong and what to do about it.

    Arguments are those of `prepare`. What fails is a check of the report; only a configuration that cannot be read raises
    (`InvalidParams`). It tells of this moment: how much memory is free now. Given digests are not checked.
    """
    inputs = (*config_json(model, config), *options_json(machine, hub))
    encoded, text = call_json_and_text("llamapen_preflight", *inputs)
    checks = [Check(c["name"], c["status"], c["message"], c["remedy"]) for c in json.loads(encoded)["checks"]]
    return Preflight(checks, text)
