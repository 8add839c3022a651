"""The store behind the launchers of a gang, over real sockets: who may use it, and what strangers can do to it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from diht_k8s.runtime.in_place import control_store as store_module
from diht_k8s.runtime.in_place.control_store import (
    CHALLENGE_BYTES,
    HEADER_BYTES,
    MOST_FRAME_BYTES,
    PROOF_BYTES,
    ControlStore,
    ProtocolError,
    StoreClient,
    StoreServer,
    challenge,
    frame,
    message,
    proof,
)
from diht_k8s.runtime.in_place.rounds import LauncherAction, Register, RoundFailure, next_register
from tests.ports import free_port

TOKEN = "a-token-of-this-attempt"


@pytest.fixture
def server() -> Iterator[StoreServer]:
    found = StoreServer(TOKEN, 0, everywhere=False, given={"register": "r"})
    yield found
    found.close()


def connect(server: StoreServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends a connection, whatever it said before."""
    connection.settimeout(30)  # less than the 60 s of a stranger's patience
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_values_are_set_replaced_and_counted(server: StoreServer) -> None:
    one, two = (StoreClient(TOKEN, "127.0.0.1", server.port) for _ in range(2))
    assert (one.get("register"), one.get("none")) == ("r", None)
    one.set("seen/0", "é" * 1000)
    assert two.get("seen/0") == "é" * 1000
    assert (two.has_all("seen/", 1), two.has_all("seen/", 2), two.has_all("seen/", 0)) == (True, False, True)
    assert (two.has_all("seen/", 2, [1]), two.has_all("seen/", 3, [1]), two.has_all("seen/", 2, [0])) == (
        True,
        False,
        False,
    )
    two.replace("register", "x", "y")
    assert one.get("register") == "r"
    two.replace("register", "r", "y")
    assert one.get("register") == "y"
    one.close()
    two.close()


def test_closed_server_ends_while_clients_ask_it_without_a_pause() -> None:
    def ask(port: int) -> None:
        with (
            contextlib.suppress(OSError, ProtocolError),
            contextlib.closing(StoreClient(TOKEN, "127.0.0.1", port)) as client,
        ):
            while True:
                client.get("name")

    for _ in range(5):
        server = StoreServer(TOKEN, 0, everywhere=False)
        clients = [threading.Thread(target=ask, args=[server.port], daemon=True) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.05)
        server.close()
        for client in clients:
            client.join(60)
        assert not any(client.is_alive() for client in clients)


@pytest.mark.parametrize("token", ["", "another", f"{TOKEN} "])
def test_client_without_the_token_is_refused(server: StoreServer, token: str) -> None:
    with pytest.raises((ProtocolError, OSError)):
        StoreClient(token, "127.0.0.1", server.port)
    with connect(server) as stranger:  # one that believes any server
        theirs, mine = stranger.recv(CHALLENGE_BYTES, socket.MSG_WAITALL), challenge()
        stranger.sendall(mine + proof(token, b"client", theirs, mine) + frame(["get", "register"]))
        assert stranger.recv(1) == b"", "it gets no answer"


def test_server_without_the_token_is_not_believed() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def pretend() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(challenge())
            connection.recv(CHALLENGE_BYTES + PROOF_BYTES, socket.MSG_WAITALL)
            connection.sendall(b"\0" * PROOF_BYTES)

    thread = threading.Thread(target=pretend)
    thread.start()
    with listener, pytest.raises(ProtocolError, match="the server does not know the token"):
        StoreClient(TOKEN, "127.0.0.1", listener.getsockname()[1])
    thread.join()


def test_answer_that_was_overheard_fits_no_other_connection_and_not_the_other_side(server: StoreServer) -> None:
    mine = challenge()
    with connect(server) as first:
        theirs = first.recv(CHALLENGE_BYTES, socket.MSG_WAITALL)
        said = mine + proof(TOKEN, b"client", theirs, mine)
        first.sendall(said)
        answer = first.recv(PROOF_BYTES, socket.MSG_WAITALL)
        assert answer == proof(TOKEN, b"server", theirs, mine)
    for replayed in (said, mine + answer):
        with connect(server) as again:
            again.recv(CHALLENGE_BYTES, socket.MSG_WAITALL)
            again.sendall(replayed)
            assert again.recv(1) == b""


def garbage(rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(2000))
    if kind == 1:
        return struct.pack(">I", 2**32 - 1) * 30
    if kind == 2:
        return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20
    if kind == 3:  # what torch's TCPStore asks for first
        return b"\x00" + struct.pack("<I", 0x3C85F7CE) + rng.randbytes(64)
    return b"\0" * rng.randrange(1, 200)


