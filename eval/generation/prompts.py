"""Prompts from a suite or a file, with the scene to generate if it is known.

The suites of toybox are in `suites.py`, those of toybox-v1 here: `toybox-v1` (every category of CATEGORIES;
`toybox-v1/counting` is one of them), `basic` (the four categories of BASIC) and `lecture-v1` (prompts as shown in
lectures on text-to-image systems, with a scene where toybox-v1 has one). The categories of `toybox-v1` are those of
GenEval (Ghosh et al. 2023, arXiv 2310.11513), and three that are added: textures, paraphrases, and pairs held out of
the training data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from t2i.checks import UsageError, check_choice, check_seeds, check_whole
from t2i.data import toybox
from t2i.data.folder import ImageFolder, captions_of
from t2i.data.tables import OTHER_TABLES, TABLES, read_lines, read_table, text_of
from t2i.data.toybox.prompts import judged_facts
from t2i.data.toybox_v1 import ATTRIBUTES, COLOURS, HELD_OUT, TEXTURES, Scene, Thing
from t2i.data.toybox_v1.captions import OPENINGS, RELATION_PHRASES, name
from t2i.eval.generation.manifest import find_manifest
from t2i.eval.generation.prompt import Prompt, entropy
from t2i.eval.generation.suites import SUITES, suite_prompts
from t2i.files import slug

WORDINGS = 3  # phrasings of each scene of the category "paraphrase"


@dataclass(frozen=True)
class Category:
    """Scenes of one split and one family, whose first thing has one of `attributes`."""

    split: str
    family: str
    attributes: tuple[str, ...] = ATTRIBUTES


CATEGORIES = {
    "colour": Category("train", "single", tuple(COLOURS)),
    "texture": Category("train", "single", TEXTURES),
    "counting": Category("train", "count"),
    "position": Category("train", "relation"),
    "two objects": Category("train", "relation"),
    "attribute binding": Category("train", "relation"),
    "paraphrase": Category("train", "single"),
    "held-out combination": Category("zero_shot", "single"),
    "held-out combination of two": Category("zero_shot", "relation"),
}

BASIC = {  # category: (split, family) of the scenes
    "seen": ("train", "single"),
    "zero_shot": ("zero_shot", "single"),
    "relation": ("train", "relation"),
    "count": ("train", "count"),
}

_CAT_ON_CAR = Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of")
_CAR_ON_CAT = Scene((Thing("car", "blue"), Thing("cat", "red")), "on top of")
_APPLE_AND_BACKPACK = Scene((Thing("apple", "black"), Thing("backpack", "green")), "left of")
_AVOCADO_ARMCHAIR = Scene((Thing("armchair", "avocado"),))

# (prompt, category, scene). Toybox v1 has no riding, writing or styles, so these have no scene.
LECTURE: tuple[tuple[str, str, Scene | None], ...] = (
    ("an avocado armchair", "held-out combination", _AVOCADO_ARMCHAIR),
    ("an armchair in the shape of an avocado", "held-out combination", _AVOCADO_ARMCHAIR),
    ("an armchair that looks like an avocado", "held-out combination", _AVOCADO_ARMCHAIR),
    ("a zebra teapot", "texture", Scene((Thing("teapot", "zebra"),))),
    ("a black apple and a green backpack", "attribute binding", _APPLE_AND_BACKPACK),
    ("a red cat on top of a blue car", "relation", _CAT_ON_CAR),
    ("a blue car on top of a red cat", "relation", _CAR_ON_CAT),
    ("three green apples", "counting", Scene((Thing("apple", "green", 3),))),
    ("four red cars", "counting", Scene((Thing("car", "red", 4),))),
    ("an astronaut riding a horse", "open", None),
    ("a horse riding an astronaut", "open", None),
    ("a shop front with the word hello on it", "open", None),
    ("an oil painting of a robot reading a newspaper", "open", None),
)

SUITES_V1: dict[str, tuple[str, ...]] = {"toybox-v1": tuple(CATEGORIES), "basic": tuple(BASIC)}  # with their categories
SUITES_V1 |= {f"toybox-v1/{slug(category)}": (category,) for category in CATEGORIES}


def open_prompts(name_or_file: str | Path, num: int | None = None, seed: int = 0) -> list[Prompt]:
    """The prompts of a suite ("toybox", "ladder/3", "toybox-v1", …), of a file, or the captions of a folder.

    A file has one prompt per line. If its name ends in .jsonl, .csv or .parquet, each row has a "prompt" or a "text",
    and optionally a "category" and a "key", so that the metadata of an image folder works. Empty lines are skipped.

    Args:
        num: suites: prompts per category, at least 1 (see `toybox_prompts`); others: maximum number of prompts,
            of which the first are taken, None for all.
        seed: of toybox's scenes, non-negative.

    Raises FileNotFoundError or ValueError, with the remedy, for a name that is neither, for a file without prompts, and
    for numbers out of range.
    """
    name = str(name_or_file)
    check_seeds("seed", seed)
    if num is not None:
        check_whole("num", num)
    if name in (*SUITES_V1, *SUITES) and num is None:
        raise ValueError(f"the suite {name!r} is infinite: give num, the number of prompts per category")
    if name in SUITES:
        return suite_prompts(name, num, seed)
    if name in SUITES_V1:
        make = basic_prompts if name == "basic" else toybox_prompts
        return [prompt for category in SUITES_V1[name] for prompt in make(category, num, seed)]
    if name == "lecture-v1":
        rows = enumerate(LECTURE[:num])
        return [Prompt(text, category, scene, f"lecture/{i:04}") for i, (text, category, scene) in rows]
    if Path(name).is_file():
        return _from_file(Path(name))[:num]
    if Path(name).is_dir():
        return _from_folder(Path(name))[:num]
    if Path(name).suffix or (
        Path(name).parent != Path() and name.split("/")[0] not in ("toybox", "toybox-v1", "ladder")
    ):
        raise FileNotFoundError(f"there is no file of prompts {name!r}; give one with a prompt per line, or a suite")
    check_choice("prompt suite", name, [*SUITES, *SUITES_V1, "lecture-v1"])
    raise AssertionError("check_choice lets only known names pass")


def toybox_prompts(category: str, num: int, seed: int) -> list[Prompt]:
    """`num` prompts of a category; prompt i depends on (seed, category, i) only.

    "paraphrase" has num // WORDINGS scenes (at least one), each in WORDINGS consecutive wordings, the canonical one
    first. "held-out combination" cycles through the held-out pairs evenly.
    """
    check_choice("category", category, CATEGORIES)
    keys = [f"{slug(category)}/{i:04}" for i in range(num)]
    if category != "paraphrase":
        scenes = [_scene(category, i, seed) for i in range(num)]
        return [Prompt(s.caption(), category, s, key) for s, key in zip(scenes, keys, strict=True)]
    prompts = []
    for i, key in enumerate(keys[: max(1, num // WORDINGS)]):
        scene = _scene(category, i, seed)
        texts = wordings(scene, WORDINGS, np.random.default_rng(entropy(seed, f"wordings of {key}")))
        prompts += [Prompt(text, category, scene, f"{key}/{k}") for k, text in enumerate(texts)]
    return prompts


def prompts_of_files(folder: Path, files: Sequence[Path]) -> list[Prompt]:
    """A prompt for each image of a folder, from its manifest.json or the folder's captions (see `t2i.data.folder`).

    Raises UsageError if an image has none.
    """
    if (manifest := find_manifest(folder)) is not None:
        texts = {entry["file"]: entry["prompt"] for entry in manifest["images"]}
    else:
        texts = captions_of(folder)
    if not texts:
        raise UsageError(f"the images of {folder} have no captions: add metadata.jsonl with file_name and text")
    names = [path.relative_to(folder).as_posix() for path in files]
    if missing := [name for name in names if name not in texts]:
        raise UsageError(f"{folder} has no prompt for {missing[0]}; add it to its metadata.jsonl")
    return [_of_caption(texts[name], path.stem) for name, path in zip(names, files, strict=True)]


def _of_caption(text: str, key: str) -> Prompt:
    """The prompt of an image, with its scene and facts if toybox understands all of the caption."""
    try:
        scene = toybox.Scene.from_caption(text)
    except ValueError:
        return Prompt(text, "captions", None, key)
    position = np.random.default_rng(entropy(0, key)).random()  # images of one caption are different scenes
    scene = replace(scene, jitter_seed=int(position * 2**31))
    return Prompt(text, "captions", scene, key, judged=judged_facts(scene))


def basic_prompts(category: str, num: int, seed: int) -> list[Prompt]:
    """`num` prompts of a category of BASIC; prompt i and its noise depend on (seed, category, i) only.

    "zero_shot" repeats the held-out pairs evenly.
    """
    split, family = BASIC[category]
    place, prompts = list(BASIC).index(category), []
    for i in range(num):
        # The last number is not 0, so that no scene has the seed of a Toybox scene that pipelines are trained on.
        scene = Scene.sample(np.random.default_rng((seed, place, i, 1)), split, family)
        if category == "zero_shot":
            scene = replace(scene, things=(held_out_thing(i),))
        prompts.append(Prompt(scene.caption(), category, scene, f"{slug(category)}/{i:04}", noise=(place, i, 2)))
    return prompts


def wordings(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different captions (at most 10) that all state every fact of the scene, the canonical one first."""
    if not 1 <= count <= (most := 2 * (len(OPENINGS) + 1)):  # as many as every scene has
        raise ValueError(f"the number of wordings must be from 1 to {most}, not {count}")
    texts = [scene.caption()]
    while len(texts) < count:
        if (text := _wording(scene, rng)) not in texts:
            texts.append(text)
    return texts


