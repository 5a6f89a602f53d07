#!/usr/bin/env python3
"""The shipped settings of HAProxy, nginx and Caddy, each before a gateway, with clients that lie about their address.
Then HAProxy and nginx before three gateways, with each instance at one of them.

    tests/proxies.py [PATH OF wawp-gateway]

Needs haproxy, nginx, caddy, curl and openssl (all packages of Debian) and a built program. Says what holds; exits 1
where something does not. Everything runs on 127.0.0.0/8, for some 40 seconds.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from claims import check, free_port, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHIPPED = ROOT / ".packages/proxies"
NAME = "wawp.example.com"
# The gateway serves only the first; both reach it through the proxy, whose address is 127.0.0.1.
ALLOWED, FORBIDDEN = "127.0.0.5", "127.0.0.6"
TIMEOUT_S = 20

# What a client may write to be taken for another one: header fields of a request.
FORGED = [
    [("X-Forwarded-For", ALLOWED)],
    [("X-Forwarded-For", ALLOWED), ("X-Forwarded-For", ALLOWED)],
    [("x-forwarded-for", f"{ALLOWED}, 127.0.0.1")],
    [("X-Forwarded-For", f"127.0.0.1, {ALLOWED}")],
    [("X-Forwarded-For", f",,{ALLOWED}")],
    # A field that is named here does not go beyond the next hop.
    [("Connection", "X-Forwarded-For"), ("X-Forwarded-For", ALLOWED)],
    [("Connection", "close, X-Forwarded-For")],
    [("X_Forwarded_For", ALLOWED), ("X-Real-IP", ALLOWED), ("Forwarded", f"for={ALLOWED}")],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default=ROOT / "target/debug/wawp-gateway")
    program = parser.parse_args().program
    missing = [name for name in ("haproxy", "nginx", "caddy", "curl", "openssl") if which(name) is None]
    if missing:
        sys.exit(f"missing; Debian: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        certificate(scratch)
        for proxy in (haproxy, nginx, caddy):
            with contextlib.ExitStack() as running:
                gateway = Gateway(program, scratch, running)
                port = free_port()
                proxy(port, gateway, scratch, running)
                wait_for(port, TIMEOUT_S)
                look(proxy.__name__, port, gateway)
                log = (scratch / f"{proxy.__name__}.log").read_text()
                check(f"{proxy.__name__}: no access token in its log", TOKEN not in log, log)
            with contextlib.ExitStack() as running:
                repeat(proxy, program, scratch, running)
        for proxy in (haproxy_by_instance, nginx_by_instance):
            with contextlib.ExitStack() as running:
                spread(proxy, program, scratch, running)
    print("the proxies work")


def look(name, port, gateway):
    def say(what, holds, found):
        check(f"{name}: {what}", holds, found)

    status, _ = ask(port, ALLOWED)
    say("an allowed client is served", status == 200, status)
    seen = gateway.clients(1)
    say("the gateway sees its address", seen == {ALLOWED}, seen)
    status, _ = ask(port, FORBIDDEN)
    say("another client is refused", status == 403, status)
    for fields in FORGED:
        status, body = ask(port, FORBIDDEN, fields)
        say(f"it stays refused with {fields}", status == 403, (status, body))
    seen = gateway.clients(2 + len(FORGED))
    say("the gateway saw both by their true addresses", seen == {ALLOWED, FORBIDDEN}, seen)
    for line in (f"PROXY TCP4 {ALLOWED} 127.0.0.1 1 1\r\n", f"PROXY TCP4 {ALLOWED} 127.0.0.1 1 1\n"):
        response = raw(port, FORBIDDEN, line + f"GET {PATH} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")
        say("a PROXY header of a client opens nothing", b" 200 " not in response, response)

    version, status = curl_http2(port, ALLOWED)
    say("HTTP/2 with clients", (version, status) == ("2", "200"), (version, status))
    status = curl_http2(port, FORBIDDEN, "-H", f"X-Forwarded-For: {ALLOWED}")[1]
    say("a forged address over HTTP/2", status == "403", status)

    before = gateway.connections()
    with contextlib.closing(connect(port, ALLOWED)) as connection:
        for _ in range(20):
            connection.request("GET", PATH, headers={"Host": NAME})
            connection.getresponse().read()
    opened = gateway.connections() - before
    say("requests share connections to the gateway", len(opened) <= 2, opened)

    # Without the proxy in between nothing is believed.
    for fields in FORGED:
        status, _ = ask(gateway.port, FORBIDDEN, fields, tls=False)
        say("past the proxy, a forged field opens nothing", status == 403, (fields, status))
    proxied = f"PROXY TCP4 {ALLOWED} 127.0.0.1 1 1\r\nGET {PATH} HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
    response = raw(gateway.port, FORBIDDEN, proxied, tls=False)
    say("past the proxy, a PROXY header opens nothing", b" 400 " in response, response)


def repeat(proxy, program, scratch, running):
    """A gateway ends in the middle of a request on a kept connection, and another one takes its place."""
    api = Api()
    gateway = Gateway(program, scratch, running, api.port)
    port = free_port()
    proxy(port, gateway, scratch, running)
    wait_for(port, TIMEOUT_S)
    with contextlib.closing(connect(port, ALLOWED)) as connection:
        for _ in range(2):
            connection.request("GET", PATH, headers={"Host": NAME})
            connection.getresponse().read()
        connection.request("GET", f"/v2/send/text?{HELD}", headers={"Host": NAME})
        check(f"{proxy.__name__}: a message is at the API", api.held.wait(TIMEOUT_S))
        gateway.is_replaced()
        try:
            # A second attempt would reach the other gateway, and get this status.
            status = connection.getresponse().status
        except http.client.RemoteDisconnected:
            status = 0
    found = (status, api.count)
    check(f"{proxy.__name__}: it is not sent again", status in (0, 502) and api.count == 1, found)


def spread(proxy, program, scratch, running):
    """Each instance is at one of three gateways, and only those of a gateway that fails move."""
    name = proxy.__name__
    api = Api()
    gateways = []
    for index in range(3):
        directory = scratch / f"{name}{index}"
        directory.mkdir()
        gateways.append(Gateway(program, directory, running, api.port))
    port = free_port()
    proxy(port, gateways, scratch, running)
    wait_for(port, TIMEOUT_S)
    instances = [f"instance-{index}" for index in range(40)]
    sent = 0

    def place():
        """Which gateways each instance is at; one request by query, one by header, one by both."""
        nonlocal sent
        for instance in instances:
            for query, header in ((instance, None), (None, instance), (instance, "another")):
                deadline = time.monotonic() + TIMEOUT_S
                # Until the proxy has noticed that a gateway has failed.
                while (status := ask_for(port, query, header)) != 200:
                    if time.monotonic() > deadline:
                        check(f"{name}: {instance} is served", False, status)
                    time.sleep(0.1)
                sent += 1
        return found(sent)

    def found(count):
        """The gateways by instance, once their logs have this many requests."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            at, seen = {}, 0
            for index, gateway in enumerate(gateways):
                for line in gateway.log.read_text().splitlines():
                    instance = json.loads(line).get("instance")
                    if instance is not None:
                        seen += 1
                        at.setdefault(instance, set()).add(index)
            if seen >= count or time.monotonic() > deadline:
                return at
            time.sleep(0.05)

    before = place()
    check(f"{name}: each instance is at one gateway", all(len(at) == 1 for at in before.values()), before)
    counts = [sum(at == {index} for at in before.values()) for index in range(3)]
    check(f"{name}: each gateway has instances", min(counts) >= 1, counts)
    statuses = [ask_for(port, None, None) for _ in range(6)]
    deadline = time.monotonic() + TIMEOUT_S
    while not all(without_instance(gateway.log) for gateway in gateways) and time.monotonic() < deadline:
        time.sleep(0.05)
    everywhere = all(without_instance(gateway.log) for gateway in gateways)
    check(f"{name}: requests without an instance go to all gateways", everywhere, statuses)

    gateways[0].child.kill()
    gateways[0].child.wait()
    gateways[0].listener.close()
    after = place()
    stayed = all(after[name] == at for name, at in before.items() if at != {0})
    check(f"{name}: the instances of the others stay", stayed, (before, after))
    moved = all(len(after[name]) == 2 for name, at in before.items() if at == {0})
    check(f"{name}: those of a gateway that fails move", moved, (before, after))


