"""The local runner: what it reports, and that nothing outlives it.

No postponed annotations in this module: KFP reads the components' annotations as objects.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from clusterheal.errors import InvalidInput
from clusterheal.local.runner import Step, run_pipeline

pytestmark = pytest.mark.kfp_local


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` writes its argument and its environment, a loop doubles it, `Fail or sleep` does what it is told."""
    from kfp import compiler, dsl

    @dsl.component(base_image="python", install_kfp_package=False)
    def first(word: str, made: dsl.Output[dsl.Dataset]) -> str:  # type: ignore[valid-type]
        import os
        from pathlib import Path

        Path(made.path).write_text(word)
        made.metadata["length"] = len(word)
        return os.environ.get("GREETING", "")

    @dsl.component(base_image="python", install_kfp_package=False)
    def double(number: int) -> int:
        return 2 * number

    @dsl.component(base_image="python", install_kfp_package=False)
    def misbehave(made: dsl.Input[dsl.Dataset], how: str) -> None:
        import time

        from clusterheal.errors import DataQualityError

        if how == "fail":
            raise DataQualityError("the series is constant")
        if how == "sleep":
            time.sleep(120)

    @dsl.pipeline(name="probe")
    def probe(word: str, how: str = "nothing") -> None:
        begun = first(word=word).set_display_name("First")
        with dsl.ParallelFor([1, 2, 3], parallelism=2) as number:
            double(number=number).set_display_name("Double")
        misbehave(made=begun.outputs["made"], how=how).set_display_name("Fail or sleep")

    target = tmp_path_factory.mktemp("compiled") / "probe.yaml"
    compiler.Compiler().compile(probe, str(target))
    return target


def _descendants_running(folder: Path) -> list[str]:
    return [
        " ".join(p.info["cmdline"][:4])
        for p in psutil.process_iter(["cmdline"])
        if p.info["cmdline"] and str(folder) in " ".join(p.info["cmdline"])
    ]


def test_steps_parameters_artifacts_and_environment_are_kept(package: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    run = run_pipeline(
        package,
        {"word": "hello"},
        out=tmp_path,
        env={"GREETING": "good day"},
        on_step=lambda step: heard.append((step.title, step.status)),
    )
    assert run.status == "succeeded", run.error
    first = run.step("First")
    assert first.parameters == {"Output": "good day"}
    assert Path(first.artifacts["made"]["path"]).read_text() == "hello"
    assert first.artifacts["made"]["metadata"] == {"length": 5}
    assert sorted(s.parameters["Output"] for s in run.steps if s.title == "Double") == [2, 4, 6]
    assert ("First", "running") in heard
    assert ("First", "succeeded") in heard
    saved = json.loads((run.out / "run.json").read_text())
    assert saved["status"] == "succeeded"
    assert {s["title"] for s in saved["steps"]} == {"First", "Double", "Fail or sleep"}


def test_a_failing_step_is_named_with_its_last_word(package: Path, tmp_path: Path) -> None:
    run = run_pipeline(package, {"word": "x", "how": "fail"}, out=tmp_path)
    assert run.status == "failed"
    assert run.error == "step 'Fail or sleep' failed: DataQualityError: the series is constant"
    assert [s.status for s in run.steps if s.title == "Fail or sleep"] == ["failed"]


def test_an_interruption_ends_every_process_of_the_run(package: Path, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.title == "Fail or sleep":
            deadline = time.monotonic() + 20
            while not _descendants_running(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(package, {"word": "x", "how": "sleep"}, out=tmp_path, on_step=interrupt)
    assert _descendants_running(tmp_path) == []


def test_a_run_that_takes_too_long_is_ended_and_says_so(package: Path, tmp_path: Path) -> None:
    run = run_pipeline(package, {"word": "x", "how": "sleep"}, out=tmp_path, timeout=timedelta(seconds=15))
    assert run.status == "failed"
    assert run.error is not None
    assert "15 s" in run.error
    assert _descendants_running(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "needs the parameter"), ({"word": "x", "wrod": 1}, "no parameter")]
)
def test_wrong_arguments_are_refused_before_anything_runs(
    package: Path, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        run_pipeline(package, arguments, out=tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("text", ["", "a: 1\n", "{", "- 1\n"])
def test_what_is_no_package_is_refused(tmp_path: Path, text: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(text)
    with pytest.raises(InvalidInput, match=r"bad\.yaml"):
        run_pipeline(bad, {}, out=tmp_path / "out")
    with pytest.raises(InvalidInput, match="cannot read"):
        run_pipeline(tmp_path / "absent.yaml", {}, out=tmp_path / "out")


def test_a_disk_that_is_too_small_for_an_artifact(tmp_path: Path) -> None:
    from kfp import compiler, dsl

    @dsl.component(base_image="python", install_kfp_package=False)
    def write(mib: int, made: dsl.Output[dsl.Dataset]) -> None:  # type: ignore[valid-type]
        from pathlib import Path

        Path(made.path).write_bytes(bytes(mib << 20))

    @dsl.pipeline(name="large")
    def large(mib: int) -> None:
        write(mib=mib).set_display_name("Write")

    small, package = tmp_path / "small", tmp_path / "large.yaml"
    compiler.Compiler().compile(large, str(package))
    small.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {small}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this user may not mount a small disk (needs unshare, and root or user namespaces)")
    run = (sys.executable, "-m", "clusterheal.cli", "pipeline", "run", str(package), "--set", "mib=4")
    look = f'{mount} && "$@"; code=$?; echo; find {small} -type f; exit $code'
    command = ["unshare", "-m", "sh", "-c", look, "sh", *run, "--out", str(small / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr == "clusterheal: step 'Write' failed: OSError: [Errno 28] No space left on device\n"
    left = {Path(line).name for line in done.stdout.split("\n\n", 1)[1].splitlines()}
    assert left == {"pipeline.yaml", "run.json", "run.log"}, "half of an artifact was left behind"
