"""Servers that are no Ray cluster, or one that refuses the token: each is named, within seconds."""

import _thread
import contextlib
import os
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


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265", "local"])
def test_other_kinds_of_addresses(address: str, monkeypatch: pytest.MonkeyPatch):
    told = refusal(monkeypatch, address)
    assert "no cluster's own address" in told and "such as 10.0.0.1:6379" in told


def test_no_address(monkeypatch: pytest.MonkeyPatch):
    assert "this is no host:port" in refusal(monkeypatch, "head")


def test_no_cluster_and_no_address(monkeypatch: pytest.MonkeyPatch):
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(connect, "canonicalize_bootstrap_address", none)  # another test's Ray may be running
    with pytest.raises(ConnectionError, match="RAY_ADDRESS is not set: no Ray cluster runs on this machine; set RAY_"):
        join()


def test_a_closed_port_and_an_unknown_name(monkeypatch: pytest.MonkeyPatch):
    with silent() as address:
        pass
    assert f"no Ray cluster answers at {address} (" in (told := refusal(monkeypatch, address)) and "refused" in told
    assert "no Ray cluster answers at nowhere.invalid:1 (" in refusal(monkeypatch, "nowhere.invalid:1")


def test_servers_of_other_kinds(monkeypatch: pytest.MonkeyPatch):
    for server in (web, rpc):
        with server() as address:
            assert f"no Ray cluster answers at {address} (" in refusal(monkeypatch, address)
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 1)
    with silent() as address:
        assert "(nothing answered within 1 s)" in refusal(monkeypatch, address)


def test_a_token_that_is_refused(monkeypatch: pytest.MonkeyPatch):
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")  # Ray's own words
        raise AssertionError("abort raises")

    with rpc(refuse) as address:
        told = refusal(monkeypatch, address)
    assert f"the cluster at {address} refuses the token (InvalidAuthToken" in told
    assert "RAY_AUTH_MODE=token" in told and "RAY_AUTH_TOKEN_PATH" in told


def test_a_cluster_that_answers_is_none_of_them(monkeypatch: pytest.MonkeyPatch):
    with rpc(lambda request, context: b"") as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        connect._check_answer()


def test_ctrl_c_while_it_waits(monkeypatch: pytest.MonkeyPatch):
    with silent() as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(connect, "ANSWER_SECONDS", 300)
        pressed = threading.Timer(1, _thread.interrupt_main)
        pressed.start()
        with pytest.raises(KeyboardInterrupt):
            join()


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
