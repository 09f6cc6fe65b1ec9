"""Users with hashes and roles, what a wrong password costs, and what is logged of it."""

import contextlib
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Barrier

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from broker_api import logins
from broker_api.cli import cli
from broker_api.errors import SettingError
from broker_api.logins import Logins, TooManyFailuresError, WrongCredentialsError, make_hash
from broker_api.osb.app import create_app
from broker_api.settings.users import UserRole, parse_users
from tests.dev.processes import script
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import description, send

BOTH = frozenset(UserRole)
THREADS = 40
FOREIGN = "$argon2id$v=19$m=64,t=3,p=4$c29tZXNhbHQxMjM$dgFVnLXpkTOmBQoYwtbVy2IbjFDwZKo4x8z+sCjbKaA"
"""A hash with commas, as another program writes it; of a password that no test needs."""


@pytest.fixture(scope="module")
def hashed() -> str:
    return make_hash("right, with a comma")


def stopped() -> float:
    """A clock that stands still: a machine that is busy for seconds must not allow one more failure."""
    return 0.0


def client_of(users: dict[str, str], clock: Callable[[], float] = time.monotonic) -> FlaskClient:
    return create_app(InMemoryService().service, users, clock=clock).test_client()


def test_hashes_clear_passwords_and_roles_stand_side_by_side(hashed: str) -> None:
    text = f"a:clear$pass=word, b/operator:{hashed},c/platform:{FOREIGN} ,d::x"
    expected = {"a": "clear$pass=word", "b/operator": hashed, "c/platform": FOREIGN, "d": ":x"}
    assert parse_users(text) == parse_users(expected) == expected
    known = Logins(expected)
    assert known.check("a", "clear$pass=word", "") == BOTH
    assert known.check("b", "right, with a comma", "") == {UserRole.OPERATOR}
    assert known.check("d", ":x", "") == BOTH
    for name, password in (("b", hashed), ("a", "right, with a comma"), ("b/operator", "right, with a comma")):
        with pytest.raises(WrongCredentialsError):
            known.check(name, password, "")


@pytest.mark.parametrize(
    "given",
    [
        "a:first line\nb/operator:second line",
        {"a": "a\tb"},
        "a/admin:b",
        "/platform:b",
        "a/b/platform:c",
        "a/platform:b,a/operator:c",
        "a:$argon2id$v=19$m=64,t=3,p=4$short",
        "a:$argon2id$v=19$m=7,t=1,p=1$c29tZXNhbHQxMjM0$c29tZXNhbHQxMjM0",
        "a:$argon2id$v=19$m=64,t=1,p=9$c29tZXNhbHQxMjM0$c29tZXNhbHQxMjM0",
        "a:$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxM$c29tZXNhbHQxMjM0",
        "a:$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0$c29tZXNhbHQxMjM0x",
        "a:$argon2i$v=19$m=64$c29tZXNhbHQxMjM",
        "a:$scrypt$ln=16$x$y",
        "a:$2b$12$abcdefghijklmnopqrstuv",
        f"a:{FOREIGN}x,y",
        {"a": FOREIGN[:-20] + "?"},
    ],
)
def test_a_role_or_a_hash_of_another_form_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_USERS: must .+$"):
        parse_users(given)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_makes_another_hash_each_time_and_takes_no_password_as_an_argument(arguments: list[str]) -> None:
    made = [CliRunner().invoke(cli, ["users", "hash", *arguments], input="secret\n").stdout for _ in range(2)]
    first, second = (json.loads(text)["hash"] if arguments else text.rstrip("\n") for text in made)
    assert first != second
    assert Logins(parse_users(f"a:{first}")).check("a", "secret", "") == BOTH
    assert CliRunner().invoke(cli, ["users", "hash", "secret"]).exit_code == 2
    assert CliRunner().invoke(cli, ["users", "hash"], input="\n").exit_code == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([b"users", b"hash"], "Error: The password must be text in UTF-8.\n"),
        ([b"instances", b"show", b"\xe4"], "atlas-broker: arguments must be text in UTF-8\n"),
    ],
)
def test_input_that_is_not_utf_8_is_one_line(arguments: list[bytes], told: str, locale: str) -> None:
    command, environ = [str(script("atlas-broker")).encode(), *arguments], {**os.environ, "LC_ALL": locale}
    ended = subprocess.run(command, input=b"p\xe4ss\n", capture_output=True, check=False, env=environ)
    assert (ended.returncode, ended.stderr.decode()) == (1, told)


