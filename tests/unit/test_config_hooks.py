from typing import cast
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri

from broker_api.config import (
    BindingView,
    Config,
    InstanceView,
    Permissions,
    Role,
    RoleSpecs,
    preset_roles,
    with_credentials,
)
from broker_api.errors import BadRequest, ErrClusterConfig
from broker_api.json_types import JsonObject
from broker_api.state.records import Binding, Instance
from broker_api.user_passwords import PASSWORD_LENGTH
from workers.engine.results import FailedError
from workers.operations.binding_credentials import new_credentials
from workers.operations.config_hooks import binding_view, hook_username

HOSTS = "c-shard-00-00.x.mongodb.net:27017,c-shard-00-01.x.mongodb.net:27017,c-shard-00-02.x.mongodb.net:27017"
STANDARD = f"mongodb://{HOSTS}/?ssl=true&authSource=admin&replicaSet=atlas-1"
SRV = "mongodb+srv://c.x.mongodb.net"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)


def binding(parameters: dict[str, object] | None = None, **strings: str) -> BindingView:
    """Of an instance whose database is settled, on a cluster with these connection strings."""
    instance = InstanceView("i", {"cluster": "c"}, "c", "db", strings)
    return BindingView("b", instance, parameters or {})


def roles(config: Config, **parameters: object) -> list[Role]:
    return config.generate_binding_permissions(binding(parameters), Permissions()).roles


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (None, "no dict"),
        (["a", "b"], "no dict"),
        ({}, "no username or no password"),
        ({"username": "a"}, "no username or no password"),
        ({"username": "a", "password": 5}, "no username or no password"),
        ({"username": "", "password": "s3cret"}, "no username or no password"),
        ({"username": "a", "password": "s3cret", "ca": b"bytes"}, "a value that JSON cannot hold"),
        ({"username": "a", "password": "s3cret", 5: {1, 2}}, "a value that JSON cannot hold"),
    ],
)
def test_credentials_that_cannot_be_used_fail_at_once_without_their_values(returned: object, problem: str) -> None:
    class Wrong(Config):
        def generate_binding_credentials(self, binding: BindingView) -> JsonObject:  # noqa: ARG002 - a hook
            return cast("JsonObject", returned)

    with pytest.raises(FailedError, match=f"generate_binding_credentials returned {problem}") as raised:
        new_credentials(Wrong({}, {}), binding())
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("returned", [None, 5, ""])
def test_a_user_name_that_is_no_text_fails_at_once(returned: object) -> None:
    class Wrong(Config):
        def generate_binding_username(self, binding: BindingView) -> str:  # noqa: ARG002 - a hook
            return cast("str", returned)

    with pytest.raises(FailedError, match="generate_binding_username returned no text"):
        hook_username(Wrong({}, {}), binding())


# --- connection strings -----------------------------------------------------------------------------------------


@given(TEXT, TEXT)
def test_user_and_password_are_escaped_so_that_a_driver_reads_the_very_same(name: str, password: str) -> None:
    parsed = parse_uri(with_credentials(STANDARD, name, password, "db"), warn=False)
    assert (parsed["username"], parsed["password"], parsed["database"]) == (name, password, "db")


def by_rfc_3986(uri: str) -> tuple[str, str, str]:
    """User, password and database as drivers read them that decode percent-encoded bytes and nothing else."""
    parts = urlsplit(uri)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(user, errors="strict"), unquote(password, errors="strict"), unquote(parts.path[1:], errors="strict")


@given(TEXT, TEXT, TEXT)
def test_every_driver_reads_the_very_same_also_one_that_takes_a_plus_for_a_plus(
    name: str, password: str, database: str
) -> None:
    for uri in (
        with_credentials(STANDARD, name, password, database),
        with_credentials(SRV, name, password, database),
        from_template(name, password, database),
    ):
        assert by_rfc_3986(uri) == (name, password, database)
        assert uri.isascii()
        assert not {" ", "+"} & set(uri.partition("://")[2])


