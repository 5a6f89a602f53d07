#!/usr/bin/env python3
"""The page for people in a real browser (headless Chromium), before a gateway with 30 instances and 5 tenants under load.

    tests/browser.py [PATH OF wawp-gateway] [--pictures DIRECTORY]

Needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver) and a built program. Says what holds; exits 1 where something does
not. Everything runs on 127.0.0.1, for about a minute. With --pictures it leaves the pictures that grafana/README.md shows.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from claims import free_port, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "browser-test-token"
TENANTS = ["acme", "bazaar", "clinic", "delta", "ecole"]
INSTANCES = [str(4001 + number) for number in range(30)]
# It sends more than its limit allows, its phone is not linked any more, and something else uses its number.
FLOODED, UNLINKED, PAUSED = "4017", "4022", "4009"
DESKTOP, PHONE = (1280, 800), (390, 844)
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
    load = Load(programs)
    load.start()

    def picture(name):
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            browser.picture(pictures / f"page-{name}.png")

    try:
        time.sleep(25)
        dom, console, urls = browser.look(page)
        figures = figures_of(dom)
        check("the page says that the gateway serves", figures["state"] == "serving", figures)
        check("all is well, and the page says so", "All is well." in dom and "30 instances" in dom, dom)
        check("requests from apps move", number(figures["calls"]) > 10, figures)
        check("merging shows", number(figures["factor"]) > 1 and number(figures["saved"]) > 10, figures)
        check("the console is silent", not console, console)
        host = urllib.parse.urlsplit(page).netloc
        foreign = [url for url in urls if urllib.parse.urlsplit(url).netloc != host]
        check("no other host was contacted", urls and not foreign, foreign or "no request at all")
        check("the page is fetched again and again", len(urls) >= 3, urls)
        check("no secret on it", TOKEN not in dom, dom)
        check("every tenant has its totals", all(f"?find={name}#" in dom for name in TENANTS), dom)
        check("at most twenty instances are listed, and two sums", browser.count("#rows tbody tr") == 22, dom)
        check("it is short on a desktop", browser.height() < 1600, browser.height())
        picture("calm")
        drawn = browser.count_points("polyline.in")
        browser.look(page, wait=0.5)
        check("a reload keeps the chart", browser.count_points("polyline.in") >= drawn > 10, drawn)

        load.trouble()
        # How soon depends on the machine. From the third 429 on, the API throttles the instance for the page, paused or not.
        wait_until("the problems begin", lambda: {(it["instance"], it["alert"]) for it in programs.status()["problems"]} >= {
            (FLOODED, "WawpGatewayRefusingCalls"), (UNLINKED, "WawpGatewayInstanceUnlinked"), (PAUSED, "WawpGatewayInstanceThrottled"),
        } and next(it for it in programs.status()["instances"] if it["instance"] == PAUSED)["throttled"] > 3)
        # Until the last of them is in the history of its instance, too.
        time.sleep(12)
        for name, size in [("desktop", DESKTOP), ("phone", PHONE)]:
            dom, console, _ = browser.look(page, size=size)
            check(f"{name}: the console is silent", not console, console)
            for instance, text in [(FLOODED, "Refusing requests"), (UNLINKED, "may not be linked"), (PAUSED, "by the API")]:
                line = browser.find(f"#problems li", [text, instance])
                check(f"{name}: {instance} and its problem are on the first screen", line and line["bottom"] < size[1], [line, dom])
            check(f"{name}: nothing is wider than the screen", browser.width() <= size[0], browser.width())
        check("phone: it is short", browser.height() < 4500, browser.height())
        picture("phone")
        dom, _, _ = browser.look(page)
        rows = browser.texts("#rows tbody th")
        check("instances with a problem come first, the worst at the top", rows[0] == UNLINKED and {FLOODED, PAUSED} <= set(rows[1:3]), rows)
        failures = " ".join(browser.texts("#failures tbody tr"))
        check("the latest failures name a 401 of the API and the gateway's own 429",
              "401" in failures and UNLINKED in failures and "gateway: rate_limited" in failures, failures)
        above = browser.find("#failures h2", ["Latest failures"])["bottom"] < browser.find("h2", ["Instances"])["bottom"]
        check("failures are above the instances", above, dom)
        picture("problem")
        for name, dark in [("light", False), ("dark", True)]:
            browser.look(page, dark=dark)
            faint = browser.faint_texts()
            check(f"{name}: every text has a contrast of 4.5 or more", not faint, faint)
        picture("dark")
        browser.search("4029")
        check("the search box finds an instance", browser.texts("#rows tbody th") == ["4029"], browser.texts("#rows tbody th"))
        browser.search("")
        check("an empty search shows all again", browser.count("#rows tbody tr") == 22, "")

        dom, _, urls = browser.look(page + "?find=acme", scripts=False)
        check("without scripts: a search by tenant", dom.count('scope="row" data-label="Instance"') == 6, dom)
        check("without scripts: the chart", re.search(r'<polyline class="in" points="[^"]{100,}"', dom), dom)
        check("without scripts: no figures are fetched", len(urls) == 1, urls)
        dom, _, _ = browser.look(page + "runbook", wait=0.5)
        check("the runbook has the sections", 'id="refusing-requests"' in dom and 'id="instance-unlinked"' in dom, dom)

        programs.observe()
        wait_until("the shadows are counted", lambda: all(programs.status()["observing"][it] > 50 for it in ["save", "delay", "reject"]))
        dom, _, _ = browser.look(page)
        banner = browser.texts("#observing")[0]
        would = [number(text) for text in browser.texts("#observing b")]
        check("observe mode: a banner says what enforcing would have done", "Observing only" in banner and len(would) == 3 and min(would) > 0, banner)
        check("observe mode: by instance", any("save" in text and "refuse" in text for text in browser.texts("#rows tbody tr")), dom)
        picture("observe")
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
        wait_for(port, TIMEOUT_S)
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

    def look(self, page, scripts=True, dark=False, size=DESKTOP, wait=LOOK_S):
        """Loads the page and looks again some seconds later: the document, the console, every URL that was asked for."""
        self.tell("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Emulation.setDeviceMetricsOverride",
                  width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 600)
        self.logged("performance"), self.logged("browser")
        self.ask("/url", {"url": page})
        time.sleep(wait)
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

    def height(self):
        return self.tell("Page.getLayoutMetrics")["cssContentSize"]["height"]

    def run(self, script, *arguments):
        return self.ask("/execute/sync", {"script": script, "args": list(arguments)})

    def texts(self, selector):
        """The texts of all elements, as they are shown."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(it => it.innerText)", selector)

    def count(self, selector):
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def count_points(self, selector):
        return self.run("return document.querySelector(arguments[0]).points.numberOfItems", selector)

    def find(self, selector, texts):
        """The place on the page of the first element with all these texts."""
        return self.run(
            "const found = [...document.querySelectorAll(arguments[0])].find(it => arguments[1].every(text => it.innerText.includes(text)));"
            "return found && found.getBoundingClientRect().toJSON()", selector, texts)

    def search(self, text):
        self.run("const box = document.getElementById('find'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))", text)
        time.sleep(1)

    def faint_texts(self):
        """Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""
        return self.run("""
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const light = (colour) => {
              const [r, g, b] = colour.slice(0, 3).map(it => (it /= 255) <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (it) => {
              for (; it; it = it.parentElement) {
                const colour = parse(getComputedStyle(it).backgroundColor);
                if (colour.length < 4 || colour[3] === 1) return colour;
              }
              return [255, 255, 255];
            };
            const faint = [];
            for (const it of document.body.querySelectorAll("*")) {
              if (![...it.childNodes].some(node => node.nodeType === 3 && node.data.trim()) || !it.offsetParent) continue;
              const [one, other] = [light(parse(getComputedStyle(it).color)), light(behind(it))].sort((a, b) => b - a);
              const contrast = (one + 0.05) / (other + 0.05);
              if (contrast < 4.5) faint.push([it.tagName, it.className, it.textContent.slice(0, 30), contrast]);
            }
            return faint;
        """)

    def end(self):
        if self.session:
            self.ask("", method="DELETE")
        self.driver.terminate()
        self.driver.wait(10)


class Programs:
    """The stand-in for the API, and a gateway before it with five tenants of six instances."""

    def __init__(self, program, scratch):
        self.running = []
        port = free_port()
        self.api = f"127.0.0.1:{port}"
        # More than the gateway lets through, so that only a number that something else uses is throttled.
        self.begin(program, scratch / "sandbox.log", ["sandbox", "--listen", self.api, "--latency", "20ms", "--rate", "15", "--burst", "40"])
        wait_for(port, TIMEOUT_S)
        self.settings = scratch / "gateway.toml"
        self.write_settings("")
        log = scratch / "gateway.log"
        self.begin(program, log, [
            "serve", "--config", str(self.settings), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", f"http://{self.api}",
        ])
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(r"serving address=(\S+) admin=(\S+)", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))):
            if time.monotonic() > deadline:
                sys.exit(f"the gateway does not serve:\n{log.read_text()}")
            time.sleep(0.05)
        self.gateway, self.admin = found.groups()

    def write_settings(self, modes):
        tenants = [f'[[tenant]]\nname = "{name}"\ninstances = {json.dumps(INSTANCES[6 * index:6 * index + 6])}\n'
                   for index, name in enumerate(TENANTS)]
        self.settings.write_text(modes + "\n" + "\n".join(tenants))

    def status(self):
        line = http.client.HTTPConnection(self.admin, timeout=TIMEOUT_S)
        line.request("GET", "/status")
        status = json.loads(line.getresponse().read())
        line.close()
        return status

    def observe(self):
        """From now on the gateway only observes."""
        self.write_settings('limit.mode = "observe"\nbatch.mode = "observe"\n')
        self.running[-1].send_signal(signal.SIGHUP)

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
    """About a hundred requests per second: receipts of three agents each that merge, and other requests."""

    def __init__(self, programs):
        self.gateway, self.api, self.is_over = programs.gateway, programs.api, threading.Event()
        self.is_trouble = threading.Event()
        self.threads = [threading.Thread(target=self.agent, args=(agent, group)) for group in range(4) for agent in range(3)]
        self.threads += [threading.Thread(target=self.poll, args=(share,)) for share in range(3)]
        self.threads += [threading.Thread(target=work) for work in (self.flood, self.unlink, self.use_elsewhere, self.use_elsewhere)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def trouble(self):
        self.is_trouble.set()

    def agent(self, agent, group):
        """The agents of a group open the same chats, one after another."""
        line = http.client.HTTPConnection(self.gateway, timeout=30)
        choice, turn = random.Random(group), 0
        while not self.is_over.wait(0.06):
            turn += 1
            # The first ones have most traffic.
            instance = INSTANCES[min(int(choice.expovariate(0.15)), len(INSTANCES) - 1)]
            if instance == UNLINKED:
                continue
            chat = f"{group}{turn % 7}@c.us"
            body = json.dumps({"instance_id": instance, "access_token": TOKEN, "chatId": chat,
                               "messageIds": [f"false_{chat}_{agent}{turn}"]})
            line.request("POST", "/v2/send/seen", body, {"Content-Type": "application/json"})
            line.getresponse().read()

    def poll(self, share):
        """A dashboard asks for every instance in turn."""
        line = http.client.HTTPConnection(self.gateway, timeout=30)
        turn = share
        while not self.is_over.wait(0.1):
            instance = INSTANCES[turn % len(INSTANCES)]
            turn += 3
            self.ask(line, instance, "revoked" if instance == UNLINKED else TOKEN)

    def ask(self, line, instance, token):
        # The stand-in takes every token but those that begin with this.
        token = f"invalid-{token}" if token == "revoked" and self.is_trouble.is_set() else TOKEN
        query = urllib.parse.urlencode({"instance_id": instance, "access_token": token})
        line.request("GET", f"/v2/session/info?{query}")
        line.getresponse().read()

    def flood(self):
        """Sixty requests per second for an instance that may have ten: some wait, some are refused."""
        while not self.is_over.wait(0.05):
            if self.is_trouble.is_set():
                for _ in range(3):
                    threading.Thread(target=self.once, args=(FLOODED, TOKEN)).start()

    def unlink(self):
        while not self.is_over.wait(0.5):
            if self.is_trouble.is_set():
                self.once(UNLINKED, "revoked")

    def use_elsewhere(self):
        """Another program uses a number past the gateway, so that the API throttles it."""
        while not self.is_over.wait(0.02):
            if self.is_trouble.is_set():
                self.once(PAUSED, TOKEN, self.api)

    def once(self, instance, token, address=None):
        line = http.client.HTTPConnection(address or self.gateway, timeout=30)
        try:
            self.ask(line, instance, token)
        except OSError:
            pass
        finally:
            line.close()

    def end(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join()


def wait_until(what, holds):
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"NOT SO: {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
