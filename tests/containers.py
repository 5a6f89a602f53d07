#!/usr/bin/env python3
"""Image, Compose file and Kubernetes manifests, without a container engine.

    tests/containers.py [PATH OF wawp-gateway]

The files of the image are assembled as in Dockerfile, and the program is started in them as an engine would do it:
another root, user 65534, read-only, without capabilities, with a network of its own. Needs root, Prometheus, and the
Python packages kubernetes-validate and compose-spec. Says what holds; exits 1 where something does not.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

import compose_spec
import kubernetes_validate
import yaml

from claims import check, eventually, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT_S = 30
KUBERNETES = ("1.30", "1.34", "1.37")
MANIFESTS = ROOT / ".packages/kubernetes"

# Becomes the process of a container: $1 its root, $2 its user, then the command.
CONTAINER = """
import ctypes, os, sys
root, user, *command = sys.argv[1:]
prctl = ctypes.CDLL(None).prctl
os.chroot(root)
os.chdir("/")
for capability in range(64):
    prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
os.execv(command[0], command)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default=ROOT / "target/debug/wawp-gateway", type=pathlib.Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        # Again, where file systems, network and processes are this test's own.
        namespaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", ["unshare", *namespaces, sys.executable, __file__, str(arguments.program), "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        image = Image(arguments.program.resolve(), pathlib.Path(scratch), running)
        image.holds_no_shell()
        compose = compose_file()
        serve(image, compose, running)
        kubernetes(image)
    print("the containers work")


