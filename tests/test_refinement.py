"""Masks replaced by eigen-segments: by their IoU, or by the released oracle (sazs_infer_pascal)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import golden
from tiny import given_scores, tiny_clip
from tiny.commands import run_command
from unseen.data.benchmarks import get_benchmark
from unseen.errors import SettingError
from unseen.evaluation.loop import OracleRefiner, choose_threshold, evaluate, oracle_matches
from unseen.evaluation.protocols import Candidate
from unseen.inference import label_maps
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.metrics import EpisodeCounts, episode_counts
from unseen.segments.refinement import (
    SegmentMatch,
    SegmentRefiner,
    match_segments,
    refine_labels,
    refine_mask,
    segment_iou,
)
from unseen.segments.source import SegmentSource, segment_source
from unseen.segments.spectral import SpectralSettings
from unseen.settings import EvaluationSettings, InferenceSettings, change_inference
from unseen.vocabulary import Vocabulary

REFINE = "--inference.refinement segment_iou"


# ------------------------------------------------------------------ segment IoU


def halves() -> Tensor:
    """(3, 4, 8) segments: everything, the left half, the upper half."""
    segments = torch.zeros(3, 4, 8, dtype=torch.bool)
    segments[0] = True
    segments[1, :, :4] = True
    segments[2, :2] = True
    return segments


def refined(mask: Tensor, threshold: float) -> Tensor:
    return refine_mask(mask, match_segments(mask.long(), halves(), threshold))


def test_a_mask_is_replaced_by_the_segment_it_overlaps() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:, :3] = True  # 12 of 16 pixels of the left half
    left = halves()[1]
    assert torch.equal(refined(mask, 0.75), left)
    assert torch.equal(refined(mask, 0.76), mask)
    right = torch.zeros(4, 8, dtype=torch.bool)
    right[:, 5:] = True
    assert torch.equal(refined(right, 0.75), ~left), "complements count"
    nearly_all = torch.ones(4, 8, dtype=torch.bool)
    nearly_all[0, 0] = False
    assert torch.equal(refined(nearly_all, 0.6), nearly_all), (
        "a segment that is everything separates nothing"
    )
    none = torch.zeros(4, 8, dtype=torch.bool)
    assert torch.equal(refined(none, 0.1), none)
    assert match_segments(mask.long(), halves()[:1], 0.1) == []


def test_matches_of_label_maps() -> None:
    """Class 0 is matched by the left half, whose outer pixels go to the best unmatched class.

    Of two segments on a pixel the one of higher IoU decides.
    """
    labels = torch.tensor([[0, 0, 0, 0, 0, 2, 1, 1]] * 4)
    scores = torch.zeros(3, 4, 8)
    scores[1], scores[2, :2] = 0.5, 0.9
    left, upper = halves()[1:]

    def refine(*matches: SegmentMatch) -> Tensor:
        return refine_labels(labels, matches, given_scores(scores[None]), InferenceSettings())

    one = refine(SegmentMatch(0, 0.8, left))
    assert one.tolist() == [[0, 0, 0, 0, 2, 2, 1, 1]] * 2 + [[0, 0, 0, 0, 1, 2, 1, 1]] * 2
    both = refine(SegmentMatch(0, 0.8, left), SegmentMatch(1, 0.9, upper))
    assert both.tolist() == [[1] * 8] * 2 + [[0, 0, 0, 0, 2, 2, 2, 2]] * 2
    weaker = refine(SegmentMatch(0, 0.8, left), SegmentMatch(1, 0.7, upper))
    assert weaker.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2 + [[0, 0, 0, 0, 2, 2, 2, 2]] * 2
    every = refine(*(SegmentMatch(class_id, 0.5, left) for class_id in range(3)))
    assert torch.equal(every[:, 4:], labels[:, 4:]), (
        "all classes are matched: pixels keep their class"
    )
    assert torch.equal(refine(), labels)


def test_ignored_pixels_match_nothing() -> None:
    labels = torch.full((4, 8), IGNORE)
    labels[:, :3] = 1
    matches = match_segments(labels, halves(), 0.7)
    assert [(match.class_id, match.iou) for match in matches] == [(1, 0.75)]


class OnDevice(Tensor):
    """A tensor as on Apple's GPUs: double precision is refused until it is moved to the CPU."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            return result.as_subclass(Tensor)
        results = result if isinstance(result, tuple) else (result,)
        for tensor in results:
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                raise TypeError("no float64 on this device")
        return result


def test_no_double_precision_on_the_device_of_the_maps() -> None:
    labels, segments = torch.randint(0, 3, (4, 8)), halves()
    class_ids, iou = segment_iou(labels.as_subclass(OnDevice), segments.as_subclass(OnDevice))
    assert not isinstance(iou, OnDevice)
    assert iou.dtype == torch.float64
    for row, class_id in zip(iou, class_ids, strict=True):
        mask = labels == class_id
        expected = [
            (mask & segment).sum().item() / (mask | segment).sum().item() for segment in segments
        ]
        assert row.tolist() == expected
    with pytest.raises(TypeError, match="no float64"):
        segments.as_subclass(OnDevice).double()


