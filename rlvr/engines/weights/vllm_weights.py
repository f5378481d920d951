"""Reads weights back from a vLLM worker: in this process, or in a server's.

The layout is worked out here from the sizes of vLLM's layers, not by the loaders that put the
weights there. Linear weights that vLLM has repacked for CPUs are read by applying them to one-hot
rows, which is exact: every sum has one term.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.engines.vllm_cpu import prepare
from rlvr.engines.weights.fingerprint import ANY, NOTHING, Piece, digest
from rlvr.engines.weights.vllm_reload import reload

if TYPE_CHECKING:
    from torch import Tensor

READ_BACK = "rlvr_held"
"""Name of the call that a server's workers answer, see `Reader`."""
FACTORS = (".lora_A.weight", ".lora_B.weight")
ONE_HOT_ROWS = 1024


class Reader:
    """A mixin for vLLM's worker class, given as `vllm serve --worker-extension-cls`."""

    def rlvr_prepare(self) -> None:
        """`vllm_cpu.prepare` of this worker."""
        prepare(self)

    def rlvr_reload(self, **given: Any) -> None:
        """`vllm_reload.reload` of this worker."""
        reload(self, **given)

    def rlvr_held(self, names: Sequence[str], has_adapter: bool) -> dict[str, list[list[Any]]]:
        """`read` of this worker, with lists for tuples."""
        found = read(self, names, has_adapter)
        return {name: [list(piece) for piece in pieces] for name, pieces in found.items()}


def read(worker: Any, names: Sequence[str], adapter: bool | int) -> dict[str, list[Piece]]:
    """The worker's pieces of these tensors, named as in transformers; without those that cannot be
    read. Low-rank factors are X.lora_A.weight and X.lora_B.weight of a module X.

    adapter: the number of the one that requests are answered with; True: the newest; False: none.
    """
    import torch

    with torch.inference_mode():
        looked = _Worker(worker, adapter)
        found = {name: looked.pieces(name) for name in names}
    return {name: pieces for name, pieces in found.items() if pieces}


@dataclass(frozen=True)
class _Place:
    """Where a layer's part of a weight lies: rows in the full weight and in the layer's; columns in
    both."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    own_rows: tuple[int, int]
    in_order: bool = True


class _Worker:
    """A vLLM worker's model by the names of transformers."""

    def __init__(self, worker: Any, adapter: bool | int) -> None:
        runner = worker.model_runner
        self._model = runner.get_model()
        self._modules = dict(self._model.named_modules(remove_duplicate=False))
        config = worker.model_config.hf_config.get_text_config()
        self._tied = bool(getattr(config, "tie_word_embeddings", False))
        manager = getattr(runner, "lora_manager", None) if adapter else None
        self._number = None if isinstance(adapter, bool) else adapter
        self._adapters = manager and manager._adapter_manager
        self._last: tuple[Any, Tensor] | None = None

    def pieces(self, name: str) -> list[Piece]:
        for suffix in FACTORS:
            if name.endswith(suffix):
                return self._factor(self._renamed(name.removesuffix(suffix)), suffix == FACTORS[1])
        module_name, _, key = self._renamed(name).rpartition(".")
        found = self._find(module_name, self._modules)
        if found is None:
            return []
        layer, shard = found
        return list(self._parameter(getattr(layer, "base_layer", layer), key, shard))

    def _renamed(self, name: str) -> str:
        mapper = getattr(self._model, "hf_to_vllm_mapper", None)
        if mapper is None:
            return name
        if hasattr(mapper, "get_rename_mapper"):  # without fusing, which `_find` does
            mapper = mapper.get_rename_mapper()
        return mapper._map_name(name) or name

    def _find(self, name: str, modules: dict[str, Any]) -> tuple[Any, int | None] | None:
        """(module, which part of it) by the name of one that vLLM may hold fused with others."""
        parent, _, last = name.rpartition(".")
        for fused, parts in getattr(self._model, "packed_modules_mapping", {}).items():
            whole = f"{parent}.{fused}" if parent else fused
            if len(parts) > 1 and last in parts and whole in modules:
                return modules[whole], parts.index(last)
        return (modules[name], None) if name in modules else None

    def _parameter(self, layer: Any, key: str, shard: int | None) -> Iterator[Piece]:
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        value = getattr(layer, key, None)
        if value is None or key not in layer._parameters:
            return
        if isinstance(layer, (LinearBase, VocabParallelEmbedding)):
            place = _place(layer, shard)
            if place is None or key not in ("weight", "bias") or not _is_plain(layer):
                return
            holders = [self._matrix(layer) if key == "weight" else value]
            if type(layer) is VocabParallelEmbedding:
                # looked up in one form and, where it is the head too, multiplied in another
                holders = [value, *map(self._matrix, self._heads(layer))]
            for one in holders:
                yield _piece(one, place, _dtype(layer, value))
        elif value.is_floating_point() and value.ndim in (1, 2) and shard is None:
            if self._width > 1 and hasattr(value, "weight_loader"):
                return  # each worker may hold a part that only its loader knows
            matrix = value.reshape(len(value), -1)
            whole = _Place((0, len(value)), (0, matrix.shape[1]), (0, len(value)))
            yield _piece(matrix, whole, value.dtype)

    @property
    def _width(self) -> int:
        from vllm.distributed import get_tensor_model_parallel_world_size

        return get_tensor_model_parallel_world_size()

    def _heads(self, embedding: Any) -> list[Any]:
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        heads = [m for m in self._model.modules() if isinstance(m, ParallelLMHead)]
        if not heads:
            return [embedding] if self._tied else []
        # vLLM says "not tied" of a folder that has the head too, and ties the two if they are equal
        return [head for head in heads if self._tied or head.weight is embedding.weight]

    def _matrix(self, layer: Any) -> Tensor:
        """[out, in] of a linear layer or of a head, as it is multiplied with."""
        import torch

        if not hasattr(layer, "cpu_linear"):
            return layer.weight
        if self._last is None or self._last[0] is not layer:
            width = next(
                getattr(layer, name)
                for name in ("input_size_per_partition", "input_size", "embedding_dim")
                if hasattr(layer, name)
            )
            rows = torch.eye(width, dtype=_dtype(layer, layer.weight)).split(ONE_HOT_ROWS)
            columns = torch.cat([layer.quant_method.apply(layer, part, None) for part in rows])
            self._last = (layer, columns.t())
        return self._last[1]

    def _factor(self, module_name: str, is_b: bool) -> list[Piece]:
        if self._adapters is None:
            return [NOTHING]
        if self._is_elsewhere(module_name):
            return []
        found = self._find(module_name, self._adapters.modules)
        if found is None:  # vLLM serves this module as if it had no adapter
            inside = any(module_name.startswith(f"{name}.") for name in self._adapters.modules)
            return [] if inside else [NOTHING]
        layer, shard = found
        served = [i for i in self._adapters.lora_index_to_id if i is not None]
        if not served:
            return [NOTHING]
        stacked = layer.lora_b_stacked if is_b else layer.lora_a_stacked
        place = _place(layer.base_layer, shard)
        if place is None or (len(stacked) != 1 and shard is None):
            return []
        if layer.lora_config.fully_sharded_loras and layer.tp_size > 1:
            return []  # cut by rank, too
        # a server's numbers rise with every adapter
        number = max(served) if self._number is None else self._number
        slot = self._adapters.lora_index_to_id.index(number)
        value = stacked[shard or 0][slot, 0]
        rows = place.rows if is_b else (0, ANY)
        columns = (0, ANY) if is_b else place.columns
        return [_piece(value, _Place(rows, columns, (0, len(value))), value.dtype)]

    def _is_elsewhere(self, module_name: str) -> bool:
        """Whether another worker of a pipeline has the module."""
        from vllm.distributed import get_pp_group

        is_here = self._find(module_name, self._modules) is not None
        return not is_here and get_pp_group().world_size > 1


