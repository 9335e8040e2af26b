"""Training checkpoints: saved beside the training loop, committed whole or not at all, and found again.

    import weightlift as wl

    with wl.checkpoint.Checkpointer("run/checkpoints", keep_last=3) as checkpointer:
        checkpointer.save(step, {"model": model, "optimizer": optimizer, "step": step})
    state = checkpointer.restore()

How a step lies on the disk, and what a crash can leave, is in docs/checkpoints.md. Modules: ``_state`` (what a state
is), ``_parts`` (what of it is stored, and by whom), ``_snapshot`` (its copy, while training goes on), ``_write`` (a
step's files), ``_manifest`` (what it consists of), ``_commit`` (from snapshot to commit), ``_ranks`` and ``_reports``
(many processes), ``_directory`` and ``_durable`` (names, lock, commit, deletion), ``_restore``, ``_retain`` (what is
kept), ``_checkpointer`` (the whole), ``_keras_callback``, ``_lightning_callback``, ``_trainer_callback`` (the same for
``fit`` of Keras and of PyTorch Lightning, and for the ``Trainer`` of Hugging Face), ``_rng`` (generators of random
numbers that nobody names), ``dcp`` (for ``torch.distributed.checkpoint``).
"""

from weightlift._sharded import Shard, Sharded
from weightlift.checkpoint._checkpointer import Checkpointer
from weightlift.checkpoint._future import CheckpointFuture
from weightlift.checkpoint._keras_callback import keras_callback
from weightlift.checkpoint._lightning_callback import lightning_callback
from weightlift.checkpoint._manifest import Manifest, StoredFile, StoredTensor
from weightlift.checkpoint._state import PerRank, register_encoder
from weightlift.checkpoint._trainer_callback import trainer_callback

__all__ = [
    "CheckpointFuture",
    "Checkpointer",
    "Manifest",
    "PerRank",
    "Shard",
    "Sharded",
    "StoredFile",
    "StoredTensor",
    "keras_callback",
    "lightning_callback",
    "register_encoder",
    "trainer_callback",
]
