"""Runs the whole toy experiment: ``python full_toy.py RESULTS SCRATCH JOBS [SCHEDULER]``."""

import sys
from pathlib import Path

import toy_experiment

from bertcraft.lab.results import Results
from bertcraft.lab.runner import run_all

if __name__ == "__main__":
    results = Results(toy_experiment.EXPERIMENT, Path(sys.argv[1]))
    scheduler = (sys.argv[4:] or [None])[0]
    print(run_all(results, command="toy", jobs=int(sys.argv[3]), scratch=Path(sys.argv[2]), scheduler=scheduler))
