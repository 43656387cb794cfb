"""The plain engine: torch on one CPU or one CUDA device.

Static memory is three times the parameters: the flat vector (which the model's parameters are views of), the flat accumulator, and the
gradients of the micro-batch at hand. Gradients of a micro-batch enter the accumulator together, after backward has come through: a
micro-batch that runs out of memory half-way leaves nothing behind and is run again in halves. An update of a single micro-batch needs no
accumulator: its gradients go out as they lie, which saves a pass over memory and a third of it.

The flat vector is the engine's own: `load` copies into it, so a module that writes to its parameters or buffers harms nobody else.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.core.layout import Layout, Slice
from mottle.engines import averages, randomness
from mottle.engines.base import Accumulated, Batch, Fetch, Loss, Metric, never
from mottle.engines.batches import to_device
from mottle.engines.buffers import Buffers
from mottle.engines.flat import tensors_of, unflatten, view_of
from mottle.engines.loss_scale import LossScale
from mottle.engines.memory import SampleTooLargeError, is_out_of_memory
from mottle.optim.clipping import factor_of_norm

AUTOCAST: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

NORM_PIECE = 1 << 20
"""Coordinates summed in the vector's own precision; the pieces are summed in float64."""


@dataclass(frozen=True, kw_only=True)
class TorchConfig:
    """The options of a `TorchEngine`, as a job gives them; they may differ from worker to worker.

    Raises:
        ConfigError: out of range.
    """

    micro_batch_size: int
    """Samples run at once, at least 1; halved for good whenever memory runs out."""
    autocast: Literal["bf16", "fp16"] | None = None
    """Precision of the forward pass; "fp16" brings dynamic loss scaling."""
    max_grad_norm_per_worker: float | None = None
    """Clip a worker's mean gradient to this norm; apart from the clipping of the aggregate."""

    def __post_init__(self) -> None:
        if self.autocast is not None and self.autocast not in AUTOCAST:
            raise ConfigError(f"autocast is one of {', '.join(AUTOCAST)}, or left out, got {self.autocast!r}")
        if type(self.micro_batch_size) is not int or self.micro_batch_size < 1:
            raise ConfigError(f"micro_batch_size must be an integer of at least 1, got {self.micro_batch_size!r}")
        if self.max_grad_norm_per_worker is not None and not self.max_grad_norm_per_worker > 0:
            raise ConfigError(
                f"max_grad_norm_per_worker must be above 0, got {self.max_grad_norm_per_worker}; leave it out to clip nothing"
            )


