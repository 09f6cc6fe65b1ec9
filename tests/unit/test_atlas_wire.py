"""Answers that do not come, come broken, or make no sense; and what is true of every request."""

import gc
import json
import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.dev.processes import run_to_end
from tests.unit.atlas_stand_in import (
    HANG_UP,
    KEY,
    PROJECT,
    Digest,
    Heard,
    Reply,
    StandIn,
    cluster_body,
    html,
    refuse,
    say,
    user_body,
)
from workers.atlas.client import (
    ApiKey,
    AtlasClient,
    AtlasError,
    AtlasRole,
    DatabaseUser,
    NoAnswer,
    Refused,
    UnreadableAnswer,
)
from workers.atlas.errors import ClusterNotFound, UserNotFound

USER = DatabaseUser("b-1", (AtlasRole("readWrite", "shop"),), password="open-sesame-1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def failure(
    reply: Reply,
    ask: Callable[[AtlasClient], object] = lambda client: client.user("b-1"),
    timeout: tuple[float, float, float] = (5, 10, 60),
) -> AtlasError:
    with StandIn(lambda _: reply) as atlas, pytest.raises(AtlasError) as caught:
        ask(atlas.client(timeout=timeout))
    assert atlas.observed[-1].error is caught.value
    return caught.value


# --- no answer ---


def test_a_refused_connection_was_certainly_not_sent() -> None:
    client = AtlasClient(f"http://127.0.0.1:{free_port()}", PROJECT, KEY)
    with pytest.raises(NoAnswer, match="connection refused") as caught:
        client.create_user(USER)
    assert caught.value.retryable
    assert not caught.value.sent


def test_a_name_that_does_not_resolve_was_certainly_not_sent() -> None:
    client = AtlasClient("http://atlas.invalid", PROJECT, KEY)
    with pytest.raises(NoAnswer) as caught:
        client.create_user(USER)
    assert not caught.value.sent


def test_a_port_that_speaks_no_tls_is_no_answer() -> None:
    with StandIn(lambda _: say(200)) as plain:
        client = AtlasClient(plain.url.replace("http:", "https:"), PROJECT, KEY, timeout=(1, 0.3, 20))
        with pytest.raises(NoAnswer):
            client.project()


def test_a_connection_closed_before_any_answer_leaves_open_whether_atlas_acted() -> None:
    error = failure(HANG_UP, lambda client: client.create_user(USER))
    assert isinstance(error, NoAnswer)
    assert error.retryable
    assert error.sent


def test_an_answer_that_breaks_off_in_its_headers_is_no_answer() -> None:
    error = failure(Reply((b"HTTP/1.1 200 OK\r\nContent-Ty",), close=True))
    assert isinstance(error, NoAnswer | UnreadableAnswer)
    assert error.retryable


def test_unexpected_eof_while_polling_is_no_answer() -> None:
    whole = say(200, {"changeStatus": "APPLIED"}).pieces[0]
    error = failure(Reply((whole[:-5],), close=True), lambda client: client.cluster_status("c1"))
    assert isinstance(error, NoAnswer)
    assert error.sent


def test_a_hanging_atlas_costs_the_read_timeout_and_no_more() -> None:
    started = time.monotonic()
    error = failure(Reply((say(200, user_body()).pieces[0],), pause=20), timeout=(5, 1, 60))
    assert isinstance(error, NoAnswer)
    assert error.sent
    assert "nothing came in time" in str(error)
    assert 1 <= time.monotonic() - started < 15


def test_slow_headers_run_into_the_read_timeout() -> None:
    whole = say(200, user_body()).pieces[0]
    error = failure(Reply((whole[:20], whole[20:]), pause=1.5), timeout=(5, 1, 60))
    assert isinstance(error, NoAnswer)


def test_slow_pieces_within_the_timeout_are_an_answer() -> None:
    whole = say(200, user_body()).pieces[0]
    with StandIn(lambda _: Reply((whole[:20], whole[20:200], whole[200:]), pause=0.1)) as atlas:
        assert atlas.client().user("b-1").username == "b-1"


DRIPPING = {
    "the head": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100,
    "the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20,
    "a refusal": b"HTTP/1.1 401 No\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100,
}


