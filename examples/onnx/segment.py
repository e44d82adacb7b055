"""A label map from an exported file, without torch.

Run: unseen export naclip --clip ViT-B-16-quickgelu/openai --classes "cat, sofa" --out MODEL.onnx
     python segment.py MODEL.onnx PHOTO OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main(model: str, photo: str, out: str) -> None:
    """Segment one image with the classes whose vectors lie beside the model."""
    told = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
    text = np.load(f"{model}.npy").astype(np.float32)
    session = onnxruntime.InferenceSession(model)
    image = Image.open(photo).convert("RGB")
    square = image.resize((told["size"], told["size"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1)[None] / 255
    (scores,) = session.run(None, {"images": pixels, "text": text})
    maps = [
        Image.fromarray(each).resize(image.size, Image.Resampling.BILINEAR) for each in scores[0]
    ]
    labels = np.stack([np.asarray(each) for each in maps]).argmax(axis=0).astype(np.uint8)
    Image.fromarray(labels).save(out)
    for number, name in enumerate(told["classes"]):
        print(f"{name}: {100 * (labels == number).mean():.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
