"""`t2i compare`: each family in a separate process, which may die, be interrupted, and resume."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import ASK, begun

from t2i.training.benchmark import family
from t2i.training.benchmark.compare import REAL, _in_its_own_process, compare, log_file, read, result_file
from t2i.training.benchmark.page import summary


def ends(how: str) -> list[str]:
    """A process that ends in this way."""
    return [sys.executable, "-c", f"import os, signal, sys; print('first'); {how}"]


DEATHS = [
    ("os.kill(os.getpid(), signal.SIGKILL)", "its process was ended by signal 9"),
    ("sys.exit(3)", "its process ended with 3: first"),
    ("sys.exit('no memory')", "its process ended with 1: no memory"),
]


@pytest.mark.parametrize(("how", "says"), DEATHS, ids=[how for how, _ in DEATHS])
def test_a_process_that_ends_without_a_result_is_recorded_as_an_error(how: str, says: str, tmp_path):
    out = begun(tmp_path / "out")
    _in_its_own_process(out, "glow", ends(how))
    assert read(out, "glow") == {"family": "glow", "error": says}
    assert f"glow: {says}" in summary([read(out, "glow")])


@pytest.mark.parametrize("how", ["sys.exit(130)", "sys.exit(143)", *(f"os.kill(os.getpid(), {n})" for n in (2, 15))])
def test_an_interrupted_process_writes_no_result(how: str, tmp_path):
    out = begun(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        _in_its_own_process(out, "glow", ends(f"signal.signal(signal.SIGINT, signal.SIG_DFL); {how}"))
    assert log_file(out, "glow").is_file() and not result_file(out, "glow").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_peak_memory_excludes_the_parent_process():
    code = "from t2i.processes import most_memory; print(most_memory())"
    large = (
        f"import subprocess, sys; x = b'x' * 1500 * 2**20; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    )
    held = float(subprocess.run([sys.executable, "-c", large], check=True, capture_output=True, text=True).stdout)
    assert 50 < held < 1400


@contextmanager
def interrupted(log: Path) -> Iterator[None]:
    """Sends Ctrl-C once the run's log has its first steps; never afterwards, or if they take a minute."""
    over, deadline = threading.Event(), time.monotonic() + 60

    def interrupt() -> None:
        while not over.wait(0.02) and time.monotonic() < deadline:
            if log.exists() and log.read_text().count("\n") > 1:
                os.kill(os.getpid(), signal.SIGINT)
                return

    # Tests run in the background of a shell have inherited that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def interrupted_state(out: Path) -> tuple[str, bool, bool]:
    """The run's log, whether it has a loadable checkpoint, and whether there is a result."""
    run = out / "runs" / "nice"
    log = (run / "metrics.jsonl").read_text()
    return log, (run / "latest" / "config.json").is_file(), result_file(out, "nice").exists()


def test_an_interrupted_family_saves_a_checkpoint_and_resumes(tmp_path):
    out = begun(tmp_path / "out", replace(ASK, budget="3s"))
    with interrupted(out / "runs" / "nice" / "metrics.jsonl"):
        family.run(out, "nice")
    log, has_checkpoint, has_result = interrupted_state(out)
    assert json.loads(log.splitlines()[-1])["seconds"] < 3
    assert has_checkpoint and not has_result
    result = family.run(out, "nice")
    assert interrupted_state(out)[0].startswith(log)
    assert result["error"] is None and 3 <= result["training"]["seconds"] < 6


@pytest.mark.slow
def test_ctrl_c_waits_for_the_running_familys_checkpoint(tmp_path):
    ask = replace(ASK, budget="3s", out=str(tmp_path / "out"), families=("nice",))
    out = begun(tmp_path / "out", ask)
    with interrupted(out / "runs" / "nice" / "metrics.jsonl"):
        compare(ask)
    log, has_checkpoint, has_result = interrupted_state(out)
    assert json.loads(log.splitlines()[-1])["seconds"] < 3
    assert has_checkpoint and not has_result
    assert "nice" in compare(ask).read_text()
    assert interrupted_state(out)[0].startswith(log)
    result = json.loads(result_file(out, "nice").read_text())
    assert result["error"] is None and 3 <= result["training"]["seconds"] < 6


@pytest.mark.slow
def test_a_family_whose_process_dies_has_a_row_and_others_are_unaffected(tmp_path):
    out = tmp_path / "out"
    ask = replace(ASK, out=str(out), families=("nice", "glow", "pixelcnn"))
    begun(out)
    (out / "runs").mkdir()
    (out / "runs" / "glow").write_text("a file in the way")
    compare(ask)
    lines = {line["family"]: line for line in csv.DictReader((out / "compare.csv").open())}
    assert list(lines) == [REAL, "pixelcnn", "nice", "glow"]
    assert lines["glow"]["error"] and not lines["nice"]["error"] and not lines["pixelcnn"]["error"]
    assert float(lines["nice"]["peak_memory_mb"]) > 100
    assert "Traceback" in (out / "families" / "glow.log").read_text()
