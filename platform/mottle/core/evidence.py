"""What the receipts of all shards say together about one update: whether it may be looked at, and its numbers."""

from collections.abc import Mapping, Sequence

from mottle.core import exactsum
from mottle.core.ledger import Order
from mottle.core.pipeline import exact_totals
from mottle.core.protocol import Receipt, ReplicaId
from mottle.core.strategy import Update


def fault_of(order: Order, receipts: Sequence[Receipt], *, weighted_loss: bool) -> str:
    """Why the update may not even be looked at by the strategy; empty if it may.

    Args:
        order: what was asked of the worker; its own claims are checked against it.
        weighted_loss: whether the job's loss has units of its own, so that a claim of weight is in order.
    """
    finite, least = True, 1 if order.cut else order.samples
    wanted = order.compute.fragment if order.compute.local is None else order.compute.local.send
    for receipt in receipts:
        if receipt.fault:
            return receipt.fault
        if type(receipt.samples) is not int or not least <= receipt.samples <= order.samples:
            return f"claims {receipt.samples} samples, was ordered {order.samples}"
        weight = receipt.weight
        if weight is not None and not (weighted_loss and type(weight) in (int, float) and 0 <= weight < 1e300):
            return f"claims a weight of {receipt.weight}"
        if (receipt.samples, receipt.weight) != (receipts[0].samples, receipts[0].weight):
            return "claims different counts to different shards"
        if receipt.fragment != wanted:
            return f"is of fragment {receipt.fragment}, ordered was {wanted}"
        if receipt.weight == 0 and receipt.norm2:
            return "claims a weight of 0 for a sum that is not zero"
        finite = finite and receipt.finite
    return "" if finite else "not finite"


def is_padding(receipts: Sequence[Receipt]) -> bool:
    """Whether nothing in the update's samples counts for the loss (all of them padding): a sum of nothing, which has no mean."""
    return receipts[0].weight == 0


def update_of(order: Order, *, now_ns: int) -> Update:
    """The update as a strategy sees it: norm and inner products rounded once, from exact sums over the shards.

    An inner product is known if every replica measured it: one that had not yet got a reference leaves it out.
    """
    norm2, dots = _measured(order.receipts)
    compute, took_ns = order.compute, now_ns - order.issued_ns
    weight = next(iter(order.receipts.values())).weight or 0.0
    spent_ns = max(0, min(order.claimed_ns, took_ns))
    return Update(compute.work_id, compute.worker, compute.base, order.used, norm2, dots, weight, spent_ns, took_ns)


def _measured(receipts: Mapping[ReplicaId, Receipt]) -> tuple[float, dict[str, float]]:
    """Squared norm, and inner products by name."""
    first, *others = receipts.values()
    if not (others or first.dots):
        return exactsum.to_float(first.norm2), {}
    answers = {replica: dict(receipt.dots) for replica, receipt in receipts.items()}
    names = sorted(set.intersection(*(set(dots) for dots in answers.values()))) if all(answers.values()) else []
    totals = exact_totals({replica: (receipts[replica].norm2, *(dots[name] for name in names)) for replica, dots in answers.items()})
    norm2, *sums = map(exactsum.to_float, totals)
    return norm2, dict(zip(names, sums, strict=True))
