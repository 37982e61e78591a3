# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 09. Learning-rate schedules: travel first, then settle
#
# A large learning rate travels fast but cannot stand still. A small one stands still but does not travel. So rates fall towards the
# end of a training. They also rise at its start, for another reason. You will derive why they fall, measure why they rise, hold each
# schedule against `transformers` and torch, and learn what to do when nobody can tell you how long a training will be.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for the training loop and [its second part](00_foundations_2.ipynb) for
# intervals. The sections take 200 minutes, 75 of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import advanced_scheduling as technique
from bertcraft.train import schedules

lesson = open_lesson("advanced_scheduling")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)

# %%
lesson.claim()

# %% [markdown]
# No paper promises a figure. What models were really trained with:
#
# | | highest rate | warm-up | then |
# | --- | --- | --- | --- |
# | [first transformer](https://arxiv.org/abs/1706.03762) (2017) | 0.0007 | 4,000 of 100,000 steps | inverse square root |
# | [BERT](https://arxiv.org/abs/1810.04805) (2018) | 0.0001 | 10,000 of 1,000,000 steps | line to 0 |
# | [RoBERTa](https://arxiv.org/abs/1907.11692), large (2019) | 0.0004 | 30,000 of 500,000 steps | line to 0 |
# | [ModernBERT](https://arxiv.org/abs/2412.13663), base (2024) | 0.0008 | 3 of 1,700 billion tokens | flat; the fall comes last |
#
# The claim to test: **does a rate that falls to zero leave a better model than one that stays, each at the highest
# rate that suits it?** At one highest rate you would compare rates, not schedules.
#
# Eight schedules with the same highest rate, 1. Part 3 defines them:

# %%
T, WARMUP = 1000, 100  # steps of a training, and of its warm-up: try 1 and 400
STEPS = np.arange(T + 1)


def rates(schedule):
    """The rate of each step from 0 to T."""
    return np.array([float(schedule(step)) for step in STEPS])


# %% alt="Eight small panels of the rate over 1,000 steps, each rising to 1 in 100 steps. Constant: stays. Linear: a straight line to 0. Cosine: half a cosine to 0. Polynomial: falls steeply first, 0 at the end. Inverse square root: falls to 0.32. Stable, then down: stays until step 800, then a line to 0. Cosine with restarts: four half cosines, each from 1. One cycle: starts at 0.04, down along a cosine."
TITLES = {"constant_with_warmup": "constant", "inverse_sqrt": "inverse square root", "warmup_stable_decay": "stable, then down",
          "cosine_with_restarts": "cosine, restarts", "one_cycle": "one cycle"}  # fmt: skip
NAMES = ("constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt", "warmup_stable_decay",
         "cosine_with_restarts", "one_cycle")  # fmt: skip
with style.shown(columns=8, width=11.0, height=1.7) as panels:
    for ax, name in zip(panels, NAMES, strict=True):
        ax.plot(STEPS, rates(technique.named(name, 1.0, WARMUP, T)), color=style.COLOURS[1])
        ax.set(ylim=(0, 1.05), xlim=(0, T), xticks=(0, T), yticks=(0, 1))
        ax.set_title(TITLES.get(name, name), fontsize=8)
        ax.set_xlabel("step", fontsize=8)
    panels[0].set_ylabel("rate")

# %% [markdown]
# ## 2. Background and motivation (10 minutes)
#
# Robbins and Monro proved in 1951 that noisy steps arrive if they become shorter, neither too fast nor too slowly. Deep networks had
# a rate that somebody divided by ten when the loss stood still. Why does that help? Here is a valley, steep across and nearly flat
# along. Each gradient is off by a random amount, as that of a batch is. The minimum is at the cross.

# %% alt="Three panels of contours of a long valley, with the path of 150 updates from its left end. Rate 0.6: it soon reaches the cross and goes on jumping across the valley. Rate 0.1: it stays near the bottom but has come little more than half the way. A line from 0.6 to zero: it jumps at first, less and less, and comes to rest a little before the cross."
CURVATURE, START, NOISE, MOVES = np.array([1.0, 0.06]), np.array([2.0, -10.0]), np.array([1.0, 0.2]), 150  # across, along
SHOWN = {"0.6, constant": schedules.constant(0.6), "0.1, constant": schedules.constant(0.1),
         "0.6, line to zero": schedules.warmup_linear(0.6, 0, MOVES)}  # fmt: skip
across, along = np.meshgrid(np.linspace(-3, 3, 60), np.linspace(-12, 4, 60))
with style.shown(columns=3, width=10.0, height=2.5) as panels:
    for ax, (title, schedule) in zip(panels, SHOWN.items(), strict=True):
        w, path, rng = START, [START], np.random.default_rng(3)
        for step in range(MOVES):
            w = w - float(schedule(step)) * (CURVATURE * w + NOISE * rng.standard_normal(2))
            path.append(w)
        loss = 0.5 * (CURVATURE[0] * across**2 + CURVATURE[1] * along**2)
        ax.contour(along, across, loss, levels=6, colors="0.8", linewidths=0.8)
        ax.plot(*np.array(path).T[::-1], color=style.COLOURS[1], lw=0.8, marker=".", ms=2.5)
        ax.plot(0, 0, "+", color="black", ms=10, mew=2)
        ax.set(title=title, xlabel="along the valley", ylim=(-3, 3))
    panels[0].set_ylabel("across")

