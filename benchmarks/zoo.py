"""Models of well-known shapes with random weights, for benchmarks that must not download anything.

Sizes follow the published configurations, so that parameters and FLOPs are theirs: GPT-2 small 124 M parameters, BERT-base 110 M,
ViT-base 86 M, ResNet-50 25.6 M; GNMT has the layers of Wu et al. 2016 at a width of 1024 and a vocabulary of 32,000.

Where Hugging Face's transformers is installed, `with_transformers` takes its GPT-2, BERT and ViT in place of those written here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A transformer block, normalised before (GPT-2, ViT) or after (BERT) each half."""

    def __init__(self, width: int, heads: int, *, causal: bool = False, before: bool = True) -> None:
        super().__init__()
        self.before = before
        self.attention, self.norm1, self.norm2 = Attention(width, heads, causal), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self.drop(self.attention(self.norm1(x)))
            return x + self.drop(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attention(x)))
        return self.norm2(x + self.drop(self.mlp(x)))


class GPT2(nn.Module):
    def __init__(self, vocabulary: int = 50257, positions: int = 1024, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, width // 64, causal=True) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class BERT(nn.Module):
    """With the head of masked language modelling, whose projection is the embedding."""

    def __init__(self, vocabulary: int = 30522, positions: int = 512, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.tokens, self.positions, self.kinds = nn.Embedding(vocabulary, width), nn.Embedding(positions, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, width // 64, before=False) for _ in range(depth))
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        x = self.norm(self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)) + self.kinds(kinds))
        for block in self.blocks:
            x = block(x)
        return self.head(self.transform(x))


class ViT(nn.Module):
    def __init__(self, width: int = 768, depth: int = 12, patch: int = 16, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (224 // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.path = nn.Sequential(
            nn.Conv2d(inside, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.path(x)
        y += self.skip(x)
        return self.relu(y)


def resnet50(classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for step in range(depth):
            layers.append(Bottleneck(inside, width, stride if step == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes))


class GNMT(nn.Module):
    """Encoder and decoder of four LSTM layers, the first of the encoder in both directions; attention of the first decoder layer."""

    def __init__(self, vocabulary: int = 32_000, width: int = 1024, depth: int = 4) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.both = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.encoder = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(depth - 1))
        self.first = nn.LSTM(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.decoder = nn.ModuleList(nn.LSTM(2 * width, width, batch_first=True) for _ in range(depth - 1))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, _ = self.both(self.source(source))
        for layer in self.encoder:
            memory = memory + layer(memory)[0]
        x, _ = self.first(self.target(target))
        context = torch.softmax(self.query(x) @ memory.transpose(1, 2) / x.shape[-1] ** 0.5, -1) @ memory
        for layer in self.decoder:
            x = x + layer(torch.cat([x, context], -1))[0]
        return self.head(x)


@dataclass(frozen=True)
class Entry:
    """How to build a model, and its inputs as text."""

    build: Callable[[], nn.Module]
    inputs: tuple[str, ...]
    whole: tuple[str, ...] = ("Block", "Bottleneck", "LSTM")
    """Classes of modules that are not split between devices."""


ZOO = {
    "GPT-2 small": Entry(GPT2, ("8x512:int64",)),
    "BERT-base": Entry(BERT, ("8x512:int64", "8x512:int64")),
    "ViT-base": Entry(ViT, ("32x3x224x224",)),
    "ResNet-50": Entry(resnet50, ("32x3x224x224",)),
    "GNMT": Entry(GNMT, ("64x40:int64", "64x40:int64")),
}


def with_transformers() -> tuple[dict[str, Entry], str]:
    """The zoo with transformers' own models, random weights and default configurations; which release, empty without it."""
    try:
        import transformers as hf
    except ImportError:
        return ZOO, ""
    theirs = {
        "GPT-2 small": Entry(lambda: hf.GPT2LMHeadModel(hf.GPT2Config()), ("8x512:int64",), ("GPT2Block",)),
        "BERT-base": Entry(lambda: hf.BertForMaskedLM(hf.BertConfig()), ("8x512:int64",), ("BertLayer",)),
        "ViT-base": Entry(lambda: hf.ViTForImageClassification(hf.ViTConfig(num_labels=1000)), ("32x3x224x224",), ("ViTLayer",)),
    }
    return ZOO | theirs, hf.__version__
