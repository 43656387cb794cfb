"""Reference vectors on their way from the validator to the shards, and those held there. Knows no worker and no strategy's reasons."""

from dataclasses import dataclass, field

from mottle.core import exactsum
from mottle.core.pipeline import exact_totals
from mottle.core.protocol import Receipt, Refresh, RefreshFailed, ReplicaId, Version
from mottle.core.shards import ShardMap
from mottle.core.strategy import ReferenceReady

NOT_FINITE = "the reference gradient is not finite: the model itself is broken"


@dataclass(slots=True)
class _Reference:
    order: Refresh
    receipts: dict[ReplicaId, Receipt] = field(default_factory=dict)
    ready: bool = False


class References:
    """Reference vectors by name."""

    def __init__(self, shards: ShardMap) -> None:
        self._shards = shards
        self.known: dict[str, _Reference] = {}
        """Asked for and not forgotten."""

    def ask(self, order: Refresh) -> Refresh:
        """Expect the reference of an order to the validator, which is given back."""
        self.known[order.name] = _Reference(order)
        return order

    def add_receipt(self, receipt: Receipt) -> bool:
        """Whether the reference was asked for and is still wanted."""
        reference = self.known.get(receipt.name)
        if reference is not None:
            reference.receipts[receipt.replica] = receipt
        return reference is not None

    def forget(self, name: str) -> bool:
        """Whether it was known."""
        return self.known.pop(name, None) is not None

    def forget_all(self) -> tuple[str, ...]:
        """Names of those that were known."""
        known, self.known = tuple(self.known), {}
        return known

    def take_ready(self) -> list[ReferenceReady | RefreshFailed]:
        """References that every live replica has come to hold since the last call."""
        done: list[ReferenceReady | RefreshFailed] = []
        for name, reference in self.known.items():
            if reference.ready or not self._shards.covered_by(reference.receipts.keys()):
                continue
            reference.ready = True
            if all(receipt.finite and not receipt.fault for receipt in reference.receipts.values()):
                (norm2,) = exact_totals({replica: (receipt.norm2,) for replica, receipt in reference.receipts.items()})
                done.append(ReferenceReady(name, reference.order.version, exactsum.to_float(norm2)))
            else:
                faults = [receipt.fault for receipt in reference.receipts.values() if receipt.fault]
                done.append(RefreshFailed(name, faults[0] if faults else NOT_FINITE))
        return done

    @property
    def pending(self) -> tuple[tuple[str, Version], ...]:
        """Asked for and not yet held: the validator may still have to read that version."""
        return tuple((name, reference.order.version) for name, reference in self.known.items() if not reference.ready)

    @property
    def awaited(self) -> tuple[Refresh, ...]:
        """The orders of those that are pending."""
        return tuple(reference.order for reference in self.known.values() if not reference.ready)
