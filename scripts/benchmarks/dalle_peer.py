"""dalle-pytorch as a peer: installed outside the environment, run in a separate process, one timing per request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

VERSION = "1.6.6"
# With --no-deps: its dependencies include a second torch, and packages that no longer build.
PACKAGES = (
    f"dalle-pytorch=={VERSION}",
    "axial-positional-embedding==0.3.12",
    "rotary-embedding-torch==0.9.1",
    "einops==0.8.2",
)
# Modules that it imports but this benchmark never calls: a tokenizer that does not build, the VQGAN and its
# configuration reader, and a removed part of setuptools.
STAND_INS = {
    "youtokentome.py": "",
    "taming/__init__.py": "",
    "taming/models/__init__.py": "",
    "taming/models/vqgan.py": "class VQModel: ...\n\n\nclass GumbelVQ: ...\n",
    "omegaconf.py": "class OmegaConf: ...\n",
    "pkg_resources.py": "def get_distribution(name): ...\n",
}
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "bench" / f"dalle-pytorch-{VERSION}"
WORKER = Path(__file__).with_name("dalle_worker.py")


class PeerError(Exception):
    """The peer is not available here; the message gives the reason in one line."""


class DallePytorch:
    """The worker process, as a context manager."""

    name = f"dalle-pytorch {VERSION}"

    def __init__(self, sizes: dict[str, int]):
        self._sizes = sizes

    def __enter__(self) -> DallePytorch:
        if not FOLDER.exists():
            install(FOLDER)
        self._stderr = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(WORKER), json.dumps(self._sizes)],
            env={**os.environ, "PYTHONPATH": str(FOLDER)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()  # the worker exits at end of input
        self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def seconds(self, setting: str) -> float:
        """Seconds of one run of "released", "mended" or "train" (see the worker); raises PeerError."""
        try:
            print(setting, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerError(self._why()) from None
        answer = self._process.stdout.readline()
        if not answer:
            raise PeerError(self._why())
        return json.loads(answer)["seconds"]

    def _why(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return lines[-1] if lines else f"its process ended with {code}"


def install(folder: Path, packages: Sequence[str] = PACKAGES, stand_ins: Mapping[str, str] = STAND_INS) -> None:
    """Install a peer into its own folder, atomically; raises PeerError."""
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(unfinished), *packages], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        raise PeerError(f"its installation failed: {errors[-1] if errors else done.returncode}")
    for name, source in stand_ins.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    unfinished.rename(folder)