class Image:
    """The files of the image and what Dockerfile says about its process."""

    def __init__(self, program, scratch, running):
        self.scratch, self.root, self.running = scratch, scratch / "image", running
        running.push(self.show_log)
        dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        self.user = re.search(r"(?m)^USER (\d+):\1$", dockerfile).group(1)
        self.variables = dict(re.findall(r"(WAWP_GATEWAY_\w+)=(\S+)", dockerfile))
        self.command = json.loads(re.search(r"(?m)^ENTRYPOINT (.*)$", dockerfile).group(1))
        self.health = json.loads(re.search(r"(?m)^HEALTHCHECK .* CMD (.*)$", dockerfile).group(1))
        subprocess.run([ROOT / ".packages/container/assemble", program, self.root], check=True)
        self.files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        # What an engine adds.
        (self.root / "proc").mkdir()
        (self.root / "run/secrets/wawp-gateway").mkdir(parents=True)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.0.1 by-hosts.test\n")
        (self.root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        for command in (
            ["mount", "--bind", self.root, self.root],
            ["mount", "-t", "proc", "proc", self.root / "proc"],
            ["mount", "-o", "remount,bind,ro", self.root],
        ):
            subprocess.run(command, check=True)
        # After the program has ended, so that the directory can be removed.
        running.callback(subprocess.run, ["umount", "-R", "-l", self.root], check=True)

    def holds_no_shell(self):
        others = {name for name in self.files if not re.match(r"lib(64)?/.*\.so[.0-9]*$", name)}
        check("the image holds the program, its libraries and two files",
              others == {"usr/bin/wawp-gateway", "etc/nsswitch.conf", "etc/passwd"}, self.files)

    def show_log(self, kind, *_):
        log = self.scratch / "container.log"
        if kind is not None and log.exists():
            print(f"-- log of the container\n{log.read_text()[-3000:]}", file=sys.stderr)

    def mount(self, path, files):
        """Puts files into a directory of the image, as a volume does."""
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{self.root}{path}"], check=True)
        for name, text in files.items():
            pathlib.Path(f"{self.root}{path}/{name}").write_text(text)

    def start(self, *arguments, log="container.log", **variables):
        with open(self.scratch / log, "ab") as output:
            child = subprocess.Popen(self.words([*self.command, *arguments]), stdin=subprocess.DEVNULL, stdout=output,
                                     stderr=output, env={**self.variables, **variables})
        self.running.callback(end, child)
        return child

    def run(self, *arguments, **variables):
        words = self.words(arguments)
        return subprocess.run(words, env={**self.variables, **variables}, capture_output=True, text=True, check=False)

    def words(self, command):
        return [sys.executable, "-c", CONTAINER, str(self.root), self.user, *command]


def serve(image, compose, running):
    unhealthy = image.run(*image.health).returncode
    check("without a gateway the health check is 1", unhealthy == 1, unhealthy)
    api = 8081
    image.start("sandbox", "--listen", f"127.0.0.1:{api}", "--latency", "0ms", log="sandbox.log")
    wait_for(api, TIMEOUT_S)
    running.enter_context(DnsServer("by-dns.test"))
    for name in ("localhost", "by-hosts.test", "by-dns.test"):
        gateway = image.start(WAWP_GATEWAY_UPSTREAM__URL=f"http://{name}:{api}")
        eventually(f"healthy before {name}", lambda: image.run(*image.health).returncode == 0, TIMEOUT_S)
        # Only a listener on every address is there for other hosts, too.
        status = request("127.0.0.2")
        check(f"the first request, to an API found by {name}", status == 200, status)
        if name == "by-dns.test":
            break
        check("it ends without an error", end(gateway) == 0)
    process = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{gateway.pid}/status").read_text().splitlines())
    check("as user 65534", set(process["Uid"].split()) == {"65534"} == set(process["Gid"].split()), process["Uid"])
    sets = [process[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")]
    check("without capabilities", all(int(found, 16) == 0 for found in sets), sets)
    mounts = pathlib.Path(f"/proc/{gateway.pid}/mounts").read_text()
    check("in a read-only root", re.search(rf"(?m)^\S+ ({re.escape(str(image.root))}|/) \S+ ro[, ]", mounts), mounts)
    log = (image.scratch / "container.log").read_text()
    check("and it had no trouble with that", "ERROR" not in log and "memory of a burst" not in log, log)
    scrape(image, compose, running)
    check("SIGTERM ends it without an error", end(gateway) == 0)
    check("and then it is not healthy", image.run(*image.health).returncode == 1)


def scrape(image, compose, running):
    """Prometheus as Compose configures it."""
    directory = image.scratch / "prometheus"
    (directory / "rules").mkdir(parents=True)
    (directory / "prometheus.yml").write_text(compose["configs"]["prometheus"]["content"])
    (directory / "rules/wawp-gateway.yml").write_bytes((ROOT / "grafana/rules/wawp-gateway.yml").read_bytes())
    hosts = image.scratch / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.3 gateway\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
         "--web.listen-address=127.0.0.1:9090", "--log.level=error"], stdin=subprocess.DEVNULL)
    running.callback(end, prometheus)
    query = "http://127.0.0.1:9090/api/v1/query?query=wawp_gateway_requests_total%7Bcode=%22200%22,route=%22other%22%7D"

    def is_scraped():
        with contextlib.suppress(OSError):
            found = json.load(urllib.request.urlopen(query, timeout=5))["data"]["result"]
            return found and float(found[0]["value"][1]) >= 1 and found[0]["metric"]["replica"] == "gateway:9464"

    eventually("Prometheus of the Compose file scrapes it", is_scraped, TIMEOUT_S)
    with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/rules", timeout=5) as response:
        check("and has the rules", json.load(response)["data"]["groups"])
    end(prometheus)


def compose_file():
    text = (ROOT / "grafana/compose.yaml").read_text()
    # Raises on a key or a value that is none, and on a volume or config that is not defined.
    compose_spec.PyCompose.from_yaml(text).validate()
    compose = yaml.safe_load(text)
    configs = {name: yaml.safe_load(config["content"]) for name, config in compose["configs"].items()}
    for name, shipped, old, new in (
        ("prometheus", "prometheus.yml", "127.0.0.1:9464", "gateway:9464"),
        ("datasource", "provisioning/datasources/prometheus.yml", "127.0.0.1:9090", "prometheus:9090"),
    ):
        other = (ROOT / "grafana" / shipped).read_text().replace(old, new)
        check(f"the Compose file has {shipped}, but for the address", configs[name] == yaml.safe_load(other), configs[name])
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            check(f"its volume {source} is there", source in compose["volumes"] or (ROOT / "grafana" / source).exists())
        for port in service["ports"]:
            check(f"its port {port} is this machine's only", port.startswith("127.0.0.1:"))
    return compose


def kubernetes(image):
    documents = []
    for file in ("gateway.yaml", "secrets.yaml"):
        documents += yaml.safe_load_all((MANIFESTS / file).read_text())
    for document in documents:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
        check(f"Kubernetes {', '.join(KUBERNETES)}: {document['kind']} {document['metadata']['name']}", True)
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    pod = found["Deployment", "wawp-gateway"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listeners = [int(image.variables[f"WAWP_GATEWAY_SERVER__{name}"].split(":")[1]) for name in ("LISTEN", "ADMIN")]
    check("the ports are those of the image", [ports["http"], ports["admin"]] == listeners, ports)
    version = re.search('(?m)^version = "(.*)"', (ROOT / "Cargo.toml").read_text()).group(1)
    check("the image has the version of the program", container["image"].endswith(f":{version}"), container["image"])
    check("the user is that of the image", str(pod["spec"]["securityContext"]["runAsUser"]) == image.user)
    for name in ("wawp-gateway", "wawp-gateway-admin"):
        service = found["Service", name]["spec"]
        check(f"Service {name} selects the pods", service["selector"].items() <= labels)
        check("and a port of theirs", all(port["targetPort"] in ports for port in service["ports"]))
    budget = found["PodDisruptionBudget", "wawp-gateway"]["spec"]
    check("the budget selects the pods", budget["selector"]["matchLabels"].items() <= labels)
    replicas = found["Deployment", "wawp-gateway"]["spec"]["replicas"]
    check("and lets one of them go", budget["minAvailable"] < replicas)

    monitor = yaml.safe_load((MANIFESTS / "servicemonitor.yaml").read_text())["spec"]
    admin = found["Service", "wawp-gateway-admin"]
    check("the monitor selects the admin Service only", monitor["selector"]["matchLabels"] == admin["metadata"]["labels"])
    endpoint = monitor["endpoints"][0]
    job = yaml.safe_load((ROOT / "grafana/prometheus.yml").read_text())["scrape_configs"][0]
    check("by its port", endpoint["port"] in [port["name"] for port in admin["spec"]["ports"]])
    check("with the labels of prometheus.yml", endpoint["honorLabels"] == job["honor_labels"]
          and admin["metadata"]["labels"][monitor["jobLabel"]] == job["job_name"]
          and endpoint["relabelings"][0]["targetLabel"] == job["relabel_configs"][0]["target_label"])

    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    settings = found["ConfigMap", "wawp-gateway"]["data"]
    image.mount(mounts["settings"], settings)
    effective = image.run(*image.command, "check")
    check("its settings are right", effective.returncode == 0, effective.stderr)
    drain = {name: int(value) for name, value in re.findall(r'(?m)^(drain_\w+) = "(\d+)s"', effective.stdout)}
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    check("the pod may drain to the end", grace > drain["drain_timeout"] > drain["drain_delay"] > 0, drain)
    with_tenant = {name: re.sub(r"(?m)^# (?=\[\[|\w+ = )", "", text) for name, text in settings.items()}
    image.mount(mounts["settings"], with_tenant)
    secrets = found["Secret", "wawp-gateway"]["stringData"]
    image.mount(mounts["secrets"], secrets)
    refused = image.run(*image.command, "check")
    check("secrets that were not replaced are refused", refused.returncode == 2 and "acme-key" in refused.stderr, refused)
    image.mount(mounts["secrets"], {name: "replaced-with-something-long" for name in secrets})
    effective = image.run(*image.command, "check")
    check("the tenant with its secrets is right", effective.returncode == 0 and "acme" in effective.stdout, effective)


class DnsServer:
    """Responds to every query for one name with 127.0.0.1."""

    def __init__(self, name):
        self.name = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()

    def __exit__(self, *_):
        self.socket.close()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                query, client = self.socket.recvfrom(512)
                end_of_name = 12 + len(self.name)
                kind = struct.unpack("!H", query[end_of_name:end_of_name + 2])[0]
                is_known = query[12:end_of_name] == self.name
                answer = b"\xc0\x0c" + struct.pack("!HHIH4B", 1, 1, 60, 4, 127, 0, 0, 1) if is_known and kind == 1 else b""
                flags = 0x8180 if is_known else 0x8183
                head = query[:2] + struct.pack("!HHHHH", flags, 1, bool(answer), 0, 0)
                self.socket.sendto(head + query[12:end_of_name + 4] + answer, client)


def request(host):
    url = f"http://{host}:8080/v2/session/info?instance_id=1&access_token=container-test"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def end(child):
    """Ends a process as an engine does, and returns its exit code."""
    child.terminate()
    try:
        return child.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    main()
