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
# A new kind of request arrives, with one example. A model that needs a thousand is of no use. MAML's answer (Finn, Abbeel and
# Levine 2017) is to train the *starting point*: practise on hundreds of small tasks, and each time ask not "how good am I?" but
# "how good am I **after** a few steps of learning?", and send the gradient back through those steps. It is one of the most
# beautiful ideas in machine learning. It was never tried on text in its paper, and its rivals are simpler than it is. You will
# derive it, run it, and find out which part of its success is its own.
#
# You need NumPy, and from [lesson 00](00_foundations.ipynb) what a gradient is. Set aside 60 to 90 minutes.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson

lesson = open_lesson("meta_learning")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim
#
# "Quick adaptation" has no number in it. The paper's numbers are about small pictures.

# %%
lesson.claim()

# %% [markdown]
# The paper compares with "fine-tuning" at 28.86 and 49.79 %, and that is what everybody quotes: twenty points. But that rival
# was a network trained on the training classes and then tuned by a method that was not made for five pictures. Later work gave
# it a better head and reported that most of the gap was gone (Chen et al. 2019). **The history of this field is a history of
# baselines.** So ours comes first in every table: a good encoder, and the nearest mean.

# %% [markdown]
# ## 2. The best start is not the best average
#
# Here is the whole idea in one dimension. There are two tasks, with one parameter $\theta$:
#
# - task A wants $\theta=0$, and its valley is flat: $\ell_A=\frac12\theta^2$;
# - task B wants $\theta=1$, and its valley is twice as steep: $\ell_B=\frac12\cdot 2\,(\theta-1)^2$.
#
# You may choose $\theta$ before you know which task you get. Then you are allowed one step of gradient descent, with rate 0.4.
#
# **Predict first.** The best compromise without any step is $\theta=2/3$, nearer to the steep valley. Where should you stand if
# the step is allowed: nearer to A, nearer to B, or in the middle?

# %%
from bertcraft.lab import style

CURVATURE, GOAL = np.array([1.0, 2.0]), np.array([0.0, 1.0])  # of A and B
RATE = 0.4  # try 0.1, then 0.5: what happens to B when one step takes it all the way?


def losses(theta):
    """Both tasks' losses at some places: theta (n,) -> (n, 2)."""
    return 0.5 * CURVATURE * (theta[:, None] - GOAL) ** 2


def after_one_step(theta):
    """The same, each task after its own step of gradient descent."""
    return 0.5 * CURVATURE * (theta[:, None] - RATE * CURVATURE * (theta[:, None] - GOAL) - GOAL) ** 2


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
# It moved to the *other* side. Task B's valley is steep, so one step repairs nearly all of it, wherever you start. Task A is
# slow to learn. So stand where A needs little. **MAML's start is not between the solutions: it is where the slowest learner is
# helped.** Ordinary training on all tasks, and the average of their solutions, are other places.

