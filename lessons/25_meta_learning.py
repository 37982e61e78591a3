# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 25. Meta-learning: a start from which few steps suffice
#
# A new kind of request arrives, with one example. MAML (Finn, Abbeel and Levine 2017) prepares for that day by training the
# *starting point*. It practises on hundreds of small tasks. In each it asks how good the model is **after** a few steps of
# learning, and sends the gradient back through those steps. Its paper never tried text. You will derive it, watch it work, and
# measure it against simpler methods on new intents.
#
# You need NumPy and both parts of [lesson 00](00_foundations.ipynb). The sections take 190 minutes, half of them
# exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("meta_learning")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)
#
# "Quick adaptation" has no number in it. The paper's numbers are about small pictures.

# %%
lesson.claim()

# %% [markdown]
# The paper compares with "fine-tuning" at 28.86 and 49.79 %: gaps of twenty and thirteen points. That rival was a network trained
# on the training classes, then tuned on one or five pictures a class. With a better head it has 48.2 and 66.4 (Chen et al. 2019):
# no gap. So our first comparison is with that stronger rival: **an ordinary classifier of the training classes, whose
# features are then used with the nearest mean of each new class.**
#
# ## 2. Background and motivation (10 minutes)
#
# Before MAML, a model for few examples compared vectors (the nearest mean of a class), or was trained as usual and fine-tuned,
# unprepared for a few steps on a few examples, or learnt an update rule as well as a start (Ravi and Larochelle 2017). Here
# is MAML's answer. $\theta$ stands for all $P$ parameters; a task's *support* is what it learns from, its *query* what it is
# judged on.

# %% alt="Left to right: the start theta, of shape (P,), goes through two inner steps, both on the support (one text of each new class), and becomes the adapted theta prime; this is judged on the query (other texts of these classes) and gives the loss of this task. A blue arrow bends back from the loss to theta: the outer step, whose gradient goes back through both inner steps."
with drawing.schematic(columns=5, rows=3, width=9.2, row_height=0.9) as s:
    start = s.box("start\nθ", at=(0, 1), kind="new")
    first = s.box("inner step", at=(1, 1))
    second = s.box("inner step", at=(2, 1))
    adapted = s.box("adapted\nθ'", at=(3, 1))
    loss = s.box("loss of\nthis task", at=(4, 1))
    support = s.box("support: one text\nof each new class", at=(1.5, 0), kind="data")
    query = s.box("query: other texts\nof these classes", at=(4, 0), kind="data")
    s.arrow(start, first, "(P,)")
    s.arrow(first, second, "(P,)")
    s.arrow(second, adapted, "(P,)")
    s.arrow(adapted, loss)
    s.arrow(support, first)
    s.arrow(support, second)
    s.arrow(query, loss)
    s.arrow(loss, start, "outer step: the gradient goes back through the inner steps", kind="new", bend=-0.1)

# %% [markdown]
# And here is its effect in one dimension. There are two tasks with one parameter $\theta$:
#
# - task A wants $\theta=0$, and its valley is flat: $\ell_A=\frac12\theta^2$;
# - task B wants $\theta=1$, and its valley is twice as steep: $\ell_B=\frac12\cdot 2\,(\theta-1)^2$.
#
# You choose $\theta$ before you know your task. Then you may take one step of gradient descent, with rate 0.4.
#
# **Predict first.** Without any step the best compromise is $\theta=2/3$, nearer to the steep valley. Where should you stand if
# the step is allowed?

# %%
CURVATURE, GOAL = np.array([1.0, 2.0]), np.array([0.0, 1.0])  # of A and B
RATE = 0.4  # try 0.1, then 0.5: what happens to B when one step takes it all the way?


def losses(theta):
    """Both tasks' losses at some places: theta (n,) -> (n, 2)."""
    return 0.5 * CURVATURE * (theta[:, None] - GOAL) ** 2


def after_one_step(theta):
    """The same, each task after its own step of gradient descent."""
    return 0.5 * CURVATURE * (theta[:, None] - RATE * CURVATURE * (theta[:, None] - GOAL) - GOAL) ** 2


# %% alt="Two panels of loss against the start theta, with parabolas for task A, task B and their mean. Before the step task A is lowest at 0, the steeper task B at 1, and their mean at 0.67, with a loss of 0.17. After the step all curves are flatter, task B's almost flat, and the mean is lowest at 0.18, with a loss of 0.02."
theta = np.linspace(-0.3, 1.3, 1601)
with style.shown(columns=2, width=8.2, height=3.2) as panels:
    for ax, function, title in zip(panels, (losses, after_one_step), ("before the step", "after the step"), strict=True):
        both = function(theta)
        for place, name in enumerate("AB", 1):
            ax.plot(theta, both[:, place - 1], color=style.COLOURS[place], ls=style.DASHES[place + 1], label=f"task {name}")
        mean = both.mean(axis=1)
        best = theta[mean.argmin()]
        ax.plot(theta, mean, color="0.2", label="their mean")
        ax.plot(best, mean.min(), "o", color="0.2")
        ax.set(xlabel=r"the start $\theta$", title=rf"{title}: best at $\theta$ = {best:.2f}", ylim=(-0.02, 0.6))
    panels[0].set_ylabel("loss")
    panels[0].legend(fontsize=8)

