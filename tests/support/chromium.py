"""One tab of a real browser, driven by Chromium's own protocol, with axe-core's accessibility check."""

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
AXE = Path(__file__).parents[2] / ".venv" / "browser" / "axe_playwright_python" / "axe.min.js"
SAID = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: make browser")


class Browser:
    """One tab."""

    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(timeout=120))).get("id") != self.number:
            self.events.append(message)
        return message.get("result", {})

    def value(self, script):
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (script[:200], found)
        return found["result"].get("value")

    def until(self, script, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"{script}\n{self.value('document.body.innerText')}"
            time.sleep(0.1)

    def open(self, address):
        self.call("Page.navigate", url=address)
        # The new document, not the old one that is still there for a moment.
        self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState == 'complete'")

    def shows(self, text):
        self.until(f"document.querySelector('main').innerText.includes({json.dumps(text)})")

    def looks(self, scheme, width):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def width(self):
        return self.value("document.documentElement.scrollWidth")

    def said(self):
        """Return all that came on the console."""
        return [event for event in self.events if event.get("method") in SAID]

    def findings(self):
        """Return what axe-core finds serious or critical: rule, how it fails, where."""
        if self.value("typeof axe") == "undefined":
            self.value(f"{AXE.read_text(encoding='utf-8')};null")
        told = self.value("axe.run(document, {resultTypes: ['violations']}).then((told) => told.violations)")
        return [
            (rule["id"], node["target"], node["failureSummary"])
            for rule in told
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]


@contextmanager
def opened(folder):
    """Start Chromium without a window; yields its tab."""
    client = pytest.importorskip("websockets.sync.client")
    line = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen([*line, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        told = next(text for text in process.stderr if "DevTools listening" in text)
        port = told.rpartition("ws://127.0.0.1:")[2].partition("/")[0]
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
