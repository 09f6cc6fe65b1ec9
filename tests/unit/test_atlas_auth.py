"""API keys by HTTP digest, service accounts by a token that all workers share."""

import base64
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from tests.tenant import together
from tests.unit.atlas_stand_in import BAD_KEY, Digest, Heard, Reply, StandIn, html, refuse, say, user_body
from workers.atlas.client import (
    ApiKey,
    AtlasError,
    DatabaseUser,
    MemoryTokens,
    NoAnswer,
    Refused,
    ServiceAccount,
    Token,
    UnreadableAnswer,
)
from workers.atlas.errors import Unauthorized, UserNotFound

# --- digest ---


def test_a_nonce_is_reused_so_that_few_calls_are_challenged() -> None:
    digest = Digest(lambda _: say(200, user_body()))
    with StandIn(digest) as atlas:
        client = atlas.client()
        for number in range(200):
            client.user(f"b-{number}")
        assert len(atlas.heard) == 201
    assert digest.challenges == 1


def test_nonces_that_live_for_five_calls_cost_less_than_a_third_of_a_challenge_each() -> None:
    digest = Digest(lambda _: say(200, user_body()), uses=5)
    with StandIn(digest) as atlas:
        client = atlas.client()
        for number in range(100):
            client.user(f"b-{number}")
    assert digest.challenges / 100 <= 0.3


def test_an_expired_nonce_costs_one_more_request_and_no_error() -> None:
    digest = Digest(lambda _: say(200, user_body()), uses=1)
    with StandIn(digest) as atlas:
        client = atlas.client()
        client.user("b-1")
        client.user("b-1")
        assert [answer.requests for answer in atlas.observed] == [2, 2]
        assert [answer.status for answer in atlas.observed] == [200, 200]


def test_the_threads_of_a_client_share_one_nonce_from_their_first_call_on() -> None:
    digest = Digest(lambda _: say(200, user_body()))
    with StandIn(digest) as atlas:
        client = atlas.client()
        in_threads(4, lambda: [client.user("b-1") for _ in range(25)])
        assert len(atlas.heard) == 101
    assert digest.challenges == 1


def test_a_body_is_sent_again_whole_after_a_challenge() -> None:
    digest = Digest(lambda heard: say(201, user_body(heard.json()["username"])))
    with StandIn(digest) as atlas:
        atlas.client().create_user(DatabaseUser("b-1", (), password="open-sesame-1"))
        first, second = atlas.heard
    assert first.body == second.body != b""


def test_digest_holds_for_names_that_need_encoding_and_for_queries() -> None:
    digest = Digest(lambda heard: say(200, user_body() if "Users/" in heard.target else {"results": []}))
    with StandIn(digest) as atlas:
        atlas.client().user("a/b c:d;e?f#g%h\u00fc~")
        list(atlas.client().users())


def test_before_is_called_ahead_of_both_legs_of_a_challenged_call() -> None:
    calls: list[int] = []
    with StandIn(Digest(lambda _: say(200, user_body()))) as atlas:
        atlas.client(before=lambda: calls.append(len(atlas.heard))).user("b-1")
    assert calls == [0, 1]


@pytest.mark.parametrize("key", [ApiKey("publickey", "wrong"), ApiKey("wrong", "private-key-value")])
def test_a_bad_key_is_unauthorized_and_not_gone(key: ApiKey) -> None:
    with StandIn(Digest(lambda _: say(200, user_body()))) as atlas:
        client = atlas.client(key)
        for _ in range(3):
            with pytest.raises(Refused) as caught:
                client.user("b-1")
            assert (caught.value.status, caught.value.code) == (401, "UNEXPECTED_ERROR")
            assert isinstance(caught.value, Unauthorized)
            assert not isinstance(caught.value, UserNotFound)
        assert len(atlas.heard) == 6


def test_an_expired_keys_401_is_not_read_as_a_deleted_user() -> None:
    with StandIn(lambda _: say(401, BAD_KEY)) as atlas, pytest.raises(Refused) as caught:
        atlas.client().delete_user("b-1")
    assert not isinstance(caught.value, UserNotFound)
    assert caught.value.retryable


def test_a_key_that_was_repaired_works_without_a_restart() -> None:
    digest = Digest(lambda _: say(200, user_body()), private="not yet")
    with StandIn(digest) as atlas:
        client = atlas.client()
        with pytest.raises(Refused):
            client.user("b-1")
        digest.private = "private-key-value"
        client.user("b-1")


# --- secrets ---


def test_a_newline_in_a_key_is_stripped() -> None:
    with StandIn(Digest(lambda _: say(200, user_body()))) as atlas:
        atlas.client(ApiKey(" publickey\n", "private-key-value\r\n")).user("b-1")