# %% [markdown]
# The best start moved to the *other* side. Task B's valley is steep, so one step repairs nearly all of its loss wherever you
# start. Task A learns slowly, so the start should lie where A needs little.
#
# ## 3. Mathematical foundation (20 minutes)
#
# ### Two batches a task
#
# Call the support $S$ and the query $Q$. With parameters $\theta$ $(P,)$ and an inner rate $\alpha$, one step of adaptation is
#
# $$\theta'=\theta-\alpha\,\nabla\ell_S(\theta) \tag{1}$$
#
# and MAML minimises, on average over tasks,
#
# $$\mathcal L(\theta)=\ell_Q(\theta')=\ell_Q\big(\theta-\alpha\nabla\ell_S(\theta)\big) \tag{2}$$
#
# ### The gradient of a loss after a gradient
#
# How does $\theta'$ move when $\theta$ does? Its derivative is a $P\times P$ matrix: the identity from the first term of (1),
# less $\alpha$ times the derivative of a gradient, the matrix $H$ of second derivatives ($H$ means that in this lesson). With
# $g'=\nabla\ell_Q(\theta')$, the query's gradient *at the adapted parameters*, the chain rule gives
#
# $$\nabla\mathcal L(\theta)=(I-\alpha H)\,g',\qquad H=\nabla^2\ell_S(\theta) \tag{3}$$
#
# With $J$ steps there is one such factor for each, $H_j$ taken after $j$ of them; $g'$ meets the last one first:
#
# $$\nabla\mathcal L=(I-\alpha H_0)(I-\alpha H_1)\cdots(I-\alpha H_{J-1})\,g' \tag{4}$$
#
# $H$ has $P^2$ entries and is never written out. The product $Hg'$ costs about as much as one more gradient, and
# differentiating *through* the inner gradient finds it.
#
# **By hand.** In task A, $\theta=0.5$, $\alpha=0.4$, support and query the same: $\theta'=0.5-0.4\cdot0.5=0.3$; $g'=0.3$;
# $H=1$; so $\nabla\mathcal L=(1-0.4)\cdot0.3=0.18$. Check: $\mathcal L=\frac12(0.6\,\theta)^2=0.18\,\theta^2$ has the slope
# $0.36\,\theta=0.18$.
#
# ### Where the methods settle
#
# *First-order MAML* drops $H$ and uses $g'$ alone. *Reptile* (Nichol et al. 2018) has no query: it takes some steps and moves
# the start a little towards where they led. For tasks $\frac12h_t(\theta-c_t)^2$ one step leaves
# $\theta'-c_t=(1-\alpha h_t)(\theta-c_t)$, and each method stops at a weighted mean of the $c_t$:
#
# $$\theta^*=\frac{\sum_t w_t\,c_t}{\sum_t w_t},\qquad w_t=\begin{cases}
# h_t & \text{joint training}\\
# h_t(1-\alpha h_t)^{2} & \text{MAML}\\
# h_t(1-\alpha h_t) & \text{first-order MAML}\\
# 1-(1-\alpha h_t)^{J} & \text{Reptile, } J \text{ steps}\end{cases} \tag{5}$$
#
# In our example: joint training $\frac{2}{3}=0.67$; MAML $\frac{2\cdot0.04}{1\cdot0.36+2\cdot0.04}=0.18$; first-order
# $\frac{2\cdot0.2}{0.6+0.4}=0.4$; Reptile with very many steps 0.5, the mean of the solutions.
#
# ### The nearest mean is a step of gradient descent
#
# Now the case of this lesson: $C$ classes, vectors $x$ of length 1 from a frozen encoder, and a linear head $W$ $(C, 384)$ that
# starts at **zero**. All classes then have probability $p_k=1/C$, and the slope of the cross-entropy by row $W_k$ is the mean of
# $(p_k-y_k)\,x$, with $y_k=1$ for texts of class $k$, else 0. Let $\mu_k$ be the mean of class $k$ and $\bar\mu$ that of all, with
# equally many texts in each class. One step gives
#
# $$W_k=\frac{\alpha}{C}\,(\mu_k-\bar\mu),\qquad W_k\cdot x=\frac{\alpha}{C}\big(\mu_k\cdot x-\bar\mu\cdot x\big) \tag{6}$$
#
# The second term is the same for all classes. So the answer after one step is the class whose mean has the largest product with
# $x$: **the nearest mean**, when all means are equally long, as with one example a class. Whatever MAML adds, it must add after
# this step, or by changing the vectors.
#
# Prototypical networks (Snell et al. 2017) leave the step out. They score by distances to the means,
#
# $$\text{score}_k=-\lVert x-\mu_k\rVert^2 \tag{7}$$
#
# and train the vectors on the cross-entropy of these scores.
#
# ## 4. NumPy implementation (20 minutes)
#
# `adapt` is equation (1), repeated. It calls `grad`; if a caller is taking a gradient too, the steps are part of what is
# differentiated. `moves` says which parameters adapt: all of them in MAML.

