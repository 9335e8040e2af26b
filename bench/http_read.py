"""Claim 5: HTTP ranges to NumPy, verified, against the peers and raw sockets.

nginx and all clients share this machine. "arrays" is a dict of NumPy arrays that can be written, "tensors" the same of
torch's, "bytes" a body in memory that cannot, or several, "nothing" a body thrown away. What is claimed against the
best peer is claimed against the best that ends as we do, with arrays or tensors; the table has those that leave bytes.
Three groups: plain, TLS, and a relay that is 20 ms away and caps every connection's rate; there the file is smaller.
``--gib N`` sets the size (the claim's is 2); memory for three times that is needed.

What the raw sockets reach against each peer is the most that any client could: see "what the machine allows".
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import wire
from harness import GIB, Case, Row, Skip, Workspace, arguments, claim, finish, measure, ratio, roofline, table
from models import llama

ROUND_TRIP, RATE = 0.020, 40e6
RANGES = 4
OURS = "weightlift.load"
PEER_TARGET, CPU_TARGET = 1.7, 0.6
PLAIN, TLS, FAR = "plain", "TLS", f"{ROUND_TRIP * 1e3:.0f} ms away, {RATE / 1e6:.0f} MB/s a connection"

GROUPS = {"plain": PLAIN, "TLS": TLS, "far": FAR}


def cases(group: str) -> list[Case]:
    """The rows of one group."""
    key = {PLAIN: "plain", TLS: "tls", FAR: "far"}[group]

    def case(name: str, setup: str, guarantees: str, role: str = "peer", **args: Any) -> Case:
        return Case(name, setup, guarantees, role, group=group, args={"key": key, **args})

    rows = [
        case(OURS, "ours", "arrays verified", "us"),
        case("weightlift.load(verify=False)", "ours", "arrays", "us", verify=False),
        case("weightlift.load(connections=1)", "ours", "arrays verified", "us", connections=1),
        case("curl to nothing", "curl", "nothing", "tool", ranges=1, keep=False),
        case(f"curl, {RANGES} ranges to nothing", "curl", "nothing", "tool", ranges=RANGES, keep=False),
        case("curl to a file", "curl", "file", ranges=1, keep=True),
        case(f"curl, {RANGES} ranges to files", "curl", "files", ranges=RANGES, keep=True),
        case("requests + safetensors", "requests_load", "arrays"),
        case("requests", "requests_bytes", "bytes"),
        case("httpx", "httpx_bytes", "bytes"),
        case("aiohttp", "aiohttp_bytes", "bytes"),
        case("obstore get", "obstore_get", "bytes"),
        case(f"obstore get_range, {RANGES} at once", "obstore_ranges", "bytes"),
        case(f"obstore get_range, {RANGES} at once, into NumPy", "obstore_arrays", "arrays"),
        case("obstore get + safetensors", "obstore_safetensors", "arrays"),
    ]
    if group == PLAIN:
        rows += [
            case("hf_transfer + safetensors", "hf_transfer_load", "arrays"),
            case("tensorstore", "tensorstore_bytes", "bytes"),
            case("tensorizer", "tensorizer_load", "tensors"),
            case("Run:ai model streamer (as S3)", "runai_load", "tensors"),
            case("roofline: raw sockets, huge pages", "raw_sockets", "bytes", "roofline"),
        ]
    return rows


def target(params: dict[str, Any]) -> tuple[str, str | None, int]:
    """(URL, CA file, bytes) of a case's group."""
    url, nbytes = params["targets"][params["key"]]
    return url, params["ca"] if params["key"] == "tls" else None, nbytes


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    url, ca, _ = target(params)
    options = {n: params[n] for n in ("verify", "connections") if n in params}
    if ca:
        options["ca_file"] = ca
    return lambda: wl.load(url, **options)


