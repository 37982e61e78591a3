"""The training loop: it can be killed at any moment and resumed to the same bits.

The loop owns the parameters and the state of the update rule. Everything else is a function of the step: the
batch, the learning rate, every random number (:func:`generator`). So a run continued from a saved state takes
exactly the steps that the uninterrupted one would have taken.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertcraft.errors import InputError, TrainingError
from bertcraft.tensor import tree
from bertcraft.train.inplace import apply, global_norm
from bertcraft.train.rules import Rule
from bertcraft.train.state import check_signature, check_structure, load_state, save_state

_GO, _SAVE, _STOP = 0, 1, 2
_SKIPPED = 100  # steps in a row that a scaled loss may skip: halved as often, no scale of float16 is left
_SMOOTHING = 0.1  # weight of the newest step in the moving averages of time and tokens


class Progress(NamedTuple):
    """What a live display needs to know after a step. Steps before the run was resumed count too."""

    step: int  # steps done
    steps: int  # steps of the whole run
    loss: float
    gradient_norm: float  # before clipping
    tokens_per_second: float | None  # smoothed, without padding; None when batches have no "input_ids"
    seconds_left: float
    loss_scale: float | None = None  # of the next step; None where the loss is not scaled
    skipped: bool = False  # whether the step changed nothing, since a scaled gradient overflowed


class FitResult(NamedTuple):
    """A finished run. ``losses`` and ``gradient_norms`` are float64 (steps,), from the first step on; of a step that loss scaling
    skipped, they are not finite."""

    params: Any
    step: int
    losses: np.ndarray
    gradient_norms: np.ndarray
    evaluations: list[tuple[int, Any]]  # (steps done, what evaluate returned)
    seconds: float  # in the loop, those before resuming included


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a run after ``step`` steps; its state is in ``folder`` (None when the run had none)."""

    def __init__(self, folder: Path | None, step: int):
        super().__init__(f"interrupted after step {step}; " + (f"saved in {folder}" if folder else "not saved"))
        self.folder, self.step = folder, step


