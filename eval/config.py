"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from tyro.conf import Positional, arg

from t2i.arguments import Hidden
from t2i.checks import UsageError, check_choice, check_distinct, check_options, check_seeds, check_whole
from t2i.devices import Dtype, PipelineDtype
from t2i.eval.evaluators import EVALUATORS
from t2i.files import check_folder, slug
from t2i.pipelines.sampling_options import NUMERIC_OPTIONS, SamplingOptions


@dataclass(frozen=True)
class EvalConfig(SamplingOptions):
    """Options of `t2i eval`.

    Raises UsageError for values out of range, unknown metrics, and an output folder that cannot be written.
    """

    targets: Annotated[Positional[tuple[str, ...]], arg(metavar="TARGET")] = ()
    """What to evaluate: an embedded system, a folder of a pipeline or run, a model on the Hub, a folder of images, or a
    run of an unconditional model; several of the latter have their likelihoods compared image by image."""
    metrics: tuple[str, ...] = ()
    """Metrics to compute, as listed by `t2i eval`; default: all that the target and the prompts allow, but for
    two_sample, and for clip_score without --clip."""
    prompts: str = "toybox-v1"
    """Prompts to generate from: 'toybox' (all categories), 'toybox/CATEGORY', 'ladder' (prompts of 1 to 10 facts),
    'ladder/N', 'lecture', 'new-words'; 'toybox-v1', 'toybox-v1/CATEGORY', 'basic', 'lecture-v1'; a file with a prompt
    per line, a table (.jsonl, .csv, .parquet), or a folder of captioned images."""
    num_images: int | None = None
    """Maximum number of images to generate, spread evenly over a suite's categories; for a likelihood, number of test
    images. Default: 500, for an unconditional model 1000."""
    seed: int = 0
    """Seed for the prompts and the images."""
    reference: str | None = None
    """Real images to compare with: 'renders' (of the prompts' scenes; the default), a folder, or a .npz of
    statistics. For an unconditional model: data as for `t2i train`, whose test images are used; default: its run's."""
    training_data: str | None = None
    """Images to search for near copies: 'toybox', 'toybox-v1' or a folder; default: the target's training data."""
    num_training_images: int | None = None
    """Maximum number of training images to search; default: ten per generated image, or all images of a folder."""
    extractor: str = "toybox-v1"
    """Feature extractor: toybox-v1, random, pixels, inception[:FILE], clip:…, open_clip:…, dinov2:…"""
    clip: str | None = None
    """CLIP model of the CLIP score: clip:NAME_OR_FOLDER or open_clip:ARCH/PRETRAINED."""
    variant: str | None = None
    """Definition of the CLIP score: hessel, torchmetrics or cosine."""
    classifier: str | None = None
    """Folder of the prompts' classifier: of toybox-v1, by default the embedded one, or, for prompts of toybox, of
    `t2i train toybox-classifier`."""
    likelihood_samples: int = 1
    """Latent samples per image for a likelihood bound; more samples make the bound tighter."""
    out: str = "reports/eval"
    """Output folder for report.json, report.html and the images. Existing images are not generated again."""
    batch_size: int | None = None
    """Images per batch, halved when out of memory. Default: 32; for likelihoods of unconditional models 100."""
    device: str = "auto"
    """Device, such as cpu, cuda or mps; auto: the fastest available."""
    dtype: PipelineDtype = "float32"
    """Precision of the pipeline; int8 (DALL·E, Muse) takes less time on a CPU. Metrics are always computed in float32
    or better."""
    allow_mixed: bool = False
    """Accept folders with several image formats."""
    allow_mismatch: bool = False
    """Accept statistics of a different extractor; the report states the mismatch."""

    def __post_init__(self) -> None:
        counts = {"num_images": 1, "batch_size": 1, "num_training_images": 2, "likelihood_samples": 1}
        for name, least in counts.items():
            if (value := getattr(self, name)) is not None:
                check_whole(f"--{name.replace('_', '-')}", value, least)
        check_distinct("the target", self.targets)
        check_distinct("--metrics", self.metrics)
        for metric in self.metrics:
            check_choice("metric", metric, EVALUATORS)
        check_seeds("--seed", self.seed)
        self.sampling_options()  # raises for values out of range
        check_folder(self.out)


