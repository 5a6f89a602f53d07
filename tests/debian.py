#!/usr/bin/env python3
"""The Debian package on a fresh Debian 13 with systemd as its first process: installed, used, upgraded, removed.

    tests/debian.py PATH OF THE PACKAGE

Needs root, debootstrap, curl and prometheus (packages of Debian). The system has a network of its own, without any
way out; its files are kept in `target/debian-trixie` for the next run, unchanged. Says what holds; exits 1 where
something does not.
"""

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

from claims import check, eventually

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE, INCLUDE = "trixie", "systemd,systemd-sysv,dbus,curl"
TIMEOUT_S = 60
SETTINGS = "/etc/wawp-gateway/gateway.toml"
REQUEST = "http://127.0.0.1:8080/v2/session/info?instance_id=1&access_token=package-test"

# Makes namespaces and file systems of a system, and starts its first process. $1: its files; $2: what it changes.
BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
root=$2/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/dev" -o mode=755
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=666
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/run" -o mode=755
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
exec env -i container=other PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system --log-target=null --show-status=false
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    package = pathlib.Path(sys.argv[1]).resolve()
    missing = [name for name in ("debootstrap", "curl", "prometheus") if shutil.which(name) is None]
    if missing:
        sys.exit(f"missing; Debian: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        newer = with_a_newer_version(package, scratch)
        with System(files_of_debian(), scratch) as system:
            system.take(package, "/root/old.deb")
            system.take(newer, "/root/new.deb")
            before = system.files()
            install(system)
            units(system)
            process(system)
            settings(system)
            scrape(system, scratch)
            upgrade(system)
            sockets(system)
            remove(system, before)
    print("the package works")


def install(system):
    system.run("apt-get", "install", "-y", "-q", "/root/old.deb")
    check("the service runs after the installation", system.says("systemctl", "is-active", "wawp-gateway") == "active")
    check("and is started at boot", system.says("systemctl", "is-enabled", "wawp-gateway") == "enabled")
    check("the socket waits for the operator", system.says("systemctl", "is-enabled", "wawp-gateway.socket") == "disabled")
    owner = system.says("stat", "-c", "%U:%G %a", SETTINGS)
    check("only root and the service read the settings", owner == "root:wawp-gateway 640", owner)
    files = system.says("dpkg", "-L", "wawp-gateway").splitlines()
    for wanted in (
        "/usr/bin/wawp-gateway", SETTINGS, "/usr/share/man/man1/wawp-gateway.1.gz",
        "/usr/share/bash-completion/completions/wawp-gateway", "/usr/share/zsh/vendor-completions/_wawp-gateway",
        "/usr/share/fish/vendor_completions.d/wawp-gateway.fish", "/usr/share/doc/wawp-gateway/copyright",
    ):
        check(f"{wanted} is there", wanted in files and system.succeeds("test", "-s", wanted))
    system.run("bash", "-n", "/usr/share/bash-completion/completions/wawp-gateway")
    # As installed, the settings change nothing.
    effective = system.says("wawp-gateway", "check").splitlines()
    system.run("sh", "-c", "echo '# defaults' > /root/empty.toml")
    defaults = system.says("wawp-gateway", "check", "--config", "/root/empty.toml").splitlines()
    check("the installed settings are the defaults", effective == defaults, effective)
    # As the first lines of the settings say.
    append = re.search(r"sudo sh -c '(.*)'", system.says("cat", SETTINGS))
    check("the settings say how limits are appended", append and append[1].endswith(f" >> {SETTINGS}"), append)
    system.run("cp", SETTINGS, "/root/limits.toml")
    system.run("sh", "-c", append[1].replace(SETTINGS, "/root/limits.toml"))
    limits = system.says("wawp-gateway", "check", "--config", "/root/limits.toml")
    check("and that works", 'name = "messages"' in limits, limits)


def units(system):
    for unit in ("wawp-gateway.service", "wawp-gateway.socket"):
        found = system.run("systemd-analyze", "verify", "--man=no", unit)
        check(f"systemd-analyze verify {unit}", not found, found)
    report = system.says("systemd-analyze", "security", "--no-pager", "wawp-gateway.service")
    score = float(re.search(r"exposure level for wawp-gateway.service: ([0-9.]+)", report).group(1))
    check(f"systemd-analyze security: {score}", score <= 2.0, report)


def process(system):
    pid = system.property("MainPID")
    status = dict(line.split(":\t", 1) for line in system.says("cat", f"/proc/{pid}/status").splitlines())
    user = system.says("id", "-u", "wawp-gateway")
    check("it runs as its own user", set(status["Uid"].split()) == {user} and user != "0", status["Uid"])
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        check(f"without capabilities: {name}", int(status[name], 16) == 0, status[name])
    check("without new privileges", status["NoNewPrivs"] == "1")
    check("behind a filter of system calls", status["Seccomp"] == "2")
    limits = system.says("cat", f"/proc/{pid}/limits")
    # Less on a machine that allows root itself less.
    most = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    check("with its limit on open files", re.search(rf"Max open files\s+{most}\s+{most}\b", limits), limits)
    log = system.says("journalctl", "-u", "wawp-gateway", "-o", "cat").splitlines()
    trouble = [line for line in log if re.search("WARN|ERROR", line) and not (most < 65536 and "limit=" in line)]
    check("and its log has no warning", any("serving" in line for line in log) and not trouble, log)
    system.run("wawp-gateway", "health")


def settings(system):
    system.background("wawp-gateway", "sandbox", "--latency", "0ms")
    system.run("sed", "-i", 's|^#url = .*|url = "http://127.0.0.1:8081"|', SETTINGS)
    system.run("wawp-gateway", "check")
    system.run("systemctl", "restart", "wawp-gateway")
    eventually("the first request gets its response", lambda: " 200 " in system.request(), TIMEOUT_S)
    pid = system.property("MainPID")
    system.run("sed", "-i", "s|^#headers = false|headers = true|", SETTINGS)
    system.run("systemctl", "reload", "wawp-gateway")
    # At once: systemctl returns when the settings are in force.
    check("systemctl reload waits for the new settings", "ratelimit-policy" in system.request().lower())
    system.run("sed", "-i", "s|^headers = true|headers = maybe|", SETTINGS)
    check("a mistake is reported", not system.succeeds("wawp-gateway", "check"))
    system.run("systemctl", "reload", "wawp-gateway")
    check("and the old settings stay in force", "ratelimit-policy" in system.request().lower())
    check("by the same process", system.property("MainPID") == pid)
    check("with a mistake it does not start", not system.succeeds("systemctl", "restart", "wawp-gateway"))
    # RestartSec is one second.
    time.sleep(2)
    tried = (system.property("ActiveState"), system.property("NRestarts"))
    check("and does not try again", tried == ("failed", "0"), tried)
    system.run("sed", "-i", "s|^headers = maybe|headers = true|", SETTINGS)
    system.run("systemctl", "restart", "wawp-gateway")


def scrape(system, scratch):
    check("a request is there to be counted", " 200 " in system.request())
    prometheus = system.background(
        "prometheus", f"--config.file={ROOT}/grafana/prometheus.yml", f"--storage.tsdb.path={scratch}/tsdb",
        "--web.listen-address=127.0.0.1:9090", "--log.level=error", only_network=True,
    )
    query = "http://127.0.0.1:9090/api/v1/query?query=wawp_gateway_requests_total{code='200',route='other'}"

    def is_scraped():
        answer = subprocess.run([*system.enter(True), "curl", "-gsf", query], capture_output=True, text=True, check=False)
        found = json.loads(answer.stdout)["data"]["result"] if answer.returncode == 0 else []
        return found and float(found[0]["value"][1]) >= 1

    eventually("Prometheus scrapes it", is_scraped, TIMEOUT_S)
    prometheus.terminate()
    prometheus.wait(TIMEOUT_S)


def upgrade(system):
    kept, pid = system.says("cat", SETTINGS), system.property("MainPID")
    system.run("apt-get", "install", "-y", "-q", "-o", "Dpkg::Options::=--force-confold", "/root/new.deb")
    check("the new version is installed", system.says("dpkg-query", "-W", "-f", "${Version}", "wawp-gateway") == NEWER)
    check("an upgrade keeps the settings", system.says("cat", SETTINGS) == kept)
    check("and their owner", system.says("stat", "-c", "%U:%G %a", SETTINGS) == "root:wawp-gateway 640")
    check("the service was restarted", system.property("MainPID") not in ("0", pid))
    check("and serves", " 200 " in system.request())
    check("the socket still waits", system.says("systemctl", "is-active", "wawp-gateway.socket") == "inactive")


def sockets(system):
    system.run("systemctl", "stop", "wawp-gateway")
    system.run("systemctl", "enable", "--now", "wawp-gateway.socket")
    check("the first connection starts the service", " 200 " in system.request())
    pid = system.property("MainPID")
    requests = f"for i in $(seq 200); do curl -sf -o /dev/null '{REQUEST}' || exit 1; done"
    asking = system.background("sh", "-c", requests)
    for _ in range(3):
        system.run("systemctl", "restart", "wawp-gateway")
    check("no request fails during restarts", asking.wait(TIMEOUT_S) == 0)
    check("and there were restarts", system.property("MainPID") != pid)
    check("the admin socket is handed over, too", system.succeeds("wawp-gateway", "health"))


def remove(system, before):
    pid = system.property("MainPID")
    system.run("apt-get", "remove", "-y", "-q", "wawp-gateway")
    check("a removal stops the service", pid != "0" and not system.succeeds("test", "-e", f"/proc/{pid}"))
    check("and closes its ports", system.request() == "")
    check("the settings stay", system.succeeds("test", "-s", SETTINGS))
    system.run("apt-get", "purge", "-y", "-q", "wawp-gateway")
    left = sorted(system.files() - before)
    check("a purge leaves no file", not left, left)
    check("and no user", not system.succeeds("getent", "passwd", "wawp-gateway"))
    check("and no group", not system.succeeds("getent", "group", "wawp-gateway"))
    failed = system.says("systemctl", "--failed", "--plain", "--no-legend")
    check("and no failed unit", "wawp" not in failed, failed)


class System:
    """A running Debian, with the files of a directory, which it does not change."""

    def __init__(self, files, scratch):
        changes = scratch / "system"
        changes.mkdir()
        self.started = []
        self.unshare = subprocess.Popen([
            "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child",
            "bash", "-c", BOOT, "boot", str(files), str(changes),
        ])
        self.pid = None

    def __enter__(self):
        def is_up():
            if self.unshare.poll() is not None:
                sys.exit("the system did not start")
            children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split()
            self.pid = children[0] if children else None
            return self.pid and self.succeeds("systemctl", "is-active", "--quiet", "multi-user.target")

        eventually("a fresh Debian with systemd is up", is_up, TIMEOUT_S)
        subprocess.run([*self.enter(True), "ip", "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            log = subprocess.run([*self.enter(), "journalctl", "-u", "wawp-gateway", "-n", "40", "-o", "cat"],
                                 capture_output=True, text=True, check=False)
            print(f"-- log of the service\n{log.stdout}", file=sys.stderr)
        for child in self.started:
            with contextlib.suppress(OSError):
                child.kill()
                child.wait()
        # With its first process every other one ends.
        self.unshare.kill()
        self.unshare.wait()

    def enter(self, only_network=False):
        namespaces = ["-n"] if only_network else ["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return ["nsenter", "-t", self.pid, *namespaces, "--"]

    def command(self, command):
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
        return [*self.enter(), *environment, *command]

    def run(self, *command):
        """Runs a command that must succeed; returns all that it writes."""
        done = subprocess.run(self.command(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"NOT SO: {' '.join(command)} succeeds\n{done.stdout}")
        return done.stdout

    def says(self, *command):
        """What a command writes, whether it succeeds or not."""
        done = subprocess.run(self.command(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def succeeds(self, *command):
        done = subprocess.run(self.command(command), stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode == 0

    def background(self, *command, only_network=False):
        words = [*self.enter(True), *command] if only_network else self.command(command)
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.started.append(child)
        return child

    def request(self):
        """The head of the response to a request through the gateway, or nothing."""
        return self.says("curl", "-s", "-m", "10", "-D", "-", "-o", "/dev/null", REQUEST)

    def property(self, name):
        return self.says("systemctl", "show", "-P", name, "wawp-gateway")

    def take(self, file, path):
        subprocess.run(self.command(["sh", "-c", f"cat > {path}"]), input=file.read_bytes(), check=True)

    def files(self):
        """Every file that a package could leave; dpkg, apt and the journal keep their own records."""
        found = self.says("find", "/", "-xdev", "-not", "-type", "d", "-o", "-empty", "-type", "d")
        own = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/tmp", "/var/tmp", "/etc/passwd",
               "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/root/")
        return {path for path in found.splitlines() if not path.startswith(own)}


NEWER = "999-1"


def with_a_newer_version(package, scratch):
    """The same package with a higher version and other settings, as a release would have."""
    files, newer = scratch / "newer", scratch / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", package, files], check=True)
    control = files / "DEBIAN/control"
    control.write_text(re.sub("(?m)^Version: .*$", f"Version: {NEWER}", control.read_text()))
    with open(f"{files}{SETTINGS}", "a", encoding="utf-8") as settings_file:
        settings_file.write("# A setting of the next version.\n#next = 1\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", files, newer], check=True, stdout=subprocess.DEVNULL)
    return newer


def files_of_debian():
    kept = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / f"debian-{SUITE}"
    if not kept.exists():
        part = kept.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={INCLUDE}", SUITE, part],
                       check=True, stdout=subprocess.DEVNULL)
        part.rename(kept)
    return kept


if __name__ == "__main__":
    main()