class TorchEngine:
    """See `mottle.engines.base.Engine`.

    Args:
        model: taken over: moved to the device, its trainable parameters made views of the flat vector where dtypes agree (others, such
            as bfloat16 parameters under a float32 vector, are copied at every load).
        loss: `loss(model, batch)`.
        layout: `layout_of(model)`.
        micro_batch_size, autocast, max_grad_norm_per_worker: see `TorchConfig`.
        global_randomness: held, again and again, while a model may draw from the process's global generators: a lock, where another
            thread (that loads samples) draws from them too. Never held while waiting for a batch.
    Raises:
        ConfigError: the layout is of another model, or an option is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        layout: Layout,
        device: torch.device | str,
        micro_batch_size: int,
        autocast: Literal["bf16", "fp16"] | None = None,
        max_grad_norm_per_worker: float | None = None,
        global_randomness: AbstractContextManager[object] | None = None,
    ) -> None:
        config = TorchConfig(micro_batch_size=micro_batch_size, autocast=autocast, max_grad_norm_per_worker=max_grad_norm_per_worker)
        self.layout = layout
        self.micro_batch_size = config.micro_batch_size
        self._loss = loss
        self._device = torch.device(device)
        self._autocast = config.autocast
        self._max_norm = config.max_grad_norm_per_worker
        self._global_randomness = nullcontext() if global_randomness is None else global_randomness
        self._scale = LossScale(enabled=config.autocast == "fp16")
        self._model = model.to(self._device)
        self._flat = torch.zeros(layout.size, dtype=getattr(torch, layout.dtype), device=self._device)
        self._take_over()
        self._pieces = layout.parameters
        self._narrow = config.autocast == "fp16" or any(param.dtype == torch.float16 for param in self._params)
        self._accumulator: Tensor | None = None
        self._empty = True
        """Nothing is in the accumulator since `zero`; what it holds is then of no meaning."""
        self._only: list[Tensor] | None = None
        """Gradients of all parameters, of the only micro-batch so far, which are in no accumulator yet."""
        self._buffers = Buffers(model)
        self._weight = 0.0
        self._sealed = False

    @torch.no_grad()
    def load(self, flat_piece: Tensor, start: int) -> None:
        """Copy a range of the flat vector, from coordinate `start` on, into the engine's own; the piece may be released at once.

        Parameters change now; the model's buffers at the next `zero`, so that a load in the middle of work loses no statistics.

        Raises:
            ValueError: wrong dtype, not a vector, or beyond the layout; nothing is changed then.
        """
        stop = start + flat_piece.numel()
        if flat_piece.dim() != 1 or flat_piece.dtype != self._flat.dtype or not 0 <= start <= stop <= self.layout.size:
            raise ValueError(
                f"a piece of the flat vector is {self.layout.dtype}, shape (n,), inside [0, {self.layout.size}), "
                f"got {flat_piece.dtype}, shape {tuple(flat_piece.shape)}, from {start} on"
            )
        self._flat[start:stop].copy_(flat_piece)
        for piece, param in self._copied:
            if piece.start < stop and start < piece.stop:
                param.copy_(view_of(self._flat, piece))

    @torch.no_grad()
    def refresh(self) -> None:
        """The flat vector was changed in place (`values`): parameters that are no views of it follow."""
        for piece, param in self._copied:
            param.copy_(view_of(self._flat, piece))

    def zero(self) -> None:
        """Begin a work order: nothing accumulated, buffers as loaded."""
        self._empty = True
        self._only = None
        self._weight = 0.0
        self._sealed = False
        self._reset_buffers()

    def accumulate(
        self,
        fetch: Fetch,
        start: int,
        stop: int,
        *,
        seed_of_position: Callable[[int], int],
        should_stop: Callable[[], bool] = never,
        coefficient: float = 1.0,
    ) -> Accumulated:
        """Add the gradient sum of positions `[start, stop)`, a micro-batch at a time.

        On a CUDA device at most one micro-batch is queued behind the one that is running, so that `should_stop` is asked in time.

        Raises:
            SampleTooLargeError: a single sample does not fit.
            ConfigError: the loss is not what `differentiable` wants.
            RuntimeError: after `update`, before `zero`.
            And whatever `fetch`, the model or the loss raise; the micro-batch at hand then left nothing in the accumulator.
        """
        if self._sealed:
            raise RuntimeError("the update was taken already and may be under way; call zero() before accumulating again")
        position, weight, num_failed = start, 0.0, 0
        losses: list[Tensor] = []
        loss_sum = 0.0
        self._model.train()
        while position < stop and not should_stop():
            end = min(position + self.micro_batch_size, stop)
            done = self._attempt(fetch, position, end, seed_of_position(position), coefficient)
            if done is None:
                num_failed += 1
                self._halve(position, end)
                continue
            loss, own_weight = done
            losses.append(loss)
            if len(losses) > 1:
                loss_sum += losses.pop(0).item()  # waits for the micro-batch before this one
            position, weight = end, weight + own_weight
        loss_sum += sum(loss.item() for loss in losses)
        return Accumulated(position - start, weight, loss_sum, self.micro_batch_size, num_failed)

    @torch.no_grad()
    def update(self) -> Tensor:
        """The update: shape (size,), the layout's dtype, on the engine's device; a view of the accumulator, valid until `zero`.

        Parameters hold the gradient sum (each sample's, or each token's where the loss has a weight), the buffer tail
        `weight * (base - new)`: divided by the weight, both are means. Clipped per worker where that was asked for; a gradient that is
        not finite goes out as it is, for the gate of the step to reject by name.
        """
        if self._sealed and self._only is None:
            return self._sum
        self._gather()
        self._clear()
        self._sealed = True
        for piece, buffer in self._tail():
            self._write_tail(view_of(self._sum, piece), piece, buffer)
        gradient = self._sum[: self.layout.num_params]
        if self._max_norm is not None and self._weight > 0:
            mean_norm = _norm(gradient) / self._weight
            if math.isfinite(mean_norm):
                gradient.mul_(factor_of_norm(mean_norm, self._max_norm))
        return self._sum

    @torch.no_grad()
    def parts(self, start: int, stop: int) -> list[Tensor]:
        """Coordinates [start, stop) of the update, in at least one part of shape (n,), one after the other: views, valid until `zero`."""
        if self._only is None or self._max_norm is not None or self._device.type != "cpu":
            return [self.update()[start:stop]]
        self._sealed = True
        within = [(piece.start, gradient.view(-1)) for piece, gradient in zip(self._pieces, self._only, strict=True)]
        if stop > self.layout.num_params:
            tail = torch.zeros(self.layout.size - self.layout.num_params, dtype=self._flat.dtype)
            for piece, buffer in self._tail():
                first = piece.start - self.layout.num_params
                self._write_tail(tail[first : first + piece.size].view(piece.shape), piece, buffer)
            within.append((self.layout.num_params, tail))
        cut = [(max(start - first, 0), min(stop - first, len(part)), part) for first, part in within]
        return [part[low:high] for low, high, part in cut if low < high] or [self._flat[start:stop]]

    def _write_tail(self, out: Tensor, piece: Slice, buffer: Tensor) -> None:
        out.copy_(view_of(self._flat, piece)).sub_(buffer).mul_(self._weight)

    @property
    def _sum(self) -> Tensor:
        """The accumulator, made when it is first needed."""
        if self._accumulator is None:
            self._accumulator = torch.zeros_like(self._flat)
        return self._accumulator

    def values(self) -> Tensor:
        """The flat vector last loaded: shape (size,), the layout's dtype, on the engine's device; a view, valid until the next `load`."""
        return self._flat

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and travelling buffers by name, at the version last loaded: views, valid until the next `load`."""
        return unflatten(self._flat, self.layout)

    def evaluate(self, batches: Iterable[tuple[Batch, int]], metrics: Mapping[str, Metric]) -> dict[str, float]:
        """Weighted means of the loss, under `"loss"`, and of the metrics, at the version last loaded.

        The model is in evaluation mode meanwhile. Modes, buffers, randomness and what was accumulated are afterwards as before.

        Args:
            batches: (batch, its number of samples).
        Raises:
            ConfigError: no batch; a metric named "loss", or one that gives no number.
        """
        if "loss" in metrics:
            raise ConfigError('a metric cannot be called "loss": the mean loss is always reported under that name')
        modes = {module: module.training for module in self._model.modules()}
        self._buffers.save()
        self._reset_buffers()
        self._model.eval()
        moved = ((to_device(batch, self._device), num_samples) for batch, num_samples in batches)
        try:
            with randomness.kept(self._device), torch.no_grad(), self._precision():
                randomness.seed(self._device, 0)
                return averages.mean_of({"loss": self._loss, **metrics}, self._model, moved)
        finally:
            self._buffers.restore()
            for module, mode in modes.items():
                module.training = mode

    @torch.no_grad()
    def _take_over(self) -> None:
        """Fill the flat vector from the model and make the parameters views of it, one by one, so that memory peaks at one copy."""
        self._copied = []
        self._params = []
        for piece, tensor in tensors_of(self._model, self.layout):
            view = view_of(self._flat, piece)
            view.copy_(tensor)
            if piece.kind == "buffer":
                continue
            self._params.append(tensor)
            if tensor.dtype == view.dtype:
                tensor.data = view
            else:
                self._copied.append((piece, tensor))

    @torch.no_grad()
    def _reset_buffers(self) -> None:
        for piece, buffer in self._tail():
            buffer.copy_(view_of(self._flat, piece))

    def _tail(self) -> Iterator[tuple[Slice, Tensor]]:
        """The buffers that travel, looked up anew: a forward pass may have put another tensor under the name."""
        for piece in self.layout.buffers:
            yield piece, self._model.get_buffer(piece.name)

    def _attempt(self, fetch: Fetch, start: int, stop: int, seed: int, coefficient: float) -> tuple[Tensor, float] | None:
        """One micro-batch, whole or not at all; None when memory ran out. Returns loss times weight, on the device, and the weight."""
        self._gather()
        self._buffers.save()
        try:
            batch = to_device(fetch(start, stop), self._device)
            while (done := self._run(batch, stop - start, seed, coefficient)) is None:
                self._buffers.restore()
            return done
        except Exception as error:
            self._buffers.restore()
            if not is_out_of_memory(error):
                raise
        finally:
            self._drop_gradients()
        # Only here, with the exception and the frames that it held gone, can the memory of the failed attempt be free.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _run(self, batch: Batch, num_samples: int, seed: int, coefficient: float) -> tuple[Tensor, float] | None:
        """Forward, backward, add; None when float16 overflowed and the scale backed off."""
        scale = self._scale.value
        with self._global_randomness, randomness.kept(self._device):
            randomness.seed(self._device, seed)
            with self._precision():
                loss, weight = averages.differentiable(self._loss(self._model, batch), num_samples)
            if weight == 0:
                return torch.zeros(()), 0.0
            # A factor on the loss costs nothing, on the gradients a pass over memory; where float16 could overflow by it they are spared.
            early = 1.0 if self._narrow or not coefficient else coefficient * weight
            (loss * (scale * early)).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if not self._add(coefficient * weight / (scale * early)):
            return None
        self._weight += weight
        return loss.detach().double() * weight, weight

    def _add(self, factor: float) -> bool:
        """Add the gradients at hand, all of them or, where float16 overflowed, none. Allocates nothing once it has begun to add."""
        held = [(piece, param.grad) for piece, param in zip(self._pieces, self._params, strict=True) if param.grad is not None]
        if not held:
            raise ConfigError("the loss depends on none of the model's trainable parameters; does it use the model that it is given?")
        grads = [grad.to_dense() if grad.is_sparse else grad for _, grad in held]
        if self._scale.overflowed(grads):
            self._drop_gradients()
            return False
        totals = [] if self._lies_ready(grads, factor) else [view_of(self._sum, piece) for piece, _ in held]
        if not totals:
            self._only = grads
            return True
        if self._empty and len(held) == len(self._params):  # nothing to add to: one pass over memory less
            for total, grad in zip(totals, grads, strict=True):
                torch.mul(grad, factor, out=total)
        else:
            self._clear()
            torch._foreach_add_(totals, grads, alpha=factor)
        self._empty = False
        return True

    def _lies_ready(self, grads: list[Tensor], factor: float) -> bool:
        """Whether the gradients could go out as they are, should no more be added to them."""
        ready = self._empty and self._only is None and factor == 1.0 and len(grads) == len(self._params)
        return ready and all(grad.dtype == self._flat.dtype and grad.is_contiguous() for grad in grads)

    def _gather(self) -> None:
        """Put what lies apart into the accumulator, before a next micro-batch needs the memory for its own gradients."""
        if self._only is None:
            return
        gradients, self._only = self._only, None
        for piece, gradient in zip(self._pieces, gradients, strict=True):
            view_of(self._sum, piece).copy_(gradient)
        self._empty = False

    def _clear(self) -> None:
        """Zero the accumulator, where that was put off until something is added to it."""
        if self._empty:
            self._sum.zero_()
            self._empty = False

    def _drop_gradients(self) -> None:
        for param in self._params:
            param.grad = None

    def _halve(self, start: int, stop: int) -> None:
        if stop - start == 1:
            raise SampleTooLargeError(
                f"the sample at position {start} does not fit into the memory of {self._device} by itself; use a smaller model or sample"
            )
        self.micro_batch_size = (stop - start) // 2

    def _precision(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST[self._autocast] if self._autocast else None
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)


def _norm(vector: Tensor) -> float:
    """Euclidean norm; the pieces' norms are combined in float64, without a copy of the vector."""
    return float(torch.stack([torch.linalg.vector_norm(piece) for piece in torch.split(vector, NORM_PIECE)]).double().norm())
