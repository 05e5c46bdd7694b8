"""Where datasets lie: a local folder or an S3 prefix, behind the few operations that a dataset needs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.settings import DatasetSettings

TEMPORARY = ".tmp-"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file below the root. `mtime_ns`: the storage's own clock."""

    name: str
    size: int
    mtime_ns: int


class Storage:
    """Files by relative name. A write is seen whole or not at all."""

    def __init__(self, root: str, filesystem: Any, *, local: Path | None) -> None:
        self.url = root
        self.local = local
        self.filesystem = filesystem
        self._base = str(local) if local else root.removeprefix("s3://").rstrip("/")

    @classmethod
    def open(cls, path: str | Path, settings: DatasetSettings | None = None) -> Storage:
        """A local path, `file://` or `s3://bucket/prefix`. S3 credentials come from where AWS tools look for them.

        Raises:
            InvalidInput: another kind of URL, or an S3 URL without a bucket.
        """
        from pyarrow import fs

        text = str(path)
        if "://" not in text or text.startswith("file://"):
            local = Path(text.removeprefix("file://")).absolute()
            return cls(str(local), fs.LocalFileSystem(), local=local)
        if not text.startswith("s3://") or not text.removeprefix("s3://").strip("/"):
            raise InvalidInput(f"dataset path {text!r}: expected a local path or s3://bucket/prefix")
        options: dict[str, Any] = {"request_timeout": 60, "connect_timeout": 10}
        if settings and settings.s3_endpoint:
            scheme, _, host = settings.s3_endpoint.rpartition("://")
            options |= {"endpoint_override": host, "scheme": scheme or "https", "region": "us-east-1"}
        if settings and settings.s3_ca_file:
            options["tls_ca_file_path"] = str(settings.s3_ca_file)
        return cls(text.rstrip("/"), fs.S3FileSystem(**options), local=None)

    def full(self, name: str) -> str:
        return f"{self._base}/{name}"

    def list(self, folder: str = "") -> Iterator[Entry]:
        """Every file below `folder`; none when it does not exist. Temporary files are not listed.

        Raises:
            PermanentError: the storage refuses.
        """
        from pyarrow import fs

        base = self.full(folder).rstrip("/") if folder else self._base
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        for info in self._do(lambda: self.filesystem.get_file_info(selector), base):
            if info.type == fs.FileType.File and not info.base_name.startswith(TEMPORARY):
                name = info.path.removeprefix(self._base).lstrip("/")
                yield Entry(name=name, size=info.size, mtime_ns=info.mtime_ns or 0)

    def read(self, name: str) -> bytes | None:
        """The file's bytes; `None` when there is none.

        Raises:
            PermanentError: the storage refuses.
        """
        from pyarrow import fs

        def get() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(self.full(name)) as stream:
                    data: bytes = stream.read()
                    return data
            except OSError:  # a file deleted between S3's two requests, HEAD and GET, is no FileNotFoundError
                if self.filesystem.get_file_info(self.full(name)).type != fs.FileType.NotFound:
                    raise
                return None

        return self._do(get, self.full(name))  # type: ignore[no-any-return]

    def open_file(self, name: str) -> Any:
        """The file for random access, a context manager.

        Raises:
            PermanentError: there is none, or the storage refuses.
        """
        return self._do(lambda: self.filesystem.open_input_file(self.full(name)), self.full(name))

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Put the whole file, replacing one of that name; after a crash there is the old one, the new one, or none.

        Raises:
            PermanentError: the storage refuses, or is full.
        """
        if self.local is None:
            self._do(lambda: self._put(self.full(name), data), self.full(name))
            return
        target = self.local / name
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise PermanentError(
                f"{target}: cannot be written: {exc}; free space or choose another dataset path"
            ) from exc

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""

        def remove() -> None:
            try:
                self.filesystem.delete_file(self.full(name))
            except FileNotFoundError:
                return

        self._do(remove, self.full(name))

    def _put(self, path: str, data: bytes | memoryview) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def _do(self, call: Any, where: str) -> Any:
        try:
            return call()
        except (TimeoutError, ConnectionError) as exc:
            raise RetryableError(f"{where}: {exc}; the storage may answer later") from exc
        except OSError as exc:
            raise PermanentError(f"{where}: {exc}; check path, endpoint, CA and credentials") from exc