# %% [markdown]
# ## 3. The mathematics
#
# ### Two losses a task
#
# A task has two batches: a *support* $S$ to learn from and a *query* $Q$ to be judged on. With parameters $\theta$ (a vector of
# $P$ numbers) and an inner rate $\alpha$, one step of adaptation is
#
# $$\theta'=\theta-\alpha\,\nabla\ell_S(\theta) \tag{1}$$
#
# and what MAML minimises over the start, on average over tasks, is
#
# $$J(\theta)=\ell_Q(\theta')=\ell_Q\big(\theta-\alpha\nabla\ell_S(\theta)\big) \tag{2}$$
#
# ### The gradient of a loss after a gradient
#
# How does $\theta'$ move when $\theta$ does? Its derivative is a $P\times P$ matrix: the identity from the first term of (1),
# and from the second $\alpha$ times the derivative of a gradient, the matrix $H$ of second derivatives. By the chain rule, with
# $g'=\nabla\ell_Q(\theta')$, the query's gradient *at the adapted parameters*,
#
# $$\nabla J(\theta)=(I-\alpha H)\,g',\qquad H=\nabla^2\ell_S(\theta) \tag{3}$$
#
# With several steps there is one such factor for each, from the last to the first:
#
# $$\nabla J=(I-\alpha H_0)(I-\alpha H_1)\cdots(I-\alpha H_{k-1})\,g' \tag{4}$$
#
# Nobody computes $H$. It would have $P^2$ entries. The product $Hg'$ costs about as much as one more gradient, and reverse-mode
# differentiation *through* the inner gradient finds it by itself. That is why this library can differentiate its own
# derivatives.
#
# **By hand.** In task A, $\theta=0.5$, $\alpha=0.4$, support and query the same: $\theta'=0.5-0.4\cdot0.5=0.3$; $g'=0.3$;
# $H=1$; so $\nabla J=(1-0.4)\cdot0.3=0.18$. Check: $J=\frac12(0.6\,\theta)^2=0.18\,\theta^2$ has the slope $0.36\,\theta=0.18$.
#
# ### Where the methods settle
#
# For tasks $\frac12h_t(\theta-c_t)^2$ everything has a closed form. One step leaves $\theta'-c_t=(1-\alpha h_t)(\theta-c_t)$.
# Each method stops where its averaged gradient is zero, which is a weighted mean of the $c_t$,
#
# $$\theta^*=\frac{\sum_t w_t\,c_t}{\sum_t w_t},\qquad w_t=\begin{cases}
# h_t & \text{joint training}\\
# h_t(1-\alpha h_t)^{2} & \text{MAML}\\
# h_t(1-\alpha h_t) & \text{first-order MAML}\\
# 1-(1-\alpha h_t)^{k} & \text{Reptile, } k \text{ steps}\end{cases} \tag{5}$$
#
# *First-order MAML* drops $H$ from (3) and uses $g'$ alone. *Reptile* (Nichol et al. 2018) does not even look at a query: it
# takes some steps and moves the start a little towards where they led, $\theta\leftarrow\theta-\epsilon(\theta-\theta')$.
#
# In our example: joint $\frac{2}{3}=0.67$; MAML $\frac{2\cdot0.04}{1\cdot0.36+2\cdot0.04}=0.18$; first-order
# $\frac{2\cdot0.2}{0.6+0.4}=0.4$; Reptile with one step $\frac{0.8}{0.4+0.8}=0.67$, joint training again; with very many steps
# every weight is 1: $0.5$, the mean of the solutions. Four methods, four places.

# %%
ALPHA = np.linspace(0, 0.49, 50)


def settles(weights) -> np.ndarray:
    return (weights * GOAL).sum(axis=1) / weights.sum(axis=1)


left_over = 1 - ALPHA[:, None] * CURVATURE  # of the distance to the goal, after a step
places = {
    "joint training": settles(CURVATURE + 0 * left_over),
    "MAML": settles(CURVATURE * left_over**2),
    "first-order MAML": settles(CURVATURE * left_over),
    "Reptile, 5 steps": settles(1 - left_over**5 + 1e-12 * CURVATURE),
}
with style.shown(width=6.6, height=3.2) as ax:
    for place, (title, where) in enumerate(places.items()):
        ax.plot(ALPHA, where, color=style.COLOURS[place], ls=style.DASHES[place + 1], label=title)
    ax.set(xlabel=r"inner rate $\alpha$", ylabel=r"where it settles, $\theta^*$", ylim=(-0.02, 0.8))
    ax.legend(fontsize=8, loc="lower left")
at = np.argmin(np.abs(ALPHA - 0.4))
print(f"at a rate of {ALPHA[at]:.1f}: " + ", ".join(f"{title} {where[at]:.2f}" for title, where in places.items()))

# %% [markdown]
# At $\alpha\to0$ all gradient methods agree: without a step there is nothing to prepare for. The difference between MAML and
# its first-order version is a factor $1-\alpha h_t$: second derivatives matter if one step goes a good part of the way.
#
# ### The nearest mean is a step of gradient descent
#
# Now the case that this lesson is about: $N$ classes with $K$ examples each, vectors $x$ of length 1 from a frozen encoder, and
# a linear head with weights $W$ $(N, D)$ that start at **zero**. All classes then have probability $1/N$, and the slope of the
# cross-entropy by row $W_k$ is the mean of $(p_k-y_k)\,x$. Let $\mu_k$ be the mean of class $k$ and $\bar\mu$ that of all. One
# step gives
#
# $$W_k=\frac{\alpha}{N}\,(\mu_k-\bar\mu),\qquad W_k\cdot x=\frac{\alpha}{N}\big(\mu_k\cdot x-\bar\mu\cdot x\big) \tag{6}$$
#
# The second term is the same for all classes. **So the answer after one step is the class whose mean has the largest product
# with $x$: the nearest mean, when the means are equally long**, as with one example a class. Whatever MAML adds to "nearest
# mean on good vectors", it must add after this step, or by changing the vectors.
#
# Prototypical networks (Snell et al. 2017) skip the step. They score by distances to the means $\mu_k$,
#
# $$\text{score}_k=-\lVert x-\mu_k\rVert^2 \tag{7}$$
#
# and train the encoder on the cross-entropy of these scores. No inner loop, no second derivatives.

