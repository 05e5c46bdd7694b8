"""Where packages live: immutable folders `<root>/<model>/v000003/` on a disk or in an object store."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from clusterheal.contracts import ModelPackage
from clusterheal.contracts.packages import FILES, MANIFEST
from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.registry.versions import version_name, version_number

log = logging.getLogger(__name__)

_INCOMING = ".incoming-"
_STALE_SECONDS = 3600.0
_ALL_FILES = (*FILES, MANIFEST)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A package at rest. `created` is False when it was there already."""

    version: str
    uri: str
    created: bool


class PackageStore(Protocol):
    """What the registry needs of a place to keep packages in."""

    def put(self, package: ModelPackage, *, at_least: int) -> Stored:
        """The first free number >= `at_least`, or the one that the same package has already.

        A store that can claim a number for good stores the package at once; another only names the number, and
        `put_at` stores it after the registry has let this caller alone have the version.

        Raises:
            PermanentError: no space, no permission.
            RetryableError: the store did not answer.
        """
        ...

    def put_at(self, package: ModelPackage, version: str) -> Stored:
        """Store under exactly `version`, completing what an earlier attempt left there.

        Raises:
            PermanentError: another package is there.
        """
        ...

    def remove(self, name: str, version: str) -> None:
        """Take away a folder that was never registered."""
        ...

    def fetch(self, uri: str, into: Path) -> ModelPackage:
        """The verified package; a local store answers with its own folder and leaves `into` alone."""
        ...


