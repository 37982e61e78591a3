"""Contenders in turn: each measurement in a process of its own, in rounds A B C A B C.

Drift of the machine then hits all alike.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bertcraft.errors import BertcraftError
from bertcraft.machine import child_environment

TIMEOUT = 900.0  # seconds for one measurement, compilation included


@dataclass(frozen=True)
class Contender:
    """What is measured: ``command`` are the arguments after ``python``; it prints one line of JSON at its
    end.

    ``packages``: what must be installed, by pip's name and by the name under which it is imported.
    """

    name: str
    title: str
    command: tuple[str, ...]
    packages: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """pip's names of the packages that are not installed."""
        return [pip for pip, module in self.packages.items() if importlib.util.find_spec(module) is None]


@dataclass
class Outcome:
    """What became of a contender: ``status`` is "ok", "failed" or "not installed", ``error`` says why.

    ``rounds`` holds what it printed in each round.
    """

    status: str = "ok"
    error: str | None = None
    rounds: list[dict] = field(default_factory=list)


class MeasurementFailed(BertcraftError):
    """A measuring process ended without a result; the message is its last error line."""


def contest(
    contenders: Sequence[Contender],
    rounds: int,
    report: Callable[[int, Contender], None],
    timeout: float = TIMEOUT,
) -> dict[str, Outcome]:
    """Measure every contender once a round. One that fails is left out of later rounds; the others go on.

    ``report(round, contender)`` is called before each measurement, with rounds from 1.
    """
    outcomes = {contender.name: Outcome() for contender in contenders}
    for contender in contenders:
        if missing := contender.missing():
            outcomes[contender.name] = Outcome("not installed", f"pip install {' '.join(missing)}")
    for number in range(1, rounds + 1):
        for contender in contenders:
            outcome = outcomes[contender.name]
            if outcome.status != "ok":
                continue
            report(number, contender)
            try:
                outcome.rounds.append(measure(contender.command, timeout))
            except MeasurementFailed as error:
                outcome.status, outcome.error = "failed", str(error)
    return outcomes


def measure(command: Sequence[str], timeout: float = TIMEOUT) -> dict:
    """Run ``python *command`` and return the JSON object on the last line that it prints.

    Raises MeasurementFailed when it fails, takes too long or prints none. The process and all that it started
    are killed when it takes too long or when this function is interrupted.
    """
    # -P: a file called torch.py in the current folder is not run.
    with subprocess.Popen(
        [sys.executable, "-P", *command], env=child_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException as error:
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise MeasurementFailed(f"took more than {timeout:g} s") from None
            raise
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise MeasurementFailed(f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""))
    if process.returncode:
        raise MeasurementFailed(last_error(errors))
    try:
        return json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise MeasurementFailed(f"printed no result but {output.strip()[-200:]!r}") from None


def _kill(process: subprocess.Popen) -> None:
    """Kill a process and what it has started, such as compilers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def last_error(errors: str) -> str:
    """What went wrong, from an error output: the last line that names an exception, or the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["it said nothing"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (named or lines)[-1][:300]
