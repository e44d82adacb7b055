"""Images beside their labels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from PIL import Image

from unseen.errors import DataError, UnseenError
from unseen.labelling.results import Result
from unseen.labelling.videos import Frame, VideoReader, check_videos_readable, frames_of


class ImagePlacer:
    """Puts images into folders: as links or copies, and frames of videos as PNGs."""

    def __init__(self) -> None:
        self._videos = VideoReader()
        self._frames: dict[Path, list[Frame]] = {}

    def place(self, result: Result, folder: Path) -> list[UnseenError]:
        """Put an image into a folder of images; what kept it out, if anything.

        Raises:
            SettingError: It is a frame of a video, and nothing reads videos.
        """
        if result.image is None or not result.image.is_file():
            message = f"the image {result.file_name} is not where it was; put it there again"
            return [DataError(message)]
        if not result.is_of(result.image):
            message = f"the image {result.image} has been changed since; label it again"
            return [DataError(message)]
        target = folder / result.file_name
        # Never into a file that is there: it may be a link to another image.
        if target.exists():
            return [DataError(f"the export holds an image {result.file_name} already")]
        target.parent.mkdir(parents=True, exist_ok=True)
        if result.frame is not None:
            return self._place_frame(result.image, result.frame, target)
        try:
            os.link(result.image.resolve(), target)
        except OSError:  # another disk, or one that has no links
            shutil.copy2(result.image, target)
        return []

    def _place_frame(self, video: Path, number: int, target: Path) -> list[UnseenError]:
        check_videos_readable()
        if video not in self._frames:
            self._frames = {video: frames_of(video)}
        frames = self._frames[video]
        if number >= len(frames):
            return [DataError(f"the video {video} has no frame {number} any more")]
        try:
            pixels = self._videos.read(video, frames[number])
        except DataError as error:
            return [error]
        Image.fromarray(pixels).save(target, compress_level=1)
        return []

    def close(self) -> None:
        """Close the video that is open."""
        self._videos.close()
