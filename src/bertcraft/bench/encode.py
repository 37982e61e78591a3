"""``bertcraft bench encode``: sentences into vectors, by bertcraft and by every rival that is installed."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

import bertcraft
from bertcraft import machine
from bertcraft.bench.contest import Contender, MeasurementFailed, Outcome, contest, measure

COUNT = 1024  # of BANKING77's test questions, where no file is given
MAX_LENGTH = 256  # tokens; longer sentences are cut, by every contender alike
MODULE = ("-m", "bertcraft.bench.encode_rivals")
TRANSFORMERS = {"transformers": "transformers", "torch": "torch"}
TITLES = {
    "bertcraft": ("bertcraft", {}),
    "sentence-transformers": ("sentence-transformers", {"sentence-transformers": "sentence_transformers"}),
    "onnxruntime": ("onnxruntime", {"onnxruntime": "onnxruntime", "onnx": "onnx", **TRANSFORMERS}),
}
NOTES = (
    "All: the same float32 weights, mean over a sentence's tokens (or what a folder of sentence-transformers "
    "says), unit length, all CPUs. The time includes tokenization, not loading.",
    f"sentence-transformers and onnxruntime sort by length and take batches of 32; sentences are cut at {MAX_LENGTH} tokens.",
)


def default_texts() -> list[str]:
    """The first 1,024 test questions of BANKING77, fetched on first use."""
    from bertcraft.data import task

    return task("banking77").test.texts[:COUNT]


def run(folder: Path, texts: list[str], rounds: int, report: Callable[[int, Contender], None]) -> dict:
    """Measure and return what ``--json`` prints; see :func:`bertcraft.bench.contest.contest` for ``report``.

    ``folder`` is a Hugging Face checkpoint with its tokenizer.
    """
    load = machine.load()
    with tempfile.TemporaryDirectory(prefix="bertcraft-bench-") as name:
        scratch = Path(name)
        (scratch / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        contenders = [
            Contender(each, title, (*MODULE, each, str(folder), str(scratch)), packages)
            for each, (title, packages) in TITLES.items()
        ]
        outcomes = _contest(contenders, folder, scratch, rounds, report)
        vectors = {each: np.load(scratch / f"{each}.npy") for each, outcome in outcomes.items() if outcome.status == "ok"}
    entries = [_entry(contender, outcomes[contender.name], len(texts)) for contender in contenders]
    ours = entries[0]
    for entry in entries:
        both = entry["status"] == ours["status"] == "ok"
        entry["speed_ratio"] = ours["sentences_per_second"] / entry["sentences_per_second"] if both else None
        if both:
            entry["largest_difference"] = float(np.abs(vectors[entry["name"]] - vectors["bertcraft"]).max())
    return {
        "benchmark": "encode",
        "bertcraft": bertcraft.__version__,
        "machine": machine.description() | {"load_before": load},
        "versions": machine.versions(["numpy", "tokenizers", "sentence-transformers", "torch", "onnxruntime"]),
        "model": str(folder),
        "sentences": len(texts),
        "rounds": rounds,
        "contenders": entries,
        "notes": NOTES,
    }


def _contest(contenders, folder: Path, scratch: Path, rounds: int, report) -> dict[str, Outcome]:
    """The contest, after the graph for onnxruntime has been written in a process that is not measured."""
    *others, onnx = contenders
    if onnx.missing():
        return contest(contenders, rounds, report)
    try:
        measure((*MODULE, "export", str(folder), str(scratch)))
    except MeasurementFailed as error:
        failed = Outcome("failed", f"the export to ONNX: {error}")
        return contest(others, rounds, report) | {onnx.name: failed}
    return contest(contenders, rounds, report)


def _entry(contender: Contender, outcome: Outcome, count: int) -> dict:
    entry = {
        "name": contender.name,
        "title": contender.title,
        "status": outcome.status,
        "error": outcome.error,
    }
    if outcome.status != "ok":
        return entry
    rounds = [count / median(result["seconds"]) for result in outcome.rounds]
    return entry | {
        "sentences_per_second": median(rounds),
        "rounds_sentences_per_second": rounds,
        "peak_mb": max(result["peak_mb"] for result in outcome.rounds),
    }
