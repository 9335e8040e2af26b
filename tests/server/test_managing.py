"""Models of a server, listed, copied, moved and removed by Weightlift's own client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.support import Server, model_artifacts, same_weights

import weightlift as wl

Serve = Callable[..., Server]


def test_models_of_a_server_are_listed_moved_and_removed(server: Server, tmp_path: Path) -> None:
    assert wl.list_models(server.url) == {}
    sent = model_artifacts(3, 50, 20)
    wl.save_model(sent, tmp_path / "m", quantize="uint8")
    wl.move_model(tmp_path / "m", f"{server.url}/models/my%20net")
    assert list(tmp_path.iterdir()) == []
    (url,) = wl.list_models(f"{server.url}/models/")
    assert url == f"{server.url}/models/my%20net/model.json"
    (info,) = wl.list_models(server.url).values()
    assert info.weight_data_bytes == sum(f.stat().st_size for f in (server.root / "my net").glob("*.bin"))
    wl.copy_model(url, "memory://copy")
    again = wl.load_model("memory://copy")
    assert again.weight_specs is not None and again.weight_specs[0]["quantization"]["dtype"] == "uint8"
    for twin in (url, f"{server.url}/models/my%20net", f"{server.url}/models/my%20net/"):
        with pytest.raises(wl.RoutingError, match="same place"):
            wl.move_model(url, twin)
    wl.move_model(url, tmp_path / "back")
    assert same_weights(wl.load_model(tmp_path / "back").weights, again.weights)
    assert wl.list_models(server.url) == {}
    with pytest.raises(wl.NotFoundError):
        wl.remove_model(url)


def test_a_move_that_the_server_refuses_keeps_the_original(serve: Serve) -> None:
    server = serve("--token", "secret", "--rate", "0")
    url = f"{server.url}/models/net"
    wl.save_model(model_artifacts(), wl.http(url, auth="secret"))
    with pytest.raises(wl.AccessError):
        wl.move_model(f"{url}/model.json", "memory://taken")
    assert len(wl.list_models(server.url)) == 1
    wl.move_model(f"{url}/model.json", "memory://taken", load_options={"auth": "secret"})
    assert wl.list_models(server.url) == {}
    with pytest.raises(wl.AccessError):
        wl.move_model("memory://taken", url)
    wl.move_model("memory://taken", url, save_options={"auth": "secret"})
    assert len(wl.list_models(server.url)) == 1
    wl.remove_model(f"{url}/model.json", auth="secret")
    assert wl.list_models(server.url) == {}


def test_other_servers_do_not_list(server: Server, tmp_path: Path) -> None:
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "14")
            self.end_headers()
            self.wfile.write(b'{"models": 33}')

        def log_message(self, *_: object) -> None: ...

    other = http.server.HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        with pytest.raises(wl.UnsupportedFeatureError, match="weightlift serve"):
            wl.list_models(f"http://user:secret@127.0.0.1:{other.server_port}/?token=secret")
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