def from_template(name: str, password: str, database: str) -> str:
    class Fixed(Config):
        def generate_binding_username(self, binding: BindingView) -> str:
            return str(binding.parameters["name"])

    view = BindingView("b", InstanceView("i", {}, "c", database), {"name": name})
    made = Fixed({}, {}, {"c": "mongodb://%s:%s@mine/%s?authSource=admin"}).generate_binding_credentials(view)
    return str(made["uri"]).replace(made["password"], quote(password, safe=""))


@pytest.mark.parametrize(
    "text", ["a b", "a+b", "a%20b", "a@b", "a/b", "a:b", "a?b", "a#b", "ä€😀", "[a]", "a&b=c", "%"]
)
def test_what_drivers_could_mistake_is_percent_encoded(text: str) -> None:
    assert by_rfc_3986(with_credentials(STANDARD, text, text, text)) == (text, text, text)
    uri = with_credentials(STANDARD, text, text, "db")
    parsed = parse_uri(uri, warn=False)
    assert (parsed["username"], parsed["password"]) == (text, text)
    assert parsed["options"]["authSource"] == "admin"


def test_a_space_is_percent_20() -> None:
    assert (
        with_credentials(SRV, "my app", "p w", "d b")
        == "mongodb+srv://my%20app:p%20w@c.x.mongodb.net/d%20b?authSource=admin"
    )


def test_hosts_and_options_stay_as_atlas_gives_them() -> None:
    uri = with_credentials(STANDARD, "u", "p", "db")
    assert uri == f"mongodb://u:p@{HOSTS}/db?ssl=true&authSource=admin&replicaSet=atlas-1"


@pytest.mark.parametrize(
    ("given_by_atlas", "handed_out"),
    [
        (SRV, "mongodb+srv://u:p@c.x.mongodb.net/db?authSource=admin"),
        (f"{SRV}/", "mongodb+srv://u:p@c.x.mongodb.net/db?authSource=admin"),
        (f"{SRV}/?retryWrites=true", "mongodb+srv://u:p@c.x.mongodb.net/db?retryWrites=true&authSource=admin"),
        ("mongodb://h:1/?authSource=%24external", "mongodb://u:p@h:1/db?authSource=%24external"),
    ],
)
def test_users_are_looked_for_in_admin_where_the_string_does_not_say(given_by_atlas: str, handed_out: str) -> None:
    assert with_credentials(given_by_atlas, "u", "p", "db") == handed_out


def test_credentials_have_the_legacy_four_keys_and_the_srv_form_where_there_is_one() -> None:
    without = Config({}, {}).generate_binding_credentials(binding(standard=STANDARD))
    assert set(without) == {"username", "password", "database", "uri"}
    both = Config({}, {}).generate_binding_credentials(binding(standard=STANDARD, srv=SRV))
    assert both["uri"].startswith("mongodb://")
    assert both["connectionString"] == f"mongodb+srv://b:{both['password']}@c.x.mongodb.net/db?authSource=admin"


def test_a_cluster_with_only_an_srv_string_gives_that_as_uri() -> None:
    made = Config({}, {}).generate_binding_credentials(binding(srv=SRV))
    assert made["uri"] == made["connectionString"]


def test_a_cluster_without_any_string_is_the_legacy_error() -> None:
    with pytest.raises(ErrClusterConfig, match=r"The cluster configuration for c is not available\."):
        Config({}, {}).generate_binding_credentials(binding())


def test_templates_of_clusters_that_a_config_was_made_with_come_first() -> None:
    config = Config({}, {}, {"c": "mongodb://%s:%s@mine/%s"})
    made = config.generate_binding_credentials(binding(standard=STANDARD))
    assert made["uri"] == f"mongodb://b:{made['password']}@mine/db"


def test_passwords_are_long_need_no_escaping_and_never_come_twice() -> None:
    config = Config({}, {})
    passwords = {config.generate_binding_credentials(binding(standard=STANDARD))["password"] for _ in range(100)}
    assert len(passwords) == 100
    assert {len(password) for password in passwords} == {PASSWORD_LENGTH}
    assert all(password.isascii() and password.isalnum() for password in passwords)


