import io
import re

import pytest

from pretune.runtime.screen import Screen
from pretune.train.logging.progress import Display, clock, describe

METRICS = {"loss": 2.0, "tokens_per_second": 12345.0, "gemm_utilization": 0.5, "data_wait": 0.004}


def test_a_line_says_it_all():
    assert describe({"loss": 2.0}, None) == "loss 2.0000"
    assert describe(METRICS, 61) == "loss 2.0000  12,345 tokens/s  1:01 left"
    shares = "50% of GEMM peak  data wait 0.4%"
    assert describe(METRICS, 61, verbose=True) == f"loss 2.0000  12,345 tokens/s  {shares}  1:01 left"
    assert describe({"loss": 2.0}, 0.0) == "loss 2.0000"


def test_clock():
    assert [clock(0), clock(59.6), clock(3723), clock(-1)] == ["0:00", "1:00", "1:02:03", "0:00"]


def test_plain_lines_are_thinned_out_and_quiet_is_quiet(capsys):
    plain = Display("plain", minimum=60)
    for step in range(5):
        plain.update(step, step / 4, 1.0, METRICS, last=step == 4)
    plain.note("said once")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["0", "4", "once"]
    quiet = Display("quiet")
    quiet.update(1, 0.5, 1.0, METRICS, last=True)
    quiet.note("unheard")
    assert capsys.readouterr().err == ""


def test_without_a_terminal_auto_prints_lines(capsys):
    with Display("auto").running():
        pass
    Display("auto").update(1, 0.5, 1.0, METRICS, last=True)
    assert "\x1b" not in (output := capsys.readouterr().err)
    assert "loss 2.0000" in output


def test_a_bar_of_80_columns_shows_step_percent_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(Screen, "isatty", lambda self: True)
    monkeypatch.setattr(Screen, "write", lambda self, text: screen.write(text))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    display = Display("auto")
    with display.running():
        display.update(12_345, 0.4321, 4321.0, METRICS, last=False)
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()[-1].strip("\r ")
    assert re.fullmatch(r"step 12,345  43% \S{10} loss 2.0000  12,345 tokens/s  1:12:01 left", line), line
