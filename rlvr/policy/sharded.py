from rlvr.distributed.sharding import IDLE, gathered  # noqa: F401


def shard_policy(policy, optim):
    pass