# %%
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree, value_and_grad

Loss = Callable[[dict, Any], Any]

from bertcraft.techniques.meta_learning import Task  # inline

# %%
from bertcraft.techniques.meta_learning import adapt  # inline

# %% [markdown]
# In `maml` the call of `adapt` stands *inside* what is differentiated. In `first_order_maml` it has happened before. ANIL (Raghu
# et al. 2020) is MAML whose inner steps move the head alone.

# %%
from bertcraft.techniques.meta_learning import maml, first_order_maml  # inline

# %%
from bertcraft.techniques.meta_learning import anil, in_branch  # inline

# %% [markdown]
# The example that you computed by hand, then (3) with an $H$ that is really written out: a linear regression of three numbers,
# where the loss is $\frac{1}{2n}\lVert X\theta-y\rVert^2$ and $H=X^\top X/n$.

# %%
quadratic = lambda params, batch: 0.5 * batch["h"] * (params["theta"] - batch["c"]) ** 2  # noqa: E731
task_a = Task({"h": 1.0, "c": 0.0}, {"h": 1.0, "c": 0.0})
for method in (maml, first_order_maml):
    print(f"{method.__name__:17s} {float(method(quadratic, {'theta': np.array(0.5)}, task_a, 1, 0.4)[1]['theta']):.2f}")

rng = np.random.default_rng(0)
regression = lambda params, batch: 0.5 * np.mean((batch["x"] @ params["theta"] - batch["y"]) ** 2)  # noqa: E731
small = Task(*({"x": rng.standard_normal((n, 3)), "y": rng.standard_normal(n)} for n in (5, 8)))
start3 = {"theta": rng.standard_normal(3)}
X, y = small.support["x"], small.support["y"]
H = X.T @ X / len(X)
adapted = start3["theta"] - 0.3 * X.T @ (X @ start3["theta"] - y) / len(X)  # (1)
at_adapted = small.query["x"].T @ (small.query["x"] @ adapted - small.query["y"]) / 8  # g'
print("by (3)       ", ((np.eye(3) - 0.3 * H) @ at_adapted).round(4))
print("through steps", maml(regression, start3, small, 1, 0.3)[1]["theta"].round(4))

# %% [markdown]
# **Proof.** The loss after three steps of adaptation against finite differences: a wrong second derivative would raise an error.
# (Agreement with `torch.func` is in section 6.)

# %%
def after_three_steps(theta):
    return regression(adapt(regression, {"theta": theta}, small.support, 3, 0.3), small.query)


bc.check_grads(after_three_steps, start3["theta"], order=1)
print("the gradient through three gradient steps agrees with finite differences")

# %% [markdown]
# Reptile, the mean over a batch of tasks, and prototypes complete the module.

# %%
from bertcraft.techniques.meta_learning import reptile  # inline

# %%
from bertcraft.techniques.meta_learning import over_tasks  # inline

# %% [markdown]
# Do they settle where (5) says? Start at 0.9 and descend each gradient on the two tasks of section 2.

# %%
two_tasks = [Task(*2 * ({"h": h, "c": c},)) for h, c in zip(CURVATURE, GOAL, strict=True)]
methods = {
    "joint training, 0.67": lambda p, t: value_and_grad(quadratic)(p, t.query),
    "MAML, 0.18": lambda p, t: maml(quadratic, p, t, 1, 0.4),
    "first-order MAML, 0.40": lambda p, t: first_order_maml(quadratic, p, t, 1, 0.4),
    "Reptile of 30 steps, 0.50": lambda p, t: reptile(quadratic, p, [t.support] * 30, 0.4),
}
for title, method in methods.items():
    params = {"theta": np.array(0.9)}
    for _ in range(150):
        params = tree.map(lambda p, g: p - 0.3 * g, params, over_tasks(method, params, two_tasks)[1])
    print(f"expected of {title}: found {float(params['theta']):.2f}")

# %%
from bertcraft.techniques.meta_learning import prototypes, prototypical_logits, prototypical_loss  # inline

# %% [markdown]
# ## 5. Performance analysis (20 minutes)
#
# ### What the second derivatives cost
#
# Operations can be counted without a clock. **Predict first**: how many times the operations of first-order MAML does MAML need,
# with five inner steps?