def generator(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of a step, whenever it is taken. Separate uses in a step take separate streams."""
    return np.random.default_rng((seed, step, stream))


@dataclass(frozen=True)
class Engine:
    """Where the steps are computed: this one takes trees of NumPy arrays as they are, in one process.

    - ``advance(params, rule_state, batch, step) -> (params, rule_state, loss, gradient_norm)``; where loss or norm is not
      finite, parameters and state come back as they were (with loss scaling, the state says so).
    - ``place(tree)`` puts NumPy arrays where ``advance`` wants them, ``host(tree)`` makes NumPy arrays of its.
    - ``agree(wish)``: 0 to go on, 1 to save, 2 to stop; several processes take the highest wish of any.
    - ``loss_scale(rule_state)``: that of the rule, None where the loss is not scaled.
    - ``share(tree)``: the tree of the first process, in all of them. ``rank``: which process this is; 0 keeps the state.
    """

    advance: Callable
    place: Callable = lambda tree: tree
    host: Callable = lambda tree: tree
    agree: Callable[[int], int] = lambda wish: wish
    share: Callable = lambda tree: tree
    rank: int = 0
    loss_scale: Callable | None = None


@dataclass
class _Run:
    """What is saved: all that one step hands on to the next."""

    step: int
    params: Any
    rule_state: Any
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    seconds: float = 0.0

    def save(self, folder: Path, signature: dict, engine: Engine) -> None:
        params, rule_state = engine.host(self.params), engine.host(self.rule_state)  # several processes give their parts
        if engine.rank:
            return
        if not math.isfinite(global_norm(params)):
            raise TrainingError(
                f"the parameters are not finite after step {self.step}, so that state was not saved. "
                "Lower the learning rate; the last good state, if one was saved, is intact"
            )
        history = {"losses": np.array(self.losses), "gradient_norms": np.array(self.gradient_norms)}
        metadata = {"signature": signature, "evaluations": self.evaluations, "seconds": self.seconds}
        save_state(folder, self.step, params, {"rule": rule_state, "history": history}, metadata)

    def resume(self, folder: Path, signature: dict, steps: int) -> None:
        """Continue from the state in the folder, if there is one of the same run."""
        saved = load_state(folder)
        if saved is None or saved[0] == 0:  # before its first step a run has learnt nothing, whatever it was
            return
        step, params, rule_state, metadata = saved
        check_signature(folder, metadata.get("signature", {}), signature)
        check_structure(folder, "parameter", params, self.params)
        check_structure(folder, "state of the update rule", rule_state["rule"], self.rule_state)
        if step > steps:
            raise TrainingError(f"the state in {folder} is after step {step}, but the run has only {steps} steps")
        self.step, self.params, self.rule_state = step, params, rule_state["rule"]
        self.losses = rule_state["history"]["losses"].tolist()
        self.gradient_norms = rule_state["history"]["gradient_norms"].tolist()
        self.evaluations = [tuple(evaluation) for evaluation in metadata["evaluations"]]
        self.seconds = metadata["seconds"]

    def shared(self, engine: Engine) -> None:
        """Take all from the first process, which has read the folder."""
        counts = engine.share(np.array([self.step, len(self.losses)]))
        history = np.array([self.losses, self.gradient_norms]) if engine.rank == 0 else np.zeros((2, int(counts[1])))
        history, seconds = engine.share(history), engine.share(np.array(self.seconds))
        self.params, self.rule_state = engine.share(self.params), engine.share(self.rule_state)
        self.step, self.seconds = int(counts[0]), float(seconds)
        self.losses, self.gradient_norms = history[0].tolist(), history[1].tolist()


def fit(
    step_function: Callable[[Any, Any, int], tuple[Any, Any]],
    params: Any,
    rule: Rule,
    make_batch: Callable[[int], Any],
    steps: int,
    *,
    seed: int,
    folder: str | Path | None = None,
    save_every_seconds: float = 30.0,
    signature: dict | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    evaluate_every: int | None = None,
    report: Callable[[Progress], None] | None = None,
    pool: Executor | None = None,
) -> FitResult:
    """Take ``steps`` training steps and return the parameters and what happened on the way.

    - ``step_function(params, batch, step) -> (loss, gradients)``: a scalar and a tree like ``params``. It
      must not keep or change ``params``: the loop overwrites them in place. Those passed to ``fit`` are
      copied. For a rule with a loss scale it takes that as a fourth argument: the gradients are those of the loss times it,
      the loss is not scaled.
    - ``make_batch(step) -> batch``, for steps from 0. Like the step function it depends on nothing but its
      arguments.
    - ``seed`` is part of what identifies the run; give it to :func:`generator` for whatever the functions
      above draw.
    - ``folder``: where the state is saved every ``save_every_seconds``, at the end and on Ctrl-C. If it holds
      a state with the same seed and ``signature`` (a JSON dict that says what is trained on what) the run
      continues from it.
    - ``evaluate(params)`` returns something JSON can hold; called after every ``evaluate_every`` steps and at
      the end.
    - ``report`` is called after each step. ``pool``, a ThreadPoolExecutor, shares the update out; results are
      the same.

    Raises TrainingError when a loss or gradient is not finite (before anything is updated; with loss scaling such a step is
    skipped, until the scale is below 1 and no gradient can be too large for its sake), when the state cannot be saved or
    belongs to another run; :class:`Interrupted` on Ctrl-C, once the step at hand is done
    and saved. A second Ctrl-C is an ordinary KeyboardInterrupt.
    """
    engine = numpy_engine(step_function, rule, pool)
    params = tree.map(lambda leaf: np.array(leaf, order="C"), params)
    return fit_on(
        engine, params, rule.init(params), make_batch, steps, seed=seed, folder=folder, save_every_seconds=save_every_seconds,
        signature=signature, evaluate=evaluate, evaluate_every=evaluate_every, report=report,
    )  # fmt: skip


def numpy_engine(step_function: Callable, rule: Rule, pool: Executor | None = None) -> Engine:
    """Gradients of a ``step_function`` as :func:`fit` takes it, an update in place."""

    def advance(params, rule_state, batch, step):
        scale = float(rule.loss_scale(rule_state)) if rule.loss_scale else None
        loss, gradients = step_function(params, batch, step, *(() if scale is None else (scale,)))
        gradients = tree.map(np.asarray, gradients)  # those of a jitted step are JAX arrays
        loss, norm = float(loss), global_norm(gradients, pool) / (scale or 1.0)
        if rule.loss_scale or (math.isfinite(loss) and math.isfinite(norm)):
            rule_state = apply(rule, gradients, rule_state, params, pool)
        return params, rule_state, loss, norm

    return Engine(advance, loss_scale=rule.loss_scale)


def fit_on(
    engine: Engine,
    params: Any,
    rule_state: Any,
    make_batch: Callable[[int], Any],
    steps: int,
    *,
    seed: int,
    folder: str | Path | None = None,
    save_every_seconds: float = 30.0,
    signature: dict | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    evaluate_every: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> FitResult:
    """:func:`fit` with steps computed by an engine, from parameters and a rule's state (NumPy arrays) that are given away.

    With several processes each calls it with the same arguments and its own part of each batch. The result's parameters are
    the engine's.
    """
    if steps < 0 or (evaluate_every is not None and evaluate_every < 1):
        raise InputError(f"steps must be 0 or more and evaluate_every 1 or more, got {steps} and {evaluate_every}")
    run = _Run(0, params, rule_state)
    signature = {"seed": seed, **(signature or {})}
    if folder is not None:
        folder = Path(folder)
        if engine.rank == 0:
            run.resume(folder, signature, steps)
        run.shared(engine)
    run.params, run.rule_state = engine.place(run.params), engine.place(run.rule_state)
    if folder is not None:
        run.save(folder, signature, engine)  # a folder that cannot be written is told now, not in half a minute

    saved = last = time.monotonic()
    seconds_a_step = tokens_a_step = None
    wish, skipped = _GO, 0
    with _deferred_interrupt() as interrupted:
        while run.step < steps and wish != _STOP:
            batch = make_batch(run.step)
            run.params, run.rule_state, loss, norm = engine.advance(run.params, run.rule_state, batch, run.step)
            scale = float(engine.loss_scale(run.rule_state)) if engine.loss_scale else None
            sound = math.isfinite(loss) and math.isfinite(norm)
            skipped = 0 if sound else skipped + 1
            if not sound and not (scale and scale >= 1 and skipped <= _SKIPPED):
                raise TrainingError(_not_finite(run, loss, norm, folder, signature, engine))
            run.step += 1
            run.losses.append(loss)
            run.gradient_norms.append(norm)
            if evaluate and (run.step == steps or (evaluate_every and run.step % evaluate_every == 0)):
                run.evaluations.append((run.step, evaluate(run.params)))

            now = time.monotonic()
            run.seconds += now - last
            seconds_a_step = _smooth(seconds_a_step, now - last)
            tokens_a_step = _smooth(tokens_a_step, _tokens(batch))
            last = now
            if report:
                rate = tokens_a_step and tokens_a_step / max(seconds_a_step, 1e-9)
                left = (steps - run.step) * seconds_a_step
                report(Progress(run.step, steps, loss, norm, rate, left, scale, not sound))
            due = folder is not None and now - saved >= save_every_seconds
            wish = engine.agree(_STOP if interrupted() else _SAVE if due else _GO)
            if wish == _SAVE:
                run.save(folder, signature, engine)
                saved = time.monotonic()

        if folder:
            run.save(folder, signature, engine)
        if wish == _STOP:
            raise Interrupted(folder, run.step)
    history = np.array(run.losses), np.array(run.gradient_norms)
    return FitResult(run.params, run.step, *history, run.evaluations, run.seconds)


def _not_finite(run: _Run, loss: float, norm: float, folder: Path | None, signature: dict, engine: Engine) -> str:
    """Save the state before a step that went wrong and say what happened."""
    last = next((each for each in reversed(run.losses) if math.isfinite(each)), None)
    before = "no finite loss before it" if last is None else f"the last finite loss was {last:.6g}"
    kept = "no folder was given, so nothing was saved"
    if folder:
        run.save(folder, signature, engine)
        kept = f"the last good state, after {run.step} steps, is kept in {folder}"
    return (
        f"training stopped in step {run.step + 1}: the loss is {loss:.6g} and the gradient norm {norm:.6g} "
        f"({before}); {kept}. Lower the learning rate, warm up longer or clip the gradients, in a new run"
    )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait until the caller asks whether it came; a second one raises KeyboardInterrupt.

    Python lets only the main thread decide about signals; elsewhere this does nothing.
    """
    pressed = []

    def note(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _tokens(batch: Any) -> int | None:
    if not isinstance(batch, dict) or "input_ids" not in batch:
        return None
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].size


def _smooth(average: float | None, value: float | None) -> float | None:
    return value if average is None or value is None else average + _SMOOTHING * (value - average)
