"""What one turn of the brain brings about: commands to tell, and facts that the strategy has yet to hear."""

from collections import deque
from dataclasses import dataclass, field

from mottle.core.protocol import Command, SetTimer
from mottle.core.strategy import StrategyEvent


@dataclass(slots=True)
class Effects:
    """Shared by the brain's parts, so that each can speak without knowing the others."""

    now_ns: int = 0
    """The run's clock; it never goes back."""
    heard: deque[StrategyEvent] = field(default_factory=deque)
    timers: list[SetTimer] = field(default_factory=list)
    """Set and not fired yet."""
    _commands: list[Command] = field(default_factory=list)

    def tell(self, command: Command) -> None:
        if type(command) is SetTimer:
            self.timers.append(command)
        self._commands.append(command)

    def fired(self, name: str) -> None:
        """The earliest timer of that name has fired."""
        if mine := [timer for timer in self.timers if timer.name == name]:
            self.timers.remove(min(mine, key=lambda timer: timer.at_ns))

    def set_again(self, later_ns: int, exact: str) -> None:
        """Whoever kept the timers is gone: set those that have not fired, but for the one named `exact` so much later."""
        timers, self.timers = self.timers, []
        for timer in timers:
            self.tell(SetTimer(timer.name, timer.at_ns + (0 if timer.name == exact else later_ns)))

    def hear(self, event: StrategyEvent) -> None:
        self.heard.append(event)

    def take(self) -> list[Command]:
        """The commands told since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands
