"""Videos as images: which frames they have, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, SettingError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
"""Of videos. They are not looked for in folders: one holds more images than the rest of it."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: From 0 on, in the order they are shown.
        time: When it is shown, in units of the video.
        seconds: The same in seconds.
    """

    number: int
    time: int
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
        times, unit, said = _times(path)
    except DataError:
        return [Frame(0, 0, 0.0)]
    frames = [
        Frame(number, times[number], float((times[number] - times[0]) * unit))
        for number in range(0, len(times), every)
    ]
    if said > len(times):
        frames.append(Frame(len(times), times[-1] + 1, float((times[-1] + 1 - times[0]) * unit)))
    return frames


def _times(path: Path) -> tuple[list[int], Any, int]:
    """When the frames of a video are shown, the unit of time, and how many it says it has."""
    with closing(_opened(path)) as video:
        stream = video.streams.video[0]
        unit, said, packets = stream.time_base, stream.frames, 0
        times: list[int | None] = []
        for packet in video.demux(stream):
            packets += packet.size > 0
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
    if None in times or not times:
        # Some files have no times of their packets, and decoding tells them.
        with closing(_opened(path)) as video:
            times = [frame.pts for frame in _decoded(video)]
    known = sorted(time for time in times if time is not None)
    if not known or len(known) < len(times):
        raise DataError(f"the video {path} has no frames, or no times; convert it to mp4")
    return known, unit, said - packets + len(known)


def _opened(path: Path) -> Any:
    """A video that holds pictures.

    Raises:
        DataError: None.
    """
    import av
    from av.error import FFmpegError

    try:
        video = av.open(str(path))
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
        self._time = 0

    def read(self, path: Path, frame: Frame) -> NDArray[np.uint8]:
        """A frame (H, W, 3), upright, RGB.

        Raises:
            DataError: The file is no video, or does not hold this frame.
        """
        if path != self._path or frame.time <= self._time:
            self._open(path, frame)
        for decoded in self._frames:
            if decoded.pts is None:
                continue
            self._time = decoded.pts
            if decoded.pts == frame.time:
                return _upright(decoded)
            if decoded.pts > frame.time:
                break
        self.close()
        raise DataError(
            f"frame {frame.number} of {path} cannot be read: the file is cut or damaged; replace it"
        )

    def _open(self, path: Path, frame: Frame) -> None:
        """Go to a frame, or to one not long before it."""
        self.close()
        self._video = _opened(path)
        self._path, self._time = path, -(2**63)
        if frame.number > 0:
            self._video.seek(frame.time, stream=self._video.streams.video[0])
        frames = _decoded(self._video)
        first = next(frames, None)
        if first is None or first.pts is None or first.pts > frame.time:
            # The file's own table of where to go is wrong, or there is none.
            self._video.close()
            self._video = _opened(path)
            self._frames = _decoded(self._video)
        else:
            self._frames = chain([first], frames)

    def close(self) -> None:
        """Close the file that is open."""
        if self._video is not None:
            self._video.close()
        self._path, self._video, self._frames = None, None, iter(())


def _upright(frame: Any) -> NDArray[np.uint8]:
    """The pixels of a frame (H, W, 3), turned as the camera says."""
    pixels = frame.to_ndarray(format="rgb24")
    # Degrees against the clock.
    turned: NDArray[np.uint8] = np.rot90(pixels, round(frame.rotation / 90))
    return np.ascontiguousarray(turned)