# %% [markdown]
# Along the valley a large rate is needed, across it a small one. One number serves both, so it is first large and then small.
#
# Where the rate comes in: **Adam** ([lesson 14](14_weight_decay.ipynb)) keeps two running means, $m$ of the gradients and $u$ of
# their squares. $m/\sqrt u$ is the *direction* of an update; the rate says how far along it to go.

# %% alt="The step counter, saved with the model, goes into the schedule, new, which gives the rate, one number. A batch gives a gradient, which goes into Adam's means, and these into a direction, both of the shape of the parameters. Rate times direction is the update, which goes to the parameters."
with drawing.schematic(columns=5, rows=2, width=10.0, row_height=1.0) as s:
    counter = s.box("step $t$, from 0\nsaved with the model", at=(0, 0), kind="data")
    schedule_box = s.box("schedule", at=(1.6, 0), kind="new")
    batch = s.box("batch", at=(0, 1), kind="data")
    gradient = s.box("gradient", at=(1, 1))
    adam = s.box("Adam's means\n$m_t$, $u_t$", at=(2.1, 1))
    update = s.box("update", at=(3.1, 0.5))
    params = s.box("parameters", at=(4, 0.5), kind="data")
    s.arrow(counter, schedule_box, "one integer", kind="new")
    s.arrow(schedule_box, update, r"rate $\eta_t$, one number", kind="new")
    s.arrow(batch, gradient)
    s.arrow(gradient, adam, "$g_t$ (P,)")
    s.arrow(adam, update, "direction (P,)")
    s.arrow(update, params, "(P,)")

# %% [markdown]
# A schedule is only a function from the counter to a number. What goes wrong is the counter: where it begins and ends, what it
# counts, whether it survives.
#
# ## 3. Mathematical foundation (30 minutes)
#
# ### Why the rate has to fall
#
# One direction of the valley: a weight $w$ with the loss $\frac12\kappa w^2$; $\kappa$ is its curvature. Its gradient is $\kappa
# w$, that of a batch $\kappa w+\sigma\zeta$ with noise $\zeta$ of mean 0 and variance 1. Square the step
# $w_{t+1}=w_t-\eta_t(\kappa w_t+\sigma\zeta)$ and take the mean over the noise, $\mathbb E$. The noise does not depend on $w_t$,
# so the mixed term is 0:
#
# $$\mathbb E\,w_{t+1}^2=(1-\eta_t\kappa)^2\;\mathbb E\,w_t^2+\eta_t^2\sigma^2\tag{1}$$
#
# The first term *travels*: the distance shrinks by the factor $1-\eta\kappa$ a step, to about a third in $1/(\eta\kappa)$ steps.
# The second *shakes*. With a constant rate (below $2/\kappa$: above, it blows up) the two balance where $\mathbb E\,w^2$ no longer
# changes:
#
# $$\mathbb E\,w^2=\frac{\eta\,\sigma^2}{\kappa\,(2-\eta\kappa)},\qquad\text{a loss of }\;
# \frac{\eta\,\sigma^2}{2(2-\eta\kappa)}\approx\frac{\eta\sigma^2}{4}.\tag{2}$$
#
# The loss that is left is nearly proportional to the rate, and no further steps lower it.
#
# **By hand**: $\kappa=1$, $\sigma=1$. With $\eta=0.5$ the loss ends at $0.5/3=0.167$, with $\eta=0.05$ at $0.05/3.9=0.013$. But
# where $\kappa=0.06$, the first needs some 33 steps, the second 333.
#
# ### The shapes
#
# With $T_w$ steps of warm-up, $T$ in all, a highest rate $\hat\eta$, a power $a$ (2 on this page), and $x$ for the share of the fall
# that is done:
#
# $$\eta_t=\hat\eta\,\frac{t}{T_w}\quad(t<T_w),\qquad\text{then with}\quad x=\frac{t-T_w}{T-T_w}\tag{3}$$
#
# $$\text{line: }\hat\eta\,(1-x)\qquad\text{cosine: }\hat\eta\,\frac{1+\cos\pi x}{2}\qquad
# \text{polynomial: }\hat\eta\,(1-x)^a\qquad\text{inverse square root: }\hat\eta\sqrt{T_w/t}\tag{4}$$
#
# *Stable, then down* (warm-up-stable-decay) stays at $\hat\eta$ and falls in its last steps only, here a fifth. *Restarts* repeat a
# cosine (SGDR). *One cycle* rises from $\hat\eta/25$ and falls to a ten-thousandth of that.
#
# ### Which step is the last?
#
# $T$ updates are the steps $0,1,\dots,T-1$. By (3) and (4), and in `transformers`, a fall arrives at 0 in step $T$: *after* the last
# update. torch's one cycle ends *at* the last update, step $T-1$. Mix them up, and the last update does nothing, or a run that should
# end at 0 does not.
#
# **By hand**: $T=4$, $T_w=1$. The line has the rates $0,\,1,\,\frac23,\,\frac13$: its *first* update does nothing.
#
# ### Why the rate has to rise
#
# Adam's means start at 0. After $t$ updates $m$ is divided by $1-\beta_1^t$ and $u$ by $1-\beta_2^t$, the weights they hold so far
# (*bias correction*). After the first, both hold one gradient, and, but for $\epsilon$,
#
# $$\Delta w=-\eta\,\frac{m}{\sqrt u}=-\eta\,\frac{g}{\sqrt{g^2}}=-\eta\,\operatorname{sign}(g).\tag{5}$$
#
# **Every** parameter moves by the whole rate, also where the gradient is mostly noise. Later $m$ averages noise out and $\sqrt u$
# does not: updates get shorter by themselves.
#
# Early on, $u$ itself is a mean of few squares, and $1/\sqrt u$ scatters. Of how many? A square that is $k$ steps old weighs
# $\beta_2^k$. The mean age after $t$ updates is
#
# $$\bar k_t=\frac{\sum_{k=0}^{t-1}k\,\beta_2^k}{\sum_{k=0}^{t-1}\beta_2^k}
# =\frac{\beta_2}{1-\beta_2}-\frac{t\,\beta_2^t}{1-\beta_2^t},\tag{6}$$
#
# and $n$ numbers that weigh alike have the mean age $(n-1)/2$. So $u$ is worth
#
# $$n_t=1+2\bar k_t,\qquad n_\infty=\frac{2}{1-\beta_2}-1\tag{7}$$
#
# squares: one after the first update, two after the second, 1,999 in the end (for $\beta_2=0.999$). RAdam (Liu et al. 2020) computes
# how much $1/\sqrt u$ scatters for so few, and multiplies the rate by what makes it scatter as little as in the end,
#
# $$\omega_t=\sqrt{\frac{(n_t-4)(n_t-2)\,n_\infty}{(n_\infty-4)(n_\infty-2)\,n_t}}\qquad(n_t>5),\tag{8}$$
#
# and, in its code, does not divide at all in the first five updates (the paper: four). $\omega_t$ is a warm-up that nobody had to
# choose. Ma and Yarats (2021) hold that (5) is reason enough, and find a straight warm-up of $2/(1-\beta_2)$ steps as good: 2,000
# for $\beta_2=0.999$, 100 for RoBERTa's 0.98.