def naclip() -> tuple:
    segmenter = create("naclip", tiny_clip()).eval()
    return segmenter, segmenter.encode_text(Vocabulary(["tree", "house", "car"]))


def test_label_maps_are_refined() -> None:
    segmenter, text = naclip()
    images, settings = torch.rand(2, 3, 40, 40), InferenceSettings()
    maps = label_maps(segmenter, images, text, settings)
    source = segment_source(segmenter, settings)
    segments = source(images, ["", ""])
    assert segments.shape == (2, 5, 40, 40)
    assert torch.equal(SegmentRefiner(source, 1.0).refine(maps, segments).labels, maps.labels)
    changed = SegmentRefiner(source, 0.05).refine(maps, segments)
    assert not torch.equal(changed.labels, maps.labels)
    assert torch.equal(changed.confidence, maps.confidence)
    matches = match_segments(maps.labels[0], segments[0], 0.05)
    labels = refine_labels(maps.labels[0], matches, maps.scores.image(0), settings)
    assert torch.equal(labels, changed.labels[0])


def test_refinement_as_the_settings_ask() -> None:
    segmenter, _ = naclip()
    assert SegmentRefiner.from_settings(segmenter, InferenceSettings()) is None
    settings = InferenceSettings(refinement="segment_iou", refinement_threshold=0.4)
    refiner = SegmentRefiner.from_settings(segmenter, settings)
    assert refiner is not None
    assert (refiner.threshold, refiner.source.settings.count) == (0.4, 5)


def test_settings_that_mean_nothing() -> None:
    for wrong, message in (
        ({"refinement_threshold": 0.0}, "above 0 and at most 1"),
        ({"refinement_threshold": 1.5}, "above 0"),
        ({"segments_count": 0}, "at least 1"),
        ({"segments_dir": "a", "segments_features": "b"}, "exclude each other"),
    ):
        with pytest.raises(SettingError, match=message):
            change_inference(InferenceSettings(), wrong)
    base = InferenceSettings(refinement="segment_iou", segments_dir="somewhere")
    assert change_inference(base, {"refinement": "none", "segments_dir": ""}) == InferenceSettings()
    assert change_inference(base, {"refinement_threshold": 0.5}).refinement_threshold == 0.5


# ----------------------------------------------------------------------- oracle


def test_the_oracle_of_label_maps_takes_what_is_truer() -> None:
    truth = torch.full((4, 8), IGNORE)
    truth[:, :4], truth[:, 6:] = 0, 1
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]] * 4)
    matches = oracle_matches(labels, halves(), truth)
    assert [(match.class_id, match.iou) for match in matches] == [(0, 1.0)], (
        "class 1 has IoU 2/3 already, and no segment a higher one"
    )
    assert torch.equal(matches[0].mask, halves()[1])
    assert oracle_matches(labels, halves(), torch.full((4, 8), IGNORE)) == []


@pytest.mark.parametrize("method", ["naclip", "esda"])
def test_reports_say_whether_there_was_an_oracle(method: str) -> None:
    options = {"text_blocks": (1,)} if method == "esda" else {}
    segmenter = create(method, tiny_clip(), **options).eval()
    scores = {}
    for name in ("doodles", "doodles-5i/0"):
        bench = get_benchmark(name)
        text = segmenter.encode_text(Vocabulary(bench.class_names))
        for kind, refinement, oracle in (
            ("none", "none", False),
            ("segment_iou", "segment_iou", False),
            ("oracle", "none", True),
        ):
            inference = replace(
                bench.inference,
                refinement=refinement,
                refinement_threshold=0.2,
                window=None,
                stride=None,
            )
            candidate = Candidate("x", segmenter, text, inference)
            how = EvaluationSettings(limit=3, oracle=oracle, progress=False)
            report = evaluate(candidate, bench, settings=how)
            assert report.protocol["evaluation"]["oracle"] is oracle
            assert (
                report.title
                == {"none": "x", "segment_iou": "x + segment IoU", "oracle": "x + oracle"}[kind]
            )
            assert (report.protocol["segments"] is None) == (kind == "none")
            assert report.protocol["inference"]["refinement"] == refinement
            scores[name, kind] = report.scores["pAcc" if name == "doodles" else "mIoU"]
        assert scores[name, "oracle"] > scores[name, "none"]
        both = replace(candidate, inference=InferenceSettings(refinement="segment_iou"))
        with pytest.raises(
            SettingError,
            match="the oracle and --inference.refinement segment_iou exclude each other",
        ):
            evaluate(both, bench, settings=how)
    assert len(set(scores.values())) > 3


