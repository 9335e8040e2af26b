"""Uploads: the rate, and how much memory the client takes beyond the model.

nginx takes a PUT and writes it to its disk, for everyone. We send a checksum of every tensor with the file; the peers
send what safetensors made, which is a whole copy of the model in memory, or on the disk for curl.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import wire
from harness import Case, Workspace, arguments, claim, finish, measure, ratio, table
from models import llama

MIB = 1 << 20
CASES = [
    Case("weightlift.save", "ours", "streamed checksummed", "us"),
    Case("weightlift.save, TLS", "ours", "streamed checksummed", "us", args={"tls": True}),
    Case("weightlift.save_model (multipart)", "ours_model", "streamed", "us"),
    Case("safetensors + requests", "requests_put", "built in memory"),
    Case("safetensors + httpx", "httpx_put", "built in memory"),
    Case("safetensors + curl -T", "curl_put", "file first"),
    Case("curl -T of a file", "curl_file", "no tensors", "tool"),
]


def target(params: dict[str, Any], name: str) -> str:
    return f"{params['urls'][bool(params.get('tls'))]}/{name}"


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors = llama(params["size"])
    options = {"ca_file": params["ca"]} if params.get("tls") else {}
    url = target(params, "ours.safetensors")
    return lambda: wl.save(tensors, url, **options) and None


def ours_model(params: dict[str, Any]) -> Any:
    """The form goes to a server that takes PUT of anything; TensorFlow.js would POST it."""
    import weightlift as wl

    artifacts = wl.ModelArtifacts(weights=llama(params["size"]), format="layers-model")
    handler = wl.http(target(params, "form"), method="PUT")
    return lambda: wl.save_model(artifacts, handler) and None


def requests_put(params: dict[str, Any]) -> Any:
    import requests
    from safetensors.numpy import save

    tensors, session = llama(params["size"]), requests.Session()
    url = target(params, "requests.safetensors")
    return lambda: session.put(url, data=save(tensors)).raise_for_status()


def httpx_put(params: dict[str, Any]) -> Any:
    import httpx
    from safetensors.numpy import save

    tensors, client = llama(params["size"]), httpx.Client(timeout=60)
    url = target(params, "httpx.safetensors")
    return lambda: client.put(url, content=save(tensors)).raise_for_status() and None


def curl_put(params: dict[str, Any]) -> Any:
    from safetensors.numpy import save_file

    tensors, path = llama(params["size"]), f"{params['directory']}/curl.safetensors"
    send = _curl(params, path)

    def run() -> None:
        save_file(tensors, path)
        send()

    return run


def curl_file(params: dict[str, Any]) -> Any:
    return _curl(params, params["file"])


def _curl(params: dict[str, Any], path: str) -> Any:
    command = [
        wire.program("curl"),
        "-q",
        "-s",
        "-f",
        "-o",
        "/dev/null",
        "-T",
        path,
        target(params, "curl.safetensors"),
    ]
    return lambda: subprocess.run(command, check=True) and None


def main() -> None:
    import numpy as np

    import weightlift as wl

    args = arguments(__doc__ or "", 256 << 20, 8 << 20)
    wire.without_proxies()
    with Workspace(args) as directory:
        try:
            with wire.serve(directory / "nginx") as nginx:
                path = directory / "file.safetensors"
                tensors = llama(args.size)
                wl.save(tensors, path, durable=False)
                params = {
                    "directory": str(directory), "size": args.size, "file": str(path), "ca": str(nginx.ca_file),
                    "urls": [nginx.url("upload"), nginx.url("upload", tls=True)],
                }  # fmt: skip
                rows = measure("http_save", CASES, params, args.rounds, warmup=args.warmup, memory=args.memory)
                arrived = wl.load(Path(nginx.files) / "upload" / "ours.safetensors")
                assert all(np.array_equal(arrived[name], array) for name, array in tensors.items())
        except wire.Unavailable as error:
            wire.skip(error)
    nbytes = sum(a.nbytes for a in tensors.values())
    records = table(f"upload, {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
    peers = [r for r in rows if r.case.role == "peer" and not r.skipped]
    best = min(peers, key=lambda r: r.median).case.name if peers else ""
    peaks = [r.peak for r in rows if r.case.role == "us" and not r.skipped]
    records += [
        claim("peak memory beyond the model, MiB", max(peaks) / MIB if peaks else None, 64, at_most=True),
        claim(f"x best peer ({best})", ratio(rows, "weightlift.save", best), 1.0),
    ]
    finish(args, "http_save", records)


if __name__ == "__main__":
    main()