def test_a_hook_may_give_another_user_name_and_the_uri_has_it() -> None:
    class Named(Config):
        def generate_binding_username(self, binding: BindingView) -> str:
            return f"{binding.instance.instance_id}/{binding.binding_id}@x"

    made = Named({}, {}).generate_binding_credentials(binding(standard=STANDARD))
    assert made["username"] == "i/b@x"
    assert unquote(made["uri"].partition("://")[2].partition(":")[0]) == "i/b@x"


# --- names and roles --------------------------------------------------------------------------------------------


def test_an_instance_tells_a_hook_its_cluster_and_its_database_once_that_is_settled() -> None:
    new = InstanceView("i", {"cluster": "c"}, "c")
    assert (new.get_dbname(), new.get_cluster()) == (None, "c")
    assert Config({}, {}).generate_instance_dbname(new) == "instance-i"
    assert Config({}, {}).generate_instance_dbname(InstanceView("i", {"database": "mine"}, "c")) == "mine"
    long = InstanceView("i" * 36, {}, "c", database_limit=38)
    assert len(Config({}, {}).generate_instance_dbname(long)) == 38
    assert binding().instance.get_dbname() == "db"


def test_a_binding_gets_the_legacy_roles_unless_it_asks_for_others() -> None:
    config = Config({}, {})
    assert roles(config) == roles(config, role="readWrite") == [Role("dbAdmin", "db"), Role("readWrite", "db")]
    assert roles(config, role="readOnly") == [Role("read", "db")]


def test_explicit_roles_are_on_the_instances_database_and_may_be_narrowed_to_a_collection() -> None:
    asked = ["read", {"roleName": "readWrite", "collectionName": "things"}]
    assert roles(Config({}, {}), roles=asked) == [Role("read", "db"), Role("readWrite", "db", "things")]


def test_custom_roles_that_the_config_allows_are_atlass_own_and_live_in_admin() -> None:
    class Custom(Config):
        CUSTOM_ROLES = frozenset({"auditor"})

    assert roles(Custom({}, {}), roles=["auditor"]) == [Role("auditor", "admin")]


def test_permissions_take_the_legacy_names_and_no_role_twice() -> None:
    permissions = Permissions().add_roles("db", [RoleSpecs.dbAdmin, RoleSpecs.readWrite]).add_role("db", "readWrite")
    assert permissions.roles == [Role("dbAdmin", "db"), Role("readWrite", "db")]


# --- what hooks see ---------------------------------------------------------------------------------------------


def test_hooks_see_how_a_stored_binding_logs_in_and_the_connection_strings_of_its_instance() -> None:
    ids = {"instance_id": "i", "operation": {"id": "o", "kind": "bind", "state": "succeeded"}, "phase": "ready"}
    stored = Binding.model_validate({**ids, "_id": "binding/i/b", "binding_id": "b", "auth": "x509"})
    instance = Instance.model_validate({**ids, "_id": "instance/i", "connection": '{"srv":"mongodb+srv://c.x"}'})
    view = binding_view(Config({}, {}), stored, instance)
    assert (view.auth, view.instance.connection) == ("x509", {"srv": "mongodb+srv://c.x"})
    assert binding_view(Config({}, {}), stored, stored).instance.connection == {}


READER = {"reader": ["read"]}


@pytest.mark.parametrize(
    ("presets", "allowed", "parameters", "sentence"),
    [
        (READER, {"read"}, {}, "A binding must choose its role: parameters.role (reader) or parameters.roles (read)."),
        ({}, {"read", "dbAdmin"}, {}, "A binding must choose its role: parameters.roles (dbAdmin, read)."),
        (READER, set(), {"role": "writer"}, "parameters.role is writer, which is none of the roles offered now."),
        (READER, set(), {"role": [1]}, "parameters.role is [1], which is none of the roles offered now."),
    ],
)
def test_a_binding_without_a_preset_of_the_config_must_choose(
    presets: dict[str, list[str]], allowed: set[str], parameters: JsonObject, sentence: str
) -> None:
    class Own(Config):
        ROLE_PRESETS = presets
        ALLOWED_ROLES = frozenset(allowed)

    with pytest.raises(BadRequest) as caught:
        preset_roles(Own({}, {}), parameters)
    assert str(caught.value) == sentence
