"""The page of runs in a real browser: every view at two widths, light and dark, without a word on the console."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

from nemo_cascade.view.server import serving
from tests.support.decided_run import decided_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VIEWS = {"scores": "math_rl", "curves": "Reward", "time": "generate", "rollouts": "prompt", "prompts": "math/0",
         "ledger": "run started"}  # fmt: skip
SERIOUS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One tab, driven by Chromium's own protocol."""

    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(timeout=120))).get("id") != self.number:
            self.events.append(message)
        return message.get("result", {})

    def value(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"{script}\n{self.value('document.body.innerText')}"
            time.sleep(0.1)


@contextmanager
def opened(folder):
    """Start Chromium without a window; yields its tab."""
    client = pytest.importorskip("websockets.sync.client")
    line = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen([*line, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        said = next(text for text in process.stderr if "DevTools listening" in text)
        port = said.rpartition("ws://127.0.0.1:")[2].partition("/")[0]
        threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with client.connect(address, max_size=None) as socket:
            tab = Browser(socket)
            for domain in ("Runtime", "Log", "Page"):
                tab.call(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_every_view_fits_and_the_console_stays_empty(tmp_path):
    run = decided_run(tmp_path / "runs")
    with serving([run.path], 0) as server, opened(tmp_path / "profile") as tab:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/"
        tab.call("Page.navigate", url=page)
        for scheme in ("light", "dark"):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width in (1400, 420):
                tab.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                )
                tab.until("document.querySelectorAll('#tabs button').length > 0")
                for view, words in VIEWS.items():
                    tab.value(f"document.querySelector('[data-tab={view}]').click()")
                    tab.until(f"document.querySelector('main').innerText.includes({json.dumps(words)})")
                    wide = tab.value("document.documentElement.scrollWidth")
                    assert wide <= width, f"{view} at {width}: {wide}"
        for key in ("4", "j", "d", "k"):
            tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        tab.until("document.querySelector('main').innerText.includes('Difference')")
        server.shutdown()
        assert [event for event in tab.events if event.get("method") in SERIOUS] == []
