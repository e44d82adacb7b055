"""Time and memory of the trained methods beside a plain implementation, equal weights.

Plain is how the published codes work: float32, `nn.MultiheadAttention`, the maps of all classes at
image size, losses by plain operations, one pass a class for methods with one query class. Both run
in turn in one process; the memory of each is measured in a process of its own (Linux).

Run: OMP_NUM_THREADS=1 python benchmarks/speed.py [CASE ...] [--rounds 7] [--precision auto]
     python benchmarks/speed.py [CASE ...] --device cuda --batch 32 [--compile]

On a GPU only the clock counts, and the memory is what torch has allocated there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from losses import high_water
from losses import plain as plain_mask_loss
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip import tower as tower_module
from unseen.backbones.clip.tower import CLIP, IMAGENET_MEAN, IMAGENET_STD
from unseen.inference import label_maps
from unseen.methods import create
from unseen.modules.losses import MaskLoss
from unseen.precision import computing
from unseen.segmenter import QuerySegmenter, Segmenter, TextFeatures
from unseen.settings import InferenceSettings

SIDE = 512
Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A line of the table.

    Attributes:
        method: Name of a method.
        classes: How many; of a training, those seen.
        options: Of the method.
        training: A step with its gradients instead of a label map.
        side: Of the image.
        recompute: Compute blocks again for their gradients, as the method's recipe says, but not
            in float32, as with --published.
    """

    method: str
    classes: int
    options: dict[str, Any]
    training: bool = False
    side: int = SIDE
    recompute: bool = False


CASES = {
    "tower": Case("tower", 1, {}),
    "zegclip-20": Case("zegclip", 20, {"num_prompts": 10}),
    "zegclip-171": Case("zegclip", 171, {"num_prompts": 100}),
    "clip_rc-20": Case("clip_rc", 20, {"num_prompts": 10}),
    "clip_rc-171": Case("clip_rc", 171, {"num_prompts": 100}),
    "zegclip-847": Case("zegclip", 847, {"num_prompts": 100}),
    "esda-20": Case("esda", 20, {}, side=480),
    "sazs-20": Case("sazs", 20, {}),
    "edgeclip-20": Case("edgeclip", 20, {}, side=473),
    "train-zegclip-20": Case("zegclip", 20, {"num_prompts": 10}, training=True),
    "train-zegclip-171": Case("zegclip", 156, {"num_prompts": 100}, training=True),
    "train-clip_rc-20": Case("clip_rc", 20, {"num_prompts": 10}, training=True),
    "train-clip_rc-171": Case("clip_rc", 156, {"num_prompts": 100}, training=True),
    "train-esda": Case("esda", 1, {}, training=True, side=480, recompute=True),
    "train-edgeclip": Case("edgeclip", 1, {}, training=True, side=473),
}


def make_segmenter(case: Case) -> Segmenter:
    """A method on a ViT-B/16 with random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", load_weights=False)
    only_images = case.method in ("zegclip", "clip_rc")
    clip = CLIP(model, mean=IMAGENET_MEAN, std=IMAGENET_STD, image_only=only_images)
    options = dict(case.options)
    if case.method in ("zegclip", "clip_rc"):
        options["start"] = "released"  # an aligned start looks at training images
    return create(case.method, clip, **options)


def make_text(case: Case) -> TextFeatures:
    """Random unit vectors for the classes, and four tokens each."""
    torch.manual_seed(1)
    *vectors, background = F.normalize(torch.randn(case.classes + 1, 512), dim=-1)
    names = tuple(f"class {i}" for i in range(case.classes))
    tokens = torch.randn(case.classes, 4, 512)
    return TextFeatures(names, torch.stack(vectors), tokens=tokens, background=background)


# --------------------------------------------------------------------------- plain


@contextmanager
def plainly() -> Iterator[None]:
    """Blocks as open_clip runs them, by `nn.MultiheadAttention`; plain losses."""

    def run_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and mask.ndim == 4:  # one a head, as `nn.MultiheadAttention` asks for
            mask = mask.expand(len(x), block.attn.num_heads, -1, -1).flatten(0, 1)
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask  # there, True is where attention is not allowed
        out: Tensor = block(x, attn_mask=mask)
        return out

    def terms(self: MaskLoss, logits: Tensor, labels: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        focal_and_dice = plain_mask_loss(logits.float(), labels)
        return focal_and_dice, focal_and_dice.new_zeros(())

    with patch.object(tower_module, "run_block", run_block), patch.object(MaskLoss, "terms", terms):
        yield


@torch.no_grad()
def plain_labels(segmenter: Segmenter, image: Tensor, text: TextFeatures) -> Tensor:
    """The label map from all classes' maps at image size."""
    size = (image.shape[-2], image.shape[-1])
    with plainly():
        if isinstance(segmenter, QuerySegmenter):
            logits = [
                segmenter.forward_query(image, text.select([k])).logits for k in range(len(text))
            ]
            maps = torch.cat([two[:, 1:] - two[:, :1] for two in logits], dim=1)
        else:
            maps = segmenter(image, text).logits
        maps = F.interpolate(maps, size, mode="bilinear")
        return segmenter.scores(maps, None).argmax(dim=1)


