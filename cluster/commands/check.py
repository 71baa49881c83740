"""What `apogee check` prints: the plan, and the files that it is made of."""

from cluster.checks.plan import plan, render
from cluster.checks.run import Checked


def describe(checked: Checked) -> str:
    """The plan comes first, whatever is missing: it is what the files are needed for."""
    config, facts = checked.config, checked.facts
    try:
        lines = [render(checked.plan or plan(config)), "", "files"]
    except ValueError as error:  # no bundle, and a size that Wan2.1 does not make either
        lines = [f"no plan: {error}", "", "files"]
    if facts:
        experts = " and ".join(facts.experts)
        lines.append(f"  {facts.path}: {facts.pipeline}, {experts}, flow shift {facts.flow_shift:g}")
    else:
        lines.append(f"  {config.model.path}: cannot be used; tokens and bytes above are of Wan2.1")
    for key, conditions in (("prompts.train", checked.training), ("evaluation.prompts", checked.held_out)):
        if conditions:
            lines.append(f"  {key}: {len(conditions):,} prompts")
    if checked.goes_on:
        lines.append(f"  {config.out}: holds this run, which goes on")
    if not checked.problems:
        lines.append("  everything that the config names is there")
    return "\n".join(lines)
