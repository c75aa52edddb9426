"""The toybox classifier: a small network that predicts the facts of an image.

One query for each kind attends to the image and answers whether the kind is there, whole or as a half of a hybrid, and
its attribute, size and number; pairs of answers are classified as relations; a text-recognition head trained with CTC
reads the inscription where it is predicted to be.

Shapes: B batch · K kinds · C channels · S = 128 / 2 ** levels side of the feature map · P pairs · T text steps
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.data.image_file import square
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.description import MAX_COUNT, MAX_TEXT, MAX_THINGS, RELATIONS, SIZES
from t2i.data.toybox.facts import INVERSE, Fact, relation_fact
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.prediction import UPON, Prediction
from t2i.data.toybox.render import inscription_box
from t2i.data.toybox.styles import STYLES
from t2i.files import read_json
from t2i.folders import newest_in_run
from t2i.images import to_tensor
from t2i.manifest import verify
from t2i.nn.blocks import ResBlock
from t2i.weights import load_model

if TYPE_CHECKING:
    from PIL import Image

    from t2i.data.toybox.scene import Scene

EMBEDDED = "toybox/classifier"
REMEDY = "make one with: t2i train toybox-classifier, and give its folder (runs/toybox-classifier/latest)"

IMAGE_SIZE = 128
ROLES = ("absent", "whole", "base", "head")  # of a kind; base and head are the halves of hybrids
LOOKS = ("natural", *ATTRIBUTES)
EXTENTS = ("", *SIZES)
# The inverse relations are these, turned round; riding and sitting look like being on top.
RELATION_CLASSES = tuple(name for name in RELATIONS if name not in (*INVERSE, *UPON[1:]))
LETTERS = string.printable[:95]  # classes of the text head; 0 is CTC's blank, class i + 1 is LETTERS[i]
MAX_PAIRS = MAX_THINGS - 1
_BOARDS = tuple(name for name, kind in KINDS.items() if kind.board is not None)
CROP = (32, 128)  # height and width of the inscription, as the text head receives it


@dataclass(frozen=True)
class Targets:
    """The truth about a batch of images, as the classifier is trained on it.

    Attributes:
        role: (B, K) indices into ROLES.
        look, extent, count: (B, K) indices into LOOKS and EXTENTS, and number - 1; -1 for kinds that are no thing, and
            for the extent of one whose size its inscription determines.
        pairs: (B, MAX_PAIRS, 3) indices of two kinds and of the relation of the first to the second; -1: no pair.
        style, background: (B,) indices.
        board: (B, 4) box of the inscription in units of the image side; zeros if there is none.
        text: (B, MAX_TEXT) indices into LETTERS plus 1; 0 after the end.
        lines: (B,) number of lines of the inscription; 0 if there is none.
    """

    role: Tensor
    look: Tensor
    extent: Tensor
    count: Tensor
    pairs: Tensor
    style: Tensor
    background: Tensor
    board: Tensor
    text: Tensor
    lines: Tensor


@dataclass(frozen=True)
class Inscriptions:
    """Images with inscriptions, on which the text head is trained.

    Attributes:
        images: (N, 3, 128, 128) in [-1, 1].
        board, text, lines: as in `Targets`.
    """

    images: Tensor
    board: Tensor
    text: Tensor
    lines: Tensor


def targets(scene: Scene) -> dict[str, np.ndarray]:
    """The fields of `Targets` for one scene, without the batch axis."""
    kinds = list(KINDS)
    of = {name: np.full(len(kinds), -1) for name in ("look", "extent", "count")} | {"role": np.zeros(len(kinds), int)}
    extents = _extents({thing.size for thing in scene.things})
    for thing in scene.things:
        k = kinds.index(thing.kind)
        of["role"][k] = ROLES.index("whole" if thing.head is None else "base")
        of["look"][k] = LOOKS.index(thing.shown or "natural")
        of["count"][k] = thing.count - 1
        if thing.text is None:
            of["extent"][k] = EXTENTS.index(extents[thing.size])
        if thing.head is not None:
            of["role"][kinds.index(thing.head)] = ROLES.index("head")
    stated = [relation_fact(scene.things[r.subject].kind, r.name, scene.things[r.object].kind) for r in scene.relations]
    if not scene.relations and len(scene.things) == 2:  # in a row
        stated += [("relation", a.kind, "left of", b.kind) for a, b in pairwise(scene.things)]
    of["pairs"] = np.full((MAX_PAIRS, 3), -1)
    for i, (_, subject, name, thing) in enumerate(stated):
        place = RELATION_CLASSES.index("on top of" if name in UPON else name)
        of["pairs"][i] = kinds.index(subject), kinds.index(thing), place
    board, lines = inscription_box(scene)
    text = next((thing.text for thing in scene.things if thing.text is not None), "")
    of["text"] = np.array([LETTERS.index(c) + 1 for c in text] + [0] * (MAX_TEXT - len(text)))
    styles, backgrounds = list(STYLES), list(BACKGROUNDS)
    of |= {"style": np.array(styles.index(scene.style)), "lines": np.array(lines)}
    of["background"] = np.array(backgrounds.index(scene.background or "white"))
    return of | {"board": np.array(board, np.float32)}


def _extents(sizes: set[str | None]) -> dict[str | None, str]:
    """{stated size: what can be seen of it} of the things of a scene.

    Of several things it is only seen which are larger: a big cat by a car looks like a cat by a small car.
    """
    if sizes == {None, "big"}:
        return {None: "small", "big": "big"}
    if sizes == {None, "small"}:
        return {None: "big", "small": "small"}
    return {None: "", "big": "big", "small": "small"}


class FactClassifier(ModelMixin, ConfigMixin):
    """Queries for kinds, attending to a convolutional feature map; heads for their answers, for pairs, and for text.

    Args:
        channels: Channels of each level, fine to coarse; every level halves the resolution.
        blocks: Number of residual blocks at each level.
        heads: Number of attention heads.
        kinds, looks, styles: class names, in order; by default those of toybox.

    Raises ValueError for names other than toybox's (a classifier of another version), or levels that do not match.
    """

    image_size: ClassVar[int] = IMAGE_SIZE

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64, 128),
        blocks: tuple[int, ...] = (0, 1, 2),
        heads: int = 4,
        kinds: tuple[str, ...] = tuple(KINDS),
        looks: tuple[str, ...] = LOOKS,
        styles: tuple[str, ...] = tuple(STYLES),
    ):
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError("channels and blocks must have one number for each level")
        if (tuple(kinds), tuple(looks), tuple(styles)) != (tuple(KINDS), LOOKS, tuple(STYLES)):
            raise ValueError(
                "this classifier is of another version of toybox; train one with: t2i train toybox-classifier"
            )
        C, side, K = channels[-1], IMAGE_SIZE // 2 ** len(channels), len(kinds)
        layers: list[nn.Module] = []
        for before, width, n in zip((3, *channels), channels, blocks, strict=False):
            layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
            layers += [ResBlock(width) for _ in range(n)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, C), nn.SiLU())
        self.to_heat = nn.Conv2d(C, K * (len(ROLES) - 1), 1)  # where each kind is, by role
        self.position = nn.Parameter(torch.randn(side * side, C) * 0.02)
        nn.init.constant_(self.to_heat.bias, -8.0)  # few kinds are in an image
        self.queries = nn.Parameter(torch.randn(K, C) * C**-0.5)
        self.to_key, self.to_value = nn.Linear(C, C), nn.Linear(C, C)
        self.to_answer = nn.Sequential(nn.Linear(C + 5 * heads, C), nn.SiLU())
        self.kind_bias = nn.Parameter(torch.zeros(K, C))
        sizes = len(ROLES), len(looks), len(EXTENTS), MAX_COUNT
        self.to_thing = nn.Sequential(nn.Linear(C, 2 * C), nn.SiLU(), nn.Linear(2 * C, sum(sizes)))
        self.to_relation = nn.Sequential(nn.Linear(3 * C, 2 * C), nn.SiLU(), nn.Linear(2 * C, len(RELATION_CLASSES)))
        self.to_whole = nn.Sequential(nn.Linear(2 * C, C), nn.SiLU(), nn.Linear(C, len(styles) + len(BACKGROUNDS) + 3))
        self.to_kinds = nn.Linear(2 * C, K)
        self.to_board = nn.Conv2d(C, 4, 1)  # logits of where the left, top, right and bottom edges are
        self.reader = TextReader()
        self.register_buffer("grid", _grid(side), persistent=False)  # (S·S, 2)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU at these widths, never slower on a GPU

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, 128, 128) in [-1, 1] -> logits `role`, `look`, `extent`, `count` (B, K, …), `kind` (B, K), `style`,
        `background`, `lines` (B, …), the box `board` (B, 4), and the `answers` (B, K, C), from which relations are
        predicted.

        Raises ValueError for another shape.
        """
        answers, features, heat = self.answers(images)
        role, *thing = self.to_thing(answers).split((len(ROLES), len(LOOKS), len(EXTENTS), MAX_COUNT), dim=-1)
        role = role + F.pad(heat.amax(-1), (1, 0))  # of the places that look most like it
        flat = features.flatten(2)  # (B, C, S·S)
        pooled = torch.cat([flat.mean(-1), flat.amax(-1)], 1)  # (B, 2 C)
        whole = self.to_whole(pooled)
        style, background, lines = whole.split((len(STYLES), len(BACKGROUNDS), 3), dim=-1)
        edges = self.to_board(features).flatten(2).softmax(-1) @ self.grid  # (B, 4, 2)
        board = torch.stack([edges[:, 0, 0], edges[:, 1, 1], edges[:, 2, 0], edges[:, 3, 1]], 1)
        found = {"role": role, "kind": heat.flatten(2).amax(-1) + self.to_kinds(pooled)} | dict(
            zip(("look", "extent", "count"), thing, strict=True)
        )
        return found | {"style": style, "background": background, "lines": lines, "board": board, "answers": answers}

    def answers(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 128, 128) in [-1, 1] -> the answers to the queries (B, K, C), the feature map (B, C, S, S), and how
        much each place looks like each kind in each role but "absent" (B, K, 3, S·S).
        """
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(f"images must have the shape (B, 3, 128, 128), not {tuple(images.shape)}")
        features = self.trunk(images.to(self.dtype).contiguous(memory_format=torch.channels_last))  # (B, C, S, S)
        tokens = features.flatten(2).transpose(1, 2)  # (B, S·S, C)
        B, (K, C), H = len(images), self.queries.shape, self.config.heads
        key = self.to_key(tokens + self.position).view(B, -1, H, C // H)
        heat = self.to_heat(features).view(B, K, len(ROLES) - 1, -1)
        logits = torch.einsum("khc,blhc->bhkl", self.queries.view(K, H, -1), key) + heat.amax(2)[:, None]
        attention = logits.softmax(-1)  # (B, H, K, S·S)
        value = self.to_value(tokens).view(B, -1, H, C // H).transpose(1, 2)  # (B, H, S·S, C/H)
        seen = (attention @ value).transpose(1, 2).flatten(2)  # (B, K, C)
        centre = attention @ self.grid  # (B, H, K, 2)
        spread = (attention @ self.grid.square() - centre.square()).clamp(min=0)
        strength = logits.logsumexp(-1, keepdim=True) * 0.1
        where = torch.cat([centre, spread, strength], -1).transpose(1, 2).flatten(2)  # (B, K, 5·H)
        return self.to_answer(torch.cat([seen, where], -1)) + self.kind_bias, features, heat

    def relations(self, answers: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Logits of the relations of pairs of kinds, in both directions.

        Args:
            answers: (P, K, C), one row for each pair.
            first, second: (P,) indices of kinds.

        Returns:
            (P, 2 · relations): of the first to the second, then of the second to the first.
        """
        rows = torch.arange(len(first), device=first.device)
        a, b, whole = answers[rows, first], answers[rows, second], answers.mean(1)
        there, back = (self.to_relation(torch.cat([x, y, whole], -1)) for x, y in ((a, b), (b, a)))
        return torch.cat([there, back], -1)

    def loss(self, images: Tensor, truth: Targets, written: Inscriptions) -> dict[str, Tensor]:
        """The loss and accuracies.

        Args:
            images: (B, 3, 128, 128) in [-1, 1].
            truth: of the same batch.
            written: for the text head, which needs many more inscriptions than are among `images`.

        Returns:
            Scalars: `loss` to minimise, and the accuracies `role` (of kinds that are there), `look`, `count`,
            `relation`, `style` and `text` (whole inscriptions, read in the true box).
        """
        out, there = self(images), truth.role > 0
        losses = {"role": F.cross_entropy(out["role"].flatten(0, 1).float(), truth.role.flatten()) * 8}
        # Few kinds are present, so "absent" is learned first; what competes for the presence is learned much faster.
        losses["kind"] = -out["kind"].float().log_softmax(-1)[there].mean()
        for name in ("look", "extent", "count"):
            losses[name] = _masked_cross_entropy(out[name], getattr(truth, name))
        for name in ("style", "background", "lines"):
            losses[name] = F.cross_entropy(out[name].float(), getattr(truth, name))
        batch, slot = (truth.pairs[..., 0] >= 0).nonzero(as_tuple=True)
        first, second, relation = truth.pairs[batch, slot].unbind(-1)
        logits = self.relations(out["answers"][batch], first, second)
        losses["relation"] = F.cross_entropy(logits.float(), relation) if len(batch) else logits.sum()
        text, text_right = self._text_loss(written)
        losses["text"] = 0.3 * text
        shares = {
            "role": _share(out["role"].argmax(-1)[there] == truth.role[there]),
            "look": _share(out["look"].argmax(-1)[truth.look >= 0] == truth.look[truth.look >= 0]),
            "count": _share(out["count"].argmax(-1)[truth.count >= 0] == truth.count[truth.count >= 0]),
            "relation": _share(logits.argmax(-1) == relation),
            "style": _share(out["style"].argmax(-1) == truth.style),
            "text": text_right,
        }
        if (lettered := truth.lines > 0).any():
            losses["board"] = 10 * F.l1_loss(out["board"][lettered].float(), truth.board[lettered])
        return {"loss": sum(losses.values()), **shares}

    def _text_loss(self, written: Inscriptions) -> tuple[Tensor, Tensor]:
        """CTC's loss per character, and the share of inscriptions read without a mistake, in jittered true boxes."""
        box, text = written.board, written.text
        size = (box[:, 2:] - box[:, :2]).repeat(1, 2)
        box = box + 0.05 * size * (2 * torch.rand_like(box) - 1) if self.training else box
        logits = self.reader(crop(written.images, box))  # of one line and of two
        lengths, losses, right = (text > 0).sum(1), [], []
        for n in (1, 2):
            of = written.lines == n
            if of.any():
                x, y, length = logits[n - 1][of].float().log_softmax(-1), text[of], lengths[of]
                steps = torch.full((len(x),), x.shape[1], device=x.device)
                each = F.ctc_loss(x.transpose(0, 1), y, steps, length, reduction="none", zero_infinity=True)
                losses.append(each / length)
                right += [
                    torch.tensor(decoded == wanted) for decoded, wanted in zip(decode(x), _letters(y), strict=True)
                ]
        return torch.cat(losses).mean(), torch.stack(right).float().mean().to(text.device)

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """(B, 3, 128, 128) in [-1, 1] -> the prediction for each image."""
        images = images.to(self.device, self.dtype)
        out = self(images)
        found = [self._things({name: logits[i] for name, logits in out.items()}) for i in range(len(images))]
        self._add_relations(out["answers"], found)
        lines = out["lines"].argmax(-1)
        boards = [[kind for kind in _BOARDS if ("kind", kind) in stated] for stated in found]
        written = [i for i in range(len(images)) if lines[i] > 0 and boards[i]]
        if written:
            read = self.reader(crop(images[written], out["board"][written]))
            for row, i in enumerate(written):
                text = decode(read[lines[i] - 1][row, None].float())[0]
                found[i].add(("text", boards[i][0], text))
        return [Prediction(frozenset(stated)) for stated in found]

    def _things(self, out: dict[str, Tensor]) -> set[Fact]:
        """The facts about each thing of an image, and about the whole; at least one thing."""
        kinds, found = list(KINDS), set()
        roles, sure = out["role"].argmax(-1), out["role"].softmax(-1)
        surest = sure[:, 0].argsort()  # those that are least likely to be absent
        roles[surest[MAX_THINGS + 1 :]] = 0  # no image has more kinds
        if not (roles > 0).any():
            roles[surest[0]] = ROLES.index("whole")
        if not (roles == ROLES.index("base")).any():
            roles[roles == ROLES.index("head")] = ROLES.index("whole")  # a head without a base is a thing
        heads = [kinds[k] for k in (roles == ROLES.index("head")).nonzero().flatten().tolist()]
        for k in (roles > 0).nonzero().flatten().tolist():
            kind, role = kinds[k], ROLES[int(roles[k])]
            if role == "head":
                continue
            found.add(("kind", kind))
            if role == "base" and heads:
                found.add(("head", kind, heads[0]))
            found.add(("attribute", kind, LOOKS[int(out["look"][k].argmax())]))
            if extent := EXTENTS[int(out["extent"][k].argmax())]:
                found.add(("size", kind, extent))
            if count := int(out["count"][k].argmax()):
                found.add(("count", kind, count + 1))
        if style := int(out["style"].argmax()):
            found.add(("style", list(STYLES)[style]))
        found.add(("background", list(BACKGROUNDS)[int(out["background"].argmax())]))
        return found

    def _add_relations(self, answers: Tensor, found: Sequence[set[Fact]]) -> None:
        """Add the relation of each two things of an image to its facts."""
        kinds = list(KINDS)
        pairs = [
            (i, a, b)
            for i, stated in enumerate(found)
            for a, b in combinations(sorted(fact[1] for fact in stated if fact[0] == "kind"), 2)
        ]
        if not pairs:
            return
        rows = torch.tensor([i for i, _, _ in pairs], device=answers.device)
        first, second = (torch.tensor([kinds.index(p[n]) for p in pairs], device=answers.device) for n in (1, 2))
        best = self.relations(answers[rows], first, second).argmax(-1).tolist()
        for (i, a, b), relation in zip(pairs, best, strict=True):
            turned, name = divmod(relation, len(RELATION_CLASSES))
            found[i].add(relation_fact(*((b, RELATION_CLASSES[name], a) if turned else (a, RELATION_CLASSES[name], b))))