# %% alt="The factor of RAdam and the straight warm-up of two over one minus beta two against updates, for beta two of 0.98 and of 0.999, on a logarithmic axis; both factors are 0 for five updates, then above the straight line, which reaches 1 after 100 and 2,000 updates; the factors arrive later."
updates = np.unique(np.geomspace(1, 10_000, 200).astype(int)) - 1
with style.shown(width=6.4, height=2.6) as ax:
    for place, b2 in enumerate((0.98, 0.999), 1):
        ax.plot(updates + 1, technique.rectification(updates, b2), **style.line(place) | {"marker": ""}, label=f"(8), {b2}")
        straight = np.minimum(1, updates / technique.untuned_warmup(b2))
        ax.plot(updates + 1, straight, color=style.line(place)["color"], lw=0.8, ls=":", label=f"straight, {b2}")
    ax.set(xscale="log", xlabel="update", ylabel="share of the rate")
    ax.legend(fontsize=8)

# %% [markdown]
# ## 4. NumPy implementation (25 minutes)
#
# There is no `if` on the step, so the same code runs on arrays of steps and in functions that JAX compiles. The polynomial of (4),
# whose power 1 is the line:

# %%
from collections.abc import Sequence
from typing import Any

from bertcraft.errors import InputError
from bertcraft.train.schedules import FALLS, Schedule
from bertcraft.train.schedules import check as check_schedule

from bertcraft.train.schedules import rising  # inline

# %%
from bertcraft.techniques.advanced_scheduling import warmup_polynomial  # inline

# %%
print("the line by hand:", [round(float(warmup_polynomial(1.0, 1, 4, power=1)(t)), 3) for t in range(6)])

# %% [markdown]
# One cycle goes through three points, the last of them at step $T-1$:

# %%
from bertcraft.techniques.advanced_scheduling import through, one_cycle  # inline

# %% [markdown]
# **Try it**: BERT trains for a million steps. Here are some of its rates, for a highest rate of 1, and their mean. The last row is
# BERT's first code: its fall counts from step 0, so the rate jumps from 0.9999 to 0.99 where warm-up ends.

# %%
def told(name, schedule, total):
    """A row: the first update, the highest, that in the middle, the last one, and the mean, over a highest rate of 1."""
    every = schedule(np.arange(total))
    row = every[0], every.max(), every[total // 2], every[-1], every.mean()
    print(f"{name:22}", "  ".join(f"{value:9.2e}" for value in row))


print(f"{'':22} {'first':>9}  {'highest':>9}  {'middle':>9}  {'last':>9}  {'mean':>9}")
for name in (*NAMES, "bert"):
    told(name, technique.named(name, 1.0, 10_000, 1_000_000), 1_000_000)

# %% [markdown]
# The first update is lost, except to one cycle; where the rate falls to 0, so is nearly the last. Two of a million are nothing; two
# of a fine-tuning's thirty are 7 %.
#
# ### Another length
#
# **Predict first**: a line was planned for 500 steps, and at step 375 it gets 500 more. What should the rate do? What does it do in
# `transformers`, where the step is saved and the function is not? And where a schedule saved its old length?

# %%
from bertcraft.techniques.advanced_scheduling import joined, resumed  # inline

# %% alt="Rates over 1,000 steps, all on the same line down from 1 until step 375, where it stands at 0.28. Ours goes on from there in a flatter line to 0 at 1,000. The new length jumps up to 0.66 and falls to 0. The old length reaches 0 at step 500 and stays there."
old, new = schedules.warmup_linear(1.0, 50, 500), schedules.warmup_linear(1.0, 50, 1000)
WAYS = {"from where it is": resumed(old, 375, 1000), "the new length: it jumps": joined(old, 375, new), "the old length: 0 from 500 on": old}
with style.shown(width=7.0, height=2.6) as ax:
    for place, (title, schedule) in enumerate(WAYS.items(), 1):
        ax.plot(STEPS, rates(schedule), **style.line(place) | {"marker": ""}, label=title)
    ax.axvline(375, color="0.6", lw=0.8, ls=":")
    ax.set(xlabel="step", ylabel="rate")
    ax.legend(fontsize=8)

# %% [markdown]
# ### Adam's first steps
#
# Equations (6) to (8), and the rule that uses them. `correction` is $1-\beta^t$.

# %%
from bertcraft.tensor import tree
from bertcraft.train.rules import Rule, check_adam, correction, init_moments, like, moments, rate_at

from bertcraft.techniques.advanced_scheduling import average_length, rectification  # inline

# %%
from bertcraft.techniques.advanced_scheduling import radam  # inline

# %% [markdown]
# ### Proof
#
# Every schedule, step by step, against `transformers`, and twenty steps past its end; one cycle against torch:

# %%
KEYWORDS = {"polynomial": {"power": 2.0, "lr_end": 0.0}, "cosine_with_restarts": {"num_cycles": 4},
            "warmup_stable_decay": {"num_decay_steps": 12, "decay_type": "linear"}}  # fmt: skip


def of_torch(make, steps):
    """The rates that an optimiser of torch has in so many updates."""
    optimiser, found = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), []
    scheduler = make(optimiser)
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(found) < steps:
            scheduler.step()
    return np.array(found)


