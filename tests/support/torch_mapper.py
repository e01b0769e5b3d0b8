"""TDR's mappers in PyTorch, under the names of their checkpoints, and its text tower with words."""

import torch
from torch import nn


def perceptron(inputs, hidden, outputs):
    parts, width = [], inputs
    for _ in range(3):
        parts += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.LeakyReLU()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


class Mapper(nn.Module):
    """Words from the last hidden state of CLIP; keys and values are there to be saved."""

    def __init__(self, num_words, input_dim, hidden_dim, output_dim, cross_attention=()):
        super().__init__()
        self.num_words = num_words
        for i in range(num_words):
            for stem in ("mapping", "mapping_patch"):
                self.add_module(f"{stem}_{i}", perceptron(input_dim, hidden_dim, output_dim))
        for path, width in cross_attention:
            for end in ("to_k", "to_v"):
                name = f"{path.replace('.', '_')}_{end}"
                self.add_module(name, nn.Linear(output_dim, width, bias=False))

    def forward(self, hidden):
        words = []
        for i in range(self.num_words):
            of_patches = self.get_submodule(f"mapping_patch_{i}")(hidden[:, 1:])
            of_class = self.get_submodule(f"mapping_{i}")(hidden[:, :1])
            words.append(of_class + of_patches.mean(1, keepdim=True))
        return torch.cat(words, 1)


class CleanMapper(nn.Module):
    """Each word by its own perceptron."""

    def __init__(self, num_words, input_dim, hidden_dim):
        super().__init__()
        for i in range(num_words):
            self.add_module(f"mapping_{i}", perceptron(input_dim, hidden_dim, input_dim))

    def forward(self, words):
        return torch.stack([mlp(words[:, i]) for i, mlp in enumerate(self.children())], 1)


def splice(embeddings, words, positions):
    """The words in the place of one token; the tail moves on, and what no longer fits is lost."""
    rows = [
        torch.cat([row[:start], new, row[start + 1 :]])[: len(row)]
        for row, new, start in zip(embeddings, words, positions, strict=True)
    ]
    return torch.stack(rows)


def text_states(tower, ids, words, positions):
    """The last hidden state of transformers' text tower, normalised, with words put in."""
    table = tower.embeddings.token_embedding
    hook = table.register_forward_hook(lambda _, __, rows: splice(rows, words, positions))
    try:
        return tower(ids).last_hidden_state
    finally:
        hook.remove()
