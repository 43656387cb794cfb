"""Seeded random problems, for tests, benchmarks and studies. The generator is an argument; same state, same problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mottle.placement.problem import CommMode, Device, Edge, Link, MemMode, Op, Problem

AMPLE = 1 << 40
"""Bytes: never short."""


@dataclass(frozen=True, kw_only=True)
class SmallShape:
    """Which features a small random problem may show."""

    ops: tuple[int, int] = (4, 7)
    """Smallest and largest number of ops."""
    devices: tuple[int, int] = (2, 3)
    share: tuple[float, float] | None = None
    """Budget of each device as a share of the total need, drawn from this range; None: ample."""
    unequal: bool = False
    """Two device classes with independent times, some of them missing."""
    groups: bool = False
    comm_mode: CommMode = "parallel"
    mem_mode: MemMode = "static"
    outputs: bool = False
    """Tensors have bytes, ops have scratch, some outputs are kept."""


def small_problem(rng: Random, shape: SmallShape | None = None) -> Problem:
    """A graph of a few ops: each forward pair is an edge with probability 0.35.

    Times are 4-9 with transfers of 0-4 on half of the problems and 1-9 with 0-6 on the other half (specification 8.1, 14).
    """
    shape = shape or SmallShape()
    n, num_devices = rng.randint(*shape.ops), rng.randint(*shape.devices)
    (low, high), longest = rng.choice([((4, 9), 4), ((1, 9), 6)])
    size, scratch = (9, 4) if shape.outputs else (0, 0)
    kinds = ["x", "y"][:num_devices] if shape.unequal else ["x"]
    ops = []
    for i in range(n):
        times = {kind: rng.randint(low, high) for kind in kinds}
        if len(kinds) == 2 and rng.random() < 0.1:
            del times[rng.choice(kinds)]
        keep = shape.outputs and rng.random() < 0.2
        group = f"g{rng.randrange(3)}" if shape.groups and len(times) == len(kinds) and rng.random() < 0.4 else None
        ops.append(Op(f"op{i}", times if shape.unequal else times["x"], rng.randint(0, 5), rng.randint(0, scratch), None, keep, group))
    tensors = [(rng.randint(0, size), rng.randint(0, longest)) for _ in ops]
    edges = [Edge(f"op{i}", f"op{j}", *tensors[i]) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.35]
    emitted = {edge.src: edge.bytes for edge in edges}
    need = sum(op.perm + emitted.get(op.id, 0) for op in ops) + max(op.temp for op in ops)
    mem = AMPLE if shape.share is None else max(1, int(need * rng.uniform(*shape.share)))
    devices = tuple(Device(f"d{d}", kinds[d % len(kinds)], mem) for d in range(num_devices))
    return Problem(ops=tuple(ops), edges=tuple(edges), devices=devices, comm_mode=shape.comm_mode, mem_mode=shape.mem_mode)


def fleet(num_devices: int, mem: int, speeds: Sequence[int] = (1000,)) -> tuple[Device, ...]:
    """Devices of one class whose speeds repeat in turn."""
    return tuple(Device(f"d{d}", "x", mem, speeds[d % len(speeds)]) for d in range(num_devices))


def layered_problem(
    rng: Random, num_ops: int, num_devices: int, *, width: int = 40, speeds: Sequence[int] = (1000,), share: float = 0.4
) -> Problem:
    """Layers of ops, each fed by one to three ops of the layer above: nothing for coarsening to hold on to.

    Args:
        share: budget of each device as a share of the total need.
    """
    ops = tuple(Op(f"n{i}", rng.randint(20, 400), rng.randint(0, 4000), rng.randint(0, 500)) for i in range(num_ops))
    sizes = [rng.randint(0, 4000) for _ in ops]
    edges = []
    for j in range(width, num_ops):
        above = range(max(0, (j // width - 1) * width), j // width * width)
        edges += [Edge(f"n{i}", f"n{j}", sizes[i]) for i in sorted(set(rng.choices(above, k=rng.randint(1, 3))))]
    need = sum(op.perm + op.temp for op in ops) + sum(sizes)
    # 1 tick = 1 us; 100 MB/s moves a tensor in up to 40 ticks
    link = Link(5, 100_000_000)
    devices = fleet(num_devices, int(need * share), speeds)
    return Problem(ops=ops, edges=tuple(edges), devices=devices, default_link=link, tick_ns=1000)


def block_problem(
    rng: Random,
    num_blocks: int,
    num_devices: int,
    *,
    branches: int = 4,
    chain: int = 6,
    weights: bool = True,
    speeds: Sequence[int] = (1000,),
    share: float = 0.4,
) -> Problem:
    """Blocks in a row, each with parallel branches that are chains of ops: the shape that models have.

    Args:
        chain: ops a branch.
        weights: an *operator* graph: short ops, and for every fourth one a prepared weight, made at time 0 from two constants whose
            transfer takes longer than most of the step. Raw greedy placers put the two on different devices (specification 6.4).
            False: a *layer* graph, whose ops are long compared with their transfers.
    """
    ops: list[Op] = []
    edges: list[Edge] = []
    sizes: dict[str, int] = {}
    typical = 30_000 if weights else 10_000

    def add(time: int, perm: int, inputs: Sequence[str], emits: int) -> str:
        name = f"n{len(ops)}"
        ops.append(Op(name, time, perm, rng.randint(0, 2000)))
        edges.extend(Edge(src, name, sizes[src]) for src in dict.fromkeys(inputs))
        sizes[name] = emits
        return name

    trunk = add(50, 0, [], typical)
    for _ in range(num_blocks):
        ends = []
        for _ in range(branches):
            last = trunk
            for step in range(chain):
                extra = []
                if weights and step % 4 == 0:
                    constants = [add(1, rng.randint(100, 4000), [], rng.randint(1, 9) * 1_000_000) for _ in range(2)]
                    extra = [add(1, 0, constants, rng.randint(1_000, 4_000))]
                time = rng.randint(2, 40) if weights and step % 4 else rng.randint(200, 900)
                last = add(time, 0 if weights else rng.randint(0, 4000), [last, *extra], rng.randint(typical // 2, typical * 2))
            ends.append(last)
        trunk = add(rng.randint(20, 60), 0, ends, typical)
    need = sum(op.perm + op.temp for op in ops) + sum(sizes.values())
    devices = fleet(num_devices, int(need * share), speeds)
    return Problem(ops=tuple(ops), edges=tuple(edges), devices=devices, default_link=Link(100, 1_000_000_000), tick_ns=1000)
