"""Commands and blocks of the documentation that cannot be run here have the right form; what they name exists."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from cryptography.fernet import Fernet

from broker_api.catalog.catalog import Catalog
from broker_api.cli import cli
from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.log_events import EVENTS
from broker_api.settings.settings import Part, load
from broker_api.state.broker_state import BrokerState
from broker_api.state.records import EPOCH
from tests.deploy.files import COMPOSE, DOCKERFILE, KUBERNETES, WORKING, objects
from tests.dev.processes import CHECKOUT, script
from tests.docs.blocks import ELSEWHERE, WITH_A_TEST_OF_ITS_OWN, blocks, commands, inline_commands
from tests.docs.html_links import problems
from tests.emulator.faults import Rule
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import a_client, send

LANGUAGES = {"sh", "python", "json", "yaml", "{toctree}", "{eval-rst}"}
"""`sh` is run or checked here; `python` is run by tests/integration/test_legacy_interface.py, or with `sh`."""
OF_LEAST_RIGHTS = {"docs/least-rights.md", "docs/security.md"}
"""Pages with blocks for Redis and MongoDB, which tests/e2e/test_least_rights.py runs."""
WITH_PYTHON = {"docs/config-api.md", "docs/emulator.md", "docs/clusters.md"}
CF = {
    "create-service-broker": 4,
    "enable-service-access": 1,
    "disable-service-access": 1,
    "marketplace": 0,
    "create-service": 3,
    "update-service": 1,
    "bind-service": 2,
    "unbind-service": 2,
    "create-service-key": 2,
    "service-key": 2,
    "delete-service-key": 2,
    "delete-service": 1,
    "delete-service-broker": 1,
    "restage": 1,
    "env": 1,
}
SMCTL = {
    "login": 0,
    "register-broker": 3,
    "marketplace": 0,
    "provision": 3,
    "bind": 2,
    "get-binding": 1,
    "unbind": 2,
    "deprovision": 1,
    "delete-broker": 1,
}
"""The commands of both programs, each with how many arguments it takes."""
WITH_VALUE = {"-c", "-e", "-s", "-b", "-a", "-u", "-p", "--mode"}
SWITCHES = {"--wait", "-f"}
MADE = {"docker/.env", "docs/_build/html/"}
"""Paths that are made by a user or a command."""
BINDS = {"bind-service", "create-service-key", "bind"}


@cache
def plan() -> dict[str, Any]:
    catalog: Any = send(a_client(InMemoryService()), "GET", "/v2/catalog").json
    (service,) = catalog["services"]
    (only,) = [each for each in service["plans"] if each["name"] == "atlas-mongodb-existing-cluster"]
    return {**only, "service": service["name"]}


@cache
def names_of(kind: str) -> set[str]:
    found = [each for path in sorted(KUBERNETES.rglob("*.yaml")) for each in objects(path)]
    return {each["metadata"]["name"] for each in found if each["kind"].lower() == kind}


def test_each_block_is_of_a_language_that_a_test_knows() -> None:
    for block in blocks():
        known = block.language in LANGUAGES or block.language.startswith("{include}")
        assert known or block.page in OF_LEAST_RIGHTS, block
        assert block.language != "python" or block.page in WITH_PYTHON, block


def test_what_is_run_elsewhere_is_still_in_the_documentation() -> None:
    assert set(ELSEWHERE) <= {block.text.strip() for block in blocks("sh")}
    for where in ELSEWHERE.values():
        assert "/" not in where or (CHECKOUT / where).exists()
    for page, test in WITH_A_TEST_OF_ITS_OWN.items():
        assert Path(page).name in (CHECKOUT / test).read_text()


@pytest.mark.parametrize("words", commands("cf", "smctl"), ids=" ".join)
def test_platforms_are_called_with_what_the_catalog_has(words: Sequence[str]) -> None:
    program, command, *rest = words
    arguments, options = [], {}
    left = iter(rest)
    for word in left:
        if word in WITH_VALUE:
            options[word] = next(left)
        else:
            assert word in SWITCHES or not word.startswith("-")
            arguments += [] if word in SWITCHES else [word]
    assert len(arguments) == {"cf": CF, "smctl": SMCTL}[program][command]
    parameters = json.loads(options["-c"]) if "-c" in options else {}
    if command in BINDS:
        schema = plan()["schemas"]["service_binding"]["create"]["parameters"]
    else:
        verb = "update" if command == "update-service" else "create"
        schema = plan()["schemas"]["service_instance"][verb]["parameters"]
    if parameters:
        jsonschema.validate(parameters, schema)
    assert parameters.keys() <= schema["properties"].keys()
    if command in ("create-service", "provision"):
        named = arguments[:2] if program == "cf" else arguments[1:]
        assert named == [plan()["service"], plan()["name"]]
    if command in ("create-service-broker", "register-broker"):
        user = arguments[1] if program == "cf" else options["-b"].partition(":")[0]
        assert any(word.startswith("https://") for word in arguments)
        assert f"{user}/platform:PASSWORD" in (CHECKOUT / "docs" / "platforms" / "index.md").read_text()


@pytest.mark.parametrize("words", commands("kubectl"), ids=" ".join)
def test_kubectl_is_called_with_objects_and_files_that_exist(words: Sequence[str]) -> None:
    text = " ".join(words)
    for namespace in re.findall(r" -n (\S+)", text):
        assert namespace in names_of("namespace") | {"default"}
    for file in re.findall(r" -f (\S+)", text):
        assert (CHECKOUT / file).is_file() or file == "secrets.yaml"
    for folder in re.findall(r" -k (\S+)", text):
        assert (CHECKOUT / folder / "kustomization.yaml").is_file()
    for deployment in re.findall(r" deploy/(\S+)", text):
        assert deployment in names_of("deployment")
    for kind, name in re.findall(r" (?:get|delete|describe) (\w+) ([a-z][\w-]*)", text):
        assert name in (names_of(kind) | ({"orders-mongodb"} if kind == "secret" else set()))
    if "--" in words:
        resolve(words[words.index("--") + 1 :])


@pytest.mark.parametrize("words", commands("docker", "cp"), ids=" ".join)
def test_docker_is_called_with_files_targets_and_profiles_that_exist(words: Sequence[str]) -> None:
    options = dict(pairwise(words))
    if words[0] == "cp":
        assert (CHECKOUT / words[1]).is_file()
    elif words[1] == "build":
        assert (CHECKOUT / options["-f"]) == DOCKERFILE
        assert re.search(rf" AS {options['--target']}$", DOCKERFILE.read_text(), re.MULTILINE)
    else:
        (compose,) = objects(COMPOSE)
        assert (CHECKOUT / options["-f"]) == COMPOSE
        assert any(options["--profile"] in each.get("profiles", []) for each in compose["services"].values())


def resolve(words: Sequence[str]) -> None:
    """Fail if ``atlas-broker`` has no such command, or the command no such option."""
    command: click.Command = cli
    for word in words[1:]:
        if isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word.strip(","))
            assert found, " ".join(words)
            command = found
        elif word.startswith("--") and word != "--help":
            options = {each for parameter in command.params for each in (*parameter.opts, *parameter.secondary_opts)}
            assert word.partition("=")[0].strip(",") in options, " ".join(words)


def test_commands_within_sentences_exist_with_their_options() -> None:
    found = [words for _, words in inline_commands("atlas-broker")]
    assert len(found) > 20
    for words in found:
        resolve(words)


def test_each_list_of_commands_shows_a_whole_sentence_for_each() -> None:
    listed = [cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))]
    groups = [cli, *(each for each in listed if isinstance(each, click.Group))]
    assert len(groups) > 5
    for group in groups:
        ended = CliRunner().invoke(group, ["--help"])
        assert "..." not in ended.stdout.partition("Commands:")[2], ended.stdout


def test_sessions_of_nox_within_sentences_exist() -> None:
    noxfile = (CHECKOUT / "noxfile.py").read_text()
    named = {words[2].strip(",") for _, words in inline_commands("nox") if words[1] == "-s"}
    assert named
    assert all(f"\ndef {name}(" in noxfile for name in named), named


def test_paths_within_sentences_exist() -> None:
    pages = [path for path in (CHECKOUT / "docs").rglob("*.md") if path.name != "changelog.md"]
    for path in [CHECKOUT / "README.md", *pages]:
        for named in re.findall(r"`((?:docker|tests|docs|broker_api|workers)/[\w./-]*)`", path.read_text()):
            assert (CHECKOUT / named).exists() or named in MADE, (path, named)


def test_the_page_of_the_emulator_has_each_option_control_route_and_field_of_a_fault() -> None:
    text = (CHECKOUT / "docs" / "emulator.md").read_text()
    emulator = CHECKOUT / "tests" / "emulator"
    options = re.findall(r'click\.option\("(--[\w-]+)"', (emulator / "__main__.py").read_text())
    assert set(options) == set(re.findall(r"--[a-z][a-z-]*", text.partition("| option |")[2].partition("\n\n")[0]))
    routes = set(re.findall(r'^            "([A-Z]+ /[^"]*)":', (emulator / "control.py").read_text(), re.MULTILINE))
    listed = re.findall(r"`([A-Z]+) /_emulator(/[^`]*)`", text.partition("| request |")[2].partition("\n\n")[0])
    assert {f"{method} {path}" for method, path in listed} == {re.sub(r"<[^>]*>", "NAME", route) for route in routes}
    fields = re.findall(
        r"`(\w+)`", re.sub(r"\| [^|]*\|$", "", text.partition("| field |")[2].partition("\n\n")[0], flags=re.MULTILINE)
    )
    assert set(fields) == set(vars(Rule())) - {"id"}


def test_yaml_can_be_read() -> None:
    for block in blocks("yaml"):
        assert isinstance(yaml.safe_load(block.text), dict)


def test_the_secret_json_of_the_documentation_is_accepted(tmp_path: Path) -> None:
    (block,) = [each for each in blocks("json") if each.page == "docs/configuration.md"]
    file = tmp_path / "secret.json"
    file.write_text(block.text.replace('"KEY"', f'"{Fernet.generate_key().decode()}"'))
    settings = load({"BROKER_SECRETS": str(file)}, "worker")
    assert settings.projects[0].project_id == "PROJECT_ID"
    assert settings.users.keys() == {"catalog/platform", "ops/operator"}
    assert len(settings.worker_keys) == len(settings.encryption_keys) == 1


@pytest.mark.parametrize(
    ("row", "part"), [("API", "api"), ("worker", "worker"), ("Flower", "flower"), ("operators' commands", "operator")]
)
def test_the_page_of_the_settings_says_what_each_process_needs(row: str, part: Part) -> None:
    text = (CHECKOUT / "docs" / "settings.md").read_text()
    (needs,) = re.findall(rf"^\| {row} \| (.*) \|$", text, re.MULTILINE)
    variables = set(re.findall(r"`(\w+)`", needs))
    key = {"MONGODB_ATLAS_PUBLIC_API_KEY", "MONGODB_ATLAS_PRIVATE_API_KEY"} if "API key" in needs else set()
    enough = {name: WORKING[name] for name in variables | key}
    assert load(enough, part)
    for name in enough:
        with pytest.raises(SettingError, match=name):
            load({**enough, name: ""}, part)


def test_the_readme_leads_to_each_page() -> None:
    linked = set(re.findall(r"\]\(docs/(.*?\.md)\)", (CHECKOUT / "README.md").read_text()))
    pages = {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    assert pages - linked == {"index.md", "changelog.md"}


def test_the_plan_of_the_page_about_clusters_can_be_offered() -> None:
    (block,) = [each for each in blocks("python") if each.page == "docs/clusters.md"]
    config = Config(None, None)
    config.broker["plans"] = [ast.literal_eval(block.text)]
    assert Catalog(config)


def test_troubleshooting_names_only_events_that_exist_and_all_that_are_problems() -> None:
    text = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
    section = text.partition("## A line in the log")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert named <= EVENTS.keys()
    code = "".join(
        path.read_text() for package in ("broker_api", "workers") for path in (CHECKOUT / package).rglob("*.py")
    )
    worrying = set(re.findall(r"log\.(?:error|warning|exception|critical)\(\s*\"(\w+)\"", code))
    assert len(worrying) > 20
    assert worrying <= named, worrying - named


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts in a piece of code, with `…` for what is filled in."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value.replace("{}", "…")
        elif isinstance(each, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in each.values)


def failures(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the sentences of the operations that a function fails; an argument may be a variable of the function."""
    named = {
        target.id: each.value
        for each in ast.walk(function)
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "FailedError":
            sentence = call.args[0]
            sentence = named.get(sentence.id, sentence) if isinstance(sentence, ast.Name) else sentence
            if isinstance(sentence, ast.Constant | ast.JoinedStr):
                yield max(texts(sentence), key=len)


def test_each_sentence_about_a_failure_has_a_row_and_no_row_is_of_a_sentence_that_is_gone() -> None:
    text = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
    section = text.partition("## A sentence that a user reads")[2].partition("\n## ")[0]
    quoted = re.findall(r'"([^"]+)"', "\n".join(row.split("|")[1] for row in section.splitlines() if "|" in row))
    rows = ["[^\n]*".join(re.escape(part) for part in re.split(r" ?… ?", quote)) for quote in quoted]
    files = [path for package in ("broker_api", "workers") for path in (CHECKOUT / package).rglob("*.py")]
    modules = {path: ast.parse(path.read_text()) for path in files}
    written = "\n".join(sentence for module in modules.values() for sentence in texts(module))
    assert [quote for quote, row in zip(quoted, rows, strict=True) if not re.search(row, written)] == []
    jobs = [module for path, module in modules.items() if path.parent.name in ("operations", "clusters")]
    functions = [each for module in jobs for each in ast.walk(module) if isinstance(each, ast.FunctionDef)]
    sentences = {sentence for function in functions for sentence in failures(function)}
    assert len(sentences) > 20
    assert [sentence for sentence in sentences if not any(re.search(row, sentence) for row in rows)] == []


def test_each_field_of_ready_has_a_row() -> None:
    text = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
    section = text.partition("## A sentence of `/ready`")[2].partition("\n## ")[0]
    fields = set(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))
    named = {name for field in fields for name in re.findall(r"`(\w+)`", field)}
    assert named == {"mongodb", "redis", "encryption_keys", *BrokerState(EPOCH, {}).report()}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="other.html">x</a>', "other.html, which does not exist"),
        ('<a href="#there">x</a>', "#there, whose anchor does not exist"),
        ('<a href="https://no address/">x</a>', "which is no address"),
        ('<script src="https://cdn.example.com/a.js"></script>', "loads https://cdn.example.com/a.js"),
        ('<link rel="stylesheet" href="//fonts.example.com/a.css">', "loads //fonts.example.com/a.css"),
    ],
)
def test_a_link_that_leads_nowhere_and_a_foreign_script_are_found(tmp_path: Path, body: str, problem: str) -> None:
    (tmp_path / "page.html").write_text(f'<p id="here">{body}<a href="#here">x</a><a href="page.html#here">y</a>')
    (found,) = problems(tmp_path)
    assert problem in found


def test_pictures_are_drawn_from_their_sources() -> None:
    pictures = CHECKOUT / "docs" / "pictures"
    sources = sorted(pictures.glob("*.gv"))
    assert {path.stem for path in sources} == {path.stem for path in pictures.glob("*.svg")}
    for source in sources:
        drawn = subprocess.run(
            [script("graphviz-pure"), "-Tsvg", source], capture_output=True, text=True, check=True
        ).stdout
        assert drawn == source.with_suffix(".svg").read_text(), f"draw it anew: nox -s pictures ({source.name})"
