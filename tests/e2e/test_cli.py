"""The command line as processes: exit codes, pipes, terminals, Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import weightlift as wl

pytest.importorskip("click")
pytest.importorskip("rich")

COMMAND = [sys.executable, "-m", "weightlift"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")} | {
    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    "TERM": "xterm-256color",
}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(*args: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with pipes for its output."""
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=120, check=False
    )


class Terminal:
    """The command on a terminal of a given width; ``screen`` is everything it wrote there."""

    def __init__(self, *args: object, cwd: Path, columns: int = 80, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        command = [*COMMAND, *map(str, args)]
        self.process = subprocess.Popen(
            command, cwd=cwd, env=ENVIRONMENT | environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.screen = ""

    def read_until(self, wanted: Callable[[str], bool]) -> bool:
        """Read until ``wanted(screen)``; False at the end of output. How long that may take is for pytest-timeout."""
        while not wanted(self.screen):
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # EIO: the other end is closed
                return wanted(self.screen)
            self.screen += data.decode("utf-8", "replace")
        return wanted(self.screen)

    def finish(self) -> int:
        """Read the rest; the exit code."""
        self.read_until(lambda _: False)
        os.close(self._master)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()


def worked() -> float:
    """Seconds of processor time that commands have taken: as many on a busy machine as on an idle one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def lines(screen: str) -> list[str]:
    return [ANSI.sub("", line).rstrip() for line in screen.replace("\r\n", "\n").split("\n")]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    prefix = "model.decoder.layers.11.self_attention.query_key_value_projection"
    tensors = {f"{prefix}.{i}.weight": rng.standard_normal((64, 64), np.float32) for i in range(3)}
    wl.save(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file that takes seconds to deflate."""
    folder = tmp_path_factory.mktemp("slow")
    rng = np.random.default_rng(5)
    tensors = {f"t{i}": rng.standard_normal(4 << 20, np.float32) for i in range(6)}
    wl.save(tensors, folder / "big.safetensors", durable=False)
    return folder


# ---- exit codes ----------------------------------------------------------------------------------------------
def test_exit_codes_reach_the_shell(saved: Path) -> None:
    assert run("--version", cwd=saved).stdout == f"weightlift {wl.__version__}\n"
    assert run("--help", cwd=saved).returncode == 0
    assert run("verify", "model.safetensors", cwd=saved).returncode == 0
    assert run("convert", "model.safetensors", "model.npz", cwd=saved).returncode == 0
    assert run("diff", "model.safetensors", "model.npz", cwd=saved).returncode == 0
    with wl.open(saved / "model.safetensors") as weights:
        name, view = next(iter(weights.items()))
        at = view.offset
    assert at is not None
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[at] ^= 128
    (saved / "model.safetensors").write_bytes(data)
    assert run("verify", "model.safetensors", cwd=saved).returncode == 1
    assert run("diff", "model.safetensors", "model.npz", cwd=saved).returncode == 1
    assert run("inspect", cwd=saved).returncode == 2
    assert run("nonsense", cwd=saved).returncode == 2
    failed = run("convert", "model.safetensors", "again.npz", cwd=saved)
    assert failed.returncode == 3
    assert failed.stderr.count("\n") == 1 and "\x1b" not in failed.stderr and name in failed.stderr
    assert failed.stdout == ""


def test_help_needs_no_click(saved: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from weightlift.cli import main; main();"
        "sys.exit(any(m in sys.modules for m in ('click', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0


# ---- pipes ---------------------------------------------------------------------------------------------------
def test_pipes_are_silent_but_for_the_result(slow: Path, tmp_path: Path) -> None:
    done = run("convert", slow / "big.safetensors", tmp_path / "out.npz", "--no-sync", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"{tmp_path / 'out.npz'}: npz, 6 tensors, 96.0 MiB")
    assert done.stdout.count("\n") == 1 and "\r" not in done.stdout and "\x1b" not in done.stdout


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    wl.save({f"tensor.{i:05}": np.zeros(1, np.float32) for i in range(20_000)}, tmp_path / "many.safetensors")
    command = [*COMMAND, "inspect", "many.safetensors"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"many.safetensors: safetensors, 20,000 tensors")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


# ---- terminals -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit_the_terminal(saved: Path, columns: int) -> None:
    terminal = Terminal("inspect", "model.safetensors", cwd=saved, columns=columns)
    assert terminal.finish() == 0
    shown = lines(terminal.screen)
    assert max(map(len, shown)) <= columns
    assert "\x1b[" in terminal.screen
    text = re.sub(r"\s", "", terminal.screen)
    assert "float32" in text and "[64,64]" in text and "16.0KiB" in text


def test_no_color_is_honoured(saved: Path) -> None:
    terminal = Terminal("inspect", "model.safetensors", "nothing.npz", cwd=saved, NO_COLOR="1")
    assert terminal.finish() == 3
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m", terminal.screen)
    plain = Terminal("inspect", "nothing.npz", cwd=saved)
    assert plain.finish() == 3
    assert "\x1b[31mError: " in plain.screen


def test_terminal_rows_are_limited(tmp_path: Path) -> None:
    wl.save({f"tensor.{i:05}": np.zeros(1, np.float32) for i in range(1_000)}, tmp_path / "many.safetensors")
    terminal = Terminal("inspect", "many.safetensors", cwd=tmp_path)
    assert terminal.finish() == 0
    assert "tensor.00199" in terminal.screen and "tensor.00200" not in terminal.screen
    assert "... 800 more rows; --limit 0 shows all" in terminal.screen
    assert "tensor.00999" in run("inspect", "many.safetensors", cwd=tmp_path).stdout


def test_progress_is_shown_and_taken_away(slow: Path, tmp_path: Path) -> None:
    terminal = Terminal(
        "convert", slow / "big.safetensors", tmp_path / "out.npz", "--compression", "deflate", "--no-sync", cwd=tmp_path
    )
    assert terminal.read_until(lambda screen: "converting" in screen and "MiB" in screen and "/s" in screen)
    assert terminal.finish() == 0
    assert "converting" not in ANSI.sub("", terminal.screen.rsplit("\x1b[2K", 1)[-1])


# ---- Ctrl-C --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["out.npz", "new/out.npz"])
def test_interrupt_leaves_nothing_behind(slow: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "before").write_text("untouched")
    before = worked()
    terminal = Terminal(
        "convert", slow / "big.safetensors", tmp_path / target, "--compression", "deflate", cwd=tmp_path
    )
    assert terminal.read_until(lambda screen: "converting" in screen), terminal.screen
    done = sum(psutil.Process(terminal.process.pid).cpu_times()[:2])
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert worked() - before - done < 2  # the rest of the work would be more
    assert "Traceback" not in terminal.screen and "interrupted" in terminal.screen
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "before"]


# ---- the demo ------------------------------------------------------------------------------------------------
def test_demo_holds_and_tidies_up(tmp_path: Path) -> None:
    before = worked()
    done = run("demo", "--quick", "--dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert worked() - before < 30
    assert done.stderr == ""
    assert "ChecksumError" in done.stdout and "All held" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_demo_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    done = run("demo", "--quick", "--size", "2MiB", "--dir", tmp_path, "--keep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (place,) = tmp_path.iterdir()
    assert str(place) in done.stdout
    assert wl.verify(place / "model.safetensors").ok and wl.verify(place / "tfjs-uint8").ok


def test_demo_says_what_it_needs(tmp_path: Path) -> None:
    done = run("demo", "--size", "900TiB", "--dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 3 and "--size" in done.stderr
    assert list(tmp_path.iterdir()) == []
