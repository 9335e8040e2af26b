"""One process of a job that trains a small GPT, saves now and then, and goes on from where it was.

Usage: gpt_job.py RANK WORLD_SIZE FOLDER MEETING HOW STEPS. HOW is fsdp (FSDP2, saved by torch.distributed.checkpoint
through WeightliftWriter) or ddp (DDP, saved by a Checkpointer of many ranks). Each step's number and loss are printed.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from weightlift.checkpoint import Checkpointer, PerRank
from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

warnings.simplefilter("ignore")
EVERY, WORDS, WIDTH, LENGTH = 3, 67, 32, 16


class Block(nn.Module):
    """Attention and a feed-forward network, each beside the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, dropout=0.1, batch_first=True)
        self.up, self.down, self.dropout = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.dropout(self.down(torch.nn.functional.gelu(self.up(self.norm2(x)))))


class Gpt(nn.Module):
    """Two blocks over embeddings of words and places; the last layer has the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.words.weight.T


class Job:
    """The state of the training, and how it is saved and found again."""

    def __init__(self, rank: int, world: int, folder: Path, how: str) -> None:
        self.rank, self.folder, self.step = rank, folder, 0
        torch.manual_seed(1)
        model: nn.Module = Gpt()
        self.batches = torch.Generator().manual_seed(100 + rank)
        if how == "fsdp":
            for block in model.blocks:
                fully_shard(block)
            self.model = fully_shard(model)
        else:
            self.model = nn.parallel.DistributedDataParallel(model)
            self.checkpointer = Checkpointer(folder, keep_last=2, rank=rank, world_size=world, timeout=30)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 30)
        torch.manual_seed(10 + rank)  # of the dropout
        self.how = how

    def train(self) -> float:
        tokens = torch.randint(WORDS, (4, LENGTH + 1), generator=self.batches)
        tokens[:, 1::2] = tokens[:, :-1:2]  # something to learn
        logits = self.model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        dist.all_reduce(whole := loss.detach())
        return whole.item()

    def sharded(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        own = {"dropout": torch.get_rng_state(), "batches": self.batches.get_state()}
        rest = {"schedule": self.schedule, "step": self.step, f"rank{self.rank}": own}
        return {"model": model, "optimizer": optimizer, **rest}

    def replicated(self) -> dict[str, Any]:
        own = PerRank({"dropout": torch.get_rng_state(), "batches": self.batches.get_state()})
        rest = {"schedule": self.schedule, "step": self.step, "own": own}
        return {"model": self.model.module, "optimizer": self.optimizer, **rest}

    def save(self) -> None:
        if self.how == "fsdp":
            future = dcp.async_save(self.sharded(), storage_writer=WeightliftWriter(self.folder / f"{self.step:04d}"))
            future.result()
        else:
            self.checkpointer.save(self.step, self.replicated())

    def resume(self) -> None:
        if self.how == "fsdp":
            done = sorted(self.folder.glob("[0-9]*/manifest.json"))
            if not done:
                return
            state = self.sharded()
            dcp.load(state, storage_reader=WeightliftReader(done[-1].parent))
            set_state_dict(self.model, self.optimizer, model_state_dict=state["model"],
                           optim_state_dict=state["optimizer"])  # fmt: skip
            own, self.step = state[f"rank{self.rank}"], state["step"]
        else:
            if self.checkpointer.latest() is None:
                return
            state = self.checkpointer.restore(into=self.replicated())
            own, self.step = state["own"].value, state["step"]
        torch.set_rng_state(own["dropout"])
        self.batches.set_state(own["batches"])


def main(rank: int, world: int, folder: Path, meeting: str, how: str, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    job = Job(rank, world, folder, how)
    job.resume()
    dist.barrier()
    while job.step < steps:
        print(job.step + 1, job.train().hex(), flush=True)
        if job.step % EVERY == 0:
            job.save()
    if how == "ddp":
        job.checkpointer.close()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]))