@pytest.mark.parametrize("dripping", DRIPPING.values(), ids=DRIPPING)
def test_a_byte_now_and_then_is_no_answer_after_the_time_of_one_request(dripping: bytes) -> None:
    started = time.monotonic()
    pieces = tuple(dripping[at : at + 1] for at in range(len(dripping)))
    with StandIn(lambda _: Reply(pieces, pause=0.05)) as atlas, pytest.raises(NoAnswer, match="nothing came in time"):
        atlas.client(timeout=(0.25, 0.25, 20)).user("b-1")
    assert time.monotonic() - started < 4


def test_a_request_whose_time_is_over_when_it_has_connected_is_not_sent() -> None:
    with StandIn(lambda _: say(200, user_body())) as atlas, pytest.raises(NoAnswer, match="no connection") as caught:
        atlas.client(timeout=(1, 1, 0)).create_user(USER)
    assert not caught.value.sent
    assert not atlas.heard


def test_all_requests_of_a_call_together_have_a_limited_time() -> None:
    challenge = Digest(lambda _: HANG_UP)

    def slow(heard: Heard) -> Reply:
        whole = b"".join(challenge(heard).pieces)
        return Reply(tuple(whole[at : at + 40] for at in range(0, len(whole), 40)), pause=0.05)

    with StandIn(slow) as atlas, pytest.raises(NoAnswer, match=r"(nothing|no connection).* in time"):
        atlas.client(ApiKey("publickey", "wrong"), timeout=(5, 5, 0.7)).user("b-1")


READ_LONG = """
import sys
from pathlib import Path
from workers.atlas.client import ApiKey, AtlasClient, NoAnswer

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = peak()
try:
    AtlasClient(*sys.argv[1:], ApiKey("publickey", "private-key-value")).user("b-1")
except NoAnswer as error:
    print(error)
print(peak() - before)
"""
"""Prints the error, and by how many KB the most memory of the process has grown."""


@pytest.mark.parametrize("packed", [True, False], ids=["inflated", "plain"])
def test_an_answer_longer_than_16_mib_is_not_read(*, packed: bool) -> None:
    part = b" " * 2**20
    packer = zlib.compressobj(1, wbits=31)
    body = b"".join(packer.compress(part) for _ in range(256)) + packer.flush() if packed else part * 256
    with StandIn(lambda _: say(200, body, **({"Content_Encoding": "gzip"} if packed else {}))) as atlas:
        ended = run_to_end([sys.executable, "-c", READ_LONG, atlas.url, PROJECT])
    told, kilobytes = ended.stdout.splitlines()
    assert "too long" in told
    assert int(kilobytes) < 100_000


def test_what_is_no_http_is_no_answer() -> None:
    error = failure(Reply((b"SSH-2.0-OpenSSH_9.2\r\n",), close=True))
    assert isinstance(error, NoAnswer)
    assert error.retryable


def test_a_connection_that_atlas_closed_while_idle_is_replaced() -> None:
    good = say(200, user_body())
    with StandIn(lambda _: Reply(good.pieces, close=True)) as atlas:
        client = atlas.client()
        for _ in range(3):
            client.user("b-1")
            time.sleep(0.05)
        assert [answer.status for answer in atlas.observed] == [200, 200, 200]


# --- nonsense ---


@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 500, 502, 503, 504])
def test_html_is_nonsense_with_its_status_and_worth_a_retry(status: int) -> None:
    error = failure(html(status))
    assert isinstance(error, UnreadableAnswer)
    assert error.status == status
    assert error.retryable
    assert not isinstance(error, UserNotFound)
    assert not isinstance(error, ClusterNotFound)
    assert "text/html" in str(error)


def test_html_is_never_taken_for_a_deleted_user() -> None:
    assert isinstance(failure(html(200), lambda client: client.delete_user("b-1")), UnreadableAnswer)
    assert isinstance(failure(html(404), lambda client: client.delete_user("b-1")), UnreadableAnswer)


def test_html_is_never_taken_for_a_created_user() -> None:
    assert isinstance(failure(html(201), lambda client: client.create_user(USER)), UnreadableAnswer)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_an_empty_answer_where_json_is_needed_is_nonsense(status: int) -> None:
    error = failure(say(status))
    assert isinstance(error, UnreadableAnswer)
    assert error.status == status


