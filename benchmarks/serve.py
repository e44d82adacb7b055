"""Ten visitors of the web page at once: how many label maps, which errors, what memory.

Each asks /segment for one doodle after the other. Memory is that of the server's process.

Run: python benchmarks/serve.py [--visitors 10] [--seconds 60]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio_client
from PIL import Image

from unseen.data.doodles import draw


def resident(process: int) -> float:
    """MB of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@contextmanager
def server() -> Iterator[tuple[int, str]]:
    """The page in a process of its own; its number and address."""
    command = [sys.executable, "-m", "unseen", "serve", "naclip", "--port", "7899"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()  # it says where it is
        try:
            yield running.pid, line.split()[4].rstrip(";")
        finally:
            running.terminate()


def visit(address: str, until: float, told: list[str], number: int) -> None:
    """Ask for label maps until a time; "ok" or the error of each goes to `told`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "doodle.png"
        Image.fromarray(draw(7, number).image).save(file)
        client = gradio_client.Client(address, verbose=False, download_files=folder)
        while time.monotonic() < until:
            try:
                sent = gradio_client.handle_file(str(file))
                client.predict(sent, "sun, tree, fish", "naclip", 0.0, api_name="/segment")
                told.append("ok")
            except Exception as error:
                told.append(repr(error))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    flags = parser.parse_args()
    told: list[str] = []
    with server() as (process, address):
        until = time.monotonic() + flags.seconds
        visitors = [
            threading.Thread(target=visit, args=(address, until, told, number))
            for number in range(flags.visitors)
        ]
        for visitor in visitors:
            visitor.start()
        for part in range(1, 5):
            time.sleep(flags.seconds / 4)
            after = f"after {part * flags.seconds / 4:.0f} s"
            print(f"{after}: {len(told)} asked, {resident(process):.0f} MB", flush=True)
        for visitor in visitors:
            visitor.join()
    errors = [each for each in told if each != "ok"]
    print(f"{len(told)} label maps, {len(errors)} errors {sorted(set(errors))[:3]}")


if __name__ == "__main__":
    main()
