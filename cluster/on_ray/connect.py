"""A Ray to run on: one of our own on this machine, or the cluster that the job was submitted to."""

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private.authentication import authentication_token_setup as ray_token
from ray._private.gcs_utils import create_gcs_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import AuthenticationError

from cluster.signals import signals_kept
from configs.keys import shown
from configs.sections import ClusterConfig

TRAIN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
"""Read by Ray Train in the driver. A checkpoint waits for the controller's next poll: 2 s by default, longer than a
small model's step. And relative paths have to mean the same in train workers as everywhere else.
"""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
"""On CPUs every role is a process and the cores are few: threads that spin make everything several times slower."""

FEW_PROCESSES = {
    "RAY_prestart_worker_first_driver": "0",  # idle workers lack the runtime environment and would be thrown away
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # this machine is not preempted
}
"""On a machine of our own: every process that Ray starts costs seconds of a core."""

START_ATTEMPTS = 3

ANSWER_SECONDS = 15
"""Within these a cluster that is joined has to answer; Ray itself would try for many minutes and say nothing."""

BY_ADDRESS = "set RAY_ADDRESS to the host:port that `ray start --head` printed, such as 10.0.0.1:6379"

BY_TOKEN = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or RAY_AUTH_TOKEN to it)"
)

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def connected(cluster: ClusterConfig, *, on_gpus: bool, logs: Path) -> Iterator[None]:
    """Ray, connected, until the end of the block.

    `on_gpus`: some role has one, and CPU threads need not be spared. `logs`: the folder for the log files of a Ray of
    our own. Raises ConnectionError or PermissionError that names RAY_ADDRESS or the token if the cluster to be joined
    does not answer.
    """
    options: dict[str, Any] = {
        "namespace": f"apogee-{secrets.token_hex(4)}",
        "runtime_env": {"env_vars": QUIET if on_gpus else QUIET | ONE_THREAD},
        "log_to_driver": False,  # the terminal has one progress display; workers write to Ray's log files
        "logging_level": "error",
    }
    with contextlib.ExitStack() as stack:
        if cluster.address == "local":
            options |= stack.enter_context(_own_cluster(cluster, logs=logs))
        else:
            options["address"] = "auto"
        stack.enter_context(_environment(TRAIN | QUIET))
        if cluster.address == "auto":
            _check_answer()
        stack.callback(ray.shutdown)
        with signals_kept():
            _init(options)
        yield


def _check_answer() -> None:
    """Raises as `connected` does. Cluster and token are found as `ray.init` finds them."""
    given = os.environ.get("RAY_ADDRESS", "")
    named = f"cluster.address = auto and RAY_ADDRESS {f'= {shown(given)}' if given else 'is not set'}"
    if "://" in given or given == "local":
        raise ConnectionError(f"{named}: this is no cluster's own address; {BY_ADDRESS}, or use cluster.address: local")
    try:
        address = canonicalize_bootstrap_address("auto")
    except (ValueError, OSError):
        why = "this is no host:port" if given not in ("", "auto") else "no Ray cluster runs on this machine"
        raise ConnectionError(f"{named}: {why}; {BY_ADDRESS}, or use cluster.address: local") from None
    try:
        if given in ("", "auto"):
            ray_token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ray_token.ensure_token_if_auth_enabled(create_token_if_missing=False)
        channel: Any = create_gcs_channel(str(address))  # with the token, and TLS if Ray is set to it
        with channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=ANSWER_SECONDS)
    except AuthenticationError as error:
        raise PermissionError(f"{named}: {str(error).partition('. Ensure')[0]}; {BY_TOKEN}") from None
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise PermissionError(
                f"{named}: the cluster at {address} refuses the token ({details}); {BY_TOKEN}"
            ) from None
        late = f"nothing answered within {ANSWER_SECONDS} s"
        why = late if code is grpc.StatusCode.DEADLINE_EXCEEDED else details
        raise ConnectionError(f"{named}: no Ray cluster answers at {address} ({why}); {BY_ADDRESS}") from None


def _init(options: dict[str, Any]) -> None:
    """`ray.init`, again if this machine was too busy: Ray gives its node 30 seconds to appear, and no key for it."""
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises no narrower class here
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            ray.shutdown()


@contextlib.contextmanager
def _own_cluster(cluster: ClusterConfig, *, logs: Path) -> Iterator[dict[str, Any]]:
    """Arguments for a Ray on loopback with a token and a folder of its own, which is gone at the end.

    Ray would write its token into ~/.ray, where it silently changes how the user's other clusters authenticate.
    The folder's path is short because Ray puts unix sockets below it (at most about 107 characters).
    """
    # Ray lets everyone write into the folder that it is given. Nobody else can enter the one around it.
    folder = Path(tempfile.mkdtemp(prefix="apogee-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_token())
    try:
        with _environment({"RAY_AUTH_TOKEN_PATH": str(token)} | FEW_PROCESSES):
            yield {
                "address": "local",
                "num_cpus": cluster.num_cpus,
                "include_dashboard": cluster.dashboard,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": str(folder / "ray"),
            }
    finally:
        for session in folder.glob("ray/session_2*/logs"):
            with contextlib.suppress(OSError, shutil.Error):  # a log that vanishes meanwhile is no reason to fail
                shutil.copytree(session, logs / "ray", dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _token() -> str:
    """One for the life of the process: Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables for the length of the block, if the user has not set them otherwise; then all as it was.

    Ray leaves variables of its own behind (the authentication mode), which would hold for the next cluster too.
    """
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if name not in before})
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
