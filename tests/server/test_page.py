"""The page in real Chromium: upload, view, verify, rename, delete, with mouse, keyboard and on a phone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.browser import PHONE, Open, Tab, model_files, playwright_or_skip
from tests.server.support import HIDDEN, Server, model_artifacts, names_in, same_weights

import weightlift as wl

playwright_or_skip()

Make = Callable[..., Path]
Serve = Callable[..., Server]


# ---- upload ------------------------------------------------------------------------------------------------
def test_upload_by_the_picker(tab: Open, server: Server, make_model: Make) -> None:
    sent = make_model(1, 16, 4, shard_size=100)
    t = tab(server).open()
    assert "There is no model yet" in t.page.inner_text("main")
    t.page.set_input_files("#picker", model_files(sent))
    t.page.fill("#upload-name", "first net")
    t.press("Upload")
    t.toast("“first net” is uploaded.")
    t.page.wait_for_selector("a:has-text('first net')")
    (row,) = t.rows("Models on the server")
    assert row[:4] == ["first net", "layers-model", "4", "float32"] and row[5] == "checksums"
    assert same_weights(wl.load_model(server.root / "first net").weights, model_artifacts(1, 16, 4).weights)


DROP = """([files, target]) => {
  const data = new DataTransfer();
  for (const [name, base64] of files) {
    data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
  }
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    document.querySelector(target).dispatchEvent(
      new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""


def drop(t: Tab, folder: Path, *names: str) -> None:
    import base64

    files = [[n, base64.b64encode((folder / n).read_bytes()).decode()] for n in names]
    t.page.evaluate(DROP, [files, ".drop"])


def test_upload_by_drag_and_drop_in_two_steps(tab: Open, server: Server, make_model: Make) -> None:
    sent = make_model(2)
    t = tab(server).open()
    drop(t, sent, "model.json")
    t.page.wait_for_selector(".plan :text('weights.bin')")
    assert "needs one more file" in t.page.inner_text(".plan")
    drop(t, sent, "weights.bin")
    t.page.wait_for_selector("#upload-name")
    assert t.page.input_value("#upload-name") == "model"
    t.page.press("#upload-name", "Enter")
    t.toast("“model” is uploaded.")
    assert same_weights(wl.load_model(server.root / "model").weights, model_artifacts(2).weights)


def test_upload_of_single_files(tab: Open, server: Server, tmp_path: Path) -> None:
    wl.save({"w": np.arange(9)}, tmp_path / "x.safetensors")
    wl.save(np.arange(3), tmp_path / "y.npy", checksums=False)
    t = tab(server).open()
    t.page.set_input_files("#picker", [str(tmp_path / "x.safetensors"), str(tmp_path / "y.npy")])
    t.press("Upload")
    t.toast("y.npy is uploaded.")
    t.page.wait_for_selector("a:has-text('y.npy')")
    assert [r[0] for r in t.rows("Files of weights")] == ["x.safetensors", "y.npy"]
    t.page.click("a:has-text('x.safetensors')")
    t.page.wait_for_selector("h1:has-text('x.safetensors')")
    t.press("w")
    t.page.wait_for_selector(".histogram")


def test_uploads_that_cannot_be(tab: Open, server: Server, make_model: Make, tmp_path: Path) -> None:
    sent = make_model(1)
    t = tab(server).open()

    def says(*files: Path) -> str:
        t.page.set_input_files("#picker", [str(f) for f in files])
        text: str = t.page.inner_text(".plan [role=alert]")
        t.press("Clear")
        return text

    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "notes.txt").write_text("x")
    assert "not valid JSON" in says(tmp_path / "bad.json")
    assert "no file of weights" in says(tmp_path / "notes.txt")
    assert "no file of weights" in says(sent / "weights.bin")
    assert "not in the manifest" in says(sent / "model.json", tmp_path / "notes.txt")
    (sent / "weights.bin").write_bytes(b"short")
    t.page.set_input_files("#picker", model_files(sent))
    t.press("Upload")
    t.toast("but 5 arrived")
    t.expect_complaint("422")
    assert names_in(server.root) == [HIDDEN]


def test_an_upload_can_be_cancelled(tab: Open, server: Server, tmp_path: Path) -> None:
    wl.save({"w": np.zeros(4 << 20, "f4")}, tmp_path / "big.safetensors")
    t = tab(server).open()
    cdp = t.page.context.new_cdp_session(t.page)
    cdp.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1 << 20},
    )
    t.page.set_input_files("#picker", str(tmp_path / "big.safetensors"))
    t.press("Upload")
    t.until("document.querySelector('progress')?.value > 0")
    t.press("Cancel")
    t.toast("cancelled")
    server.wait_until_clean()
    assert names_in(server.root) == [HIDDEN]


