"""python onnx_predict.py model.onnx image.jpg …: what images show, by a graph of `fewclip export`."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, about = sys.argv[1], json.loads(Path(sys.argv[1]).with_suffix(".json").read_text(encoding="utf-8"))
session, size = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]), about["pixels"]["size"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    short = min(image.size)
    image = image.resize((size * image.width // short, size * image.height // short), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))[None]  # uint8 (1, size, size, 3)
    (shares,) = session.run(None, {"pixels": pixels})[0]
    print(path, "  ".join(f"{about['classes'][i]} {shares[i]:.1%}" for i in np.argsort(-shares)[:3]))
