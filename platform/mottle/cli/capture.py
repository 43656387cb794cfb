"""`mottle capture`: a PyTorch model as a problem for `mottle place`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Json


def capture(
    model: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="A module, or a function or class that makes one.")],
    example: Annotated[
        list[str], typer.Option(metavar="INPUT", help="Inputs: [name=]AxBxC[:dtype] each, or one MODULE:FUNCTION that makes them.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the problem here, as pg1.")] = Path("graph.json"),
    device: Annotated[
        list[str] | None, typer.Option(metavar="NAME=CLASS[:MEMORY]", help="A device to place on; default: gpu0=a100-40gb and host=cpu-32.")
    ] = None,
    graph: Annotated[str, typer.Option(metavar="KIND", help="joint, forward or inference; default: joint for training.")] = "",
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="sgd, momentum or adam: what is kept for each parameter.")] = "adam",
    latency_us: Annotated[float, typer.Option("--latency", metavar="MICROSECONDS", min=0, help="Between any two devices.")] = 10.0,
    bandwidth_gb: Annotated[float, typer.Option("--bandwidth", metavar="GB/S", min=0.001, help="Between any two devices.")] = 12.0,
    evaluation: Annotated[bool, typer.Option("--eval", help="Capture evaluation mode instead of training.")] = False,
    source: Annotated[str, typer.Option(metavar="NAME", help="Take this one only: export, fx or modules.")] = "",
    as_json: Json = False,
) -> Answer:
    """Capture a model's operator graph, with sizes and times, without running it.

    The model is built on the meta device, so it needs no memory. Device classes are in docs/placement.md.

    Examples:

        mottle capture model:Net --example 8x3x224x224 --out graph.json && mottle place graph.json --explain

        mottle capture model:build --example ids=8x512:int64 --device gpu0=t4 --device gpu1=a10g:16Gi --json
    """
    from mottle.placement.problem import Link
    from mottle.placement.tracing import GRAPHS, TICK_NS, declare
    from mottle.placement.tracing import capture as capture_model

    if source not in ("", "export", "fx", "modules"):
        raise BadInputError(f"--source is export, fx or modules; got {source!r}")
    built = _model(model).train(not evaluation)
    captured = capture_model(built, _inputs(example), source=None if source == "" else source)  # type: ignore[arg-type]  # checked above
    devices = [declare(text) for text in device or ["gpu0=a100-40gb", "host=cpu-32"]]
    problem = captured.problem(
        devices,
        graph=_kind(graph, GRAPHS),
        optimizer=optimizer,  # type: ignore[arg-type]  # checked there
        default_link=Link(round(latency_us * 1000 / TICK_NS), round(bandwidth_gb * 1e9)),
    )
    return _answer(captured, problem, out)


def _answer(captured: Any, problem: Any, out: Path) -> Answer:
    from mottle.placement import save_problem

    out.parent.mkdir(parents=True, exist_ok=True)
    save_problem(problem, out)
    parameters = sum(unit.state.trainable_values for unit in captured.units)
    flops = sum(sum(unit.cost.forward.flops.values()) for unit in captured.units)
    data = {
        "file": str(out),
        "source": captured.source,
        "reasons": list(captured.reasons),
        "units": len(captured.units),
        "ops": len(problem.ops),
        "parameters": parameters,
        "resident_bytes": sum(op.perm for op in problem.ops),
        "forward_flops": flops,
    }
    lines = [f"{len(captured.units)} ops by {captured.source}, {parameters:,d} parameters, {flops / 1e9:,.3g} GFLOP a forward pass"]
    lines += [f"note: {reason}" for reason in captured.reasons] + [f"wrote {out}: {len(problem.ops)} ops on {len(problem.devices)} devices"]
    return Answer(data, "\n".join(lines))


def _kind(graph: str, known: tuple[Any, ...]) -> Any:
    from mottle.core.naming import suggestion

    if graph and graph not in known:
        raise BadInputError(f"--graph {graph!r} is unknown; {suggestion(graph, known)}")
    return graph or None


def _model(reference: str) -> Any:
    """What the reference names, called on the meta device unless it is a module already."""
    import torch
    from torch import nn

    found = _resolved(reference)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise BadInputError(f"{reference} is neither a module nor makes one: it is {type(found).__name__}")
        with torch.device("meta"):
            found = found()
    if not isinstance(found, nn.Module):
        raise BadInputError(f"{reference} made no torch.nn.Module but {type(found).__name__}")
    return found


def _inputs(texts: list[str]) -> Any:
    from mottle.placement.tracing import parse_shapes

    named = [text for text in texts if "=" not in text and ":" in text and not text[0].isdigit() and not text.startswith("scalar")]
    if not named:
        return parse_shapes(texts)
    if len(texts) > 1:
        raise BadInputError(f"--example {named[0]} makes all inputs: leave the other {len(texts) - 1} out")
    return _resolved(named[0])()


def _resolved(reference: str) -> Any:
    from mottle.sdk.schema.references import resolve

    if ":" not in reference:
        raise BadInputError(f"a reference is written as module:name, for example model:Net; got {reference!r}")
    return resolve(reference, Path.cwd())
