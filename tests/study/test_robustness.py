"""The robustness study: cells repeat bit for bit, the known facts show, and what is written is what happened."""

import csv
import shlex
import signal
import subprocess
import sys

import pytest

from mottle.core.errors import ConfigError
from mottle.study.robustness import _deaf_to_interrupts, complete_rule, grid, run_cells, run_robustness, specs_from_text
from mottle.study.robustness_cell import Cell, run_cell
from mottle.study.robustness_report import label, matrix_of, repeat_command


def a_cell(rule, attack, **changes):
    settings = {"task": "convex", "num_workers": 12, "num_faulty": 2, "rounds": 40, "seed": 0} | changes
    return Cell(rule=rule, attack=attack, **settings)


MEAN, MEDIAN, ZENO = {"mean": {}}, {"median": {}}, {"zeno": {"trim": 2, "rho": 0.002}}
TRIMMED = {"trimmed_mean": {"trim": 2}}


# --- cells ------------------------------------------------------------------------------------------------------------------------------


def test_without_faults_every_rule_learns():
    baseline = run_cell(a_cell(MEAN, {"honest": {}})).accuracy
    assert baseline > 0.85
    for rule in (MEDIAN, ZENO, TRIMMED, {"krum": {"num_byzantine": 2}}, {"centered_clipping": {"radius": 1.0}}, {"fltrust": {}}):
        assert run_cell(a_cell(rule, {"honest": {}})).accuracy > baseline - 0.12, rule


def test_a_huge_attack_breaks_the_mean_and_no_robust_rule():
    attack = {"sign_flip": {"scale": 100.0}}
    assert run_cell(a_cell(MEAN, attack)).accuracy < 0.2
    for rule in (MEDIAN, ZENO, TRIMMED):
        assert run_cell(a_cell(rule, attack)).accuracy > 0.7, rule


def test_a_faulty_majority_breaks_the_median_and_not_zeno():
    attack = {"sign_flip": {"scale": 1.0}}
    assert run_cell(a_cell(MEDIAN, attack, num_faulty=8)).accuracy < 0.2
    assert run_cell(a_cell({"zeno": {"trim": 8, "rho": 0.002}}, attack, num_faulty=8)).accuracy > 0.7


def test_rows_that_are_not_finite_destroy_the_mean_and_are_gated_elsewhere():
    destroyed = run_cell(a_cell(MEAN, {"non_finite": {}}))
    assert destroyed.diverged
    assert destroyed.accuracy == 0.0
    assert not run_cell(a_cell(TRIMMED, {"non_finite": {}})).diverged


def test_a_round_whose_condition_fails_is_skipped_and_says_why():
    outcome = run_cell(a_cell({"trimmed_mean": {"trim": 1}}, {"non_finite": {}}))
    assert outcome.skipped_rounds == 40
    assert "trimmed_mean" in outcome.note
    assert not outcome.diverged


@pytest.mark.parametrize("kind", ["short", "scalar", "object", "foreign", "other_round"])
def test_a_malformed_message_is_a_missing_row(kind):
    malformed = run_cell(a_cell(TRIMMED, {"malformed": {"kind": kind}}))
    assert malformed.skipped_rounds == 0
    assert malformed.accuracy > 0.85


def test_of_two_messages_the_first_counts():
    duplicate, honest = (run_cell(a_cell(MEAN, attack)) for attack in ({"malformed": {"kind": "duplicate"}}, {"honest": {}}))
    assert duplicate.accuracy == honest.accuracy


def test_a_count_buys_the_plain_mean_and_not_a_robust_rule():
    attack = {"count_inflation": {"factor": 1000, "attack": {"sign_flip": {}}}}
    assert run_cell(a_cell(MEAN, attack)).accuracy < 0.2
    assert run_cell(a_cell(TRIMMED, attack)).accuracy > 0.7


def test_many_names_exceed_a_declared_budget():
    """Two attackers with 7 names each outnumber 10 honest workers; a budget of 2 does not help, a score on trusted data does."""
    attack = {"sybil": {"identities": 7, "attack": {"sign_flip": {"scale": 5.0}}}}
    assert run_cell(a_cell({"median": {}}, attack)).accuracy < 0.2
    assert run_cell(a_cell({"zeno": {"trim": 14, "rho": 0.002}}, attack)).accuracy > 0.7


@pytest.mark.parametrize(
    "attack", [{"label_flip": {}}, {"gambler": {}}, {"optimised": {}}, {"mimic": {"warm_up": 5}}, {"stale_replay": {"claim": "newest"}}]
)
def test_every_kind_of_attack_runs_and_repeats(attack):
    first, second = (run_cell(a_cell(TRIMMED, attack, rounds=10)) for _ in range(2))
    assert first == second
    assert first.skipped_rounds == 0


def test_a_cell_needs_an_honest_worker_and_a_round():
    with pytest.raises(ConfigError, match="0 <= faulty < workers"):
        a_cell(MEAN, {"honest": {}}, num_faulty=12)
    with pytest.raises(ConfigError, match="at least 1 round"):
        a_cell(MEAN, {"honest": {}}, rounds=0)


# --- the grid and its report ------------------------------------------------------------------------------------------------------------