def held_out_thing(i: int) -> Thing:
    """Held-out thing i, cycling through those held out of the training data."""
    pairs = sorted(HELD_OUT)  # the iteration order of a set of strings differs between processes
    attribute, kind = pairs[i % len(pairs)]
    return Thing(kind, attribute)


def _scene(category: str, i: int, seed: int) -> Scene:
    wanted = CATEGORIES[category]
    rng = np.random.default_rng(entropy(seed, f"scene of {slug(category)}/{i:04}"))
    scene = Scene.sample(rng, wanted.split, wanted.family)
    while scene.things[0].attribute not in wanted.attributes:
        scene = Scene.sample(rng, wanted.split, wanted.family)
    return replace(scene, things=(held_out_thing(i),)) if category == "held-out combination" else scene


def _wording(scene: Scene, rng: np.random.Generator) -> str:
    """A random caption that, unlike `Scene.caption(rng)`, never omits an attribute or a relation."""
    text = name(scene.things[0], rng)
    if scene.relation is not None:
        text = f"{text} {_one_of(RELATION_PHRASES[scene.relation], rng)} {name(scene.things[1], rng)}"
    opening = _one_of(("", *OPENINGS), rng)
    return f"{opening} {text}".strip()


def _one_of(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]


def _from_file(path: Path) -> list[Prompt]:
    stem = slug(path.stem) or "prompts"
    if path.suffix.lower() in OTHER_TABLES:
        raise ValueError(
            f"{path} is not a format of prompts: save a .txt with one per line, or a table as .csv or .jsonl"
        )
    if path.suffix.lower() in TABLES:
        prompts = _from_table(path, stem)
    else:
        prompts = [Prompt(line, stem, None, f"{stem}/{i:04}") for i, line in read_lines(path)]
    if not prompts:
        raise ValueError(f"{path} has no prompts; write one per line")
    key, times = Counter(prompt.key for prompt in prompts).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path} has the key {key!r} {times} times; keys must be unique")
    return prompts


def _from_folder(folder: Path) -> list[Prompt]:
    """The captions of a folder's images, in the order of its table or of the images' names."""
    source, stem = ImageFolder(folder, size=1), slug(folder.resolve().name) or "prompts"
    texts = [(i, text) for i, text in enumerate(source.texts, 1) if text.strip()]
    if not texts:
        raise ValueError(f"{folder} has no captions to use as prompts; add them to its metadata.jsonl")
    return [Prompt(text, stem, None, f"{stem}/{i:04}") for i, text in texts]


def _from_table(path: Path, stem: str) -> list[Prompt]:
    prompts, column = [], ""
    for i, (where, row) in enumerate(read_table(path), 1):
        column = column or ("prompt" if "prompt" in row else "text")  # the same in all rows
        if column not in row:
            raise ValueError(f'{where} has no "prompt" and no "text", only: {", ".join(map(str, row)) or "none"}')
        if not (text := text_of(row, column, where)).strip():
            raise ValueError(f"{where}: {column!r} is empty; write a prompt, or remove the line")
        key, category = row.get("key") or f"{stem}/{i:04}", row.get("category") or "file"
        prompts.append(Prompt(text, str(category), None, str(key)))
    return prompts
