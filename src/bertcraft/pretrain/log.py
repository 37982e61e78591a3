"""What a long run tells of itself: JSON lines in its folder, and TensorBoard's events where that is installed."""

import importlib.util
import json
import math
import time
from pathlib import Path

from bertcraft.bert.checkpoint_files import replace_files
from bertcraft.train.loop import Progress


class Log:
    """Appends to ``metrics.jsonl`` in a folder; lines after the step at which a run goes on are dropped first."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / "metrics.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):  # the last line of a process that was killed
                    continue
        content = "".join(kept).encode()
        replace_files(folder, {self._path.name: lambda path: path.write_bytes(content)})  # the lines of days are not risked
        self._file = open(self._path, "a", encoding="utf-8")
        self._board = _board(folder, step)

    def write(self, progress: Progress, held_out: dict | None = None) -> None:
        """One line: step, loss (nats, at all chosen positions of the batch), gradient norm, tokens a second; and where held-out
        text was looked at, held_out_loss (nats) and held_out_accuracy, both at [MASK]; and where the loss is scaled, loss_scale
        (of the next step) and whether the step was skipped. None for what is not finite then.
        """
        line = {
            "step": progress.step, "loss": _finite(progress.loss), "gradient_norm": _finite(progress.gradient_norm),
            "tokens_per_second": progress.tokens_per_second,
        }  # fmt: skip
        if progress.loss_scale is not None:
            line |= {"loss_scale": progress.loss_scale, "skipped": progress.skipped}
        if held_out:
            line |= {"held_out_loss": held_out["loss"], "held_out_accuracy": held_out["accuracy"]}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board:
            self._board.add_event(_event(line, progress.step))
            self._board.flush()  # a state that is saved next must not be ahead of what is told of it

    def close(self) -> None:
        """Finish both."""
        self._file.close()
        if self._board:
            self._board.close()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _board(folder: Path, step: int):
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    board = EventFileWriter(str(folder / "tensorboard"))
    # a reader drops what an interrupted run wrote from this step on
    board.add_event(Event(step=step + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
    return board


def _event(line: dict, step: int):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step" and value is not None]
    return Event(step=step, wall_time=time.time(), summary=Summary(value=values))
