"""One instance of a platform that checks each answer against the model, and writes down what it asked and was told."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.emulator.client import Emulator
from tests.osb_client import Answer, Json, OsbClient
from tests.properties.model import (
    ABSENT,
    RUNS,
    Call,
    Phase,
    Said,
    Thing,
    Verb,
    World,
    allowed,
    canonical,
    explain,
    later,
)
from tests.tenant import together, works

WORKS_SECONDS = 90
"""How long anything that the machine does may take to end."""
REMEMBERED = 10
"""So many of the latest operations are polled for; the broker remembers twice as many."""


class Journal:
    """The steps of a run, to be read by people."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.began = time.monotonic()

    def note(self, line: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.2f} s  {line}")

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass
class InstanceOfAPlatform:
    """``worlds`` is what it and its bindings may be, by all that was heard."""

    name: str
    client: OsbClient
    atlas: Emulator
    journal: Journal
    bindings: int = 3
    suffix: str = ""
    worlds: frozenset[World] = frozenset()
    told: dict[int | None, list[str]] = field(default_factory=dict)
    requests: int = 0

    def __post_init__(self) -> None:
        self.instance_id = f"{uuid.uuid4()}{self.suffix}"
        self.binding_ids = [f"{uuid.uuid4()}{self.suffix}" for _ in range(self.bindings)]
        self.worlds = frozenset({World(bindings=(Thing(),) * self.bindings)})

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, *calls: Call) -> list[Said]:
        """At the same time; AssertionError when no order of them explains the answers."""
        answers = together(*[lambda call=call: self._send(call) for call in calls])
        heard = [(call, self._understood(call, answer)) for call, answer in zip(calls, answers, strict=True)]
        for call, said in heard:
            self._note(call, said, together=len(calls) > 1)
        explained = explain(self.worlds, heard)
        assert explained, self._complaint(heard)
        self.worlds = _late(explained, calls)
        return [said for _, said in heard]

    def operations(self, binding: int | None) -> list[str]:
        return self.told.get(binding, [])[-REMEMBERED:]

    def _understood(self, call: Call, answer: Answer) -> Said:
        body = answer.json
        assert answer.status < 400 or answer.description, f"{answer.status} without a sentence"
        assert call.binding is None or "Retry-After" not in answer.headers
        return Said(
            status=answer.status,
            fields=frozenset(body.keys() - {"description"}),
            error=str(body.get("error", "")),
            operation=str(body.get("operation", "")),
            state=str(body.get("state", "")),
            parameters=canonical(body["parameters"]) if "parameters" in body else "",
            credentials=canonical(body["credentials"]) if "credentials" in body else "",
        )

    def _send(self, call: Call) -> Answer:
        self.requests += 1
        client = self.client
        asked: list[str | Json] = [self.instance_id]
        if call.binding is not None:
            asked.append(self.binding_ids[call.binding])
        options: Json = {"accepts_incomplete": None if call.waits else True}
        verbs: dict[Verb, Callable[..., Answer]] = {
            Verb.PROVISION: client.provision,
            Verb.UPDATE: client.update,
            Verb.DEPROVISION: client.deprovision,
            Verb.BIND: client.bind,
            Verb.ROTATE: client.rotate,
            Verb.UNBIND: client.unbind,
            Verb.POLL: client.last_operation,
            Verb.FETCH: client.instance if call.binding is None else client.binding,
        }
        match call.verb:
            case Verb.PROVISION:
                asked.append(json.loads(call.parameters))
                options["fields"] = {"organization_guid": call.organization, "context": {"request": self.requests}}
            case Verb.UPDATE | Verb.BIND:
                asked.append(json.loads(call.parameters))
            case Verb.ROTATE:
                asked.append(self.binding_ids[call.predecessor])
            case Verb.POLL:
                options = {"operation": call.operation}
            case Verb.FETCH:
                options = {}
        return verbs[call.verb](*asked, **options)

    def _note(self, call: Call, said: Said, *, together: bool) -> None:
        if said.operation and said.operation not in self.told.setdefault(call.binding, []):
            self.told[call.binding].append(said.operation)
        self.journal.note(f"{'||' if together else '  '} {self.name}: {_asked(call)} -> {_heard(said)}")

    def _complaint(self, heard: Sequence[tuple[Call, Said]]) -> str:
        right = {
            f"{_asked(call)} -> {_heard(each)}" for call, said in heard for each in allowed(self.worlds, call, said)
        }
        known = {f"{w.instance.phase.name} {[each.phase.name for each in w.bindings]}" for w in later(self.worlds)}
        return (
            f"An answer about {self.name} ({self.instance_id}, bindings {self.binding_ids}) is not right.\n"
            f"The steps:\n{self.journal}\n"
            f"By them the instance and its bindings could be: {sorted(known)}\n"
            f"The right answers were (each on its own): {sorted(right)}"
        )

    # --- waiting --------------------------------------------------------------------------------------------------

    def settle(self) -> World:
        """Wait until nothing is under way; then there is one world, and Atlas has the users of it and no others."""
        for binding in (None, *range(self.bindings)):
            deadline = time.monotonic() + WORKS_SECONDS
            while any(world.busy for world in self.worlds) and self.ask(Call(Verb.POLL, binding))[0].state == RUNS:
                assert time.monotonic() < deadline, f"{self.name} is still at work\n{self.journal}"
                del self.journal.lines[-1]
                time.sleep(0.05)
        self.worlds = frozenset(world for world in self.worlds if not world.busy)
        shapes = {(world.instance.phase, *(each.phase for each in world.bindings)) for world in self.worlds}
        assert len(shapes) == 1, f"Not known after all has ended: {shapes}\n{self.journal}"
        settled = next(iter(self.worlds))
        ready = [number for number, each in enumerate(settled.bindings) if each.phase is Phase.READY]
        users = self._users()
        assert users == sorted(self.binding_ids[number] for number in ready), f"Atlas has {users}\n{self.journal}"
        for number in ready:
            credentials = json.loads(self.ask(Call(Verb.FETCH, number))[0].credentials)
            assert works(credentials), f"The credentials of {self.binding_ids[number]} do not work\n{self.journal}"
        return next(iter(self.worlds))

    def _users(self) -> list[str]:
        """The binding ids of users in Atlas that are labelled with this instance; "" for one that is no binding's."""
        found = []
        for user in self.atlas.users():
            labels = {label["key"]: label["value"] for label in user.get("labels", [])}
            if labels.get("instance_id") == self.instance_id and not user["deleted"]:
                found.append(labels.get("binding_id", ""))
        return sorted(found)

    def clear(self) -> None:
        """Delete everything, as a platform would; nothing is left then."""
        world = self.settle()
        if world.instance.phase not in ABSENT:
            self.ask(Call(Verb.DEPROVISION))
            world = self.settle()
        for number, each in enumerate(world.bindings):
            if each.phase not in ABSENT:
                self.ask(Call(Verb.UNBIND, number))
        world = self.settle()
        assert all(each.phase in ABSENT for each in (world.instance, *world.bindings)), str(self.journal)
        assert not self._users(), str(self.journal)