class LocalStore:
    """Packages on a local or mounted disk. A version appears by one rename, complete, or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def put(self, package: ModelPackage, *, at_least: int) -> Stored:
        folder = self._root / package.name
        for version, path in self._versions(folder):
            if _sha_of(path) == package.sha256:
                return Stored(version=version, uri=_uri(path), created=False)
        taken = max((version_number(v) or 0 for v, _ in self._versions(folder)), default=0)
        number = max(at_least, taken + 1)
        with _space(folder, package):
            incoming = self._copy_aside(folder, package)
        while not _rename(incoming, folder / version_name(number)):
            number += 1
        return Stored(version=version_name(number), uri=_uri(folder / version_name(number)), created=True)

    def put_at(self, package: ModelPackage, version: str) -> Stored:
        folder = self._root / package.name
        target = folder / version
        if not target.exists():
            with _space(folder, package):
                incoming = self._copy_aside(folder, package)
            if _rename(incoming, target):
                return Stored(version=version, uri=_uri(target), created=True)
            shutil.rmtree(incoming)
        if _sha_of(target) != package.sha256:
            raise PermanentError(
                f"{target} holds another package; expected {package.sha256[:12]}, register under a new version"
            )
        return Stored(version=version, uri=_uri(target), created=False)

    def remove(self, name: str, version: str) -> None:
        shutil.rmtree(self._root / name / version, ignore_errors=True)

    def fetch(self, uri: str, into: Path) -> ModelPackage:
        return ModelPackage.load(Path(unquote(urlparse(uri).path)))

    def _versions(self, folder: Path) -> list[tuple[str, Path]]:
        if not folder.is_dir():
            return []
        return [(p.name, p) for p in sorted(folder.iterdir()) if version_number(p.name) is not None]

    def _copy_aside(self, folder: Path, package: ModelPackage) -> Path:
        """A verified, read-only copy next to its final place, so that the rename stays on one file system."""
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=folder))
        try:
            for name in _ALL_FILES:
                shutil.copyfile(package.path / name, incoming / name)
                (incoming / name).chmod(0o444)
            incoming.chmod(0o755)
            ModelPackage.load(incoming)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        return incoming


class _space:  # noqa: N801 - reads as a statement
    """Say in words what a full or forbidden disk means."""

    def __init__(self, folder: Path, package: ModelPackage) -> None:
        self._folder, self._package = folder, package

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if not isinstance(exc, OSError):
            return
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            size = sum((self._package.path / f).stat().st_size for f in _ALL_FILES)
            raise PermanentError(
                f"no space left under {self._folder}: the package needs {size} bytes; free some or set registry.storage"
            ) from exc
        raise PermanentError(f"cannot store the package under {self._folder}: {exc}") from exc


def _rename(source: Path, target: Path) -> bool:
    """False when something is at `target`; a rename never replaces a folder with files in it."""
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        shutil.rmtree(source, ignore_errors=True)
        raise PermanentError(f"cannot rename {source} to {target}: {exc}") from exc
    return True


def _sweep(folder: Path) -> None:
    """Remove copies that a killed process left behind."""
    for path in folder.glob(f"{_INCOMING}*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            log.info("removing an unfinished copy", extra={"path": str(path)})
            shutil.rmtree(path, ignore_errors=True)


def _sha_of(path: Path) -> str | None:
    import hashlib

    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None


def _uri(path: Path) -> str:
    return path.as_uri() + "/"


class S3Store:
    """Packages in an object store. The manifest is written last: a folder without one is no package.

    Nothing in an object store is atomic that all of them have: conditional writes came late to S3, other stores lack
    them, and so does pyarrow. So a number is not claimed here but in the registry, which has a version's name once.
    """

    def __init__(self, url: str, *, endpoint: str | None = None, ca_file: Path | None = None) -> None:
        from pyarrow import fs

        parts = urlparse(url)
        options: dict[str, object] = {}
        if endpoint:
            where = urlparse(endpoint)
            options = {"endpoint_override": where.netloc, "scheme": where.scheme}
        if ca_file:
            options["tls_ca_file_path"] = str(ca_file)
        self._fs = fs.S3FileSystem(**options)
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")

    def put(self, package: ModelPackage, *, at_least: int) -> Stored:
        taken = self._versions(package.name)
        for version, sha in taken.items():
            if sha == package.sha256:
                return Stored(version=version, uri=self._uri(package.name, version), created=False)
        version = version_name(max([at_least, *(1 + (version_number(v) or 0) for v in taken)]))
        return Stored(version=version, uri=self._uri(package.name, version), created=False)

    def put_at(self, package: ModelPackage, version: str) -> Stored:
        there = self._versions(package.name).get(version)
        if there not in (None, "", package.sha256):
            raise PermanentError(
                f"{self._uri(package.name, version)} holds another package; register under a new version"
            )
        if there != package.sha256:
            try:
                for name in _ALL_FILES:  # the manifest comes last
                    with self._fs.open_output_stream(f"{self._root}/{package.name}/{version}/{name}") as out:
                        out.write((package.path / name).read_bytes())
            except OSError as exc:
                self.remove(package.name, version)
                raise RetryableError(f"cannot write to {self._uri(package.name, version)}: {exc}") from exc
        return Stored(version=version, uri=self._uri(package.name, version), created=there != package.sha256)

    def remove(self, name: str, version: str) -> None:
        try:
            self._fs.delete_dir(f"{self._root}/{name}/{version}")
        except OSError as exc:
            log.warning("cannot remove an unfinished upload", extra={"version": version, "error": str(exc)})

    def fetch(self, uri: str, into: Path) -> ModelPackage:
        parts = urlparse(uri)
        into.mkdir(parents=True, exist_ok=True)
        try:
            for name in _ALL_FILES:
                with self._fs.open_input_stream(f"{parts.netloc}{parts.path}{name}") as source:
                    (into / name).write_bytes(source.read())
        except FileNotFoundError as exc:
            raise PermanentError(f"{uri} lacks a file of the package: {exc}") from exc
        except OSError as exc:
            raise RetryableError(f"cannot read {uri}: {exc}") from exc
        return ModelPackage.load(into)

    def _versions(self, name: str) -> dict[str, str]:
        """Version -> manifest hash, or an empty text where there is no manifest yet."""
        import hashlib

        from pyarrow import fs

        found: dict[str, str] = {}
        try:
            entries = self._fs.get_file_info(
                fs.FileSelector(f"{self._root}/{name}", allow_not_found=True, recursive=False)
            )
            for entry in entries:
                version = os.path.basename(entry.path)  # noqa: PTH119 - an object key, not a path
                if version_number(version) is None:
                    continue
                manifest = f"{entry.path}/{MANIFEST}"
                if self._fs.get_file_info(manifest).type != fs.FileType.File:
                    found[version] = ""
                    continue
                with self._fs.open_input_stream(manifest) as source:
                    found[version] = hashlib.sha256(source.read()).hexdigest()
        except OSError as exc:
            raise RetryableError(f"cannot list s3://{self._root}/{name}: {exc}") from exc
        return found

    def _uri(self, name: str, version: str) -> str:
        return f"s3://{self._root}/{name}/{version}/"


def open_store(root: str, *, endpoint: str | None = None, ca_file: Path | None = None) -> PackageStore:
    """The store for `root`: a folder, a `file://` or an `s3://` URL.

    Raises:
        InvalidInput: any other scheme.
    """
    parts = urlparse(root)
    if parts.scheme == "s3":
        return S3Store(root, endpoint=endpoint, ca_file=ca_file)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme:
        raise InvalidInput(f"registry.storage: expected a folder, file:// or s3://, got {root!r}")
    return LocalStore(Path(root))
