"""ALIE, "A Little Is Enough": a shift small enough to stay among the honest values.

Source: Baruch, Baruch, Goldberg, NeurIPS 2019, arXiv 1902.06156.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, number
from mottle.attacks.moments import column_means, column_stds
from mottle.attacks.view import Knowledge
from mottle.core.errors import ConfigError


def alie_z(num_workers: int, num_faulty: int) -> float:
    r"""Standard deviations by which the attackers may stray while enough honest workers lie further out.

    .. math:: s = \lfloor n/2 + 1 \rfloor - q, \quad z = \Phi^{-1}\left(\frac{n - q - s}{n - q}\right)

    s is the number of honest workers to be won over. z is 0 where half of the honest workers must be (the attack sends the mean) and
    negative where more must be, as the formula has it.

    Raises:
        ConfigError: the fraction is not between 0 and 1, which makes z infinite.
    """
    to_win = num_workers // 2 + 1 - num_faulty
    num_honest = num_workers - num_faulty
    if not 0 < num_honest - to_win < num_honest:
        raise ConfigError(
            f"alie needs 0 < (n - q - s)/(n - q) < 1 with s = floor(n/2 + 1) - q, got n={num_workers}, q={num_faulty}, s={to_win}; "
            "give z, or change the number of faulty workers"
        )
    return NormalDist().inv_cdf((num_honest - to_win) / num_honest)


@dataclass(frozen=True, kw_only=True)
class Alie(Attack):
    """Rows mean + sign * z * std, the same for all faulty workers.

    Minus as in the authors' code; other implementations add. Their statistics are those of the faulty workers' own honest updates (ddof 0);
    the omniscient form over the honest updates (ddof 1) is the default here, as in most later work.
    """

    name: ClassVar[str] = "alie"
    citation: ClassVar[str] = "Baruch et al. 2019, arXiv 1902.06156"

    z: float | None = None
    """Shift in standard deviations; None takes it from n and q. 1.5 is the authors' default."""
    sign: Literal[-1, 1] = -1
    """Direction of the shift."""
    source: Literal["honest", "own"] = "honest"
    """Whose mean and standard deviation: the honest updates (ddof 1), or the colluders' own honest ones (ddof 0)."""

    def _problems(self) -> list[str]:
        problems = [] if self.z is None else number("z", self.z)
        return problems + choice("sign", self.sign, (-1, 1)) + choice("source", self.source, ("honest", "own"))

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.COLLUDERS if self.source == "own" else Knowledge.HONEST

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        z = alie_z(turn.view.num_workers, turn.view.num_faulty) if self.z is None else self.z
        known_HD, ddof = (turn.own, 0) if self.source == "own" else (turn.honest, 1)
        if len(known_HD) <= ddof:
            raise ConfigError(f"alie needs at least 2 honest updates for their standard deviation, got {len(known_HD)}; use source 'own'")
        return turn.same_for_all(column_means(known_HD) + self.sign * z * column_stds(known_HD, ddof=ddof)), state
