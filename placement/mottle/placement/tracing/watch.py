"""The last source of a graph: leaf modules, watched while the model's own Python runs, for models whose control flow depends on values.

A unit is one call of a leaf module. Every tensor carries the names of the calls that it came from through whatever functions it passed in
between, which are not units: they cost little and run where their input is (specification 3.1, 3.4). The model is run on fake tensors if
that goes, else a copy of it on the real example, once.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from mottle.core.errors import ConfigError
from mottle.placement.tracing.costs import Cost, cost_of, num_bytes
from mottle.placement.tracing.example import Example, canonical
from mottle.placement.tracing.twin import fake_mode, fake_tree, twin_of
from mottle.placement.tracing.units import Flow, State, Unit, state_of
from mottle.placement.tracing.values import tensors_in

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class Watched:
    """What a capture by watching keeps of the model."""

    reasons: tuple[str, ...]
    model: nn.Module
    """The twin."""
    training: bool
    source: str = "modules"


@dataclass
class _Call:
    """One call of a leaf module."""

    id: str
    path: str
    args: Any
    kwargs: Any
    taken: list[tuple[frozenset[str], int, int, bool]]
    """Per tensor: origins, number of the tensor, bytes, whether a gradient comes back."""
    outputs: list[Tensor] = field(default_factory=list)


def leaves_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are units: those without children or with parameters of their own, and PyTorch's own that are no containers."""
    above: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{leaf}.") or leaf == "" for leaf in above):
            continue
        of_torch = type(module).__module__.startswith("torch.nn") and not isinstance(module, _CONTAINERS)
        if of_torch or not any(True for _ in module.children()) or module._parameters or module._buffers:
            above.append(path)
            yield path, module


def watch(model: nn.Module, example: Example, reasons: Sequence[str]) -> tuple[Watched, tuple[Unit, ...], tuple[str, ...]]:
    """The units and the ones that give the outputs.

    Raises:
        ConfigError: the model cannot be run on fake tensors, and not on the real example either.
    """
    call = canonical(model, example.args, example.kwargs)
    mode = fake_mode()
    twin = twin_of(model, mode)
    reasons = list(reasons)
    try:
        recorder = _Recorder(twin_of(model, mode))
        with mode:
            recorder.run(Example(*fake_tree(tuple(call), mode)))
    except Exception as error:  # any code of the user's model
        reasons.append(
            f"modules on fake tensors: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
        )
        recorder = _Recorder(_real_copy(model, call, reasons))
        with torch.random.fork_rng(devices=[]):
            recorder.run(call)
    units = tuple(_units(recorder, twin, mode))
    return Watched(tuple(reasons), twin, model.training), units, tuple(recorder.returned)


def _real_copy(model: nn.Module, call: Example, reasons: Sequence[str]) -> nn.Module:
    unreal = [t for t in (*model.parameters(), *model.buffers(), *tensors_in(tuple(call))) if t.is_meta or hasattr(t, "fake_mode")]
    if unreal:
        raise ConfigError(
            f"{type(model).__name__} has no static graph ({'; '.join(reasons)}), and to watch it run it needs real parameters and inputs: "
            "build it on the CPU and give an example with values"
        )
    return copy.deepcopy(model)


