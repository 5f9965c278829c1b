"""Steps of a test run: their sum, and that one's failure neither hides nor stops the others."""

import steps


def test_closing_lines_are_counted():
    assert steps.counts("== 1203 passed, 4 skipped in 200.1s (0:03:20) ==") == (1203, 0)
    assert steps.counts("\x1b[31m\x1b[1m2 failed\x1b[0m, \x1b[32m3 passed\x1b[0m, 1 error in 1s\x1b[0m") == (3, 3)
    assert steps.counts("5 skipped in 1s") is None
    assert steps.counts("Contracts: 1 kept, 0 broken, 3 passed by") is None
    assert steps.counts("all 3 passed") is None


def test_a_failing_step_stops_nothing(capfd):
    commands = ["good", "echo 3 passed in 1s", "bad", "echo 1 failed, 2 passed in 1s; exit 1"]
    assert steps.main([*commands, "silent", "exit 3", "quiet", "cat"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:-1]] == ["good", "bad", "silent", "quiet", "all"]
    assert all("min" in line for line in lines[-6:-1])
    assert lines[-1] == "6 passed, 2 failed"


def test_steps_that_pass():
    assert steps.main(["one", "true", "two", "true"]) == 0


def test_a_sum_is_a_closing_line_itself():
    assert steps.counts(steps.report([steps.Step("a", 0, 1.0, 5, 0)]).splitlines()[-1]) == (5, 0)