# %%
if lesson.installed("transformers", "torch"):
    import torch
    from transformers import get_scheduler

    for name in NAMES[:-1]:
        theirs = of_torch(lambda o, n=name: get_scheduler(n, o, 7, 60, scheduler_specific_kwargs=KEYWORDS.get(n)), 81)
        ours = np.array([float(technique.named(name, 1.0, 7, 60)(step)) for step in range(81)])
        same = np.abs(theirs - ours)[:61].max() < 1e-12
        print(f"{name:22} the same to 1e-12: {same}; at step 80 theirs {theirs[80]:.3f}, ours {ours[80]:.3f}")
    theirs = of_torch(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 60, pct_start=0.2, cycle_momentum=False), 60)
    ours = np.array([float(one_cycle(1.0, 0.2 * 60 - 1, 60)(step)) for step in range(60)])
    print(f"{'one_cycle':22} the same to 1e-12: {np.abs(theirs - ours).max() < 1e-12}")

# %% [markdown]
# Past the end `transformers`' cosine rises again. Ours stays at 0.

# %%
if lesson.installed("torch"):
    draw, params = np.random.default_rng(0), {"w": np.ones(6)}
    weight = torch.nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimiser, rule = torch.optim.RAdam([weight], lr=0.1), radam(0.1)
    state = rule.init(params)
    for _ in range(30):
        g = draw.standard_normal(6)
        weight.grad = torch.tensor(g)
        optimiser.step()
        change, state = rule.update({"w": g}, state, params)
        params = tree.map(np.add, params, change)
    print("RAdam, 30 steps, the same to 1e-12:", bool(np.abs(weight.detach().numpy() - params["w"]).max() < 1e-12))

# %% [markdown]
# ### The schedule that the valley wants
#
# By (1) the loss at the end of the valley is a function of all its rates, and our library differentiates functions. So let gradient
# descent find the schedule, starting from a constant one. No rate may be above 1, where a step across would jump over the bottom.
# **Predict first**: which shape will it find?

# %%
def expected(rates):
    """The expected loss at the end of the valley of part 2, by (1), for the rates (T,) of its steps."""
    squares = START**2
    for step in range(rates.shape[0]):
        squares = (1 - rates[step] * CURVATURE) ** 2 * squares + rates[step] ** 2 * NOISE**2
    return 0.5 * np.sum(CURVATURE * squares)


bc.check_grads(expected, np.linspace(0.5, 0.1, 6), order=1)
print("analytic and numeric gradient with respect to each rate agree")

# %% quick="ROUNDS = 3"
ROUNDS = 80

# %%
from bertcraft.train import adamw

found = {"rates": np.full(60, 0.3)}
rule = adamw(schedules.warmup_linear(0.03, 0, ROUNDS), b2=0.99, eps=1e-12, weight_decay=0.0)  # it falls, too
state = rule.init(found)
for _ in range(ROUNDS):
    change, state = rule.update({"rates": bc.grad(expected)(found["rates"])}, state, found)
    found = {"rates": np.clip(found["rates"] + change["rates"], 0, 1)}

# %% alt="Rates over 60 steps. The best constant rate is 0.54, the best line falls from 1, the highest allowed, to 0. The one found by its gradient stays near 0.9 for fifty steps, then falls steeply and flattens out at 0.1. Losses in the legend: 0.248, 0.106 and 0.066."
tried = np.geomspace(0.05, 1, 30)
best_flat = min((np.full(60, rate) for rate in tried), key=expected)
best_line = min((schedules.warmup_linear(rate, 0, 60)(np.arange(60)) for rate in tried), key=expected)
CURVES = {"best constant": best_flat, "best line up to 1": best_line, "found by its gradient": found["rates"]}
with style.shown(width=6.6, height=2.6) as ax:
    for place, (title, each) in enumerate(CURVES.items()):
        ax.plot(each, **style.line(place) | {"marker": ""}, label=f"{title}: loss {expected(each):.3f}")
    ax.set(xlabel="step", ylabel="rate", ylim=(0, None))
    ax.legend(fontsize=8)

# %% [markdown]
# *Stable, then down*: travel as long as possible, then settle in the steps that settling takes. (More rounds raise the flat part to
# 1; the shape stays.) A constant rate is a compromise at every step. A transformer is no valley of two directions, but this makes
# plausible why its schedules look as they do.
#
# ## 5. Performance analysis (25 minutes)
#
# ### Live: the first steps of Adam
#
# A small BERT, two layers of 64, reads requests to assistants. How long are its first updates (root mean square over parameters)?
# **Predict first**: by (5), how long is the very first, over the rate, with warm-up, without, and with RAdam?

