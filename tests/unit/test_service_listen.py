"""On which addresses services listen."""

import socket

import pytest

from holdtrue.errors import UsageError
from holdtrue.service import listen, url_of


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "0x0", "00.0", "::", "0::0", ""])
def test_every_address_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises(UsageError, match="every address"):
        listen(host)


def test_an_address_of_this_machine_is_listened_on_and_has_a_url() -> None:
    with listen("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(UsageError, match=rf"port {port} \(Address already in use\);"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("*", 0), ("a" * 70, 0)])
def test_what_is_no_address_of_this_machine_is_a_sentence(host: str, port: int) -> None:
    with pytest.raises(UsageError, match="nothing can listen on"):
        listen(host, port)
