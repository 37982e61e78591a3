"""What the lab measured: one JSON file a technique, written run by run, whole at any moment."""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bertcraft.bench import machine
from bertcraft.data import cache
from bertcraft.errors import DataError
from bertcraft.lab import fingerprint, statistics
from bertcraft.lab.experiment import Arm, Comparison, Experiment

FORMAT = "bertcraft results 1"
PACKAGES = ["bertcraft", "numpy", "scipy", "scikit-learn", "tokenizers"]


def default_folder() -> Path:
    """``results/`` of the source tree this runs from, else of the current folder."""
    tree = Path(__file__).parents[3]
    return (tree if (tree / "pyproject.toml").exists() else Path.cwd()) / "results"


class Results:
    """The runs of one experiment, in the file ``folder/NN_slug.json``.

    A run is a dict: "arm", "seed", "settings" (the arm's), "code" (fingerprint), "figures", "seconds", "peak_mb" and
    "environment", the place of its environment in the file's list.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self.experiment, self.path = experiment, Path(folder) / f"{experiment.name}.json"

    def read(self) -> dict:
        """The whole file; one without runs where there is none. Raises DataError when it is damaged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"format": FORMAT, "experiment": self.experiment.name, "environments": [], "runs": []}
        except ValueError as error:
            raise DataError(f"{self.path} is not JSON ({error}): restore it, or remove it to measure again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{self.path} is not a file of results ({FORMAT!r}): restore it, or remove it to measure again")
        return content

    def runs(self) -> list[dict]:
        """The runs of the arms that the experiment has today, by arm and seed; stale ones too."""
        place = {arm.name: i for i, arm in enumerate(self.experiment.arms)}
        known = [run for run in self.read()["runs"] if run["arm"] in place]
        return sorted(known, key=lambda run: (place[run["arm"]], run["seed"]))

    def is_stale(self, run: dict) -> bool:
        """Whether today's code or settings would compute something else."""
        arm = self.experiment.arm(run["arm"])
        return run["code"] != fingerprint.of(self.experiment) or run["settings"] != _plain(arm.settings)

    def missing(self, seeds: int) -> list[tuple[Arm, int]]:
        """What a full experiment still has to run, seed by seed: whenever it stops, the arms are paired."""
        there = {(run["arm"], run["seed"]) for run in self.runs() if not self.is_stale(run)}
        return [(arm, seed) for seed in range(seeds) for arm in self.experiment.arms if (arm.name, seed) not in there]

    def add(self, arm: Arm, seed: int, measured: dict, environment: dict) -> None:
        """Store a finished run in place of an older one of its arm and seed. ``measured``: figures, seconds, peak_mb."""
        with self._locked():
            content = self.read()
            environments = content["environments"]
            if environment not in environments:
                environments.append(environment)
            run = {
                "arm": arm.name, "seed": seed, "settings": _plain(arm.settings),
                "code": fingerprint.of(self.experiment), "environment": environments.index(environment), **measured,
            }  # fmt: skip
            others = [each for each in content["runs"] if (each["arm"], each["seed"]) != (arm.name, seed)]
            content["runs"] = sorted([*others, run], key=lambda each: (each["arm"], each["seed"]))
            _write(self.path, content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with cache.lock(self.path.with_suffix(".lock")):
            yield


def compare(comparison: Comparison, runs: Sequence[dict]) -> tuple[statistics.Interval, str] | None:
    """The interval of a comparison over the seeds that both arms have run, and its verdict; None where there is none."""
    found = {(run["arm"], run["seed"]): run["figures"].get(comparison.metric) for run in runs}
    pairs = [
        (value, found[comparison.baseline, seed])
        for (arm, seed), value in sorted(found.items())
        if arm == comparison.treatment and value is not None and found.get((comparison.baseline, seed)) is not None
    ]
    if not pairs:
        return None
    paired = statistics.paired_ratio if comparison.ratio else statistics.paired
    interval = paired(*map(list, zip(*pairs, strict=True)))
    return interval, statistics.verdict(interval, comparison.claimed, 1.0 if comparison.ratio else 0.0)


def environment(command: str) -> dict:
    """What a run's figures may depend on besides its code: versions, CPU, commit; and the command that made it."""
    return {
        "cpu": machine.description()["cpu"],
        "blas": _blas(),
        "python": platform.python_version(),
        "versions": machine.versions(PACKAGES),
        "commit": _commit(),
        "command": command,
    }


def _blas() -> str:
    import numpy  # noqa: F401  its BLAS is what is asked about
    from threadpoolctl import threadpool_info

    blas = next((library for library in threadpool_info() if library["user_api"] == "blas"), {})
    return " ".join(blas[key] for key in ("internal_api", "version", "architecture") if blas.get(key))


def _commit() -> str | None:
    """The commit of the source tree, with a plus where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "--", here.parent], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _plain(value):
    """A value as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def _write(path: Path, content: dict) -> None:
    """Replace a file by JSON with one run a line, or leave it as it was."""
    head = {key: value for key, value in content.items() if key != "runs"}
    runs = ",\n".join("  " + json.dumps(run, allow_nan=False) for run in content["runs"])
    text = json.dumps(head, indent=1)[:-2] + f',\n "runs": [\n{runs}\n ]\n}}\n'
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; the runs stored before are intact") from None
