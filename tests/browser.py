#!/usr/bin/env python3
"""The page for people in a real browser (headless Chromium), before a gateway under load.

    tests/browser.py [PATH OF wawp-gateway] [--pictures DIRECTORY]

Needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver) and a built program. Says what holds; exits 1 where something does
not. Everything runs on 127.0.0.1, for some 30 seconds. With --pictures it leaves a screenshot of each look.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "browser-test-token"
# Long enough for two polls of the page (every 2 s) after it was loaded.
LOOK_S = 6
TIMEOUT_S = 120


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default=ROOT / "target/debug/wawp-gateway")
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        sys.exit("chromium or chromedriver is missing; Debian: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        scratch = pathlib.Path(scratch)
        programs = Programs(arguments.program, scratch)
        browser = None
        try:
            browser = Browser(chromium, driver, scratch)
            look(programs, browser, arguments.pictures)
        finally:
            if browser is not None:
                browser.end()
            programs.end()
    print("the page works")


def look(programs, browser, pictures):
    page = f"http://{programs.admin}/"
    load = Load(programs.gateway)
    load.start()
    try:
        time.sleep(1)
        dom, console, urls = browser.look(page)
        figures = figures_of(dom)
        check("the page says that the gateway serves", figures["state"] == "serving", figures)
        check("its script has taken over", "per second" in text_of(dom, "calls-label"), figures)
        check("requests from apps move", number(figures["calls"]) > 0, figures)
        check("upstream calls move", number(figures["upstream"]) > 0, figures)
        check("merging shows", number(figures["factor"]) > 1, figures)
        check("an instance is named with its bucket", re.search(r'<th[^>]*>123</th>.*?<meter', dom, re.S), dom)
        check("a failure is named", "gateway: rate_limited" in dom, dom)
        check("the console is silent", not console, console)
        host = urllib.parse.urlsplit(page).netloc
        foreign = [url for url in urls if urllib.parse.urlsplit(url).netloc != host]
        check("no other host was contacted", urls and not foreign, foreign or "no request at all")
        check("the figures are fetched again and again", sum(url.endswith("/status") for url in urls) >= 2, urls)
        check("no secret on it", TOKEN not in dom, dom)

        dom, console, urls = browser.look(page, scripts=False)
        figures = figures_of(dom)
        check("without scripts: the state is shown", figures["state"] == "serving", figures)
        check("without scripts: totals since the start", number(figures["calls"]) > 10, figures)
        check("without scripts: the bucket", re.search(r'<th[^>]*>123</th>.*?\d+ of 20', dom, re.S), dom)
        check("without scripts: no figures are fetched", not any(url.endswith("/status") for url in urls), urls)
        for name, size, dark, scripts in [
            ("light", (1280, 1000), False, True),
            ("dark", (1280, 1000), True, True),
            ("phone", (390, 844), False, True),
            ("phone-dark", (390, 844), True, True),
            ("no-scripts", (1280, 1000), False, False),
        ] if pictures else [("phone", (390, 844), False, True)]:
            browser.look(page, scripts, dark, size)
            check(f"{name}: nothing is wider than the screen", browser.width() <= size[0], browser.width())
            if pictures:
                pictures.mkdir(parents=True, exist_ok=True)
                browser.picture(pictures / f"{name}.png")
    finally:
        load.end()


def check(what, holds, evidence):
    if not holds:
        sys.exit(f"NOT SO: {what}\n{str(evidence)[:8000]}")
    print(f"  {what}")


def text_of(dom, identity):
    found = re.search(rf'id="{identity}"[^>]*>([^<]*)<', dom)
    return found.group(1) if found else ""


def figures_of(dom):
    return {name: text_of(dom, name) for name in ["state", "calls", "upstream", "factor", "saved", "in_flight"]}


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return -1.0


class Browser:
    """Headless Chromium with a profile of its own, steered through chromedriver (W3C WebDriver)."""

    def __init__(self, chromium, driver, scratch):
        port = free_port()
        self.driver = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = f"127.0.0.1:{port}"
        wait_for(self.address)
        options = {"binary": chromium, "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars",
            # Whatever is asked for elsewhere fails, and is seen in the record all the same.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={scratch / 'profile'}",
        ]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = ""
        self.session = "/" + self.ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def ask(self, what, body=None, method=None):
        line = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
        method = method or ("GET" if body is None else "POST")
        line.request(method, f"/session{self.session}{what}", None if body is None else json.dumps(body))
        value = json.loads(line.getresponse().read())["value"]
        line.close()
        if isinstance(value, dict) and "error" in value:
            sys.exit(f"the browser refuses {what}: {value['message']}")
        return value

    def tell(self, command, **parameters):
        """A command of the DevTools protocol."""
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, page, scripts=True, dark=False, size=(1280, 1000)):
        """Loads the page and looks again some seconds later: the document, the console, every URL that was asked for."""
        self.tell("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Emulation.setDeviceMetricsOverride",
                  width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 600)
        self.logged("performance"), self.logged("browser")
        self.ask("/url", {"url": page})
        time.sleep(LOOK_S)
        console = [entry["message"] for entry in self.logged("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.logged("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return self.ask("/source"), console, [url for url in urls if not url.startswith("data:")]

    def logged(self, kind):
        return self.ask("/se/log", {"type": kind})

    def picture(self, path):
        """The whole page, however long."""
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def width(self):
        """How wide the page has become."""
        return self.tell("Page.getLayoutMetrics")["cssContentSize"]["width"]

    def end(self):
        if self.session:
            self.ask("", method="DELETE")
        self.driver.terminate()
        self.driver.wait(10)


class Programs:
    """The stand-in for the API, and a gateway before it."""

    def __init__(self, program, scratch):
        self.running = []
        api = f"127.0.0.1:{free_port()}"
        self.begin(program, scratch / "sandbox.log", ["sandbox", "--listen", api, "--latency", "20ms"])
        wait_for(api)
        log = scratch / "gateway.log"
        self.begin(program, log, [
            "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", f"http://{api}",
        ])
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(r"serving address=(\S+) admin=(\S+)", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))):
            if time.monotonic() > deadline:
                sys.exit(f"the gateway does not serve:\n{log.read_text()}")
            time.sleep(0.05)
        self.gateway, self.admin = found.groups()

    def begin(self, program, log, arguments):
        environment = {**os.environ, "NO_COLOR": "1"}
        with log.open("w") as output:
            self.running.append(subprocess.Popen(
                [program, *arguments], stdout=subprocess.DEVNULL, stderr=output, env=environment))

    def end(self):
        for running in reversed(self.running):
            running.terminate()
        for running in self.running:
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()


class Load:
    """About a hundred requests per second: receipts that merge, and requests that are sometimes rejected."""

    def __init__(self, gateway):
        self.gateway, self.is_over = gateway, threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(index,)) for index in range(8)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def work(self, index):
        line = http.client.HTTPConnection(self.gateway, timeout=30)
        turn = 0
        while not self.is_over.wait(0.05):
            turn += 1
            if index == 7:
                # Sixty requests per second for an instance that may have ten: some wait, some are rejected.
                for _ in range(3):
                    threading.Thread(target=self.once).start()
                continue
            body = json.dumps({"instance_id": "123", "access_token": TOKEN, "chatId": "1@c.us",
                               "messageIds": [f"false_1@c.us_{index}{turn}"]})
            line.request("POST", "/v2/send/seen", body, {"Content-Type": "application/json"})
            line.getresponse().read()

    def once(self):
        line = http.client.HTTPConnection(self.gateway, timeout=30)
        query = urllib.parse.urlencode({"instance_id": "flood", "access_token": TOKEN})
        try:
            line.request("GET", f"/v2/session/info?{query}")
            line.getresponse().read()
        except OSError:
            pass
        finally:
            line.close()

    def end(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address):
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"no response from {address}")
            time.sleep(0.05)


if __name__ == "__main__":
    main()