# %% quick="FIRST, LENGTH, OTHERS = 8, 20, 3"
FIRST, LENGTH, RATE = 60, 900, 4e-3  # updates that are measured; steps of a training; its highest rate
OTHERS = 100  # batches that one batch is held against

# %%
from bertcraft.lab import pretraining, ruled
from bertcraft.tensor.parallel import cpu_count
from bertcraft.train import chain, clip_by_global_norm

SMALL = ruled.SHARED | {"vocab_size": 2048, "texts": 20_000, "held_out": 300, "hidden": 64}
task = ruled.task_of(SMALL, seed=0)
start = pretraining.initial(task.config, task.texts, seed=0)
gradient = ruled.gradient(task, seed=0, threads=cpu_count())


def trained(rule, steps, done=0, params=start, state=None):
    """Parameters and state behind step ``steps``, and the root mean square of each update on the way."""
    rule, lengths = chain(clip_by_global_norm(1.0), rule), []
    state = rule.init(params) if state is None else state
    for step in range(done, steps):
        _, g = gradient(params, task.make_batch(step), step)
        change, state = rule.update(tree.map(np.asarray, g), state, params)
        params = tree.map(np.add, params, change)
        flat_change = np.concatenate([leaf.ravel() for leaf in tree.leaves(change)])
        lengths.append(float(np.sqrt(np.mean(flat_change.astype(float) ** 2))))
    return params, state, lengths


# %%
BETAS = {"b2": 0.98, "eps": 1e-6}
RULES = {"no warm-up": adamw(RATE, weight_decay=0.0, **BETAS), "RAdam, no warm-up": radam(RATE, **BETAS),
         "warm-up of 50": adamw(technique.warmup_constant(RATE, 50), weight_decay=0.0, **BETAS)}  # fmt: skip
first = {title: trained(rule, FIRST) for title, rule in RULES.items()}


# %%
def mean_gradient(params, batches):
    """The mean gradient of batches, by their numbers, as one vector."""
    found = [gradient(params, task.make_batch(number), 0)[1] for number in batches]
    return np.mean([np.concatenate([np.asarray(leaf).ravel() for leaf in tree.leaves(g)]) for g in found], axis=0)


for when, params, step in (("at the start", start, 0), (f"after {FIRST} steps", first["warm-up of 50"][0], FIRST)):
    one, others = mean_gradient(params, [step]), mean_gradient(params, range(step + 1, step + 1 + OTHERS))
    differ = np.mean(np.sign(one) != np.sign(others))
    print(f"{when} a batch and the mean of {OTHERS} others differ in the sign of {differ:.0%} of the parameters")

# %% alt="Length of an update over the highest rate against updates 1 to 60. Without warm-up it starts at nearly 1 and falls to half within ten updates; with warm-up it starts at 0 and rises slowly; RAdam's first five are nearly 0, then it rises with the one with warm-up, and stays a little below it."
with style.shown(width=6.6, height=2.7) as ax:
    for place, (title, (_, _, lengths)) in enumerate(first.items()):
        ax.plot(range(1, len(lengths) + 1), np.array(lengths) / RATE, **style.line(place) | {"markevery": 6}, label=title)
    ax.set(xlabel="update", ylabel="its length over the highest rate", ylim=(0, 1.02))
    ax.legend(fontsize=8)

# %% [markdown]
# Without warm-up the first update is nearly as long as (5) says. How many parameters does it lead astray? A coin would differ
# from the mean of a hundred batches in half of the signs; one batch differs in two of five. After 60 steps that is no better:
# batches have not become surer, but by (7) $m$ averages nineteen of them. Whether long early updates do *harm* depends on the
# model: deep ones with norms behind their layers are reported to need warm-up (lesson [15](15_layer_norm_variants.ipynb)), two
# layers may shrug it off.
#
# ### Live: the budget is not known
#
# Somebody will stop our training after 450 steps or after 900, and tell us shortly before. Three plans, one highest rate:
#
# 1. A line, planned for 900. Stopped at 450 it is *cut short*.
# 2. Flat, no fall.
# 3. Flat, and down to zero in the last fifth: a branch off plan 2, from its saved state.
#
# **Predict first**: order them at 450 steps, and at 900.

# %%
def adam(schedule):
    return adamw(schedule, weight_decay=0.0, **BETAS)


HALF, RISE = LENGTH // 2, min(50, LENGTH // 5)
judged = {}


def judge(title, params):
    judged[title] = task.judge(params, task.config)["loss"]


