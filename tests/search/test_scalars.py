import struct

from keras_soap.search.result import Progress
from keras_soap.search.scalars import ScalarWriter, _masked_crc


def records(path):
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == _masked_crc(data[:8])
        event = data[12 : 12 + length]
        assert data[12 + length : 16 + length] == _masked_crc(event)
        yield event
        data = data[16 + length :]


def test_crc_is_castagnoli():
    # RFC 3720, B.4: 32 bytes of zeros have CRC-32C 0x8a9136aa.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc(bytes(32)) == struct.pack("<I", masked)


def test_file_holds_a_version_and_scalars(tmp_path):
    writer = ScalarWriter(tmp_path / "logs", every_seconds=1.0)
    for seconds in (0.0, 0.5, 1.5):
        writer(Progress(seconds, int(300 * seconds), 2_500_000))
    writer.close()
    (path,) = (tmp_path / "logs").iterdir()
    assert "tfevents" in path.name
    version, *events = records(path)
    assert b"brain.Event:2" in version
    assert len(events) == 2
    tag = b"search/best_cost_ms"
    for event in events:
        place = event.index(tag) + len(tag)
        assert struct.unpack("<f", event[place + 1 : place + 5]) == (2.5,)
