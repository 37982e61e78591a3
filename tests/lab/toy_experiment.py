"""A small experiment for the tests of the machinery: run by real worker processes, so it is a module of its own."""

import math
import os
import time
from pathlib import Path

import numpy as np

from bertcraft.lab.experiment import Arm, Claim, Comparison, Experiment, Metric


def run(arm, seed, context):
    shared = np.random.default_rng(seed).normal()
    for step in range(5):
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")) / 5)
        context.report(step + 1, 5, f"step {step + 1}")
    if log := os.environ.get("TOY_LOG"):
        with open(log, "a") as file:
            file.write(f"{arm.name} {seed}\n")
    return {"loss": math.exp(shared / 10) + arm.settings["effect"], "note": [arm.name]}


def replay(arm, seed, context):
    return run(arm, seed, context)


def show_plots(folder: Path, runs, experiment):
    return []


EXPERIMENT = Experiment(
    number=1,
    slug="roberta_optimizations",
    title="Toy",
    question="does the machinery work?",
    claim=Claim("+1", "nothing", "nowhere"),
    arms=(Arm("plain", "plain", {"effect": 0.0}), Arm("better", "better", {"effect": -0.25})),
    metrics={"loss": Metric("loss", "nats")},
    comparisons=(Comparison("better against plain", "better", "plain", "loss", -1),),
    run=run,
    replay=replay,
    show=show_plots,
    minutes=1,
    seeds=3,
)
