"""A model package: an immutable, versioned directory that is all a server needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterheal.contracts.features import FeatureContract
from clusterheal.errors import ContractMismatch, PackageInvalid

MANIFEST = "manifest.json"
FILES = ("model.onnx", "contract.json", "calibration.json", "metrics.json", "sample_request.json", "MODEL_CARD.md")
MAX_FILE_BYTES = 256 * 1024 * 1024  # our models are under 10 MB; anything near this is not ours

DETECTOR = "anomaly-detector"
FORECASTER = "predictive-analytics"


@dataclass(frozen=True, kw_only=True)
class ModelPackage:
    """A verified package. Make one with `load`, never by hand.

    `name` is the served model's name, `sha256` covers every file by way of the manifest.
    """

    path: Path
    name: str
    sha256: str
    contract: FeatureContract
    calibration: Mapping[str, Any]
    metrics: Mapping[str, Any]
    sample_request: Mapping[str, Any]

    @property
    def model_path(self) -> Path:
        return self.path / "model.onnx"

    @classmethod
    def load(cls, path: Path) -> ModelPackage:
        """Read a package after checking the size and SHA-256 of every file against the manifest.

        Raises:
            PackageInvalid: a file is missing, too large, altered, or no JSON, or there is one that nobody sealed.
            ContractMismatch: `contract.json` is not the contract the package was sealed with.
        """
        manifest = _read_json(path / MANIFEST)
        listed = manifest.get("files")
        if not isinstance(listed, dict) or set(listed) != set(FILES):
            raise PackageInvalid(
                f"{path / MANIFEST}: expected entries for exactly {sorted(FILES)}, got {sorted(listed or [])}"
            )
        # Hidden entries are those of mounted volumes and downloaders.
        extra = sorted(f.name for f in path.iterdir() if f.name not in {*FILES, MANIFEST} and f.name[0] != ".")
        if extra:
            raise PackageInvalid(f"{path}: {', '.join(extra[:5])} does not belong to the package; remove it")
        for name, entry in listed.items():
            _verify_file(path / name, entry)
        contract = FeatureContract.from_dict(_read_json(path / "contract.json"))
        sealed = str(manifest.get("contract_sha256"))
        if contract.sha256 != sealed:
            raise ContractMismatch(
                f"{path}: contract.json hashes to {contract.sha256[:12]} but the package was sealed "
                f"with {sealed[:12]}; "
                "the package was changed after training, train it again"
            )
        return cls(
            path=path,
            name=str(manifest["name"]),
            sha256=_sha256(path / MANIFEST),
            contract=contract,
            calibration=_read_json(path / "calibration.json"),
            metrics=_read_json(path / "metrics.json"),
            sample_request=_read_json(path / "sample_request.json"),
        )


def seal_package(path: Path, *, name: str, contract: FeatureContract) -> ModelPackage:
    """Write the manifest over the files already in `path`, then load the package back.

    Raises:
        PackageInvalid: one of `FILES` is missing.
    """
    (path / "contract.json").write_text(contract.to_json())
    missing = [f for f in FILES if not (path / f).is_file()]
    if missing:
        raise PackageInvalid(f"{path}: a package needs {missing}; write them before sealing it")
    manifest = {
        "name": name,
        "contract_sha256": contract.sha256,
        "files": {f: {"sha256": _sha256(path / f), "bytes": (path / f).stat().st_size} for f in FILES},
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return ModelPackage.load(path)


def _verify_file(path: Path, entry: Mapping[str, Any]) -> None:
    if path.is_symlink() or not path.is_file():
        raise PackageInvalid(f"{path}: expected a regular file listed in the manifest; copy the package again")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise PackageInvalid(f"{path}: {size} bytes, more than the {MAX_FILE_BYTES} a package file may have")
    if size != entry.get("bytes") or _sha256(path) != entry.get("sha256"):
        raise PackageInvalid(
            f"{path}: content differs from the manifest; the package was changed, copy or train it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as exc:
        raise PackageInvalid(
            f"{path}: missing; expected a model package with {MANIFEST} and {', '.join(FILES)}"
        ) from exc
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise PackageInvalid(f"{path}: not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise PackageInvalid(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data
