import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.viewer.server import Server


def make(name: str) -> str:
    if name == "bad":
        raise InputError("bad has no panorama")
    return f"page of {name if name.isascii() else 'that name'}"


@contextmanager
def served(*names: str) -> Iterator[Server]:
    with Server(names, make, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(server.address + path, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_one_page_or_a_list_of_them() -> None:
    with served("a") as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert get(server, "") == (200, "page of a")
    with served("a", "sub/b <c>", "bad") as server:
        status, text = get(server, "")
        assert status == 200 and 'href="/sub/b%20%3Cc%3E">sub/b &lt;c&gt;<' in text
        assert get(server, "sub/b%20%3Cc%3E") == (200, "page of sub/b <c>")
        assert get(server, "bad") == (500, "bad has no panorama")
        assert get(server, "../etc/passwd")[0] == 404


def test_a_name_that_is_not_utf_8_has_a_page() -> None:
    name = os.fsdecode(b"caf\xe9 <1>")
    with served(name, "b") as server:
        status, text = get(server, "")
        assert status == 200 and r'href="/caf%E9%20%3C1%3E">caf\udce9 &lt;1&gt;<' in text
        assert get(server, "caf%E9%20%3C1%3E") == (200, "page of that name")
        assert get(server, "caf%E8")[0] == 404


def test_it_answers_to_its_own_name_only() -> None:
    with served("a") as server:
        assert get(server, "", Host="evil.example")[0] == 403


def test_a_port_that_is_taken_is_named() -> None:
    taken = "is taken: choose another with --port, or 0"
    with Server(("a",), make, 0) as server, pytest.raises(InputError, match=f"{server.server_port} {taken}"):
        Server(("a",), make, server.server_port)
    with pytest.raises(InputError, match="from 0 to 65535, not 70000"):
        Server(("a",), make, 70000)
