"""Parameter groups by name patterns, the way a job file can say them. No torch.

    {"adamw": {"lr": 1e-3, "param_groups": [{"params": ["*.bias", "norm*"], "weight_decay": 0.0}]}}

Group 0 is every parameter that no entry claims; the entries are groups 1, 2, ... and the first one that matches wins. The patterns go to
the layout (`mottle.engines.layout_of`), which turns groups into ranges; the options go to the optimizer. Both read this one form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import parse


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as named in a job.

    Attributes:
        options: of group 0, and of the others where they do not say otherwise.
        group_patterns: per further group, shell patterns (`fnmatch`) of parameter names.
        group_options: per further group, what differs there.
    """

    name: str
    options: Mapping[str, Any]
    group_patterns: tuple[tuple[str, ...], ...] = ()
    group_options: tuple[Mapping[str, Any], ...] = ()

    def options_of(self, group: int) -> dict[str, Any]:
        """All options of a group, by its number in the layout."""
        return dict(self.options) if group == 0 else {**self.options, **self.group_options[group - 1]}


def read(spec: object) -> OptimizerSpec:
    """Split an optimizer's spec into its parts; names of options are checked when it is built.

    Raises:
        ConfigError: not of the form above.
    """
    if isinstance(spec, OptimizerSpec):
        return spec
    name, options = parse(spec, "optimizer")
    entries = options.pop("param_groups", ())
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ConfigError(f"param_groups is a list of {{params: [patterns], option: value}}, got {entries!r}")
    groups = [_entry(entry) for entry in entries]
    return OptimizerSpec(name, options, tuple(patterns for patterns, _ in groups), tuple(own for _, own in groups))


def in_rotation(spec: object, models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The optimizer of models side by side, whose parameter groups are those of `mottle.core.rotation`: each model's own.

    Args:
        models: options of each that differ; what a parameter group says itself still goes for that group, but a rate of its own keeps its
            proportion to the model's.
    Raises:
        ConfigError: as `read`; or rates that cannot be kept in proportion.
    """
    base = read(spec)
    entries = []
    for group, patterns in enumerate((("*",), *base.group_patterns)):
        own = base.group_options[group - 1] if group else {}
        for number, settings in enumerate(models):
            options = {**settings, **own}
            if "lr" in settings and "lr" in own:
                if not base.options.get("lr"):
                    raise ConfigError(f"parameter group {group} has its own lr: say the optimizer's too, which it is in proportion to")
                options["lr"] = own["lr"] * (settings["lr"] / base.options["lr"])
            entries.append({"params": [f"{number}.{pattern}" for pattern in patterns], **options})
    return {base.name: {**base.options, "param_groups": entries}}


def _entry(entry: object) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    patterns = entry.get("params") if isinstance(entry, Mapping) else None
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(entry, Mapping) or not isinstance(patterns, Sequence) or not all(isinstance(each, str) for each in patterns):
        raise ConfigError(f'a parameter group is {{params: ["*.bias", ...], option: value}} with names or patterns of names, got {entry!r}')
    return tuple(patterns), {key: value for key, value in entry.items() if key != "params"}
