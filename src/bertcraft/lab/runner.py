"""Running an experiment: one seed to look at, or every arm at every seed, in processes, stored as each run finishes."""

import hashlib
import importlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from bertcraft.data import cache
from bertcraft.errors import InputError
from bertcraft.lab import fingerprint
from bertcraft.lab.experiment import Arm, Context, Experiment
from bertcraft.lab.results import Results, environment
from bertcraft.machine import peak_memory

Told = Callable[[str, int, float, str], None]  # arm, seed, share done (0 to 1), text

_PROGRESS = "progress.json"


def run_arm(experiment: Experiment, arm: Arm, seed: int, context: Context) -> dict:
    """One run: "figures", "seconds" and "peak_mb" (of the process, so a bound where it ran others before).

    Raises InputError when the figures are not those that the experiment declares.
    """
    from bertcraft.tensor.parallel import one_blas_thread

    start = time.perf_counter()
    with one_blas_thread():  # a matrix product may round differently on several
        figures = experiment.run(arm, seed, context)
    figures = json.loads(json.dumps(figures, allow_nan=False))
    expected = [*experiment.metrics, *([experiment.tuning.figure] if experiment.tuning else [])]
    if not any(name in figures for name in expected):
        raise InputError(f"{experiment.slug}/{arm.name} returned {sorted(figures)}: none of the metrics it declares")
    seconds = time.perf_counter() - start
    return {"figures": figures, "seconds": round(seconds, 1), "peak_mb": round(peak_memory())}


def replay_arm(experiment: Experiment, arm: Arm, seed: int, context: Context) -> dict:
    """Some of a run's figures again, in seconds, as :func:`run_arm` computes them: to be held to the stored ones."""
    from bertcraft.tensor.parallel import one_blas_thread

    with one_blas_thread():
        return json.loads(json.dumps(experiment.replay(arm, seed, context), allow_nan=False))


def run_all(
    results: Results,
    *,
    command: str,
    jobs: int = 1,
    seeds: int | None = None,
    scheduler: str | None = None,
    scratch: Path = Path("runs"),
    told: Told = lambda *_: None,
    stored: Callable[[str, int, dict], None] = lambda *_: None,
) -> int:
    """Run what the full experiment still lacks and store each run as it finishes; returns how many were run.

    The trials come first, then the runs with the settings that they choose: InputError where a best one lies at an end of its
    grid. ``jobs`` processes at a time on this machine, or on the workers of a Dask ``scheduler`` ("tcp://host:port"). States to
    resume from are kept in ``scratch``. ``told`` is called about once a second while runs are under way; ``stored`` after
    each. Killed at any moment, the same call goes on: no run that was stored is run again. Results do not depend on jobs.
    DataError where another process is running the same experiment with the same ``scratch``: they would share their states.
    """
    here = environment(command)
    folder = Path(scratch).absolute() / "full" / results.experiment.name

    def do(work: list[tuple[Arm, int, dict | None]]) -> int:
        return _run_each(results, work, here, folder, jobs, scheduler, told, stored)

    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{results.experiment.name} is being run by another process, which keeps its states in {folder}: wait, or stop it"
    with cache.lock(folder.with_suffix(".lock"), busy):
        done = do([(trial.arm, trial.seed, trial.values) for trial in results.missing_trials()])
        done += do([(arm, seed, None) for arm, seed in results.missing(seeds)])
        shutil.rmtree(folder, ignore_errors=True)
    return done


def _run_each(
    results: Results, work: list[tuple[Arm, int, dict | None]], here: dict, folder: Path, jobs: int, scheduler: str | None,
    told: Told, stored: Callable[[str, int, dict], None],
) -> int:  # fmt: skip
    from joblib import Parallel, delayed

    if not work:
        return 0
    module = results.experiment.run.__module__  # where a worker finds it
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, told, finished), daemon=True)
    watcher.start()
    try:
        with _backend(scheduler, jobs) as options:
            parallel = Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", **options)
            folders = [_run_folder(folder, arm, seed, values) for arm, seed, values in work]
            calls = (
                delayed(_in_worker)(module, place, arm.name, arm.settings, seed, str(folders[place]), _label(arm.name, values))
                for place, (arm, seed, values) in enumerate(work)
            )
            for place, measured in parallel(calls):
                arm, seed, values = work[place]
                results.add(arm, seed, measured, here, values)
                shutil.rmtree(folders[place], ignore_errors=True)
                stored(_label(arm.name, values), seed, measured)
    finally:
        finished.set()
        watcher.join()
    return len(work)


def _label(arm: str, values: dict | None) -> str:
    return arm if values is None else f"{arm} {' '.join(f'{value:g}' for value in values.values())}"


def _backend(scheduler: str | None, jobs: int) -> AbstractContextManager[dict]:
    """A context that gives joblib's options: processes of this machine, or a Dask cluster."""

    @contextmanager
    def local() -> Iterator[dict]:
        yield {"n_jobs": jobs, "backend": "loky", "initializer": _end_with_parent, "initargs": (os.getpid(),)}

    @contextmanager
    def cluster() -> Iterator[dict]:
        try:
            from distributed import Client
        except ImportError:
            raise InputError("--scheduler needs Dask: pip install distributed") from None
        from joblib import parallel_config

        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {scheduler}: {error}") from None
        with client, parallel_config(backend="dask", wait_for_workers_timeout=30):
            yield {"n_jobs": -1}

    return cluster() if scheduler else local()


def _run_folder(folder: Path, arm: Arm, seed: int, values: dict | None) -> Path:
    """Where a run or trial keeps its state; the digest of ``_in_worker`` keeps apart those of different code."""
    return folder / f"{_label(arm.name, values).replace(' ', '_')}_seed{seed}"


def _in_worker(module: str, place: int, arm_name: str, settings: dict, seed: int, folder: str, label: str) -> tuple[int, dict]:
    """One run in a process of its own, told of as ``label``; gives back its place among the work."""
    experiment: Experiment = importlib.import_module(module).EXPERIMENT
    arm = replace(experiment.arm(arm_name), settings=settings)
    own = Path(folder)
    version = hashlib.sha256(json.dumps([fingerprint.of(experiment), fingerprint.kernels(), settings]).encode()).hexdigest()
    if own.exists() and not (own / version).exists():  # the state of other code
        shutil.rmtree(own)
    (own / version).mkdir(parents=True, exist_ok=True)
    last = 0.0

    def report(done: float, total: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            line = {"arm": label, "seed": seed, "share": done / max(total, 1e-9), "text": text}
            temporary = own / f"{_PROGRESS}-new"
            temporary.write_text(json.dumps(line), encoding="utf-8")
            os.replace(temporary, own / _PROGRESS)

    return place, run_arm(experiment, arm, seed, Context(folder=own / version, report=report))


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it has been killed: its result could go nowhere, and its state would be
    written by two."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch(folder: Path, told: Told, finished: threading.Event) -> None:
    """Tell what the runs under way last reported, once a second."""
    while not finished.wait(1):
        for path in sorted(folder.glob(f"*/{_PROGRESS}")):
            try:
                line = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            told(line["arm"], line["seed"], line["share"], line["text"])