class TextReader(nn.Module):
    """Reads a crop of an inscription: columns of features, for one line over its whole height and for two lines."""

    def __init__(self, width: int = 48):
        super().__init__()
        height = CROP[0] // 8
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=(2, 1), padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=(2, 1), padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
        )
        self.one = nn.Conv1d(2 * width * height, 3 * width, 3, padding=1)
        self.two = nn.Conv1d(2 * width * height // 2, 3 * width, 3, padding=1)
        self.to_letter = nn.Linear(3 * width, len(LETTERS) + 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 32, 128) -> CTC's logits of a text on one line (B, T, classes), and on two (B, 2T, classes)."""
        x = self.trunk(crops)  # (B, W, 4, T)
        upper, lower = x.chunk(2, 2)
        one = self.one(x.flatten(1, 2))
        two = torch.cat([self.two(upper.flatten(1, 2)), self.two(lower.flatten(1, 2))], -1)
        return self.to_letter(F.silu(one).transpose(1, 2)), self.to_letter(F.silu(two).transpose(1, 2))


def crop(images: Tensor, box: Tensor) -> Tensor:
    """The boxes (B, 4) of images (B, 3, S, S), resampled to CROP."""
    (height, width), (x0, y0, x1, y1) = CROP, box.float().unsqueeze(-1).unbind(1)
    across = x0 + (x1 - x0) * (torch.arange(width, device=box.device) + 0.5) / width  # (B, width)
    down = y0 + (y1 - y0) * (torch.arange(height, device=box.device) + 0.5) / height
    at = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), -1) * 2 - 1  # (B, height, width, 2)
    return F.grid_sample(images, at.to(images.dtype), align_corners=False, padding_mode="border")