def without_instance(log):
    """Whether a request without an instance is in the log."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return any("client" in entry and entry.get("instance") is None for entry in entries)


def ask_for(port, query, header):
    """Sends a request for an instance that is named in the query, in the header, in both, or not at all."""
    target = f"/v2/session/info?access_token={TOKEN}" + (f"&instance_id={query}" if query else "")
    with contextlib.closing(connect(port, ALLOWED)) as connection:
        connection.request("GET", target, headers={"Host": NAME} | ({"X-Instance-ID": header} if header else {}))
        return connection.getresponse().status


class Api:
    """An API that does not respond to the first message, and counts all of them."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.held, self.count = threading.Event(), 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        with contextlib.suppress(OSError):
            received = b""
            while part := stream.recv(65536):
                received += part
                if not received.endswith(b"\r\n\r\n"):
                    continue
                if HELD.encode() in received:
                    self.count += 1
                    self.held.set()
                    if self.count == 1:
                        continue
                received = b""
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def haproxy(port, gateway, scratch, running):
    backend = {"127.0.0.1:8080": f"127.0.0.1:{gateway.port}", "port 9464": f"port {gateway.admin}"}
    run_haproxy(shipped("haproxy.cfg", haproxy_addresses(port, scratch) | backend), scratch, running)


def haproxy_by_instance(port, gateways, scratch, running):
    backend = {}
    for index, gateway in enumerate(gateways, 1):
        backend |= {f"127.0.0.1:808{index}": f"127.0.0.1:{gateway.port}", f"port 946{index}": f"port {gateway.admin}"}
    before = shipped("haproxy.cfg", haproxy_addresses(port, scratch)).partition("\nbackend ")[0]
    run_haproxy(f"{before}\n" + shipped("by-instance.haproxy.cfg", backend), scratch, running)


