"""Videos: each frame is an image, found again at its time."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tiny.commands import error_of, run_command
from unseen.errors import DataError
from unseen.labelling.sources import find_items
from unseen.labelling.videos import VideoReader, frames_of, looks_like_a_video

av = pytest.importorskip("av")


def pictures(count: int, size: tuple[int, int] = (48, 64)) -> list[NDArray[np.uint8]]:
    """Grey frames, each brighter than the one before, with a red corner at the top left."""
    made = []
    for number in range(count):
        picture = np.full((*size, 3), 20 + 7 * number, dtype=np.uint8)
        picture[:16, :16] = (250, 10, 10)
        made.append(picture)
    return made


def film(path: Path, frames: Sequence[NDArray[np.uint8]], codec: str, **options: str) -> Path:
    """A video of ten frames a second."""
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv422p10le" if codec == "prores" else "yuv420p"
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)
    return path


def brightness(pixels: NDArray[np.uint8]) -> float:
    return float(pixels[20:, 20:].mean())


KINDS = {
    "mp4": ("libx264", {"g": "12", "bf": "2"}),
    "mkv": ("ffv1", {}),
    "avi": ("mpeg4", {"bf": "2", "qmax": "2"}),
    "webm": ("libvpx-vp9", {}),
    "mov": ("prores", {}),
    # Their times are not to be relied on: frames are counted from the beginning.
    "x264.avi": ("libx264", {"g": "12", "bf": "3"}),
    "mpg": ("mpeg2video", {"bf": "2", "qmax": "2"}),
    "ts": ("libx264", {"g": "12", "bf": "3"}),
    "wmv": ("wmv2", {"qmax": "2"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_found_at_its_place(kind: str, tmp_path: Path) -> None:
    """In their order, in any other, and as few of them as are wanted."""
    codec, options = KINDS[kind]
    path = film(tmp_path / f"a.{kind}", pictures(30), codec, **options)
    assert (frames_of(path)[0].time is None) == (kind.split(".")[-1] in ("avi", "mpg", "ts", "wmv"))
    frames = frames_of(path)
    assert [frame.number for frame in frames] == list(range(30))
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(30) / 10, abs=0.002)
    orders = [frames, frames[::7], [frames[i] for i in (20, 3, 4, 29, 0)]]
    with closing(VideoReader()) as reader:
        for order in orders:
            for frame in order:
                wanted = 20 + 7 * frame.number
                assert brightness(reader.read(path, frame)) == pytest.approx(wanted, abs=3)


def test_videos_are_taken_where_they_are_named(tmp_path: Path) -> None:
    """Not from a folder of photographs."""
    film(tmp_path / "a.mp4", pictures(5), "libx264")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert [item.name for item in find_items([tmp_path])] == ["b"]
    named = find_items([tmp_path / "a.mp4", tmp_path / "b.png"], every=2)
    wanted = ["a/frame_000000", "a/frame_000002", "a/frame_000004", "b"]
    assert [item.name for item in named] == wanted
    assert [item.name for item in find_items([f"{tmp_path}/*"], every=4)] == [*wanted[::2], "b"]
    assert not looks_like_a_video(tmp_path / "none.mp4")


def test_a_film_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed, exported with its frames, and with numbers that say which frame it is."""
    path = film(tmp_path / "a.mp4", pictures(8), "libx264")
    out = tmp_path / "out"
    words = f"segment {path} --classes sun,tree --out {out} --batch 3"
    run_command(words, "--every 4")
    assert "labelled 2 images" in capsys.readouterr().out
    run_command(words)
    told = capsys.readouterr().out
    assert "labelled 6 images" in told
    assert "a/frame_000001: " in told
    about = json.loads((out / "a" / "frame_000004.json").read_text())["image"]
    assert about == {**about, "file": str(path), "frame": 4, "seconds": 0.4}
    alone = tmp_path / "alone.png"
    with closing(VideoReader()) as reader:
        Image.fromarray(reader.read(path, frames_of(path)[4])).save(alone)
    run_command(f"segment {alone} --classes sun,tree --out {tmp_path / 'other'}")
    labels = [np.asarray(Image.open(file)) for file in (
        out / "a" / "frame_000004.png", tmp_path / "other" / "alone.png"
    )]  # fmt: skip
    assert (labels[0] == labels[1]).mean() > 0.99  # sums are rounded otherwise in batches
    run_command(f"export-labels {out} --to coco --with-images")
    folder = out / "exports" / "coco"
    data = json.loads((folder / "annotations.json").read_text())
    names = [image["file_name"] for image in data["images"]]
    assert names == [f"a/frame_{number:06d}.png" for number in range(8)]
    shown = np.asarray(Image.open(folder / "images" / "a" / "frame_000004.png"))
    assert np.array_equal(shown, np.asarray(Image.open(alone)))


