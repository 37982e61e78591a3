"""Sentences into vectors, by bertcraft and by each rival, with the weights of one Hugging Face folder.

    python -m bertcraft.bench.encode_rivals NAME FOLDER SCRATCH

NAME is a key of CONTENDERS. Reads texts.json (a list of strings) from the folder SCRATCH, writes NAME.npy
there and prints one line of JSON. ``export`` in place of NAME writes model.onnx to SCRATCH, which onnxruntime
needs.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertcraft.bench.encode import MAX_LENGTH
from bertcraft.machine import peak_memory
from bertcraft.tensor.parallel import cpu_count

BATCH = 32
REPEATS = 3

Encode = Callable[[list[str]], np.ndarray]  # n texts -> (n, hidden) float32, rows of unit length


def bertcraft(folder: Path, scratch: Path) -> Encode:
    """No padding: sentences laid end to end, one pack a thread."""
    from bertcraft import load

    model = load(folder)
    return lambda texts: model.encode(texts, max_length=MAX_LENGTH, normalize=True, prompt="")


def sentence_transformers(folder: Path, scratch: Path) -> Encode:
    """As its users call it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = MAX_LENGTH
    return lambda texts: model.encode(texts, prompt="", batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)


def onnxruntime(folder: Path, scratch: Path) -> Encode:
    """The exported graph under all of onnxruntime's own optimisations, batches of sentences of similar
    length.

    (Its offline optimizer for transformers, which fuses whole attention blocks, was slower on a CPU and is
    not used.)
    """
    import onnxruntime as library

    from bertcraft.bert import Config, sentence_folder
    from bertcraft.bert.checkpoint_files import read_object
    from bertcraft.data.tokenizer import load_tokenizer
    from bertcraft.tensor import functions as F

    pipeline = sentence_folder.read(folder, Config.from_dict(read_object(folder / "config.json")))
    options = library.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    graph = library.InferenceSession(str(scratch / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(MAX_LENGTH)

    def encode(texts: list[str]) -> np.ndarray:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        vectors: list = [None] * len(ids)
        for start in range(0, len(ids), BATCH):
            rows = order[start : start + BATCH]
            padded, mask = np.zeros((2, len(rows), len(ids[rows[0]])), np.int64)
            for row, i in enumerate(rows):
                padded[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], 1
            hidden = graph.run(["hidden"], {"ids": padded, "mask": mask})[0]
            if pipeline is None:
                mean = (hidden * mask[..., None].astype(np.float32)).sum(1) / mask.sum(1, keepdims=True, dtype=np.float32)
                unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            else:
                unit = F.normalize(pipeline(hidden[mask == 1], mask.sum(1)))
            for i, vector in zip(rows, unit, strict=True):
                vectors[i] = vector
        return np.stack(vectors)

    return encode


CONTENDERS = {
    "bertcraft": bertcraft,
    "sentence-transformers": sentence_transformers,
    "onnxruntime": onnxruntime,
}


def export(folder: Path, scratch: Path) -> dict:
    """Write the encoder as an ONNX graph: ids and mask, int64 (batch, length), to hidden states."""
    import torch
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, ids, mask):
            return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {name: {0: "batch", 1: "length"} for name in ("ids", "mask", "hidden")}
    torch.onnx.export(
        Hidden(), (ids, torch.ones_like(ids)), str(scratch / "model.onnx"), input_names=["ids", "mask"],
        output_names=["hidden"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    return {"bytes": (scratch / "model.onnx").stat().st_size}


def measure_encoder(name: str, folder: Path, scratch: Path) -> dict:
    """Seconds of each time through all texts, after a short warm-up, and the memory of the process."""
    texts = json.loads((scratch / "texts.json").read_text(encoding="utf-8"))
    encode = CONTENDERS[name](folder, scratch)
    encode(texts[: 2 * BATCH])
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        vectors = encode(texts)
        seconds.append(time.perf_counter() - start)
    np.save(scratch / f"{name}.npy", vectors)
    return {"seconds": seconds, "peak_mb": peak_memory()}


if __name__ == "__main__":
    name, folder, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    result = export(folder, scratch) if name == "export" else measure_encoder(name, folder, scratch)
    print(json.dumps(result))
