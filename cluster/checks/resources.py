"""What a run needs against what the cluster has, before anything is started: a run that cannot fit says so at once.

Pure arithmetic: no ray is imported here.
"""

from dataclasses import dataclass

from configs.schema import RunConfig


@dataclass(frozen=True)
class Need:
    """`count` processes of a role, each with so many CPUs and GPUs of one node. The small actors need none."""

    role: str
    key: str
    count: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.count} x {self.role} with {self.cpus:g} CPU{gpus} ({self.key})"


def needs(config: RunConfig) -> list[Need]:
    """What every role asks Ray for, train workers included. A ranker only if a stage is online; the others always:
    generators make the videos that are evaluated.
    """
    generator, ranker, learner = config.generator, config.ranker, config.learner
    roles = [
        _need("generator", "num_actors", generator.num_actors, generator.cpus_per_actor, generator.gpus_per_actor),
        _need("ranker", "num_actors", ranker.num_actors, ranker.cpus_per_actor, ranker.gpus_per_actor),
        _need("learner", "num_workers", learner.num_workers, learner.cpus_per_worker, learner.gpus_per_worker),
    ]
    judged = any(stage.kind == "online" for stage in config.stages)
    return [need for need in roles if judged or need.role != "ranker"]


def _need(role: str, count_key: str, count: int, cpus: float, gpus: float) -> Need:
    return Need(role, f"{role}.{count_key}", count, cpus, gpus)


def check_resources(needed: list[Need], nodes: list[dict[str, float]]) -> None:
    """Raises ValueError, with what each role needs and what is there, unless everything fits on the nodes.

    nodes: `{"CPU": ..., "GPU": ...}` of every node. An actor lives on one node, so sums are not enough: the processes
    are placed one by one, the largest first, each on the first node with room.
    """
    totals = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    wanted = {
        "CPU": sum(need.count * need.cpus for need in needed),
        "GPU": sum(need.count * need.gpus for need in needed),
    }
    problem = None
    if any(wanted[kind] > totals[kind] + 1e-6 for kind in totals):
        problem = "more than there is"
    else:
        stuck = _unplaced(needed, nodes)
        if stuck is not None:
            problem = f"no node has room left for a {stuck.role} of {stuck.cpus:g} CPU and {stuck.gpus:g} GPU"
    if problem is None:
        return
    sizes = ", ".join(f"{node.get('CPU', 0):g} CPU / {node.get('GPU', 0):g} GPU" for node in nodes) or "none"
    raise ValueError(
        f"the run does not fit on the cluster ({problem}): it needs {wanted['CPU']:g} CPU and {wanted['GPU']:g} GPU: "
        f"{'; '.join(map(str, needed))}. There are {totals['CPU']:g} CPU and {totals['GPU']:g} GPU (nodes: {sizes}). "
        "Lower those keys, or raise cluster.num_cpus if the machine may be shared more finely"
    )


def _unplaced(needed: list[Need], nodes: list[dict[str, float]]) -> Need | None:
    """The first process that finds no node, or None if all do."""
    room = [[node.get("CPU", 0.0), node.get("GPU", 0.0)] for node in nodes]
    for need in sorted(needed, key=lambda need: (need.gpus, need.cpus), reverse=True):
        for _ in range(need.count):
            spot = next((r for r in room if r[0] + 1e-6 >= need.cpus and r[1] + 1e-6 >= need.gpus), None)
            if spot is None:
                return need
            spot[0] -= need.cpus
            spot[1] -= need.gpus
    return None
