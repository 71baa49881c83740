"""Room on the cluster: waited for before anything starts, also if an autoscaler has to bring the nodes first."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checks.resources import Need, check_resources
from configs.sections import ClusterConfig


def nodes() -> list[dict[str, float]]:
    """`{"CPU": ..., "GPU": ...}` of every living node, for `check_resources`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def on_this_node() -> Any:
    """Where small actors run: beside the driver, and the run's folder is on a disk that it can reach."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def wait_for_room(
    needed: Sequence[Need], cluster: ClusterConfig, waiting_for: Callable[[str], None] = lambda what: None
) -> None:
    """Waits until the cluster has room for all of these processes at once.

    A cluster that is joined is asked for a placement group of them, which an autoscaler sees. It is given back when it
    is there: the learner group brings its own, and the roles change with the stages. Raises ValueError that names what
    is missing if it does not come within `cluster.start_minutes`, and at once if a Ray of our own is too small.
    """
    sizes = [{"CPU": need.cpus, "GPU": need.gpus} for need in needed for _ in range(need.count)]
    bundles = [{kind: count for kind, count in size.items() if count} for size in sizes if any(size.values())]
    if cluster.address == "local" or not bundles:
        check_resources(needed, nodes())
        return
    wanted = "; ".join(map(str, needed))
    waiting_for(f"room for {wanted}")
    group = placement_group(bundles)
    try:
        if not group.wait(60 * cluster.start_minutes):
            check_resources(needed, nodes())
            raise ValueError(
                f"the cluster had no room within cluster.start_minutes = {cluster.start_minutes:g}, though its nodes "
                f"are large enough: other jobs hold it. The run needs {wanted}"
            )
    finally:
        remove_placement_group(group)