# %% [markdown]
# ## 4. The code
#
# ### Adaptation that can be differentiated
#
# `adapt` is equation (1), repeated. Nothing in it is special. It calls `grad` inside; if somebody outside is taking a gradient,
# too, the steps are a part of what is differentiated. `moves` says which parameters adapt: all of them in MAML.

# %%
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree, value_and_grad

Loss = Callable[[dict, Any], Any]

from bertcraft.techniques.meta_learning import Task, adapt  # inline

# %% [markdown]
# ### MAML and its relatives
#
# Compare the two functions line by line. In `maml` the call of `adapt` stands *inside* of what is differentiated. In
# `first_order_maml` it has happened before. That is the whole difference, and in other libraries it is one flag that is easy to
# forget.

# %%
from bertcraft.techniques.meta_learning import maml, first_order_maml, anil, in_branch  # inline

# %% [markdown]
# The example that you computed by hand, and MAML's formula (3) with an $H$ that is really written out, for a linear regression
# of three numbers. There the loss is $\frac{1}{2n}\lVert X\theta-y\rVert^2$, so $H=X^\top X/n$.

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
print("first order  ", first_order_maml(regression, start3, small, 1, 0.3)[1]["theta"].round(4))

# %% [markdown]
# And a check without any formula: the loss after three steps of adaptation against finite differences. If a second derivative
# were wrong anywhere, this would raise.

# %%
def after_three_steps(theta):
    return regression(adapt(regression, {"theta": theta}, small.support, 3, 0.3), small.query)


bc.check_grads(after_three_steps, start3["theta"], order=1)
print("the gradient through three gradient steps agrees with finite differences")

# %% [markdown]
# ### Reptile, and a batch of tasks

# %%
from bertcraft.techniques.meta_learning import reptile, over_tasks  # inline

# %% [markdown]
# Do they settle where equation (5) says? Start at 0.9 and descend each of the gradients on the two tasks of part 2.

# %%
two_tasks = [Task(*2 * ({"h": h, "c": c},)) for h, c in zip(CURVATURE, GOAL, strict=True)]
methods = {
    "joint training": lambda p, t: value_and_grad(quadratic)(p, t.query),
    "MAML": lambda p, t: maml(quadratic, p, t, 1, 0.4),
    "first-order MAML": lambda p, t: first_order_maml(quadratic, p, t, 1, 0.4),
    "Reptile, 5 steps": lambda p, t: reptile(quadratic, p, [t.support] * 5, 0.4),
}
for title, method in methods.items():
    params = {"theta": np.array(0.9)}
    for _ in range(150):
        params = tree.map(lambda p, g: p - 0.3 * g, params, over_tasks(method, params, two_tasks)[1])
    print(f"{title:17s} settles at {float(params['theta']):.2f}; equation (5): {places[title][at]:.2f}")

# %% [markdown]
# ### What it looks like when it works
#
# The paper's own demonstration: a task is a sine wave of unknown height and phase, shown at ten points. A small network with
# two hidden layers learns the start. The rival is the same network, trained on all waves at once for as long.
#
# **Predict first.** What does the rival's curve look like before it has seen a point? And after ten steps on the ten points?
#
# A trick for speed: 25 tasks are adapted *side by side*. Each gets a copy of the parameters along a first axis, and the sum of
# their losses has gradients that do not mix.

# %% quick="ITERATIONS = 20"
ITERATIONS, SIDE_BY_SIDE, INNER_RATE = 800, 25, 0.02  # the paper: 70,000 iterations