def test_any_bytes_of_strangers_end_their_own_connection_alone(server: StoreServer) -> None:
    rng, client = random.Random(7), StoreClient(TOKEN, "127.0.0.1", server.port)
    for number in range(300):
        with connect(server) as stranger:
            try:
                stranger.sendall(garbage(rng))
                if rng.random() < 0.5:  # reset in place of an end
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        if number % 20 == 0:
            client.set("beat", str(number))
    assert client.get("beat") == "280"
    client.close()


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", MOST_FRAME_BYTES + 1) + b"x",
        struct.pack(">I", 3) + b"{{{",
        struct.pack(">I", MOST_FRAME_BYTES) + b"[" * MOST_FRAME_BYTES,
        *(
            frame(each)
            for each in (
                None,
                5,
                [],
                ["get"],
                ["get", 5],
                ["set", "a"],
                ["all", "a", "b", []],
                ["all", "a", 10**9, []],
                ["all", "a", 2],
                {"get": "a"},
            )
        ),
    ],
)
def test_message_that_is_none_ends_its_connection_alone(server: StoreServer, bad: bytes) -> None:
    client = StoreClient(TOKEN, "127.0.0.1", server.port)
    with connect(server) as other:
        theirs, mine = other.recv(CHALLENGE_BYTES, socket.MSG_WAITALL), challenge()
        other.sendall(mine + proof(TOKEN, b"client", theirs, mine))
        other.recv(PROOF_BYTES, socket.MSG_WAITALL)
        other.sendall(bad)
        assert is_closed(other)
    assert client.get("register") == "r"
    client.close()


def test_strangers_that_say_nothing_or_little_keep_no_launcher_waiting(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ANSWER_S", 60.0)
    silent = [connect(server) for _ in range(store_module.MOST_STRANGERS + 50)]
    for each in silent[::3]:
        each.sendall(b"x")
    client = StoreClient(TOKEN, "127.0.0.1", server.port)
    client.set("beat", "1")
    assert client.get("beat") == "1"
    assert is_closed(silent[0]), "the oldest gives way"
    client.close()
    for each in silent:
        each.close()


@pytest.mark.parametrize("said", [b"", b"x" * (CHALLENGE_BYTES + PROOF_BYTES - 1)], ids=["nothing", "most of a proof"])
def test_proof_has_to_come_in_time(server: StoreServer, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(store_module, "ANSWER_S", 0.3)
    with connect(server) as stranger:
        stranger.sendall(said)
        assert is_closed(stranger)


def test_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        frame("x" * MOST_FRAME_BYTES)
    assert message(frame(["a", 1])[HEADER_BYTES:]) == ["a", 1]


def test_launchers_agree_on_the_next_round_while_strangers_knock() -> None:
    port = free_port()
    second = ControlStore(node=1, nodes=2, host="localhost", port=port, token=TOKEN, poll_s=0.02)
    first = ControlStore(node=0, nodes=2, host="localhost", port=port, token=TOKEN, poll_s=0.02)
    try:
        until(lambda: first.view and second.view)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"\x00" * 5000)
        for store in (first, second):
            store.note(LauncherAction.ACKNOWLEDGE, 1)
        until(lambda: first.view and first.view.acknowledged)
        first.announce(1, "host:7")
        until(lambda: second.view and second.view.address == "host:7")
        failures = [RoundFailure(code=75, message=f"m{node}", node=node) for node in (0, 1)]
        for store, failure in zip((first, second), failures, strict=True):
            store.propose(Register(), next_register(Register(), failure))
        until(lambda: first.view and second.view and first.view.register.round == second.view.register.round == 2)
        assert first.view
        assert second.view
        assert first.view.register == second.view.register, "one of them decided"
        assert (first.view.acknowledged, second.view.address) == (False, None)
        second.note(LauncherAction.SHUTDOWN, 2)
        until(lambda: first.view and first.view.all_left)
    finally:
        second.close()
        first.close()


def test_launcher_whose_store_is_gone_sees_how_long_ago_it_answered() -> None:
    port = free_port()
    first = ControlStore(node=0, nodes=2, host="localhost", port=port, token=TOKEN, poll_s=0.02)
    second = ControlStore(node=1, nodes=2, host="localhost", port=port, token=TOKEN, poll_s=0.02)
    stranger = ControlStore(node=1, nodes=2, host="localhost", port=port, token="another", poll_s=0.02)
    try:
        until(lambda: second.view)
        first.close()

        def is_silent() -> bool:
            before = second.contact_at
            time.sleep(0.5)
            return second.contact_at == before

        until(is_silent)  # what was on its way may come late
        assert stranger.view is None
    finally:
        for store in (second, stranger):
            store.close()
