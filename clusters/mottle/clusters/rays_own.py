"""Ray's own schema and validator of launcher files, with their complaints at the lines they are about. The one place that imports them:
they are private to Ray.
"""

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mottle.clusters.findings import Findings
from mottle.storage.document import KeyPath

_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping of keys",
    "boolean": "true or false",
}


def schema() -> dict[str, Any]:
    """Ray's JSON schema of launcher files."""
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    return dict(json.loads(text))


def look(data: Mapping[str, Any], findings: Findings) -> None:
    """Everything that Ray's schema refuses; where that is nothing, what Ray's validator refuses."""
    import jsonschema  # type: ignore[import-untyped]  # comes with Ray, without types

    checked = {key: value for key, value in data.items() if key != "min_workers"}  # Ray takes it away before it looks at its schema
    errors = list(jsonschema.Draft7Validator(schema()).iter_errors(checked))
    for error in errors:
        _tell(error, tuple(error.absolute_path), findings)
    if not errors:
        _validate(data, findings)


def _tell(error: Any, path: KeyPath, findings: Findings) -> None:
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            for key in set(error.instance) - set(known):
                findings.unknown(path, key, known)
        case "required":
            for key in set(error.validator_value) - set(error.instance):
                findings.fault(path, f"needs the key {key!r}")
        case "type":
            wanted = error.validator_value
            names = [wanted] if isinstance(wanted, str) else wanted
            findings.fault(path, f"wanted {' or '.join(_WORDS.get(name, name) for name in names)}, got {error.instance!r}")
        case _:
            findings.fault(path, error.message)


def _validate(data: Mapping[str, Any], findings: Findings) -> None:
    """Ray fills in its defaults, then checks what a schema cannot say. It prints as it goes, for people who run `ray up`."""
    import click
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _unlogged():
            validate_config(prepare_config(copy.deepcopy(dict(data))))
    except click.ClickException:
        findings.fault((), f"Ray refuses it: {' '.join(said.getvalue().split())[-300:]}")
    except Exception as error:  # its validator raises what it likes, from ValueError to RuntimeError and KeyError
        findings.fault(_about(str(error), data), f"Ray refuses it: {error}")


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _about(message: str, data: Mapping[str, Any]) -> KeyPath:
    """The first key that a message names."""
    named = [key for key in data if f"`{key}`" in message]
    return (min(named, key=message.index),) if named else ()


def kubernetes_config(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What Ray's autoscaler makes of a `RayCluster`; raises what it raises."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return dict(_derive_autoscaling_config_from_ray_cr(copy.deepcopy(dict(resource))))
