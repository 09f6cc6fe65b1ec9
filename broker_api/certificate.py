"""The certificate with which the API serves TLS, read again when its files change."""

import os
import ssl
import sys
import threading

import structlog

log = structlog.get_logger(__name__)


class ServerCertificate:
    """A certificate and its private key, in PEM files that may be replaced at any time.

    Args:
        certificate: the file of the certificate, followed by those between it and its authority.
        key: the file of its private key, without a password.

    Raises:
        SystemExit: the files cannot be used; the message is one line.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self.files = certificate, key
        self._lock = threading.Lock()
        self._trouble: str | None = None
        try:
            self._stamp = self._look()
            self._context = self._load()
        except OSError as error:  # also ssl.SSLError
            sys.exit(f"atlas-broker: --tls-cert and --tls-key cannot be used: {error.strerror or error.args[0]}.")

    def context(self, _config: object, _default: object) -> ssl.SSLContext:
        """Return the context for a new connection. While new files cannot be used, the old certificate is."""
        with self._lock:
            trouble = None
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._stamp = stamp
                    self._context = self._load()
                    log.info("certificate_loaded", files=self.files)
            except OSError as error:
                trouble = error.strerror or type(error).__name__
                if trouble != self._trouble:
                    log.warning("certificate_not_loaded", files=self.files, reason=trouble)
            self._trouble = trouble
            return self._context

    def _look(self) -> list[tuple[int, int, int]]:
        found = map(os.stat, self.files)
        return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.files, password="")  # else OpenSSL would ask the terminal for a password
        return context