# %%
from bertcraft.lab import flops

toy_rng = np.random.default_rng(0)
toy = {"map": {"weight": toy_rng.standard_normal((96, 96)) / 10}, "head": {"weight": np.zeros((5, 96))}}
toy_batch = {"x": toy_rng.standard_normal((25, 96)), "labels": np.repeat(np.arange(5), 5)}


def toy_loss(params, batch):
    return F.cross_entropy(np.tanh(batch["x"] @ params["map"]["weight"].T) @ params["head"]["weight"].T, batch["labels"])


once = flops.count(lambda p: value_and_grad(toy_loss)(p, toy_batch), toy)
for method in (maml, first_order_maml, anil):
    counted = [flops.count(method, toy_loss, toy, Task(toy_batch, toy_batch), k, 0.1) / once for k in (1, 5)]
    print(f"{method.__name__:17s} gradients' worth of operations: 1 step {counted[0]:.1f}, 5 steps {counted[1]:.1f}")

# %% [markdown]
# Nearly twice. First order needs one gradient a step and one for the query. MAML walks back through each step as well, and must
# *keep* each step until then, so its memory grows with the number of steps.
#
# ### Live: what it is for
#
# The paper's own demonstration. A task is a sine wave of unknown height and phase, shown at ten points. A small network learns
# the start. The rival is the same network, trained on all waves at once. Twenty-five tasks are adapted side by side: each gets a
# copy of the parameters along a first axis, and the gradients of a sum of losses do not mix.
#
# **Predict first.** What does the rival's curve look like before it has seen a point? And after ten steps on the ten points?

# %% quick="ITERATIONS = 20"
ITERATIONS, SIDE_BY_SIDE, INNER_RATE = 800, 25, 0.02  # the paper: 70,000 iterations

# %%
from bertcraft.train import adamw


def network(params, x):
    for layer in ("first", "second"):
        x = np.maximum(x @ params[layer]["weight"] + params[layer]["bias"], 0)
    return x @ params["last"]["weight"] + params["last"]["bias"]


def wave_loss(params, batch):
    """Mean squared error of each task, summed over tasks: x and y (tasks, points, 1)."""
    return np.sum(np.mean((network(params, batch["x"]) - batch["y"]) ** 2, axis=(1, 2)))


def waves(rng, tasks: int, points: int = 10) -> Task:
    height, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    both = [rng.uniform(-5, 5, (tasks, points, 1)).astype(np.float32) for _ in range(2)]
    return Task(*({"x": x, "y": (height * np.sin(x - phase)).astype(np.float32)} for x in both))


def copied(params, tasks: int):
    return tree.map(lambda leaf: leaf + np.zeros((tasks, 1, 1), np.float32), params)


# %%
def learnt_start(steps: int) -> dict:
    """A start for that many inner steps; with 0 of them it is ordinary training on all waves."""
    rng, sizes = np.random.default_rng(3), {"first": (1, 40), "second": (40, 40), "last": (40, 1)}
    params = {
        name: {"weight": (rng.standard_normal(shape) * max(shape[0], 6) ** -0.5).astype(np.float32),
               "bias": np.zeros((1, shape[1]), np.float32)}
        for name, shape in sizes.items()
    }  # fmt: skip
    rule = adamw(2e-3, weight_decay=0.0)
    state = rule.init(params)
    for _ in range(ITERATIONS):
        task = waves(rng, SIDE_BY_SIDE)
        after = lambda p: wave_loss(adapt(wave_loss, copied(p, SIDE_BY_SIDE), task.support, steps, INNER_RATE), task.query)  # noqa: B023, E731
        updates, state = rule.update(tree.map(lambda g: g / SIDE_BY_SIDE, grad(after)(params)), state, params)
        params = tree.map(np.add, params, updates)
    return params


starts = {"ordinary training": learnt_start(0), "MAML": learnt_start(1)}

# %% [markdown]
# MAML's start was made for one rate. The rival may need another, so both get the best of four, chosen on other waves.

# %%
def error_after(params, task, steps: int, rate: float) -> float:
    """Mean squared error of many tasks on their queries after adaptation."""
    count = len(task.query["x"])
    return float(wave_loss(adapt(wave_loss, copied(params, count), task.support, steps, rate), task.query)) / count


chosen_on, test = (waves(np.random.default_rng(seed), 200) for seed in (98, 99))
rates = {
    title: min((0.002, 0.005, 0.01, 0.02), key=lambda rate: error_after(params, chosen_on, 10, rate))  # noqa: B023
    for title, params in starts.items()
}
print("rates chosen:", rates)