def decode(logits: Tensor) -> list[str]:
    """(B, T, classes) -> the best text of each row by CTC: repeats merged, blanks left out."""
    best = logits.argmax(-1)
    kept = (best > 0) & (F.pad(best, (1, 0))[:, :-1] != best)
    return ["".join(LETTERS[c - 1] for c in row[keep].tolist()) for row, keep in zip(best, kept, strict=True)]


def load_classifier(folder: str | Path | None = None) -> FactClassifier:
    """Load the classifier in `folder` (a model, or a run's newest checkpoint) in float32; by default the embedded one.

    Raises FileNotFoundError or ValueError with the command that trains one.
    """
    return open_classifier(FactClassifier, folder or EMBEDDED, REMEDY)


def open_classifier(cls: type[ModelMixin], folder: str | Path, remedy: str):
    """The classifier of a class in `folder`. Raises FileNotFoundError or ValueError with `remedy`."""
    folder = newest_in_run(folder, "config.json")
    verify(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"there is no toybox classifier in {folder}; {remedy}")
    if (name := read_json(config).get("_class_name")) != cls.__name__:
        raise ValueError(f"{folder} holds a {name}, not a {cls.__name__}; {remedy}")
    return load_model(cls, folder, dtype=torch.float32).requires_grad_(False).eval()


def predict(classifier: Any, images: Sequence[Image.Image], batch_size: int = 32) -> list:
    """The prediction for each image, of any size; the classifier sees its centre square at its own image size."""
    found = []
    for start in range(0, len(images), batch_size):
        pixels = np.stack([square(image, classifier.image_size) for image in images[start : start + batch_size]])
        found += classifier.predict(to_tensor(torch.from_numpy(pixels)))  # (B, 3, S, S)
    return found


def _letters(text: Tensor) -> list[str]:
    return ["".join(LETTERS[c - 1] for c in row.tolist() if c) for row in text]


def _share(right: Tensor) -> Tensor:
    return right.float().mean() if right.numel() else torch.ones((), device=right.device)


def _masked_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the entries whose truth is known."""
    return F.cross_entropy(logits[truth >= 0].float(), truth[truth >= 0])


def _grid(side: int) -> Tensor:
    """(side², 2) x and y of the centres of cells, in [0, 1]."""
    axis = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)
