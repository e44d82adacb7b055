"""What the web page allows."""

from __future__ import annotations

from dataclasses import dataclass

from unseen.settings.ranges import check_ranges, number, text, whole


@dataclass(frozen=True)
class ServeSettings:
    """What the web page allows.

    Attributes:
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at.
        images: Most images at once.
        megabytes: Most for a file.
        seconds: After so long a job stops with the images it has.
        queue: Most jobs that wait; others are turned away.
        keep_minutes: How long the images and label maps of a visitor are kept.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    images: int = 20
    megabytes: int = 50
    seconds: float = 300.0
    queue: int = 20
    keep_minutes: float = 60.0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            SettingError: Names the first.
        """
        check_ranges(self, "", SERVE_RANGES)


SERVE_RANGES = {
    "host": text(),
    "port": whole(0, 65535),
    "images": whole(1, 10_000),
    "megabytes": whole(1, 10_000),
    "seconds": number(0, open_low=True),
    "queue": whole(1, 10_000),
    "keep_minutes": number(0, open_low=True),
}
