"""scripts/bench.py: rows as documented, and unknown names reported in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench.py"


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True)


def test_sampling_writes_one_row_a_peer(tmp_path):
    # One thread: two that wait for each other while another job uses the cores can take minutes.
    sizes = {"layers": 2, "width": 32, "heads": 2, "batch": 2, "text": 4, "tokens": 16, "codebook": 32, "top-k": 8}
    options = {"out": tmp_path, "repeats": 3, "threads": 1, **sizes}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = bench("sampling", *flags, "--int8", "--peers", "transformers", "t2i-without-cache", "floor")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["peer"].split()[0] for row in rows] == ["transformers", "t2i", "floor"]
    for row in rows:
        assert list(row) == ["work", "ours_s", "peer", "peer_s", "ratio"]
        assert row["ours_s"] > 0
        assert row["peer_s"] > 0
        assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"])
        assert row["peer"] in done.stdout
    assert "torch" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]

    frechet = ["--samples", "20", "60", "--dimensions", "30", "--repeats", "1", "--threads", "1"]
    done = bench("frechet", *frechet, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    joined = json.loads((tmp_path / "bench.json").read_text())
    assert joined[:3] == rows
    assert [row["work"].split(",")[1].split()[0] for row in joined[3:]] == ["20", "20", "60", "60"]
    for row in joined[3:]:  # a process with torch takes more, and each is a separate process
        assert 100 < row["ours_mb"] < 4000 and 100 < row["peer_mb"] < 4000


@pytest.mark.slow
def test_features_of_a_folder_are_clean_fids(tmp_path):
    pytest.importorskip("cleanfid", reason="clean-fid is not installed")
    sizes = ["--num", "8", "--size", "32", "--batch-size", "3", "--repeats", "1", "--threads", "1", "--workers", "1"]
    done = bench("features", *sizes, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["work"] for row in rows] == [f"features, 8 images, resize {resize}" for resize in ("none", "clean")]
    assert {row["peer"] for row in rows} == {"clean-fid"}


@pytest.mark.slow
def test_pixelcnns_sample_the_same_with_and_without_cache(tmp_path):
    sizes = ["--image-size", "4", "--batch", "2", "--threads", "1"]
    done = bench("pixels", *sizes, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["work"].split()[-1] for row in rows] == ["pixelcnn", "gated-pixelcnn", "pixelcnn-pp"]


def test_glow_is_compared_with_normflows(tmp_path):
    pytest.importorskip("normflows", reason="normflows is not installed")
    sizes = ["--image-size", "8", "--batch", "2", "--steps", "2", "--width", "8", "--repeats", "1", "--threads", "1"]
    done = bench("flows", *sizes, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["work"].split(": ")[1] for row in rows] == ["training step", "samples"]
    ours, theirs = (int(line.split()[1].replace(",", "")) for line in done.stdout.splitlines()[:2])
    assert ours == pytest.approx(theirs, rel=0.25)


def test_image_folders_are_compared_with_torchvision(tmp_path):
    sizes = ["--num", "8", "--image-size", "16", "--sizes", "16", "8", "--files", "50", "--repeats", "1"]
    done = bench("data", *sizes, "--threads", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("50 files: opened in ")
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["work"].split(" to ")[1] for row in rows] == [
        f"{s} px, {k}" for s in (16, 8) for k in ("from shards", "bilinear", "lanczos")
    ]


@pytest.mark.slow
def test_the_training_loop_is_compared_with_bare_loops(tmp_path):
    done = bench("loop", "--steps", "6", "--repeats", "1", "--threads", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["peer"] for row in rows] == ["bare loop with clipping and EMA", "bare loop"]
    assert all(0.5 < row["ratio"] < 2 and row["ours_s"] > 0 for row in rows)


def test_unknown_benchmark_is_one_line_naming_the_nearest():
    done = bench("samplign")
    assert done.returncode != 0
    assert done.stdout == ""
    said, *known = done.stderr.split(" there are ")
    assert said == "error: unknown benchmark 'samplign': did you mean sampling?"
    assert known == [
        "sampling, prior, lookup, frechet, features, latent, pixels, flows, threads, generation, training, data, loop\n"
    ]
