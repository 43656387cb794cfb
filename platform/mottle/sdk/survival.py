"""Whether a run's robust rule can survive the faults that its own job declares."""

from collections.abc import Sequence

from mottle import aggregation, attacks
from mottle.actors.job import WorkerGroup
from mottle.core.naming import Spec


def survival_warning(rule: Spec | None, groups: Sequence[WorkerGroup]) -> str | None:
    """What to tell the user before the run starts; None if there is nothing.

    It compares the rule's budget with the crew that the run starts with, of whom those with an attack are faulty. A crew that changes may
    come to survive more or less; a live run then skips the steps whose condition fails.

    Args:
        rule: of the job; without one nothing was promised.
        groups: the crew.
    """
    if rule is None:
        return None
    num_workers = sum(group.count for group in groups)
    num_faulty = sum(group.count for group in groups if group.attack is not None and attacks.build(group.attack).name != "honest")
    try:
        aggregation.build(rule, num_workers=num_workers)
    except aggregation.ConditionError as error:
        return f"{error}; until then no step is taken"
    return aggregation.breakdown(rule, num_workers).warning(num_faulty)
