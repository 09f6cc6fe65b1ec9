"""Every answer that the platforms of a test run were given, so that no 5xx passes unseen."""

import os
import threading
from collections import Counter


class RequestLog:
    """Counts answers by server and status, and keeps the 5xx that no test had announced."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.unasked: list[str] = []
        self._lock = threading.Lock()

    def note(self, server: str, request: str, status: int, *, expected: bool, text: str = "") -> None:
        with self._lock:
            self.answers[server, status] += 1
            if status >= 500 and not expected:
                test = os.environ.get("PYTEST_CURRENT_TEST", "between tests")
                self.unasked.append(f"{status} for {request} in {test}: {text[:300]}")

    def server_errors(self, server: str) -> int:
        """How many 5xx of this server the platforms have seen, announced or not."""
        with self._lock:
            return sum(number for (name, status), number in self.answers.items() if name == server and status >= 500)


REQUESTS = RequestLog()
"""Of this whole run."""
