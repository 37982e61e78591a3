"""Whether a change of code leaves stored results as they are: every arm replayed by the old code and by today's.

A mended error message, or one more case that is refused, changes the fingerprint of an experiment, and need change no figure
of it. Both versions replay a run of every arm here, in processes of their own. Where all their figures are the same to the
last bit, the file of results says so, and its runs are stale no more.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from bertcraft.errors import InputError
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.results import Results

_REPLAYS = """
import json, sys
from dataclasses import replace
from bertcraft.lab import fingerprint
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import experiment
from bertcraft.lab.runner import replay_arm

own, runs = json.load(sys.stdin)
own, found = experiment(own), []
for name, seed, settings in runs:
    arm = replace(own.arm(name), settings=settings)
    found.append(replay_arm(own, arm, seed, Context()))
    print(f"{name} seed {seed}", file=sys.stderr, flush=True)
print(json.dumps([fingerprint.of(own), found]))
"""


def confirm(experiment: Experiment, results: Results, commit: str) -> int:
    """Hold today's code to that of a commit, and note in the file of results that both compute the same; how many replays agreed.

    A run of every arm is replayed, the cheapest that is stale. Raises InputError where no run is stale by its code, where the
    commit's code is neither that of the runs nor confirmed to compute the same, and where a figure differs: then they have to be
    measured again.
    """
    runs = {}
    for run in sorted(results.of_other_code(), key=lambda run: run["seconds"]):
        runs.setdefault(run["arm"], run)
    if not runs:
        raise InputError(f"{experiment.name}: no stored run is of other code than today's; there is nothing to confirm")
    asked = json.dumps([experiment.slug, [[run["arm"], run["seed"], run["settings"]] for run in runs.values()]])
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        old, were = _replayed(_source(here.parent, commit, Path(folder)), asked)
    stored = {run["code"] for run in runs.values()}
    if not stored <= results.same_as(old):
        raise InputError(
            f"{experiment.name}: the runs are of the code {', '.join(sorted(stored))}, that of {commit} is {old}: name the last "
            "commit before the change"
        )
    new, are = _replayed(here, asked)
    differing = [arm for arm, one, other in zip(runs, were, are, strict=True) if one != other]
    if differing:
        raise InputError(
            f"{experiment.name}: today's code gives other figures than that of {commit} in {', '.join(differing)}: "
            f"bertcraft run {experiment.number:02d} --full measures it again"
        )
    results.confirmed(old, new, list(runs))
    return len(runs)


def _source(root: Path, commit: str, folder: Path) -> Path:
    """The package of a commit, unpacked into a folder."""
    packed = subprocess.run(["git", "archive", "--format=tar", commit, "src"], cwd=root, capture_output=True)
    if packed.returncode:
        raise InputError(f"{commit!r} is no commit of {root} with a source: {packed.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def _replayed(source: Path, asked: str) -> tuple[str, list[dict]]:
    """The fingerprint of the code in a folder, and the figures of the replays that it was asked for."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-c", _REPLAYS], input=asked, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"the code in {source} cannot replay the runs: {last}")
    code, figures = json.loads(done.stdout.splitlines()[-1])
    return code, figures
