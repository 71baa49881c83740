"""Servers that are no Ray cluster, or one that refuses the token: each is named, within seconds."""

import _thread
import contextlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from cluster.on_ray import connect
from configs.sections import ClusterConfig
from tests.inputs import says

HOST = "127.0.0.2"  # this machine; Ray writes 127.0.0.1 as the machine's own address
NAMED = "cluster.address = auto and RAY_ADDRESS = "


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def join() -> None:
    with connect.connected(ClusterConfig(address="auto"), on_gpus=False, logs=Path("absent")):
        raise AssertionError("there is nothing to join")


def refusal(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(OSError) as caught:
        join()
    told = str(caught.value)
    assert told.startswith(f"{NAMED}{address!r}: ") and "\n" not in told
    return told


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server((HOST, 0)) as server:
        yield f"{HOST}:{server.getsockname()[1]}"


@contextlib.contextmanager
def web() -> Iterator[str]:
    with HTTPServer((HOST, 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{HOST}:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def rpc(answer: Callable[[bytes, grpc.ServicerContext], bytes] | None = None) -> Iterator[str]:
    """A gRPC server. `answer`: to Ray's question whether it is alive; without, there is no such service."""
    server = grpc.server(ThreadPoolExecutor(1))
    if answer:
        methods = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", methods)])
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    yield f"{HOST}:{port}"
    server.stop(0).wait()


@contextlib.contextmanager
def closed() -> Iterator[str]:
    """A port on which nothing listens."""
    with silent() as address:
        pass
    yield address


def refusing(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")  # Ray's own words
    raise AssertionError("abort raises")


def written(address: str) -> Callable[[], contextlib.nullcontext[str]]:
    return lambda: contextlib.nullcontext(address)


ADDRESSES: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[str]], str]] = {
    "a Ray client's address": (written("ray://10.0.0.1:10001"), "no cluster's own address; … such as 10.0.0.1:6379"),
    "the dashboard's address": (written("http://10.0.0.1:8265"), "no cluster's own address; … such as 10.0.0.1:6379"),
    "the word local": (written("local"), "no cluster's own address; … such as 10.0.0.1:6379"),
    "a name without a port": (written("head"), "this is no host:port"),
    "an unknown name": (written("nowhere.invalid:1"), "no Ray cluster answers at nowhere.invalid:1 ("),
    "a port where nothing listens": (closed, "no Ray cluster answers at … refused"),
    "a port that never answers": (silent, "no Ray cluster answers at … (nothing answered within 1 s)"),
    "a web server": (web, "no Ray cluster answers at"),
    "a gRPC server that is not Ray's": (rpc, "no Ray cluster answers at"),
    "a cluster of another token": (
        lambda: rpc(refusing),
        "refuses the token (InvalidAuthToken … RAY_AUTH_MODE=token … RAY_AUTH_TOKEN_PATH",
    ),
}


@pytest.mark.parametrize(("server", "words"), ADDRESSES.values(), ids=list(ADDRESSES))
def test_an_address_that_cannot_be_joined_is_named(
    server: Callable[[], contextlib.AbstractContextManager[str]], words: str, monkeypatch: pytest.MonkeyPatch
):
    if server is silent:  # 15 s in earnest
        monkeypatch.setattr(connect, "ANSWER_SECONDS", 1)
    with server() as address:
        told = refusal(monkeypatch, address)
    assert says(told, words), told


def test_no_cluster_and_no_address(monkeypatch: pytest.MonkeyPatch):
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(connect, "canonicalize_bootstrap_address", none)  # another test's Ray may be running
    with pytest.raises(ConnectionError, match="RAY_ADDRESS is not set: no Ray cluster runs on this machine; set RAY_"):
        join()


def test_a_cluster_that_answers_is_none_of_them(monkeypatch: pytest.MonkeyPatch):
    with rpc(lambda request, context: b"") as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        connect._check_answer()


def test_ctrl_c_while_it_waits(monkeypatch: pytest.MonkeyPatch):
    # A shell without job control starts what runs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with silent() as address:
            monkeypatch.setenv("RAY_ADDRESS", address)
            monkeypatch.setattr(connect, "ANSWER_SECONDS", 300)
            pressed = threading.Timer(1, _thread.interrupt_main)
            pressed.start()
            with pytest.raises(KeyboardInterrupt):
                join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_nobody_else_can_change_the_token():
    before = os.umask(0)
    try:
        with connect._own_cluster(ClusterConfig(), logs=Path("absent")) as options:
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
            assert Path(options["_temp_dir"]).parent == token.parent
    finally:
        os.umask(before)
    assert not token.parent.exists()


@pytest.mark.ray
def test_nor_once_ray_is_there(ray_here: None, monkeypatch: pytest.MonkeyPatch):
    import ray

    raylet_socket = Path(ray.nodes()[0]["RayletSocketName"])
    own = next(folder for folder in raylet_socket.parents if folder.name.startswith("apogee-"))
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE((own / "token").stat().st_mode) == 0o600
