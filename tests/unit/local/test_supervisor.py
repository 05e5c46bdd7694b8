from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.local.processes import ChildDied, ChildSpec, marked_processes
from clusterheal.local.supervisor import Supervisor, free_port, require_port

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); time.sleep(600)"
ESCAPEE = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True); "
    "time.sleep(600)"
)


def python(name: str, code: str) -> ChildSpec:
    return ChildSpec(name=name, argv=(sys.executable, "-c", code))


async def until(condition: object, *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_a_child_is_up_until_the_supervisor_ends_and_its_output_is_in_its_log(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        child = await supervisor.start(python("sleeper", SLEEPER))
        await until(lambda: "up" in child.log_path.read_text())
        assert psutil.pid_exists(child.pid)
        assert os.getpgid(child.pid) == child.pid
    assert not psutil.pid_exists(child.pid)
    assert child.log_path == tmp_path / "sleeper.log"


@pytest.mark.parametrize("code", [STUBBORN, PARENT, ESCAPEE], ids=["ignores SIGTERM", "has a child", "child fled"])
async def test_nothing_is_left_behind(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterheal.local.supervisor.GRACE_SECONDS", 0.3)
    expected = 1 if code == STUBBORN else 2
    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("child", code))
        await until(lambda: len(marked_processes(supervisor.marker)) >= expected)
    assert marked_processes(supervisor.marker) == []


async def test_a_killed_child_is_named_with_the_signal_and_its_last_words(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("steady", SLEEPER))
        child = await supervisor.start(python("doomed", SLEEPER))
        await until(lambda: "up" in child.log_path.read_text())
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildDied, match=r"(?s)doomed was killed by SIGKILL.*doomed\.log.*up"):
            await supervisor.guard(asyncio.sleep(30))


async def test_a_child_that_ends_by_itself_is_an_error_too(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("brief", "raise SystemExit(3)"))
        with pytest.raises(ChildDied, match="brief exited with code 3"):
            await supervisor.guard(asyncio.sleep(30))


async def test_a_child_that_is_stopped_on_purpose_is_no_error(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        child = await supervisor.start(python("sleeper", SLEEPER))
        await supervisor.stop_child(child)
        assert await supervisor.guard(asyncio.sleep(0.05, "done")) == "done"


async def test_a_death_that_somebody_else_reports_ends_guarded_work(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        supervisor.report_death(ChildDied("model server was killed by SIGKILL"))
        with pytest.raises(ChildDied, match="model server"):
            await supervisor.guard(asyncio.sleep(30))


async def test_a_death_is_told_rather_than_the_failure_that_it_causes(tmp_path: Path) -> None:
    async def talk_to(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        raise PermanentError("connection refused")

    async with Supervisor(logs=tmp_path) as supervisor:
        child = await supervisor.start(python("doomed", SLEEPER))
        with pytest.raises(ChildDied, match="doomed was killed by SIGKILL"):
            await supervisor.guard(talk_to(child.pid))


async def test_a_death_is_told_rather_than_how_the_cancelled_work_ended(tmp_path: Path) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as exc:
            raise PermanentError("connection refused") from exc

    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("brief", "import time; time.sleep(0.3)"))
        with pytest.raises(ChildDied, match="brief exited with code 0"):
            await supervisor.guard(fail_when_cancelled())


async def test_a_failure_of_its_own_stays_what_it_is(tmp_path: Path) -> None:
    async def fail() -> None:
        raise PermanentError("no such model")

    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("steady", SLEEPER))
        with pytest.raises(PermanentError, match="no such model"):
            await supervisor.guard(fail())


async def test_a_child_that_never_gets_ready_is_an_error_and_is_ended(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    with pytest.raises(PermanentError, match="slow was not ready within 0 s"):
        async with Supervisor(logs=tmp_path) as supervisor:
            await supervisor.start(python("slow", SLEEPER), ready=never, timeout_seconds=0.3)
    assert marked_processes(supervisor.marker) == []


async def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        with pytest.raises(ChildDied, match=r"ghost could not be started.*no-such-program"):
            await supervisor.start(ChildSpec(name="ghost", argv=("no-such-program",)))


async def test_a_job_reports_its_lines_and_fails_with_its_last_words(tmp_path: Path) -> None:
    lines: list[str] = []
    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.run(python("fine", "print('one'); print('two')"), on_line=lines.append)
        assert lines == ["one", "two"]
        with pytest.raises(ChildDied, match=r"(?s)bad exited with code 1.*ValueError: no good"):
            await supervisor.run(python("bad", "raise ValueError('no good')"))


async def test_a_job_is_ended_when_another_child_dies(tmp_path: Path) -> None:
    async with Supervisor(logs=tmp_path) as supervisor:
        await supervisor.start(python("brief", "import time; time.sleep(0.3)"))
        with pytest.raises(ChildDied, match="brief"):
            await supervisor.run(python("job", SLEEPER))
        assert [p for p in marked_processes(supervisor.marker) if p.status() != psutil.STATUS_ZOMBIE] == []


async def test_cancelling_ends_the_children(tmp_path: Path) -> None:
    supervisor = Supervisor(logs=tmp_path)

    async def work() -> None:
        async with supervisor:
            await supervisor.run(python("job", PARENT))

    task = asyncio.create_task(work())
    await until(lambda: len(marked_processes(supervisor.marker)) >= 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert marked_processes(supervisor.marker) == []


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from clusterheal.local.processes import ChildSpec
        from clusterheal.local.supervisor import Supervisor
        async def main():
            async with Supervisor(logs=Path({str(tmp_path)!r})) as supervisor:
                child = await supervisor.start(ChildSpec(name="c", argv=(sys.executable, "-c", {SLEEPER!r})))
                print(child.pid, flush=True)
                await asyncio.sleep(600)
        asyncio.run(main())
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not alive


def test_a_taken_port_is_named_with_its_purpose() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=rf"port {port} for the demo's engine is taken.*0 picks a free port"):
            require_port(port, purpose="the demo's engine")
    assert require_port(port, purpose="the demo's engine") == port


def test_port_zero_is_a_free_port() -> None:
    chosen = require_port(0, purpose="anything")
    assert 1024 <= chosen <= 65535
    assert free_port() != 0


async def test_stopping_waits_no_longer_than_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterheal.local.supervisor.GRACE_SECONDS", 0.2)
    async with Supervisor(logs=tmp_path) as supervisor:
        for number in range(3):
            await supervisor.start(python(f"stubborn-{number}", "print(1, flush=True);" + STUBBORN))
        await asyncio.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 3.0
