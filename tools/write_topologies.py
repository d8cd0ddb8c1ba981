"""Writes the presets in `protos/topologies/`, which are too regular to write by hand.

Run `python tools/write_topologies.py` after a change of `keras_soap/topology/presets.py`; a test
compares the files with it.
"""

import re
import textwrap
from pathlib import Path

from keras_soap.proto.files import readable_text
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.presets import dgx1_v100, dgx_a100, hgx_h100, k80, p100, tpu_v5e
from keras_soap.topology.proto_io import to_proto

FOLDER = Path(__file__).parent.parent / "protos" / "topologies"


def text(topology: DeviceTopology, about: str) -> str:
    """The file of a preset: header, what it is, and the message with readable numbers."""
    message = to_proto(topology)
    message.ClearField("source")
    body = readable_text(message)
    body = re.sub(r": (\d+)\.0\b", lambda found: f": {_short(int(found.group(1)))}", body)
    pieces = textwrap.wrap(topology.source, 88, drop_whitespace=False, break_on_hyphens=False)
    source = "\n        ".join(f'"{piece}"' for piece in pieces)
    body = re.sub(r"^(name: .*)$", rf"\1\nsource: {source}", body, count=1, flags=re.M)
    about = "\n".join(line.strip() for line in about.strip().splitlines())
    header = f"""proto-file: protos/device_topology.proto
proto-message: keras_soap.v1.DeviceTopology

{about}

Written by tools/write_topologies.py."""
    return f"{textwrap.indent(header, '# ', lambda _: True)}\n\n{body}".replace("# \n", "#\n")


def _short(value: int) -> str:
    """12500000000 as `12.5e9`."""
    exponent = 3 * ((len(str(value)) - 1) // 3)
    return f"{value / 10**exponent:g}e{exponent}"


def files() -> dict[str, str]:
    """The text of each preset by file name."""
    made = [(make(), make.__doc__) for make in (p100, k80, dgx1_v100, dgx_a100, hgx_h100)]
    made += [(tpu_v5e(*size), tpu_v5e.__doc__) for size in ((2, 2), (2, 4), (4, 4))]
    return {f"{topology.name}.textproto": text(topology, about) for topology, about in made}


if __name__ == "__main__":
    for file_name, content in files().items():
        (FOLDER / file_name).write_text(content, "utf-8")
        print(FOLDER / file_name)