@dataclass(frozen=True)
class SweepConfig(EvalConfig):
    """Options of `t2i report sweep`. Raises UsageError as `EvalConfig` does, also for values of the swept option."""

    targets: Annotated[Positional[tuple[str, ...]], arg(metavar="TARGET")] = ()
    """Pipeline to evaluate: an embedded system, a folder of a pipeline or run, or a model on the Hub."""

    # Options of other metrics than those of a sweep, where they would have no effect.
    metrics: Hidden[tuple[str, ...]] = ()
    training_data: Hidden[str | None] = None
    num_training_images: Hidden[int | None] = None
    clip: Hidden[str | None] = None
    variant: Hidden[str | None] = None
    likelihood_samples: Hidden[int] = 1
    reranker: Hidden[str | None] = None
    num_images: int | None = 180
    """Maximum number of images to generate for each value, spread evenly over toybox categories."""
    out: str = "reports/sweep"
    """Output folder for report.json, report.html, and a folder of images for each value."""
    over: Literal[tuple(NUMERIC_OPTIONS)] = "guidance_scale"  # pyright: ignore[reportInvalidTypeForm]
    """Sampling option to vary."""
    values: tuple[float, ...] = (1, 2, 3, 4, 6)
    """Values of the option."""
    rerankers: tuple[str, ...] = ()
    """What scores the candidates, as for `t2i eval --reranker`; several are compared. Default: the pipeline's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.values:
            check_options({self.over: self.number(value)}, flags=True)
        check_distinct("--rerankers", self.rerankers)
        if len(set(map(slug, self.rerankers))) < len(self.rerankers):  # each has a folder of that name
            names = ", ".join(self.rerankers)
            raise UsageError(f"--rerankers must differ in more than punctuation and capitals: {names}; rename one")
        if self.rerankers and self.over != "num_candidates" and self.num_candidates in (None, 1):
            raise UsageError("--rerankers choose among candidates: give --num-candidates 2 or more, or sweep over it")

    def at(self, value: float, reranker: str | None = None) -> Self:
        """The options of one point: its value, its reranker, and a folder of its own in the output folder.

        A single candidate has no reranker, so that points which differ in nothing else are one.
        """
        changed = {self.over: self.number(value)}
        if changed.get("num_candidates", self.num_candidates) in (None, 1):
            reranker = None
        out = f"{self.out}/{self.over}-{value:g}{f'-{slug(reranker)}' if reranker else ''}"
        return replace(self, out=out, rerankers=(), reranker=reranker, **changed)

    def number(self, value: float) -> int | float:
        """`value` as the option takes it: an int for integer options."""
        whole = NUMERIC_OPTIONS[self.over] is int and float(value).is_integer()
        return int(value) if whole else value


@dataclass(frozen=True)
class TokenizersConfig:
    """Options of `t2i eval tokenizers`.

    Raises UsageError for values out of range, a target given twice, and an output folder that cannot be written.
    """

    targets: Annotated[Positional[tuple[str, ...]], arg(metavar="TOKENIZER")] = ()
    """Image tokenizers: folders of a model or run of `t2i train`, of diffusers' AutoencoderKL or AutoencoderTiny, of a
    pipeline, whose tokenizer is taken; embedded systems; or models on the Hub."""
    data: str = "toybox"
    """Real images: 'toybox' or 'toybox-v1' (scenes that recipes do not train on by default), a folder, a data set of
    the Hub, or the test images of 'digits', 'mnist', 'fashion', 'cifar10' or a folder of IDX files."""
    image_column: str = "image"
    """Column of the images, for a data set with columns."""
    num_images: int = 1000
    """Maximum number of images, a random selection where the data have more."""
    image_size: int | None = None
    """Side of the images in pixels. Default: that of the tokenizers' training images, if all agree."""
    seed: int = 0
    """Seed for the selection of images, the resamples of intervals and the two-sample test."""
    extractor: str = "toybox-v1"
    """Feature extractor of the feature distance and the Fréchet distance, as for `t2i eval`."""
    lpips: Literal["alex", "vgg", "squeeze"] | None = None
    """Also compute LPIPS in the features of this network, whose weights torchvision downloads once."""
    classifier: str | None = None
    """Folder of the data's classifier: of toybox-v1, by default the embedded one, or of toybox."""
    two_sample: bool = True
    """Train a network to tell reconstructions from originals, which takes minutes for 1,000 images on a CPU."""
    out: str = "reports/tokenizers"
    """Output folder for report.json, report.html, tokenizers.csv and the images."""
    batch_size: int = 32
    """Images per batch."""
    device: str = "auto"
    """Device, such as cpu, cuda or mps; auto: the fastest available."""
    dtype: Dtype = "float32"
    """Precision of the tokenizers. Metrics are always computed in float32 or better."""

    def __post_init__(self) -> None:
        check_distinct("the target", self.targets)
        check_whole("--num-images", self.num_images, 2)
        check_whole("--batch-size", self.batch_size)
        if self.image_size is not None:
            check_whole("--image-size", self.image_size, 11)  # the window of SSIM
        check_seeds("--seed", self.seed)
        check_folder(self.out)