# %% alt="Three panels. Ordinary training: after ten steps the curve still misses the lower points. MAML: after one step the curve bends towards the wave, after ten it lies on or near all ten points. Third: squared error on 200 new waves against steps, from 3.1 for both; MAML's falls to 1.2 at the first step and 0.5 after ten, that of ordinary training to 2.4 and 2.1."
one = Task(*({name: array[4:5] for name, array in batch.items()} for batch in test))
grid = np.linspace(-5, 5, 201, dtype=np.float32)[None, :, None]
with style.shown(columns=3, width=9.0, height=3.0) as panels:
    for place, (title, params) in enumerate(starts.items()):
        ax = panels[place]
        for steps, dash in ((0, ":"), (1, "--"), (10, "-")):
            tuned = adapt(wave_loss, copied(params, 1), one.support, steps, rates[title])
            look = {"ls": dash, "color": style.COLOURS[place], "label": f"{steps} step{'s' * (steps != 1)}"}
            ax.plot(grid[0, :, 0], network(tuned, grid)[0, :, 0], **look)
        ax.plot(one.support["x"][0, :, 0], one.support["y"][0, :, 0], "k^", ms=5, label="the ten points")
        ax.set(title=title, xlabel="x", ylim=(-7, 6))
        ax.legend(fontsize=7, loc="lower left", ncols=2)
        curve = [error_after(params, test, steps, rates[title]) for steps in range(11)]
        panels[2].plot(range(11), curve, **style.line(place), label=title)
        print(f"{title:18s} squared error after 0, 1, 10 steps: {curve[0]:.2f}, {curve[1]:.2f}, {curve[10]:.2f}")
    panels[2].set(xlabel="steps of adaptation", ylabel="squared error", ylim=(0, None), title="200 new waves")
    panels[2].legend(fontsize=7)

# %% [markdown]
# Ordinary training is near the average of all waves, the best answer before any point is known. As a start it is poor. MAML's
# start has about the same error before the first step, but *one step* takes away more than half of it. This is a good case for
# MAML: each task needs another curve, and nobody told the network which features all waves share ($\sin x$ and $\cos x$).
#
# ### Text: one step is the nearest mean
#
# CLINC150 has 150 intents of requests to an assistant. A task, or *episode*, takes twenty of them, one example each, and asks
# about other texts of the same classes.

# %%
from bertcraft.lab import episodes
from bertcraft.lab.experiments.meta_learning import WAYS, SCALE, initial, features, logits, loss  # inline

unseen = np.random.default_rng(5).permutation(150)[:30]
source, pool = episodes.Source("clinc150", 15, 6, unseen), episodes.pool_of("clinc150", 15)  # MiniLM's last layer
drawn = episodes.episode(source.sizes, unseen, WAYS, 1, 5, seed=0, stream=0, number=0)
for c, support, query in list(zip(drawn.classes, drawn.support, drawn.query, strict=True))[:5]:
    print(f"{pool.classes[c]:22s} learn from: {pool.texts[c][support[0]][:36]:36s} asked: {pool.texts[c][query[0]][:34]}")

# %% [markdown]
# A linear map of the vector, at first the identity, then a head of twenty classes, at first zero: the case of (6).

# %%
def answers(params, task):
    return np.argmax(logits(params, task.query), axis=1)


def nearest(params, task):
    means = prototypes(features(params, task.support), task.support["labels"], WAYS)
    return np.argmax(prototypical_logits(features(params, task.query), means), axis=1)


tasks, start = [source.task(WAYS, 1, 5, 0, 2, number) for number in range(20)], initial()
head_only = [answers(adapt(loss, start, task.support, 1, 0.1, in_branch("head")), task) for task in tasks]
by_mean = [nearest(start, task) for task in tasks]
print(f"nearest mean: {100 * np.mean([a == t.query['labels'] for a, t in zip(by_mean, tasks, strict=True)]):.1f} % right")
print("one step of the head gives the same answers:", np.array_equal(head_only, by_mean))

# %% [markdown]
# ### The stored experiment
#
# The map is trained on 90 intents and tested on 40 others, twenty at a time; the seed deals out which. Each method's rates were
# chosen among twelve settings (prototypes': sixteen) on 20 further intents. *Fine-tuning* is MAML's steps from the untrained map,
# *unadapted* the nearest mean on MAML's map, *regression* logistic. **Predict first**: MAML, its map without adaptation, a plain
# classifier of the 90 intents, prototypes: in which order?

# %%
lesson.results("accuracy", "gigaflops")

# %% [markdown]
# Do not compare a row of ten seeds with one of five: the first five dealt out harder classes (MAML has 88.94 % on these). First,
# whether the question can be asked: no arm near 100 %, and models that have learnt something.

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.comparisons()

# %% alt="A row for each method with its gain in points over the nearest mean of frozen vectors (87.7 per cent) and a 95 percent interval: MAML 1.7 and MAML unadapted 1.7, with intervals well above zero; classifier, classifier long and prototypes 0.9, with intervals that just hold zero; fine-tuning 0.7 and regression 0.6, with intervals just above it."
lesson.plots(1)

