"""Reads a run-ID.wandb file: LevelDB's log format behind a header of 7 bytes, with protobuf."""

import struct
from pathlib import Path
from typing import Any

BLOCK = 2**15
FULL, FIRST, LAST = 1, 2, 4


def read_records(path: Path) -> list[Any]:
    """The records as far as they are whole: W&B's own process may still be writing."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        room = BLOCK - position % BLOCK
        if room < 7:  # no header fits there
            position += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + 7 : position + 7 + size]
        position += 7 + size
        if len(part) < size or not kind:
            break
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
    return found