# %%
from bertcraft.train import adamw


def network(params, x):
    for layer in ("first", "second"):
        x = np.maximum(x @ params[layer]["weight"] + params[layer]["bias"], 0)
    return x @ params["last"]["weight"] + params["last"]["bias"]


def wave_loss(params, batch):
    """Mean squared error of each task, summed over tasks: x and y (T, n, 1)."""
    return np.sum(np.mean((network(params, batch["x"]) - batch["y"]) ** 2, axis=(1, 2)))


def waves(rng, tasks: int, points: int = 10) -> Task:
    height, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    both = []
    for _ in range(2):
        x = rng.uniform(-5, 5, (tasks, points, 1))
        both.append({"x": x.astype(np.float32), "y": (height * np.sin(x - phase)).astype(np.float32)})
    return Task(*both)


def copied(params, tasks: int):
    """The parameters once for each task, along a first axis; a gradient by them is summed over the copies."""
    return tree.map(lambda leaf: leaf + np.zeros((tasks, 1, 1), np.float32), params)


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
# Fairness first: MAML's start was made for one rate. The rival may have another, so both get the best of four, chosen on waves
# that are not tested.

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

# %%
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
# Ordinary training has found the best answer to "which wave?": the average of all waves, and it is a good one to give before
# any point is known. As a start it is poor: ten steps, at the best of the rates, leave two thirds of the error. MAML's start has
# the same error before the first step. It is made so that *one step* bends it to the right shape. The picture is real, and it is
# the best case: a regression that must be rebuilt for each task, where no fixed features serve all of them.

# %% [markdown]
# ### What the second derivatives cost
#
# Operations can be counted without a clock. **Predict first**: MAML with five inner steps against first-order MAML with five,
# how many times as many operations?

# %%
from bertcraft.lab import flops

STEPS = np.array([1, 2, 3, 5, 8])
toy_rng = np.random.default_rng(0)
toy = {"map": {"weight": toy_rng.standard_normal((96, 96)) / 10}, "head": {"weight": np.zeros((5, 96))}}
toy_batch = {"x": toy_rng.standard_normal((25, 96)), "labels": np.repeat(np.arange(5), 5)}


def toy_loss(params, batch):
    return F.cross_entropy(np.tanh(batch["x"] @ params["map"]["weight"].T) @ params["head"]["weight"].T, batch["labels"])


once = flops.count(lambda p: value_and_grad(toy_loss)(p, toy_batch), toy)
counted = {
    method.__name__: [flops.count(method, toy_loss, toy, Task(toy_batch, toy_batch), int(k), 0.1) / once for k in STEPS]
    for method in (maml, first_order_maml, anil)
}
with style.shown(width=6.2, height=3.0) as ax:
    for place, (title, values) in zip((1, 2, 3), counted.items(), strict=True):
        ax.plot(STEPS, values, **style.line(place), label=title)
    ax.set(xlabel="inner steps", ylabel="operations of a task\n(one gradient = 1)", ylim=(0, None))
    ax.legend(fontsize=8)
print("five steps:", ", ".join(f"{title} {values[3]:.1f}" for title, values in counted.items()))

# %% [markdown]
# First order needs one gradient a step and one for the query: $k+1$. MAML walks back through each step as well. And it must
# *keep* each step until it walks back, so its memory grows with the number of steps, which first order's does not. ANIL's inner
# steps move the head alone, and still it saves nothing over first order here: the features are computed anew at each step.
# Computed once, its inner steps would cost next to nothing. That, not its accuracy, is what recommends it.
#
# ### Prototypes

# %%
from bertcraft.techniques.meta_learning import prototypes, prototypical_logits, prototypical_loss  # inline

# %%
two_classes = np.array([[0.0, 2.0], [0.0, 4.0], [2.0, 0.0]])
means = prototypes(two_classes, np.array([0, 0, 1]), 2)
print("means", means.tolist(), "scores of (1, 1):", prototypical_logits(np.array([[1.0, 1.0]]), means)[0])

# %% [markdown]
# By hand: the means are $(0,3)$ and $(2,0)$; $(1,1)$ is $1+4=5$ and $1+1=2$ away, squared.