def test_a_model_is_replaced_only_when_that_is_confirmed(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("m", make_model(1))
    t = tab(server).open()
    t.page.set_input_files("#picker", model_files(make_model(2)))
    t.page.fill("#upload-name", "m")
    t.press("Upload")
    t.answer("Cancel")
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(1).weights)
    t.press("Upload")
    t.answer("Replace it")
    t.toast("“m” is uploaded.")
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(2).weights)
    t.expect_complaint("412")


# ---- view --------------------------------------------------------------------------------------------------
def test_the_view_of_a_model(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("net", make_model(1, 32, 8, quantize={"uint8": "*kernel"}, metadata={"note": "größe"}))
    t = tab(server).open("#/models/net")
    facts = t.page.inner_text("dl.facts")
    assert "layers-model" in facts and str(3 * 32 + 32 + 32 * 8 + 8) in facts
    assert t.rows("Layers")[0][:2] == ["dense_0", "Dense"]
    tensors = t.rows("Tensors")
    assert tensors[0][:5] == ["dense_0/kernel", "float32", "3 × 32", "384 B", "uint8, 96 B"]
    t.page.click("summary:has-text('Metadata')")
    assert "größe" in t.page.inner_text("details:has-text('Metadata') pre")
    t.press("dense_0/kernel")
    t.page.wait_for_selector(".histogram")
    wanted = server.json("/api/models/net/histogram?weight=dense_0/kernel")["histogram"]["counts"]
    titles = t.page.locator(".histogram title").all_text_contents()
    assert [int(title.rpartition(": ")[2].replace(",", "")) for title in titles] == wanted
    heights = [float(b.get_attribute("height")) for b in t.page.locator(".histogram .column").all()]
    assert np.argmax(heights) == np.argmax(wanted) and len(heights) == 32
    assert t.page.locator(".histogram").get_attribute("aria-label").startswith("Histogram of dense_0/kernel")
    t.press("dense_0/kernel")
    assert not t.page.locator(".histogram").is_visible()


def test_many_tensors_are_shown_in_pieces_and_filtered(tab: Open, server: Server) -> None:
    wl.save({f"layer{i}.w": np.ones(2, "f4") for i in range(1500)}, server.root / "many.safetensors")
    t = tab(server).open("#/files/many.safetensors")
    assert len(t.rows("Tensors")) == 200
    t.page.click("button:has-text('Show more')")
    assert len(t.rows("Tensors")) == 1200
    t.page.fill("#search", "layer149 w")
    assert [r[0] for r in t.rows("Tensors")] == ["layer149.w", *(f"layer149{i}.w" for i in range(10))]
    assert "11 of 1,500 tensors" in t.page.inner_text("main")
    t.page.fill("#search", "none")
    assert "No tensor has such a name" in t.page.inner_text("main")


def test_verify(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("net", make_model(1))
    t = tab(server).open("#/models/net")
    assert t.page.inner_text(".title-line .badge") == "checksums"
    t.press("Verify")
    t.toast("All 4 checksums match")
    t.page.wait_for_selector(".title-line .badge.good:has-text('verified')")
    weights = server.root / "net/weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    t.press("Verify")
    t.toast("Damaged: dense_0/kernel")
    t.page.wait_for_selector(".title-line .badge.bad:has-text('corrupt')")


def test_a_broken_model_can_be_seen_and_deleted(tab: Open, server: Server) -> None:
    (server.root / "broken").mkdir()
    (server.root / "broken/model.json").write_text("{")
    t = tab(server).open()
    assert t.rows("Models on the server")[0][5] == "broken"
    t.page.click("a:has-text('broken')")
    t.page.wait_for_selector("[role=alert]:has-text('not valid JSON')")
    t.press("Delete")
    t.answer("Delete")
    t.toast("“broken” is deleted.")
    assert names_in(server.root) == [HIDDEN]
    t.expect_complaint("422")


def test_rename_duplicate_and_delete(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("a", make_model(1))
    t = tab(server).open("#/models/a")
    t.press("Rename")
    t.page.fill("dialog input", "b é")
    t.answer("Rename")
    t.page.wait_for_selector("h1:has-text('b é')")
    t.press("Duplicate")
    assert t.page.input_value("dialog input") == "b é copy"
    t.page.press("dialog input", "Enter")
    t.page.wait_for_selector("h1:has-text('b é copy')")
    assert names_in(server.root) == [HIDDEN, "b é", "b é copy"]
    t.press("Delete")
    t.page.keyboard.press("Escape")
    t.page.wait_for_selector("dialog", state="detached")
    assert names_in(server.root) == [HIDDEN, "b é", "b é copy"]
    t.press("Delete")
    t.answer("Delete")
    t.page.wait_for_selector("h2:has-text('On the server')")
    assert names_in(server.root) == [HIDDEN, "b é"]
    t.open("#/models/b%20%C3%A9").press("Rename")
    t.page.fill("dialog input", "../x")
    t.page.keyboard.press("Enter")
    t.toast("no name for a model")
    t.expect_complaint("400")


def test_download(tab: Open, server: Server, make_model: Make, tmp_path: Path) -> None:
    server.upload("net", make_model(1))
    t = tab(server).open("#/models/net")
    with t.page.expect_download() as downloading:
        t.press("Download")
    assert downloading.value.suggested_filename == "net.zip"
    downloading.value.save_as(tmp_path / "net.zip")
    with zipfile.ZipFile(tmp_path / "net.zip") as archive:
        archive.extractall(tmp_path / "out")
    assert same_weights(wl.load_model(tmp_path / "out/net").weights, model_artifacts(1).weights)


def test_the_code_to_load_it(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("my%20net", make_model(1))
    t = tab(server, permissions=["clipboard-read", "clipboard-write"]).open("#/models/my%20net")
    t.press("Copy the code")
    t.toast("Copied.")
    code = t.page.evaluate("navigator.clipboard.readText()")
    assert f'wl.load_model("{server.url}/models/my%20net/model.json")' in code
    compile(code, "snippet", "exec")
    t.page.get_by_role("tab", name="Python").press("ArrowRight")
    assert t.page.evaluate("document.activeElement.textContent") == "TensorFlow.js"
    assert f"tf.loadLayersModel('{server.url}/models/my%20net/model.json')" in t.page.inner_text("#snippet")


# ---- tokens and rights -------------------------------------------------------------------------------------
def test_the_token_is_asked_for_and_kept_for_the_tab(tab: Open, serve: Serve, make_model: Make) -> None:
    server = serve("--token", "secret", "--private", "--rate", "0")
    server.upload("net", make_model(1), "-H", "Authorization: Bearer secret")
    t = tab(server)
    t.page.goto(server.url)
    t.page.fill("dialog input", "secret")
    t.page.keyboard.press("Enter")
    t.page.wait_for_selector("a:has-text('net')")
    assert t.page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    t.page.reload()
    t.page.click("a:has-text('net')")
    t.press("dense_0/kernel")
    t.page.wait_for_selector(".histogram")
    with t.page.expect_download() as downloading:
        t.press("Download")
    assert zipfile.is_zipfile(downloading.value.path())
    t.press("Token")
    t.page.fill("dialog input", "wrong")
    t.page.keyboard.press("Enter")
    t.page.wait_for_selector("dialog:has-text('asks for its token')")
    t.page.keyboard.press("Escape")
    t.page.wait_for_selector("[role=alert]:has-text('token')")
    t.expect_complaint("401")


def test_a_read_only_server_offers_no_changes(tab: Open, serve: Serve) -> None:
    place = serve("--rate", "0").root
    wl.save_model(model_artifacts(1), place / "net")
    server = serve("--read-only", "--rate", "0")
    t = tab(server).open()
    assert t.page.locator(".drop").count() == 0
    t.page.click("a:has-text('net')")
    t.page.wait_for_selector("h1:has-text('net')")
    names = t.page.locator(".actions-of button").all_inner_texts()
    assert names == ["Verify", "Download", "Copy to IndexedDB", "Copy to localStorage"]


def test_names_from_strangers_are_text(tab: Open, server: Server) -> None:
    evil = "<img src=x onerror=alert(1)>"
    artifacts = model_artifacts(1)
    artifacts.weights = {evil: np.ones(3, "f4"), **artifacts.weights}
    artifacts.user_defined_metadata = {evil: evil}
    artifacts.generated_by = evil
    artifacts.model_topology["config"]["name"] = evil
    wl.save_model(artifacts, server.root / "net")
    t = tab(server).open("#/models/net")
    t.page.click("summary:has-text('Metadata')")
    assert t.page.locator("img").count() == 1  # the brand's
    assert evil in t.page.inner_text("main")
    t.open("#/models/" + "%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert t.page.locator("main img").count() == 0
    t.expect_complaint("400")


# ---- for everybody -----------------------------------------------------------------------------------------
UNNAMED = """() => [...document.querySelectorAll('a, button, input, progress, table, dialog, svg')].filter((e) => {
  const label = e.id && document.querySelector(`label[for="${e.id}"]`);
  const by = e.getAttribute('aria-labelledby');
  const name = e.getAttribute('aria-label') || (by && document.getElementById(by)?.textContent)
      || (label && label.textContent) || e.textContent || e.querySelector('img')?.alt;
  return !(name || '').trim();
}).map((e) => e.outerHTML.slice(0, 100))"""

CONTRAST = """() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const worst = [];
  const kinds = 'h1, h2, p, a, button, .button, td, th, dt, dd, .badge, code, summary, .hint';
  for (const e of document.querySelectorAll(kinds)) {
    if (!e.innerText || !e.innerText.trim() || e.disabled || e.closest('[aria-busy]')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) worst.push(`${ratio.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast(tab: Open, server: Server, make_model: Make, scheme: str) -> None:
    server.upload("net", make_model(1))
    (server.root / "broken").mkdir()
    (server.root / "broken/model.json").write_text("{")
    t = tab(server, color_scheme=scheme, reduced_motion="reduce").open()
    assert t.page.evaluate(UNNAMED) == []
    assert t.page.evaluate(CONTRAST) == []
    t.open("#/models/net").press("dense_0/kernel")
    t.page.wait_for_selector(".histogram")
    assert t.page.evaluate(UNNAMED) == []
    assert t.page.evaluate(CONTRAST) == []
    t.press("Delete")
    assert t.page.evaluate(UNNAMED) == []


def focused(t: Tab) -> str:
    """What the focused element is called."""
    text: str = t.page.evaluate(
        "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"
    )
    return text


def tab_to(t: Tab, name: str) -> None:
    """Press Tab until the element of that name has the focus."""
    for _ in range(60):
        t.page.keyboard.press("Tab")
        if focused(t) == name:
            return
    raise AssertionError(f"{name!r} is not reached by Tab")


def test_everything_by_keyboard(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("net", make_model(1))
    t = tab(server).open()
    choosers: list[Any] = []
    # Long before the key: a key that overtakes the request to be told opens a chooser that nobody hears of.
    t.page.on("filechooser", lambda chooser: choosers.append(chooser))
    key = t.page.keyboard.press
    key("Tab")
    assert focused(t) == "Skip to the content"
    key("Enter")
    assert t.page.evaluate("document.activeElement.id") == "main"
    key("Tab")
    assert t.page.evaluate("document.activeElement.id") == "picker"
    key("Enter")
    t.until(lambda: len(choosers) == 1)
    tab_to(t, "net")
    key("Enter")
    t.until("document.activeElement.tagName === 'H1' && document.activeElement.textContent === 'net'")
    tab_to(t, "Verify")
    key("Enter")
    t.toast("All 4 checksums match")
    t.page.wait_for_selector(".badge:has-text('verified')")
    assert focused(t) == "Verify"  # though the view was drawn anew
    tab_to(t, "Python")
    key("ArrowRight")
    assert focused(t) == "TensorFlow.js"
    tab_to(t, "dense_0/kernel")
    key("Space")
    t.page.wait_for_selector(".histogram")
    t.open("#/models/net")
    tab_to(t, "Delete")
    key("Enter")
    t.page.wait_for_selector("dialog[open]")
    assert focused(t) == "Cancel"  # what cannot be undone is not one key away
    key("Tab")
    key("Enter")
    t.toast("“net” is deleted.")
    assert names_in(server.root) == [HIDDEN]


def test_on_a_phone(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("a-model-with-a-rather-long-name-that-does-not-fit-the-screen-of-a-phone", make_model(1))
    t = tab(server, viewport=PHONE, has_touch=True, is_mobile=True).open()
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    assert t.page.evaluate(fits)
    t.page.tap("a:has-text('a-model-with')")
    t.page.wait_for_selector("h1:has-text('a-model-with')")
    t.page.get_by_role("button", name="dense_0/kernel").tap()
    t.page.wait_for_selector(".histogram")
    assert t.page.evaluate(fits)
    small = """() => [...document.querySelectorAll('main button')]
        .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 39).map((e) => e.textContent)"""
    assert t.page.evaluate(small) == []
    assert t.page.locator("[role=columnheader]").count() > 0 and t.page.locator("table[role=table]").count() > 0


def test_the_page_is_served_with_its_policy(server: Server) -> None:
    answer = server.curl("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"http://" not in answer.body and b"https://" not in answer.body
    for name in ("app.js", "style.css", "icon.svg"):
        part = server.curl(f"/page/{name}")
        assert (
            part.status == 200 and part.headers["content-security-policy"] == answer.headers["content-security-policy"]
        )
        assert server.curl(f"/page/{name}", "-H", f"If-None-Match: {part.headers['etag']}").status == 304
    assert json.loads(server.curl("/page/none.js").body)["error"]
