"""A small model of the Open Service Broker API 2.17: one instance, its bindings, and what a platform may be answered.

A ``World`` is a state that they may be in. Platforms do not see jobs end, so what is known is a set of worlds: each
answer leaves those that explain it, and an answer that none explains breaks a rule. Where nothing is under way there
is one world, and one answer.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

ENDED_WELL, ENDED_BADLY, RUNS = "succeeded", "failed", "in progress"
NOWHERE = "nowhere"
"""The cluster that Atlas does not have: a provision on it fails, always."""
UNTOLD = "?"
"""Stands for the operation of a request that waits: the platform is not told its id."""


Phase = Enum("Phase", "NONE CREATING READY UPDATING DELETING FAILED GONE")
Verb = Enum("Verb", "PROVISION UPDATE DEPROVISION BIND ROTATE UNBIND POLL FETCH")
ABSENT = (Phase.NONE, Phase.GONE)
THERE = (Phase.READY, Phase.UPDATING)
BUSY = (Phase.CREATING, Phase.UPDATING, Phase.DELETING)


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Call:
    """One request. ``parameters`` are canonical; without a ``binding`` it is about the instance.

    ``waits``: without accepts_incomplete. ``operation`` is what a poll asks for.
    """

    verb: Verb
    binding: int | None = None
    parameters: str = "{}"
    organization: str = "org"
    predecessor: int = 0
    operation: str | None = None
    waits: bool = False

    @property
    def attributes(self) -> str:
        """What makes two creates identical."""
        given = json.loads(self.parameters)
        if self.binding is None:
            return canonical({"parameters": given, "organization": self.organization})
        return canonical({"parameters": given, "predecessor": None})


@dataclass(frozen=True)
class Said:
    """An answer; ``fields`` are the names in its body, the description left out."""

    status: int
    fields: frozenset[str] = frozenset()
    error: str = ""
    operation: str = ""
    state: str = ""
    parameters: str = ""
    credentials: str = ""


@dataclass(frozen=True)
class Thing:
    """An instance or a binding. ``operation`` is the latest, "" when no platform was told; ``past`` how others ended.

    ``late``: a bind that was accepted while the instance was being deleted, so that the delete need not have seen it.
    """

    phase: Phase = Phase.NONE
    attributes: str = ""
    update: str = ""
    operation: str = ""
    past: frozenset[tuple[str, str]] = frozenset()
    credentials: str = ""
    late: bool = False

    @property
    def known(self) -> dict[str, Any]:
        attributes: dict[str, Any] = json.loads(self.attributes)
        return attributes

    @property
    def state(self) -> str:
        if self.phase in BUSY:
            return RUNS
        return ENDED_BADLY if self.phase is Phase.FAILED else ENDED_WELL

    @property
    def operations(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.past) | ({self.operation} - {""})

    def followed(self) -> frozenset[tuple[str, str]]:
        """The past once another operation begins: what still runs then is stopped, and has failed."""
        ended = ENDED_WELL if self.state == ENDED_WELL else ENDED_BADLY
        return self.past | ({(self.operation, ended)} if self.operation else set())


@dataclass(frozen=True)
class World:
    instance: Thing = Thing()
    bindings: tuple[Thing, ...] = ()

    def about(self, binding: int | None) -> Thing:
        return self.instance if binding is None else self.bindings[binding]

    def having(self, binding: int | None, thing: Thing) -> "World":
        if binding is None:
            return replace(self, instance=thing)
        return replace(self, bindings=(*self.bindings[:binding], thing, *self.bindings[binding + 1 :]))

    @property
    def busy(self) -> bool:
        return any(thing.phase in BUSY for thing in (self.instance, *self.bindings))


Reaction = tuple[Said, Thing]
"""What must be answered, and what the thing is after that."""


def refused(status: int, error: str = "") -> Said:
    return Said(status, frozenset({"error"} if error else ()), error)


NOT_FOUND, GONE, CONFLICT, BAD = refused(404), refused(410), refused(409), refused(400)
CONCURRENT = refused(422, "ConcurrencyError")


# --- what is answered -------------------------------------------------------------------------------------------------


def explain(worlds: Iterable[World], heard: Sequence[tuple[Call, Said]]) -> frozenset[World]:
    """The worlds in which these calls, made at the same time, can have had these answers, in some order."""
    if not heard:
        return frozenset(worlds)
    possible, found = later(worlds), set[World]()
    for one in dict.fromkeys(heard):
        after = {after for world in possible for right, after in _answers(world, *one) if right == one[1]}
        others = list(heard)
        others.remove(one)
        if after:
            found |= explain(after, others)
    return frozenset(found)


def allowed(worlds: Iterable[World], call: Call, said: Said) -> set[Said]:
    """Every answer that would have been right."""
    return {right for world in later(worlds) for right, _ in _answers(world, call, said)}


def _answers(world: World, call: Call, said: Said) -> Iterator[tuple[Said, World]]:
    react = RULES[call.verb]
    if not call.waits:
        right, thing = react(world, call, said)
        yield right, world.having(call.binding, thing)
        return
    right, thing = react(world, call, replace(said, operation=UNTOLD))
    if right.status != 202:
        yield right, world.having(call.binding, thing)
        return
    thing = replace(thing, operation="") if thing.operation == UNTOLD else thing
    for after in later([world.having(call.binding, thing)]):
        ended = after.about(call.binding)
        if ended.phase not in BUSY:
            right, ended = _waited(call, ended, said)
            yield right, after.having(call.binding, ended)


_ABOUT = frozenset({"dashboard_url"})
"""What every answer about an instance tells."""


def _waited(call: Call, ended: Thing, said: Said) -> Reaction:
    """The answer to a request that waited until its job had ended. What was asked of a failed one cannot be done."""
    if ended.phase is Phase.FAILED:
        return BAD, ended
    if call.verb in (Verb.BIND, Verb.ROTATE):
        return _with_credentials(ended, said, 201)
    if call.verb in (Verb.PROVISION, Verb.UPDATE):
        return Said(201 if call.verb is Verb.PROVISION else 200, _ABOUT), ended
    return Said(200), ended


def _provision(world: World, call: Call, said: Said) -> Reaction:
    return _create(world.instance, call.attributes, said, _ABOUT) or (Said(200, _ABOUT), world.instance)


def _create(thing: Thing, attributes: str, said: Said, about: frozenset[str] = frozenset()) -> Reaction | None:
    """None where it is there already, as asked for."""
    if thing.phase is Phase.DELETING:
        return CONCURRENT, thing
    if thing.phase not in ABSENT and thing.attributes != attributes:
        return CONFLICT, thing
    if thing.phase is Phase.CREATING:
        return Said(202, about | {"operation"}, operation=thing.operation or said.operation), thing
    if thing.phase in THERE:
        return None
    return _begin(thing, Thing(Phase.CREATING, attributes), said, about)


def _begin(thing: Thing, begun: Thing, said: Said, about: frozenset[str] = frozenset()) -> Reaction:
    new = said.operation if said.operation and said.operation not in thing.operations else "a new one"
    begun = replace(begun, operation=said.operation, past=thing.followed())
    return Said(202, about | {"operation"}, operation=new), begun


def _update(world: World, call: Call, said: Said) -> Reaction:
    found, asked = world.instance, json.loads(call.parameters)
    if found.phase in (Phase.CREATING, Phase.DELETING):
        return CONCURRENT, found
    if found.phase not in THERE:
        return NOT_FOUND, found
    current = found.known["parameters"]
    if asked.get("cluster", current["cluster"]) != current["cluster"]:
        return BAD, found
    wanted = canonical({**found.known, "parameters": {**current, **asked}})
    if found.phase is Phase.UPDATING:
        same = Said(202, _ABOUT | {"operation"}, operation=found.operation or said.operation)
        return (same if wanted == found.update else CONCURRENT), found
    if wanted == found.attributes:
        return Said(200, _ABOUT), found
    return _begin(found, replace(found, phase=Phase.UPDATING, update=wanted), said, _ABOUT)


def _delete(world: World, call: Call, said: Said) -> Reaction:
    found = world.about(call.binding)
    if found.phase in ABSENT:
        return GONE, found
    if found.phase is Phase.UPDATING:
        return CONCURRENT, found
    if found.phase is not Phase.DELETING:
        return _begin(found, replace(found, phase=Phase.DELETING), said)
    if not found.operation:  # the deprovision has begun it, or a request that waits: now the platform is told
        return _begin(found, found, said)
    return Said(202, frozenset({"operation"}), operation=found.operation), found


def _bind(world: World, call: Call, said: Said) -> Reaction:
    """Bind, or rotate: then the binding takes over the attributes of its predecessor."""
    found, attributes = world.about(call.binding), call.attributes
    if world.instance.phase in (Phase.CREATING, Phase.DELETING):
        return CONCURRENT, found
    if world.instance.phase not in THERE:
        return NOT_FOUND, found
    if call.verb is Verb.ROTATE:
        repeated = found.phase not in ABSENT and found.known["predecessor"] == call.predecessor
        old = found if repeated else world.bindings[call.predecessor]
        if not repeated and old.phase is not Phase.READY:
            return BAD, found
        attributes = canonical({**old.known, "predecessor": call.predecessor})
    return _create(found, attributes, said) or _with_credentials(found, said, 200)


def _with_credentials(found: Thing, said: Said, status: int, about: frozenset[str] = frozenset()) -> Reaction:
    """The credentials of a binding never change; the first answer with them says what they are."""
    known = found.credentials or said.credentials or "some"
    fields = about | {"credentials", "endpoints"}
    return Said(status, fields, credentials=known), replace(found, credentials=known)


def _poll(world: World, call: Call, _: Said) -> Reaction:
    found = world.about(call.binding)
    if found.phase is Phase.NONE:
        return NOT_FOUND, found
    state = dict(found.past).get(call.operation or "", found.state)
    return Said(200, frozenset({"state"}), state=state), found


def _fetch(world: World, call: Call, said: Said) -> Reaction:
    found = world.about(call.binding)
    if found.phase is Phase.UPDATING:
        return CONCURRENT, found
    if found.phase is not Phase.READY:
        return NOT_FOUND, found
    parameters = canonical(found.known["parameters"])
    if call.binding is None:
        fields = frozenset({"service_id", "plan_id", "parameters", "dashboard_url"})
        return Said(200, fields, parameters=parameters), found
    right, after = _with_credentials(found, said, 200, frozenset({"parameters"}))
    return replace(right, parameters=parameters), after


RULES: dict[Verb, Callable[[World, Call, Said], Reaction]] = {
    Verb.PROVISION: _provision,
    Verb.UPDATE: _update,
    Verb.DEPROVISION: _delete,
    Verb.BIND: _bind,
    Verb.ROTATE: _bind,
    Verb.UNBIND: _delete,
    Verb.POLL: _poll,
    Verb.FETCH: _fetch,
}


# --- what happens by itself -------------------------------------------------------------------------------------------


def later(worlds: Iterable[World]) -> frozenset[World]:
    """These worlds, and all that they may have become meanwhile."""
    found, new = set[World](), set(worlds)
    while new:
        found |= new
        new = {after for world in new for after in _next(world)} - found
    return frozenset(found)


def _next(world: World) -> Iterator[World]:
    found = world.instance
    match found.phase:
        case Phase.CREATING:
            fails = found.known["parameters"]["cluster"] == NOWHERE
            yield world.having(None, replace(found, phase=Phase.FAILED if fails else Phase.READY))
        case Phase.UPDATING:
            yield world.having(None, replace(found, phase=Phase.READY, attributes=found.update, update=""))
        case Phase.DELETING if all(_left_alone(each) for each in world.bindings):
            yield world.having(None, replace(found, phase=Phase.GONE))
    for number, binding in enumerate(world.bindings):
        for changed in _binding_next(world.instance, binding):
            yield world.having(number, changed)


def _left_alone(found: Thing) -> bool:
    return found.phase in ABSENT or (found.late and found.phase in (Phase.CREATING, Phase.FAILED))


def _binding_next(instance: Thing, found: Thing) -> Iterator[Thing]:
    """A deprovision stops binds and removes what is bound, failed binds too."""
    there = instance.phase in THERE
    if found.phase is Phase.CREATING:
        if there or instance.phase is Phase.DELETING:
            yield replace(found, phase=Phase.READY)
        if not there:
            yield replace(found, phase=Phase.FAILED)
    if found.phase is Phase.DELETING:
        yield replace(found, phase=Phase.GONE, credentials="")
    elif instance.phase is Phase.DELETING and found.phase not in ABSENT:
        yield replace(found, phase=Phase.DELETING, operation="", past=found.followed(), late=False)
