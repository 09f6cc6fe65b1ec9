"""The certificate of the API while its files change."""

from pathlib import Path

from structlog.testing import capture_logs

from broker_api.certificate import ServerCertificate
from tests.certificates import Authority


def test_a_file_that_is_missing_is_logged_once_until_it_is_there_again(tmp_path: Path) -> None:
    file, key = Authority(tmp_path).certificate("broker")
    certificate = ServerCertificate(str(file), str(key))
    content = file.read_bytes()
    with capture_logs() as lines:
        for _ in range(2):
            before = certificate.context(None, None)
            file.unlink()
            assert [certificate.context(None, None) for _ in range(3)] == [before] * 3
            file.write_bytes(content)
            certificate.context(None, None)
    assert [line["event"] for line in lines] == ["certificate_not_loaded", "certificate_loaded"] * 2
