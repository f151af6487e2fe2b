"""PyTorch's side of `train_step.py`: the same ViT written plainly, or that of transformers."""

from __future__ import annotations

import os
import sys

import torch
import torch.nn.functional as F
from torch import nn
from turns import serve

VARIANTS = {"vit-ti/16": (192, 3), "vit-s/16": (384, 6), "vit-b/16": (768, 12)}  # width, heads
DEPTH, CLASSES, SIZE, PATCH, EPSILON = 12, 1000, 224, 16, 1e-6


class Block(nn.Module):
    """One block of the encoder."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d, EPSILON), nn.LayerNorm(d, EPSILON)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.dense_1, self.dense_2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, n, d = x.shape
        y = self.qkv(self.norm_1(x)).view(b, n, 3, self.heads, d // self.heads)
        y = F.scaled_dot_product_attention(*y.permute(2, 0, 3, 1, 4))
        x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
        return x + self.dense_2(F.gelu(self.dense_1(self.norm_2(x)), approximate="tanh"))


class Vit(nn.Module):
    """Images [b, 3, 224, 224] -> logits [b, 1000]."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, d, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, d))
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIZE // PATCH) ** 2 + 1, d))
        self.blocks = nn.Sequential(*(Block(d, heads) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(d, EPSILON), nn.Linear(d, CLASSES)

    def forward(self, images):
        x = self.embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def main(name: str, variant: str, batch: int, dtype: str) -> None:
    """Serves steps of one contestant."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    d, heads = VARIANTS[variant]
    versions = {"torch": torch.__version__}
    if name == "transformers":
        import transformers

        config = transformers.ViTConfig(
            hidden_size=d,
            num_hidden_layers=DEPTH,
            num_attention_heads=heads,
            intermediate_size=4 * d,
            hidden_act="gelu_pytorch_tanh",
            num_labels=CLASSES,
        )
        model = transformers.ViTForImageClassification(config)
        versions["transformers"] = transformers.__version__
    else:
        model = Vit(d, heads)
    model.train()
    forward = torch.compile(model) if name == "torch compiled" else model
    adamw = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images, labels = torch.randn(batch, 3, SIZE, SIZE), torch.randint(CLASSES, (batch,))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(images)
        if name == "transformers":
            logits = logits.logits
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return loss.item()

    serve(step, versions)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