def test_an_empty_204_is_success_only_where_nothing_is_expected() -> None:
    empty = say(204, Content_Type="application/vnd.atlas.2023-01-01+json;charset=utf-8")
    with StandIn(lambda _: empty) as atlas:
        atlas.client().delete_user("b-1")
    assert isinstance(failure(empty), UnreadableAnswer)


@pytest.mark.parametrize(
    "body",
    [b"{", b"null", b"[]", b'"text"', b"\xff\xfe\x00", b"[" * 100_000, b"{}", b'{"username": 7}', b'{"username": ""}'],
)
def test_json_of_another_shape_is_nonsense(body: bytes) -> None:
    error = failure(say(200, body))
    assert isinstance(error, UnreadableAnswer)
    assert error.retryable


def test_an_unknown_status_of_a_cluster_is_nonsense() -> None:
    error = failure(say(200, {"changeStatus": "ROLLED_BACK"}), lambda client: client.cluster_status("c1"))
    assert isinstance(error, UnreadableAnswer)


def test_an_error_in_json_that_is_not_atlass_is_nonsense() -> None:
    assert isinstance(failure(say(404, {"message": "no route"})), UnreadableAnswer)


def test_a_list_without_results_is_nonsense_and_not_empty() -> None:
    assert isinstance(failure(say(200, {}), lambda client: list(client.users())), UnreadableAnswer)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with StandIn(lambda _: say(200, user_body())) as elsewhere:
        error = failure(say(status, Location=f"{elsewhere.url}/login"))
        assert isinstance(error, UnreadableAnswer)
        assert elsewhere.heard == []


def test_a_redirect_to_garbage_is_nonsense_too() -> None:
    assert isinstance(failure(say(302, Location="http://[:::\u00ff".encode().decode("latin-1"))), UnreadableAnswer)


# --- waiting as Atlas asks ---


def test_retry_after_of_a_429_is_kept() -> None:
    assert failure(refuse(429, "RATE_LIMITED_TOKEN_BUCKET", Retry_After="55")).retry_after == 55


def test_retry_after_zero_becomes_one_second() -> None:
    assert failure(refuse(429, "RATE_LIMITED_TOKEN_BUCKET", Retry_After="0")).retry_after == 1.0


def test_a_429_without_the_header_tells_the_seconds_in_its_parameters() -> None:
    bucket = refuse(429, "RATE_LIMITED_TOKEN_BUCKET", "Wait.", ["api/atlas/v2/orgs", 55, 10, 5, 60])
    assert failure(bucket).retry_after == 55


def test_a_429_of_the_older_kind_without_the_header_tells_nothing() -> None:
    older = refuse(429, "RATE_LIMITED", "Limited.", ["/api/oauth/token", 10, 1])
    assert failure(older).retry_after is None


def test_a_429_without_any_body_is_a_refusal_all_the_same() -> None:
    error = failure(say(429, Retry_After="7"))
    assert isinstance(error, Refused)
    assert error.retryable
    assert error.retry_after == 7


def test_retry_after_of_a_503_in_html_is_kept() -> None:
    assert failure(say(503, b"<html>", Content_Type="text/html", Retry_After="12")).retry_after == 12


def test_retry_after_may_be_a_date() -> None:
    later = formatdate(time.time() + 30, usegmt=True)
    seconds = failure(refuse(503, "SERVICE_UNAVAILABLE", Retry_After=later)).retry_after
    assert seconds is not None
    assert 25 < seconds <= 30


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-", ""])
def test_a_retry_after_that_is_no_time_is_ignored(value: str) -> None:
    assert failure(refuse(429, "RATE_LIMITED", Retry_After=value)).retry_after is None


def test_a_retry_after_of_years_is_cut_to_a_minute() -> None:
    assert failure(refuse(429, "RATE_LIMITED", Retry_After="99999999")).retry_after == 60


# --- every request ---


def test_observe_sees_the_template_the_status_and_the_token_bucket() -> None:
    buckets = {"RateLimit_Limit": "10000", "Ratelimit_Remaining": "9997"}
    with StandIn(lambda _: say(200, user_body(), **buckets)) as atlas:
        atlas.client().user("b-1")
    seen = atlas.observed[0]
    assert (seen.method, seen.status, seen.error, seen.requests) == ("GET", 200, None, 1)
    assert seen.path == "/api/atlas/v2/groups/{project}/databaseUsers/{database}/{username}"
    assert (seen.limit, seen.remaining) == (10000, 9997)
    assert 0 < seen.seconds < 10