def haproxy_addresses(port, scratch):
    return {":443": f"127.0.0.1:{port}", "/etc/haproxy/wawp.pem": str(scratch / "both.pem")}


def run_haproxy(text, scratch, running):
    (scratch / "haproxy.cfg").write_text(text)
    start(running, [which("haproxy"), "-db", "-f", scratch / "haproxy.cfg"], scratch / "haproxy.log")


def nginx(port, gateway, scratch, running):
    backend = {"127.0.0.1:8080": f"127.0.0.1:{gateway.port}"}
    run_nginx(shipped("nginx.conf", nginx_addresses(port, scratch) | backend), scratch, running)


def nginx_by_instance(port, gateways, scratch, running):
    backend = {f"127.0.0.1:808{index}": f"127.0.0.1:{gateway.port}" for index, gateway in enumerate(gateways, 1)}
    server = shipped("nginx.conf", nginx_addresses(port, scratch)).partition("\nserver {")
    run_nginx(shipped("by-instance.nginx.conf", backend) + "".join(server[1:]), scratch, running)


def nginx_addresses(port, scratch):
    return {
        "443": f"127.0.0.1:{port}",
        "/etc/nginx/wawp.crt": str(scratch / "cert.pem"),
        "/etc/nginx/wawp.key": str(scratch / "key.pem"),
    }


def run_nginx(text, scratch, running):
    (scratch / "site.conf").write_text(text)
    # What Debian's /etc/nginx/nginx.conf has around conf.d.
    (scratch / "nginx.conf").write_text(
        f"daemon off; user root; pid {scratch}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log {scratch}/nginx.log; client_body_temp_path {scratch}; proxy_temp_path {scratch};\n"
        f"fastcgi_temp_path {scratch}; uwsgi_temp_path {scratch}; scgi_temp_path {scratch};\n"
        f"include {scratch}/site.conf; }}\n"
    )
    start(running, [which("nginx"), "-c", scratch / "nginx.conf", "-e", "stderr"], scratch / "nginx.log")


def caddy(port, gateway, scratch, running):
    text = shipped("Caddyfile", {
        NAME + " {": f"{NAME}:{port} {{\n\ttls {scratch}/cert.pem {scratch}/key.pem",
        "127.0.0.1:8080": f"127.0.0.1:{gateway.port}",
    })
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (scratch / "Caddyfile").write_text(options + text)
    command = [which("caddy"), "run", "--config", scratch / "Caddyfile", "--adapter", "caddyfile"]
    start(running, command, scratch / "caddy.log", {"XDG_DATA_HOME": scratch, "XDG_CONFIG_HOME": scratch})


def shipped(name, changes):
    """A shipped file with other addresses and paths; each must be in it."""
    text = (SHIPPED / name).read_text()
    for old, new in changes.items():
        if old not in text:
            sys.exit(f"{name} has no {old}")
        text = text.replace(old, new)
    return text