def test_a_password_is_computed_once_and_a_wrong_one_too(hashed: str) -> None:
    known = Logins({"a": hashed})

    def seconds(password: str) -> float:
        began = time.process_time()
        with contextlib.suppress(WrongCredentialsError):
            known.check("a", password, "")
        return time.process_time() - began

    for password in ("right, with a comma", "wrong"):
        first, later = seconds(password), min(seconds(password) for _ in range(5))
        assert later < first / 5, password


def test_other_users_replace_all_that_was_known(hashed: str) -> None:
    known = Logins({"a": hashed})
    known.check("a", "right, with a comma", "")
    with pytest.raises(WrongCredentialsError):
        known.check("b", "new", "")
    known.replace({"a": make_hash("new"), "b": "new"})
    assert known.check("a", "new", "") == known.check("b", "new", "") == BOTH
    with pytest.raises(WrongCredentialsError):
        known.check("a", "right, with a comma", "")


def test_guesses_are_counted_logged_and_told_to_stop_and_the_right_password_is_still_taken(hashed: str) -> None:
    client = client_of({"platform": hashed, "clear/platform": "s3cret"}, stopped)
    guesses = [f"guess-{number % 2}" for number in range(logins.MOST_FAILURES + 5)]
    with capture_logs() as lines:
        answers = [send(client, "GET", "/v2/catalog", auth=("platform", guess)) for guess in guesses]
        # the same name, before its password was ever right in this process
        assert send(client, "GET", "/v2/catalog", auth=("platform", "right, with a comma")).status_code == 200
        assert send(client, "GET", "/v2/catalog", auth=("clear", "wrong")).status_code == 401
        assert send(client, "GET", "/v2/catalog", auth=("s3cret", "wrong")).status_code == 401
        assert send(client, "GET", "/v2/catalog", auth=("platform", "guess-0")).status_code == 429
        for _ in range(logins.MOST_FAILURES):
            assert client.get("/v2/catalog").status_code == 401
    statuses = [answer.status_code for answer in answers]
    assert statuses[: logins.MOST_FAILURES] == [401] * logins.MOST_FAILURES
    assert statuses[-1] == 429
    assert int(answers[-1].headers["Retry-After"]) > 0
    failed = [line for line in lines if line["event"] == "login_failed"]
    assert {(line["log_level"], line["user"], line["address"]) for line in failed} == {
        ("warning", name, "127.0.0.1") for name in ("platform", "clear", None)
    }
    assert not any(secret in json.dumps(lines) for secret in ("guess-", "s3cret", "comma"))
    shown = client.get("/metrics", auth=("platform", "right, with a comma")).text
    counted = dict(
        line.rsplit(" ", 1) for line in shown.splitlines() if line.startswith("atlas_broker_failed_logins_total")
    )
    assert sum(map(float, counted.values())) == len(guesses) + 3
    assert float(counted['atlas_broker_failed_logins_total{answer="wrong"}']) == len(failed)


