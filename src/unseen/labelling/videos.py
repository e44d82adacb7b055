"""Videos as images: which frames they have, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, SettingError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
"""Of videos. They are not looked for in folders: one holds more images than the rest of it."""
UNIT = 1_000_000
"""Of the times of a whole file, in parts of a second."""
TAIL = 0.25
"""Seconds by which a whole file may end before its time."""
TIMED = ("mp4", "matroska")
"""Formats, by FFmpeg's names, whose times of frames can be relied on."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: From 0 on, in the order they are shown.
        time: When it is shown, in units of the video; None where frames are found by number.
        seconds: When it is shown, from the first one on.
    """

    number: int
    time: int | None
    seconds: float

    @property
    def name(self) -> str:
        """As CVAT names the frames of a video."""
        return f"frame_{self.number:06d}"


def looks_like_a_video(path: Path) -> bool:
    """Whether a file has the suffix of a video and is not hidden."""
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def check_videos_readable() -> None:
    """Refuse videos where nothing reads them.

    Raises:
        SettingError: Says what to install.
    """
    if find_spec("av") is None:
        raise SettingError("videos need av; install it with pip install 'unseen[video]'")


def frames_of(path: Path, every: int = 1) -> list[Frame]:
    """Each `every`-th frame of a video, from the first on.

    Where the file ends before the frames that it says it has, one more stands at the end, which
    cannot be read; and a single one for a file that is no video, so that others are not stopped.
    """
    try:
        times, unit, is_cut = _times(path)
    except DataError:
        return [Frame(0, None, 0.0)]
    frames = [
        Frame(number, time, float(unit * (number if time is None else time - (times[0] or 0))))
        for number, time in list(enumerate(times))[::every]
    ]
    if is_cut:
        frames.append(Frame(len(times), None, frames[-1].seconds))
    return frames


def _times(path: Path) -> tuple[Sequence[int | None], Any, bool]:
    """When the frames of a video are shown, the unit of time, and whether some are missing.

    Where the times of a file are not to be relied on, they are None, one for every frame that can
    be decoded, and the unit is that of the frames' numbers.
    """
    with closing(_opened(path)) as video:
        stream = video.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or 1
        if any(name in video.format.name for name in TIMED):
            times, end = _packets(video)
            known = [time for time in times if time is not None]
            if known and len(set(known)) == len(times):
                return sorted(known), stream.time_base, _ends_early(video, end)
    with closing(_opened(path)) as video:
        count = sum(1 for _ in _decoded(video))
    if not count:
        raise DataError(f"the video {path} has no frames that can be read; convert it to mp4")
    return [None] * count, 1 / rate, False


def _packets(video: Any) -> tuple[list[int | None], float]:
    """The times of all frames, without decoding any, and the second in which all ends."""
    times, end = list[int | None](), 0.0
    for packet in video.demux(*video.streams.video, *video.streams.audio):
        if packet.size and packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.size and packet.stream is video.streams.video[0] and not packet.is_discard:
            times.append(packet.pts)
    return times, end


def _ends_early(video: Any, end: float) -> bool:
    """Whether pictures and sound should go on after the second in which they end."""
    if video.duration is None:  # as of films that were sent while they were made
        return False
    start, length = (video.start_time or 0), video.duration
    return bool((start + length) / UNIT - end > TAIL)


def _opened(path: Path) -> Any:
    """A video that holds pictures.

    Raises:
        DataError: It cannot be opened, or holds no pictures.
    """
    import av
    from av.error import FFmpegError

    try:
        video = av.open(str(path), metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"the video {path} cannot be read ({reason}); replace it, or convert it to mp4"
        ) from error
    if not video.streams.video:
        video.close()
        raise DataError(f"{path} holds no pictures; give a video that does")
    return video


def _decoded(video: Any) -> Iterator[Any]:
    """The frames that can be decoded."""
    from av.error import FFmpegError

    try:
        for packet in video.demux(video.streams.video[0]):
            try:
                yield from packet.decode()
            except FFmpegError:
                continue  # whoever wants this frame finds a later one
    except FFmpegError:
        return  # the file is cut


class VideoReader:
    """Pixels of frames, which are read fastest in their order. Close it after use."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._video: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last: Frame | None = None

    def read(self, path: Path, frame: Frame) -> NDArray[np.uint8]:
        """A frame (H, W, 3), upright, RGB.

        Raises:
            DataError: The file is no video, or does not hold this frame.
        """
        behind = self._last is not None and frame.number > self._last.number
        found = self._find(frame) if path == self._path and behind else None
        if found is None and frame.time is not None and frame.number > 0:
            self._open(path, frame)
            found = self._find(frame)
        if found is None:
            # The file's own table of where to go may be wrong: from its beginning.
            self._open(path)
            found = self._find(frame)
        if found is None:
            self.close()
            raise DataError(
                f"frame {frame.number} of {path} cannot be read: the file is cut or damaged;"
                " replace it"
            )
        self._last = frame
        return _upright(found)

    def _find(self, frame: Frame) -> Any:
        """The frame, if it is one of those that follow; they are passed over up to it."""
        if frame.time is None:
            passed = 0 if self._last is None else self._last.number + 1
            return next(islice(self._frames, frame.number - passed, None), None)
        for decoded in self._frames:
            if decoded.pts == frame.time:
                return decoded
            if decoded.pts is not None and decoded.pts > frame.time:
                return None
        return None

    def _open(self, path: Path, frame: Frame | None = None) -> None:
        """Begin with a frame, or not long before it; at the beginning if there is none."""
        self.close()
        self._video, self._path = _opened(path), path
        if frame is not None:
            self._video.seek(frame.time, stream=self._video.streams.video[0])
        self._frames = _decoded(self._video)

    def close(self) -> None:
        """Close the file that is open."""
        if self._video is not None:
            self._video.close()
        self._path, self._video, self._last, self._frames = None, None, None, iter(())


def _upright(frame: Any) -> NDArray[np.uint8]:
    """The pixels of a frame (H, W, 3), turned as the camera says."""
    pixels = frame.to_ndarray(format="rgb24")
    # Degrees against the clock.
    turned: NDArray[np.uint8] = np.rot90(pixels, round(frame.rotation / 90))
    return np.ascontiguousarray(turned)