@pytest.mark.parametrize("secret", ["", " \n", "two words", "two\nlines", "gr\u00fcn"])
def test_a_secret_that_cannot_be_one_is_refused_without_being_told(secret: str) -> None:
    with pytest.raises(ValueError, match="must be non-empty") as caught:
        ApiKey("publickey", secret)
    assert not secret.strip() or secret not in str(caught.value)
    with pytest.raises(ValueError, match="must be non-empty"):
        ServiceAccount("mdb_sa_id_1", secret, MemoryTokens())


def test_no_repr_tells_a_secret() -> None:
    now = datetime.now(UTC)
    shown = repr(
        [ApiKey("pub", "hidden-1"), ServiceAccount("id", "hidden-2", MemoryTokens()), Token("hidden-3", now, now)]
    )
    assert "hidden" not in shown
    assert "pub" in shown


# --- service accounts ---


@dataclass
class OAuth:
    """The token endpoint and an API that takes only the tokens in `good`; a mint's answer may be exchanged."""

    good: set[str] = field(default_factory=set)
    mints: int = 0
    expires_in: int = 3600
    instead: Reply | None = None
    then: Callable[[Heard], Reply] = lambda _: say(200, user_body())
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, heard: Heard) -> Reply:
        if heard.target == "/api/oauth/token":
            return self.mint(heard)
        if heard.headers.get("authorization", "").removeprefix("Bearer ") in self.good:
            return self.then(heard)
        return say(401, BAD_KEY)

    def mint(self, heard: Heard) -> Reply:
        assert heard.headers["authorization"] == "Basic " + base64.b64encode(b"mdb_sa_id_1:mdb_sa_sk_1").decode()
        assert heard.headers["content-type"] == "application/x-www-form-urlencoded"
        assert heard.body == b"grant_type=client_credentials"
        with self.lock:
            self.mints += 1
            if self.instead:
                return self.instead
            token = f"token-{self.mints}"
            self.good.add(token)
        return say(200, {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def account(
    tokens: MemoryTokens | None = None, clock: Callable[[], datetime] | None = None, patience: float = 3.0
) -> ServiceAccount:
    tokens = tokens or MemoryTokens()
    return ServiceAccount("mdb_sa_id_1", "mdb_sa_sk_1", tokens, clock=clock or Clock(), patience=patience)


def in_threads(count: int, work: Callable[[], object]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  handed to the test
            errors.append(error)

    together(*[run] * count)
    return errors


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_carries_no_credentials(status: int) -> None:
    with StandIn(lambda _: say(401, BAD_KEY, Www_Authenticate='Digest realm="r", nonce="n", qop="auth"')) as hostile:
        away = say(status, Location=f"{hostile.url}/collect")
        for auth, script in (
            (ApiKey("publickey", "private-key-value"), Digest(lambda _: away)),
            (ApiKey("publickey", "private-key-value"), lambda _: away),
            (account(), OAuth(then=lambda _: away)),
            (account(), OAuth(instead=away)),
        ):
            with StandIn(script) as atlas, pytest.raises(AtlasError):
                atlas.client(auth).user("b-1")
            assert atlas.heard
        assert hostile.heard == []


def test_one_token_serves_many_calls() -> None:
    with StandIn(OAuth()) as atlas:
        client = atlas.client(account())
        for _ in range(20):
            client.user("b-1")
        assert [heard.target for heard in atlas.heard].count("/api/oauth/token") == 1
        assert len(atlas.heard) == 21


def test_all_workers_share_one_token_and_mint_once_when_they_start_together() -> None:
    oauth, tokens = OAuth(), MemoryTokens()
    with StandIn(oauth) as atlas:
        assert in_threads(12, lambda: atlas.client(account(tokens)).user("b-1")) == []
    assert oauth.mints == 1


def test_a_token_is_renewed_ten_minutes_before_its_end() -> None:
    oauth, clock = OAuth(), Clock()
    with StandIn(oauth) as atlas:
        client = atlas.client(account(clock=clock))
        client.user("b-1")
        clock.pass_(3600 - 601)
        client.user("b-1")
        assert oauth.mints == 1
        clock.pass_(2)
        client.user("b-1")
        assert oauth.mints == 2


def test_a_short_token_is_renewed_in_the_last_fifth_of_its_life() -> None:
    oauth, clock = OAuth(expires_in=100), Clock()
    with StandIn(oauth) as atlas:
        client = atlas.client(account(clock=clock))
        client.user("b-1")
        clock.pass_(79)
        client.user("b-1")
        assert oauth.mints == 1
        clock.pass_(2)
        client.user("b-1")
        assert oauth.mints == 2


def test_a_renewal_that_fails_early_does_no_harm_and_is_not_tried_at_every_call() -> None:
    oauth, clock = OAuth(), Clock()
    with StandIn(oauth) as atlas:
        client = atlas.client(account(clock=clock))
        client.user("b-1")
        clock.pass_(3100)
        oauth.instead = refuse(429, "RATE_LIMITED", "Limited.", ["/api/oauth/token", 10, 1])
        for _ in range(10):
            client.user("b-1")
    assert oauth.mints == 2


def test_while_one_worker_renews_the_others_go_on_with_the_old_token() -> None:
    oauth, tokens, clock = OAuth(), MemoryTokens(), Clock()
    with StandIn(oauth) as atlas:
        atlas.client(account(tokens, clock)).user("b-1")
        clock.pass_(3100)
        assert tokens.take(30)  # another worker is renewing
        atlas.client(account(tokens, clock)).user("b-1")
    assert oauth.mints == 1


def test_a_401_to_a_token_mints_one_and_repeats_the_call_with_its_body() -> None:
    oauth = OAuth(then=lambda heard: say(201, user_body(heard.json()["username"])))
    with StandIn(oauth) as atlas:
        client = atlas.client(account())
        client.create_user(DatabaseUser("b-1", ()))
        oauth.good.clear()  # revoked
        client.create_user(DatabaseUser("b-2", ()))
        last = atlas.observed[-1]
    assert oauth.mints == 2
    assert (last.status, last.requests) == (201, 2)


def test_a_401_to_a_token_that_somebody_has_replaced_already_mints_nothing() -> None:
    oauth, tokens = OAuth(), MemoryTokens()
    with StandIn(oauth) as atlas:
        slow, quick = atlas.client(account(tokens)), atlas.client(account(tokens))
        slow.user("b-1")
        quick.user("b-1")
        oauth.good.clear()
        quick.user("b-1")
        assert oauth.mints == 2
        slow.user("b-1")
    assert oauth.mints == 2


def test_a_replacement_that_was_revoked_too_is_replaced_and_nobody_pauses() -> None:
    """The slow one still holds the first of two revoked tokens: the second says nothing about the account."""
    oauth, tokens = OAuth(), MemoryTokens()
    with StandIn(oauth) as atlas:
        slow, quick = atlas.client(account(tokens)), atlas.client(account(tokens))
        slow.user("b-1")
        quick.user("b-1")
        oauth.good.clear()
        quick.user("b-1")
        oauth.good.clear()
        slow.user("b-1")
        assert oauth.mints == 3
        oauth.good.clear()
        quick.user("b-1")
    assert oauth.mints == 4


def test_a_revoked_token_is_replaced_once_for_many_calls_at_a_time() -> None:
    oauth, tokens = OAuth(), MemoryTokens()
    with StandIn(oauth) as atlas:
        client = atlas.client(account(tokens))
        client.user("b-1")
        oauth.good.clear()
        assert in_threads(8, lambda: client.user("b-1")) == []
    assert oauth.mints == 2


def test_a_second_401_is_raised_and_no_more_tokens_are_minted() -> None:
    oauth = OAuth(then=lambda _: say(401, BAD_KEY))
    with StandIn(oauth) as atlas:
        client = atlas.client(account(patience=0.1))
        for _ in range(5):
            with pytest.raises(Refused) as caught:
                client.user("b-1")
            assert isinstance(caught.value, Unauthorized)
    assert oauth.mints == 2


def test_minting_goes_on_as_soon_as_the_account_is_taken_again() -> None:
    """A new token was refused, and then it was not: nothing is left of the pause when that one is revoked."""
    oauth = OAuth()
    with StandIn(oauth) as atlas:
        client = atlas.client(account(patience=0.1))
        client.user("b-1")
        oauth.good.clear()
        usual, oauth.then = oauth.then, lambda _: say(401, BAD_KEY)
        with pytest.raises(Refused):
            client.user("b-1")
        oauth.then = usual
        client.user("b-1")
        oauth.good.clear()
        client.user("b-1")
    assert oauth.mints == 3


@pytest.mark.parametrize("code", ["NOT_IN_GROUP", "USER_UNAUTHORIZED", "USER_CANNOT_ACCESS_GROUP"])
def test_a_401_for_a_right_account_with_the_wrong_role_or_project_mints_nothing(code: str) -> None:
    oauth = OAuth(then=lambda _: refuse(401, code))
    with StandIn(oauth) as atlas:
        client = atlas.client(account())
        for _ in range(3):
            with pytest.raises(Refused) as caught:
                client.user("b-1")
            assert caught.value.code == code
    assert oauth.mints == 1


def test_a_403_for_the_access_list_is_met_when_a_token_is_used_and_mints_nothing() -> None:
    oauth = OAuth(then=lambda _: refuse(403, "IP_ADDRESS_NOT_ON_ACCESS_LIST", "IP address 1.2.3.4 is not allowed."))
    with StandIn(oauth) as atlas, pytest.raises(Refused, match=r"1\.2\.3\.4") as caught:
        atlas.client(account()).user("b-1")
    assert isinstance(caught.value, Unauthorized)
    assert oauth.mints == 1


def mint_failure(instead: Reply) -> AtlasError:
    oauth = OAuth(instead=instead)
    with StandIn(oauth) as atlas, pytest.raises((Refused, UnreadableAnswer)) as caught:
        atlas.client(account()).user("b-1")
    assert atlas.observed[-1].path == "/api/oauth/token"
    assert atlas.observed[-1].error is caught.value
    assert [heard.target for heard in atlas.heard] == ["/api/oauth/token"]
    assert "mdb_sa_sk_1" not in str(caught.value)
    return caught.value


def test_an_unknown_service_account_is_unauthorized() -> None:
    refusal = {"error": "invalid_client", "error_description": "Invalid credentials provided."}
    error = mint_failure(say(401, refusal))
    assert isinstance(error, Unauthorized)
    assert "Invalid credentials provided" in str(error)


def test_a_hundred_live_tokens_are_told_in_atlass_words() -> None:
    error = mint_failure(say(403, {"error": "access_denied", "error_description": "Access Token limit reached."}))
    assert isinstance(error, Unauthorized)
    assert "Access Token limit reached" in str(error)


def test_a_limited_token_endpoint_is_retryable_and_tells_when() -> None:
    error = mint_failure(refuse(429, "RATE_LIMITED", "Resource /api/oauth/token is limited.", Retry_After="20"))
    assert error.retryable
    assert error.retry_after == 20


@pytest.mark.parametrize("grant", ["invalid_request", "unsupported_grant_type", "invalid_grant"])
def test_a_refused_grant_is_not_worth_repeating(grant: str) -> None:
    assert not mint_failure(say(400, {"error": grant, "error_description": "No."})).retryable


@pytest.mark.parametrize(
    "answer",
    [
        html(200),
        html(503),
        say(200),
        say(200, {}),
        say(200, {"access_token": "two\nlines", "expires_in": 3600}),
        say(200, {"access_token": "token", "expires_in": 0}),
        say(200, {"access_token": "token"}),
        say(200, {"access_token": "token", "expires_in": "soon"}),
    ],
)
def test_a_token_answer_that_makes_no_sense_is_nonsense(answer: Reply) -> None:
    error = mint_failure(answer)
    assert isinstance(error, UnreadableAnswer)
    assert error.retryable


def test_a_failed_mint_is_not_tried_by_every_worker() -> None:
    oauth, tokens = OAuth(instead=html(503)), MemoryTokens()
    with StandIn(oauth) as atlas:
        with pytest.raises(UnreadableAnswer):
            atlas.client(account(tokens, patience=0.1)).user("b-1")
        for _ in range(5):
            with pytest.raises(NoAnswer, match="another worker") as caught:
                atlas.client(account(tokens, patience=0.1)).user("b-1")
            assert caught.value.retryable
            assert not caught.value.sent
    assert oauth.mints == 1


def test_the_right_to_mint_is_given_back_when_a_lease_is_lost_in_between() -> None:
    class LeaseLost(Exception):
        pass

    def before() -> None:
        raise LeaseLost

    tokens = MemoryTokens()
    with StandIn(OAuth()) as atlas:
        with pytest.raises(LeaseLost):
            atlas.client(account(tokens), before=before).user("b-1")
        atlas.client(account(tokens)).user("b-1")


def test_a_worker_that_died_while_minting_holds_the_right_only_for_a_while() -> None:
    tokens = MemoryTokens()
    assert tokens.take(0.05)
    assert not tokens.take(30)
    with StandIn(OAuth()) as atlas:
        atlas.client(account(tokens)).user("b-1")


def test_a_token_is_no_text_of_an_error_that_repeats_it() -> None:
    oauth = OAuth(then=lambda _: refuse(400, "INVALID_ATTRIBUTE", "Odd header token-1."))
    with StandIn(oauth) as atlas, pytest.raises(Refused) as caught:
        atlas.client(account()).user("b-1")
    assert "token-1" not in str(caught.value)
