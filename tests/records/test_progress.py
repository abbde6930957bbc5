"""What a person sees of an epoch in progress."""

import sys

import pytest

from common.records import progress
from common.system import processes


@pytest.mark.parametrize(("seconds", "lines"), [(0.5, 1), (4, 3), (30, 10)])
def test_no_silence_is_long(seconds, lines, monkeypatch, log):
    """Of ten steps, with a line of averages after the fifth; where there is no terminal for a bar."""
    log.set_level("INFO", logger="common")
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with progress.Progress(1, 3, 10, 0) as shown:
        for step in range(10):
            now[0] += seconds
            shown.advance()
            if step == 4:
                shown.report({"loss": 0.5, "ratio": None})
    reported = [line for line in log.messages if line.startswith("epoch 2/3 step ")]
    assert len(reported) == lines
    assert [line for line in reported if "loss 0.5  ratio -  " in line and "step 5/10" in line]
    assert all(f"  {1 / seconds:.2f} steps/s  ETA " in line for line in reported)


@pytest.mark.parametrize(
    ("first", "terminal", "hidden"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_the_first_process_alone_has_a_bar_and_on_a_terminal_alone(first, terminal, hidden, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_first", lambda: first)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress.Progress(0, 1, 2, 0) as shown:
        assert bool(shown.bar.disable) is hidden
