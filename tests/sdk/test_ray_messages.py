"""Ray's own words on dead workers: kept from the terminal, and the private function that says them is still where it was."""

import inspect
import logging

import pytest
import ray._private.worker as private

from mottle.sdk.ray_messages import put_aside


def test_ray_prints_what_it_tells_a_driver_with_the_function_that_is_replaced() -> None:
    assert list(inspect.signature(private.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    assert "print_to_stdstream(" in inspect.getsource(private.listen_error_messages)


def test_what_ray_says_goes_to_the_log_and_not_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(private, "print_to_stdstream", private.print_to_stdstream)  # put back at the end
    put_aside()
    with caplog.at_level(logging.INFO, logger="mottle.ray"):
        private.print_to_stdstream({"lines": ["A worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert caplog.messages == ["raylet: A worker died"]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