# %% [markdown]
# ## 5. What it is worth on text
#
# ### The tasks
#
# CLINC150 has 150 intents of requests to an assistant. An *episode* takes five of them, one example each, and asks about five
# other texts a class. The classes of the test episodes are in no training episode. Vectors come from MiniLM, frozen. We take
# them from the **third** of its six layers on purpose: the last layer was trained on a billion pairs to put like sentences
# together, and hardly leaves anything to learn. (Both are in the stored experiment.)

# %%
from bertcraft.lab import episodes

TEXTS, DEPTH = 15, 3
order = np.random.default_rng(5).permutation(150)
classes = {"train": order[:45], "choice": order[45:55], "test": order[55:80]}
sources = {part: episodes.Source("clinc150", TEXTS, DEPTH, own) for part, own in classes.items()}
pool = episodes.pool_of("clinc150", TEXTS)
drawn = episodes.episode(sources["test"].sizes, sources["test"].classes, 5, 1, 4, seed=0, stream=0, number=0)
for c, support, query in zip(drawn.classes, drawn.support, drawn.query, strict=True):
    print(f"{pool.classes[c]:22s} learn from: {pool.texts[c][support[0]][:36]:36s} asked: {pool.texts[c][query[0]][:34]}")

# %% [markdown]
# ### The model
#
# A linear map of the vector, at first the identity, then a head for five classes, at first zero. Exactly the case of equation
# (6).

# %%
from bertcraft.lab.experiments.meta_learning import WAYS, SCALE, initial, features, logits, loss  # inline

# %%
test_tasks = [sources["test"].task(WAYS, 1, 5, 0, 2, number) for number in range(60)]


def right(scores, task) -> float:
    """% of the query that is classified right."""
    return 100 * float(np.mean(np.argmax(scores, axis=1) == task.query["labels"]))


def nearest_mean(params) -> list[float]:
    found = []
    for task in test_tasks:
        centres = prototypes(features(params, task.support), task.support["labels"], WAYS)
        found.append(right(prototypical_logits(features(params, task.query), centres), task))
    return found


def adapted_by(params, steps: int, rate: float, tasks=test_tasks) -> list[float]:
    return [right(logits(adapt(loss, params, task.support, steps, rate), task.query), task) for task in tasks]


start = initial()
heads_only = [
    right(logits(adapt(loss, start, task.support, 1, 0.1, in_branch("head")), task.query), task) for task in test_tasks
]
print(f"nearest mean          {np.mean(nearest_mean(start)):.1f} %")
print(f"one step of the head  {np.mean(heads_only):.1f} %")
print("the same in each of the 60 episodes:", heads_only == nearest_mean(start))

# %% [markdown]
# Equation (6), on real text: one step of gradient descent *is* the nearest mean, episode by episode.
#
# ### Live: five ways to use 45 classes
#
# All see the same training episodes, for the same number of meta-steps. **Predict first**: put the five in order.

# %% quick="META_STEPS = 2"
META_STEPS = 80  # of four tasks each; the stored experiment has 300
INNER, RATES = 5, (0.05, 0.1, 0.2, 0.5)  # steps of adaptation; rates at the test, chosen on ten other classes

# %%
SHARPNESS = 5**0.5  # of unit vectors before distances are taken
sharp = lambda params, batch: SHARPNESS * features(params, batch)  # noqa: E731
WAYS_TO_LEARN = {  # the gradient of one task, the outer rate
    "MAML": (lambda p, t: maml(loss, p, t, INNER, 0.1), 3e-4),
    "first-order MAML": (lambda p, t: first_order_maml(loss, p, t, INNER, 0.1), 3e-4),
    "prototypes": (lambda p, t: value_and_grad(lambda q: prototypical_loss(sharp, q, t, WAYS))(p), 1e-3),
}


def meta_trained(gradient, rate: float) -> dict:
    rule, params = adamw(rate, weight_decay=0.0), initial()
    state = rule.init(params)
    for step in range(META_STEPS):
        meta_batch = episodes.cut(sources["train"].task(4 * WAYS, 1, 5, 0, 0, step), 4)  # four tasks without a common class
        updates, state = rule.update(over_tasks(gradient, params, meta_batch)[1], state, params)
        params = tree.map(np.add, params, updates)
    return params


