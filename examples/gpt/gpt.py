"""A small GPT on bytes: 256 symbols, so no tokenizer; about 1.2 million parameters.

Pre-norm transformer blocks (Radford et al. 2019) with rotary positions (Su et al. 2021) and one matrix for embedding and output (Press
and Wolf 2017).
"""

import math

import torch
from stdlib_text import CONTEXT
from torch import Tensor, nn
from torch.nn import functional

# B batch, T time (bytes), H heads, C channels of a head, D width, V symbols

NUM_SYMBOLS = 256


class Attention(nn.Module):
    """Causal self-attention; (B, T, D) to (B, T, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        cos_TC, sin_TC = rotations(width // num_heads)
        self.register_buffer("cos_TC", cos_TC, persistent=False)
        self.register_buffer("sin_TC", sin_TC, persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        num_rows, length, width = x_BTD.shape
        q_BHTC, k_BHTC, v_BHTC = self.qkv(x_BTD).view(num_rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed_BHTC = functional.scaled_dot_product_attention(self._turned(q_BHTC), self._turned(k_BHTC), v_BHTC, is_causal=True)
        out_BTD: Tensor = self.out(mixed_BHTC.transpose(1, 2).reshape(num_rows, length, width))
        return out_BTD

    def _turned(self, x_BHTC: Tensor) -> Tensor:
        """Each pair of channels turned by an angle that grows with the position: products then depend on distances."""
        length = x_BHTC.shape[2]
        first, second = x_BHTC.chunk(2, dim=-1)
        cos_TC, sin_TC = self.get_buffer("cos_TC")[:length], self.get_buffer("sin_TC")[:length]
        return torch.cat([first * cos_TC - second * sin_TC, first * sin_TC + second * cos_TC], dim=-1)


class Block(nn.Module):
    """Attention, then a perceptron on every position, each added to what it read."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        mixed_BTD: Tensor = self.narrow(functional.gelu(self.widen(self.mlp_norm(x_BTD))))
        return x_BTD + mixed_BTD


class GPT(nn.Module):
    """Bytes (B, T), uint8, T at most `CONTEXT`, to the logits of the byte after each of them (B, T, V)."""

    def __init__(self, width: int = 160, depth: int = 4, num_heads: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_SYMBOLS, width)
        blocks = [Block(width, num_heads) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_SYMBOLS, bias=False)
        self.head.weight = self.embedding.weight
        self.apply(_initialise)
        for block in blocks:  # the sum of 2 * depth branches then has the spread of one (Radford et al. 2019)
            for last in (block.attention.out, block.narrow):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * depth))

    def forward(self, bytes_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(self.norm(self.blocks(self.embedding(bytes_BT.int()))))
        return logits_BTV


def loss(model: nn.Module, windows_BT: Tensor) -> Tensor:
    """Mean cross-entropy of every byte of the windows but the first, nats."""
    logits_BTV = model(windows_BT[:, :-1])
    return functional.cross_entropy(logits_BTV.flatten(0, 1), windows_BT[:, 1:].flatten().long())


def bits_per_byte(model: nn.Module, windows_BT: Tensor) -> Tensor:
    """The same in bits: what an arithmetic coder with this model would need for a byte of text."""
    return loss(model, windows_BT) / math.log(2)


@torch.no_grad()
def generate(model: nn.Module, prompt: bytes, num_bytes: int, *, temperature: float = 0.7, seed: int = 0) -> bytes:
    """`num_bytes` bytes that the model writes after `prompt`, which has at least one byte.

    Args:
        temperature: divides the logits; below 1 the likely becomes likelier.
    """
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor(list(prompt))
    model.eval()
    for _ in range(num_bytes):
        logits_V = model(text[None, -CONTEXT:])[0, -1]
        drawn = torch.multinomial(torch.softmax(logits_V / temperature, dim=-1), 1, generator=generator)
        text = torch.cat([text, drawn])
    return bytes(text[len(prompt) :].tolist())


def rotations(num_channels: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of each position and pair of channels, each (CONTEXT, num_channels / 2)."""
    per_position = 10_000.0 ** -(torch.arange(0, num_channels, 2) / num_channels)
    angles = torch.outer(torch.arange(CONTEXT), per_position)
    return angles.cos(), angles.sin()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
