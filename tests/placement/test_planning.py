"""From a model to a plan in one call, what the plan shows of itself, and the command."""

import copy
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from tests.placement.models import FAMILIES, Residual, perceptron
from typer.testing import CliRunner

import mottle.placement
from mottle.cli.main import app
from mottle.core.errors import ConfigError
from mottle.placement import Device, Op, Problem, bounds, load_problem, place, plan
from mottle.placement.notebook import gantt_svg, plan_html
from mottle.placement.tracing.local import here


def test_a_planned_model_runs_where_the_plan_says() -> None:
    torch.manual_seed(0)
    model, example = perceptron(), torch.randn(7, 12)
    alone = copy.deepcopy(model)
    made = plan(model, example, ["a=t4", "b=cpu-8:8Gi"], algorithm="round-robin")
    placed = made.module(model, devices={"a": "cpu", "b": "cpu"})
    assert torch.equal(alone(example), placed(example))
    assert made.devices_used == ("a", "b")


def test_devices_may_be_here_elsewhere_or_given() -> None:
    made = plan(perceptron(), torch.randn(7, 12), ["cpu", "far=t4", Device("own", "a10g", 1 << 30)])
    assert [(device.id, device.kind) for device in made.problem.devices] == [("cpu", "host"), ("far", "t4"), ("own", "a10g")]
    device, kind = here("cpu")
    assert 0 < device.mem < kind.mem
    with pytest.raises(ConfigError, match="there is no device 'cuda:99' in this machine"):
        here("cuda:99")
    with pytest.raises(ConfigError, match="neither a torch device nor written as name=class"):
        plan(perceptron(), torch.randn(7, 12), ["gpu0"])
    with pytest.raises(ConfigError, match="devices is a list such as"):
        plan(perceptron(), torch.randn(7, 12), "cpu")  # the slip that a str is a sequence of


def test_a_plan_of_a_bare_problem_has_no_module() -> None:
    bare = place(Problem(ops=(Op("a", 1),), devices=(Device("d", "x", 1),)))
    with pytest.raises(ConfigError, match="made of a problem, not of a model"):
        bare.module(perceptron())


class Tags(HTMLParser):
    """Counts tags, and remembers what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag != "rect" or "/>" not in (self.get_starttag_text() or ""):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_plan_shows_itself_with_every_op_and_what_it_is_held_against() -> None:
    made = plan(Residual(), torch.randn(2, 3, 8, 8), ["<gpu>=t4", "b=t4"], algorithm="round-robin")
    tags = Tags()
    tags.feed(made._repr_html_())
    assert tags.open == []
    # an op or a copy is one bar, a device one row behind them
    assert tags.count["rect"] == len(made.problem.ops) + len(made.simulation.transfers) + 2
    assert "<gpu>" in tags.text
    single, bound = place(made.problem, "single").makespan, bounds(made.problem).makespan
    for ticks in (made.makespan, single, bound):
        assert f"{ticks / 1e4:,.4g} ms" in tags.text
    assert "split by layers" in tags.text


def test_the_comparison_says_when_one_device_is_too_small() -> None:
    ops = (Op("a", 5, 6), Op("b", 5, 6))
    made = place(Problem(ops=ops, devices=(Device("d", "x", 8), Device("e", "x", 8)), tick_ns=1000))
    assert "does not fit" in plan_html(made)


def test_charts_of_large_plans_join_ops_that_follow_each_other() -> None:
    ops = tuple(Op(f"n{i}", 2) for i in range(2_500))
    chart = gantt_svg(place(Problem(ops=ops, devices=(Device("d", "x", 8),)), "single"))
    assert chart.count("<rect") == 2
    assert "n0 to n" in chart


def test_problems_can_be_read_and_placed_without_loading_torch() -> None:
    code = "import sys, mottle.placement; assert 'torch' not in sys.modules; mottle.placement.plan; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [name for name in mottle.placement.__all__ if not hasattr(mottle.placement, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'plam'"):
        mottle.placement.plam  # noqa: B018  # reading it is the test


def test_the_command_writes_what_place_reads(tmp_path: Path) -> None:
    out = tmp_path / "graph.json"
    model = "tests.placement.models:Recurrent"
    inputs = ["--example", "x=2x5x6", "--example", "temperature=scalar", "--device", "a=t4:64Ki", "--device", "b=a10g:64Ki"]
    done = CliRunner().invoke(app, ["capture", model, *inputs, "--out", str(out), "--latency", "2", "--bandwidth", "24", "--json"])
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    problem = load_problem(out)
    build, _ = FAMILIES["recurrent"]
    assert data["parameters"] == sum(parameter.numel() for parameter in build().parameters())
    assert (data["source"], data["ops"]) == ("export", len(problem.ops))
    assert (problem.default_link.lat, problem.default_link.bytes_per_s) == (20, 24_000_000_000)
    assert place(problem).simulation.valid
    made = CliRunner().invoke(app, ["capture", model, "--example", "tests.placement.models:recurrent_input", "--out", str(out), "--eval"])
    assert made.exit_code == 0, made.stderr
    assert load_problem(out).mem_mode == "dynamic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tests.placement.models:Branching", "--example", "2x4"], "to watch it run it needs real parameters and inputs"),
        (["tests.placement.models:perceptron", "--example", "7,12"], "an input is written as"),
        (["tests.placement.models:FAMILIES", "--example", "7x12"], "neither a module nor makes one"),
        (["tests.placement.models:recurrent_input", "--example", "7x12"], "made no torch.nn.Module"),
        (["perceptron", "--example", "7x12"], "a reference is written as module:name"),
        (["tests.placement.models:perceptron", "--example", "7x12", "--graph", "joined"], "did you mean 'joint'"),
        (["tests.placement.models:perceptron", "--example", "7x12", "--source", "jit"], "--source is export, fx or modules"),
        (["tests.placement.models:perceptron", "--example", "7x12", "--optimizer", "adm"], "did you mean 'adam'"),
        (["tests.placement.models:perceptron", "--example", "7x12", "--example", "tests.x:y"], "leave the other 1 out"),
    ],
)
def test_what_cannot_be_captured_is_told_with_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["capture", *arguments, "--out", str(tmp_path / "graph.json")])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