learnt = {title: meta_trained(*how) for title, how in WAYS_TO_LEARN.items()}

# %%
choice = [sources["choice"].task(WAYS, 1, 5, 0, 1, number) for number in range(15)]


def best_rate(params) -> float:
    return max(RATES, key=lambda rate: np.mean(adapted_by(params, INNER, rate, choice)))


scores = {"nearest mean, nothing learnt": nearest_mean(start)}
scores["fine-tuning, nothing learnt"] = adapted_by(start, INNER, best_rate(start))
for title in ("MAML", "first-order MAML"):
    scores[f"{title}, adapted"] = adapted_by(learnt[title], INNER, best_rate(learnt[title]))
scores["MAML's map, nearest mean"] = nearest_mean(learnt["MAML"])
scores["prototypical network"] = nearest_mean(learnt["prototypes"])

# %%
from bertcraft.lab import statistics

with style.shown(width=6.8, height=2.9) as ax:
    for place, (title, found) in enumerate(scores.items()):
        look = {**style.line((0, 4, 1, 3, 6, 2)[place]), "linestyle": "none"}
        interval = statistics.mean(found)
        reach = [[interval.mean - interval.low], [interval.high - interval.mean]]
        ax.errorbar(interval.mean, -place, xerr=reach, **look, capsize=2)
        print(f"{title:29s} {interval.mean:.1f} % [{interval.low:.1f}, {interval.high:.1f}]")
    ax.set_yticks([-place for place in range(len(scores))], list(scores))
    ax.set(xlabel="right, % (95 % intervals over 60 episodes, one training)", ylim=(-len(scores) + 0.5, 0.5))

# %% [markdown]
# Look at the fifth row. It takes the map that MAML has learnt, and throws the adaptation away. If it is as good as the third,
# then what MAML has learnt is *features*, not readiness to adapt. That is what Raghu et al. (2020) found for pictures.
#
# ### The stored experiment
#
# Sixteen arms, five seeds, three data sets; which classes are tested changes with the seed.

# %%
lesson.results()

# %%
lesson.plots(1)

# %%
lesson.comparisons()

# %%
lesson.plots(2)

# %% [markdown]
# What the stored runs say, computed from them: how much of the gain over fine-tuning is there after *one* step?

# %%
stored = {(run["arm"], run["seed"]): run["figures"] for run in lesson.runs}
for suffix, name in (("", "last layer"), ("_3", "third layer")):
    seeds = sorted(seed for arm, seed in stored if arm == "maml" + suffix and ("fine_tune" + suffix, seed) in stored)
    if len(seeds) < 2:
        print(f"{name}: not measured yet")
        continue
    curves = {arm: [stored[arm + suffix, s]["curve_1"] for s in seeds] for arm in ("maml", "fine_tune")}
    gain = np.mean(curves["maml"], axis=0) - np.mean(curves["fine_tune"], axis=0)
    told = ", ".join(f"{gain[steps]:+.2f} after {steps}" for steps in (1, 5, 10))
    print(f"{name}: MAML minus fine-tuning, in points, by steps of adaptation: {told}")
    plain = np.mean([stored["maml" + suffix, s]["unadapted_1"] for s in seeds])
    tuned = np.mean(curves["maml"], axis=0)[5]
    print(f"{'':12s} MAML's map with the nearest mean {plain:.2f} %, adapted by 5 steps {tuned:.2f} %")
RIVALS = {
    ("maml", "first_order"): "second derivatives, at equal steps",
    ("maml", "classifier"): "MAML against a plain classifier, then nearest mean",
    ("maml", "prototypes"): "MAML against prototypes",
    ("maml_3", "classifier_3"): "third layer: MAML against a plain classifier",
}
for pair, question in RIVALS.items():
    seeds = sorted(seed for arm, seed in stored if arm == pair[0] and (pair[1], seed) in stored)
    if len(seeds) > 1:
        ours, other = ([stored[arm, s]["clinc_1"] for s in seeds] for arm in pair)
        more = statistics.paired(ours, other)
        answer = "better" if more.mean > 0 else "WORSE"
        if more.low <= 0 <= more.high:
            answer = "no difference that these seeds can tell"
        print(f"{question}: {answer} ({more.mean:+.2f} points [{more.low:+.2f}, {more.high:+.2f}])")