def test_observe_sees_a_failure_without_a_status() -> None:
    with StandIn(lambda _: HANG_UP) as atlas, pytest.raises(NoAnswer):
        atlas.client().user("b-1")
    seen = atlas.observed[0]
    assert (seen.status, seen.limit, seen.remaining) == (None, None, None)
    assert isinstance(seen.error, NoAnswer)


def test_rate_limit_headers_may_be_missing_or_senseless() -> None:
    with StandIn(lambda _: say(200, user_body(), RateLimit_Limit="many")) as atlas:
        atlas.client().user("b-1")
    assert (atlas.observed[0].limit, atlas.observed[0].remaining) == (None, None)


class LeaseLost(Exception):
    pass


def test_what_before_raises_passes_through_and_nothing_is_sent() -> None:
    def before() -> None:
        raise LeaseLost

    with StandIn(lambda _: say(200, user_body())) as atlas:
        with pytest.raises(LeaseLost):
            atlas.client(before=before).user("b-1")
        assert atlas.heard == []


def test_before_is_called_ahead_of_every_page() -> None:
    calls: list[int] = []

    def page(heard: Heard) -> Reply:
        number = 1 if "pageNum=1" in heard.target else 2
        return say(200, {"results": [user_body(f"b-{number}")], "totalCount": 2})

    with StandIn(page) as atlas:
        assert len(list(atlas.client(before=lambda: calls.append(len(atlas.heard))).users())) == 2
    assert calls == [0, 1]


def test_a_thread_reuses_its_connection_and_threads_do_not_share() -> None:
    with StandIn(lambda _: say(200, user_body())) as atlas:
        client = atlas.client()

        def work() -> None:
            for _ in range(10):
                client.user("b-1")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(atlas.heard) == 40
        assert len({heard.connection for heard in atlas.heard}) <= 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_use_its_parents_connection() -> None:
    with StandIn(lambda _: say(200, user_body())) as atlas:
        client = atlas.client()
        client.user("b-1")
        if (child := os.fork()) == 0:
            try:
                client.user("b-1")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        client.user("b-1")
        first, second, third = (heard.connection for heard in atlas.heard)
        assert first == third != second


def test_netrc_and_an_http_proxy_of_the_environment_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login wrong password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with StandIn(lambda _: say(200, user_body())) as atlas:
        atlas.client().user("b-1")
        assert "authorization" not in atlas.heard[0].headers


def test_netrc_is_no_match_for_our_key_even_where_a_proxy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login wrong password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with StandIn(lambda _: say(200, user_body())) as atlas:
        atlas.client().user("b-1")
        assert "authorization" not in atlas.heard[0].headers


def test_a_proxy_that_is_not_there_was_certainly_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:hidden-word@127.0.0.1:{free_port()}")
    client = AtlasClient("https://atlas.invalid", PROJECT, KEY, timeout=(1, 0.3, 20))
    with pytest.raises(NoAnswer, match="proxy") as caught:
        client.project()
    assert not caught.value.sent
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["", "cloud.mongodb.com", "ftp://cloud.mongodb.com", "https://"])
def test_a_base_url_that_is_none_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        AtlasClient(base_url, PROJECT, KEY)


def test_a_slash_at_the_end_of_the_base_url_does_not_double() -> None:
    with StandIn(lambda _: say(200, {"id": PROJECT})) as atlas:
        AtlasClient(f"{atlas.url}/", PROJECT, KEY).project()
        assert atlas.heard[0].target == f"/api/atlas/v2/groups/{PROJECT}"


def test_no_error_keeps_the_request_with_its_password_within_reach() -> None:
    error = failure(HANG_UP, lambda client: client.create_user(USER))
    assert error.__cause__ is None
    assert error.__context__ is None
    gc.collect()
    assert "open-sesame-1" not in json.dumps([str(error), repr(error), repr(vars(error)), repr(USER)])


def test_a_cluster_is_read_after_all_that() -> None:
    with StandIn(lambda _: say(200, cluster_body())) as atlas:
        assert atlas.client().cluster("c1").state == "IDLE"
