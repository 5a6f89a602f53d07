#!/usr/bin/env python3
"""The page for people in a real browser (headless Chromium), before a gateway under load.

    tests/browser.py [PATH OF wawp-gateway] [--pictures DIRECTORY]

Needs `chromium` (Debian: apt-get install chromium) and a built program. Says what holds; exits 1 where something does
not. Everything runs on 127.0.0.1, for some 30 seconds. With --pictures it leaves a screenshot of each look.
"""

import argparse
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
LOOK_MS = 8000
PATIENCE_S = 120


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default=ROOT / "target/debug/wawp-gateway")
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if browser is None:
        sys.exit("there is no chromium here; Debian, Ubuntu: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch:
        programs = Programs(arguments.program, pathlib.Path(scratch))
        try:
            look(programs, Browser(browser, pathlib.Path(scratch)), arguments.pictures)
        finally:
            programs.end()
    print("the page holds what it promises")


def look(programs, browser, pictures):
    page = f"http://{programs.admin}/"
    load = Load(programs.gateway)
    load.start()
    try:
        time.sleep(1)
        dom, console, urls = browser.dom(page, scripts=True)
        figures = figures_of(dom)
        check("the page says that the gateway serves", figures["state"] == "serving", figures)
        check("its script has taken over", "a second" in text_of(dom, "calls-label"), figures)
        check("calls from apps move", number(figures["calls"]) > 0, figures)
        check("calls upstream move", number(figures["upstream"]) > 0, figures)
        check("merging shows", number(figures["factor"]) > 1, figures)
        check("an instance is named with its bucket", re.search(r'<th[^>]*>123</th>.*?<meter', dom, re.S), dom)
        check("a failure is named", "ours: rate_limited" in dom, dom)
        check("a forged instance stays text", "<b>bold</b>" not in dom and "&lt;b&gt;bold&lt;/b&gt;" in dom, dom)
        check("the console is silent", not console, console)
        host = urllib.parse.urlsplit(page).netloc
        foreign = [url for url in urls if urllib.parse.urlsplit(url).netloc != host]
        check("nobody else was asked", urls and not foreign, foreign or "no request at all")
        check("it was asked again and again", sum(url.endswith("/status") for url in urls) >= 2, urls)
        check("no secret on it", TOKEN not in dom, dom)

        dom, console, urls = browser.dom(page, scripts=False)
        figures = figures_of(dom)
        check("without scripts: the state is told", figures["state"] == "serving", figures)
        check("without scripts: sums since the start", number(figures["calls"]) > 10, figures)
        check("without scripts: the bucket", re.search(r'<th[^>]*>123</th>.*?\d+ of 20', dom, re.S), dom)
        check("without scripts: it asked for no figures", not any(url.endswith("/status") for url in urls), urls)
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            for name, size, flags in [
                ("light", "1280,1000", []),
                ("dark", "1280,1000", ["--blink-settings=preferredColorScheme=0"]),
                ("phone", "500,1600", []),
                ("phone-dark", "500,1600", ["--blink-settings=preferredColorScheme=0"]),
                ("no-scripts", "1280,1000", ["--blink-settings=scriptEnabled=false"]),
            ]:
                picture = pictures.resolve() / f"{name}.png"
                browser.run(page, [f"--screenshot={picture}", f"--window-size={size}", "--hide-scrollbars", *flags])
                check(f"a picture: {name}", picture.exists(), picture)
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
    """Headless Chromium, each time with a profile of its own."""

    def __init__(self, program, scratch):
        self.program, self.scratch = program, scratch

    def run(self, page, flags):
        with tempfile.TemporaryDirectory(dir=self.scratch, ignore_cleanup_errors=True) as profile:
            command = [
                self.program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-default-apps", "--enable-logging=stderr", f"--timeout={LOOK_MS}",
                # Whatever is asked for elsewhere fails, and is seen in the record all the same.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={profile}", *flags, page,
            ]
            return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def dom(self, page, scripts):
        """The document some seconds after it was loaded, what the console says, and every URL that the page asked for."""
        record = self.scratch / "net.json"
        record.unlink(missing_ok=True)
        flags = ["--dump-dom", f"--log-net-log={record}"]
        if not scripts:
            flags.append("--blink-settings=scriptEnabled=false")
        ended = self.run(page, flags)
        console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
        return ended.stdout, console, asked(record)


def asked(record):
    """The URLs in Chromium's own record of what it asked the network for."""
    text = record.read_text()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        # A browser that was ended has not closed the list.
        events = json.loads(text.rstrip().rstrip(",") + "]}")
    begins = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    urls = [event["params"]["url"] for event in events["events"]
            if event["type"] == begins and "url" in event.get("params", {})]
    return [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]


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
        deadline = time.monotonic() + PATIENCE_S
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
    """Receipts that merge and calls that are refused now and then, a hundred or so a second."""

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
            if index == 7 and turn % 2 == 0:
                # One after the other: beyond the budget of an instance of its own, so some are refused.
                instance = "<b>bold</b>" if turn % 20 == 0 else "flood"
                for _ in range(1 if turn % 20 == 0 else 4):
                    threading.Thread(target=self.once, args=(instance,)).start()
                continue
            body = json.dumps({"instance_id": "123", "access_token": TOKEN, "chatId": "1@c.us",
                               "messageIds": [f"false_1@c.us_{index}{turn}"]})
            line.request("POST", "/v2/send/seen", body, {"Content-Type": "application/json"})
            line.getresponse().read()

    def once(self, instance):
        line = http.client.HTTPConnection(self.gateway, timeout=30)
        query = urllib.parse.urlencode({"instance_id": instance, "access_token": TOKEN})
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
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nobody answers at {address}")
            time.sleep(0.05)


if __name__ == "__main__":
    main()