def spans(nbytes: int, count: int) -> list[tuple[int, int]]:
    """The file in ``count`` parts, ends exclusive."""
    cuts = [nbytes * i // count for i in range(count + 1)]
    return list(itertools.pairwise(cuts))


def curl(params: dict[str, Any]) -> Any:
    import subprocess

    url, ca, nbytes = target(params)
    command = [wire.program("curl"), "-q", "-s", "-f", url, *(["--cacert", ca] if ca else [])]
    names = [
        f"{params['directory']}/curl-{params['key']}-{i}" if params["keep"] else "/dev/null"
        for i in range(params["ranges"])
    ]
    parts = spans(nbytes, params["ranges"])
    commands = [
        [*command, "-o", name, *(["-r", f"{a}-{b - 1}"] if len(parts) > 1 else [])]
        for name, (a, b) in zip(names, parts, strict=True)
    ]

    def run() -> None:
        running = [subprocess.Popen(c) for c in commands]
        statuses = [p.wait() for p in running]
        if any(statuses):
            raise RuntimeError(f"curl failed: {commands[0]}")

    return run


def requests_bytes(params: dict[str, Any]) -> Any:
    import requests

    url, ca, _ = target(params)
    session = requests.Session()

    def run() -> bytes:
        answer = session.get(url, verify=ca or True)
        answer.raise_for_status()
        return answer.content

    return run


def requests_load(params: dict[str, Any]) -> Any:
    from safetensors.numpy import load

    fetch = requests_bytes(params)
    return lambda: load(fetch())


def httpx_bytes(params: dict[str, Any]) -> Any:
    import ssl

    import httpx

    url, ca, _ = target(params)
    client = httpx.Client(verify=ssl.create_default_context(cafile=ca) if ca else True, timeout=60)
    return lambda: client.get(url).raise_for_status().content


def aiohttp_bytes(params: dict[str, Any]) -> Any:
    import ssl

    import aiohttp

    url, ca, _ = target(params)
    context = ssl.create_default_context(cafile=ca) if ca else True

    async def fetch(kept: list[bytes]) -> None:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
            answer.raise_for_status()
            kept.append(await answer.read())

    return lambda: run_async(fetch)


def run_async(fetch: Callable[[list[Any]], Coroutine[Any, Any, None]]) -> list[Any]:
    """What ``fetch`` put into the list: asyncio.run spends seconds on the repr of a long result."""
    kept: list[Any] = []
    asyncio.run(fetch(kept))
    return kept


def _obstore(params: dict[str, Any]) -> tuple[Any, str, int]:
    from obstore.store import HTTPStore

    url, ca, nbytes = target(params)
    base, _, name = url.rpartition("/")
    options: dict[str, Any] = {"allow_http": True, "timeout": "60s"}
    if ca:
        options["allow_invalid_certificates"] = True  # it has no option for one's own authority
    return HTTPStore.from_url(base, client_options=options), name, nbytes


def obstore_get(params: dict[str, Any]) -> Any:
    store, name, _ = _obstore(params)
    return lambda: store.get(name).bytes()


def obstore_ranges(params: dict[str, Any]) -> Any:
    store, name, nbytes = _obstore(params)
    parts = spans(nbytes, RANGES)

    async def fetch(kept: list[Any]) -> None:  # get_ranges would join ranges that touch into one request
        kept += await asyncio.gather(*(store.get_range_async(name, start=a, end=b) for a, b in parts))

    return lambda: run_async(fetch)


def obstore_safetensors(params: dict[str, Any]) -> Any:
    from safetensors.numpy import load

    fetch = obstore_get(params)
    return lambda: load(bytes(fetch()))


def obstore_arrays(params: dict[str, Any]) -> Any:
    """The best that we could make of it: each part is copied into one block, of which the tensors are views."""
    import numpy as np

    store, name, nbytes = _obstore(params)

    async def fetch(kept: list[Any]) -> None:
        memory = np.empty(nbytes, np.uint8)
        kept.append(memory)

        async def part(begin: int, end: int) -> None:
            data = await store.get_range_async(name, start=begin, end=end)
            await asyncio.to_thread(np.copyto, memory[begin:end], np.frombuffer(data, np.uint8))

        await asyncio.gather(*(part(a, b) for a, b in spans(nbytes, RANGES)))

    return lambda: views(run_async(fetch)[0])


def views(memory: Any) -> dict[str, Any]:
    """The arrays of a safetensors file that is in memory."""
    import json

    import numpy as np

    start = 8 + int.from_bytes(memory[:8].tobytes(), "little")
    header = json.loads(memory[8:start].tobytes())
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    return {
        name: np.ndarray(entry["shape"], types[entry["dtype"]], memory, start + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def hf_transfer_load(params: dict[str, Any]) -> Any:
    """It downloads into files only."""
    import hf_transfer
    from safetensors.numpy import load_file

    url, _, _ = target(params)
    path = Path(params["directory"]) / "hf_transfer.safetensors"

    def run() -> Any:
        path.unlink(missing_ok=True)
        hf_transfer.download(url, str(path), max_files=RANGES, chunk_size=16 << 20)
        return load_file(path)

    return run


def tensorstore_bytes(params: dict[str, Any]) -> Any:
    import tensorstore

    url, _, _ = target(params)
    base, _, name = url.rpartition("/")
    store = tensorstore.KvStore.open(f"{base}/").result()
    return lambda: store.read(name).result().value


def tensorizer_load(params: dict[str, Any]) -> Any:
    from tensorizer import TensorDeserializer

    url, _, _ = target(params)
    if not params["tensorizer"]:
        raise Skip("no .tensors file was made")
    url = url.replace(".safetensors", ".tensors")
    return lambda: dict(TensorDeserializer(url, device="cpu", lazy_load=False).items())


def runai_load(params: dict[str, Any]) -> Any:
    """It has no HTTP: nginx plays an S3 that asks for no signature."""
    import os

    url, _, _ = target(params)
    base, _, name = url.rpartition("/")
    os.environ |= {
        "AWS_ENDPOINT_URL": base, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }  # fmt: skip
    import runai_model_streamer_s3  # noqa: F401 - without it there is no S3
    from runai_model_streamer import SafetensorsStreamer

    def run() -> Any:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(f"s3://bucket/{name}")
            return {n: t.clone() for n, t in streamer.get_tensors()}

    try:
        run()
    except Exception as error:
        raise Skip(f"it does not get on with nginx: {error}") from error
    return run


def raw_sockets(params: dict[str, Any]) -> Any:
    url, _, _ = target(params)
    return roofline("roofline_http", url, "--connections", str(RANGES))


def make_files(nginx: wire.Nginx, size: int) -> dict[str, int]:
    """The model for all groups, and the same in a peer's format; bytes by name."""
    import weightlift as wl

    for name, nbytes in (("model", size), ("far", max(size // 8, 4 << 20))):
        wl.save(llama(nbytes), nginx.files / f"{name}.safetensors", durable=False)
    (nginx.files / "bucket").mkdir()
    (nginx.files / "bucket" / "model.safetensors").hardlink_to(nginx.files / "model.safetensors")
    return {p.stem: p.stat().st_size for p in nginx.files.glob("*.safetensors")}


def make_tensorizer(nginx: wire.Nginx, size: int) -> bool:
    """The model in tensorizer's format, where it is installed."""
    try:
        import torch
        from tensorizer import TensorSerializer
    except ImportError:
        return False
    serializer = TensorSerializer(str(nginx.files / "model.tensors"))
    serializer.write_state_dict({k: torch.from_numpy(v) for k, v in llama(size).items()})
    serializer.close()
    return True


def check(params: dict[str, Any]) -> None:
    """What comes over the wire is what lies on the disk: outside the timing."""
    import numpy as np

    import weightlift as wl

    for key, (url, _) in params["targets"].items():
        local = wl.load(Path(params["files"]) / url.rpartition("/")[2])
        loaded = wl.load(url, **({"ca_file": params["ca"]} if key == "tls" else {}))
        assert list(loaded) == list(local)
        assert all(np.array_equal(loaded[name], array) for name, array in local.items()), url


def limits(rows: list[Row], nbytes: int) -> list[dict[str, Any]]:
    """Print what the claims' targets come to for the raw sockets themselves, which check and parse nothing."""
    done = [r for r in rows if not r.skipped]
    raw = next((r for r in done if r.case.role == "roofline"), None)
    if raw is None:
        print("  what the machine allows: not measured (the raw sockets were skipped)")
        return []
    cpu = statistics.median(raw.cpu) / (nbytes / GIB)
    mine = next(r for r in done if r.case.name == OURS)
    if raw.median > mine.median:
        print("  raw sockets were slower than weightlift.load: the machine was busy, and the limits below are too low")
    print(
        f"  what the machine allows: raw sockets take {cpu:.2f} client CPU s/GiB (the target is {CPU_TARGET}), and are"
    )
    records = [{"limit": "client CPU s/GiB", "value": cpu, "target": CPU_TARGET}]
    for row in sorted((r for r in done if r.case.role in ("peer", "tool")), key=lambda r: r.median):
        most, have = row.median / raw.median, row.median / mine.median
        short = f"; the target, {PEER_TARGET}, is beyond them" if most < PEER_TARGET else ""
        print(f"    {most:5.2f} x {row.case.name} (weightlift.load is {have:.2f} x{short}) [{row.case.guarantees}]")
        records.append({"limit": f"x {row.case.name}", "value": most, "reached": have, "target": PEER_TARGET})
    return records


def best_peer(rows: list[Row], ends: tuple[str, ...] = ("arrays", "tensors")) -> str:
    """The fastest that ends with what can be used as ours: owned arrays, which can be written."""
    done = [r for r in rows if r.case.role == "peer" and not r.skipped and r.case.guarantees in ends]
    return min(done, key=lambda r: r.median).case.name if done else ""


def claims(groups: dict[str, list[Row]], nbytes: int) -> list[dict[str, Any]]:
    """Claim 5, and what distance must not cost; of the groups that were run."""
    records = claims_plain(groups[PLAIN], nbytes) if PLAIN in groups else []
    if TLS in groups:
        records.append(claim("TLS, x best peer", ratio(groups[TLS], OURS, best_peer(groups[TLS])), 1.0))
    if FAR in groups:
        records.append(claim("20 ms away, x a single stream", ratio(groups[FAR], OURS, "curl to nothing"), 3.0))
    return records


def claims_plain(plain: list[Row], nbytes: int) -> list[dict[str, Any]]:
    best, bare = best_peer(plain), best_peer(plain, ("bytes",))
    print(f"  the best that leaves bytes: {bare}; weightlift.load is {ratio(plain, OURS, bare) or 0:.2f} x")
    mine = next(r for r in plain if r.case.name == OURS)
    cpu = statistics.median(mine.cpu) / (nbytes / GIB)
    unverified = ratio(plain, OURS, "weightlift.load(verify=False)")
    return [
        claim("of the raw-socket roofline", ratio(plain, OURS, "roofline: raw sockets, huge pages"), 0.85),
        claim(f"x best peer ({best})", ratio(plain, OURS, best), PEER_TARGET),
        claim("client CPU s/GiB", cpu, CPU_TARGET, at_most=True),
        claim("verification, time", unverified and 1 / unverified, 1.05, at_most=True),
    ]


def main() -> None:
    if "--gib" in sys.argv:
        at = sys.argv.index("--gib")
        sys.argv[at : at + 2] = ["--size", str(int(float(sys.argv[at + 1]) * GIB))]
    args = arguments(__doc__ or "", 512 << 20, 8 << 20, parts=list(GROUPS))
    wire.without_proxies()
    groups: dict[str, list[Row]] = {}
    records: list[dict[str, Any]] = []
    with Workspace(args) as directory:
        try:
            server = wire.serve(directory / "nginx")
            with server as nginx, wire.relay(nginx.plain, round_trip=ROUND_TRIP, rate=RATE) as far:
                sizes = make_files(nginx, args.size)
                params: dict[str, Any] = {
                    "directory": str(directory), "files": str(nginx.files), "ca": str(nginx.ca_file),
                    "tensorizer": make_tensorizer(nginx, args.size),
                    "targets": {
                        "plain": (nginx.url("model.safetensors"), sizes["model"]),
                        "tls": (nginx.url("model.safetensors", tls=True), sizes["model"]),
                        "far": (f"http://127.0.0.1:{far}/far.safetensors", sizes["far"]),
                    },
                }  # fmt: skip
                check(params)
                for group in (GROUPS[name] for name in args.only or GROUPS):
                    rows = measure(
                        "http_read", cases(group), params, args.rounds, warmup=args.warmup, memory=args.memory
                    )
                    nbytes = sizes["far" if group == FAR else "model"]
                    records += table(f"HTTP to memory, {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
                    groups[group] = rows
        except wire.Unavailable as error:
            wire.skip(error)
    records += claims(groups, sizes["model"])
    if PLAIN in groups:
        records += limits(groups[PLAIN], sizes["model"])
    finish(args, "http_read", records)


if __name__ == "__main__":
    main()
