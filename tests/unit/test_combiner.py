"""Questions of several threads at the same time share a command, and each thread gets its own answer."""

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pymongo.errors import AutoReconnect, PyMongoError

from broker_api.state.combiner import Combiner
from tests.tenant import eventually
from tests.together import until_waiting

FIRST, SHARED = "first", ["a", "b", "c"]


class Server:
    """Answers each question in capitals; the first command is under way until ``go_on`` is set."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.combiner = Combiner[str, str](self.send)

    def send(self, questions: Sequence[str]) -> list[str | Exception]:
        self.commands.append([*questions])
        if questions == [FIRST]:
            self.begun.set()
            assert self.go_on.wait(30)
        if "lost" in questions:
            raise AutoReconnect("lost")
        if "\ud800" in questions:
            return ["".join(questions).encode().decode()]  # as the driver: it encodes all before it sends any
        return [KeyError(each) if each == "refused" else each.upper() for each in questions]

    def ask(self, *questions: str) -> list[str | Exception]:
        """Ask all at once while the first command is under way; return the answers and errors."""

        def ask(question: str) -> str | Exception:
            try:
                return self.combiner.ask(question)
            except Exception as error:  # noqa: BLE001 - it is what the test looks at
                return error

        with ThreadPoolExecutor(len(questions) + 1) as pool:
            first = pool.submit(ask, FIRST)
            assert self.begun.wait(30)
            asked = [pool.submit(ask, each) for each in questions]
            until_waiting(self.combiner, len(questions))
            self.go_on.set()
            assert first.result() == FIRST.upper()
            return [each.result() for each in asked]


def test_a_question_alone_is_sent_at_once() -> None:
    server = Server()
    assert [server.combiner.ask(each) for each in SHARED] == ["A", "B", "C"]
    assert server.commands == [["a"], ["b"], ["c"]]


def test_questions_that_wait_for_a_command_share_the_next_one() -> None:
    server = Server()
    assert server.ask(*SHARED) == ["A", "B", "C"]
    assert [sorted(each) for each in server.commands] == [[FIRST], SHARED]
    assert server.combiner.ask("later") == "LATER"


def test_an_error_among_the_answers_is_of_one_question() -> None:
    good, refused, other = Server().ask("good", "refused", "other")
    assert (good, other) == ("GOOD", "OTHER")
    assert isinstance(refused, KeyError)


def test_an_error_of_mongodb_is_of_all_questions_of_the_command_and_of_no_later_one() -> None:
    server = Server()
    assert all(isinstance(each, AutoReconnect) for each in server.ask("a", "lost", "b"))
    assert len(server.commands) == 2
    assert server.combiner.ask("later") == "LATER"


def test_a_value_that_cannot_be_sent_fails_only_the_question_that_has_it() -> None:
    server = Server()
    good, unsendable, other = server.ask("good", "\ud800", "other")
    assert (good, other) == ("GOOD", "OTHER")
    assert isinstance(unsendable, UnicodeEncodeError)


def test_a_thread_that_is_ended_while_it_sends_leaves_no_other_waiting() -> None:
    ended = threading.Event()

    def send(questions: Sequence[str]) -> list[str]:
        if questions == ["later"]:
            return ["LATER"]
        ended.wait(30)
        raise SystemExit

    combiner = Combiner[str, str](send)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(combiner.ask, FIRST)
        others = []
        for number in (1, 2):
            others.append(pool.submit(combiner.ask, "a"))
            until_waiting(combiner, number)
        ended.set()
        assert isinstance(first.exception(), SystemExit)
        errors = {type(each.exception()) for each in others}
    assert errors == {SystemExit, PyMongoError}
    assert combiner.ask("later") == "LATER"


def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    server = Server()
    thread = threading.Thread(target=server.combiner.ask, args=[FIRST])
    thread.start()
    assert server.begun.wait(30)
    answered = 7
    child = os.fork()
    if child == 0:
        try:
            os._exit(answered if server.combiner.ask("a") == "A" else 1)
        finally:
            os._exit(1)  # whatever it raises, the child runs no other test
    server.go_on.set()
    thread.join()
    try:
        _, status = eventually(lambda: ended if (ended := os.waitpid(child, os.WNOHANG))[0] else None, "it ends")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(status) == answered


def test_under_load_each_thread_gets_the_answer_to_its_own_question() -> None:
    server = Server()
    questions = [f"question {number}" for number in range(2000)]
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(server.combiner.ask, questions)]
    assert answers == [each.upper() for each in questions]
    assert sorted(each for command in server.commands for each in command) == sorted(questions)
