"""The drill's own tools: a drill that could not fail would prove nothing."""

import errno
import json
import signal
from pathlib import Path

import pytest
from drillkit import ALL, Fault, differences, elsewhere, mounted, snapshot

WRITER = """
import os, sys
from pathlib import Path
out = Path("out")
out.mkdir()
with open(out / ".a", "wb") as file:
    file.write(b"12345678")
    file.flush()
    os.fsync(file.fileno())
os.replace(out / ".a", out / "a")
(out / "b").write_bytes(b"x")
(out / "b").unlink()
print("done")
"""
CALLS = ["mkdir", "open", "write", "fsync", "rename", "open", "write", "unlink"]


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    (tmp_path / "case").mkdir()
    path = tmp_path / "writer.py"
    path.write_text(WRITER)
    return path


def test_a_verb_runs_and_answers(zygote, tmp_path):
    ended = zygote.run("version", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.strip()
    assert zygote.run("pretrain", "--no-such-field", "1", folder=tmp_path).code == 64


def test_every_call_that_writes_is_counted_and_recorded(zygote, writer, tmp_path):
    journal = tmp_path / "journal"
    ended = zygote.run(folder=tmp_path / "case", script=writer, fault=Fault("count", journal=journal))
    assert (ended.code, ended.out, ended.operations) == (0, "done\n", len(CALLS)), ended
    names, data = [], journal.read_bytes()
    while data:
        line, _, data = data.partition(b"\n")
        names.append(line.split(b"\t")[0].decode())
        data = data[int(line.rsplit(b"\t", 1)[1]) :]
    assert names == CALLS


def test_a_run_is_killed_at_each_call(zygote, writer, tmp_path):
    states = []
    for at in range(1, len(CALLS) + 1):
        case = tmp_path / f"case{at}"
        case.mkdir()
        assert zygote.run(folder=case, script=writer, fault=Fault("kill", at)).code == -signal.SIGKILL
        states.append({path.relative_to(case).as_posix(): path.stat().st_size for path in case.rglob("*")})
    assert states[:4] == [{}, {"out": states[1]["out"]}, {**states[2], "out/.a": 4}, {**states[3], "out/.a": 8}]
    assert [sorted(state)[-1] for state in states[4:]] == ["out/.a", "out/a", "out/b", "out/b"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_call_fails_with_the_errno(zygote, writer, tmp_path, number):
    ended = zygote.run(folder=tmp_path / "case", script=writer, fault=Fault("error", 3, ALL, number))
    assert ended.code == 1
    assert f"[Errno {number}]" in ended.err
    after_all = zygote.run(
        folder=tmp_path / "case", script=writer, fault=Fault("error", 1, ["unlink"], number, sticky=True)
    )
    assert after_all.code == 1


def test_a_call_brings_a_signal_or_waits(zygote, writer, tmp_path):
    case = tmp_path / "case"
    ended = zygote.run(folder=case, script=writer, fault=Fault("signal", 2, ALL, signal.SIGUSR2))
    assert ended.code == -signal.SIGUSR2
    (case / "out").rmdir()
    slow = zygote.run(folder=case, script=writer, fault=Fault("sleep", 1, ["sync"], 300))
    assert slow.code == 0
    assert slow.seconds >= 0.3


def test_a_run_that_hangs_is_ended(zygote, tmp_path):
    (tmp_path / "hang.py").write_text("import time\ntime.sleep(60)\n")
    running = zygote.start(folder=tmp_path, script=tmp_path / "hang.py")
    with pytest.raises(pytest.fail.Exception, match="still running"):
        running.wait(0.2)


def test_snapshots_differ_by_content_and_not_by_the_clock(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-2").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"loss": 1.0, "time": 3.0}\n')
    (run / "run.json").write_text('{"data": {}, "began": "now"}')
    (run / "x").write_bytes(b"1")
    before = snapshot(run)
    (run / "metrics.jsonl").write_text('{"loss": 1.0, "time": 4.0}\n')
    (run / "run.json").write_text(json.dumps({"began": "later", "data": {}}))
    assert differences(before, snapshot(run)) == []
    (run / "metrics.jsonl").write_text('{"loss": 1.5, "time": 4.0}\n')
    (run / "x").unlink()
    (run / ".y").symlink_to("x")
    assert differences(before, snapshot(run)) == ["missing: x", "new: .y", "changed: metrics.jsonl"]


def test_other_file_systems(tmp_path):
    there = elsewhere()
    there.rmdir()
    for mount in mounted(tmp_path / "mount", 1):
        assert mount.stat().st_dev != tmp_path.stat().st_dev
        with pytest.raises(OSError, match="No space"):
            (mount / "file").write_bytes(bytes(2 << 20))
    assert not (tmp_path / "mount" / "file").exists()