@pytest.mark.parametrize(
    ("method", "name"),
    [("naclip", "doodles"), ("naclip", "doodles-5i/1"), ("esda", "doodles-5i/1")],
)
def test_thresholds_are_chosen_on_seen_classes_alone(
    method: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = create(
        method, tiny_clip(), **({"text_blocks": (1,)} if method == "esda" else {})
    ).eval()
    bench = get_benchmark(name)
    text = segmenter.encode_text(Vocabulary(bench.class_names))
    queried, splits = set[str](), list[str]()
    forward, data = type(segmenter).forward, type(bench).data
    monkeypatch.setattr(
        type(segmenter),
        "forward",
        lambda self, images, text: (queried.update(text.names), forward(self, images, text))[1],
    )
    monkeypatch.setattr(
        type(bench),
        "data",
        lambda self, split, root: (splits.append(split), data(self, split, root))[1],
    )
    chosen = choose_threshold(
        Candidate("x", segmenter, text, InferenceSettings(refinement="segment_iou")),
        bench,
        images=3,
        thresholds=(0.2, 1.0),
        progress=False,
    )
    assert list(chosen) == [0.2, 1.0]
    assert chosen[0.2] != chosen[1.0]
    assert all(0 <= score <= 100 for score in chosen.values())
    assert queried <= set(bench.seen)
    assert queried
    assert splits == ["train"]


def test_the_oracle_chooses_as_released() -> None:
    """From the network's masks and the segments: every count, the choice, mIoU and FB-IoU."""
    tensors, about = golden("sazs_infer_pascal")
    counts = EpisodeCounts(20 if max(about["class_ids"]) < 20 else 80, released=True)
    oracle = OracleRefiner(SegmentSource(SpectralSettings()), released_counts=True)
    for i, sample in enumerate(about["samples"]):
        class_id = int(tensors[f"{i}.class_id"])
        label, mask = tensors[f"{i}.label"], tensors[f"{i}.pred"].bool()
        truth = torch.where(label == IGNORE, IGNORE, (label == class_id + 1).long())
        segments = torch.stack([tensors[f"{i}.eig{k}"] for k in range(5)]).bool()
        counted = [episode_counts(m, truth, released=True) for m in (mask, *segments)]
        assert [count[:, 0].tolist() for count in counted] == [
            sample["inter_net"],
            *sample["inter_eig"],
        ]
        assert [count[:, 1].tolist() for count in counted] == [
            sample["union_net"],
            *sample["union_eig"],
        ]
        iou = [float(count[1, 0] / count[1, 1]) for count in counted]
        assert iou == pytest.approx([sample["beta_net"], *sample["beta_eig"]], abs=1e-6)
        chosen = oracle.refine_mask(mask, segments, truth)
        assert episode_counts(chosen, truth, released=True).T.tolist() == [
            sample["chosen_inter"],
            sample["chosen_union"],
        ]
        counts.update(chosen, truth, class_id)
    scores = counts.summary([], about["class_ids"])
    assert scores["mIoU"] == pytest.approx(about["final_miou"], abs=1e-4)
    assert scores["FB_IoU"] == pytest.approx(about["final_fb_iou"], abs=1e-4)
    assert (100 * counts.iou[about["class_ids"]]).tolist() == pytest.approx(
        about["final_per_class"], abs=1e-4
    )


def test_ignored_pixels_count_in_released_unions_only() -> None:
    """All pixels are foreground and half of them ignored: union 8 against 4."""
    truth = torch.full((2, 4), IGNORE)
    truth[:, :2] = 1
    everything = torch.ones(2, 4, dtype=torch.bool)
    assert episode_counts(everything, truth, released=True)[1].tolist() == [4, 8]
    assert episode_counts(everything, truth)[1].tolist() == [4, 4]


def test_evaluate_with_oracle_and_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(
        f"evaluate naclip --benchmark doodles-5i/2 --limit 4 --out {tmp_path} --oracle",
        "--released-counts",
    )
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    assert protocol["evaluation"]["oracle"] is True
    assert protocol["evaluation"]["released_counts"] is True
    assert "+ oracle" in " ".join(capsys.readouterr().out.split())
    run_command(f"evaluate naclip --limit 2 --out {tmp_path}", REFINE, "--choose-threshold 2")
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    chosen = protocol["threshold_chosen"]["mIoU_seen"]
    assert chosen[str(protocol["inference"]["refinement_threshold"])] == max(chosen.values())
    for arguments, message in (
        (["--choose-threshold", "2"], "is for --inference.refinement segment_iou"),
        (["--choose-threshold", "-1"], "give a whole number of at least 0"),
        (["--released-counts"], "is for folds"),
        (["--oracle", REFINE], "exclude each other"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run_command(f"evaluate naclip --limit 2 --out {tmp_path}", *arguments)
        assert message in capsys.readouterr().err