# %% [markdown]
# Read it from the top. At equal *steps* MAML is ahead of the plain classifier, by 0.1 to 1.3 points. But each of
# its steps costs twice the operations. Against a classifier that was given as many (*equal operations*) the difference is as large,
# but over five seeds the interval holds zero: one cannot tell. Against the same steps from the untrained map (*fine-tuning*) one
# cannot tell either. Steps or nearest mean (by (6) itself a step), MAML's map gives nearly the same: at most a third of a point
# apart. On text with a good encoder the gain is in the map that training found.
#
# Prototypes, with 14 GFLOP against MAML's 39, are behind it here. All trained methods lie within two points of the nearest mean
# of frozen vectors, which costs nothing. A decision for a product would rest on that, not on the first row.
#
# ### When does it not help?
#
# - **When the encoder already compares well**, as MiniLM's last layer does, little is left to learn.
# - **When tasks are few.** The start is learnt from tasks as a model is from examples; from ten of them it would overfit.
# - It has a case where the features that tasks share are still to be found, like the waves, and in control.
#
# We adapt a map on frozen vectors, one example a class; a whole encoder, or five examples, may give another answer. First-order
# MAML, ANIL and Reptile were not measured on text in this experiment.
#
# ## 6. In production (10 minutes)
#
# `learn2learn`, the library of most tutorials, does not build on Python 3.11. `torch.func` is all it takes: `functional_call`
# runs a module with parameters that are handed in, and `grad` differentiates and nests.

# %%
if lesson.installed("torch"):
    import torch
    from torch.func import functional_call, vmap
    from torch.func import grad as torch_grad

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    theirs = {name: p.detach() for name, p in module.named_parameters()}

    def torch_loss(params, x, labels):
        return torch.nn.functional.cross_entropy(functional_call(module, params, (x,)), labels)

    def after_adaptation(params, support_x, support_y, query_x, query_y):
        for _ in range(2):
            gradient = torch_grad(torch_loss)(params, support_x, support_y)
            params = {name: p - 0.3 * gradient[name] for name, p in params.items()}  # a new dict: nothing is changed in place
        return torch_loss(params, query_x, query_y)

    data_rng = np.random.default_rng(1)
    x, labels = data_rng.standard_normal((4, 2, 9, 6)), np.tile(np.repeat(np.arange(3), 3), (4, 2, 1))  # 4 tasks, 2 batches
    arguments = [torch.tensor(array) for array in (x[:, 0], labels[:, 0], x[:, 1], labels[:, 1])]
    each = vmap(torch_grad(after_adaptation), in_dims=(None, 0, 0, 0, 0))(theirs, *arguments)  # all tasks at once
    meta_gradient = {name: g.mean(0) for name, g in each.items()}

# %% [markdown]
# The same with our functions and the same weights:

# %%
if lesson.installed("torch"):

    def our_loss(params, batch):
        hidden = np.tanh(F.linear(batch["x"], **params["0"]))
        return F.cross_entropy(F.linear(hidden, **params["2"]), batch["labels"])

    ours = tree.nest({name: p.numpy() for name, p in theirs.items()})
    torch_tasks = [Task(*({"x": x[t, i], "labels": labels[t, i]} for i in (0, 1))) for t in range(4)]
    _, gradient = over_tasks(lambda p, t: maml(our_loss, p, t, 2, 0.3), ours, torch_tasks)
    difference = max(np.abs(leaf - meta_gradient[name].numpy()).max() for name, leaf in tree.items(gradient))
    print("ours and torch.func, every entry the same to 1e-10:", bool(difference < 1e-10))

# %% [markdown]
# Three traps of real code.
#
# 1. **`loss.backward()` and `optimizer.step()` in the inner loop** change the parameters in place and cut the graph. It runs,
#    and it is first-order MAML at best. With `torch.autograd.grad` the flag is `create_graph=True`; its default is False.
# 2. **Batch normalisation.** MAML's published code normalises each query batch by its own statistics, so the model sees all
#    queries at once. Such figures do not compare with those of a model that answers one query at a time.
# 3. **A bigger model.** The graph of five inner steps through 110 million parameters is five graphs. Keep the encoder frozen,
#    or adapt the last layer alone, or go first order.
#
# **Status today (2026).** For text, few examples are served by a good sentence encoder with a linear head or nearest means
# (SetFit fine-tunes one contrastively), or by a large language model that reads the examples in its prompt. MAML is used where
# tasks differ in more than their labels: control, physical simulation, personal models.
#
# ## 7. On your data (5 minutes)
#
# The recipe to start from: a frozen encoder and the nearest mean. A new class costs one example and no training.
#
# ```python
# import csv, numpy as np
# from sentence_transformers import SentenceTransformer
#
# rows = list(csv.DictReader(open("examples.csv")))              # columns text, label
# encoder = SentenceTransformer("all-MiniLM-L6-v2")
# vectors = encoder.encode([row["text"] for row in rows], normalize_embeddings=True)
# names = sorted({row["label"] for row in rows})
# means = np.stack([vectors[[row["label"] == name for row in rows]].mean(axis=0) for name in names])
# np.savez("model.npz", names=names, means=means)
# new = encoder.encode(["where is my card?"], normalize_embeddings=True)
# print(names[np.argmin(((new[:, None] - means) ** 2).sum(axis=2), axis=1)[0]])
# ```
#
# | symptom | setting |
# | --- | --- |
# | related labelled classes are at hand | try a classifier's features; keep them if they beat the nearest mean |
# | the loss jumps to that of guessing | lower the inner rate first, then the outer one |
# | first steps change nothing | a head from zero moves alone in step one: take more steps or a larger inner rate |
# | gains vanish on new classes | choose settings on classes, not texts, that are left out |
#
# ## 8. Exercises (95 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 Where MAML settles (one star, 10 minutes)
#
# Equation (5) for MAML after one step, for any number of tasks.


