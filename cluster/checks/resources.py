"""What a run needs of CPUs and GPUs, and whether the nodes have it: a run that cannot fit says so at once.

Pure arithmetic: no ray is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.evaluation import is_judged, videos_made
from configs.schema import RunConfig
from configs.sections import LearnerConfig


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
    """What the roles ask Ray for, train workers included, in one stage; `config` is as that stage sees it.

    Rankers only if pairs are judged. Generators only if it learns from new videos, or shows some on the way.
    """
    judged = config.asks_ranker or (config.evaluation.every > 0 and config.evaluation.meter is None)
    return [*_actors(config, generator=config.has_generators, ranker=judged), learner_need(config.learner)]


def evaluation_needs(config: RunConfig, *, judged: bool | None = None) -> list[Need]:
    """Likewise of an evaluation between stages. `config`: the run's; `judged`: whether rankers compare the videos."""
    ranker = is_judged(config) if judged is None else judged
    return _actors(config, generator=videos_made(config) > 0, ranker=ranker)


def learner_need(learner: LearnerConfig) -> Need:
    """The processes of the Ray Train group."""
    return Need("learner", "learner.num_workers", learner.num_workers, learner.cpus_per_worker, learner.gpus_per_worker)


def _actors(config: RunConfig, *, generator: bool, ranker: bool) -> list[Need]:
    runs = {"generator": (generator, config.generator), "ranker": (ranker, config.ranker)}
    return [
        Need(role, f"{role}.num_actors", section.num_actors, section.cpus_per_actor, section.gpus_per_actor)
        for role, (is_run, section) in runs.items()
        if is_run
    ]


def check_resources(needed: Sequence[Need], nodes: Sequence[dict[str, float]]) -> None:
    """Raises ValueError, with what each role needs and what is there, unless everything fits on the nodes.

    nodes: `{"CPU": ..., "GPU": ...}` of every node. An actor lives on one node, so sums are not enough: the processes
    are placed one by one, the largest first, each on the first node with room.
    """
    required_cpus, required_gpus = sum(n.count * n.cpus for n in needed), sum(n.count * n.gpus for n in needed)
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    if required_cpus > cpus + 1e-6 or required_gpus > gpus + 1e-6:
        problem = "more than there is"
    elif stuck := _unplaced(needed, nodes):
        problem = f"no node has room left for a {stuck.role} of {stuck.cpus:g} CPU and {stuck.gpus:g} GPU"
    else:
        return
    sizes = ", ".join(f"{node.get('CPU', 0):g} CPU / {node.get('GPU', 0):g} GPU" for node in nodes) or "none"
    raise ValueError(
        f"the run does not fit on the cluster ({problem}): it needs {required_cpus:g} CPU and {required_gpus:g} GPU: "
        f"{'; '.join(map(str, needed))}. There are {cpus:g} CPU and {gpus:g} GPU (nodes: {sizes}). "
        "Lower those keys, or raise cluster.num_cpus if the machine may be shared more finely"
    )


def fits(needed: Sequence[Need], nodes: Sequence[dict[str, float]]) -> bool:
    """Whether everything fits on the nodes at the same time."""
    try:
        check_resources(needed, nodes)
    except ValueError:
        return False
    return True


def _unplaced(needed: Sequence[Need], nodes: Sequence[dict[str, float]]) -> Need | None:
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
