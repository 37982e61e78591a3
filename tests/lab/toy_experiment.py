"""A small experiment for the tests of the machinery: run by real worker processes, so it is a module of its own."""

import math
import os
import time

import numpy as np

from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Experiment, Metric, Tuning


def run(arm, seed, context):
    shared = np.random.default_rng(seed).normal()
    for step in range(5):
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")) / 5)
        context.report(step + 1, 5, f"step {step + 1}")
    if log := os.environ.get("TOY_LOG"):
        with open(log, "a") as file:
            file.write(f"{arm.name} {seed} {arm.settings.get('rate')}\n")
    missed = (math.log10(arm.settings.get("rate", 1e-2)) + 2) ** 2  # 1e-2 is best
    effect = arm.settings["effect"] * (1 + 1e-8 * seed)  # a spread too small to be printed
    return {"loss": math.exp(shared / 10) + effect + missed, "note": [arm.name]}


def replay(arm, seed, context):
    return {"loss": run(arm, seed, context)["loss"]}


RATES = {"rate": (1e-3, 1e-2, 1e-1)}

EXPERIMENT = Experiment(
    number=1,
    slug="roberta_optimizations",
    title="Toy",
    question="does the machinery work?",
    scale="one number",
    claim=Claim("+1", "nothing", "nowhere"),
    arms=(
        Arm("plain", "plain", {"effect": 0.0}),
        Arm("better", "better", {"effect": -0.25}),
        Arm("untrained", "untrained", {"effect": 1.0}, trivial=True),
    ),
    metrics={"loss": Metric("loss", "nats")},
    checks=(Check("has learnt", ("plain", "better"), "loss", most=-0.5, against="untrained", unit="nats"),),
    tuning=Tuning({"plain": RATES, "better": RATES}, {}, "loss", better=-1),
    comparisons=(Comparison("better against plain", "better", "plain", "loss", better=-1),),
    run=run,
    replay=replay,
    minutes=1,
    seeds=2,
    primary_seeds=3,
    figures="toy_figures",
)
