"""Faults that somebody might make in the broker's code, each with the story that must catch it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import scenarios, slow
from tests.chaos.scenarios import Scenario
from tests.dev.processes import CHECKOUT

CODE = ("broker_api", "workers", "celeryconfig.py")


@dataclass(frozen=True)
class Planted:
    """``old``, which stands exactly once in ``file``, becomes ``new``; ``quick`` ones are always run."""

    name: str
    file: str
    old: str
    new: str
    caught_by: Scenario
    quick: bool = False

    def broken(self) -> str:
        """The file with the fault in it; AssertionError when the fault does not fit the code any more."""
        text = (CHECKOUT / self.file).read_text()
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} times: {self.old}"
        return text.replace(self.old, self.new)

    def plant(self, folder: Path) -> None:
        """Copy the broker's code to the folder, with the fault."""
        for name in CODE:
            copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
            copy(CHECKOUT / name, folder / name)
        (folder / self.file).write_text(self.broken())


CLAIMS, USERS, BIND, UNBIND, OPERATIONS = (
    "broker_api/state/operation_claims.py",
    "workers/operations/database_users.py",
    "workers/operations/bind.py",
    "workers/operations/unbind.py",
    "broker_api/service/operations.py",
)

FAULTS = [
    Planted(
        "send before write",
        OPERATIONS,
        "        begun = self._store.create(",
        '        self._queue.send(JOBS[kind], [fields["instance_id"], None, fields["instance_id"]])\n'
        "        begun = self._store.create(",
        scenarios.nothing_is_sent_before_it_is_written,
        quick=True,
    ),
    Planted(
        "a send without bounds",
        "broker_api/jobs/queue.py",
        '        "socket_timeout": SOCKET_SECONDS,\n',
        "",
        scenarios.what_redis_lost_is_sent_by_the_sweep,
    ),
    Planted(
        "no sweep",
        "workers/app.py",
        "    sweeper.start()",
        "    del sweeper",
        scenarios.what_redis_lost_is_sent_by_the_sweep,
    ),
    Planted(
        "a claim that ignores the lease",
        CLAIMS,
        '"$expr": _DUE_AND_UNHELD,',
        '"$expr": {"$lte": ["$operation.due", NOW]},',
        scenarios.two_workers_never_work_on_the_same_operation,
        quick=True,
    ),
    Planted(
        "no fence",
        CLAIMS,
        '            "operation.fence": claim.fence,\n            "operation.lease_token": claim.token,\n',
        "",
        scenarios.a_worker_that_lost_its_lease_writes_nothing,
    ),
    Planted(
        "credentials before APPLIED",
        BIND,
        "    if wait := job.wait_until_applied(cluster_needed=True):\n        return wait\n",
        "",
        scenarios.credentials_come_when_they_work,
    ),
    Planted(
        "an old APPLIED is believed",
        "workers/clusters/status.py",
        "applied - change.at >= timedelta(seconds=settle_seconds)",
        "True",
        scenarios.an_applied_of_before_is_not_believed,
    ),
    Planted(
        "another password at the second attempt",
        USERS,
        "        user.username, password=user.password, roles",
        '        user.username, password=f"{user.password}-2", roles',
        scenarios.a_user_made_without_an_answer_gets_the_given_password,
    ),
    Planted(
        "409 is success",
        USERS,
        "    job.context.claims.renew(job.claim)  # still held",
        "    return\n    job.context.claims.renew(job.claim)  # still held",
        scenarios.a_user_left_with_our_labels_gets_the_given_password,
    ),
    Planted(
        "409 is always ours",
        USERS,
        "    if not is_ours(job.record, job.atlas.user(user.username)):",
        "    if not user.username:",
        scenarios.a_user_of_somebody_else_is_not_touched,
    ),
    Planted(
        "unbind forgets failures",
        UNBIND,
        "    except UserNotFound:\n        pass\n",
        "    except Exception:\n        pass\n",
        scenarios.a_refused_delete_is_no_success,
    ),
    Planted(
        "401 means gone",
        "workers/atlas/errors.py",
        "        return Unauthorized\n",
        "        return UserNotFound\n",
        scenarios.a_refused_delete_is_no_success,
    ),
    Planted(
        "a failed bind keeps its user",
        BIND,
        "    undo={Step.REMOVE_USER: remove_user},",
        '    undo={Step.REMOVE_USER: lambda _: Done(Phase.FAILED, "")},',
        scenarios.a_failed_bind_leaves_no_user,
    ),
    Planted(
        "unbind does not wait for requests under way",
        UNBIND,
        "    if wait := job.wait_for_late_effect():",
        "    if (wait := job.wait_for_late_effect()) and False:",
        scenarios.an_unbind_waits_for_a_request_that_is_still_under_way,
    ),
    Planted(
        "a temporary user is forgotten",
        "workers/operations/deprovision.py",
        "    if wait := job.wait_for_late_effect():\n        return wait\n    instance",
        "    instance",
        scenarios.a_temporary_user_made_late_is_removed,
    ),
    Planted(
        "everybody polls",
        "workers/clusters/status.py",
        '            {"_id": _name(project, cluster), "$expr": allowed},',
        '            {"_id": _name(project, cluster)},',
        scenarios.a_waiting_operation_holds_no_worker,
    ),
    Planted(
        "no circuit",
        "workers/guard/guard.py",
        "        if breaker.is_open and breaker.project not in self.probes:",
        "        if False and breaker.is_open:",
        slow.atlas_down_is_left_alone_and_all_goes_on_afterwards,
    ),
    Planted(
        "a lost connection ends the worker",
        "workers/transport.py",
        "        self.connection_errors = (Exception,)",
        "        self.connection_errors = ()",
        slow.a_worker_outlives_redis_with_messages_unacknowledged,
    ),
]
