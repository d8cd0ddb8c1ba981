"""Writes scalars that TensorBoard reads, without TensorFlow.

An event file is a row of records: uint64 length, its masked CRC-32C, the bytes of an `Event`, their
masked CRC-32C (tensorflow/core/lib/io/record_writer.h; tensorflow/core/util/event.proto).
"""

import os
import socket
import struct
import time
from pathlib import Path

from keras_soap.search.result import Progress


class ScalarWriter:
    """A callback that logs best cost, proposals and their rate, by proposals made.

    Args:
        log_dir: Directory for the event file; made if it is not there.
        every_seconds: Time between two points.
    """

    def __init__(self, log_dir: str | Path, every_seconds: float = 0.5):
        self._every_seconds = every_seconds
        self._last_seconds = float("-inf")
        directory = Path(log_dir)
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.search"
        self._file = open(directory / name, "ab")  # noqa: SIM115
        self._write(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))

    def __call__(self, progress: Progress) -> None:
        if progress.seconds - self._last_seconds < self._every_seconds:
            return
        self._last_seconds = progress.seconds
        values = {
            "search/best_cost_ms": progress.best_ns / 1e6,
            "search/proposals_per_second": progress.proposals / max(progress.seconds, 1e-9),
            "search/seconds": progress.seconds,
        }
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items()
        )
        event = _double(1, time.time()) + _integer(2, progress.proposals) + _bytes(5, summary)
        self._write(event)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