def test_a_budget_that_is_left_out_is_the_true_number_of_faulty_workers():
    assert complete_rule("phocas", 4) == {"phocas": {"trim": 4}}
    assert complete_rule({"krum": {"num_byzantine": 1}}, 4) == {"krum": {"num_byzantine": 1}}
    assert complete_rule("median", 4) == {"median": {}}


def test_names_are_checked_before_anything_is_trained():
    for rules, attacks, tasks in (
        (["medain"], None, ["convex"]),
        (None, ["ipn"], ["convex"]),
        (None, None, ["cifar"]),
        ([], None, ["convex"]),
    ):
        with pytest.raises(ConfigError):
            grid(rules, attacks, byzantine_share=0.2, workers=10, rounds=5, seeds=1, tasks=tasks)
    with pytest.raises(ConfigError, match="byzantine_share"):
        grid(None, None, byzantine_share=1.0, workers=10, rounds=5, seeds=1, tasks=["convex"])


def test_specs_as_written_on_a_command_line():
    assert specs_from_text("krum,phocas") == ["krum", "phocas"]
    assert specs_from_text('{"ipm": {"epsilon": 0.5}}') == [{"ipm": {"epsilon": 0.5}}]
    assert specs_from_text("[krum, {phocas: {trim: 2}}]") == ["krum", {"phocas": {"trim": 2}}]
    with pytest.raises(ConfigError, match="names with commas"):
        specs_from_text("{krum")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    done = []
    finished = run_robustness(
        ["mean", "median"],
        ["honest", {"sign_flip": {"scale": 10.0}}],
        byzantine_share=0.2,
        workers=10,
        rounds=15,
        seeds=2,
        out_dir=tmp_path_factory.mktemp("study"),
        processes=2,
        tasks=["convex"],
        on_done=lambda count, total: done.append((count, total)),
    )
    return finished, done


def test_a_study_writes_its_files_and_counts_its_cells(study):
    finished, done = study
    assert done == [(count, 8) for count in range(1, 9)]
    assert [path.name for path in finished.files] == ["cells.csv", "matrix-convex.csv", "heatmap-convex.png", "heatmap-convex.html"]
    assert finished.files[2].read_bytes().startswith(b"\x89PNG")
    page = finished.files[3].read_text(encoding="utf-8")
    assert "sign_flip scale=10.0" in page
    assert "mottle study robustness" in page


def test_the_matrix_is_the_mean_over_the_seeds(study):
    (matrix,) = study[0].matrices
    assert matrix.setting == "10 workers, 2 faulty, 15 rounds, 2 seeds"
    assert (matrix.rules, matrix.attacks) == (("mean", "median"), ("honest", "sign_flip scale=10.0"))
    for i, rule in enumerate(matrix.rules):
        for j, attack in enumerate(matrix.attacks):
            values = [each.accuracy for each in study[0].outcomes if (label(each.cell.rule), label(each.cell.attack)) == (rule, attack)]
            assert len(values) == 2
            assert matrix.accuracy[i, j] == pytest.approx(sum(values) / 2)
            assert matrix.spread[i, j] == pytest.approx(max(values) - min(values))
    with study[0].files[1].open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["rule", *matrix.attacks]
    assert [float(value) for value in lines[2][1:]] == pytest.approx(matrix.accuracy[1], abs=5e-5)


def test_processes_change_nothing(study):
    cells = [outcome.cell for outcome in study[0].outcomes]
    assert tuple(run_cells(cells, processes=1)) == study[0].outcomes


def test_an_interrupt_is_the_parents_to_answer():
    before = signal.getsignal(signal.SIGINT)
    with _deaf_to_interrupts():
        child = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"]
        assert subprocess.run(child, capture_output=True, text=True, check=True).stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) == before


def test_the_command_of_a_line_repeats_its_cell(study):
    with study[0].files[0].open(newline="") as file:
        line = list(csv.DictReader(file))[-1]
    words = shlex.split(line["repeat"])
    assert words[:3] == ["mottle", "study", "robustness"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    (cell,) = grid(
        specs_from_text(options["--rules"]),
        specs_from_text(options["--attacks"]),
        byzantine_share=float(options["--byzantine"]),
        workers=int(options["--workers"]),
        rounds=int(options["--rounds"]),
        seeds=[int(options["--seed-list"])],
        tasks=[options["--tasks"]],
    )
    outcome = run_cell(cell)
    assert f"{outcome.accuracy:.6f}" == line["accuracy"]
    assert outcome.cell == study[0].outcomes[-1].cell
    assert repeat_command(cell) == line["repeat"]


def test_a_label_is_readable_and_keeps_what_matters():
    assert label({"ipm": {"epsilon": 0.5}}) == "ipm epsilon=0.5"
    assert label({"nnm": {"num_byzantine": 2, "inner": {"krum": {"num_byzantine": 2}}}}).startswith('nnm num_byzantine=2 inner={"krum":')


def test_a_matrix_of_one_task_leaves_the_others_out(study):
    assert matrix_of("digits", ()).accuracy.size == 0
    assert matrix_of("convex", study[0].outcomes).task == "convex"