# %% [markdown]
# So, for text with a pretrained encoder and one example a class:
#
# - **Meta-training helps on unseen intents**: by half a point where the encoder was made for the purpose, by more than five
#   where it was not.
# - **The help is in the map.** The nearest mean on MAML's map, without any adaptation, does as well as MAML with its five
#   steps, on both layers. What was learnt are features.
# - **The steps add little.** The curve of MAML is flat from its second step on, and the gain over fine-tuning is the same after
#   one step as after ten.
# - **Second derivatives change nothing** that five seeds can see, at nearly twice the operations.
# - **It does not need episodes.** A plain classifier of the ninety training classes does as well on the last layer and better
#   on the third, with three tenths of the operations. Prototypes do better than MAML on both.
#
# ### When does it not help?
#
# - **When the encoder is already good at it**: half a point on top of 95.
# - **On another data set**: look at BANKING77 in the plot. What was learnt on one kind of request need not carry over.
# - **With five examples instead of one** the difference on the last layer shrinks to a tenth of a point.
# - **When tasks are few.** The start is learnt from tasks as a model is from examples; with ten of them it is overfitted.
# - Where it *does* have a case: tasks that share no features and must be rebuilt, like the waves; control; and learned inner
#   rates.

# %% [markdown]
# ## 6. In production
#
# `learn2learn`, the library of most tutorials, does not build on Python 3.11. `torch.func`, a part of torch, is all it takes:
# `functional_call` runs a module with parameters that are handed in, `grad` differentiates, and nests.

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

    def after_adaptation(params, support_x, support_y, query_x, query_y, second_order=True):
        for _ in range(2):
            gradient = torch_grad(torch_loss)(params, support_x, support_y)
            if not second_order:
                gradient = {name: g.detach() for name, g in gradient.items()}
            params = {name: p - 0.3 * gradient[name] for name, p in params.items()}  # a new dict: nothing is changed in place
        return torch_loss(params, query_x, query_y)

    data_rng = np.random.default_rng(1)
    x, labels = data_rng.standard_normal((4, 2, 9, 6)), np.tile(np.repeat(np.arange(3), 3), (4, 2, 1))  # 4 tasks, 2 batches
    arguments = [torch.tensor(array) for array in (x[:, 0], labels[:, 0], x[:, 1], labels[:, 1])]
    each = vmap(torch_grad(after_adaptation), in_dims=(None, 0, 0, 0, 0))(theirs, *arguments)  # all tasks at once
    meta_gradient = {name: g.mean(0) for name, g in each.items()}
    print({name: tuple(g.shape) for name, g in meta_gradient.items()})

# %% [markdown]
# The same with our functions and the same weights, and the flag that is so easily forgotten:

# %%
if lesson.installed("torch"):

    def our_loss(params, batch):
        hidden = np.tanh(F.linear(batch["x"], **params["0"]))
        return F.cross_entropy(F.linear(hidden, **params["2"]), batch["labels"])

    ours = tree.nest({name: p.numpy() for name, p in theirs.items()})
    tasks = [Task(*({"x": x[t, i], "labels": labels[t, i]} for i in (0, 1))) for t in range(4)]
    _, gradient = over_tasks(lambda p, t: maml(our_loss, p, t, 2, 0.3), ours, tasks)
    difference = max(np.abs(leaf - meta_gradient[name].numpy()).max() for name, leaf in tree.items(gradient))
    print("ours and torch.func, every entry the same to 1e-10:", bool(difference < 1e-10))

    detached = torch_grad(lambda p, *a: after_adaptation(p, *a, second_order=False))(theirs, *(a[0] for a in arguments))
    _, first = first_order_maml(our_loss, ours, tasks[0], 2, 0.3)
    difference = max(np.abs(leaf - detached[name].numpy()).max() for name, leaf in tree.items(first))
    print("detached inner gradients are first-order MAML:", bool(difference < 1e-10))

