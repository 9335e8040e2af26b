"""A real server in a process of its own, real curl as its client, and models to send."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

HIDDEN = ".weightlift-server"


@dataclass
class Answer:
    """What curl saw: the last answer's status, headers (lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """``weightlift serve`` of a directory."""

    root: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    url: str = ""
    line: str = ""

    def start(self) -> Server:
        command = [sys.executable, "-m", "weightlift", "serve", str(self.root), "--port", "0", *self.options]
        environment = {k: v for k, v in os.environ.items() if k != "WEIGHTLIFT_TOKEN"} | self.environment
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.line = line = self.process.stdout.readline()
        found = re.search(r"(https?://\S+)/ ", line)
        assert found, f"it said {line!r} and {self.process.stdout.read() if self.process.poll() is not None else ''}"
        self.url = found.group(1)
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """(exit code, what it printed after the first line)."""
        assert self.process is not None and self.process.stdout is not None
        self.process.send_signal(number)
        rest = self.process.stdout.read()
        code = self.process.wait(30)
        self.process = None
        return code, rest

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped."""
        return self.process is not None

    def kill(self) -> None:
        """Stop it at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def curl(self, path: str, *arguments: str, data: bytes | None = None) -> Answer:
        """One request by curl; ``path`` goes as it is."""
        command = ["curl", "-sS", "-i", "--path-as-is", "--noproxy", "*", "--max-time", "60", *arguments]
        done = subprocess.run([*command, f"{self.url}{path}"], input=data, capture_output=True, timeout=90)
        assert done.returncode in (0, 55, 56), done.stderr.decode()
        rest, head = done.stdout, b""
        while rest.startswith(b"HTTP/"):  # informational answers come first
            head, _, rest = rest.partition(b"\r\n\r\n")
            if head.split(b" ", 2)[1][:1] != b"1":
                break
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0], f"no answer: {done.stderr.decode()}"
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        return Answer(int(lines[0].split(" ")[1]), headers, rest)

    def json(self, path: str, *arguments: str) -> Any:
        answer = self.curl(path, *arguments)
        assert answer.status < 300, answer
        return answer.json

    def upload(self, name: str, folder: Path, *arguments: str, method: str = "POST") -> Answer:
        """A model's directory, as TensorFlow.js uploads it."""
        parts = ["-F", f"model.json=@{folder / 'model.json'};type=application/json;filename=model.json"]
        for file in sorted(folder.iterdir()):
            if file.name != "model.json":
                parts += ["-F", f"{file.name}=@{file};type=application/octet-stream;filename={file.name}"]
        return self.curl(f"/models/{name}", "-X", method, *parts, *arguments)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def left_over(self) -> list[str]:
        """What uploads have left in hidden places."""
        hidden = self.root / HIDDEN / "uploads"
        found = [str(p.relative_to(self.root)) for p in hidden.rglob("*")] if hidden.is_dir() else []
        return found + [str(p) for p in self.root.rglob(".weightlift-upload-*")]

    def wait_until_clean(self) -> None:
        self.wait_for_uploads(0)

    def wait_for_uploads(self, count: int) -> None:
        """Until the bytes of so many uploads lie in hidden places."""
        self.wait_until(lambda: len(self.left_over()) == count)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until something has happened at the server; AssertionError if it does not."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"it did not happen; of uploads there is {self.left_over()}"
            time.sleep(0.01)


def layers_topology(*units: int) -> dict[str, Any]:
    """A Sequential of Dense layers with 3 inputs, as TensorFlow.js writes it."""
    layers: list[dict[str, Any]] = []
    for i, width in enumerate(units):
        config: dict[str, Any] = {"units": width, "activation": "relu", "use_bias": True, "name": f"dense_{i}"}
        if not i:
            config |= {"batch_input_shape": [None, 3], "dtype": "float32"}
        layers.append({"class_name": "Dense", "config": config})
    return {
        "class_name": "Sequential",
        "config": {"name": "net", "layers": layers},
        "keras_version": "tfjs-layers 4.22.0",
        "backend": "tensor_flow.js",
    }


def model_artifacts(seed: int = 0, *units: int) -> wl.ModelArtifacts:
    """A small model of random weights that TensorFlow.js can load."""
    units = units or (8, 2)
    rng = np.random.default_rng(seed)
    weights = {}
    for i, (a, b) in enumerate(zip((3, *units), units, strict=False)):
        weights[f"dense_{i}/kernel"] = rng.normal(size=(a, b)).astype("f4")
        weights[f"dense_{i}/bias"] = rng.normal(size=b).astype("f4")
    return wl.ModelArtifacts(
        layers_topology(*units), weights, format="layers-model", generated_by="TensorFlow.js tfjs-layers v4.22.0"
    )


def same_weights(a: Any, b: Any) -> bool:
    """Whether two models have the same tensors."""
    return list(a) == list(b) and all(np.array_equal(np.asarray(a[n]), np.asarray(b[n])) for n in a)


def names_in(folder: Path) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(p.name for p in folder.iterdir())
