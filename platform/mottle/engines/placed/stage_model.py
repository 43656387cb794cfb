"""What one stage holds of a model: its parameters and buffers in a flat vector of its own, and the gradients beside them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mottle.core.layout import Entry, Layout, Range, Slice, pack
from mottle.engines.companions import SUFFIX
from mottle.engines.flat import view_of
from mottle.engines.placed.sharing import merged
from mottle.placement.staging import Cut, attributes_of
from mottle.placement.tracing import Capture


class Holdings:
    """Which tensors of the layout each stage has. Every process of a gang works it out for itself, with the same result.

    Args:
        names: of the layout's slices, those that each stage reads.
    """

    def __init__(self, layout: Layout, names: Sequence[set[str]]) -> None:
        by_name = {piece.name: piece for piece in layout.slices}
        self.of: list[list[Slice]] = []
        """By stage, in the layout's order."""
        for own in names:
            own = own | {name + SUFFIX for name in own if name + SUFFIX in by_name}
            self.of.append([piece for piece in layout.slices if piece.name in own])
        self.first: dict[str, int] = {}
        """Tensor -> the first stage that has it, which speaks for it."""
        for stage, pieces in enumerate(self.of):
            for piece in pieces:
                self.first.setdefault(piece.name, stage)

    @classmethod
    def of_cut(cls, captured: Capture, cut: Cut, layout: Layout) -> "Holdings":
        """By what the captured graph reads."""
        twin = captured.traced.model
        named: dict[int, str] = {id(t): name for name, t in (*twin.named_buffers(), *twin.named_parameters())}
        return cls(layout, [{named[each] for each in ids if each in named} for ids in attributes_of(captured, cut)])

    def shares(self) -> list[list[Range]]:
        """Disjoint coordinates by stage: of the tensors that it speaks for."""
        return [merged(Range(p.start, p.stop) for p in pieces if self.first[p.name] == s) for s, pieces in enumerate(self.of)]

    def read(self, stage: int) -> list[Range]:
        """Coordinates that a stage reads of a version."""
        return merged(Range(piece.start, piece.stop) for piece in self.of[stage])

    def tied(self) -> Iterator[tuple[str, int, list[int]]]:
        """(tensor, stage that speaks for it, the others that have it) of all that several stages have, in the layout's order."""
        having: dict[str, list[int]] = {}
        for stage, pieces in enumerate(self.of):
            for piece in pieces:
                if piece.kind == "parameter":
                    having.setdefault(piece.name, []).append(stage)
        for name, stages in having.items():
            if len(stages) > 1:
                yield name, stages[0], stages[1:]


class StageModel:
    """The flat vector of one stage, and the model's tensors of it.

    Args:
        model: whole; taken over: parameters of other stages let go of their memory.
        pieces: of the whole layout, that the stage has.
    """

    def __init__(self, model: nn.Module, layout: Layout, pieces: Sequence[Slice], device: torch.device) -> None:
        own = {piece.name for piece in pieces}
        parameters, buffers = ([_entry(piece) for piece in pieces if piece.kind == kind] for kind in ("parameter", "buffer"))
        self.layout = pack(parameters, buffers, dtype=layout.dtype)
        """Of the stage's own vector."""
        self._release(model, own | {alias for alias, name in layout.aliases.items() if name in own})
        self.model = model.to(device)
        dtype = getattr(torch, layout.dtype)
        self.values_S = torch.zeros(self.layout.size, dtype=dtype, device=device)
        self.sum_S = torch.zeros_like(self.values_S)
        """Gradients land here."""
        here = {piece.name: piece for piece in self.layout.slices}
        self.places = [(piece, here[piece.name]) for piece in pieces]
        """Every tensor's place in the whole vector, and in this one."""
        self.own = here
        self._copied: list[tuple[Slice, nn.Parameter]] = []
        self._take_over(dtype)

    @staticmethod
    def _release(model: nn.Module, own: set[str]) -> None:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name not in own and parameter.requires_grad:
                parameter.data = parameter.data.new_empty(0)

    @torch.no_grad()
    def _take_over(self, dtype: torch.dtype) -> None:
        parameters = dict(self.model.named_parameters())
        for piece in self.layout.parameters:
            parameter = parameters[piece.name]
            view_of(self.values_S, piece).copy_(parameter)
            if parameter.dtype == dtype:
                parameter.data = view_of(self.values_S, piece)
                parameter.grad = view_of(self.sum_S, piece)
            else:
                self._copied.append((piece, parameter))
        for piece in self.layout.buffers:
            view_of(self.values_S, piece).copy_(self.model.get_buffer(piece.name))

    @torch.no_grad()
    def load(self, flat_piece: Tensor, start: int) -> None:
        """Copy coordinates of the whole vector, as far as the stage has them."""
        stop = start + flat_piece.numel()
        for whole, here in self.places:
            low, high = max(start, whole.start), min(stop, whole.stop)
            if low < high:
                shift = here.start - whole.start
                self.values_S[low + shift : high + shift].copy_(flat_piece[low - start : high - start])

    @torch.no_grad()
    def refresh(self) -> None:
        """Parameters that are no views of the vector follow it."""
        for piece, parameter in self._copied:
            parameter.copy_(view_of(self.values_S, piece))

    @torch.no_grad()
    def collect(self) -> None:
        """Gradients that did not land in the sum by themselves are added to it."""
        for piece, parameter in self._copied:
            if parameter.grad is not None:
                view_of(self.sum_S, piece).add_(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def reset(self) -> None:
        """No gradients; buffers as loaded."""
        self.sum_S.zero_()
        for _, parameter in self._copied:
            parameter.grad = None
        for piece in self.layout.buffers:
            self.model.get_buffer(piece.name).copy_(view_of(self.values_S, piece))

    @torch.no_grad()
    def write_tail(self, weight: float) -> None:
        """Into the sum's buffer tail: `weight * (base - new)`."""
        for piece in self.layout.buffers:
            view_of(self.sum_S, piece).copy_(view_of(self.values_S, piece)).sub_(self.model.get_buffer(piece.name)).mul_(weight)


def _entry(piece: Slice) -> Entry:
    return Entry(piece.name, piece.shape, piece.dtype, max(0, piece.group))