# %% [markdown]
# Four traps of real code.
#
# 1. **`loss.backward()` and `optimizer.step()` in the inner loop** change the parameters in place and cut the graph. It runs,
#    and it is first-order MAML at best. With `torch.autograd.grad` the flag is `create_graph=True`; its default is False.
# 2. **Batch normalisation.** MAML's published code normalises each query batch by its own statistics: the model sees all the
#    queries at once (*transductive*). Such figures do not compare with those of a model that answers one query at a time.
# 3. **Dropout** differs between inner steps; with `vmap` say `randomness="different"`.
# 4. **A bigger model.** For a BERT, keep the encoder frozen, or adapt the last layer alone, or go first order: the graph of
#    five inner steps through 110 million parameters is five graphs.

# %% [markdown]
# ## 7. Exercises
#
# `hint("name")` helps, `solution("name")` tells. Stars say how hard it is.
#
# ### 7.1 Where MAML settles (one star)
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
# ### 7.2 The second step leaks (two stars)
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
# ### 7.3 Through two steps (two stars)
#
# Equation (4) for linear regression, where $H=X^\top X/n$ is the same at each step. Return MAML's gradient after $k$ steps. No
# differentiation is needed: only products.


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
# ### 7.4 An honest episode (two stars)
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
# ### 7.5 The nearest mean as a linear layer (three stars)
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
# ### 7.6 What Reptile does in secret (derive, three stars)
#
# Reptile takes $k=2$ steps on two batches of the same task, with losses $\ell_1$ and $\ell_2$. Write its direction
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
# ### 7.7 Give MAML its best chance (open project, three stars)
#
# In part 5 the features are ready, so readiness to adapt is worth little. Build tasks for which it must be worth something: the
# *same* texts with labels that change from task to task (say, "is it about money?" in one, "is it a question?" in the next), so
# that no fixed features serve all of them. Compare nearest mean, fine-tuning, first-order MAML and MAML, with the rate of
# adaptation chosen on other tasks for each, three seeds. Does the order change?

# %% [markdown] solution=true
# **What to look for.** With labels that contradict each other the nearest mean of *unadapted* vectors must fail on the
# questions along which the vectors do not vary, and adapting the map can help. Expect the gain of several steps over one to
# grow. If it does not, check that the inner rate is large enough to move the map at all: with the head at zero, the first step
# moves nothing but the head (the map's gradient is the head's weight times something, and that is zero).

# %% [markdown]
# ## 8. Pitfalls, references, what next
#
# - **Report the plain rivals at the same budget**: nearest mean, a new head, ordinary fine-tuning, a classifier of the training
#   classes. Gains that were published without them have shrunk when they were added (Chen et al. 2019).
# - **Classes, not texts, must be separated** between training and test. And say which classes: their choice moves the result by
#   more than most methods do, so an interval over episodes of *one* split is too narrow. Ours are over splits.
# - **Choose the inner rate anew at the test**, on other classes, for every method; MAML's training rate is not the best one for
#   fine-tuning.
# - **Heads that start at zero** make the first step a nearest mean. With a random head the labels of an episode have no meaning
#   for it, and the first steps go to waste.
# - **Small differences from the paper in its own code**: the sinusoid's inner rate is 0.01 in the text, the default of the
#   published program is $10^{-3}$; miniImageNet is trained with 5 inner steps and tested with 10.
# - **Which MAML?** A missing flag makes it first order, and nothing complains. Check one meta-gradient by finite differences.
#
# **Read**: Finn, Abbeel, Levine 2017, [MAML](https://arxiv.org/abs/1703.03400). Nichol, Achiam, Schulman 2018,
# [Reptile](https://arxiv.org/abs/1803.02999), section 5 for exercise 7.6. Raghu et al. 2020,
# [Rapid learning or feature reuse?](https://arxiv.org/abs/1909.09157) Snell, Swersky, Zemel 2017,
# [Prototypical networks](https://arxiv.org/abs/1703.05175). Chen et al. 2019,
# [A closer look at few-shot classification](https://arxiv.org/abs/1904.04232). For BERT: Bansal, Jha, McCallum 2020,
# [LEOPARD](https://arxiv.org/abs/1911.03863). The tools: [torch.func](https://pytorch.org/docs/stable/func.html).
#
# **Next**: this lesson is on none of the four paths; it is where several of them end. Few examples without any new parameters
# are the matter of 13, prompts. What a *good encoder* owes to its training is in 11, contrastive learning. And the smallest
# thing that can be adapted is in [12 adapters](12_adapter_modules.ipynb).