# --------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Place:
    """Where and with what the steps are computed.

    Attributes:
        precision: Of ours, by Lightning's name, or "auto".
        device: As torch names it.
        batch: Images at a time.
        compile: Let torch compile ours.
    """

    precision: str = "auto"
    device: str = "cpu"
    batch: int = 1
    compile: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether steps only begin when they are called."""
        return torch.device(self.device).type == "cuda"

    def wait(self) -> None:
        """Until what was begun is done."""
        if self.on_gpu:
            torch.cuda.synchronize()


def steps_of(case: Case, place: Place) -> dict[str, Step]:
    """Ours and plain, ready to be called again and again."""
    if case.method == "tower":
        return tower_steps(place)
    precision = place.precision
    segmenter, text = make_segmenter(case).to(place.device), make_text(case).to(place.device)
    # The same weights in a module of its own, which is never compiled.
    plain_segmenter = make_segmenter(case).to(place.device)
    if place.compile:
        torch._dynamo.config.recompile_limit = 64  # one program a block of the tower
        segmenter.compile()
    torch.manual_seed(2)
    image = torch.rand(place.batch, 3, case.side, case.side).to(place.device)
    if not case.training:
        segmenter.eval()
        plain_segmenter.eval()
        settings = InferenceSettings(precision=precision)
        return {
            "ours": partial(label_maps, segmenter, image, text, settings),
            "plain": partial(plain_labels, plain_segmenter, image, text),
        }
    segmenter.train()
    plain_segmenter.train()
    grid = (place.batch, case.side // 16, case.side // 16)
    labels = torch.randint(0, max(case.classes, 2), grid)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2).to(place.device)

    def step(segmenter: Segmenter, precision: str, recompute: bool = False) -> None:
        segmenter.recompute_blocks(recompute)
        with computing(precision, image.device):
            if isinstance(segmenter, QuerySegmenter):
                prediction = segmenter.forward_query(image, text)
            else:
                prediction = segmenter(image, text)
            loss = segmenter.loss(prediction, labels)["total"]
        loss.backward()
        segmenter.zero_grad(set_to_none=True)

    def plain() -> None:
        with plainly():
            step(plain_segmenter, "32-true")

    recompute = case.recompute and precision != "32-true"
    return {"ours": partial(step, segmenter, precision, recompute), "plain": plain}


def tower_steps(place: Place) -> dict[str, Step]:
    """The image tower alone beside open_clip's own walk through it, both at one precision."""
    torch.manual_seed(0)
    model = open_clip.create_model(
        "ViT-B-16-quickgelu", load_weights=False, force_image_size=SIDE
    ).eval()
    clip = CLIP(model, mean=IMAGENET_MEAN, std=IMAGENET_STD).to(place.device)
    model.to(place.device)
    precision = place.precision
    image = torch.rand(place.batch, 3, SIDE, SIDE).to(place.device)

    @torch.no_grad()
    def ours() -> None:
        with computing(precision, image.device):
            clip.encode_image(image)

    @torch.no_grad()
    def plain() -> None:
        with computing(precision, image.device):
            model.encode_image(clip.normalize(image))

    return {"ours": ours, "plain": plain}


# --------------------------------------------------------------------- measurements


def peak_of(name: str, side: str, place: Place) -> float:
    """MB of one side above the loaded model, in a process of its own."""
    words = [sys.executable, __file__, name, "--peak", side]
    for flag, value in asdict(place).items():
        if value is True:
            words.append(f"--{flag}")
        elif value is not False:
            words += [f"--{flag}", str(value)]
    return float(subprocess.run(words, capture_output=True, check=True, text=True).stdout)


def measure_peak(case: Case, side: str, place: Place) -> float:
    """MB of a step above the loaded model."""
    step = steps_of(case, place)[side]
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - loaded) / 1e6
    # What loading has freed goes back, or the step would take it without a trace.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = high_water()
    step()
    return high_water() - before


def side_by_side(case: Case, rounds: int, place: Place) -> str:
    """Cells of the table: seconds of both, and their ratios, for the processor and the clock."""
    steps = steps_of(case, place)
    cpu: dict[str, list[float]] = {side: [] for side in steps}
    wall: dict[str, list[float]] = {side: [] for side in steps}
    for turn in range(rounds + 1):
        for side, step in steps.items():
            start = time.process_time(), time.perf_counter()
            step()
            place.wait()
            if turn > 0:  # the first round warms up
                cpu[side].append(time.process_time() - start[0])
                wall[side].append(time.perf_counter() - start[1])
    if place.on_gpu:
        cpu = wall
    ratios = sorted(ours / plain for ours, plain in zip(cpu["ours"], cpu["plain"], strict=True))
    middle = {side: statistics.median(seconds) for side, seconds in cpu.items()}
    clock = statistics.median(wall["ours"]) / statistics.median(wall["plain"])
    return (
        f"{middle['ours']:.2f} | {middle['plain']:.2f} | {middle['ours'] / middle['plain']:.2f}"
        f" ({ratios[0]:.2f}-{ratios[-1]:.2f}) | {clock:.2f}"
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto", help="of ours; 32-true, bf16-mixed or auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="let torch compile ours")
    parser.add_argument("--peak", choices=["ours", "plain"], help="print the memory of one side")
    flags = parser.parse_args()
    place = Place(flags.precision, flags.device, flags.batch, flags.compile)
    if flags.peak:
        print(measure_peak(CASES[flags.cases[0]], flags.peak, place))
        return
    print("| case | ours, s | plain, s | ratio (range) | by the clock | memory, MB | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in flags.cases:
        cells = side_by_side(CASES[name], flags.rounds, place)
        ours, plain = (peak_of(name, side, place) for side in ("ours", "plain"))
        memory = f"{ours:.0f} and {plain:.0f} | {ours / max(plain, 1):.2f}"
        print(f"| {name} | {cells} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
