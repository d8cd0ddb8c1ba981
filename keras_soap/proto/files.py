"""Reads and writes files of our protos: text for people, binary where the name ends in `.pb`.

1. A text file opens with `# proto-file:` and `# proto-message:`, so that editors and people know
   what it is. A file without them is read too; one that names another message is refused.
2. A file is written whole or not at all: under a temporary name, then renamed.
3. Whoever reads says which error to raise: this module knows no domain.
"""

import contextlib
import difflib
import itertools
import os
import re
import tempfile
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pool, text_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

SCHEMA_VERSION = 1
"""The version of all our messages that this package reads and writes."""

LINE_LENGTH = 100
"""What lines of written text keep to where they can."""

M = TypeVar("M", bound=Message)


def read(path: str | os.PathLike[str], message_class: type[M], error: type[Exception]) -> M:
    """The message in the file at `path`.

    Args:
        path: Of a text file, or of a binary one if it ends in `.pb`.
        message_class: What the file has to hold.
        error: What to raise where it does not.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"Cannot read {path}: {failure.strerror}.") from failure
    wanted = message_class.DESCRIPTOR.full_name
    if path.suffix == ".pb":
        message = _parse_binary(path, data, message_class, error)
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError as failure:
            raise error(
                f"{path} is not text in UTF-8. If it is a binary proto, let its name end in '.pb'."
            ) from failure
        found = declared_message(text)
        if found not in (None, wanted):
            raise error(f"{path} holds a {found}, not a {wanted}. Give a file of the other kind.")
        message = _parse_text(path, text, message_class, error)
    check_schema_version(str(path), message, error)
    return message


def write(path: str | os.PathLike[str], message: Message) -> None:
    """Writes `message` to `path`: binary if it ends in `.pb`, else text."""
    path = Path(path)
    if path.suffix == ".pb":
        write_atomically(path, message.SerializeToString(deterministic=True))
        return
    descriptor = message.DESCRIPTOR
    header = (
        f"# proto-file: protos/{Path(descriptor.file.name).name}\n"
        f"# proto-message: {descriptor.full_name}\n\n"
    )
    write_atomically(path, (header + readable_text(message)).encode())


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file at `path`, making its folder if need be; readers see old or new only."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def declared_message(text: str) -> str | None:
    """Full name of the message that a text file says it holds, if it says so."""
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            return None
        found = re.match(r"#\s*proto-message:\s*([\w.]+)", line)
        if found:
            return found.group(1)
    return None


def check_schema_version(where: str, message: Message, error: type[Exception]) -> None:
    """Raises `error` unless `message` is of the version that this package knows."""
    version = message.schema_version
    if version == 0:
        raise error(f"{where} has no schema_version. Write `schema_version: {SCHEMA_VERSION}`.")
    if version != SCHEMA_VERSION:
        raise error(
            f"{where} has schema_version {version}, but this keras_soap knows {SCHEMA_VERSION}. "
            "Update keras_soap, or write the file anew."
        )


def readable_text(message: Message) -> str:
    """`message` as text, with lists in brackets and short messages on one line."""
    text = text_format.MessageToString(message, use_short_repeated_primitives=True, as_utf8=True)
    # Newlines in strings are escaped (U+0085 is not, so no splitlines), so each line is a field.
    # Strings are the one scalar type of which short_repeated_primitives leaves lists in pieces.
    lines: list[str] = []
    for (opening, _), group in itertools.groupby(text.rstrip("\n").split("\n"), _string_field):
        values = list(group)
        if opening and len(values) > 1:
            values = _bracketed(opening, [line[len(opening) :].strip() for line in values])
        lines += values
    return re.sub(
        r"^( *)\w+ \{\n(?: +\w+: [^{}\n]*\n)+ *\}$",
        _on_one_line,
        "\n".join(lines) + "\n",
        flags=re.M,
    )


def _string_field(line: str) -> tuple[str, str]:
    """Indentation, name and colon of a string field; for other lines what is theirs alone."""
    found = re.match(r'( *\w+:) "', line)
    return (found.group(1), "") if found else ("", line)


def _bracketed(opening: str, values: list[str]) -> list[str]:
    lines = [f"{opening} [{values[0]}"]
    for value in values[1:]:
        if len(lines[-1]) + len(value) + 4 > LINE_LENGTH:
            lines[-1] += ","
            lines.append(" " * (len(opening) + 2) + value)
        else:
            lines[-1] += f", {value}"
    lines[-1] += "]"
    return lines


def _on_one_line(found: re.Match[str]) -> str:
    line = found.group(1) + " ".join(line.strip() for line in found.group().split("\n"))
    return line if len(line) <= LINE_LENGTH else found.group()


def _parse_binary(path: Path, data: bytes, message_class: type[M], error: type[Exception]) -> M:
    name = message_class.DESCRIPTOR.full_name
    try:
        message = message_class.FromString(data)
    except DecodeError as failure:
        raise error(f"{path} is not a binary {name}: {failure}.") from failure
    if len(UnknownFieldSet(message)):
        raise error(f"{path} holds fields that {name} does not have. Is it another message?")
    return message


def _parse_text(path: Path, text: str, message_class: type[M], error: type[Exception]) -> M:
    try:
        return text_format.Parse(text, message_class())
    except text_format.ParseError as failure:
        reason = re.sub(r"^\d+:\d+ : ", "", str(failure))
        place = ":".join(str(n) for n in (failure.GetLine(), failure.GetColumn()) if n is not None)
        raise error(f"{path}:{place}: {reason}{_known_names(reason)}") from failure


def _known_names(reason: str) -> str:
    """What could have stood where the parser met an unknown name."""
    found = re.search(
        r'(Message|Enum) type "([\w.]+)" has no (?:field|value) named "?(\w+)', reason
    )
    if not found:
        return ""
    kind, type_name, wrong = found.groups()
    pool = descriptor_pool.Default()
    if kind == "Message":
        known = [field.name for field in pool.FindMessageTypeByName(type_name).fields]
        what = "fields"
    else:
        known = [value.name for value in pool.FindEnumTypeByName(type_name).values]
        what = "values"
    close = difflib.get_close_matches(wrong, known, 1, cutoff=0.6)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known {what}: {', '.join(known)}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