def _late(worlds: frozenset[World], calls: Sequence[Call]) -> frozenset[World]:
    """Mark the binds that a deprovision, accepted at the same time, need not have seen."""
    if any(call.verb is Verb.DEPROVISION for call in calls):
        for binding in {call.binding for call in calls if call.verb in (Verb.BIND, Verb.ROTATE)}:
            worlds = frozenset(
                world.having(binding, replace(found, late=True)) if found.phase is Phase.CREATING else world
                for world in worlds
                for found in [world.about(binding)]
            )
    return worlds


def _asked(call: Call) -> str:
    about = "instance" if call.binding is None else f"binding {call.binding}"
    rotates = f" for binding {call.predecessor}" if call.verb is Verb.ROTATE else ""
    asked = f"{call.verb.name} {about}{rotates}"
    if call.verb in (Verb.PROVISION, Verb.UPDATE, Verb.BIND):
        asked += f" {call.parameters}"
    if call.organization != "org":
        asked += f" of {call.organization}"
    return asked + (f" operation={call.operation}" if call.operation else "") + (" and wait" if call.waits else "")


def _heard(said: Said) -> str:
    told = [said.error, said.operation, said.state, said.parameters, "credentials" if said.credentials else ""]
    return " ".join([str(said.status), *filter(None, told), f"[{', '.join(sorted(said.fields))}]"])