def test_a_flood_of_guesses_is_not_computed_all_at_once(hashed: str) -> None:
    known = Logins({"a": hashed}, clock=stopped)
    for number in range(logins.MOST_FAILURES):
        with pytest.raises(WrongCredentialsError):
            known.check("a", f"guess-{number % 2}", "address")
    began = time.process_time()
    assert known.check("a", "right, with a comma", "elsewhere") == BOTH
    one = time.process_time() - began
    at_once = Barrier(THREADS)

    def guess(number: int) -> None:
        at_once.wait()
        with pytest.raises(TooManyFailuresError):
            known.check("a", f"other-{number}", "address")

    began = time.process_time()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(guess, range(THREADS)))
    assert time.process_time() - began < one * THREADS / 2


def together(known: Logins, name: Callable[[int], str], threads: int = THREADS) -> Counter[type[Exception]]:
    """Return how guesses at the same time from one address are answered."""
    at_once = Barrier(threads)

    def guess(number: int) -> type[Exception]:
        at_once.wait()
        with pytest.raises(WrongCredentialsError) as refused:
            known.check(name(number), f"guess-{number}", "address")
        return refused.type

    with ThreadPoolExecutor(threads) as pool:
        return Counter(pool.map(guess, range(threads)))


def test_guesses_at_the_same_time_all_count() -> None:
    answered = together(Logins({"a": "clear"}, clock=stopped), lambda _: "a")
    refused = THREADS - logins.MOST_FAILURES
    assert answered == {WrongCredentialsError: logins.MOST_FAILURES, TooManyFailuresError: refused}


def test_failures_are_forgotten_with_the_time() -> None:
    now = 0.0
    known = Logins({"a": "clear"}, clock=lambda: now)

    def answers(number: int) -> Counter[type[Exception]]:
        found = Counter[type[Exception]]()
        for _ in range(number):
            with pytest.raises((WrongCredentialsError, TooManyFailuresError)) as raised:
                known.check("a", "guess", "address")
            found[raised.type] += 1
        return found

    assert answers(logins.MOST_FAILURES + 1) == {WrongCredentialsError: logins.MOST_FAILURES, TooManyFailuresError: 1}
    now += logins.REFILL_SECONDS / 2
    assert answers(1) == {TooManyFailuresError: 1}
    now += logins.REFILL_SECONDS
    assert answers(2) == {WrongCredentialsError: 1, TooManyFailuresError: 1}
    now += 3600
    assert answers(logins.MOST_FAILURES + 1) == {WrongCredentialsError: logins.MOST_FAILURES, TooManyFailuresError: 1}


def test_guesses_at_many_names_occupy_few_threads_and_known_passwords_are_not_held_up(hashed: str) -> None:
    known = Logins({"a": hashed})
    began = time.monotonic()
    assert known.check("a", "right, with a comma", "elsewhere") == BOTH
    one, threads, checks = time.monotonic() - began, 3 * logins.WAITING, list[float]()
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(together, known, lambda number: f"name-{number}", threads)
        while not (checks and flood.done()):
            began = time.monotonic()
            assert known.check("a", "right, with a comma", "address") == BOTH
            checks.append(time.monotonic() - began)
            time.sleep(0.001)
    assert flood.result()[TooManyFailuresError] >= threads - 2 * logins.WAITING
    # A queue of hashes would hold up each check, and a busy machine only some, and not for so long.
    assert median(checks) < 4 * one
    assert max(checks) < 10


def test_a_role_opens_its_own_paths_only() -> None:
    client = client_of({"p/platform": "x", "o/operator": "y", "both": "z"})
    statuses = {
        (name, path): send(client, "GET", path, auth=(name, password)).status_code
        for name, password in (("p", "x"), ("o", "y"), ("both", "z"))
        for path in ("/v2/catalog", "/v2/none", "/metrics", "/openapi.json", "/none")
    }
    assert {key for key, status in statuses.items() if status == 403} == {
        ("p", "/metrics"),
        ("p", "/openapi.json"),
        ("o", "/v2/catalog"),
        ("o", "/v2/none"),
    }
    assert {status for key, status in statuses.items() if key[1] == "/none"} == {404}
    assert "platform" in description(send(client, "GET", "/v2/catalog", auth=("o", "y")))
