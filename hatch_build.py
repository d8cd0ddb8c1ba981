"""Build hook: what a wheel or an editable install needs beyond the checked-in files.

1. `protos/*.proto` become Python modules, with type stubs, in `keras_soap/proto/`.
2. `protos/topologies/` becomes the package data `keras_soap/topologies/`: copied into a wheel,
   linked in an editable checkout so that a new file is found without installing again.
"""

import shutil
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Runs before each wheel and each editable install; hatchling finds it by its name."""

    def initialize(self, version, build_data):
        """Generates the proto modules and adds the topologies.

        Args:
            version: `"editable"` or `"standard"`.
            build_data: hatchling's description of the wheel, changed in place.
        """
        root = Path(self.root)
        generate_protos(root)
        topologies = root / "protos" / "topologies"
        if version == "editable":
            link_directory(root / "keras_soap" / "topologies", topologies)
        else:
            build_data["force_include"][str(topologies)] = "keras_soap/topologies"


def generate_protos(root: Path) -> None:
    """Compiles `protos/*.proto` into `keras_soap/proto/`, replacing what was generated before."""
    from grpc_tools import protoc

    package = root / "keras_soap" / "proto"
    for stale in package.glob("*_pb2.py*"):
        stale.unlink()
    sources = sorted(str(path) for path in (root / "protos").glob("*.proto"))
    # The mapped path makes the generated modules import each other as keras_soap.proto.*.
    status = protoc.main(
        [
            "protoc",
            f"-Ikeras_soap/proto={root / 'protos'}",
            f"--python_out={root}",
            f"--pyi_out={root}",
            *sources,
        ]
    )
    if status != 0:
        raise RuntimeError("protoc refused a file in protos/; its message is above.")


def link_directory(link: Path, target: Path) -> None:
    """Makes `link` show `target`, by a copy where the system does not let us make links."""
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    try:
        link.symlink_to(Path("..") / target.relative_to(link.parent.parent))
    except OSError:
        shutil.copytree(target, link)
