"""What the lab measured: one JSON file a technique, written run by run, whole at any moment."""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertcraft import machine
from bertcraft.data import cache
from bertcraft.errors import DataError
from bertcraft.lab import fingerprint, tuning
from bertcraft.lab.experiment import Arm, Experiment
from bertcraft.lab.tuning import Trial

FORMAT = "bertcraft results 2"
PACKAGES = ["bertcraft", "numpy", "scipy", "scikit-learn", "tokenizers"]


def default_folder() -> Path:
    """``results/`` of the source tree this runs from, else of the current folder."""
    tree = Path(__file__).parents[3]
    return (tree if (tree / "pyproject.toml").exists() else Path.cwd()) / "results"


class Results:
    """The trials and runs of one experiment, in the file ``folder/NN_slug.json``.

    A run is a dict: "arm", "seed", "settings" (the arm's, tuned), "code" and "kernels" (fingerprints), "figures", "seconds",
    "peak_mb" and "environment", the place of its environment in the file's list. A trial also has "values": the settings tried.
    "confirmed" lists which code was found to compute the same as an older one (:mod:`bertcraft.lab.confirm`).
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self.experiment, self.path = experiment, Path(folder) / f"{experiment.name}.json"

    def read(self) -> dict:
        """The whole file; one without runs where there is none. Raises DataError when it is damaged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"format": FORMAT, "experiment": self.experiment.name, "environments": [], "trials": [], "runs": []}
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

    def trials(self) -> list[dict]:
        """The trials that the experiment has today and that are not stale."""
        today = [_key(trial.arm, trial.seed) for trial in tuning.trials(self.experiment)]
        codes = self._codes()
        return [each for each in self.read()["trials"] if each["code"] in codes and _stored_key(each) in today]

    def settled(self, name: str) -> Arm | None:
        """An arm with the settings that its trials choose; None where trials are missing.

        Raises InputError where the best lies at an end of a grid.
        """
        values = tuning.chosen(self.experiment, name, self.trials())
        return None if values is None else tuning.with_settings(self.experiment.arm(name), values)

    def stale(self) -> list[dict]:
        """The stored runs in whose place today's code or settings would compute something else."""
        codes = self._codes()
        settled = {arm.name: self.settled(arm.name) for arm in self.experiment.arms}
        return [
            run for run in self.runs()
            if run["code"] not in codes or settled[run["arm"]] is None or run["settings"] != _plain(settled[run["arm"]].settings)
        ]  # fmt: skip

    def of_other_code(self) -> list[dict]:
        """The stored runs of code that is neither today's nor confirmed to compute the same."""
        codes = self._codes()
        return [run for run in self.runs() if run["code"] not in codes]

    def confirmed(self, was: str, code: str, arms: list[str]) -> None:
        """Note that replays of these arms by the code ``was`` and by ``code`` (fingerprints) gave the same figures."""
        with self._locked():
            content = self.read()
            noted = {"was": was, "code": code, "replayed": arms, "commit": _commit()}
            content["confirmed"] = [*content.get("confirmed", []), noted]
            _write(self.path, content)

    def same_as(self, code: str) -> set[str]:
        """A fingerprint, and those of older code that was confirmed to compute the same as it, or as code that was."""
        codes = {code}
        for noted in reversed(self.read().get("confirmed", [])):
            if noted["code"] in codes:
                codes.add(noted["was"])
        return codes

    def _codes(self) -> set[str]:
        return self.same_as(fingerprint.of(self.experiment))

    def missing_trials(self) -> list[Trial]:
        """The trials that a full experiment still has to run."""
        there = [_stored_key(each) for each in self.trials()]
        return [trial for trial in tuning.trials(self.experiment) if _key(trial.arm, trial.seed) not in there]

    def missing(self, seeds: int | None = None) -> list[tuple[Arm, int]]:
        """What a full experiment still has to run once its trials are there, with the settings they choose.

        The arms of the primary comparison come first, the others seed by seed: whenever it stops, the arms are paired.
        ``seeds``: of every arm, in place of the experiment's numbers.
        """
        experiment, stale = self.experiment, self.stale()
        there = {(run["arm"], run["seed"]) for run in self.runs() if run not in stale}
        most = max(experiment.seeds_of(arm) for arm in experiment.arms)

        def first(arm: Arm) -> bool:
            return seeds is None and experiment.seeds_of(arm) > experiment.seeds

        return [
            (self.settled(arm.name) or arm, seed)
            for now in (True, False)
            for seed in range(seeds or most)
            for arm in experiment.arms
            if first(arm) == now and seed < (seeds or experiment.seeds_of(arm)) and (arm.name, seed) not in there
        ]

    def add(self, arm: Arm, seed: int, measured: dict, environment: dict, values: dict | None = None) -> None:
        """Store a finished run in place of an older one of its arm and seed; with ``values``, a trial of its arm, seed and
        settings. ``measured``: figures, seconds, peak_mb."""
        with self._locked():
            content = self.read()
            environments = content["environments"]
            if environment not in environments:
                environments.append(environment)
            run = {
                "arm": arm.name, "seed": seed, "settings": _plain(arm.settings), "code": fingerprint.of(self.experiment),
                "kernels": fingerprint.kernels(), "environment": environments.index(environment), **measured,
            }  # fmt: skip
            part, same = "runs", lambda each: (each["arm"], each["seed"])
            if values is not None:
                run["values"] = values
                part, same = "trials", lambda each: (each["arm"], each["seed"], json.dumps(each["values"]))
            others = [each for each in content[part] if same(each) != same(run)]
            content[part] = sorted([*others, run], key=same)
            _write(self.path, content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with cache.lock(self.path.with_suffix(".lock")):
            yield


def _key(arm: Arm, seed: int) -> tuple:
    return arm.name, seed, _plain(arm.settings)


def _stored_key(run: dict) -> tuple:
    return run["arm"], run["seed"], run["settings"]


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
    """Replace a file by JSON with one trial or run a line, or leave it as it was."""
    text = json.dumps({key: value for key, value in content.items() if key not in ("trials", "runs")}, indent=1)[:-2]
    for part in ("trials", "runs"):
        lines = ",\n".join("  " + json.dumps(run, allow_nan=False) for run in content[part])
        text += f',\n "{part}": [\n{lines}\n ]' if lines else f',\n "{part}": []'
    text += "\n}\n"
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
