"""Reports for people and programs, and comparison of two reports."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image

from t2i.eval.report import Curve, Gallery, Report, Score, Table, write
from t2i.eval.report.charts import ticks
from t2i.eval.report.diff import diff, table
from t2i.eval.report.html import page
from t2i.files import read_json

EVIL = """</script><script>document.title = "caught"</script><img src=x onerror="document.title='caught'"> "'&<b>"""
EXTRACTOR = {"name": "random", "preprocess_id": "antialias-64", "weights_sha256": "ab" * 32}


def image_of(seed: int = 0, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def score(name: str = "FD[random]", value: float = 30.0, half: float = 2.0, **more) -> Score:
    more = {"n": 100, "better": "lower", "details": {"extractor": EXTRACTOR, "reference": {"sha256": "cd" * 32}}} | more
    return Score(name, value, value - half, value + half, **more)


def report(**more) -> Report:
    share = Score("seen", 0.75, 0.71, 0.79, 500, "higher", ceiling=0.99, skipped=3, share=True)
    line = {"a": [(1, 0.5, 0.4, 0.6), (4, 0.7, None, None), (2, 0.6, 0.5, 0.7)], "b": [(1, 0.2, None, None)]}
    parts = {
        "settings": {"seeds": [0, 1], "guidance": 3.0, "steps": None, "versions": {"t2i": "0.1.0"}},
        "scores": [share, score(), score("KID[random]", 0.01, 0.001), Score("bits/dim", 3.1, None, None, 10)],
        "curves": [Curve("against guidance", "guidance", "share", line)],
        "galleries": [Gallery("failures", [(image_of(0), "a cat"), (image_of(1, 300), "a large dog")])],
        "notes": ["all on one machine"],
        "tables": [Table("by class", ["class", "n", "loss"], [["cat", 3, 0.5], ["dog", 10, None]])],
    }
    return Report("a report", **(parts | more))


def evil() -> Report:
    """EVIL in every field that takes text."""
    return Report(
        EVIL,
        settings={EVIL: EVIL, "nested": {EVIL: [EVIL]}},
        scores=[Score(EVIL, 1.0, 0.0, 2.0, 1, details={EVIL: EVIL})],
        curves=[Curve(EVIL, EVIL, EVIL, {EVIL: [(0, 1, None, None), (1, 2, None, None)]}), Curve(EVIL, EVIL, EVIL, {})],
        galleries=[Gallery(EVIL, [(image_of(), EVIL)])],
        notes=[EVIL],
        tables=[Table(EVIL, [EVIL], [[EVIL]])],
    )


# --- numbers --------------------------------------------------------------------------------------------------------


def test_a_written_report_loads_unchanged(tmp_path):
    first = report()
    write(first, tmp_path / "a")
    again = Report.load(tmp_path / "a" / "report.json")
    parts = [(r.scores, r.curves, r.settings, r.tables, r.notes) for r in (first, again)]
    assert parts[0] == parts[1]
    for (image, caption), (before, same) in zip(again.galleries[0].images, first.galleries[0].images, strict=True):
        assert caption == same
        assert np.array_equal(np.array(image), np.array(before))
    data = json.loads((tmp_path / "a" / "report.json").read_text())
    data["galleries"][0]["pictures"] = data["galleries"][0].pop("images")  # as older reports call them
    (tmp_path / "a" / "older.json").write_text(json.dumps(data))
    assert [caption for _, caption in Report.load(tmp_path / "a" / "older.json").galleries[0].images] == [
        "a cat",
        "a large dog",
    ]
    (tmp_path / "a" / "older.json").unlink()
    write(again, tmp_path / "b")
    files = {str(p.relative_to(tmp_path / "a")): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert files == {
        str(p.relative_to(tmp_path / "b")): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()
    }
    assert len(files) == 4  # no file of another name is left


def test_numpy_numbers_become_plain_and_images_are_files(tmp_path):
    numbers = {"f": np.float32(0.5), "i": np.int64(3), "t": (1, 2), "flag": True}
    write(report(settings=numbers, scores=[score(value=np.float64(3.0), n=np.int32(5))]), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert data["settings"] == {"f": 0.5, "i": 3, "t": [1, 2], "flag": True}
    assert data["scores"][0]["n"] == 5
    assert "base64" not in json.dumps(data)
    for shown in data["galleries"][0]["images"]:
        assert (tmp_path / shown["file"]).is_file()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_raise(tmp_path, bad: float):
    for make in (
        lambda: Score("x", bad, 0.0, 1.0, 1),
        lambda: Score("x", 0.0, bad, 1.0, 1),
        lambda: Score("x", 0.0, 0.0, 1.0, 1, ceiling=bad),
        lambda: Curve("x", "", "", {"a": [(0, bad, None, None)]}),
        lambda: write(Report("x", settings={"deep": [{"er": bad}]}), tmp_path),
        lambda: write(Report("x", scores=[Score("x", 0.0, 0.0, 1.0, 1, details={"d": bad})]), tmp_path),
    ):
        with pytest.raises(ValueError, match="finite"):
            make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Score("x", 1.0, 2.0, 1.0, 1), "low ≤ high"),
        (lambda: Score("x", 1.0, None, 1.0, 1), "low ≤ high"),
        (lambda: Score("x", 1.5, 1.0, 2.0, 1, share=True), "share"),
        (lambda: Score("x", 1.0, 1.0, 1.0, -1), "counts"),
        (lambda: Score("x", 1.0, 1.0, 1.0, 1, "up"), "'lower', 'higher' or None"),
        (lambda: Curve("x", "", "", {"a": [(0, 1, 2, 3)]}, log_x=True), "logarithmic"),
        (lambda: Curve("x", "", "", {"a": [(0, 1)]}), "points"),
        (lambda: Report("x", scores=[score(), score()]), "two scores"),
        (lambda: Table("x", ["a", "b"], [[1]]), "2 columns, but a row of 1"),
    ],
)
def test_inconsistent_values_raise(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_files_that_are_not_reports_raise(tmp_path):
    file = tmp_path / "report.json"
    with pytest.raises(FileNotFoundError, match="no file"):
        Report.load(file)
    for text, message in (
        ("{", "not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "not a report"),
        ("nan", "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            Report.load(file)
    write(report(), tmp_path)
    next((tmp_path / "gallery").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="copy it there"):
        Report.load(file)
    file.write_text(json.dumps({"format": "t2i-report/1", "title": "x"}))
    with pytest.raises(ValueError, match="an incomplete report"):
        Report.load(file)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.13, 0.79), (-3, 40_000), (1e-6, 3e-6), (99.9, 100.2)])
def test_ticks_are_few_round_and_enclose_the_data(low: float, high: float):
    found = ticks(low, high)
    assert found[0] <= low < high <= found[-1] and 3 <= len(found) <= 7
    assert np.allclose(np.diff(found), found[1] - found[0])


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_external():
    text = page(report())
    assert not re.search(r"(src|href)=(?!\"(data:|#))|url\(|@import|https?:", text)
    assert text.count("data:image/png;base64,") == 1 and text.count("data:image/jpeg;base64,") == 1
    assert page(report()) == text


def test_every_text_is_escaped():
    text = page(evil())
    assert text.count("<script") == 1 and text.count("<img") == 1 and "<b>" not in text
    assert text.count("&lt;script&gt;") >= 15


def test_transparent_pixels_become_white_and_metadata_is_dropped(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    clear.info["comment"] = "secret"
    write(report(galleries=[Gallery("g", [(clear, "")])]), tmp_path)
    [file] = (tmp_path / "gallery").iterdir()
    with Image.open(file) as image:
        assert image.getpixel((0, 0)) == (255, 255, 255) and image.info == {}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def test_the_page_works_in_a_browser(browser, tmp_path):
    """Images load, tables sort by mouse and keyboard, nothing is wider than a phone, the console has no errors."""
    values = [Score(n, v, None, None, 1) for n, v in (("b", 10.0), ("a", 9.5), ("d", -1.0), ("c", 100.0))]
    values.append(Score("e", 1.0, 0.5, 1.5, 1, ceiling=2.0, skipped=1, details={"extractor": {"sha": "f" * 64}}))
    write(report(scores=values), tmp_path)
    browser.open(tmp_path / "report.html")
    assert (
        browser.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0) && document.images.length")
        == 2
    )
    names = "[...document.querySelectorAll('.scores td.name .what')].map((c) => c.textContent).join('')"
    header = "document.querySelectorAll('.scores th')[{}].querySelector('button')"
    assert browser.run(names) == "badce"
    browser.run(header.format(0) + ".click()")
    assert browser.run(names) == "abcde"
    browser.run(header.format(1) + ".focus()")  # Value
    browser.press("Enter")
    assert browser.run(names) == "deabc"  # as numbers: −1, 1, 9.5, 10, 100
    browser.press(" ")
    assert browser.run(names) == "cbaed"
    assert browser.run("document.querySelector('th[aria-sort=descending]').textContent") == "Value"
    for _ in range(2):  # a score without an interval stays last
        browser.run(header.format(2) + ".click()")
        assert browser.run(names)[0] == "e"
    browser.screenshot(tmp_path / "phone.png", 390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.errors == []


def test_a_prompt_cannot_run_as_code(browser, tmp_path):
    write(evil(), tmp_path)
    browser.open(tmp_path / "report.html")
    assert browser.run("document.title") == EVIL and browser.run("document.scripts.length") == 1
    assert browser.run("document.querySelector('figcaption').textContent") == EVIL
    assert browser.errors == []


# --- two reports ----------------------------------------------------------------------------------------------------


def written(tmp_path, scores: list[Score], **settings) -> dict:
    write(Report("r", settings=settings, scores=scores), tmp_path)
    return read_json(tmp_path / "report.json")


def test_a_report_is_equal_to_itself(tmp_path):
    data = written(tmp_path, [score(), score("KID[random]", 0.01, 0.001)], seed=0)
    assert [(c.verdict, c.difference) for c in diff(data, data)] == [("within", 0.0)] * 2


@pytest.mark.parametrize(("value", "verdict"), [(33.9, "within"), (34.1, "outside"), (25.9, "outside")])
def test_outside_means_disjoint_intervals(tmp_path, value: float, verdict: str):
    a, b = written(tmp_path, [score()]), written(tmp_path, [score(value=value)])
    [change], [back] = diff(a, b), diff(b, a)
    assert change.verdict == back.verdict == verdict
    assert change.difference == -back.difference == pytest.approx(value - 30)
    assert ("better" in table([change])) == (value == 25.9) and ("worse" in table([change])) == (value == 34.1)


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"extractor": EXTRACTOR | {"weights_sha256": "00" * 32}}, "extractor.weights_sha256"),
        ({"extractor": EXTRACTOR, "reference": {"sha256": "00" * 32}}, "reference.sha256"),
        ({"extractor": EXTRACTOR, "variant": "hessel"}, "variant was – and is hessel"),
        ({}, "extractor.name was random and is –"),
    ],
)
def test_scores_with_different_deciding_details_are_not_compared(tmp_path, details: dict, reason: str):
    base = score(details={"extractor": EXTRACTOR})
    other = replace(base, details=details)
    if "reference" in details:
        base = replace(base, details=details | {"reference": {"sha256": "11" * 32}})
    [change] = diff(written(tmp_path, [base]), written(tmp_path, [other]))
    assert change.verdict == "not comparable" and change.difference is None and reason in change.reason
    assert f"not comparable: {change.reason}" in table([change])
    annotated = replace(
        base, details=base.details | {"batch_size": 4, "crop.resize": None}
    )  # a detail that changes no number
    assert diff(written(tmp_path, [base]), written(tmp_path, [annotated]))[0].verdict == "within"


def test_changed_settings_counts_and_unmatched_scores_are_listed(tmp_path):
    old = written(tmp_path, [score(), score("only here")], seed=0, versions={"torch": "2.6", "t2i": "1"})
    new = written(tmp_path, [score(skipped=2), score("only there")], seed=1, versions={"torch": "2.7", "t2i": "1"})
    changes = diff(old, new)
    assert [(c.name, c.verdict) for c in changes[:3]] == [
        ("FD[random]", "within"),
        ("only here", "only old"),
        ("only there", "only new"),
    ]
    changed = {c.name: (c.old, c.new) for c in changes[3:]}
    assert changed == {"seed": ("0", "1"), "versions.torch": ("2.6", "2.7"), "FD[random].skipped": ("0", "2")}
    assert len(table(changes).splitlines()) == 1 + 3 + 1 + 1 + 3


def test_data_that_is_not_a_report_raises():
    for data in ({}, {"seen": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}}):
        with pytest.raises(ValueError, match="not a report"):
            diff(data, data)
