"""Storage for ``torch.distributed.checkpoint``: its ``save``, ``async_save`` and ``load``, on Weightlift's core.

    import torch.distributed.checkpoint as dcp
    from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

    dcp.save(state, storage_writer=WeightliftWriter("run/100"))
    dcp.load(state, storage_reader=WeightliftReader("run/100"))

States of DDP, FSDP2, tensor parallelism and their mixtures, as ``torch.distributed.checkpoint.state_dict`` gives them,
are saved by any number of processes and loaded by any other, into any mesh. On the disk lies what a
:class:`weightlift.checkpoint.Checkpointer` writes (docs/checkpoints.md): safetensors shards, an index, a manifest; so
``weightlift.load``, ``weightlift convert`` and other tools of safetensors read it, too. What is no tensor is stored as
JSON, not as a pickle.

A directory appears under its name when all of it is on the disk, and takes the place of an older one at once. In an
object store (``s3://bucket/run/100``) the manifest is put last, on condition.

Modules: ``_storage`` (the two classes), ``_plans`` (items to shards, boxes of shards to tensors), ``_values`` (what is
no tensor), ``_staging`` (copies for ``async_save``), ``_target`` (the directory, and its commit), ``_object_target``
(the same in an object store).
"""

from weightlift.checkpoint.dcp._storage import WeightliftReader, WeightliftWriter

__all__ = ["WeightliftReader", "WeightliftWriter"]
