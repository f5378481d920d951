"""One process per GPU: collectives, and policies whose tensors are sharded (FSDP2, ZeRO)."""
