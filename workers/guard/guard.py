"""The guard of each call to Atlas: ``before`` it is sent, and ``after`` its answer."""

import random
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog

from broker_api import tracing
from workers import metrics
from workers.atlas.client import Answer, ProjectNotFound, Refused, Unauthorized
from workers.engine.leases import Lease
from workers.engine.results import HeldBackError
from workers.guard.circuit_breaker import PROBE_EVERY_SECONDS, CircuitBreaker, waits_on_project
from workers.guard.rate_limiter import RateLimiter

log = structlog.get_logger(__name__)


def _needs_more(answer: Answer) -> bool:
    """Return whether a call needs another role in Atlas than those about users: its refusal says nothing of the key."""
    about_clusters = "lusters/" in f"{answer.path}/" and answer.method != "GET"
    return about_clusters or "/accessList" in answer.path or "/certs" in answer.path


@dataclass
class Guard:
    """Guards the calls of one operation, or of one run of maintenance.

    Attributes:
        breaker: The circuit breaker of the project.
        limiter: The rate limiter of the project.
        lease: The lease of the operation; None for maintenance.
        probes: The projects whose open circuit breaker these calls may pass; for an operation the set of its lease.
    """

    breaker: CircuitBreaker
    limiter: RateLimiter
    lease: Lease | None = None
    probes: set[str] = field(default_factory=set)

    def before(self) -> None:
        """Check that a call may be sent now. All calls of one step, or of one run of maintenance, are one probe.

        Raises:
            LeaseLostError: The call might end after the lease.
            HeldBackError: The circuit breaker is open, or the project is near its rate limit.
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        if self.lease:
            self.lease.check()
        breaker = self.breaker
        if breaker.is_open() and breaker.project not in self.probes:
            if not breaker.take_probe():
                sentence = f"{breaker.reason()} It is tried again every {PROBE_EVERY_SECONDS:.0f} s."
                raise HeldBackError(PROBE_EVERY_SECONDS, sentence, waits_on_project(breaker.project))
            self.probes.add(breaker.project)
        if pause := self.limiter.pause():
            raise HeldBackError(pause.seconds + random.uniform(0.1, 1.0), pause.reason)  # noqa: S311 - jitter

    def after(self, answer: Answer) -> None:
        """Log and count a call, and pass its answer on to the rate limiter and the circuit breaker.

        A refusal that concerns one request only, and a 429, count as healthy.
        """
        endpoint = f"{answer.method} {answer.path}"
        with metrics.COUNTING:
            metrics.REQUESTS.labels(endpoint, answer.status or "none").inc()
            metrics.REQUEST_SECONDS.labels(endpoint).observe(answer.seconds)
        status = {"http.response.status_code": answer.status} if answer.status else {}
        tracing.record(endpoint, answer.seconds, status, type(answer.error).__name__ if answer.error else None)
        log.debug("atlas_call", method=answer.method, path=answer.path, status=answer.status, seconds=answer.seconds)
        # Calls about processes have a small rate bucket of their own, and some tiers refuse them: such a limit or
        # refusal does not concern the other calls.
        about_processes = "/processes" in answer.path
        lacks_role = answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and _needs_more(answer)
        if not about_processes:
            self.limiter.observe(answer)
        elif answer.status in range(400, HTTPStatus.INTERNAL_SERVER_ERROR):
            return
        error = answer.error
        if lacks_role or isinstance(error, ProjectNotFound):  # the key is accepted, but for another project
            return
        unauthorized = isinstance(error, Unauthorized)
        if error is None or (
            isinstance(error, Refused) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR and not unauthorized
        ):
            self.breaker.record_success()
        else:
            operation_id = self.lease.claim.operation_id if self.lease else ""
            self.breaker.record_failure(error.public_sentence(), operation_id, unauthorized=unauthorized)
