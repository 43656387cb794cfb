"""What one turn of the brain brings about: commands to tell, and facts that the strategy has yet to hear."""

from collections import deque
from dataclasses import dataclass, field

from mottle.core.protocol import Command
from mottle.core.strategy import StrategyEvent


@dataclass(slots=True)
class Effects:
    """Shared by the brain's parts, so that each can speak without knowing the others."""

    now_ns: int = 0
    """The run's clock; it never goes back."""
    heard: deque[StrategyEvent] = field(default_factory=deque)
    _commands: list[Command] = field(default_factory=list)

    def tell(self, command: Command) -> None:
        self._commands.append(command)

    def hear(self, event: StrategyEvent) -> None:
        self.heard.append(event)

    def take(self) -> list[Command]:
        """The commands told since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands
