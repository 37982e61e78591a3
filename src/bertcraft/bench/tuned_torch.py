"""A BERT for masked-LM training as an expert writes it in PyTorch for speed on a CPU: a rival."""

import torch
from torch import nn
from torch.nn import functional as F

from bertcraft.bench.step import Sizes


class Layer(nn.Module):
    """One post-LN layer: x (batch, length, hidden) -> the same."""

    def __init__(self, sizes: Sizes, rate: float, epsilon: float):
        super().__init__()
        hidden = sizes.hidden
        self.heads, self.rate = sizes.heads, rate
        self.query_key_value, self.output = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.inner, self.outer = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden, epsilon), nn.LayerNorm(hidden, epsilon)

    def forward(self, x):
        batch, length, hidden = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, hidden // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + F.dropout(self.output(context), self.rate))
        inner = F.gelu(self.inner(x))
        return self.norm2(x + F.dropout(self.outer(inner), self.rate))


class MaskedLM(nn.Module):
    """Embeddings, layers, and a head that is computed at the predicted positions only."""

    def __init__(self, sizes: Sizes, rate: float, epsilon: float, deviation: float):
        super().__init__()
        hidden = sizes.hidden
        self.rate = rate
        self.words, self.positions = (
            nn.Embedding(sizes.vocabulary, hidden),
            nn.Embedding(sizes.positions, hidden),
        )
        self.norm = nn.LayerNorm(hidden, epsilon)
        self.layers = nn.ModuleList([Layer(sizes, rate, epsilon) for _ in range(sizes.layers)])
        self.transform, self.transform_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden, epsilon)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, deviation)

    def forward(self, ids, at, labels):
        """The mean cross-entropy. ids (batch, length); at (in the flat batch) and labels (predicted,)."""
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        x = F.dropout(x, self.rate)
        for layer in self.layers:
            x = layer(x)
        x = x.view(-1, x.shape[-1])[at]
        x = self.transform_norm(F.gelu(self.transform(x)))
        return F.cross_entropy(F.linear(x, self.words.weight, self.bias), labels)
