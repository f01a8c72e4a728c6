from pretune.train.logging.progress import Display, clock, describe

METRICS = {"loss": 2.0, "tokens_per_second": 12345.0, "gemm_utilization": 0.5, "data_wait": 0.004}


def test_a_line_says_it_all():
    assert describe({"loss": 2.0}, None) == "loss 2.0000"
    assert describe(METRICS, 61) == "loss 2.0000  12,345 tokens/s  50% of GEMM limit  data wait 0.4%  1:01 left"


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
    with Display("auto").running("run"):
        pass
    Display("auto").update(1, 0.5, 1.0, METRICS, last=True)
    assert "\x1b" not in (output := capsys.readouterr().err)
    assert "loss 2.0000" in output
