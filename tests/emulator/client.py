"""Starts the emulator as a process of its own and steers it: what tests and `dev` use."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import requests

from tests.emulator.faults import When
from tests.emulator.model import Json
from tests.emulator.world import CLIENT_ID, CLIENT_SECRET, PRIVATE_KEY, PROJECT_ID, PUBLIC_KEY

CHECKOUT = Path(__file__).resolve().parents[2]


class Emulator:
    """A running emulator at `base_url`; `Emulator.start` makes one. Safe to use from several threads."""

    project_id = PROJECT_ID
    public_key = PUBLIC_KEY
    private_key = PRIVATE_KEY
    client_id = CLIENT_ID
    client_secret = CLIENT_SECRET

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._session = requests.Session()  # it keeps connections: tests make thousands of these calls

    @classmethod
    @contextmanager
    def start(cls, mongo: str, options: Iterable[str] = ()) -> Iterator[Self]:
        """Yield it when it listens. It ends with the `with` block, or when this process does, however that happens."""
        command = [sys.executable, "-m", "tests.emulator", f"--mongo={mongo}", "--until-stdin-closes", *options]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT) as process:
            line = process.stdout.readline().strip() if process.stdout else ""
            if not line:
                raise RuntimeError(f"the emulator did not start (exit status {process.wait()})")
            try:
                yield cls(line)
            finally:
                process.terminate()

    # Policy: when a change of a user reaches the clusters.

    def apply_at_once(self) -> None:
        self._call("PUT", "/policy", {})

    def apply_after(
        self, *, seconds: float = 0, polls: int = 0, stale_seconds: float = 0, stale_polls: int = 0
    ) -> None:
        """First the status reads the old APPLIED (stale), then PENDING, each for the seconds and polls given."""
        stale = {"seconds": stale_seconds, "reads": stale_polls}
        self._call("PUT", "/policy", {"applied": {"seconds": seconds, "reads": polls}, "stale": stale})

    def apply_by_hand(self) -> None:
        """PENDING until `apply_now`."""
        self._call("PUT", "/policy", {"applied": {"never": True}})

    def apply_now(self) -> None:
        self._call("POST", "/apply")

    # Faults: patterns are searched in the path as sent; `times` None is for ever.

    def fail(self, method: str, path: str, *, times: int | None = 1, status: int = 500, **rule: object) -> int:
        """Answer with `status` (`html=True`, `error_code`, `headers`, `answer`, `act=True` to do it all the same)."""
        return self.rule(method=method, path=path, times=times, status=status, **rule)

    def limit_rate(self, method: str, path: str, *, times: int | None = 1, retry_after: int | None = None) -> int:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return self.fail(method, path, times=times, status=429, headers=headers)

    def hang(
        self, method: str, path: str, *, seconds: float, when: When = "before", times: int | None = 1, **rule: object
    ) -> int:
        """Keep the caller waiting before the call acts, or after it has acted."""
        return self.rule(method=method, path=path, times=times, **{f"hang_{when}": seconds}, **rule)

    def let_go(self, number: int) -> None:
        """Keep no caller waiting any longer for a rule."""
        self._call("POST", f"/faults/{number}/let-go")

    def drop(self, method: str, path: str, *, when: When = "before", times: int | None = 1, **rule: object) -> int:
        """Close the connection without an answer, before the call acts or after it has acted."""
        return self.rule(method=method, path=path, times=times, drop=when, **rule)

    def rule(self, **rule: object) -> int:
        """Add any rule, see `tests.emulator.faults.Rule`. Return its number."""
        return int(self._call("POST", "/faults", rule)["id"])

    def rules(self) -> list[Json]:
        return list(self._call("GET", "/faults"))

    def heal(self, number: int | None = None) -> None:
        """Forget one rule, or all."""
        self._call("DELETE", "/faults" if number is None else f"/faults/{number}")

    # Settings.

    def latency(self, seconds: float) -> None:
        self._call("PUT", "/settings", {"latency": seconds})

    def allow_addresses(self, addresses: list[str] | None) -> None:
        """Set the API access list; None lets everybody in."""
        self._call("PUT", "/settings", {"allowed_addresses": addresses})

    def hide_databases(self, names: list[str]) -> None:
        """Monitoring has not seen these databases yet; it has seen all others."""
        self._call("PUT", "/databases/hidden", {"names": names})

    def digest_nonces(self, *, seconds: float = 300, uses: int = 1000) -> None:
        self._call("PUT", "/settings", {"digest": {"seconds": seconds, "uses": uses}})

    def expire_nonces(self) -> None:
        self._call("POST", "/nonces/expire")

    def tokens(self, **settings: float) -> None:
        """Set any of `seconds`, `live_limit`, `mint_limit`, `mint_minutes`."""
        self._call("PUT", "/settings", {"oauth": settings})

    def revoke_tokens(self) -> None:
        self._call("POST", "/tokens/revoke")

    def live_tokens(self) -> int:
        return int(self._call("GET", "/tokens"))

    def rate(self, bucket: str, *, capacity: int, refill: int, seconds: int = 60, left: int | None = None) -> None:
        """`bucket` is one of `tests.emulator.buckets.LIMITS`; it is full, or has so many tokens `left`."""
        limit = {"capacity": capacity, "refill": refill, "seconds": seconds, "left": left}
        self._call("PUT", f"/buckets/{bucket}", limit)

    # Projects and what is in them.

    def put_project(self, project: str, *, key: tuple[str, str] | None = None, **settings: object) -> None:
        """`name`, `user_limit`, `cluster_limit`, `access_list`; `key` (public, private) gets this project only."""
        self._call("PUT", f"/projects/{project}", settings)
        if key:
            self.put_key(key[0], key[1], [project])

    def put_key(
        self,
        public: str,
        private: str,
        projects: list[str],
        *,
        read_only: bool = False,
        roles: Iterable[str] = ("GROUP_OWNER",),
    ) -> None:
        """`read_only` instead of other roles."""
        roles = ["GROUP_READ_ONLY"] if read_only else list(roles)
        self._call("PUT", f"/keys/{public}", {"secret": private, "projects": projects, "roles": roles})

    def put_account(
        self,
        client: str,
        secret: str,
        projects: list[str],
        *,
        read_only: bool = False,
        roles: Iterable[str] = ("GROUP_OWNER",),
    ) -> None:
        """`read_only` instead of other roles."""
        roles = ["GROUP_READ_ONLY"] if read_only else list(roles)
        self._call("PUT", f"/accounts/{client}", {"secret": secret, "projects": projects, "roles": roles})

    def put_cluster(self, name: str, *, project: str = PROJECT_ID, **settings: object) -> None:
        """`kind`, `state`, `paused`, `connection_strings`, `mongo`, `then={"state": …, "seconds": …, "reads": …}`.

        `cluster_type` (REPLICASET, SHARDED), and `processes` in Atlas's form, each with its `databases` if they are not
        to be those of its mongod. `provider`, `region`, `tier`, `disk_size_gb`, `version`, `backup`, `protected`, and
        `tags` in Atlas's form.
        """
        self._call("PUT", f"/projects/{project}/clusters/{name}", settings)

    def clusters(self, project: str = PROJECT_ID) -> list[Json]:
        """Return `name`, `kind`, `state`, `paused`, `tier`, `protected` and `tags` (a mapping) of each."""
        return list(self._call("GET", f"/projects/{project}/clusters"))

    def cluster_times(self, kind: str, **times: object) -> None:
        """How long clusters that are made by calls are `creating`, `updating`, `deleting`.

        Each is a number of seconds, or `{"seconds": …, "reads": …, "never": …}`.
        """
        delays = {
            state.upper(): delay if isinstance(delay, dict) else {"seconds": delay} for state, delay in times.items()
        }
        self._call("PUT", "/clusters/times", {kind: delays})

    def lose_flex_deletions(self, times: int) -> None:
        """The next flex clusters whose DELETE is accepted return to IDLE."""
        self._call("PUT", "/clusters/lost-deletions", {"times": times})

    def access(self, *, gap: float = 0, **delay: object) -> None:
        """New entries of access lists are PENDING for a delay; of two writes within the gap, one is lost."""
        self._call("PUT", "/access", {"delay": delay, "gap": gap})

    def delete_cluster(self, name: str, *, project: str = PROJECT_ID) -> None:
        self._call("DELETE", f"/projects/{project}/clusters/{name}")

    def put_role(self, name: str, *, project: str = PROJECT_ID, **role: object) -> None:
        self._call("PUT", f"/projects/{project}/roles/{name}", role)

    def user_limit(self, limit: int, *, project: str = PROJECT_ID) -> None:
        self.put_project(project, user_limit=limit)

    def users(self, project: str = PROJECT_ID) -> list[Json]:
        """Return them as on the wire, each with `applied` and `deleted` (its removal is on its way)."""
        return list(self._call("GET", f"/projects/{project}/users"))

    # The call log.

    def calls(self, method: str | None = None, template: str | None = None) -> list[Json]:
        """Oldest first; `template` like `/groups/{groupId}/databaseUsers`. Digest's first legs have `challenge`."""
        calls = self._call("GET", "/calls")
        return [c for c in calls if method in (None, c["method"]) and template in (None, c["template"])]

    def counts(self) -> dict[str, int]:
        """`{"POST /groups/{groupId}/databaseUsers": 3, …}`, without digest's first legs."""
        return dict(self._call("GET", "/counts"))

    def forget_calls(self) -> None:
        self._call("DELETE", "/calls")

    def calm(self) -> None:
        """No faults, no latency, changes applied at once, full buckets; what there is stays."""
        self._call("POST", "/calm")

    def clear(self) -> None:
        """Everything as at the start."""
        self._call("POST", "/reset")

    def _call(self, method: str, path: str, body: Json | None = None) -> Any:  # noqa: ANN401 -- JSON
        response = self._session.request(method, f"{self.base_url}/_emulator{path}", json=body, timeout=60)
        if not response.ok:
            raise ValueError(f"the emulator refused {method} {path}: {response.text}")
        return response.json() if response.content else None
