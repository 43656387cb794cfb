"""Commands to workers, and what an order may ask a worker to make of its samples."""

from mottle.core.messages import message
from mottle.core.protocol.names import Part, Settings, Version


@message
class Samples:
    """All samples of the order's parts."""

    count: int


@message
class VersionAfter:
    """Until that version exists (the worker is then told by `Cut`); unused leases go back."""

    version: Version
    least: int = 0
    """Samples that are computed whenever the cut comes."""


Until = Samples | VersionAfter


@message
class LocalSteps:
    """Take an inner optimizer step after every `batch` samples, and push where they led instead of a gradient sum.

    The update is the weight of the order (its samples, or the loss's own units) times `base - end`, with the buffers in the same form: so
    sums over workers, means, robust rules and tests of updates treat it as a gradient sum. The optimizer and its state are the worker's
    own; the state is kept from order to order, and starts anew in a worker that joins.
    """

    batch: int
    """Samples of one step, of this worker; the last step of an order has what is left."""
    optimizer: str | Settings
    """As job files name it; or a method of the strategy's own, which `mottle.engines.inner` knows."""
    steps: int = 1
    """That are planned for the round."""
    advance: int = 0
    """By how much a step moves the argument of the learning-rate schedule: the samples that the whole crew spends meanwhile."""
    fresh: bool = False
    """Begin with a new optimizer state, for methods that reset it."""
    pull: float = 0.0
    """Strength rho of a proximal term rho/2 |x - base|^2."""
    whole: bool = False
    """Push the weight times `end` itself: the whole model."""
    samples: int = 0
    """Argument of the schedule at the first step; the brain adds those spent when it is ordered."""
    lr: float | None = None
    """Learning rate before the schedule, where the user changed it; the brain fills it in."""
    send: int | None = None
    """Push this fragment alone, and go on from where the steps led; None pushes everything."""
    follows: int | None = None
    """The worker's order whose end this one begins at; None: the base."""
    adopt_after: int | None = None
    """Inner steps of this order before the fragment that `Mix` names is mixed in, at the latest at its end; None: nothing is."""


@message
class Compute:
    """Compute the gradient sum of `parts` at version `base`, or what `local` steps from there make of them; push it to every shard."""

    work_id: int
    worker: int
    base: Version
    parts: tuple[Part, ...]
    until: Until
    local: LocalSteps | None = None
    fragment: int | None = None
    """Of several models that lie side by side the one that it is about (`mottle.core.rotation`); None: there is one."""


@message
class Cut:
    """Stop at the next micro-batch boundary and push what is there."""

    worker: int
    work_id: int


@message
class Abandon:
    """Stop at the next micro-batch boundary and push nothing; the leases are already back with the coordinator."""

    worker: int
    work_id: int


@message
class Dismiss:
    """The worker has left the crew: finish nothing, stop."""

    worker: int


@message
class Mix:
    """In that order, at the step that it names: x <- share * x + (1 - share) * the fragment of `version`, which is the base of its next
    pseudo-gradient."""

    worker: int
    work_id: int
    version: Version
    fragment: int
    share: float


@message
class SaveSlot:
    """Save what the worker keeps from order to order, as it was before its first order from `before` on; answer `SlotSaved`."""

    worker: int
    checkpoint: int
    before: int
    """The oldest of its orders that the checkpoint does not contain, or an id that none has yet."""


@message
class Reattach:
    """From here on the worker hears the coordinator of a new epoch; of its orders these are open, and `cut` of them are to be pushed."""

    worker: int
    epoch: int
    orders: tuple[Compute, ...]
    cut: tuple[int, ...]
