"""What a loss does with its model, seen from outside: the one call that it makes, and an answer given in the model's place.

A loss takes a whole model, and no stage has one. So the stages that take inputs learn from the loss what it would call the model with,
and the last stage gives the loss a module that answers with what came out of the pipeline.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from torch import nn

from mottle.core.errors import ConfigError
from mottle.placement.tracing.example import Example


class _Called(BaseException):
    """Carries the arguments out of the loss; no `except Exception` of the user's holds it up."""

    def __init__(self, call: Example) -> None:
        self.call = call


class StandIn(nn.Module):
    """In the place of a model: answers every call in the same way, and has nothing else of a model.

    Args:
        name: the model's class, for messages.
        answer: called with the arguments.
    """

    def __init__(self, name: str, answer: Callable[[Example], Any]) -> None:
        super().__init__()
        self.__dict__.update(_stand_in_for=name, _answer=answer, _num_calls=0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_num_calls"] += 1
        if self.__dict__["_num_calls"] > 1:
            self._refuse("calls the model more than once")
        return self.__dict__["_answer"](Example(args, kwargs))

    def __getattr__(self, name: str) -> Any:
        self._refuse(f"uses {name!r} of the model")

    def parameters(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("looks at the model's parameters")

    named_parameters = parameters

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"the loss {what}, and of a model in stages no process has all: {self.__dict__['_stand_in_for']} may be called once, with the "
            "loss computed from what it returns. Move the rest into the model's forward, or train it in one piece"
        )


def call_of(loss: Callable[[Any, Any], Any], batch: Any, name: str) -> Example:
    """What the loss calls its model with.

    Args:
        name: the model's class, for messages.
    Raises:
        ConfigError: it calls it never, or uses it in another way before it does.
    """

    def leave(call: Example) -> NoReturn:
        raise _Called(call)

    try:
        loss(StandIn(name, leave), batch)
    except _Called as called:
        return called.call
    raise ConfigError(f"the loss does not call the model ({name}), so there is nothing to cut into stages")