def _piece(matrix: Tensor, place: _Place, dtype: Any) -> Piece:
    part = matrix.reshape(len(matrix), -1)[slice(*place.own_rows)].to(dtype)
    columns = place.columns if matrix.ndim == 2 else (0, 1)
    number = digest(part, place.in_order)
    return Piece(place.rows, columns, str(dtype).removeprefix("torch."), place.in_order, number)


def _place(layer: Any, shard: int | None) -> _Place | None:
    """Where this worker's part of a linear layer or embedding lies; None where it is unknown."""
    from vllm.model_executor.layers.linear import (
        ColumnParallelLinear,
        LinearBase,
        QKVParallelLinear,
        RowParallelLinear,
    )

    if not isinstance(layer, LinearBase):  # an embedding; its padding comes last
        at = layer.shard_indices
        num = at.org_vocab_end_index - at.org_vocab_start_index
        rows = (at.org_vocab_start_index, at.org_vocab_end_index)
        return _Place(rows, (0, layer.embedding_dim), (0, num))
    width, rank = layer.tp_size, layer.tp_rank
    if isinstance(layer, RowParallelLinear):
        size = layer.input_size_per_partition
        rows = (0, layer.output_size)
        return _Place(rows, (rank * size, (rank + 1) * size), rows)
    columns = (0, layer.input_size)
    sizes = [size // width for size in getattr(layer, "output_sizes", ())]
    if shard is not None:
        if shard >= len(sizes):
            return None
        if isinstance(layer, QKVParallelLinear) and shard > 0:
            rank //= layer.num_kv_head_replicas
        start, size = sum(sizes[:shard]), sizes[shard]
        return _Place((rank * size, (rank + 1) * size), columns, (start, start + size))
    if len(sizes) > 1:  # fused by the model itself; some models' heads take turns
        whole = (0, sum(sizes))
        in_order = not isinstance(layer, QKVParallelLinear)
        return _Place(whole, columns, whole, in_order) if width == 1 else None
    if isinstance(layer, ColumnParallelLinear):
        size = layer.output_size_per_partition
        return _Place((rank * size, (rank + 1) * size), columns, (0, size))
    return _Place((0, layer.output_size), columns, (0, layer.output_size))


def _is_plain(layer: Any) -> bool:
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    return isinstance(layer.quant_method, (UnquantizedLinearMethod, UnquantizedEmbeddingMethod))


def _dtype(layer: Any, value: Tensor) -> Any:
    """The type that the layer was made in: on CPU some kernels keep biases in a wider one."""
    return getattr(layer, "params_dtype", value.dtype)