class _Origins(TorchFunctionMode):
    """Hands on, from what goes into a function to what comes out, which calls it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Any = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        origins = self.union(tensors_in((args, kwargs)))
        if origins:
            for tensor in tensors_in(result):
                self.of[tensor] = self.of.get(tensor, frozenset()) | origins
        return result

    def union(self, tensors: Sequence[Tensor]) -> frozenset[str]:
        return frozenset[str]().union(*(self.of.get(tensor, frozenset()) for tensor in tensors))


class _Recorder:
    """Runs a model that is nobody's, with hooks on its leaves."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.origins = model, _Origins()
        self.calls: list[_Call] = []
        self.inputs: list[tuple[str, Tensor]] = []
        self.returned: list[str] = []
        self._count: Counter[str] = Counter()
        self._numbers: Any = WeakTensorKeyDictionary()
        for path, module in leaves_of(model):
            module.register_forward_pre_hook(self._before(path), with_kwargs=True)
            module.register_forward_hook(self._after)

    def run(self, call: Example) -> None:
        for x, tensor in enumerate(tensors_in(tuple(call))):
            self.inputs.append((f"input {x}", tensor))
            self.origins.of[tensor] = frozenset({f"input {x}"})
        with self.origins:
            answer = self.model(*call.args, **call.kwargs)
        self.returned = sorted(self.origins.union(tensors_in(answer)))

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._count[path] += 1
            name = path or type(module).__name__
            number = self._count[path]
            taken = [
                (self.origins.of.get(t, frozenset()), self._numbers.setdefault(t, len(self._numbers)), num_bytes(t), t.requires_grad)
                for t in tensors_in((args, kwargs))
            ]
            self.calls.append(_Call(name if number == 1 else f"{name}#{number}", path, args, kwargs, taken))

        return hook

    def _after(self, module: nn.Module, args: Any, answer: Any) -> None:
        call = self.calls[-1]
        call.outputs = tensors_in(answer)
        for tensor in call.outputs:
            self.origins.of[tensor] = frozenset({call.id})


def _units(recorder: _Recorder, twin: nn.Module, mode: FakeTensorMode) -> Iterator[Unit]:
    for name, tensor in recorder.inputs:
        yield Unit(name, (name,), None, (), Cost(), State(), num_bytes(tensor), str(tensor.dtype).removeprefix("torch."), "input")
    owner: dict[int, str] = {}  # parameter or buffer -> group of the leaf that has it
    seen: set[int] = set()
    for call in recorder.calls:
        module = twin.get_submodule(call.path)
        tensors = [*module.parameters(), *module.buffers()]
        group = next((owner[id(tensor)] for tensor in tensors if id(tensor) in owner), call.path or call.id)
        owner.update({id(tensor): group for tensor in tensors})
        fresh = [tensor for tensor in tensors if id(tensor) not in seen]
        seen.update(map(id, fresh))
        cost = _cost(call, module, mode, twin.training)
        yield Unit(
            id=call.id,
            nodes=(call.id,),
            group=group,
            inputs=_flows(call.taken, cost),
            cost=cost,
            state=state_of(fresh),
            out=sum(map(num_bytes, call.outputs)),
            dtype=str(call.outputs[0].dtype).removeprefix("torch.") if call.outputs else "float32",
            kind=type(module).__name__,
        )


def _cost(call: _Call, module: nn.Module, mode: FakeTensorMode, training: bool) -> Cost:
    args, kwargs = fake_tree((call.args, call.kwargs), mode)
    needing = [tensor.requires_grad for tensor in tensors_in((call.args, call.kwargs))]
    for tensor, needs in zip(tensors_in((args, kwargs)), needing, strict=True):
        tensor.requires_grad_(needs)
    inside = [*module.parameters(), *module.buffers()]
    in_place = any(getattr(part, "inplace", False) for part in module.modules())

    def run(args: Any, kwargs: Any) -> Any:
        # leaves that want a gradient cannot be written; their copies can
        return module(*pytree.tree_map_only(Tensor, torch.clone, args) if in_place else args, **kwargs)

    return cost_of(run, args, kwargs, inside=inside, mode=mode, differentiable=training)


def _flows(taken: Sequence[tuple[frozenset[str], int, int, bool]], cost: Cost) -> tuple[Flow, ...]:
    flows: dict[tuple[str, str], Flow] = {}
    for x, (origins, number, size, differentiable) in enumerate(taken):
        for origin in sorted(origins):
            flows[origin, f"tensor {number}"] = Flow(origin, f"tensor {number}", size, differentiable, x in cost.saved_inputs)
    return tuple(flows.values())


def paths_of(units: Sequence[Unit], assignment: Mapping[str, str]) -> dict[str, str]:
    """Leaf module -> device, for the calls of a plan."""
    return {unit.id.partition("#")[0]: assignment[unit.id] for unit in units if unit.kind != "input"}