class Gateway:
    """A gateway before the stand-in for the API, with the shipped settings and one network."""

    def __init__(self, program, scratch, running, upstream=None):
        self.admin, self.running = free_port(), running
        # Held here as a service manager would: what is not accepted waits for the next gateway.
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.port = self.listener.getsockname()[1]
        settings = (SHIPPED / "gateway.toml").read_text()
        settings += f'networks = ["{ALLOWED}"]\n[limit]\nrate = 0\nburst = 0\n[log]\nformat = "json"\n'
        (scratch / "gateway.toml").write_text(settings)
        self.log = scratch / "access.log"
        # Each proxy is before a gateway and a log of its own.
        self.log.write_text("")
        if upstream is None:
            upstream = free_port()
            start(running, [program, "sandbox", "--listen", f"127.0.0.1:{upstream}", "--latency", "0ms"], scratch / "sandbox.log")
            wait_for(upstream, TIMEOUT_S)
        self.command = [
            "sh", "-c", 'exec 3<&0 < /dev/null; LISTEN_FDS=1 exec "$@"', "gateway",
            program, "serve", "--config", scratch / "gateway.toml", "--admin", f"127.0.0.1:{self.admin}",
            "--upstream", f"http://127.0.0.1:{upstream}",
        ]
        self.child = start(running, self.command, self.log, stdin=self.listener)
        wait_for(self.admin, TIMEOUT_S)

    def is_replaced(self):
        """The process ends without a word to its clients; another one takes the connections that follow."""
        self.child.kill()
        self.child.wait()
        self.child = start(self.running, self.command, self.log, stdin=self.listener)

    def clients(self, requests):
        """The addresses in the access log, once it has this many requests: it is written after the responses."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            entries = [json.loads(line) for line in self.log.read_text().splitlines()]
            addresses = [entry["client"] for entry in entries if "client" in entry]
            if len(addresses) >= requests or time.monotonic() > deadline:
                return set(addresses)
            time.sleep(0.05)

    def connections(self):
        """Every connection to the gateway that the kernel knows, ended ones included."""
        found = set()
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            ports = [int(address.split(":")[1], 16) for address in (local, remote)]
            if self.port in ports and state != "0A":
                found.add(frozenset(ports))
        return found


TOKEN = "proxies-test"
HELD = f"instance_id=1&access_token={TOKEN}&text=held"
PATH = f"/v2/session/info?instance_id=1&access_token={TOKEN}"


def ask(port, source, fields=(), tls=True):
    with contextlib.closing(connect(port, source, tls)) as connection:
        connection.putrequest("GET", PATH, skip_host=True)
        connection.putheader("Host", NAME)
        for name, value in fields:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()


def connect(port, source, tls=True):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S, source_address=(source, 0))
    connection.connect()
    if tls:
        connection.sock = context().wrap_socket(connection.sock, server_hostname=NAME)
    return connection


def raw(port, source, text, tls=True):
    """What comes back to bytes that need not be HTTP."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (source, 0))) as stream:
        if tls:
            stream = context().wrap_socket(stream, server_hostname=NAME)
        stream.sendall(text.encode())
        response = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while part := stream.recv(65536):
                response += part
        return response


def context():
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    return trusting


def curl_http2(port, source, *options):
    url = f"https://{NAME}:{port}{PATH}"
    output = subprocess.run(
        ["curl", "-sk", "--http2", "--interface", source, "--resolve", f"{NAME}:{port}:127.0.0.1", "-o", os.devnull,
         "-w", "%{http_version} %{http_code}", "--max-time", str(TIMEOUT_S), *options, url],
        capture_output=True, text=True, check=False,
    )
    return tuple((output.stdout or "0 0").split())


def certificate(scratch):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
         "-keyout", scratch / "key.pem", "-out", scratch / "cert.pem"],
        check=True, capture_output=True,
    )
    both = (scratch / "cert.pem").read_text() + (scratch / "key.pem").read_text()
    (scratch / "both.pem").write_text(both)


def start(running, command, log, environment=None, stdin=subprocess.DEVNULL):
    """Runs a program until the end of the block; its output goes to a file, which is shown if the test fails."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [str(word) for word in command], stdin=stdin, stdout=output, stderr=output,
            env={**os.environ, **{name: str(value) for name, value in (environment or {}).items()}},
        )

    def end():
        child.terminate()
        try:
            child.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def show(kind, *_):
        if kind is not None:
            print(f"-- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)

    running.push(show)
    running.callback(end)
    return child


def which(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


if __name__ == "__main__":
    main()