# %% exercise="best_start" stars=1
def best_start(curvatures, goals, rate):
    """The start that minimises the mean loss after one step, for tasks h/2 (theta - c)^2: h and c (T,), rate below 1/h."""
    ### BEGIN SOLUTION
    weights = curvatures * (1 - rate * curvatures) ** 2
    return np.sum(weights * goals) / np.sum(weights)
    ### END SOLUTION


# %%
check.best_start(best_start)

# %% [markdown]
# ### 8.2 The first task leaks (two stars, 10 minutes)
#
# A first-order meta-gradient over a batch of tasks. It runs, its loss falls, and it is wrong from the second task on. Find the
# mistake and mend it.


# %% exercise="meta_batch" stars=2
def meta_batch(gradient, theta, tasks, steps, rate):
    """The mean of g' over the tasks. gradient(theta, batch) -> (P,); tasks: pairs (support, query); theta (P,)."""
    total = np.zeros_like(theta)
    for support, query in tasks:
        ### BEGIN SOLUTION
        adapted = theta
        for _ in range(steps):
            adapted = adapted - rate * gradient(adapted, support)
        total = total + gradient(adapted, query)
        ### END SOLUTION
        ### BEGIN STUB
        # for _ in range(steps):
        #     theta = theta - rate * gradient(theta, support)
        # total = total + gradient(theta, query)
        ### END STUB
    return total / len(tasks)


# %%
check.meta_batch(meta_batch)

# %% [markdown]
# ### 8.3 Through two steps (two stars, 15 minutes)
#
# Equation (4) for linear regression, where $H=X^\top X/n$ is the same at each step. Return MAML's gradient after $J$ steps
# (`steps`). No differentiation is needed: only products.


# %% exercise="through_steps" stars=2
def through_steps(theta, X, y, query_X, query_y, steps, rate):
    """The gradient of the query loss after some steps, by the parameters before them: theta (P,), X (n, P), y (n,) -> (P,).

    The loss of a batch is half the mean of the squared errors.
    """
    ### BEGIN SOLUTION
    shrink = np.eye(len(theta)) - rate * X.T @ X / len(X)
    for _ in range(steps):
        theta = theta - rate * X.T @ (X @ theta - y) / len(X)
    gradient = query_X.T @ (query_X @ theta - query_y) / len(query_X)
    for _ in range(steps):
        gradient = shrink @ gradient
    return gradient
    ### END SOLUTION


# %%
check.through_steps(through_steps)

# %% [markdown]
# ### 8.4 An honest episode (two stars, 15 minutes)
#
# Most wrong few-shot results come from here. Draw an episode: `ways` different classes; of each `shots` rows to learn from and
# `queries` **other** rows to be asked about; new labels from 0 to `ways` - 1 in the order in which the classes were drawn.


# %% exercise="draw_episode" stars=2
def draw_episode(labels, ways, shots, queries, rng):
    """labels integers (n,), the class of each row. Returns four integer arrays: rows of the support (ways * shots,), their new
    labels, rows of the query (ways * queries,), their new labels. Each class has shots + queries rows or more.
    """
    ### BEGIN SOLUTION
    support, query = [], []
    for c in rng.permutation(np.unique(labels))[:ways]:
        rows = rng.permutation(np.flatnonzero(labels == c))
        support.append(rows[:shots])
        query.append(rows[shots : shots + queries])
    new = np.arange(ways)
    return np.concatenate(support), np.repeat(new, shots), np.concatenate(query), np.repeat(new, queries)
    ### END SOLUTION


# %%
check.draw_episode(draw_episode)

# %% [markdown]
# ### 8.5 The nearest mean as a linear layer (three stars, 15 minutes)
#
# Equation (7) is a linear classifier in disguise: write out the square. Return a weight and a bias whose scores give the same
# softmax as $-\lVert x-\mu_k\rVert^2$. Triantafillou et al. (2020) start MAML's head from it.


