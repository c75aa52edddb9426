"""The package as a whole: light to import, complete when installed, correctly declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import t2i


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


@pytest.mark.timed
def test_importing_t2i_is_light(tmp_path):
    """No torch, and well under 0.3 s (the best of three, as the first reads from disk)."""
    code = "import time; s = time.perf_counter(); import t2i; e = time.perf_counter(); import sys\n"
    code += "print(e - s, 'torch' in sys.modules, 'numpy' in sys.modules)"
    seconds = []
    for _ in range(3):
        took, *heavy = python(code, tmp_path).stdout.split()
        assert heavy == ["False", "False"]
        seconds.append(float(took))
    assert min(seconds) < 0.3


def test_every_public_name_can_be_imported():
    for name in t2i.__all__:
        assert getattr(t2i, name) is not None
    with pytest.raises(AttributeError, match="AutoPipelin"):
        _ = t2i.AutoPipelin


def test_the_package_is_found_outside_the_clone(tmp_path):
    """A clone is called t2i; from its parent folder, it must not shadow the installed package."""
    (tmp_path / "t2i").mkdir()
    code = "import t2i, t2i.eval, t2i.pipelines, t2i.training; print(t2i.__file__, t2i.eval.__file__)"
    files = python(code, tmp_path).stdout.split()
    assert files == [t2i.__file__, str(Path(t2i.__file__).parent / "eval" / "__init__.py")]