def test_frames_and_images_of_one_name_stay_apart(tmp_path: Path) -> None:
    """An image that lies where the frames of a video would."""
    film(tmp_path / "a.mp4", pictures(2), "libx264")
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "frame_000000.png")
    items = find_items([tmp_path, tmp_path / "a.mp4"], recursive=True)
    names = [item.name for item in items]
    assert names == ["a/frame_000000", "a.mp4/frame_000000", "a.mp4/frame_000001"]


def test_titles_in_other_encodings(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as video:
        video.metadata["title"] = "Zurich"
        stream = video.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pictures(1)[0], format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            video.mux(packet)
    content = (tmp_path / "a.avi").read_bytes()
    assert b"Zurich" in content
    (tmp_path / "a.avi").write_bytes(content.replace(b"Zurich", b"Z\xfcrich"))
    assert len(find_items([tmp_path / "a.avi"])) == 1


def test_flags_that_do_not_fit_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = film(tmp_path / "a.mp4", pictures(3), "libx264")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert "--every is 0" in error_of(capsys, f"segment {path} --classes sun,tree --every 0")
    error = error_of(capsys, f"segment {tmp_path / 'b.png'} --classes sun,tree --every 2")
    assert "--every is for videos, and there is none" in error
    error = error_of(capsys, f"segment {path} --classes sun,tree --tile 512")
    assert "--tile is for images, and there are videos" in error
    settings = f"--inference.refinement segment_iou --inference.segments_dir {tmp_path}"
    error = error_of(capsys, f"segment {path} --classes sun,tree {settings}")
    assert "--inference.segments_dir holds segments by the names of images" in error


def test_broken_videos_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text, sound alone, one that is cut at its end, and one without its beginning."""
    whole = film(tmp_path / "whole.mkv", pictures(4), "libx264")
    long = film(tmp_path / "long.mkv", pictures(30), "ffv1").read_bytes()
    (tmp_path / "short.mkv").write_bytes(long[: len(long) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as sound:
        stream = sound.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            sound.mux(packet)
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    fast = film(tmp_path / "fast.mp4", [*noise], "mpeg4", qmax="2")
    faststart = _with_table_first(fast)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(faststart[: len(faststart) // 2])
    names = " ".join(
        str(tmp_path / name) for name in ("text.mp4", "sound.mp4", "cut.mp4", "short.mkv")
    )
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        run_command(f"segment {names} {whole} --classes sun,tree --out {out}")
    error = capsys.readouterr().err
    assert error.count("unseen: ") == 4
    assert "short.mkv cannot be read: the file is cut or damaged" in error
    assert "text.mp4 cannot be read (Invalid data" in error
    assert "sound.mp4 holds no pictures" in error
    assert "cut.mp4 cannot be read: the file is cut or damaged" in error
    assert len(list((out / "whole").glob("*.json"))) == 4
    assert len(list((out / "cut").glob("*.json"))) >= 10
    with closing(VideoReader()) as reader, pytest.raises(DataError, match="cannot be read"):
        reader.read(tmp_path / "text.mp4", frames_of(tmp_path / "text.mp4")[0])


def _with_table_first(path: Path) -> bytes:
    """The bytes of an mp4 whose table of frames stands before them."""
    again = path.with_name("again.mp4")
    with (
        av.open(str(path)) as read,
        av.open(str(again), "w", options={"movflags": "faststart"}) as written,
    ):
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.size:
                packet.stream = stream
                written.mux(packet)
    return again.read_bytes()


QUARTERS = {"cw": ((0, 1, -1, 0), -1), "ccw": ((0, -1, 1, 0), 1), "half": ((-1, 0, 0, -1), 2)}


@pytest.mark.parametrize("turn", QUARTERS)
def test_frames_are_upright(turn: str, tmp_path: Path) -> None:
    """As telephones write them: a matrix in the header of the track says how to turn the frames."""
    path = film(tmp_path / "a.mp4", pictures(2), "libx264")
    (a, b, c, d), quarters = QUARTERS[turn]
    plain = [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
    turned = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data = path.read_bytes()
    place = data.index(b"tkhd")
    matrix = data.index(struct.pack(">9i", *plain), place)
    path.write_bytes(data[:matrix] + struct.pack(">9i", *turned) + data[matrix + 36 :])
    with closing(VideoReader()) as reader:
        pixels = reader.read(path, frames_of(path)[0])
    wanted = np.rot90(pictures(1)[0], quarters)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).mean() < 3


def test_without_a_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_text("a video")
    monkeypatch.setattr("unseen.labelling.videos.find_spec", lambda _: None)
    error = error_of(capsys, f"segment {tmp_path / 'a.mp4'} --classes sun,tree")
    assert "videos need av; install it with pip install 'unseen[video]'" in error