# %% exercise="head_of_prototypes" stars=3
def head_of_prototypes(centres):
    """centres (N, D) -> weight (N, D) and bias (N,), so that softmax(x @ weight.T + bias) = softmax(-squared distances)."""
    ### BEGIN SOLUTION
    return 2 * centres, -np.sum(centres**2, axis=1)
    ### END SOLUTION


# %%
check.head_of_prototypes(head_of_prototypes)

# %% [markdown]
# ### 8.6 What goes into the product? (two stars, 15 minutes, a decision)
#
# Invented figures of another team, on its own intents (ten seeds, points over the nearest mean of frozen vectors, 95 % intervals):
#
# | arm | gain | less the classifier | work |
# | --- | --- | --- | --- |
# | classifier, then nearest mean | +2.1 [+1.2, +3.0] | | a training loop |
# | MAML | +2.4 [+1.4, +3.4] | +0.3 [-0.6, +1.2] | a training loop through a training loop |
# | MAML's map, unadapted | +2.4 [+1.5, +3.3] | +0.3 [-0.5, +1.1] | the same |
#
# - `arm`: "nearest", "classifier" or "maml".
# - `because`: (a) it has the highest number; (b) it is shown to be better than doing nothing, and nothing dearer is shown to be
#   better than it; (c) it was shown to be equal to MAML.
# - `unless`: what would change your mind? (a) one more seed in which MAML wins; (b) an interval of MAML less the classifier, from
#   intents of your own, that lies above what the extra work is worth; (c) a paper where MAML wins on pictures.


# %% exercise="take" stars=2
def take():
    """{"arm": "nearest", "classifier" or "maml", "because": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "classifier", "because": "b", "unless": "b"}
    ### END SOLUTION


# %%
check.take(take)

# %% [markdown]
# ### 8.7 What Reptile does in secret (three stars, 15 minutes)
#
# Derive it on paper. Reptile takes $J=2$ steps on two batches of the same task, with losses $\ell_1$ and $\ell_2$. Write its direction
# $(\theta-\theta'')/\alpha$ to first order in $\alpha$. Average over the order of the two batches. Which extra term does it
# have over joint training, and what does descending it do?

# %% [markdown] solution=true
# **Model answer.** With $g_i=\nabla\ell_i(\theta)$ and $H_i$ the second derivatives: the first step leads to $\theta-\alpha
# g_1$, where the second batch has the gradient $g_2-\alpha H_2g_1$ to first order. So the direction is $g_1+g_2-\alpha H_2g_1$.
# Averaged over the order, the last term is $\frac\alpha2(H_2g_1+H_1g_2)=\frac\alpha2\nabla(g_1\cdot g_2)$. Hence Reptile
# descends $\ell_1+\ell_2-\frac\alpha2\,g_1\cdot g_2$: besides lowering the losses it makes the gradients of two batches of a
# task point the same way, so that a step on one helps the other. That is generalisation within a task, and MAML's $(I-\alpha
# H)g'$ has the same term, with another factor.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Report the plain rivals at the same budget**: nearest mean, a new head, a classifier of the training classes.
# - **Separate classes, not texts**, between training and test. Which classes are tested moves the result by more than most
#   methods do, so an interval over episodes of *one* split is too narrow.
# - **Give every method its own rates**, chosen on classes that are not tested.
# - **Heads that start at zero** make the first step a nearest mean. A random head wastes its first steps.
# - **The paper and its code differ**: the sinusoid's inner rate is 0.01 in the text and $10^{-3}$ in the published program.
#   And miniImageNet is trained with 5 inner steps, tested with 10.
#
# **Read**: Finn, Abbeel, Levine 2017, [MAML](https://arxiv.org/abs/1703.03400). Nichol, Achiam, Schulman 2018,
# [Reptile](https://arxiv.org/abs/1803.02999). Raghu et al. 2020,
# [Rapid learning or feature reuse?](https://arxiv.org/abs/1909.09157) Snell, Swersky, Zemel 2017,
# [Prototypical networks](https://arxiv.org/abs/1703.05175). Chen et al. 2019,
# [A closer look at few-shot classification](https://arxiv.org/abs/1904.04232). For BERT: Bansal, Jha, McCallum 2020,
# [LEOPARD](https://arxiv.org/abs/1911.03863). The tools: [torch.func](https://pytorch.org/docs/stable/func.html).
#
# **Open project**: build tasks in which the *same* texts have labels that change from task to task ("is it about money?", "is it
# a question?"), so that no one classifier serves all. Does adaptation pay there?
#
# **Next**: this lesson is on none of the four paths. The smallest thing that can be adapted is in
# [12 adapters](12_adapter_modules.ipynb); the [index](00_index.ipynb) shows the rest.