flat_rate, saved = technique.warmup_constant(RATE, RISE), {}
params, state = start, None
for done, to in ((0, HALF * 4 // 5), (HALF * 4 // 5, HALF), (HALF, LENGTH * 4 // 5), (LENGTH * 4 // 5, LENGTH)):
    params, state, _ = trained(adam(flat_rate), to, done, params, state)
    saved[to] = params, state
for end in (HALF, LENGTH):
    judge(f"flat, {end}", saved[end][0])
    final = trained(adam(resumed(flat_rate, end * 4 // 5, end)), end, end * 4 // 5, *saved[end * 4 // 5])[0]
    judge(f"flat, then down, {end}", final)

# %%
whole = schedules.warmup_linear(RATE, RISE, LENGTH)
params, state, _ = trained(adam(whole), HALF)
judge(f"line, {HALF}", params)
judge(f"line, {LENGTH}", trained(adam(whole), LENGTH, HALF, params, state)[0])

# %% alt="Loss at MASK of unread requests for three plans, and a dotted line for word frequencies at 6.43. Stopped at 450 steps all three lie within 0.03 nats of 5.96. Stopped at 900 flat, then down lies lowest at 5.56, flat at 5.63, the line at 5.67."
with style.shown(width=7.4, height=2.9) as ax:
    for place, plan in enumerate(("flat", "line for the whole", "flat, then down")):
        losses = [judged[f"{plan.removesuffix(' for the whole')}, {end}"] for end in (HALF, LENGTH)]
        look = style.line(place) | {"linestyle": "none", "markersize": 7}
        ax.plot([f"stopped at {end}" for end in (HALF, LENGTH)], losses, **look, label=plan)
    ax.axhline(task.judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(ylabel="loss at [MASK] (nats)", xlim=(-0.5, 2.4))
    ax.legend(fontsize=8, loc="center right")
print({title: round(loss, 3) for title, loss in judged.items()})

# %% [markdown]
# In words, by the third plan after 900 steps:

# %%
from bertcraft.bert import Model

model = Model(task.config, final)
model.tokenizer = task.texts.tokenizer
for sentence in ("how do i activate my new [MASK] ?", "set an [MASK] for seven in the morning",
                 "what is the [MASK] like tomorrow ?", "play some [MASK] music please"):  # fmt: skip
    print(f"{sentence:40}", ", ".join(f"{word} {p:.0%}" for word, p in model.fill(sentence, top=4)[0]))

# %% [markdown]
# It knows one word of four: 900 steps are few.
#
# At 450 steps the plans are alike: a model that has just left the plateau is still travelling and has nothing to settle. At 900 a
# fall of 180 steps is worth 0.075 nats against staying flat. And the line is *last*: its mean rate is little more than half of the
# others', so it has travelled less. That is what part 1 warned of. One seed and one rate show a mechanism and are no evidence. If
# you do not know the length, stay flat and settle at the end.
#
# ### The stored experiment
#
# A model twice as wide, 1,000 steps, every schedule at the best of five rates, chosen on development texts. *Cut short* and
# *prolonged* are those of this page. First, whether the question can be asked:

# %%
from bertcraft.course import display, knobs, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("loss", "accuracy")

# %%
lesson.comparisons()

# %% alt="Two panels, nine arms, five seeds. Left: the rate of each step; every best peak is 0.002, but that of the line without warm-up, 0.001. Right: loss at MASK of unread text on the way. All start near word frequencies, 6.6; at 1,000 steps flat then down is lowest at 5.43, with the line cut in its middle, RAdam and the constant rate up to 5.50; then the line at 5.58, the cosine, the inverse square root, and last the line without warm-up and the prolonged one at 5.83."
lesson.plots(1)

# %% alt="Loss at MASK less that of a line to zero, with 95 percent intervals and a band of 0.02 nats that counts as the same. Below: flat then down at -0.15, the cut line -0.14, RAdam -0.11, constant -0.10. Above: half a cosine at 0.07, inverse square root 0.10, no warm-up 0.25, prolonged 0.26; the last two are far from the band."
lesson.plots(2)

# %% [markdown]
# **The claim is contradicted.** A line to zero ends 0.100 [+0.033, +0.168] nats *above* a constant rate. (In words guessed one
# cannot tell: 19.5 and 19.0 %.) Does a late fall hurt? Not shown: *flat, then down* ends below constant at 0.002, above it at
# 0.0014. At peak 0.002 a larger sum of rates mostly means less loss; but constant 0.0014 and the line from 0.0028, of equal sums,
# end 0.66 apart. *Prolonged* has the least with this peak and ends last, +0.260 [+0.211, +0.310], *reproduced*. *Cut in its
# middle* has the third largest; of a cost one *cannot tell*, -0.139 [-0.300, +0.021].
#
# Is it the grid? Rates between, tried afterwards on five seeds: a constant rate gains 0.140 nats from 0.002 to 0.0014, a line loses
# 0.436 from 0.002 to 0.0028. A line below 0.002 was not tried.
#
# **Warm-up is needed, even by two layers**: without it +0.245 [+0.189, +0.300], *reproduced*, and its best rate is half of the
# others'. RAdam without one ends 0.111 *below* the line with one, [-0.204, -0.019]; whether they are equal one *cannot tell*, nor
# of cosine, inverse square root and *flat, then down*.
#
# One length was measured. A run of a million steps has long arrived, and may well need the line's.
#
# ### When does it not help?
#
# - **Where the rate is far too low**, or the training short: a fall only shortens the way.
# - **Where the length is not known**: a line, a cosine and one cycle must know it; the inverse square root and *stable* need not.
#
# ## 6. In production (15 minutes)
#
# `Trainer` takes a line, and *no* warm-up unless told. One of `transformers`' cosines counts from 1, the others from 0. And what
# does a saved run do when it is loaded into another length?

# %%
if lesson.installed("transformers", "torch"):
    from transformers import TrainingArguments, get_linear_schedule_with_warmup

    usual = TrainingArguments("out", use_cpu=True, report_to=[])
    print("Trainer:", str(usual.lr_scheduler_type.value), "after", usual.warmup_steps, "steps of warm-up, rate", usual.learning_rate)
    lowest = {"scheduler_specific_kwargs": {"min_lr_rate": 0.1}}
    for name in ("cosine_warmup_with_min_lr", "cosine_with_min_lr"):
        print(f"{name:26}", of_torch(lambda o, n=name: get_scheduler(n, o, 10, 50, **lowest), 4))

    old_run = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_linear_schedule_with_warmup(old_run, 50, 500)
    for _ in range(375):
        old_run.step()
        scheduler.step()
    print(f"at step 375 of 500: {scheduler.get_last_lr()[0]:.3f}")

# %%
if lesson.installed("transformers", "torch"):
    new_run = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    longer = get_linear_schedule_with_warmup(new_run, 50, 1000)
    longer.load_state_dict(scheduler.state_dict())
    new_run.load_state_dict(old_run.state_dict())
    reached = []
    for _ in range(3):
        reached.append(round(new_run.param_groups[0]["lr"], 3))
        new_run.step()
        longer.step()
    print("loaded into 1,000 steps, the next updates have", reached)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(new_run, 1000)
    cosine.load_state_dict(torch.optim.lr_scheduler.CosineAnnealingLR(old_run, 500).state_dict())
    print("torch's cosine, made for 1,000, after loading is one of", cosine.T_max)

# %% [markdown]
# `transformers`' line keeps the step and takes the new function: after one update it jumps. torch's cosine restores its old length.
# Our `pretrain` refuses to go on with another length.
#
# **Status today (2026).** Cosine or line after a short warm-up wherever the length is known. *Stable, then down* where it is not, or
# where checkpoints are to be trained further: MiniCPM and ModernBERT (2024) made it common. Methods without a schedule
# [average the weights](https://arxiv.org/abs/2405.15682) instead (Defazio et al. 2024). Warm-up stayed.
#
# ## 7. On your data (5 minutes)
#
# `bertcraft pretrain masked_lm --corpus FOLDER --schedule warmup_stable_decay --steps 3000 --out run` uses these very functions,
# and `bertcraft compare texts.csv --techniques cosine,constant` holds two against a line on your labels, all at one rate: a
# first look. In `transformers`:
#
# ```python
# from datasets import load_dataset
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# rows = load_dataset("csv", data_files="examples.csv")["train"]          # columns text, label (0, 1, ...)
# tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=len(set(rows["label"])))
# arguments = TrainingArguments("out", lr_scheduler_type="cosine", warmup_steps=0.06)  # below 1: a share of all steps
# Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
# model.save_pretrained("out/model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | the loss blows up in the first steps | longer warm-up; then a lower rate |
# | it blows up later, after the rise | a lower rate: warm-up cannot help |
# | the loss still falls steeply at the end | more steps, or a later fall |
# | the loss stands still in the middle | normal at a high rate: look after the fall |
# | you must be able to stop at any time | stable, then down, from saved states |
#
# ## 8. Exercises (75 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 A line and its ends (one star, 10 minutes)
#
# The rate of one step, counted from 0, by (3) and the line of (4). Mind runs without warm-up, and steps past the end.


# %% exercise="line" stars=1
def line(step, peak, warmup, total):
    """From 0 up to ``peak`` at step ``warmup`` (which may be 0), 0 from step ``total`` on, straight between."""
    ### BEGIN SOLUTION
    if step < warmup:
        return peak * step / warmup
    return peak * max(0.0, (total - step) / max(1, total - warmup))
    ### END SOLUTION


# %%
check.line(line)

# %% [markdown]
# ### 8.2 The end that never comes (two stars, 10 minutes)
#
# A cosine whose *last update* is to have the rate `lowest`, as in torch's one cycle. It runs, it looks right in every plot, and it
# never gets there. Find the mistake.


# %% exercise="last_update" stars=2
def last_update(step, peak, lowest, updates):
    """The rate of update ``step``, from 0: the first has ``peak``, the last of ``updates`` has ``lowest``."""
    ### BEGIN SOLUTION
    progress = step / (updates - 1)
    ### END SOLUTION
    ### BEGIN STUB
    # progress = step / updates
    ### END STUB
    return lowest + (peak - lowest) * (1 + np.cos(np.pi * progress)) / 2


# %%
check.last_update(last_update)

# %% [markdown]
# ### 8.3 A run that gets more steps (two stars, 15 minutes)
#
# A line without warm-up, planned for `planned` steps, has made the steps 0 to `at` - 1. Now it may go on to `total`. Return the rates
# of the updates that are left: from where it is, straight to 0 at step `total`.


# %% exercise="prolonged" stars=2
def prolonged(peak, planned, at, total):
    """The rates of the updates at, at + 1, ..., total - 1: an array (total - at,)."""
    ### BEGIN SOLUTION
    left = peak * (planned - at) / planned
    return left * (total - np.arange(at, total)) / (total - at)
    ### END SOLUTION


# %%
check.prolonged(prolonged)

# %% [markdown]
# ### 8.4 How many numbers is an average? (three stars, 15 minutes)
#
# The left part of (6), and (7), for weights of any kind: Adam's, or those of a window. They need not sum to 1. The youngest number
# comes first.


# %% exercise="length" stars=3
def length(weights):
    """As many numbers as, weighing alike, would have the mean age of these weights (t,); ages 0, 1, ..., t - 1."""
    ### BEGIN SOLUTION
    ages = np.arange(len(weights))
    return 1 + 2 * np.sum(weights * ages) / np.sum(weights)
    ### END SOLUTION


# %%
check.length(length)

# %% [markdown]
# ### 8.5 Which schedule? (two stars, 10 minutes, a decision)
#
# You pretrain on a borrowed machine: you get 20,000 to 60,000 steps, and are told 2,000 steps before the end. Agreed before any run:
# *good enough* is within 0.02 nats of the yardstick, a line planned for just that length. Each schedule has its own best rate; five
# seeds, loss less the yardstick's with 95 % intervals (invented for this exercise):
#
# | schedule | stopped at 20,000 | stopped at 60,000 |
# | --- | --- | --- |
# | line for 60,000 | +0.112 [+0.081, +0.143] | the yardstick |
# | line for 20,000, then prolonged | the yardstick | +0.045 [+0.028, +0.062] |
# | flat, down in the last 2,000 | +0.004 [-0.009, +0.017] | +0.006 [-0.005, +0.017] |
# | flat, no fall | +0.150 [+0.118, +0.182] | +0.188 [+0.160, +0.216] |
#
# - `schedule`: "line", "prolonged" or "flat" (the one that falls in the last 2,000).
# - `because`: (a) its differences are the smallest in both columns; (b) its intervals lie within 0.02 in both; (c) its intervals
#   hold 0 in both.
# - `flat_is`: against the line at 60,000: (a) worse; (b) the same; (c) within what was agreed, more is not known.
# - `unless`: what would change your mind? (a) nobody tells you before the machine is gone; (b) a sixth seed with +0.012 at 20,000;
#   (c) its best rate is half that of the line.


# %% exercise="which_schedule" stars=2
def which_schedule():
    """A dict with "schedule", and "a", "b" or "c" for "because", "flat_is" and "unless"."""
    ### BEGIN SOLUTION
    return {"schedule": "flat", "because": "b", "flat_is": "c", "unless": "a"}
    ### END SOLUTION


# %%
check.which_schedule(which_schedule)

# %% [markdown]
# ### 8.6 The best rate of one direction (three stars, 15 minutes)
#
# On paper. (a) In (1) with one direction, which $\eta_t$ makes $\mathbb E\,w_{t+1}^2$ smallest? (b) How does $\mathbb E\,w_t^2$ then go
# on, when it is small against $\sigma^2/\kappa^2$? With which power of $t$ does the rate fall? (c) Why then did the rates found in
# part 4 stay high for so long?

# %% [markdown] solution=true
# **Model answer.** Write $s_t=\mathbb E\,w_t^2$. (a) The derivative of $(1-\eta\kappa)^2s_t+\eta^2\sigma^2$ by $\eta$ is 0 at
# $\eta_t=\kappa s_t/(\kappa^2s_t+\sigma^2)$. (b) Put in, $s_{t+1}=s_t\,\sigma^2/(\kappa^2s_t+\sigma^2)$, so
# $1/s_{t+1}=1/s_t+\kappa^2/\sigma^2$: $s_t\approx\sigma^2/(\kappa^2t)$ and $\eta_t\approx1/(\kappa t)$. One over $t$, as Robbins and Monro
# had it. (c) What shakes is the steep direction, and it settles in some $1/(\eta\kappa)$ steps: a few are enough, at the end. Until
# then only the flat direction counts, which has far to go; a rate falling as $1/t$, for the steep $\kappa$, would have left
# it on the way.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Steps are updates.** With accumulation over 4 micro-batches a schedule that counts micro-batches ends at a quarter of training
#   ([06](06_gradient_accumulation.ipynb)); a step skipped for an infinite gradient is none ([07](07_mixed_precision_training.ipynb)).
# - **Step the scheduler after the optimiser.** Before it, the first rate is never used.
# - **A schedule cut short is no short schedule.** Compare runs after their falls.
# - **torch's decay is multiplied by the rate**: another schedule is another weight decay, too ([14](14_weight_decay.ipynb)).
#
# | read | for |
# | --- | --- |
# | Loshchilov and Hutter 2017, [SGDR](https://arxiv.org/abs/1608.03983) | cosines and their restarts |
# | Smith and Topin 2017, [one cycle](https://arxiv.org/abs/1708.07120) | once up, and far down |
# | Liu and others 2020, [RAdam](https://arxiv.org/abs/1908.03265) | (6) to (8) |
# | Ma and Yarats 2021, [untuned warm-up](https://arxiv.org/abs/1910.04209) | another reason than RAdam's |
# | Hoffmann and others 2022, [Chinchilla](https://arxiv.org/abs/2203.15556), appendix B | schedules cut short |
# | Hu and others 2024, [MiniCPM](https://arxiv.org/abs/2404.06395), section 4 | stable, then down |
# | [transformers.optimization](https://github.com/huggingface/transformers/blob/main/src/transformers/optimization.py) | the production code |
#
# **Open project**: with `trained` of this page, branch off one long flat run on your texts and fall to zero in the last 2 %, 10 %,
# 20 % and 40 %. How short may the fall be?
#
# **Next** on the path *Training & Optimization*: [14, weight decay](14_weight_decay.ipynb), the other number that the schedule
# multiplies. [15](15_layer_norm_variants.ipynb) asks which models train without a warm-up.

# %% [markdown]
# ## Appendix A. Which knobs matter? (5 minutes)
#
# Choices of a training, each with and without, at equal steps and each at its own best rate. Those of 09, 14, 15 and 20 are measured
# in nats at [MASK] (15 and 20 on the texts that were read, as they ask whether a model trains at all), that of 08 in points of
# accuracy. The bar is the 95 % interval, right of 0 is better; what has no stored runs says so. The models and texts are those of each
# experiment: compare signs, and sizes only roughly.

# %% alt="A row a knob: rates falling to zero, matrices that decay, decay beside Adam, norms before their layers, clipped gradients, and, in a panel of its own, rates that fall by layer. Each row has a mark with a 95 percent interval, in nats or in points."
knobs.draw()
